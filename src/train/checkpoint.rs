//! `state/checkpoint.safetensors`: one file with raw weights, averages, moments, counters and settings. Resuming reads
//! nothing else. It takes its name only when it is whole; `unet/`'s weights follow.

use super::trainer::Trainer;
use crate::config::TrainConfig;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::folder::{FORMAT_VERSION, ModelFolder};
use crate::io::tensors::{TensorFile, write_tensors};
use crate::io::weights::{param_entries, read_params};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

const KEY: &str = "tweedie";

#[derive(Serialize, Deserialize)]
struct Header {
    format_version: u32,
    step: u64,
    data_fingerprint: String,
    /// The network's description. It was a U-Net's before there were others.
    #[serde(alias = "unet")]
    network: serde_json::Value,
    config: TrainConfig,
}

fn read_header(file: &TensorFile) -> Result<Header> {
    let path = file.path().display();
    let Some(text) = file.text(KEY) else {
        return Err(Error::Model(format!("{path}: is not a checkpoint of tweedie (its header has no \"{KEY}\")")));
    };
    let header: Header =
        serde_json::from_str(text).map_err(|e| Error::Model(format!("{path}: its header is malformed: {e}")))?;
    if header.format_version > FORMAT_VERSION {
        let version = header.format_version;
        return Err(Error::Model(format!(
            "{path}: format version {version} is newer than {FORMAT_VERSION}; use a newer tweedie"
        )));
    }
    Ok(header)
}

pub(super) fn saved_config(folder: &ModelFolder) -> Result<Option<TrainConfig>> {
    if !folder.checkpoint().exists() {
        return Ok(None);
    }
    Ok(Some(read_header(&TensorFile::open(folder.checkpoint())?)?.config))
}

/// Saves the run: first the checkpoint, then the weights that samplers read.
pub(super) fn save(folder: &ModelFolder, t: &Trainer<'_>) -> Result<()> {
    let specs = t.task.specs();
    let header = Header {
        format_version: FORMAT_VERSION,
        step: t.step,
        data_fingerprint: t.task.fingerprint().into(),
        network: t.task.network(),
        config: t.config.clone(),
    };
    let text = serde_json::to_string(&header).map_err(|e| Error::Model(format!("checkpoint header: {e}")))?;
    let (raw, ema, m, v) =
        (on_host(t.raw.tensors())?, t.ema.to_device(Device::Cpu)?, on_host(&t.moments.m)?, on_host(&t.moments.v)?);
    refuse_non_finite(t, [("weight", &raw), ("average", ema.tensors()), ("first moment", &m), ("second moment", &v)])?;
    let mut entries = param_entries(specs, &raw, "raw.")?;
    entries.extend(param_entries(specs, ema.tensors(), "ema.")?);
    entries.extend(param_entries(specs, &m, "m.")?);
    entries.extend(param_entries(specs, &v, "v.")?);
    entries.extend(t.task.state());
    write_tensors(folder.checkpoint(), entries, HashMap::from([(KEY.to_string(), text)]))?;
    folder.write_weights(t.task.component(), specs, &ema)
}

fn on_host(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(|t| t.to_device(Device::Cpu)).collect()
}

/// The loss shows an overflow in the last update only at the next step; until then the former checkpoint is the better.
fn refuse_non_finite(t: &Trainer<'_>, parts: [(&str, &[Tensor]); 4]) -> Result<()> {
    for (what, tensors) in parts {
        for (spec, tensor) in t.task.specs().iter().zip(tensors) {
            if !tensor.is_finite()? {
                let (step, name) = (t.step, &spec.name);
                return Err(Error::NonFinite(format!(
                    "step {step}: a {what} of {name} is not finite; the last checkpoint is as it was, try --resume with a smaller --lr"
                )));
            }
        }
    }
    Ok(())
}

/// Puts a fresh trainer where the folder's checkpoint left off.
pub(super) fn load(folder: &ModelFolder, t: &mut Trainer<'_>) -> Result<()> {
    let path = folder.checkpoint();
    if !path.exists() {
        let (root, path) = (folder.root().display(), path.display());
        return Err(Error::Usage(format!(
            "--resume: {root} has no checkpoint ({path} is missing); train without --resume"
        )));
    }
    let file = std::sync::Arc::new(TensorFile::open(&path)?);
    let header = read_header(&file)?;
    t.config.check_resumable(&header.config)?;
    // Before the network, whose channels and classes come from the data.
    if header.data_fingerprint != t.task.fingerprint() {
        return Err(Error::Usage(format!(
            "--resume: the data \"{}\" is not what the run was trained on (fingerprint {}, now {}); choose another --out",
            t.config.data,
            header.data_fingerprint,
            t.task.fingerprint()
        )));
    }
    if header.network != t.task.network() {
        return Err(Error::Usage(format!(
            "--resume: {} was made with another network than the settings describe; choose another --out",
            path.display()
        )));
    }
    let specs = t.task.specs();
    // Other prefixes are unexpected only within their own part of the file.
    let device = t.device();
    let read = |prefix, trainable| read_params(&file, specs, prefix, trainable)?.to_device(device);
    let (raw, ema) = (read("raw.", true)?, read("ema.", false)?);
    let moments = |prefix| Ok::<_, Error>(read(prefix, false)?.tensors().to_vec());
    (t.moments.m, t.moments.v) = (moments("m.")?, moments("v.")?);
    t.task.restore(&file)?;
    (t.raw, t.ema) = (raw, ema);
    t.step = header.step;
    Ok(())
}

/// Removes a former run's reports, so that none is mistaken for the new one's. Its weights stay until the new run's
/// first checkpoint takes their names.
pub(super) fn remove_reports(folder: &ModelFolder) -> Result<()> {
    let samples = folder.path("samples");
    if samples.is_dir() {
        std::fs::remove_dir_all(&samples).map_err(Error::io("remove", &samples))?;
    }
    for name in ["metrics.jsonl", "loss.png"] {
        let path = folder.path(name);
        if path.is_file() {
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}
