//! What is seen while sequences of tokens are drawn.

use super::progress_bar;
use crate::error::{Error, Result};
use crate::io::token_folder::TokenDescription;
use crate::pipeline::TokenSampleOptions;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Columns of a line of text that is not done, at most.
const COLUMNS: usize = 76;
/// Texts that are shown while they emerge, at most.
const EMERGING: usize = 8;

/// What is seen while sequences are drawn: the texts themselves on a terminal, else a bar of moves on stderr.
pub(super) struct Shown<'a> {
    description: &'a TokenDescription,
    texts: Vec<String>,
    /// Lines on the terminal that the next picture of the texts replaces.
    lines: usize,
    last: Option<Instant>,
    is_live: bool,
    bar: indicatif::ProgressBar,
}

impl<'a> Shown<'a> {
    /// `moves` is about how many updates will come.
    pub(super) fn new(
        description: &'a TokenDescription,
        options: &TokenSampleOptions,
        moves: u64,
        json: bool,
    ) -> Shown<'a> {
        let is_text = description.tokenizer.is_some();
        let is_live = is_text && !json && options.count <= EMERGING && std::io::stdout().is_terminal();
        let bar = if is_live { indicatif::ProgressBar::hidden() } else { progress_bar(moves) };
        let masks = vec![description.scheduler.symbols as u32; options.length.unwrap_or(description.own.length)];
        let begin = description.tokenizer.as_ref().map_or(String::new(), |tokenizer| tokenizer.decode(&masks));
        Shown { description, texts: vec![begin; options.count], lines: 0, last: None, is_live, bar }
    }

    /// Takes the tokens of a sequence after a move.
    pub(super) fn update(&mut self, row: usize, tokens: &[u32]) -> Result<()> {
        self.bar.inc(1);
        let Some(tokenizer) = self.description.tokenizer.as_ref().filter(|_| self.is_live) else { return Ok(()) };
        self.texts[row] = tokenizer.decode(tokens);
        if self.last.is_none_or(|last| last.elapsed() > Duration::from_millis(40)) {
            self.last = Some(Instant::now());
            self.draw()?;
        }
        Ok(())
    }

    /// Puts the texts over those of before: up by as many lines, each cleared to its end.
    fn draw(&mut self) -> Result<()> {
        let (rows, columns) = console::Term::stdout().size();
        let columns = usize::from(columns).saturating_sub(1).clamp(8, COLUMNS);
        let mut lines: Vec<String> = self.texts.iter().flat_map(|text| wrapped(text, columns)).collect();
        // What has scrolled away cannot be drawn over.
        lines.truncate(usize::from(rows).saturating_sub(2).max(1));
        let mut picture = self.back();
        lines.iter().for_each(|line| picture += &format!("\x1b[K{line}\n"));
        self.lines = lines.len();
        put(&picture)
    }

    fn back(&self) -> String {
        if self.lines > 0 { format!("\x1b[{}A\x1b[J", self.lines) } else { String::new() }
    }

    /// Takes the picture away: the texts are printed where it was.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.bar.finish_and_clear();
        put(&self.back())
    }
}

fn put(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("write", "the terminal"))
}

/// Lines of at most `columns` cells, at least one; what would move the cursor is shown as a space.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        // Chinese characters take two cells, accents of their own none.
        let cells = console::measure_text_width(c.encode_utf8(&mut [0; 4]));
        if used + cells > columns {
            lines.push(String::new());
            used = 0;
        }
        used += cells;
        if let Some(line) = lines.last_mut() {
            line.push(c);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_the_width_in_cells_and_never_move_the_cursor() {
        assert_eq!(wrapped("", 9), [""]);
        assert_eq!(wrapped("a\nb\u{1b}[2J", 9), ["a b [2J"]);
        let lines = wrapped(&"x".repeat(COLUMNS + 1), COLUMNS);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [COLUMNS, 1]);
        assert_eq!(wrapped("\u{4f60}\u{597d}\u{5417}", 5), ["\u{4f60}\u{597d}", "\u{5417}"]);
        assert_eq!(wrapped("e\u{301}e\u{301}", 2), ["e\u{301}e\u{301}"]);
    }
}
