//! Two denoisers as one: w·D_towards + (1 − w)·D_away.

use super::Strength;
use crate::denoiser::{Denoiser, Estimate};
use crate::error::{Error, Result};
use crate::ops;
use crate::process::Level;
use crate::tensor::Tensor;

/// What to follow and what to leave behind.
pub trait Pair {
    /// What to follow: the whole denoiser at w = 1.
    fn towards(&self) -> &dyn Denoiser;

    /// What to leave behind: the whole denoiser at w = 0.
    fn away(&self) -> &dyn Denoiser;

    /// Both estimates, `towards` first.
    ///
    /// # Errors
    /// Those of the denoisers.
    fn both(&self, x_t: &Tensor, at: Level) -> Result<[Estimate; 2]> {
        Ok([self.towards().denoise(x_t, at)?, self.away().denoise(x_t, at)?])
    }

    /// Both estimates of each row at its own level.
    ///
    /// # Errors
    /// Those of the denoisers.
    fn both_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<[Estimate; 2]>> {
        let pairs = self.towards().denoise_rows(x_t, at)?.into_iter().zip(self.away().denoise_rows(x_t, at)?);
        Ok(pairs.map(|(towards, away)| [towards, away]).collect())
    }
}

/// Any two denoisers of the same data: autoguidance follows a model and leaves a weaker one behind (Karras et al. 2024).
pub struct Two<A, B> {
    /// What to follow.
    pub towards: A,
    /// What to leave behind.
    pub away: B,
}

impl<A: Denoiser, B: Denoiser> Pair for Two<A, B> {
    fn towards(&self) -> &dyn Denoiser {
        &self.towards
    }

    fn away(&self) -> &dyn Denoiser {
        &self.away
    }
}

/// A guided denoiser (item 60, S3.eq173): at w = 1 exactly the one, at w = 0 exactly the other, without an evaluation of the second.
///
/// # Example
/// ```
/// use tweedie::denoiser::{Denoiser, guidance::{Guided, Strength, Two}, oracle::Oracle};
/// use tweedie::{process::Level, tensor::Tensor};
/// let (towards, away) = (Oracle::gaussian(&[1.0], &[1.0])?, Oracle::gaussian(&[0.0], &[1.0])?);
/// let guided = Guided { pair: Two { towards, away }, strength: Strength::of(2.0), rescale: 0.0 };
/// let x = Tensor::from_slice(&[0.0_f64], [1, 1])?;
/// // Their posterior means at x_t = 0, alpha = sigma = 1, are ½ and 0: twice the one minus the other.
/// let x0_hat = guided.denoise(&x, Level::of(1.0, 1.0))?.x0_hat()?;
/// assert_eq!(x0_hat.to_vec::<f64>()?, [1.0]);
/// # Ok::<(), tweedie::Error>(())
/// ```
pub struct Guided<P> {
    /// The two.
    pub pair: P,
    /// w, and where.
    pub strength: Strength,
    /// How much of the guided output's deviation is set back to that of `towards` (Lin et al. 2024, eqs. 15 and 16), 0 to 1, image by
    /// image. Deviations are taken on the host.
    pub rescale: f64,
}

impl<P: Pair> Guided<P> {
    fn combine(&self, [towards, away]: [Estimate; 2], at: Level, scale: f64) -> Result<Estimate> {
        let factors = vec![scale; towards.net_out.shape().first().copied().unwrap_or(0)];
        let others: Vec<f64> = factors.iter().map(|w| 1.0 - w).collect();
        let is_plain = |e: &Estimate| e.clip.is_none() && e.x0_hat.is_none();
        let mix = |a: &Tensor, b: &Tensor| {
            let mixed = ops::blend(a, &factors, Some((b, &others)))?;
            if self.rescale == 0.0 { Ok(mixed) } else { self.rescaled(&mixed, a) }
        };
        // Both are linear in their outputs with the same coefficients, so their mixture is that of the outputs.
        if is_plain(&towards) && is_plain(&away) && [towards.x0, towards.eps] == [away.x0, away.eps] {
            return Ok(Estimate { net_out: mix(&towards.net_out, &away.net_out)?, ..towards }.guided());
        }
        if at.sigma == 0.0 {
            return Err(Error::Usage("guidance: clean data (sigma = 0) cannot be estimated".into()));
        }
        let x0_hat = mix(&towards.x0_hat()?, &away.x0_hat()?)?;
        Ok(Estimate { variance: towards.variance, ..Estimate::of_x0(towards.x_t, x0_hat, at).guided() })
    }

    fn rescaled(&self, mixed: &Tensor, towards: &Tensor) -> Result<Tensor> {
        let (now, before) = (deviations(mixed)?, deviations(towards)?);
        let factor = |(now, before): (&f64, &f64)| {
            if *now > 0.0 { self.rescale * before / now + 1.0 - self.rescale } else { 1.0 }
        };
        ops::blend(mixed, &now.iter().zip(&before).map(factor).collect::<Vec<_>>(), None)
    }
}

/// The standard deviation of each row's numbers.
fn deviations(x: &Tensor) -> Result<Vec<f64>> {
    let n = x.shape().first().copied().unwrap_or(0);
    let values = x.to_f64s()?;
    let deviation = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64).sqrt()
    };
    Ok(values.chunks_exact((values.len() / n.max(1)).max(1)).map(deviation).collect())
}

impl<P: Pair> Denoiser for Guided<P> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        match self.strength.at(at, 1.0) {
            1.0 => self.pair.towards().denoise(x_t, at),
            0.0 => self.pair.away().denoise(x_t, at),
            scale => self.combine(self.pair.both(x_t, at)?, at, scale),
        }
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        let scales: Vec<f64> = at.iter().map(|at| self.strength.at(*at, 1.0)).collect();
        if scales.iter().all(|scale| *scale == 1.0) {
            return self.pair.towards().denoise_rows(x_t, at);
        }
        if scales.iter().all(|scale| *scale == 0.0) {
            return self.pair.away().denoise_rows(x_t, at);
        }
        let rows = self.pair.both_rows(x_t, at)?.into_iter().zip(at.iter().zip(scales));
        rows.map(|([towards, away], (at, scale))| match scale {
            1.0 => Ok(towards),
            0.0 => Ok(away),
            scale => self.combine([towards, away], *at, scale),
        })
        .collect()
    }

    fn evaluations(&self, at: Level) -> usize {
        let (towards, away) = (self.pair.towards().evaluations(at), self.pair.away().evaluations(at));
        match self.strength.at(at, 1.0) {
            1.0 => towards,
            0.0 => away,
            _ => towards + away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::oracle::Oracle;

    fn guided(scale: f64, interval: Option<(f64, f64)>, rescale: f64) -> Guided<Two<Oracle, Oracle>> {
        let oracle = |mean: f64| Oracle::isotropic(&[1.0], &[vec![mean, -0.5 * mean, 0.3]], &[0.6]).unwrap();
        let pair = Two { towards: oracle(0.7), away: oracle(-0.2) };
        Guided { pair, strength: Strength { scale, interval }, rescale }
    }

    fn x0_hat(denoiser: &dyn Denoiser, x: &Tensor, at: Level) -> Vec<f64> {
        denoiser.denoise(x, at).unwrap().x0_hat().unwrap().to_vec().unwrap()
    }

    #[test]
    fn both_ends_and_the_outside_of_the_interval_are_the_plain_denoisers_bits() {
        let x = Tensor::from_slice(&[0.3_f64, 1.7, -0.9, 0.1, 0.2, -2.0], [2, 3]).unwrap();
        let at = Level::of(0.8, 0.6);
        let one = guided(1.0, None, 0.7);
        assert_eq!(x0_hat(&one, &x, at), x0_hat(&one.pair.towards, &x, at));
        assert_eq!(x0_hat(&guided(0.0, None, 0.7), &x, at), x0_hat(&one.pair.away, &x, at));
        assert_eq!(x0_hat(&guided(5.0, Some((1.0, 2.0)), 0.0), &x, at), x0_hat(&one.pair.towards, &x, at));
        assert_eq!([0.0, 1.0, 2.5].map(|w| guided(w, None, 0.0).evaluations(at)), [1, 1, 2]);
        // Rows at their own levels are the rows alone, on both sides of the interval.
        let part = guided(2.5, Some((0.5, 1.0)), 0.0);
        let levels = [Level::of(1.0, 0.7), Level::of(1.0, 3.0)];
        for (i, estimate) in part.denoise_rows(&x, &levels).unwrap().iter().enumerate() {
            let alone = x0_hat(&part, &x.rows(i, 1).unwrap(), levels[i]);
            assert_eq!(estimate.x0_hat().unwrap().to_vec::<f64>().unwrap(), alone);
        }
    }

    #[test]
    fn rescaling_sets_the_deviation_back_in_full_or_in_part() {
        let x = Tensor::from_slice(&[0.3_f64, 1.7, -0.9, 0.1, 0.2, -2.0], [2, 3]).unwrap();
        let at = Level::of(0.8, 0.6);
        let spread = |rescale: f64| {
            let estimate = guided(4.0, None, rescale).denoise(&x, at).unwrap();
            deviations(&estimate.net_out).unwrap()
        };
        let want = deviations(&guided(1.0, None, 0.0).denoise(&x, at).unwrap().net_out).unwrap();
        for i in 0..2 {
            assert!((spread(1.0)[i] - want[i]).abs() < 1e-12 && (spread(0.0)[i] - want[i]).abs() > 0.05);
            assert!((spread(0.5)[i] - 0.5 * (want[i] + spread(0.0)[i])).abs() < 1e-12);
        }
    }

    #[test]
    fn denoisers_of_other_coefficients_meet_in_x0() {
        let x = Tensor::from_slice(&[0.3_f64, 1.7, -0.9], [1, 3]).unwrap();
        let at = Level::of(0.8, 0.6);
        /// The same estimate, said by eps_hat.
        struct ByEps(Oracle);
        impl Denoiser for ByEps {
            fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
                let mut estimate = self.0.denoise(x_t, at)?;
                estimate.net_out =
                    ops::blend(x_t, &[1.0 / at.sigma], Some((&estimate.net_out, &[-at.alpha / at.sigma])))?;
                (estimate.x0, estimate.eps) = ((1.0 / at.alpha, -at.sigma / at.alpha), (0.0, 1.0));
                Ok(estimate)
            }
        }
        let plain = guided(3.0, None, 0.0);
        let mixed = Guided {
            pair: Two { towards: plain.pair.towards.clone(), away: ByEps(plain.pair.away.clone()) },
            strength: plain.strength,
            rescale: 0.0,
        };
        for (a, b) in x0_hat(&plain, &x, at).iter().zip(x0_hat(&mixed, &x, at)) {
            assert!((a - b).abs() < 1e-14, "{a} and {b}");
        }
    }
}
