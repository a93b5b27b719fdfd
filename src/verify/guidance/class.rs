//! The guided score (items 55, 56, 57 and 60): one formula against another, on labelled Gaussians.

use super::super::measure::{derivative, largest, vp};
use super::super::{Bound, Identity};
use crate::analytic::Mixture;
use crate::denoiser::Denoiser;
use crate::denoiser::guidance::{ClassScore, ClassifierGuided, Guided, OracleClassifier, Strength, Two};
use crate::denoiser::oracle::Oracle;
use crate::error::Result;
use crate::process::Level;
use crate::tensor::Tensor;

pub(super) const IDENTITIES: &[Identity] = &[
    Identity {
        id: "item 55 S3.eq154-156 Bayes",
        claim: "∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x), the last by differences of the class probability",
        // The stencil rounds log-probabilities of size 40 at h = 1e-2: 40·EPSILON/h = 1e-12; gradients reach 20.
        bound: Bound::AtMost(1e-10),
        measure: bayes,
    },
    Identity {
        id: "item 55 S3.eq157-158 noise-aware",
        claim: "a classifier of clean images gives another gradient than that of the noisy ones",
        bound: Bound::AtLeast(0.5), // of gradients of order 1
        measure: noise_aware,
    },
    Identity {
        id: "item 56 S3.eq159-161 tilted score",
        claim: "the guided score is ∇ log[p_t(x)·p_t(y | x)^w] for w from −1 to 7",
        bound: Bound::AtMost(1e-10), // as for Bayes
        measure: || tilted(|posterior| posterior.ln()),
    },
    Identity {
        id: "item 56 S3.eq160 misprint",
        claim: "without the logarithm before the classifier, as printed, it is not",
        bound: Bound::AtLeast(0.5),
        measure: || tilted(|posterior| posterior),
    },
    Identity {
        id: "item 56 S3.eq161 ddpm mean",
        claim: "the shift of D moves DDPM's mean by w·beta·∇ log p_t(y | x_t)·(1 + O(beta)): beta/√(1 − beta)",
        bound: Bound::AtMost(1e-10),
        measure: mean_shift,
    },
    Identity {
        id: "item 57 S3.remark12 interval",
        claim: "with an empty interval the guided denoiser is the plain one, bit for bit; inside one it is not",
        bound: Bound::AtMost(0.0),
        measure: interval,
    },
    Identity {
        id: "item 60 S3.eq171-173 combination",
        claim: "w·D_c + (1 − w)·D_u is the score w·s(x|y) − (w − 1)·s(x), and the eps of S3.eq173",
        bound: Bound::AtMost(1e-12), // sums of terms below 100 in f64
        measure: combination,
    },
    Identity {
        id: "item 60 S3.eq173 both ends",
        claim: "at w = 1 and w = 0 the guided denoiser has the bits of the conditional and the unconditional one",
        bound: Bound::AtMost(0.0),
        measure: both_ends,
    },
    Identity {
        id: "item 60 S3.eq174 bits",
        claim: "D_u + w·(D_c − D_u) in f32, the usual way to write it, does not give D_c at w = 1",
        bound: Bound::AtLeast(1e-9), // any difference at all
        measure: usual_way,
    },
    Identity {
        id: "item 61 S3.eq175 label drops",
        claim: "labels are dropped as often as p_uncond says: χ² of 300 000 labels at three rates",
        bound: Bound::AtMost(16.27), // 99.9 % point of χ² with 3 degrees of freedom
        measure: label_drops,
    },
    Identity {
        id: "item 62 S3.remark13 effective weight",
        claim: "what moves both scores moves the guided one by as much, whatever w is: the weights w and −(w − 1) sum to 1",
        bound: Bound::AtMost(1e-12), // sums of terms below 100 in f64
        measure: effective_weight,
    },
];

/// Half of N(1, ½²), the class, and half of N(−1, ½²): the class and everything, as oracles and as laws.
pub(super) fn labelled() -> Result<([Oracle; 2], [Mixture; 2])> {
    let class = Oracle::isotropic(&[1.0], &[vec![1.0]], &[0.5])?;
    let all = Oracle::isotropic(&[0.5, 0.5], &[vec![1.0], vec![-1.0]], &[0.5, 0.5])?;
    let laws = [Mixture::new(&[1.0], &[1.0], &[0.5])?, Mixture::new(&[0.5, 0.5], &[1.0, -1.0], &[0.5, 0.5])?];
    Ok(([class, all], laws))
}

pub(super) fn levels() -> Result<Vec<Level>> {
    let process = vp()?;
    Ok([0.02, 0.1, 0.3, 0.6].map(|time| process.level(time)).to_vec())
}

fn points() -> Vec<f64> {
    (-24..=24).map(|i| f64::from(i) / 8.0).collect()
}

/// p_t(y | x_t).
fn posterior(laws: &[Mixture; 2], x: f64, at: Level) -> Result<f64> {
    let [class, all] = [&laws[0], &laws[1]].map(|law| law.noised(at.alpha, at.sigma));
    Ok((0.5_f64.ln() + class?.log_pdf(x) - all?.log_pdf(x)).exp())
}

/// The largest of `measure` over points and levels.
fn everywhere(measure: impl Fn(f64, Level) -> Result<f64>) -> Result<f64> {
    let mut worst = Vec::new();
    for at in levels()? {
        for x in points() {
            worst.push(measure(x, at)?);
        }
    }
    Ok(largest(worst))
}

fn column(x: f64) -> Result<Tensor> {
    Tensor::from_slice(&[x], [1, 1])
}

fn bayes() -> Result<f64> {
    let ([class, all], laws) = labelled()?;
    everywhere(|x, at| {
        let slope = derivative(|x| posterior(&laws, x, at).map_or(f64::NAN, f64::ln), x, 1e-2);
        Ok(class.score(&[x], at)[0] - all.score(&[x], at)[0] - slope)
    })
}

fn noise_aware() -> Result<f64> {
    let (_, laws) = labelled()?;
    everywhere(|x, at| {
        let slope = |at: Level| derivative(|x| posterior(&laws, x, at).map_or(f64::NAN, f64::ln), x, 1e-2);
        Ok(slope(at) - slope(Level::CLEAN))
    })
}

/// The score that a denoiser stands for: (alpha·D − x)/sigma².
fn score_of(denoiser: &dyn Denoiser, x: f64, at: Level) -> Result<f64> {
    let x0_hat = denoiser.denoise(&column(x)?, at)?.x0_hat()?.to_vec::<f64>()?[0];
    Ok((at.alpha * x0_hat - x) / at.sigma.powi(2))
}

fn guided<'a>([class, all]: &'a [Oracle; 2], scale: f64) -> ClassifierGuided<&'a Oracle, OracleClassifier<'a>> {
    let strength = Strength::of(scale);
    ClassifierGuided { inner: all, classifier: OracleClassifier { class, all }, strength }
}

/// `of_class` is what stands behind the gradient: log, or, as printed, nothing.
fn tilted(of_class: fn(f64) -> f64) -> Result<f64> {
    let (oracles, laws) = labelled()?;
    let mut worst = Vec::new();
    for scale in [-1.0, 0.5, 2.0, 7.0] {
        worst.push(everywhere(|x, at| {
            let all = laws[1].noised(at.alpha, at.sigma)?;
            let log = |x: f64| all.log_pdf(x) + scale * posterior(&laws, x, at).map_or(f64::NAN, of_class);
            Ok((score_of(&guided(&oracles, scale), x, at)? - derivative(log, x, 1e-2)) / (1.0 + scale.abs()))
        })?);
    }
    Ok(largest(worst))
}

fn mean_shift() -> Result<f64> {
    let (oracles, _) = labelled()?;
    let table = super::super::measure::table(&crate::process::BetaSchedule::Linear)?;
    let mut worst = Vec::new();
    for k in [1, 10, 100, 500, 900] {
        let (from, to) = (table.level_of(k)?, table.level_of(k - 1)?);
        // alpha_k = alpha_(k−1)·√(1 − beta).
        let beta = -(2.0 * (from.log_alpha - to.log_alpha)).exp_m1();
        let step = crate::sampler::GridStep { from, to };
        for x in points() {
            let x0 = |scale: f64| {
                Ok::<_, crate::Error>(guided(&oracles, scale).denoise(&column(x)?, from)?.x0_hat()?.to_vec::<f64>()?[0])
            };
            // The posterior mean's factor of x0_hat.
            let shift = to.alpha * step.fresh() * (x0(3.0)? - x0(0.0)?);
            let gradient = OracleClassifier { class: &oracles[0], all: &oracles[1] }.gradient(&column(x)?, from)?;
            let want = 3.0 * beta / (1.0 - beta).sqrt() * gradient.to_vec::<f64>()?[0];
            worst.push((shift - want) / beta);
        }
    }
    Ok(largest(worst))
}

fn interval() -> Result<f64> {
    let ([class, all], _) = labelled()?;
    let mut differences = Vec::new();
    for at in levels()? {
        let nsr = at.sigma / at.alpha;
        for (interval, is_inside) in
            [((0.0, 0.0), false), ((2.0 * nsr, 3.0 * nsr), false), ((0.5 * nsr, 2.0 * nsr), true)]
        {
            let strength = Strength { scale: 4.0, interval: Some(interval) };
            let classifier = OracleClassifier { class: &class, all: &all };
            let d = ClassifierGuided { inner: &all, classifier, strength };
            let x = column(0.3)?;
            let [guided, plain] = [&d as &dyn Denoiser, &all].map(|d| d.denoise(&x, at)?.x0_hat()?.to_vec::<f64>());
            let difference = (guided?[0] - plain?[0]).abs();
            // Inside, the guidance must show.
            differences.push(if is_inside { f64::from(u8::from(difference < 1e-3)) } else { difference });
        }
    }
    Ok(largest(differences))
}

/// The same guidance, said as a pair of denoisers.
pub(super) fn pair(scale: f64) -> Result<Guided<Two<Oracle, Oracle>>> {
    let ([towards, away], _) = labelled()?;
    Ok(Guided { pair: Two { towards, away }, strength: Strength::of(scale), rescale: 0.0 })
}

fn combination() -> Result<f64> {
    let mut worst = Vec::new();
    for scale in [-1.0, 0.5, 2.0, 7.0] {
        let guided = pair(scale)?;
        worst.push(everywhere(|x, at| {
            let score = |oracle: &Oracle| oracle.score(&[x], at)[0];
            let want = scale * score(&guided.pair.towards) - (scale - 1.0) * score(&guided.pair.away);
            // sigma·score is −eps: as S3.eq173 has it, and of one size at all levels.
            Ok(at.sigma * (score_of(&guided, x, at)? - want) * at.sigma)
        })?);
    }
    Ok(largest(worst))
}

fn both_ends() -> Result<f64> {
    let mut differences = Vec::new();
    for scale in [0.0, 1.0] {
        let guided = pair(scale)?;
        let plain = if scale == 1.0 { &guided.pair.towards } else { &guided.pair.away };
        differences.push(everywhere(|x, at| Ok(score_of(&guided, x, at)? - score_of(plain, x, at)?))?);
    }
    Ok(largest(differences))
}

fn usual_way() -> Result<f64> {
    let ([class, all], _) = labelled()?;
    everywhere(|x, at| {
        let [c, u] = [&class, &all].map(|d| d.posterior_mean(&[x], at)[0] as f32);
        Ok(f64::from(u + 1.0 * (c - u)) - f64::from(c))
    })
}

/// Class and everything moved by v: at x + alpha·v the guided estimate is the old one moved by v.
fn effective_weight() -> Result<f64> {
    const V: f64 = 0.7;
    let moved = [
        Oracle::isotropic(&[1.0], &[vec![1.0 + V]], &[0.5])?,
        Oracle::isotropic(&[0.5, 0.5], &[vec![1.0 + V], vec![-1.0 + V]], &[0.5, 0.5])?,
    ];
    let mut worst = Vec::new();
    for scale in [-1.0, 0.0, 1.0, 3.0, 7.0] {
        let [towards, away] = &moved;
        let (there, here) =
            (Guided { pair: Two { towards, away }, strength: Strength::of(scale), rescale: 0.0 }, pair(scale)?);
        let x0 = |d: &dyn Denoiser, x: f64, at| {
            Ok::<_, crate::Error>(d.denoise(&column(x)?, at)?.x0_hat()?.to_vec::<f64>()?[0])
        };
        worst.push(everywhere(|x, at| Ok(x0(&there, x + at.alpha * V, at)? - x0(&here, x, at)? - V))?);
    }
    Ok(largest(worst))
}

fn label_drops() -> Result<f64> {
    const STEPS: u64 = 100;
    const BATCH: usize = 1000;
    let chi = |p: f64| {
        let dropped = |step: u64| {
            let mut labels = vec![3; BATCH];
            crate::loss::drop_labels(&mut labels, 10, p, 7, step);
            labels.iter().filter(|label| **label == 10).count()
        };
        let (n, count) = (STEPS as f64 * BATCH as f64, (0..STEPS).map(dropped).sum::<usize>() as f64);
        (count - n * p).powi(2) / (n * p * (1.0 - p))
    };
    Ok([0.1, 0.2, 0.5].into_iter().map(chi).sum())
}
