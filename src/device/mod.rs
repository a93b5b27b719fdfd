//! Devices and the memory tensors live in.
//!
//! Every op dispatches on [`Device`]; nothing outside an op's `cpu` part may assume that memory is host memory.

mod cpu;
mod pool;

pub use cpu::{DisjointMut, for_each_block};
pub use pool::{HostBuffer, PoolStats, Scratch, pool_stats, reset_pool_peak};

use crate::error::{Error, Result};

/// Where a tensor lives and where the ops on it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The host, with rayon's threads.
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
}

impl Device {
    /// Reads a `--device` value: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another text; [`Error::Device`] where the GPU cannot be used.
    pub fn from_flag(text: &str) -> Result<Device> {
        match text {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ => {
                let index = match text.strip_prefix("cuda") {
                    Some("") => Some(0),
                    Some(rest) => rest.strip_prefix(':').and_then(|i| i.parse::<usize>().ok()),
                    None => None,
                };
                let Some(index) = index else {
                    return Err(Error::Usage(format!(
                        "--device {text}: expected auto, cpu, cuda or cuda:INDEX; use --device cpu"
                    )));
                };
                Err(cuda_unavailable(index))
            }
        }
    }
}

/// The error of an op that has no side for `device`.
pub(crate) fn no_kernel(op: &str, device: Device) -> Error {
    Error::Device(format!("{op}: no kernel for {device}; use --device cpu"))
}

fn cuda_unavailable(index: usize) -> Error {
    // SAFETY: only asks the loader whether libcuda can be opened; no CUDA function is called.
    let driver = unsafe { cudarc::driver::sys::is_culib_present() };
    Error::Device(if driver {
        format!("--device cuda:{index}: this version has no CUDA kernels; use --device cpu")
    } else {
        "--device cuda: no NVIDIA driver found (libcuda did not load); use --device cpu".to_string()
    })
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The memory of one tensor.
#[derive(Debug)]
#[non_exhaustive]
pub enum Storage {
    /// Host memory from the pool.
    Cpu(HostBuffer),
}

impl Storage {
    /// Takes `bytes` of memory on `device`; the content is unspecified.
    ///
    /// # Errors
    /// [`Error::Device`] for a device this version cannot allocate on.
    pub fn take(bytes: usize, device: Device) -> Result<Storage> {
        match device {
            Device::Cpu => Ok(Storage::Cpu(HostBuffer::take(bytes))),
            Device::Cuda(index) => Err(cuda_unavailable(index)),
        }
    }

    /// The device of this memory.
    pub fn device(&self) -> Device {
        match self {
            Storage::Cpu(_) => Device::Cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_flags_are_read_and_wrong_ones_name_the_choices() {
        assert_eq!(Device::from_flag("auto").unwrap(), Device::Cpu);
        assert_eq!(Device::from_flag("cpu").unwrap(), Device::Cpu);
        assert!(Device::from_flag("tpu").unwrap_err().to_string().contains("expected auto, cpu, cuda"));
        assert!(matches!(Device::from_flag("cuda:x").unwrap_err(), Error::Usage(_)));
        assert!(matches!(Device::from_flag("cuda:1").unwrap_err(), Error::Device(_)));
    }
}
