//! Which method a convolution takes on the CPU: by its shape, the accuracy asked for, and the environment's `TWEEDIE_CONV`.

use super::Conv;
use crate::error::{Result, unknown_name};
use crate::simd::Scheme;
use crate::tape::Held;
use crate::tensor::Dtype;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// How exact convolutions are on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAccuracy {
    /// Sums of products alone.
    Exact,
    /// Winograd's F(2×2, 3×3) where it pays: relative errors below 1e-6; its sums are shorter than plain ones, which
    /// outweighs what its transforms round.
    Default,
    /// F(4×4, 3×3) where it pays: 1e-6 to 3e-6. On images of bf16 [`ConvAccuracy::Default`] takes it too.
    Fast,
}

/// The names of [`ConvAccuracy`].
pub const CONV_ACCURACIES: [&str; 3] = ["exact", "default", "fast"];

impl ConvAccuracy {
    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names.
    pub fn from_name(name: &str) -> Result<ConvAccuracy> {
        match name {
            "exact" => Ok(ConvAccuracy::Exact),
            "default" => Ok(ConvAccuracy::Default),
            "fast" => Ok(ConvAccuracy::Fast),
            _ => Err(unknown_name("conv_accuracy", name, &CONV_ACCURACIES)),
        }
    }
}

static ACCURACY: AtomicU8 = AtomicU8::new(1);

/// Sets the accuracy of all convolutions of this process; programs do this once, before any work.
pub fn set_conv_accuracy(accuracy: ConvAccuracy) {
    ACCURACY.store(accuracy as u8, Ordering::Relaxed);
}

/// The accuracy in use.
pub fn conv_accuracy() -> ConvAccuracy {
    match ACCURACY.load(Ordering::Relaxed) {
        0 => ConvAccuracy::Exact,
        1 => ConvAccuracy::Default,
        _ => ConvAccuracy::Fast,
    }
}

/// What every convolution must use, wherever its shape allows it: plain sums or one scheme. `None`: what the rule says.
type Forced = Option<Option<Scheme>>;

fn forced_by(name: &str) -> Forced {
    match name {
        "direct" => Some(None),
        "f2" => Some(Some(Scheme::F2)),
        "f4" => Some(Some(Scheme::F4)),
        _ => None,
    }
}

thread_local! {
    static FORCED_HERE: Cell<Forced> = const { Cell::new(None) };
}

/// Runs `body` with its convolutions forced to `direct`, `f2` or `f4`, on this thread alone: for case tables.
pub(super) fn forcing<T>(name: &str, body: impl FnOnce() -> T) -> T {
    let _held = Held::new(&FORCED_HERE, forced_by(name));
    body()
}

/// The environment's `TWEEDIE_CONV`: what takes the place of [`conv_accuracy`] in this process.
pub fn forced_conv_method() -> Option<String> {
    std::env::var("TWEEDIE_CONV").ok().filter(|method| !method.is_empty())
}

fn forced() -> Forced {
    /// The environment's `TWEEDIE_CONV`.
    static FORCED: OnceLock<Forced> = OnceLock::new();
    FORCED_HERE.get().or(*FORCED.get_or_init(|| forced_conv_method().and_then(|name| forced_by(&name))))
}

/// Winograd's scheme for each task of a convolution, or `None` for plain sums.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Methods {
    pub(super) forward: Option<Scheme>,
    pub(super) backward_x: Option<Scheme>,
    pub(super) backward_weight: Option<Scheme>,
}

/// The methods for a kernel of `kernel` rows and columns on images of this type and these sizes. The number of images has no say.
pub(super) fn choose(conv: Conv, kernel: [usize; 2], dtype: Dtype, x: [usize; 3], y: [usize; 3]) -> Methods {
    let values = x.iter().chain(&y).product::<usize>();
    if kernel != [3, 3] || conv.stride != 1 || conv.pad_before > 2 || values == 0 {
        return Methods::default();
    }
    if let Some(all) = forced() {
        return Methods { forward: all, backward_x: all, backward_weight: all };
    }
    let ([h, w, c_in], [h_out, w_out, c_out]) = (x, y);
    let rule = |size| match dtype {
        Dtype::Bf16 => rule_bf16(conv_accuracy(), size),
        _ => rule(conv_accuracy(), size),
    };
    Methods {
        forward: rule([h_out, w_out]).filter(|_| c_in >= 16),
        backward_x: rule([h, w]).filter(|_| c_out >= 16),
        backward_weight: rule([h_out, w_out]).filter(|_| c_in.min(c_out) >= 32),
    }
}

/// The scheme that pays for outputs of this size, from measurements on Zen 4 (AVX-512, one core, 4 to 8 images; time against plain sums,
/// forward / input gradient / weight gradient):
///
/// | shape | F(2×2) | F(4×4) |
/// |---|---|---|
/// | 32×32, 256 → 128 | 0.61 / 0.61 / 0.67 | 0.52 / 0.52 / 0.50 |
/// | 28×28, 32 → 32 | 0.80 / 0.72 / 0.88 | 0.86 / 0.49 / 0.95 |
/// | 28×28, 16 → 16 | 0.93 / 0.88 / 1.71 | 0.83 / 0.51 / 1.70 |
/// | 14×14, 64 → 64 | 0.76 / 0.57 / 0.79 | 0.64 / 0.50 / 0.65 |
/// | 10×10, 128 → 128 | 0.80 / 0.69 / 0.86 | 1.02 / 0.72 / 0.90 |
/// | 8×8, 512 → 256 | 0.82 / 0.87 / 0.71 | 0.86 / 0.84 / 0.75 |
/// | 7×7, 64 → 64 | 0.82 / 0.73 / 0.81 | 0.57 / 0.47 / 0.60 |
/// | 6×6, 256 → 256 | 1.33 / 0.88 / 1.13 | 1.76 / 1.51 / 1.89 |
/// | 4×4, 256 → 256 | 1.34 / 0.91 / 1.27 | 1.94 / 1.70 / 2.11 |
///
/// Fewer channels than 16 (32 for the weight gradient) leave the transforms too much of the work.
fn rule(accuracy: ConvAccuracy, [h, w]: [usize; 2]) -> Option<Scheme> {
    let tiles = |scheme: Scheme| h.div_ceil(scheme.outputs()) * w.div_ceil(scheme.outputs());
    // With fewer tiles an image, transforming the weight costs what the products save.
    let pays = accuracy != ConvAccuracy::Exact && tiles(Scheme::F2) >= 16;
    // At least three quarters of the outputs of 4×4 tiles must lie inside the image.
    let fast = accuracy == ConvAccuracy::Fast && 4 * h * w >= 3 * 16 * tiles(Scheme::F4);
    pays.then_some(if fast { Scheme::F4 } else { Scheme::F2 })
}

/// The scheme that pays for images of bf16: its transforms and products are in f32, so that F(4×4), a thousandth of a rounding to bf16 away
/// from the exact sum, stands against direct sums at twice the rate of f32. Time of F(4×4) against those (Zen 4 with `VDPBF16PS`, one core, 4
/// to 16 images, forward / input gradient / weight gradient; F(2×2) gains nothing anywhere):
///
/// | shape | F(4×4) |
/// |---|---|
/// | 32×32, 128 → 128 | 0.57 / 0.78 / 1.05 |
/// | 32×32, 256 → 128 | 0.78 / 0.79 / 0.82 |
/// | 28×28, 32 → 32 | 0.77 / 0.94 / 0.64 |
/// | 16×16, 512 → 256 | 0.59 / 0.78 / 0.83 |
/// | 14×14, 64 → 64 | 1.07 / 0.98 / 0.94 |
/// | 10×10, 128 → 128 | 0.80 / 0.90 / 1.05 |
/// | 8×8, 512 → 256 | 0.66 / 0.96 / 0.94 |
/// | 7×7, 64 → 64 | 0.82 / 0.86 / 0.64 |
/// | 4×4, 256 → 256 | 0.54 / 0.96 / 1.13 |
fn rule_bf16(accuracy: ConvAccuracy, size: [usize; 2]) -> Option<Scheme> {
    let accuracy = if accuracy == ConvAccuracy::Exact { ConvAccuracy::Exact } else { ConvAccuracy::Fast };
    rule(accuracy, size).filter(|scheme| *scheme == Scheme::F4)
}

/// How much the root mean square of rounding errors grows by Winograd's transforms, whose intermediate terms are larger than the result.
///
/// Along one axis a result is Σ_p A_p·(Bᵀd)_p·(Gg)_p; for independent unit inputs its terms have the variance Σ_p A_p²·|B_p|²·|G_p|², the
/// result itself 3 (2 or 4 in the weight gradient, with A and G exchanged). The largest ratio is 5/3 and 7.1 forward, 2 and 6.0 in the weight
/// gradient; the square root of each, once for each of two axes, is the growth.
pub(super) fn growth(scheme: Option<Scheme>) -> f64 {
    match scheme {
        None => 1.0,
        Some(Scheme::F2) => 2.0,
        Some(Scheme::F4) => 7.2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_follows_its_table() {
        let f2 = Some(Scheme::F2);
        for (size, default, fast) in [
            ([32, 32], f2, Some(Scheme::F4)),
            ([14, 14], f2, Some(Scheme::F4)),
            ([10, 10], f2, f2),
            ([7, 7], f2, Some(Scheme::F4)),
            ([6, 6], None, None),
            ([4, 4], None, None),
            ([1, 1], None, None),
        ] {
            assert_eq!(rule(ConvAccuracy::Exact, size), None, "{size:?}");
            assert_eq!(rule(ConvAccuracy::Default, size), default, "{size:?}");
            assert_eq!(rule(ConvAccuracy::Fast, size), fast, "{size:?}");
            assert_eq!(rule_bf16(ConvAccuracy::Exact, size), None, "{size:?}");
            for accuracy in [ConvAccuracy::Default, ConvAccuracy::Fast] {
                assert_eq!(rule_bf16(accuracy, size), fast.filter(|scheme| *scheme == Scheme::F4), "{size:?}");
            }
        }
    }

    #[test]
    fn other_kernels_strides_and_thin_layers_stay_direct() {
        let chosen = |conv, kernel, c_in, c_out| {
            let m = choose(conv, kernel, Dtype::F32, [16, 16, c_in], [16, 16, c_out]);
            [m.forward, m.backward_x, m.backward_weight].map(|scheme| scheme.is_some())
        };
        // The environment may force a method on all.
        if forced().is_none() {
            assert_eq!(chosen(Conv::same(3), [3, 3], 64, 64), [true; 3]);
            assert_eq!(chosen(Conv::same(3), [3, 3], 3, 64), [false, true, false]);
            assert_eq!(chosen(Conv::same(3), [3, 3], 64, 3), [true, false, false]);
        }
        assert_eq!(chosen(Conv::same(1), [1, 1], 64, 64), [false; 3]);
        assert_eq!(chosen(Conv { stride: 2, ..Conv::same(3) }, [3, 3], 64, 64), [false; 3]);
        assert_eq!(chosen(Conv { pad_before: 3, ..Conv::same(3) }, [3, 3], 64, 64), [false; 3]);
    }
}
