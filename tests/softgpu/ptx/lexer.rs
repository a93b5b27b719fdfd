//! PTX text → tokens with line numbers. A dotted opcode or directive (`ld.global.L2::128B.v2.f32`, `.maxntid`) is one word.

use super::PtxError;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// An identifier, register, directive or opcode.
    Word(String),
    /// A number as written, without its sign.
    Number(String),
    Text(String),
    Mark(char),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(text) | Token::Number(text) => write!(f, "`{text}`"),
            Token::Text(text) => write!(f, "{text:?}"),
            Token::Mark(mark) => write!(f, "`{mark}`"),
        }
    }
}

/// The tokens of `source`, each with the line it starts on.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, PtxError> {
    let (mut found, mut line, mut at) = (Vec::new(), 1, 0);
    while at < source.len() {
        let rest = &source[at..];
        let first = rest.chars().next().unwrap_or(' ');
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2).ok_or_else(|| PtxError::new(line, "a comment does not end"))?
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or_else(|| PtxError::new(line, "a string does not end"))?;
            found.push((Token::Text(rest[1..end + 1].to_string()), line));
            end + 2
        } else if first.is_ascii_digit() {
            let end = number_length(rest);
            found.push((Token::Number(rest[..end].to_string()), line));
            end
        } else if is_word(first) || first == '.' {
            let end = word_length(rest);
            found.push((Token::Word(rest[..end].to_string()), line));
            end
        } else {
            found.push((Token::Mark(first), line));
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count() as u32;
        at += length;
    }
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%')
}

fn word_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut end = 1;
    while end < bytes.len() {
        if is_word(bytes[end] as char) || bytes[end] == b'.' {
            end += 1;
        } else if rest[end..].starts_with("::") {
            end += 2;
        } else {
            break;
        }
    }
    end
}

fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut end = 1;
    while end < bytes.len() {
        let exponent_sign = matches!(bytes[end], b'+' | b'-')
            && matches!(bytes[end - 1], b'e' | b'E')
            && !rest.starts_with("0x")
            && rest[..end].contains('.');
        if !(bytes[end].is_ascii_alphanumeric() || bytes[end] == b'.' || exponent_sign) {
            break;
        }
        end += 1;
    }
    end
}
