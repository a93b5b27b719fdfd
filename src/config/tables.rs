//! Tables of a run's own in text files.

use crate::error::{Error, Result};
use std::path::Path;

/// Reads whitespace-separated numbers; whether they are betas is checked where the process is made.
pub(super) fn read_betas(path: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let number = |(i, word): (usize, &str)| {
        let wrong = || Error::Usage(format!("betas = {}: entry {} is \"{word}\", not a number", path.display(), i + 1));
        word.parse().map_err(|_| wrong())
    };
    let betas: Vec<f64> = text.split_whitespace().enumerate().map(number).collect::<Result<_>>()?;
    if betas.is_empty() {
        return Err(Error::Usage(format!(
            "betas = {}: expected one beta for each time, the file has none",
            path.display()
        )));
    }
    if let Some(i) = betas.iter().position(|beta| !(*beta > 0.0 && *beta < 1.0)) {
        let (path, beta) = (path.display(), betas[i]);
        return Err(Error::Usage(format!(
            "betas = {path}: entry {} is {beta}; every beta must lie between 0 and 1",
            i + 1
        )));
    }
    Ok(betas)
}
