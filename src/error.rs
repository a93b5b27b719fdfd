//! The one error type: every message says what was wrong, what was expected, what came, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Shorthand for results with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong. The text of each variant is a full sentence for the user:
/// `what: expected, got; what to do` (lower case, values instead of adjectives, no full stop).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Shapes disagree, or a size is not allowed.
    Shape(String),
    /// An element type is not the one the op wants.
    Dtype(String),
    /// A device is missing, or tensors live on different devices.
    Device(String),
    /// A command-line flag, option or configuration field is wrong.
    Usage(String),
    /// A model folder or checkpoint does not hold what it should.
    Model(String),
    /// A data set is missing or malformed.
    Data(String),
    /// A number that must be finite is not.
    NonFinite(String),
    /// The operating system refused a file operation.
    Io {
        /// What was being done, for example "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with the action and path, for use in `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// The process exit code: 2 for wrong use, 1 for a run that failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape(text)
            | Error::Dtype(text)
            | Error::Device(text)
            | Error::Usage(text)
            | Error::Model(text)
            | Error::Data(text)
            | Error::NonFinite(text) => f.write_str(text),
            Error::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Finds the known name nearest to `name` (Levenshtein distance at most a third of its length, at least 1).
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1) + 1;
    known.into_iter().map(|k| (levenshtein(name, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// `kind "name" is unknown; known: a, b — did you mean "a"?` as a [`Error::Usage`].
pub fn unknown_name(kind: &str, name: &str, known: &[&str]) -> Error {
    let hint = nearest(name, known.iter().copied()).map(|k| format!(" — did you mean \"{k}\"?")).unwrap_or_default();
    Error::Usage(format!("{kind} \"{name}\" is unknown; known: {}{hint}", known.join(", ")))
}

fn levenshtein(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_the_known_ones_and_the_nearest() {
        let text = unknown_name("sampler", "ddmi", &["ddim", "ddpm", "euler"]).to_string();
        assert_eq!(text, "sampler \"ddmi\" is unknown; known: ddim, ddpm, euler — did you mean \"ddim\"?");
        assert!(nearest("zzzz", ["ddim"]).is_none());
    }

    #[test]
    fn usage_errors_exit_with_two_and_failures_with_one() {
        assert_eq!(Error::Usage(String::new()).exit_code(), 2);
        assert_eq!(Error::Model(String::new()).exit_code(), 1);
    }
}
