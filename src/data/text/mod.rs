//! Text: a file or the embedded *Paradise Lost* as tokens, the last tenth held out.

mod tokenizer;

pub(super) use tokenizer::count_letters;
pub use tokenizer::{MASK_SYMBOL, Tokenizer, TokenizerKind};

use super::fingerprint::Fnv;
use crate::io::Bytes;
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;

/// The name of the embedded text.
pub(super) const EMBEDDED: &str = "text";

/// Share of a text that is held out: the last tenth of its characters.
const HELD_OUT: usize = 10;

/// A text as tokens, and where its held-out part begins.
#[derive(Clone, Debug)]
pub struct TextSet {
    name: String,
    tokenizer: Tokenizer,
    tokens: Vec<u32>,
    train_len: usize,
}

impl TextSet {
    /// Opens a text: `text` for the embedded *Paradise Lost*, or the path of a file.
    ///
    /// * `kind` — how it becomes tokens; a list of characters or words is that of the whole text, or of its training part
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; else as [`TextSet::from_bytes`].
    ///
    /// # Example
    /// ```
    /// use tweedie::data::{TextSet, TokenizerKind};
    /// let text = TextSet::load("text", TokenizerKind::Letters)?;
    /// assert_eq!(text.tokenizer().decode(&text.train()[..39]), "paradise lost book i of mans first diso");
    /// # Ok::<(), tweedie::Error>(())
    /// ```
    pub fn load(spec: &str, kind: TokenizerKind) -> Result<TextSet> {
        let make = |text: &[u8]| TextSet::from_bytes(spec, text, kind);
        if spec == EMBEDDED { make(&embedded()?) } else { make(Bytes::open(Path::new(spec))?.as_slice()) }
    }

    /// As [`TextSet::load`] with symbols that are known already: those of a model.
    ///
    /// # Errors
    /// As [`TextSet::load`]; [`Error::Usage`] for symbols outside the vocabulary, which it names.
    pub fn load_as(spec: &str, tokenizer: &Tokenizer) -> Result<TextSet> {
        let make = |text: &[u8]| TextSet::read(spec, text, tokenizer.kind(), Some(tokenizer));
        if spec == EMBEDDED { make(&embedded()?) } else { make(Bytes::open(Path::new(spec))?.as_slice()) }
    }

    /// A text in memory; UTF-8, but for bytes as tokens.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty text, one that is not UTF-8 (with the offset of the first bad byte), or one that holds the mask's symbol.
    pub fn from_bytes(name: &str, text: &[u8], kind: TokenizerKind) -> Result<TextSet> {
        TextSet::read(name, text, kind, None)
    }

    fn read(name: &str, text: &[u8], kind: TokenizerKind, known: Option<&Tokenizer>) -> Result<TextSet> {
        let fail = |reason: String| Err(Error::Data(format!("text \"{name}\": {reason}")));
        if text.is_empty() {
            return fail("expected characters, got an empty text".into());
        }
        // Bytes are cut where the training part ends; for text that is a tenth of the characters, so that words are known before tokens are.
        let (tokenizer, train, held_out) = if kind == TokenizerKind::Bytes {
            let (train, held_out) = text.split_at(text.len() - text.len() / HELD_OUT);
            let bytes = |part: &[u8]| part.iter().map(|byte| u32::from(*byte)).collect::<Vec<u32>>();
            (Tokenizer::bytes(), bytes(train), bytes(held_out))
        } else {
            let text = match std::str::from_utf8(text) {
                Ok(text) => text,
                Err(e) => {
                    let (at, byte) = (e.valid_up_to(), text[e.valid_up_to()]);
                    return fail(format!(
                        "expected UTF-8, got byte 0x{byte:02x} at offset {at}; convert the file, or take bytes as tokens"
                    ));
                }
            };
            let (all, kept) = count_letters(text);
            if kind == TokenizerKind::Letters && kept < all - kept {
                return fail(format!(
                    "expected letters a to z for the most part, got {kept} of {all} letters; take characters or words as tokens (--tokenizer characters)"
                ));
            }
            let text = tokenizer::normalised(text, kind);
            if text.is_empty() {
                return fail("expected letters, got none".into());
            }
            let count = text.chars().count();
            let cut = text.char_indices().nth(count - count / HELD_OUT).map_or(text.len(), |(at, _)| at);
            let (train, held_out) = text.split_at(cut);
            let tokenizer = match known {
                Some(tokenizer) => tokenizer.clone(),
                None => Tokenizer::of_text(train, &text, kind)?,
            };
            let encode = |part: &str| {
                tokenizer
                    .encode(part)
                    .map_err(|e| Error::Usage(format!("text \"{name}\": {e}; the model knows no others")))
            };
            let (train, held_out) = (encode(train)?, encode(held_out)?);
            (tokenizer, train, held_out)
        };
        if let Some(at) = tokenizer.mask_in(&train).or_else(|| tokenizer.mask_in(&held_out).map(|at| train.len() + at))
        {
            let before = train.iter().chain(&held_out).take(at);
            let line = 1 + before.filter(|token| tokenizer.symbol(**token) == "\n").count();
            return fail(format!(
                "expected no '{MASK_SYMBOL}', which stands for what is to be filled in, got one on line {line}; replace it in the file, or take \
                 letters or words as tokens"
            ));
        }
        let train_len = train.len();
        let tokens = [train, held_out].concat();
        if tokens.is_empty() {
            return fail("expected words, got none".into());
        }
        Ok(TextSet { name: name.to_string(), tokenizer, tokens, train_len })
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it became tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens to train on, in the order of the text.
    pub fn train(&self) -> &[u32] {
        &self.tokens[..self.train_len]
    }

    /// The last tenth of the text.
    pub fn held_out(&self) -> &[u32] {
        &self.tokens[self.train_len..]
    }

    /// At how many tokens of the training part a window of this length can begin.
    ///
    /// # Errors
    /// [`Error::Data`] if the training part is shorter than a window.
    pub fn window_starts(&self, length: usize) -> Result<usize> {
        self.check_window(self.train(), "training", length)?;
        Ok(self.train_len - length + 1)
    }

    /// Consecutive windows of the held-out part, `[n, length]` one after another; what is left at the end is shorter and is left out.
    ///
    /// # Errors
    /// [`Error::Data`] if the held-out part is shorter than a window.
    pub fn held_out_windows(&self, length: usize) -> Result<Vec<u32>> {
        let held_out = self.held_out();
        self.check_window(held_out, "held-out", length)?;
        Ok(held_out[..held_out.len() / length * length].to_vec())
    }

    fn check_window(&self, part: &[u32], which: &str, length: usize) -> Result<()> {
        if length == 0 || part.len() < length {
            let (name, got) = (&self.name, part.len());
            return Err(Error::Data(format!(
                "text \"{name}\": expected a {which} part of at least one window of {length} tokens, got {got}; take shorter windows or a longer text"
            )));
        }
        Ok(())
    }

    /// 16 hexadecimal digits that change with a token or the vocabulary, so that resuming on other data can be refused. Not for security.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        hash.word(self.tokenizer.symbols() as u64);
        hash.word(self.train_len as u64);
        self.tokens.iter().for_each(|token| hash.word(u64::from(*token)));
        (0..self.tokenizer.symbols()).for_each(|token| hash.bytes(self.tokenizer.symbol(token as u32).as_bytes()));
        hash.text()
    }
}

/// *Paradise Lost*.
fn embedded() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let packed = include_bytes!("../../../assets/paradise-lost.txt.gz");
    GzDecoder::new(&packed[..]).read_to_end(&mut text).map_err(Error::io("unpack", "the embedded text"))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
