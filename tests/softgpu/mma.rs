//! `mma.sync` and the 8×8 matrices of `ldmatrix`: which lane holds which element (PTX manual, "Matrix fragments").
//!
//! With group = lane/4 and t = lane%4, a 32-bit register of A or B holds p elements beside each other along k (two halves,
//! or one tf32). A: registers alternate rows group, group+8, then step along k; B: registers step along k, n = group.
//! C and D: rows group and group+8, columns 2t and 2t+1.

use crate::alu::both;
use crate::numeric::{f16_to_f32, f32_to_f16};
use crate::ptx::Type;
use crate::regs::Regs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
}

/// m16n8k`k` of these elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) k: usize,
    pub(crate) element: Element,
    /// C and D are f16 pairs instead of f32.
    pub(crate) half_sums: bool,
}

impl Shape {
    pub(crate) fn parse(parts: &[&str]) -> Option<Self> {
        let ["mma", "sync", "aligned", shape, "row", "col", d, a, b, c] = parts else { return None };
        let element = match *a {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            _ => return None,
        };
        let k = shape.strip_prefix("m16n8k")?.parse().ok()?;
        let known = match element {
            Element::Tf32 => matches!(k, 4 | 8),
            _ => matches!(k, 8 | 16),
        };
        let half_sums = *d == "f16" && element == Element::F16;
        (known && a == b && c == d && (half_sums || *d == "f32")).then_some(Shape { k, element, half_sums })
    }

    /// Elements in a register.
    fn packed(self) -> usize {
        if self.element == Element::Tf32 { 1 } else { 2 }
    }

    /// How many registers d, a, b, c take.
    pub(crate) fn registers(self) -> [usize; 4] {
        let sums = if self.half_sums { 2 } else { 4 };
        [sums, self.k / (2 * self.packed()), self.k / (4 * self.packed()), sums]
    }

    pub(crate) fn sum_type(self) -> Type {
        if self.half_sums { Type::B(32) } else { Type::F(32) }
    }

    /// Multiplications and additions.
    pub(crate) fn flops(self) -> u64 {
        2 * 16 * 8 * self.k as u64
    }

    /// The elements of a register, the one in the low bits first.
    #[inline(always)]
    fn unpack(self, register: [u32; 32]) -> [[f32; 32]; 2] {
        let mut out = [[0f32; 32]; 2];
        for lane in 0..32 {
            let bits = register[lane];
            (out[0][lane], out[1][lane]) = match self.element {
                Element::F16 => (f16_to_f32(bits as u16), f16_to_f32((bits >> 16) as u16)),
                Element::Bf16 => (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)),
                // The tensor core ignores the low 13 bits.
                Element::Tf32 => (f32::from_bits(bits & 0xffff_e000), 0.0),
            };
        }
        out
    }
}

/// D = A·B + C, summed in f32 from k = 0 up. (The hardware's order inside a step is its own: compare under a tolerance.)
pub(crate) fn product(shape: Shape, regs: &mut Regs, d: &[u32], sources: &[u32]) {
    let f = both!(product_lanes, (shape: Shape, regs: &mut Regs, d: &[u32], sources: &[u32]));
    // SAFETY: `both` picked for this processor.
    unsafe { f(shape, regs, d, sources) }
}

#[inline(always)]
fn product_lanes(shape: Shape, regs: &mut Regs, d: &[u32], sources: &[u32]) {
    let [_, a_count, b_count, _] = shape.registers();
    let packed = shape.packed();
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    for (register, &slot) in sources[..a_count].iter().enumerate() {
        let halves = shape.unpack(regs.get(slot));
        for (i, values) in halves[..packed].iter().enumerate() {
            for lane in 0..32 {
                let k = (lane % 4) * packed + register / 2 * 4 * packed;
                a[lane / 4 + 8 * (register % 2)][k + i] = values[lane];
            }
        }
    }
    for (register, &slot) in sources[a_count..a_count + b_count].iter().enumerate() {
        let halves = shape.unpack(regs.get(slot));
        for (i, values) in halves[..packed].iter().enumerate() {
            for lane in 0..32 {
                b[(lane % 4) * packed + register * 4 * packed + i][lane / 4] = values[lane];
            }
        }
    }
    let mut sums = read_sums(shape, regs, &sources[a_count + b_count..]);
    // Four rows at a time, so that additions do not wait for each other.
    for (rows, a) in sums.chunks_exact_mut(4).zip(a.chunks_exact(4)) {
        let mut sum: [[f32; 8]; 4] = [rows[0], rows[1], rows[2], rows[3]];
        for k in 0..shape.k {
            for row in 0..4 {
                for n in 0..8 {
                    sum[row][n] += a[row][k] * b[k][n];
                }
            }
        }
        rows.copy_from_slice(&sum);
    }
    write_sums(shape, regs, d, &sums);
}

#[inline(always)]
fn read_sums(shape: Shape, regs: &Regs, slots: &[u32]) -> [[f32; 8]; 16] {
    let mut sums = [[0f32; 8]; 16];
    for (register, &slot) in slots.iter().enumerate() {
        let values: [u32; 32] = regs.get(slot);
        for lane in 0..32 {
            let (group, column) = (lane / 4, (lane % 4) * 2);
            if shape.half_sums {
                sums[group + 8 * register][column] = f16_to_f32(values[lane] as u16);
                sums[group + 8 * register][column + 1] = f16_to_f32((values[lane] >> 16) as u16);
            } else {
                sums[group + 8 * (register / 2)][column + register % 2] = f32::from_bits(values[lane]);
            }
        }
    }
    sums
}

#[inline(always)]
fn write_sums(shape: Shape, regs: &mut Regs, slots: &[u32], sums: &[[f32; 8]; 16]) {
    for (register, &slot) in slots.iter().enumerate() {
        let mut values = [0u32; 32];
        for (lane, value) in values.iter_mut().enumerate() {
            let (group, column) = (lane / 4, (lane % 4) * 2);
            *value = if shape.half_sums {
                let row = &sums[group + 8 * register];
                u32::from(f32_to_f16(row[column])) | u32::from(f32_to_f16(row[column + 1])) << 16
            } else {
                sums[group + 8 * (register / 2)][column + register % 2].to_bits()
            };
        }
        regs.put(slot, values, !0);
    }
}

/// The fragment of an 8×8 matrix of halves: lane 4r + c holds row r, columns 2c and 2c+1; of its transpose if asked.
pub(crate) fn fragment(rows: &[[u16; 8]; 8], transposed: bool) -> [u32; 32] {
    let mut out = [0; 32];
    for (lane, pair) in out.iter_mut().enumerate() {
        let (row, column) = (lane / 4, (lane % 4) * 2);
        let at = |r: usize, c: usize| u32::from(if transposed { rows[c][r] } else { rows[r][c] });
        *pair = at(row, column) | at(row, column + 1) << 16;
    }
    out
}

/// The inverse of [`fragment`].
pub(crate) fn rows(fragment: &[u32; 32], transposed: bool) -> [[u16; 8]; 8] {
    let mut rows = [[0; 8]; 8];
    for (lane, &pair) in fragment.iter().enumerate() {
        for (i, value) in [pair as u16, (pair >> 16) as u16].into_iter().enumerate() {
            let (row, column) = (lane / 4, (lane % 4) * 2 + i);
            if transposed {
                rows[column][row] = value;
            } else {
                rows[row][column] = value;
            }
        }
    }
    rows
}
