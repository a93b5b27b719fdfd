//! A Rust file as the rules see it: code without comments and literals, and the regions that rules treat apart.

use std::ops::Range;

/// One file of the tree. Offsets in `code` are offsets in `text`.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments, strings and characters blanked: same length, same lines.
    pub(crate) code: String,
    modules: Vec<(String, Range<usize>)>,
    test_items: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let code = code_of(text);
        let (modules, test_items) = (inline_modules(&code), test_items(&code));
        Source { path: path.into(), text: text.into(), code, modules, test_items }
    }

    /// The line of an offset, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// The module below `src/` that the file belongs to: `ops` for `src/ops/linear.rs`; none for `src/lib.rs`.
    pub(crate) fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next().unwrap_or(inside);
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (name != "lib").then_some(name)
    }

    /// How many modules enclose an offset: the `super::`s it takes to reach the crate's root.
    pub(crate) fn depth(&self, at: usize) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let folders = inside.matches('/').count();
        let own = usize::from(!inside.ends_with("mod.rs") && inside != "lib.rs");
        folders + own + self.modules.iter().filter(|(_, range)| range.contains(&at)).count()
    }

    /// Whether an offset is compiled for tests alone.
    pub(crate) fn is_test(&self, at: usize) -> bool {
        self.has_part("tests") || self.test_items.iter().any(|range| range.contains(&at))
    }

    /// Whether an offset lies in a `cuda` part: a `mod cuda` block, `cuda.rs`, or a folder `cuda`.
    pub(crate) fn is_cuda(&self, at: usize) -> bool {
        self.has_part("cuda") || self.modules.iter().any(|(name, range)| name == "cuda" && range.contains(&at))
    }

    fn has_part(&self, name: &str) -> bool {
        self.path.starts_with("src/")
            && self.path.split('/').any(|part| part.strip_suffix(".rs").unwrap_or(part) == name)
    }

    /// Where `word` stands in the code as a whole word.
    pub(crate) fn words(&self, word: &str) -> Vec<usize> {
        words(&self.code, word)
    }
}

/// Where `word` stands in `code` with no identifier character on either side.
pub(crate) fn words(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let alone = |at: usize| {
        (at == 0 || !is_word(bytes[at - 1])) && bytes.get(at + word.len()).is_none_or(|&byte| !is_word(byte))
    };
    code.match_indices(word).map(|(at, _)| at).filter(|&at| alone(at)).collect()
}

/// The identifier that `text` begins with; empty if it begins with none.
pub(crate) fn leading_word(text: &str) -> &str {
    let end = text.bytes().position(|byte| !is_word(byte)).unwrap_or(text.len());
    &text[..end]
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Blanks comments, strings and characters; line ends stay.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let end = literal_end(text, at);
        if end > at {
            code.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            let next = text[at..].chars().next().unwrap_or(' ');
            code.push(next);
            at += next.len_utf8();
        }
    }
    code
}

/// The end of the comment, string or character that begins at `at`; `at` itself if none does.
fn literal_end(text: &str, at: usize) -> usize {
    let (bytes, rest) = (text.as_bytes(), &text[at..]);
    let word_before = at > 0 && is_word(bytes[at - 1]);
    match bytes[at] {
        b'/' if rest.starts_with("//") => at + rest.find('\n').unwrap_or(rest.len()),
        b'/' if rest.starts_with("/*") => block_comment_end(bytes, at),
        b'"' => quoted_end(bytes, at, b'"'),
        b'b' | b'c' | b'r' if !word_before => raw_string_end(text, at),
        b'\'' => {
            // A lifetime has no closing quote behind its first character.
            let mut next = rest[1..].chars();
            let is_char = matches!((next.next(), next.next()), (Some('\\'), _) | (Some(_), Some('\'')));
            if is_char { quoted_end(bytes, at, b'\'') } else { at }
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut end, mut open) = (at + 2, 1);
    while end < bytes.len() && open > 0 {
        match &bytes[end..(end + 2).min(bytes.len())] {
            b"/*" => (open, end) = (open + 1, end + 2),
            b"*/" => (open, end) = (open - 1, end + 2),
            _ => end += 1,
        }
    }
    end
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`; `at` if no raw string begins there.
fn raw_string_end(text: &str, at: usize) -> usize {
    let rest = text[at..].trim_start_matches(['b', 'c']);
    let Some(after_r) = rest.strip_prefix('r') else { return at };
    let hashes = after_r.bytes().take_while(|&byte| byte == b'#').count();
    let Some(body) = after_r[hashes..].strip_prefix('"') else { return at };
    let close = format!("\"{}", "#".repeat(hashes));
    text.len() - body.find(&close).map_or(0, |end| body.len() - end - close.len())
}

/// Every `mod name { … }` with the range of its braces.
fn inline_modules(code: &str) -> Vec<(String, Range<usize>)> {
    let block = |at: usize| {
        let after = code[at + "mod".len()..].trim_start();
        let name = leading_word(after);
        let body = after[name.len()..].trim_start();
        let open = code.len() - body.len();
        body.starts_with('{').then(|| (name.to_string(), open..brace_end(code, open)))
    };
    words(code, "mod").into_iter().filter_map(block).collect()
}

/// The ranges of items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let starts = ["#[cfg(test)]", "#[cfg(all(test,"].into_iter().flat_map(|mark| code.match_indices(mark));
    let item = |(at, _): (usize, &str)| match code[at..].find(['{', ';']) {
        Some(to) if code.as_bytes()[at + to] == b'{' => at..brace_end(code, at + to),
        Some(to) => at..at + to,
        None => at..code.len(),
    };
    starts.map(item).collect()
}

/// The offset behind the brace that closes the one at `open`.
fn brace_end(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}
