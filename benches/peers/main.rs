//! Our speed beside other frameworks', item by item in turn, in one run on one machine.
//!
//! `cargo bench --bench peers [-- ITEM…] [--rounds N] [--prepare | --table]`. An item is measured where its name contains one
//! of the given texts, `conv` or `conv:eager` for one variant of the others; without any, all are. Python is `PYTHON` or `python3`, with torch and diffusers installed; candle and burn take part once
//! `benches/peers/rust` is built. Without a peer our times are printed alone.
//!
//! Each round times every side of an item for about a sixth of a second, ours first; the row has the median of the rounds. Before each round a
//! short loop on all threads at once, held against one thread alone, shows whether the cores are really free, and the kernel
//! is asked whether threads had to wait for a core during it; rows of items that were not alone are printed, and not recorded. Rows go to `TWEEDIE_RECORD`, else to `benches/record/peers.csv`; `--table` prints the newest of them as the
//! table of docs/performance.md. `--prepare` runs everything once, so that compilers of peers fill their caches.

#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod cores;
mod items;
mod peer;
mod process;
mod record;
#[allow(dead_code, reason = "every bench uses a part of it")]
#[path = "../common/text.rs"]
mod text;

use common::median;
use items::Item;
use peer::Peer;
use record::{Record, Row};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tweedie::{Error, Result, cli};

/// What the command line asks for.
struct Options {
    filters: Vec<String>,
    rounds: usize,
    prepare: bool,
}

impl Options {
    /// Whether the item, or the variant of it, was asked for: `TEXT` or `TEXT:VARIANT`.
    fn wants(&self, item: &str, variant: Option<&str>) -> bool {
        let matches = |filter: &String| {
            let (text, only) = filter.split_once(':').map_or((filter.as_str(), None), |(text, v)| (text, Some(v)));
            item.contains(text) && (variant.is_none() || only.is_none() || variant == only)
        };
        self.filters.is_empty() || self.filters.iter().any(matches)
    }
}

/// Where times come from, and the medians of its rounds in milliseconds.
struct Side {
    peer: usize,
    variant: String,
    rounds: Vec<f64>,
}

const USAGE: &str = "\
cargo bench --bench peers [-- ITEM...] [--rounds N]   items whose name contains one of the texts; `clip:eager` for one variant of the others
cargo bench --bench peers -- --prepare                everything once, so that compilers of peers fill their caches
cargo bench --bench peers -- --table                  the recorded rows as Markdown";

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!(
            "{USAGE}\n\nEnvironment: PYTHON, RUST_PEERS, RAYON_NUM_THREADS, TWEEDIE_SIMD, TWEEDIE_CONV; TWEEDIE_RECORD=FILE.csv."
        );
        return std::process::ExitCode::SUCCESS;
    }
    if arguments.iter().any(|a| a == "--table") {
        return cli::exit(record::print_table(&names()));
    }
    if arguments.iter().any(|a| a == process::MEMORY_FLAG) {
        return cli::exit(cli::with_threads(0, process::train_and_report));
    }
    if !arguments.iter().any(|a| a == "--bench") {
        println!("peers: measures only as `cargo bench --bench peers`");
        return std::process::ExitCode::SUCCESS;
    }
    // As programs do: entering a parallel region from a thread outside the pool costs two context switches.
    cli::exit(cli::with_threads(0, || run(&options(&arguments)?)))
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options { filters: Vec::new(), rounds: 5, prepare: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--bench" => {}
            "--prepare" => options.prepare = true,
            "--rounds" => {
                let text = rest.next().map_or("nothing", String::as_str);
                let count = text.parse().ok().filter(|&count| count > 0);
                options.rounds = count.ok_or_else(|| {
                    Error::Usage(format!("--rounds: expected a count of at least 1, got {text}; use --rounds 3"))
                })?;
            }
            flag if flag.starts_with('-') => {
                return Err(Error::Usage(format!("{flag} is unknown; known: ITEM..., --rounds N, --prepare, --table")));
            }
            filter => options.filters.push(filter.into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    let models = models()?;
    let threads = rayon::current_num_threads();
    let mut peers: Vec<Peer> =
        [Peer::python(&models, threads), Peer::rust(&models, threads)].into_iter().flatten().collect();
    println!("machine: {}, {threads} threads; {}", common::machine(), cores::state());
    for peer in &mut peers {
        println!("beside: {}", peer.title());
        peer::compare_networks(peer, &models)?;
    }
    let mut record = Record::open(threads);
    let wanted = |name: &str| options.wants(name, None);
    let names = names();
    if !names.iter().any(|name| wanted(name)) {
        return Err(Error::Usage(format!("no item has that in its name; known: {}", names.join(" "))));
    }
    println!(
        "{:28} {:>10} {:>7}   {:20} {:>10} {:>7}  {:>6}",
        "", "ours ms", "spread", "theirs", "ms", "spread", "ratio"
    );
    for item in items::all().into_iter().filter(|item| wanted(item.name())) {
        measure(&item, &mut peers, options, &mut record)?;
        record.save()?;
    }
    process::measure(&wanted, &mut peers, &models, options, &mut record)?;
    record.finish()
}

/// All items, in the order of the table.
fn names() -> Vec<String> {
    let of_processes = process::NAMES.map(String::from);
    items::all().iter().map(|item| item.name().into()).chain(of_processes).collect()
}

/// The folders in which both sides find the same networks.
fn models() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    items::write_models(&folder)?;
    Ok(folder)
}

/// Times an item on every side in turn.
fn measure(item: &Item, peers: &mut [Peer], options: &Options, record: &mut Record) -> Result<()> {
    let mut work = item.prepare()?;
    let mut ours = vec![work()?.as_secs_f64() * 1e3, work()?.as_secs_f64() * 1e3];
    let (theirs, only) = item.theirs();
    let mut sides = Vec::new();
    for (index, peer) in peers.iter_mut().enumerate() {
        let wanted = |v: &String| only.is_none_or(|only| only == v) && options.wants(item.name(), Some(v));
        for variant in peer.variants(theirs).into_iter().filter(wanted) {
            match peer.run(theirs, &variant, 1, 1) {
                Ok(first) => sides.push(Side { peer: index, variant, rounds: first }),
                Err(error) => println!("{:28} {variant}: left out: {error}", item.name()),
            }
        }
    }
    if sides.is_empty() {
        let offered: Vec<String> = peers.iter().flat_map(|peer| peer.variants(theirs)).collect();
        if !offered.is_empty() {
            println!(
                "{:28} ours alone: of the others' variants ({}) none was asked for",
                item.name(),
                offered.join(", ")
            );
        }
    }
    if options.prepare {
        println!("{:28} ready", item.name());
        return Ok(());
    }
    let (mut free, our_count) = (true, count(&mut ours));
    ours.clear();
    let counts: Vec<usize> = sides.iter_mut().map(|side| count(&mut std::mem::take(&mut side.rounds))).collect();
    for _ in 0..options.rounds {
        free &= cores::wait_until_free();
        let watch = cores::Watch::start();
        settle();
        for _ in 0..warm_ups(our_count) {
            work()?;
        }
        let mut times = Vec::with_capacity(our_count);
        for _ in 0..our_count {
            times.push(work()?.as_secs_f64() * 1e3);
        }
        ours.push(median(&mut times));
        free &= watch.was_quiet();
        for (side, &count) in sides.iter_mut().zip(&counts) {
            let watch = cores::Watch::start();
            settle();
            let peer = &mut peers[side.peer];
            side.rounds.push(median(&mut peer.run(theirs, &side.variant, count, warm_ups(count))?));
            // candle and burn start more threads than there are cores, which wait for each other.
            free &= watch.was_quiet() || !peer.is_python();
        }
    }
    free &= cores::are_free();
    if sides.is_empty() {
        record.push(Row::of(item.name(), "ms", &ours, None), free);
    }
    for side in &sides {
        let theirs = (peers[side.peer].title(), side.variant.as_str(), side.rounds.as_slice());
        record.push(Row::of(item.name(), "ms", &ours, Some(theirs)), free);
    }
    Ok(())
}

/// Runs of a round, so that it lasts about a sixth of a second: given the first times in milliseconds.
fn count(first: &mut [f64]) -> usize {
    ((160.0 / median(first)).ceil() as usize).clamp(1, 100)
}

/// Uncounted runs before a round; none of work that is long beside what the other side left in the caches.
fn warm_ups(count: usize) -> usize {
    usize::from(count > 1)
}

/// Lets the threads of whoever worked last fall asleep: they spin for some milliseconds in the hope of more work.
fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}
