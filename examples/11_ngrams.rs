//! What a text model must beat: n-grams with Witten and Bell's smoothing and gzip, in bits per character (S3 section 6; item 76).
//!
//! *Paradise Lost* as 27 symbols, the last tenth held out. A masked diffusion model's bound is compared with these numbers; it sees both sides of
//! a character, but must tell all of them in every order.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use tweedie::data::{TextSet, TokenizerKind};
use tweedie::eval::WittenBell;
use tweedie::io::plot::{Axes, Series, plot_lines};

const OUT: &str = "examples/out/11_ngrams.png";
const ORDER: usize = 6;

/// Bits per character of a text after gzip, header included.
fn gzip(text: &str) -> tweedie::Result<f64> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    let size = packed.write_all(text.as_bytes()).and_then(|()| packed.finish()).map(|bytes| bytes.len());
    Ok(8.0 * size.map_err(tweedie::Error::io("pack", "the text"))? as f64 / text.len() as f64)
}

fn main() -> tweedie::Result<()> {
    let text = TextSet::load("text", TokenizerKind::Letters)?;
    let (train, held_out, symbols) = (text.train(), text.held_out(), text.tokenizer().symbols());
    println!("{} characters to train on, {} held out, {symbols} symbols", train.len(), held_out.len());

    let all = [train, held_out].concat();
    let bits = WittenBell::new(train, symbols, ORDER)?.bits(&all, train.len())?;
    for (order, bits) in bits.iter().enumerate() {
        println!("{order} characters of context: {bits:.3} bits per character");
    }
    let (alone, whole) = (gzip(&text.tokenizer().decode(held_out))?, gzip(&text.tokenizer().decode(&all))?);
    println!("gzip -9: {alone:.3} on the held-out part alone, {whole:.3} on the whole text");

    let points = bits.iter().enumerate().map(|(order, bits)| (order as f64, *bits)).collect();
    let level = |bits: f64| vec![(0.0, bits), (ORDER as f64, bits)];
    let lines = [
        Series { name: "Witten–Bell n-grams".into(), points, marked: true, faint: false },
        Series { name: format!("gzip: {alone:.3}"), points: level(alone), marked: false, faint: false },
    ];
    let (title, x_label) = ("Held-out tenth of Paradise Lost, 27 symbols", "characters of context");
    let axes = Axes { title, x_label, y_label: "bits per character", log_x: false, log_y: false };
    plot_lines(OUT, &axes, &lines)?;
    println!("{OUT}");
    Ok(())
}
