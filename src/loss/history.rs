//! The last losses at each part of the times, and how often each should be drawn (Nichol & Dhariwal 2021, sec. 3.3).

use crate::error::{Error, Result};

/// The last losses of each of [`LossHistory::BINS`] equal parts of the times.
#[derive(Clone, Debug, PartialEq)]
pub struct LossHistory {
    /// `[BINS, KEPT]`, oldest first; f32, so that a checkpoint holds them exactly.
    losses: Vec<f32>,
    /// How many of each part are there.
    counts: Vec<i64>,
}

/// Losses kept of each part (Nichol & Dhariwal 2021, sec. 3.3).
const KEPT: usize = 10;
/// The share of draws that stays uniform: no part is ever left out.
const UNIFORM: f64 = 1e-3;

impl Default for LossHistory {
    fn default() -> LossHistory {
        LossHistory { losses: vec![0.0; LossHistory::BINS * KEPT], counts: vec![0; LossHistory::BINS] }
    }
}

impl LossHistory {
    /// Parts of the times: ten levels each of a table of a thousand.
    pub const BINS: usize = 100;
    /// Losses kept of each part.
    pub const KEPT: usize = KEPT;

    /// From the parts of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Model`] if there are not as many numbers as parts, or one is not finite.
    pub fn from_parts(losses: Vec<f32>, counts: Vec<i64>) -> Result<LossHistory> {
        let is_sound = losses.len() == LossHistory::BINS * KEPT
            && counts.len() == LossHistory::BINS
            && losses.iter().all(|l| l.is_finite())
            && counts.iter().all(|c| (0..=KEPT as i64).contains(c));
        match is_sound {
            true => Ok(LossHistory { losses, counts }),
            false => Err(Error::Model(format!(
                "loss history: expected {} finite losses and {} counts of at most {KEPT}",
                LossHistory::BINS * KEPT,
                LossHistory::BINS
            ))),
        }
    }

    /// `[BINS, KEPT]`.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// `[BINS]`.
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// Adds a loss to a part; the oldest leaves.
    pub(super) fn push(&mut self, bin: usize, loss: f64) {
        let (row, count) = (&mut self.losses[bin * KEPT..(bin + 1) * KEPT], &mut self.counts[bin]);
        if *count as usize == KEPT {
            row.rotate_left(1);
        } else {
            *count += 1;
        }
        row[*count as usize - 1] = loss as f32;
    }

    /// The probability of each part: the root mean square of its losses, uniform until every part has all of them.
    pub fn shares(&self) -> Vec<f64> {
        let even = 1.0 / LossHistory::BINS as f64;
        let squares = |row: &[f32]| row.iter().map(|l| f64::from(*l).powi(2)).sum::<f64>() / KEPT as f64;
        let sizes: Vec<f64> = self.losses.chunks_exact(KEPT).map(|row| squares(row).sqrt()).collect();
        let total: f64 = sizes.iter().sum();
        if self.counts.iter().any(|c| (*c as usize) < KEPT) || !(total > 0.0) {
            return vec![even; LossHistory::BINS];
        }
        sizes.iter().map(|size| (1.0 - UNIFORM) * size / total + UNIFORM * even).collect()
    }
}
