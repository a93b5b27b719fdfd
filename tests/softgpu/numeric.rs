//! Floating-point formats narrower than f64, and every rounding mode of PTX.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

impl Rounding {
    /// The mode among the parts of an opcode; `integer` asks for `rni` and its kin.
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        parts.iter().find_map(|part| {
            Some(match *part {
                "rn" | "rni" => Rounding::Nearest,
                "rna" => Rounding::NearestAway,
                "rz" | "rzi" => Rounding::Zero,
                "rm" | "rmi" => Rounding::Down,
                "rp" | "rpi" => Rounding::Up,
                _ => return None,
            })
        })
    }

    /// Rounds to an integer.
    pub(crate) fn integer(self, x: f64) -> f64 {
        match self {
            Rounding::Nearest => x.round_ties_even(),
            Rounding::NearestAway => x.round(),
            Rounding::Zero => x.trunc(),
            Rounding::Down => x.floor(),
            Rounding::Up => x.ceil(),
        }
    }
}

/// An IEEE format by the widths of its fields.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) exponent: u32,
    pub(crate) mantissa: u32,
}

pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10 };
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7 };
pub(crate) const TF32: Format = Format { exponent: 8, mantissa: 10 };
pub(crate) const F32: Format = Format { exponent: 8, mantissa: 23 };

impl Format {
    /// The bits of `x` in this format; a NaN becomes the canonical one, all ones below the sign.
    pub(crate) fn round(self, x: f64, mode: Rounding) -> u32 {
        let infinity = ((1u32 << self.exponent) - 1) << self.mantissa;
        let sign = u32::from(x.is_sign_negative()) << (self.exponent + self.mantissa);
        if x.is_nan() {
            return infinity | ((1 << self.mantissa) - 1);
        }
        if x.is_infinite() {
            return sign | infinity;
        }
        let bits = x.to_bits() & (u64::MAX >> 1);
        if bits == 0 {
            return sign;
        }
        let field = (bits >> 52) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let (exponent, significand) = if field == 0 { (-1022, fraction) } else { (field - 1023, fraction | 1 << 52) };
        let bias = (1 << (self.exponent - 1)) - 1;
        let target = exponent.max(1 - bias);
        let shift = (52 - self.mantissa as i32 + target - exponent).min(63) as u32;
        let kept = significand >> shift;
        let (rest, half) = (significand & ((1 << shift) - 1), 1u64 << (shift - 1));
        let up = match mode {
            Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => sign != 0 && rest != 0,
            Rounding::Up => sign == 0 && rest != 0,
        };
        let magnitude = (((target + bias - 1) as u64) << self.mantissa) + kept + u64::from(up);
        if magnitude < u64::from(infinity) {
            return sign | magnitude as u32;
        }
        let to_infinity = match mode {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => sign != 0,
            Rounding::Up => sign == 0,
        };
        sign | if to_infinity { infinity } else { infinity - 1 }
    }
}

pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    match exponent {
        // A subnormal counts 2^-24s.
        0 => f32::from_bits(sign | (mantissa as f32 / 16_777_216.0).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

/// To nearest even, the rounding of almost every kernel; the general way is [`Format::round`].
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = ((bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16) as u16;
    if x.is_nan() { 0x7fff } else { rounded }
}

pub(crate) fn f32_to_f16(x: f32) -> u16 {
    F16.round(f64::from(x), Rounding::Nearest) as u16
}

/// `x + y` rounded to odd, so that rounding it again to a narrower format gives the correctly rounded sum.
pub(crate) fn add_to_odd(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let part = sum - x;
    let error = (x - (sum - part)) + (y - part);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // The exact sum lies beside `sum`: step to the odd neighbour on that side.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// `a·b + c` in f32 under any rounding; the product of two f32 is exact in f64.
pub(crate) fn fma_f32(a: f32, b: f32, c: f32, mode: Rounding) -> f32 {
    f32::from_bits(F32.round(add_to_odd(f64::from(a) * f64::from(b), f64::from(c)), mode))
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Clamps to [0, 1]; a NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}
