//! candle's side of `cargo bench --bench peers`: the same work, timed here, started by the driver line by line.
//!
//! `cargo build --release --manifest-path benches/peers/rust/Cargo.toml`, then the bench finds it. Single operations only: candle has
//! no diffusers' U-Net. Its backward times hold the product with the gradient of the output and its sum, which start the tape.

mod on_candle;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// Does the work once and returns the time that counts.
pub type Run = Box<dyn FnMut() -> Result<Duration, String>>;
/// An item's name and how it is made.
pub type Item = (&'static str, fn() -> Result<Run, String>);

/// Times `work`; what it returns is freed after the clock was read.
pub fn timed<T>(work: impl FnOnce() -> Result<T, String>) -> Result<Duration, String> {
    let begin = Instant::now();
    let kept = std::hint::black_box(work()?);
    let time = begin.elapsed();
    drop(kept);
    Ok(time)
}

/// The items of each framework.
fn frameworks() -> Vec<(&'static str, &'static str, Vec<Item>)> {
    vec![("candle", "candle 0.11.1", on_candle::items())]
}

/// The item that is ready, under its full name.
type Ready = Option<(String, Run)>;

fn run(words: &[&str], ready: &mut Ready) -> Result<String, String> {
    let [_, name, count, warm] = words else { return Err("run wants ITEM:VARIANT COUNT WARM".into()) };
    let number = |text: &str| text.parse::<usize>().map_err(|e| e.to_string());
    let (count, warm) = (number(count)?, number(warm)?);
    if ready.as_ref().is_none_or(|(ready, _)| ready != name) {
        *ready = None; // freed before the next is made
        let (item, variant) = name.split_once(':').ok_or("no variant")?;
        let known = frameworks().into_iter().filter(|(framework, ..)| *framework == variant);
        let make = known.flat_map(|(.., items)| items).find(|(name, _)| *name == item);
        let (_, make) = make.ok_or_else(|| format!("unknown item {name}"))?;
        let mut work = make()?;
        work()?;
        *ready = Some((name.to_string(), work));
    }
    let Some((_, work)) = ready else { return Err("nothing is ready".into()) };
    for _ in 0..warm {
        work()?;
    }
    let times: Result<Vec<String>, String> =
        (0..count).map(|_| Ok(format!("{:.6}", work()?.as_secs_f64() * 1e3))).collect();
    Ok(times?.join(" "))
}

fn main() {
    let titles: Vec<&str> = frameworks().iter().map(|(_, title, _)| *title).collect();
    println!("ready {}", titles.join(" and "));
    let mut ready = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = match words.first() {
            Some(&"list") => {
                let of = |(framework, _, items): &(&str, &str, Vec<Item>)| {
                    items.iter().map(|(item, _)| format!("{item}:{framework}")).collect::<Vec<_>>().join(" ")
                };
                Ok(frameworks().iter().map(of).collect::<Vec<_>>().join(" "))
            }
            Some(&"run") => run(&words, &mut ready),
            other => Err(format!("unknown request {other:?}")),
        };
        println!("{}", reply.unwrap_or_else(|error| format!("error {}", error.replace('\n', " "))));
        let _ = std::io::stdout().flush();
    }
}
