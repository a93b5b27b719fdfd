//! Classifier-free guidance of a network (Ho & Salimans 2022; items 60 and 61).

use super::Pair;
use crate::denoiser::{Denoiser, Estimate, NetworkDenoiser};
use crate::error::Result;
use crate::process::Level;
use crate::tensor::Tensor;

/// A class-conditional network with its classes and with the null class, both in one doubled batch: the bits are those of two calls.
pub struct ClassifierFree<'a> {
    conditional: NetworkDenoiser<'a>,
    unconditional: NetworkDenoiser<'a>,
    doubled: NetworkDenoiser<'a>,
}

impl<'a> ClassifierFree<'a> {
    /// `labels` are the classes of all images, then as often the null class.
    pub fn new(network: &NetworkDenoiser<'a>, labels: &'a [u32]) -> ClassifierFree<'a> {
        let with = |class_labels| NetworkDenoiser { class_labels: Some(class_labels), ..*network };
        let (classes, null) = labels.split_at(labels.len() / 2);
        ClassifierFree { conditional: with(classes), unconditional: with(null), doubled: with(labels) }
    }
}

fn twice(x: &Tensor) -> Result<Tensor> {
    let rows = x.shape().first().copied().unwrap_or(0);
    Tensor::stack_rows(&[x.clone(), x.clone()], x.shape().with_rows(2 * rows))
}

impl Pair for ClassifierFree<'_> {
    fn towards(&self) -> &dyn Denoiser {
        &self.conditional
    }

    fn away(&self) -> &dyn Denoiser {
        &self.unconditional
    }

    fn both(&self, x_t: &Tensor, at: Level) -> Result<[Estimate; 2]> {
        let n = x_t.shape().first().copied().unwrap_or(0);
        let both = self.doubled.denoise(&twice(x_t)?, at)?;
        let half = |first: usize| -> Result<Estimate> {
            let variance = both.variance.as_ref().map(|v| v.rows(first, n)).transpose()?;
            Ok(Estimate { x_t: x_t.clone(), net_out: both.net_out.rows(first, n)?, variance, ..both.clone() })
        };
        Ok([half(0)?, half(n)?])
    }

    fn both_rows(&self, x_t: &Tensor, at: &[Level]) -> Result<Vec<[Estimate; 2]>> {
        let mut towards = self.doubled.denoise_rows(&twice(x_t)?, &[at, at].concat())?;
        let away = towards.split_off(at.len());
        Ok(towards.into_iter().zip(away).map(|(towards, away)| [towards, away]).collect())
    }
}
