//! Compiles the kernels to images that the library embeds. Each image lies in the build's folder beside the key that it was made from, the
//! compiler's version, its options and the whole source, so that only what changed is compiled again.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use super::nvrtc::{Compiler, PTX_TARGET};

/// The processors that get their own code, as major·10 + minor of their compute capability. Others take the PTX.
pub(crate) const PROCESSORS: [u32; 4] = [80, 86, 89, 90];

/// What a kernel file is compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Ptx,
    Cubin(u32),
}

impl Target {
    fn all() -> impl Iterator<Item = Target> {
        // The PTX compiler alone does not look into inline PTX; the cubins' assembler does.
        std::iter::once(Target::Ptx).chain(PROCESSORS.map(Target::Cubin))
    }

    pub(crate) fn architecture(self) -> String {
        match self {
            Target::Ptx => PTX_TARGET.into(),
            Target::Cubin(processor) => format!("sm_{processor}"),
        }
    }

    /// The name of an image's file.
    pub(crate) fn file(self, stem: &str) -> String {
        format!("{stem}.{}", self.architecture())
    }
}

/// An image on disk.
pub(crate) struct Image {
    /// The file's name without `.cu`.
    #[allow(dead_code)] // read by tests/kernel_resources.rs
    pub(crate) stem: String,
    #[allow(dead_code)] // read by tests/kernel_resources.rs
    pub(crate) target: Target,
    /// What the compiler had to say.
    pub(crate) log: String,
}

/// Compiles `files`, stems and expanded sources, into `out`.
///
/// # Errors
/// A line for each mistake in a kernel.
pub(crate) fn compile(compiler: &Compiler, files: &[(String, String)], out: &Path) -> Result<Vec<Image>, Vec<String>> {
    let jobs: Vec<_> = Target::all().flat_map(|target| files.iter().map(move |file| (target, file))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((target, (stem, source))) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let image = up_to_date(compiler, *target, stem, source, out);
            if let Ok(mut done) = done.lock() {
                done.push(image);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (mut images, mut mistakes) = (Vec::new(), BTreeSet::new());
    for result in done.into_inner().unwrap_or_default() {
        match result {
            Ok(image) => images.push(image),
            Err(lines) => mistakes.extend(lines), // the same ones for every target, as a rule
        }
    }
    if mistakes.is_empty() { Ok(images) } else { Err(mistakes.into_iter().collect()) }
}

/// The image of a file for a target, compiled unless the one on disk was made from the same key.
fn up_to_date(compiler: &Compiler, target: Target, stem: &str, source: &str, out: &Path) -> Result<Image, Vec<String>> {
    let path = out.join(target.file(stem));
    let [key_path, log_path] = ["key", "log"].map(|kind| PathBuf::from(format!("{}.{kind}", path.display())));
    let key = compiler.key(&target.architecture(), source);
    let is_current = path.is_file() && fs::read_to_string(&key_path).is_ok_and(|known| known == key);
    if let (true, Ok(log)) = (is_current, fs::read_to_string(&log_path)) {
        return Ok(Image { stem: stem.into(), target, log });
    }
    let compiled = compiler
        .compile(stem, source, &target.architecture())
        .map_err(|log| mistakes(&log, stem, || refused_ptx(compiler, target, stem, source)))?;
    // Without a key while the image is replaced: a build that is cut off here compiles again.
    let _ = fs::remove_file(&key_path);
    for (path, bytes) in
        [(&path, &compiled.image[..]), (&log_path, compiled.log.as_bytes()), (&key_path, key.as_bytes())]
    {
        fs::write(path, bytes).map_err(|reason| vec![format!("cannot write {}: {reason}", path.display())])?;
    }
    Ok(Image { stem: stem.into(), target, log: compiled.log })
}

/// The PTX that the assembler refused.
fn refused_ptx(compiler: &Compiler, target: Target, stem: &str, source: &str) -> String {
    let virtual_target = target.architecture().replace("sm_", "compute_");
    let ptx = compiler.compile(stem, source, &virtual_target).map(|compiled| compiled.image);
    String::from_utf8(ptx.unwrap_or_default()).unwrap_or_default()
}

/// The lines of a log that name a mistake, as `kernels/x.cu(line): message`. The assembler counts lines of the PTX, which know theirs.
pub(crate) fn mistakes(log: &str, stem: &str, ptx: impl FnOnce() -> String) -> Vec<String> {
    let ptx = LazyCell::new(ptx);
    let mut found = Vec::new();
    for line in log.lines().filter(|line| !line.starts_with("ptxas fatal")) {
        if line.contains("): error") || line.contains("): catastrophic error") {
            found.push(line.trim().to_string());
        } else if let Some((place, message)) = line.strip_prefix("ptxas ").and_then(|rest| rest.split_once("error")) {
            let number = place.rsplit_once("line ").and_then(|(_, n)| n.trim_end_matches([';', ' ']).parse().ok());
            let message = message.trim_start_matches([':', ' ']);
            let source = number.and_then(|number| source_line(&ptx, number));
            found.push(match source {
                Some(source) => format!("{source}: error: {message}"),
                None => format!("kernels/{stem}.cu: error: {message}"),
            });
        }
    }
    if found.is_empty() {
        found = log
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| format!("kernels/{stem}.cu: {line}"))
            .collect();
    }
    found
}

/// `kernels/x.cu(line)` of a line of PTX: its last `.loc`.
fn source_line(ptx: &str, number: usize) -> Option<String> {
    let before: Vec<&str> = ptx.lines().take(number).collect();
    let mut words = before.iter().rev().find_map(|line| line.trim().strip_prefix(".loc"))?.split_whitespace();
    let (file, line) = (words.next()?, words.next()?);
    let names = ptx.lines().filter_map(|line| line.trim().strip_prefix(".file"));
    let name = names.map(|rest| rest.split_whitespace()).find_map(|mut words| {
        (words.next() == Some(file)).then(|| words.next().unwrap_or_default().trim_matches('"').to_string())
    })?;
    Some(format!("{}({line})", name.trim_start_matches(super::nvrtc::ROOT)))
}

/// What the compiler warned of, each once.
pub(crate) fn warnings(images: &[Image]) -> BTreeSet<String> {
    let lines = images.iter().flat_map(|image| image.log.lines());
    lines.filter(|line| line.contains("): warning")).map(|line| line.trim().to_string()).collect()
}
