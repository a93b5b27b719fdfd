//! Guidance by a classifier's gradient (Song et al. 2021, appendix I; Dhariwal & Nichol 2021; items 55–57).

use super::Strength;
use crate::denoiser::oracle::Oracle;
use crate::denoiser::{Denoiser, Estimate};
use crate::error::Result;
use crate::ops;
use crate::process::Level;
use crate::tensor::Tensor;

/// ∇ log p_t(y | x_t) for the class y of each image.
pub trait ClassScore {
    /// The gradient by `x_t` `[n, …]`, all rows at one level; like `x_t`.
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn gradient(&self, x_t: &Tensor, at: Level) -> Result<Tensor>;

    /// The gradient of each row at its own level, `[1, …]` each.
    ///
    /// # Errors
    /// Those of the network or oracle behind it.
    fn gradient_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Tensor>>;
}

/// D shifted by a classifier: by Bayes' rule for scores (S3.eq156) the score becomes s + w·∇ log p_t(y | x_t), so that
/// eps_hat loses w·sigma·∇ log p_t(y | x_t), and x0_hat gains (sigma²/alpha)·w·∇ log p_t(y | x_t).
///
/// This one shift serves every sampler (items 55 and 56): it is S3.eq161 for the SDE and the ODE, the shift of eps of DDIM (Dhariwal & Nichol
/// 2021, algorithm 2), and moves DDPM's mean by beta/√(1 − beta)·w·∇ log p, their algorithm 1 with sigma² = beta up to O(beta²).
pub struct ClassifierGuided<D, C> {
    /// The denoiser that is guided.
    pub inner: D,
    /// What guides it.
    pub classifier: C,
    /// w, and where.
    pub strength: Strength,
}

impl<D: Denoiser, C: ClassScore> ClassifierGuided<D, C> {
    /// The scale at a level: 0 where there is nothing to do. Pure noise knows of no class.
    fn scale(&self, at: Level) -> f64 {
        if at.alpha == 0.0 || at.sigma == 0.0 { 0.0 } else { self.strength.at(at, 0.0) }
    }
}

fn shifted(estimate: Estimate, gradient: &Tensor, at: Level, scale: f64) -> Result<Estimate> {
    let n = gradient.shape().first().copied().unwrap_or(0);
    let add = |x: &Tensor, factor: f64| ops::blend(x, &vec![1.0; n], Some((gradient, &vec![factor; n])));
    if estimate.clip.is_none() && estimate.x0_hat.is_none() {
        // eps_hat is `.0`·x_t + `.1`·net_out, and alpha·x0_hat + sigma·eps_hat = x_t: the output's shift gives both.
        let net_out = add(&estimate.net_out, -scale * at.sigma / estimate.eps.1)?;
        return Ok(Estimate { net_out, ..estimate }.guided());
    }
    let x0_hat = add(&estimate.x0_hat()?, scale * at.sigma.powi(2) / at.alpha)?;
    Ok(Estimate { variance: estimate.variance, ..Estimate::of_x0(estimate.x_t, x0_hat, at).guided() })
}

impl<D: Denoiser, C: ClassScore> Denoiser for ClassifierGuided<D, C> {
    fn denoise(&self, x_t: &Tensor, at: Level) -> Result<Estimate> {
        let estimate = self.inner.denoise(x_t, at)?;
        match self.scale(at) {
            0.0 => Ok(estimate),
            scale => shifted(estimate, &self.classifier.gradient(x_t, at)?, at, scale),
        }
    }

    fn denoise_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Estimate>> {
        let estimates = self.inner.denoise_rows(x_t, at)?;
        let scales: Vec<f64> = at.iter().map(|at| self.scale(*at)).collect();
        if scales.iter().all(|scale| *scale == 0.0) {
            return Ok(estimates);
        }
        let gradients = self.classifier.gradient_rows(x_t, at)?;
        let rows = estimates.into_iter().zip(&gradients).zip(at.iter().zip(scales));
        rows.map(|((estimate, gradient), (at, scale))| match scale {
            0.0 => Ok(estimate),
            scale => shifted(estimate, gradient, *at, scale),
        })
        .collect()
    }

    fn evaluations(&self, at: Level) -> usize {
        self.inner.evaluations(at)
    }
}

impl<C: ClassScore + ?Sized> ClassScore for &C {
    fn gradient(&self, x_t: &Tensor, at: Level) -> Result<Tensor> {
        (**self).gradient(x_t, at)
    }

    fn gradient_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Tensor>> {
        (**self).gradient_rows(x_t, at)
    }
}

/// The exact classifier of a law of which one class is known: ∇ log p_t(x | y) − ∇ log p_t(x) (S3.eq155).
pub struct OracleClassifier<'a> {
    /// The law of the class.
    pub class: &'a Oracle,
    /// The law of everything.
    pub all: &'a Oracle,
}

impl ClassScore for OracleClassifier<'_> {
    fn gradient(&self, x_t: &Tensor, at: Level) -> Result<Tensor> {
        let n = x_t.shape().first().copied().unwrap_or(0);
        self.each_row(x_t, &vec![at; n])
    }

    fn gradient_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<Tensor>> {
        let gradients = self.each_row(x_t, at)?;
        (0..at.len()).map(|i| gradients.rows(i, 1)).collect()
    }
}

impl OracleClassifier<'_> {
    fn each_row(&self, x_t: &Tensor, at: &[Level]) -> Result<Tensor> {
        let x = x_t.to_f64s()?;
        let rows = x.chunks_exact(self.all.dim()).zip(at);
        let gradient = rows.flat_map(|(x, at)| {
            let (class, all) = (self.class.score(x, *at), self.all.score(x, *at));
            class.into_iter().zip(all).map(|(class, all)| class - all)
        });
        Tensor::from_f64s(&gradient.collect::<Vec<_>>(), x_t.shape(), x_t.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_classifier_at_scale_1_makes_the_class_out_of_everything() {
        let (a, b) = ((vec![-1.0, 0.4], 0.5), (vec![0.8, 0.0], 0.3));
        let all = Oracle::isotropic(&[0.3, 0.7], &[a.0.clone(), b.0], &[a.1, b.1]).unwrap();
        let class = Oracle::isotropic(&[1.0], &[a.0], &[a.1]).unwrap();
        let x = Tensor::from_slice(&[0.2_f64, -0.7, 1.4, 0.3], [2, 2]).unwrap();
        let guided = |scale: f64| ClassifierGuided {
            inner: &all,
            classifier: OracleClassifier { class: &class, all: &all },
            strength: Strength::of(scale),
        };
        let x0 = |d: &dyn Denoiser, at| d.denoise(&x, at).unwrap().x0_hat().unwrap().to_vec::<f64>().unwrap();
        for at in [Level::of(0.8, 0.6), Level::of(1.0, 4.0), Level::of(0.999, 0.02)] {
            assert_eq!(x0(&guided(0.0), at), x0(&all, at));
            for (got, want) in x0(&guided(1.0), at).iter().zip(x0(&class, at)) {
                assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
            }
            for (row, estimate) in guided(2.0).denoise_rows(&x, &[at, at]).unwrap().iter().enumerate() {
                let want = &x0(&guided(2.0), at)[2 * row..2 * row + 2];
                assert_eq!(estimate.x0_hat().unwrap().to_vec::<f64>().unwrap(), want);
            }
        }
        assert_eq!(x0(&guided(3.0), Level::of(0.0, 1.0)), x0(&all, Level::of(0.0, 1.0)));
    }
}
