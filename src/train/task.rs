//! What a run trains: a network and its data. The trainer knows weights, moments and steps, and nothing else.

use crate::device::Device;
use crate::error::Result;
use crate::io::ModelFolder;
use crate::io::tensors::{Entry, TensorFile};
use crate::nn::{Mode, ParamSpec, Params};
use crate::tensor::Tensor;
use serde_json::Value;

/// What the loss plot calls its lines.
pub(super) struct Curves {
    pub(super) title: &'static str,
    pub(super) training: String,
    pub(super) validation: String,
}

pub(super) trait Task {
    /// The parameters of the network.
    fn specs(&self) -> &[ParamSpec];

    /// The network's folder in the model folder.
    fn component(&self) -> &'static str;

    /// The network's description, as its folder has it.
    fn network(&self) -> Value;

    /// Of the data, so that a run is not resumed on other data.
    fn fingerprint(&self) -> &str;

    /// What the rows of a batch are, where rates are printed.
    fn rows(&self) -> &'static str;

    /// Whether labels condition the network.
    fn is_class_conditional(&self) -> bool {
        false
    }

    /// What a validation measures.
    fn measure(&self) -> String {
        "held-out loss".into()
    }

    /// What the loss plot calls its lines.
    fn curves(&self) -> Curves;

    /// Writes what says which model the folder holds; its weights follow.
    fn describe(&self, folder: &ModelFolder) -> Result<()>;

    /// Draws the batch of `step` on `device` and keeps it until the next one. It depends on nothing but the step and [`Task::state`].
    fn draw(&mut self, step: u64, device: Device) -> Result<()>;

    /// Whether the batch that was drawn holds finite numbers alone.
    fn batch_is_finite(&self) -> Result<bool>;

    /// The loss of the batch that was drawn, and what [`Task::record`] wants of each row.
    fn loss(&self, params: &Params, mode: Mode) -> Result<(Tensor, Tensor)>;

    /// Takes note of the rows of a step that was done.
    fn record(&mut self, _rows: &Tensor) -> Result<()> {
        Ok(())
    }

    /// What later batches depend on besides their step, for the checkpoint.
    fn state(&self) -> Vec<Entry<'_>> {
        Vec::new()
    }

    /// Takes it back.
    fn restore(&mut self, _checkpoint: &TensorFile) -> Result<()> {
        Ok(())
    }

    /// The loss of the averaged weights on held-out data, where there is any.
    fn validation_loss(&self, averaged: &Params) -> Result<Option<f64>>;

    /// Writes samples or what else shows how far the network is, before step `done`; a text is returned too.
    fn show(&self, folder: &ModelFolder, done: u64, weights: Shown<'_>) -> Result<Option<String>>;
}

/// The two sets of weights that are shown.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) averaged: &'a Params,
    pub(super) raw: &'a Params,
}
