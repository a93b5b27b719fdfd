//! Text to tokens and back.

use crate::error::{Error, Result, unknown_name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use unicode_segmentation::UnicodeSegmentation;

/// What stands for a token that is to be filled in, and for a masked one where text is shown.
pub const MASK_SYMBOL: char = '_';

/// The word that stands for all that are not in the list.
const UNKNOWN: &str = "<unknown>";

/// The most words in a list, [`UNKNOWN`] not counted.
const MAX_WORDS: usize = 4096;

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// A token a byte, 256 symbols.
    Bytes,
    /// A token a character; the symbols are those of the text, in the order of their code points. Lines end with `\n`, whatever they do in
    /// the file, and a byte-order mark at its beginning is left out.
    Characters,
    /// 27 symbols: a to z after lower-casing, and a space for each run of anything else (as in text8).
    Letters,
    /// A token a word, as Unicode's annex 29 finds them in any language, lower-cased and without the marks between them: the 4096 most
    /// frequent of the training part, and one symbol for all others.
    Words,
}

impl TokenizerKind {
    /// All names.
    pub const NAMES: [&str; 4] = ["bytes", "characters", "letters", "words"];

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<TokenizerKind> {
        use TokenizerKind::{Bytes, Characters, Letters, Words};
        let found = [Bytes, Characters, Letters, Words].into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| unknown_name("tokenizer", name, &TokenizerKind::NAMES))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        TokenizerKind::NAMES[self as usize]
    }

    /// What bits are counted for.
    pub fn unit(self) -> &'static str {
        match self {
            TokenizerKind::Bytes => "bits/byte",
            TokenizerKind::Characters | TokenizerKind::Letters => "bits/character",
            TokenizerKind::Words => "bits/word",
        }
    }
}

/// Lower-case letters, and one space for each run of anything else; [`MASK_SYMBOL`] stays if it is to.
fn letters_of(text: &str, keeps_mask: bool) -> String {
    let mut letters = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphabetic() || (keeps_mask && c == MASK_SYMBOL) {
            letters.push(c.to_ascii_lowercase());
        } else if !letters.ends_with(' ') {
            letters.push(' ');
        }
    }
    letters
}

/// How many letters a text has, and how many of them [`TokenizerKind::Letters`] keeps.
pub(in crate::data) fn count_letters(text: &str) -> (usize, usize) {
    let letters = text.chars().filter(|c| c.is_alphabetic());
    letters.fold((0, 0), |(all, kept), c| (all + 1, kept + usize::from(c.is_ascii())))
}

/// Lower-cased words without what stands between them; runs of [`MASK_SYMBOL`] too if they are to stay.
fn words_of(text: &str, keeps_mask: bool) -> Vec<String> {
    let is_word =
        |part: &&str| part.chars().any(char::is_alphanumeric) || (keeps_mask && part.chars().all(|c| c == MASK_SYMBOL));
    text.split_word_bounds().filter(is_word).map(str::to_lowercase).collect()
}

/// The text that a tokeniser of this kind sees.
pub(super) fn normalised(text: &str, kind: TokenizerKind) -> String {
    match kind {
        TokenizerKind::Bytes => text.to_string(),
        TokenizerKind::Characters => text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n"),
        // A text has no space before its first letter, nor after its last.
        TokenizerKind::Letters => letters_of(text, false).trim().to_string(),
        TokenizerKind::Words => words_of(text, false).join(" "),
    }
}

/// A list of symbols; token i is the i-th. The mask is none of them: it is token [`Tokenizer::symbols`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenizer {
    kind: TokenizerKind,
    /// Empty for bytes.
    list: Vec<String>,
}

impl Tokenizer {
    /// A token a byte.
    pub fn bytes() -> Tokenizer {
        Tokenizer { kind: TokenizerKind::Bytes, list: Vec::new() }
    }

    /// a to z, and the space as token 26.
    pub fn letters() -> Tokenizer {
        let list = ('a'..='z').chain([' ']).map(String::from).collect();
        Tokenizer { kind: TokenizerKind::Letters, list }
    }

    /// The tokeniser of a text: characters of the whole, words of the training part.
    ///
    /// # Errors
    /// [`Error::Data`] for a text of a single symbol.
    pub(super) fn of_text(train: &str, text: &str, kind: TokenizerKind) -> Result<Tokenizer> {
        let list: Vec<String> = match kind {
            TokenizerKind::Bytes => return Ok(Tokenizer::bytes()),
            TokenizerKind::Letters => return Ok(Tokenizer::letters()),
            TokenizerKind::Characters => {
                text.chars().collect::<BTreeSet<char>>().into_iter().map(String::from).collect()
            }
            TokenizerKind::Words => {
                let mut counts = BTreeMap::new();
                train
                    .split(' ')
                    .filter(|word| !word.is_empty())
                    .for_each(|word| *counts.entry(word).or_insert(0_usize) += 1);
                let mut words: Vec<(&str, usize)> = counts.into_iter().collect();
                // Stable: words of one count stay in the order of the alphabet.
                words.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                words.truncate(MAX_WORDS);
                words.into_iter().map(|(word, _)| word).chain([UNKNOWN]).map(String::from).collect()
            }
        };
        if list.len() < 2 {
            return Err(Error::Data(format!("text: expected at least 2 different symbols, got {}", list.len())));
        }
        Ok(Tokenizer { kind, list })
    }

    /// Its kind.
    pub fn kind(&self) -> TokenizerKind {
        self.kind
    }

    /// K: the number of symbols, and the token of the mask.
    pub fn symbols(&self) -> usize {
        if self.kind == TokenizerKind::Bytes { 256 } else { self.list.len() }
    }

    /// The text of a token; [`MASK_SYMBOL`] for the mask and beyond. Bytes above 127 are shown as `\xNN`.
    pub fn symbol(&self, token: u32) -> String {
        match (self.kind, self.list.get(token as usize)) {
            (TokenizerKind::Bytes, _) if token < 128 => char::from(token as u8).to_string(),
            (TokenizerKind::Bytes, _) if token < 256 => format!("\\x{token:02x}"),
            (_, Some(symbol)) => symbol.clone(),
            _ => MASK_SYMBOL.to_string(),
        }
    }

    /// Where the mask's own symbol stands among tokens, if it is one of the symbols.
    pub(super) fn mask_in(&self, tokens: &[u32]) -> Option<usize> {
        let mask = (0..self.symbols() as u32).find(|token| self.symbol(*token).chars().eq([MASK_SYMBOL]))?;
        tokens.iter().position(|token| *token == mask)
    }

    /// Tokens of a text.
    ///
    /// # Errors
    /// [`Error::Usage`] for symbols outside the vocabulary, which it names.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_holes(text, false)?.into_iter().map(|token| token.ok_or_else(|| self.unknown(&[]))).collect()
    }

    /// Tokens of a text with holes: each [`MASK_SYMBOL`] is one token to be filled in, `None`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    ///
    /// # Example
    /// ```
    /// use tweedie::data::Tokenizer;
    /// let holes = Tokenizer::letters().infill("To be, or __")?;
    /// assert_eq!(holes[..3], [Some(19), Some(14), Some(26)]);
    /// assert_eq!(holes[holes.len() - 2..], [None, None]);
    /// # Ok::<(), tweedie::Error>(())
    /// ```
    pub fn infill(&self, text: &str) -> Result<Vec<Option<u32>>> {
        self.encode_holes(text, true)
    }

    fn encode_holes(&self, text: &str, has_holes: bool) -> Result<Vec<Option<u32>>> {
        let known: HashMap<&str, u32> = self.list.iter().enumerate().map(|(i, s)| (s.as_str(), i as u32)).collect();
        let is_hole = |c: char| has_holes && c == MASK_SYMBOL;
        let mut unknown = BTreeSet::new();
        let mut tokens = Vec::new();
        let mut put = |symbol: &str| match known.get(symbol) {
            Some(token) => tokens.push(Some(*token)),
            None if symbol.chars().all(is_hole) => tokens.push(None),
            None => {
                unknown.insert(symbol.to_string());
            }
        };
        let mut buffer = [0; 4];
        match self.kind {
            TokenizerKind::Bytes => {
                let hole = |byte: u8| is_hole(char::from(byte));
                return Ok(text.bytes().map(|byte| (!hole(byte)).then_some(u32::from(byte))).collect());
            }
            TokenizerKind::Characters => text.chars().for_each(|c| put(c.encode_utf8(&mut buffer))),
            TokenizerKind::Letters => {
                letters_of(text, has_holes).chars().for_each(|c| put(c.encode_utf8(&mut buffer)));
            }
            TokenizerKind::Words => {
                let is_kept = |word: &str| has_holes || known.contains_key(word);
                let word_of = |word| if is_kept(word) { word } else { UNKNOWN };
                words_of(text, has_holes).iter().for_each(|word| put(word_of(word)));
            }
        }
        // Data may lose what the letters leave out, but not what someone wants kept between holes; marks and gaps are one space.
        if has_holes && self.kind == TokenizerKind::Letters {
            let lost = text.chars().filter(|c| c.is_alphanumeric() && !c.is_ascii_alphabetic());
            unknown.extend(lost.map(String::from));
        }
        if unknown.is_empty() {
            return Ok(tokens);
        }
        let list: Vec<&str> = unknown.iter().map(String::as_str).collect();
        Err(self.unknown(&list))
    }

    fn unknown(&self, symbols: &[&str]) -> Error {
        let list: Vec<String> = symbols.iter().map(|symbol| format!("'{}'", symbol.escape_debug())).collect();
        let (kind, count) = (self.kind.name(), self.symbols());
        Error::Usage(format!("expected symbols of the vocabulary ({kind}, {count} symbols), got {}", list.join(", ")))
    }

    /// What a file of these tokens holds: [`Tokenizer::decode`], but for bytes, which are written as they are.
    pub fn to_bytes(&self, tokens: &[u32]) -> Vec<u8> {
        match self.kind {
            TokenizerKind::Bytes => {
                tokens.iter().map(|token| u8::try_from(*token).unwrap_or(MASK_SYMBOL as u8)).collect()
            }
            _ => self.decode(tokens).into_bytes(),
        }
    }

    /// Text of tokens; a mask shows as [`MASK_SYMBOL`], and bytes that are no UTF-8 as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        match self.kind {
            TokenizerKind::Bytes => String::from_utf8_lossy(&self.to_bytes(tokens)).into_owned(),
            TokenizerKind::Words => tokens.iter().map(|token| self.symbol(*token)).collect::<Vec<String>>().join(" "),
            _ => tokens.iter().map(|token| self.symbol(*token)).collect(),
        }
    }
}
