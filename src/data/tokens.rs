//! What a model of tokens is trained on: a text, or images whose levels are symbols.

use super::{Dataset, TextSet, Tokenizer, TokenizerKind};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// Sequences of symbols.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has one")]
pub enum TokenData {
    /// Windows of a text.
    Text(TextSet),
    /// Images: a token a value, in the order of `[h, w, c]`, a symbol a level.
    Images(Dataset),
}

impl TokenData {
    /// Whether `spec` names a text: `text`, or a file that does not begin as IDX files and packed ones do.
    pub fn is_text(spec: &str) -> bool {
        let path = Path::new(spec);
        if spec == super::EMBEDDED_TEXT || !path.is_file() {
            return spec == super::EMBEDDED_TEXT;
        }
        let mut head = [b' '; 2];
        // A file that cannot be read says so where it is opened.
        let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
        read.is_ok() && head != [0, 0] && head != [0x1f, 0x8b]
    }

    /// What a text would lose on its way to tokens, as a sentence for whoever trains on it: letters that are not a to z.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn left_out(spec: &str, kind: TokenizerKind) -> Result<Option<String>> {
        if kind != TokenizerKind::Letters || spec == super::EMBEDDED_TEXT || !TokenData::is_text(spec) {
            return Ok(None);
        }
        let bytes = crate::io::Bytes::open(spec)?;
        // What is no UTF-8 is refused where it is opened.
        let text = String::from_utf8_lossy(bytes.as_slice());
        let (all, kept) = super::text::count_letters(&text);
        let (lost, share) = (all - kept, 100.0 * (all - kept) as f64 / all.max(1) as f64);
        Ok((lost > 0).then(|| {
            format!("{share:.2} % of the letters of \"{spec}\" are none of a to z and become spaces; --tokenizer characters keeps them")
        }))
    }

    /// Opens a text, or a data set of images.
    ///
    /// * `kind` — how a text becomes tokens
    /// * `split_seed` — see [`Dataset::load`]
    ///
    /// # Errors
    /// As [`TextSet::load`] and [`Dataset::load`].
    pub fn load(spec: &str, kind: TokenizerKind, split_seed: u64) -> Result<TokenData> {
        if TokenData::is_text(spec) {
            return Ok(TokenData::Text(TextSet::load(spec, kind)?));
        }
        Ok(TokenData::Images(Dataset::load(spec, split_seed)?))
    }

    /// K: the number of symbols.
    pub fn symbols(&self) -> usize {
        match self {
            TokenData::Text(text) => text.tokenizer().symbols(),
            TokenData::Images(images) => images.max_value() as usize + 1,
        }
    }

    /// How the text became tokens, where it is one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            TokenData::Text(text) => Some(text.tokenizer()),
            TokenData::Images(_) => None,
        }
    }

    /// Tokens of a sequence: as many as `window`, or the values of an image.
    pub fn length(&self, window: usize) -> usize {
        match self {
            TokenData::Text(_) => window,
            TokenData::Images(images) => images.image_len(),
        }
    }

    /// The held-out sequences `[n, length]`, one after another.
    ///
    /// # Errors
    /// [`Error::Data`] if the held-out part of a text is shorter than a window, or no image is held out.
    pub fn held_out(&self, length: usize) -> Result<Vec<u32>> {
        match self {
            TokenData::Text(text) => text.held_out_windows(length),
            TokenData::Images(images) if images.held_out().is_empty() => {
                Err(Error::Data(format!("data set \"{}\": expected held-out images, got none", images.name())))
            }
            TokenData::Images(images) => {
                let held_out = images.held_out().iter();
                Ok(held_out.flat_map(|i| images.image(*i as usize).iter().map(|level| u32::from(*level))).collect())
            }
        }
    }

    /// See [`TextSet::fingerprint`] and [`Dataset::fingerprint`].
    pub fn fingerprint(&self) -> String {
        match self {
            TokenData::Text(text) => text.fingerprint(),
            TokenData::Images(images) => images.fingerprint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_from_images_by_their_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_string()
        };
        assert!(TokenData::is_text("text") && TokenData::is_text(&file("book.txt", b"Of Man's")));
        assert!(TokenData::is_text(&file("empty.txt", b"")), "it is refused as an empty text");
        assert!(
            !TokenData::is_text(&file("images", &[0, 0, 8, 3])) && !TokenData::is_text(&file("x.gz", &[0x1f, 0x8b]))
        );
        let german = file("german.txt", "über alle".as_bytes());
        let note = |kind| TokenData::left_out(&german, kind).unwrap();
        assert!(note(TokenizerKind::Letters).unwrap().starts_with("12.50 % of the letters"));
        assert_eq!((note(TokenizerKind::Characters), note(TokenizerKind::Words)), (None, None));
        assert!(!TokenData::is_text("digits") && !TokenData::is_text(folder.path().to_str().unwrap()));
    }

    #[test]
    fn images_are_sequences_of_their_levels() {
        let digits = TokenData::load("digits", TokenizerKind::Letters, 0).unwrap();
        assert_eq!((digits.symbols(), digits.length(9)), (17, 64));
        let held_out = digits.held_out(64).unwrap();
        let TokenData::Images(images) = &digits else { panic!("digits are images") };
        assert_eq!(held_out.len(), 360 * 64);
        assert!(
            held_out[64..128].iter().zip(images.image(images.held_out()[1] as usize)).all(|(a, b)| *a == u32::from(*b))
        );
        let text = TokenData::load("text", TokenizerKind::Letters, 0).unwrap();
        assert_eq!((text.symbols(), text.length(9)), (27, 9));
    }
}
