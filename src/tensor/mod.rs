//! The tensor: owns its memory, contiguous, no strides, last axis fastest.

mod shape;

pub use shape::Shape;

use crate::device::cuda::{self, CudaBuffer};
use crate::device::{DerivedKey, Device, HostBuffer, Origin, Storage};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit IEEE floats: weights, sums, and activations unless they are bf16.
    F32,
    /// 64-bit IEEE floats, for samplers and oracles on the CPU.
    F64,
    /// bfloat16, for activations on the CPU.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::Bf16 => 2,
        }
    }
}

/// A Rust type that can be a tensor's element.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    /// The matching element type.
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
}
impl Element for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

/// Identifies a tensor for the tape; a clone or a reshaped view of the gradient's owner keeps or changes it as documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorId(u64);

impl TensorId {
    fn next() -> TensorId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        TensorId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An n-dimensional array that owns its memory. Cloning shares it; writing copies when it is shared.
#[derive(Clone, Debug)]
pub struct Tensor {
    id: TensorId,
    shape: Shape,
    dtype: Dtype,
    requires_grad: bool,
    storage: Arc<Storage>,
}

impl Tensor {
    /// A tensor whose content is unspecified: for ops, which write every element.
    ///
    /// # Errors
    /// [`Error::Shape`] for more elements than can be addressed; [`Error::Device`] if `device` cannot be used.
    pub(crate) fn empty(shape: impl Into<Shape>, dtype: Dtype, device: Device) -> Result<Tensor> {
        let shape = shape.into();
        let storage = Arc::new(Storage::take(shape.checked_count()? * dtype.size(), device)?);
        Ok(Tensor { id: TensorId::next(), shape, dtype, requires_grad: false, storage })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] for more elements than can be addressed; [`Error::Device`] if `device` cannot be used.
    pub fn zeros(shape: impl Into<Shape>, dtype: Dtype, device: Device) -> Result<Tensor> {
        let shape = shape.into();
        if let Device::Cuda(index) = device {
            let storage = Arc::new(Storage::Cuda(cuda::gpu(index)?.zeros(shape.checked_count()? * dtype.size())?));
            return Ok(Tensor { id: TensorId::next(), shape, dtype, requires_grad: false, storage });
        }
        let mut tensor = Tensor::empty(shape, dtype, Device::Cpu)?;
        tensor.host_bytes_mut()?.as_mut_slice().fill(0);
        Ok(tensor)
    }

    /// The same values on `device`: this tensor if it is there already, otherwise a copy that the tape does not follow.
    ///
    /// # Errors
    /// [`Error::Device`] if `device` cannot be used or its memory does not suffice.
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        if device == self.device() {
            return Ok(self.clone());
        }
        let storage = match (&*self.storage, device) {
            (Storage::Cpu(buffer), Device::Cuda(index)) => Storage::Cuda(cuda::gpu(index)?.upload(buffer.as_slice())?),
            (Storage::Cuda(buffer), Device::Cpu) => {
                let mut host = HostBuffer::take(self.count() * self.dtype.size());
                cuda::gpu(buffer.index())?.download(buffer, host.as_mut_slice())?;
                Storage::Cpu(host)
            }
            (_, other) => {
                return self.to_device(Device::Cpu)?.to_device(other);
            }
        };
        Ok(Tensor { id: TensorId::next(), storage: Arc::new(storage), requires_grad: false, ..self.clone() })
    }

    /// The memory on a GPU, for the `cuda` parts of ops.
    pub(crate) fn cuda(&self) -> Result<&CudaBuffer> {
        match &*self.storage {
            Storage::Cuda(buffer) => Ok(buffer),
            Storage::Cpu(_) => Err(Error::Device(format!("tensor {}: is in host memory, not on a GPU", self.shape))),
        }
    }

    /// The memory on a GPU, of elements `T`.
    pub(crate) fn cuda_as<T: Element>(&self) -> Result<&CudaBuffer> {
        self.check_dtype(T::DTYPE)?;
        self.cuda()
    }

    /// Copies `data` (row-major, last axis fastest) to the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs from the shape's.
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.checked_count()?;
        if data.len() != count {
            return Err(Error::Shape(format!("tensor: shape {shape} wants {count} elements, got {}", data.len())));
        }
        let mut tensor = Tensor::empty(shape, T::DTYPE, Device::Cpu)?;
        tensor.host_mut::<T>()?.copy_from_slice(data);
        Ok(tensor)
    }

    /// f32 values that are read from `origin` when they are first wanted.
    pub(crate) fn from_origin(shape: impl Into<Shape>, origin: Origin) -> Tensor {
        let shape = shape.into();
        let storage = Arc::new(Storage::Cpu(HostBuffer::from_origin(4 * shape.count(), origin)));
        Tensor { id: TensorId::next(), shape, dtype: Dtype::F32, requires_grad: false, storage }
    }

    /// Identity on the tape.
    pub fn id(&self) -> TensorId {
        self.id
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        self.storage.device()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Whether the tape follows this tensor.
    pub fn requires_grad(&self) -> bool {
        self.requires_grad
    }

    /// The same tensor, followed (or not) by the tape: parameters and tested inputs are marked so.
    pub fn with_grad(mut self, requires_grad: bool) -> Tensor {
        self.requires_grad = requires_grad;
        self
    }

    /// The id under which gradients are collected, if the tape follows this tensor.
    pub(crate) fn grad_slot(&self) -> Option<TensorId> {
        self.requires_grad.then_some(self.id)
    }

    /// The elements in host memory.
    ///
    /// # Errors
    /// [`Error::Dtype`] for another element type.
    pub fn host<T: Element>(&self) -> Result<&[T]> {
        self.check_dtype(T::DTYPE)?;
        match &*self.storage {
            Storage::Cpu(buffer) => Ok(bytemuck::cast_slice(buffer.as_slice())),
            Storage::Cuda(_) => Err(self.not_on_host()),
        }
    }

    /// What `make` computes from the elements in host memory, kept with them until they are written: see [`HostBuffer::derived`].
    pub(crate) fn derived<T: std::any::Any + Send + Sync>(
        &self,
        key: DerivedKey,
        make: impl FnOnce(&[f32]) -> T,
    ) -> Result<Arc<T>> {
        self.check_dtype(Dtype::F32)?;
        match &*self.storage {
            Storage::Cpu(buffer) => Ok(buffer.derived(key, |bytes| make(bytemuck::cast_slice(bytes)))),
            Storage::Cuda(_) => Err(self.not_on_host()),
        }
    }

    fn not_on_host(&self) -> Error {
        Error::Device(format!(
            "tensor {}: lives on {}; copy it with to_device(Device::Cpu) first",
            self.shape,
            self.device()
        ))
    }

    /// The elements in host memory, writable; copies first when the memory is shared.
    ///
    /// # Errors
    /// [`Error::Dtype`] for another element type.
    pub fn host_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice_mut(self.host_bytes_mut()?.as_mut_slice()))
    }

    fn host_bytes_mut(&mut self) -> Result<&mut HostBuffer> {
        if self.device() != Device::Cpu {
            return Err(self.not_on_host());
        }
        if Arc::get_mut(&mut self.storage).is_none() {
            let copy = match &*self.storage {
                Storage::Cpu(shared) => {
                    let mut buffer = HostBuffer::take(shared.as_slice().len());
                    buffer.as_mut_slice().copy_from_slice(shared.as_slice());
                    Storage::Cpu(buffer)
                }
                Storage::Cuda(_) => return Err(self.not_on_host()),
            };
            self.storage = Arc::new(copy);
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Cpu(buffer)) => Ok(buffer),
            _ => Err(Error::Device("tensor: memory is shared after a copy; please report this".to_string())),
        }
    }

    /// The elements as a vector.
    ///
    /// # Errors
    /// [`Error::Dtype`] for another element type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.host::<T>()?.to_vec())
    }

    /// The elements, f32 or f64, as f64; from any device.
    ///
    /// # Errors
    /// [`Error::Dtype`] for another element type; [`Error::Device`] if the copy fails.
    pub fn to_f64s(&self) -> Result<Vec<f64>> {
        let here = self.to_device(Device::Cpu)?;
        match here.dtype() {
            Dtype::F64 => here.to_vec(),
            _ => Ok(here.host::<f32>()?.iter().map(|v| f64::from(*v)).collect()),
        }
    }

    /// A tensor of f64, or of the nearest f32 if `dtype` is that, on the host.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub(crate) fn from_f64s(values: &[f64], shape: impl Into<Shape>, dtype: Dtype) -> Result<Tensor> {
        match dtype {
            Dtype::F64 => Tensor::from_slice(values, shape),
            _ => Tensor::from_slice(&values.iter().map(|v| *v as f32).collect::<Vec<f32>>(), shape),
        }
    }

    /// The same memory under another shape, as a new tensor that the tape does not follow.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn view(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.checked_count()? != self.count() {
            return Err(Error::Shape(format!("view: {} does not hold the elements of {shape}", self.shape)));
        }
        Ok(Tensor { id: TensorId::next(), shape, requires_grad: false, ..self.clone() })
    }

    /// Whether no other tensor shares the memory.
    pub(crate) fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// Copies the elements of images `start..start + len` of the first axis.
    ///
    /// # Errors
    /// [`Error::Shape`] if the range leaves the axis.
    pub fn rows(&self, start: usize, len: usize) -> Result<Tensor> {
        let n = self.shape.first().copied().unwrap_or(0);
        if start.checked_add(len).is_none_or(|end| end > n) {
            let shape = self.shape;
            return Err(Error::Shape(format!("rows: {len} from {start} on leave the first axis of {shape}")));
        }
        let row = self.count() / n.max(1) * self.dtype.size();
        let mut out = Tensor::empty(self.shape.with_rows(len), self.dtype, self.device())?;
        match &*self.storage {
            Storage::Cpu(buffer) => {
                let part = &buffer.as_slice()[start * row..(start + len) * row];
                out.host_bytes_mut()?.as_mut_slice().copy_from_slice(part);
            }
            Storage::Cuda(buffer) => {
                let target = out.cuda_mut()?;
                cuda::gpu(buffer.index())?.copy(buffer, start * row, target, 0, len * row)?;
            }
        }
        Ok(out)
    }

    /// Joins tensors along the first axis into one of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the elements do not fill `shape`; [`Error::Dtype`] if the types differ.
    pub fn stack_rows(parts: &[Tensor], shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let dtype = parts.first().map_or(Dtype::F32, |t| t.dtype);
        let count: usize = parts.iter().map(Tensor::count).sum();
        if count != shape.checked_count()? {
            return Err(Error::Shape(format!(
                "stack: {} parts hold {count} elements, not those of {shape}",
                parts.len()
            )));
        }
        let mut out = Tensor::empty(shape, dtype, parts.first().map_or(Device::Cpu, Tensor::device))?;
        if let Device::Cuda(index) = out.device() {
            let (gpu, mut at) = (cuda::gpu(index)?, 0);
            for part in parts {
                part.check_dtype(dtype)?;
                let bytes = part.count() * dtype.size();
                gpu.copy(part.cuda()?, 0, out.cuda_mut()?, at, bytes)?;
                at += bytes;
            }
            return Ok(out);
        }
        let mut rest = out.host_bytes_mut()?.as_mut_slice();
        for part in parts {
            part.check_dtype(dtype)?;
            let Storage::Cpu(buffer) = &*part.storage else { return Err(part.not_on_host()) };
            let (head, tail) = rest.split_at_mut(buffer.as_slice().len());
            head.copy_from_slice(buffer.as_slice());
            rest = tail;
        }
        Ok(out)
    }

    /// The memory on a GPU, writable: only of a tensor that nothing else shares, as ops make them.
    pub(crate) fn cuda_mut(&mut self) -> Result<&mut CudaBuffer> {
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Cuda(buffer)) => Ok(buffer),
            _ => Err(Error::Device(format!("tensor {}: is shared or in host memory", self.shape))),
        }
    }

    /// Copies memory of a GPU that other tensors share, so that [`Tensor::cuda_mut`] may write to it.
    pub(crate) fn make_unique(&mut self) -> Result<()> {
        if Arc::get_mut(&mut self.storage).is_some() {
            return Ok(());
        }
        let shared = self.cuda()?;
        let (gpu, bytes) = (cuda::gpu(shared.index())?, self.count() * self.dtype.size());
        let mut copy = gpu.take(bytes)?;
        gpu.copy(shared, 0, &mut copy, 0, bytes)?;
        self.storage = Arc::new(Storage::Cuda(copy));
        Ok(())
    }

    /// Whether every element is finite.
    ///
    /// # Errors
    /// [`Error::Dtype`] never for f32 and f64; bf16 is checked by value too.
    pub fn is_finite(&self) -> Result<bool> {
        if self.device() != Device::Cpu {
            return self.to_device(Device::Cpu)?.is_finite();
        }
        Ok(match self.dtype {
            Dtype::F32 => self.host::<f32>()?.iter().all(|v| v.is_finite()),
            Dtype::F64 => self.host::<f64>()?.iter().all(|v| v.is_finite()),
            Dtype::Bf16 => self.host::<half::bf16>()?.iter().all(|v| v.is_finite()),
        })
    }

    fn check_dtype(&self, want: Dtype) -> Result<()> {
        if self.dtype == want {
            return Ok(());
        }
        Err(Error::Dtype(format!("tensor {}: expected elements of type {want:?}, got {:?}", self.shape, self.dtype)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_to_a_shared_tensor_leaves_the_other_as_it_was() {
        let a = Tensor::from_slice(&[1.0_f32, 2.0], [2]).unwrap();
        let mut b = a.clone();
        b.host_mut::<f32>().unwrap()[0] = 9.0;
        assert_eq!(a.to_vec::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(b.to_vec::<f32>().unwrap(), [9.0, 2.0]);
    }

    #[test]
    fn wrong_counts_and_types_are_errors_that_name_both_sides() {
        let error = Tensor::from_slice(&[1.0_f32], [2, 3]).unwrap_err().to_string();
        assert_eq!(error, "tensor: shape [2,3] wants 6 elements, got 1");
        let x = Tensor::zeros([2], Dtype::F64, Device::Cpu).unwrap();
        assert!(x.host::<f32>().unwrap_err().to_string().contains("expected elements of type F32, got F64"));
        assert!(x.view([3]).is_err());
    }
}
