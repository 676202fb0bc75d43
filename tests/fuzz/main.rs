//! Fuzzing on a stable toolchain: every parser that meets bytes from outside, fed with its corpus and with mutations of it.
//!
//! Without arguments (in the gate) each target replays its corpus and gets a second of mutations. `TARGET SECONDS` fuzzes one
//! target, `all SECONDS` each in turn; what broke it is written to `target/fuzz/<target>-<digest>`, and `TARGET FILE` replays it.
//! Seeds are made by the writers (`seeds`); what once broke a target lies in `tests/fuzz/corpus/<target>/` and is replayed. A target fails by a panic, by taking over ten seconds for one input, or by
//! allocating without bound (`scripts/fuzz` sets the limit).
//!
//! No coverage guides it: seeds are short and valid, so that most mutations get past the first check.

mod mutate;
mod seeds;
mod targets;
#[path = "../common/tree_nodes.rs"]
mod tree_nodes;

use mutate::Mutator;
use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use targets::Target;

/// How long one input may keep a target busy.
const INPUT_SECS_MAX: u64 = 10;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let targets = targets::all();
    let seed = seed();
    let broken = match words.as_slice() {
        [] => targets.iter().filter(|target| !fuzz(target, Duration::from_secs(1), seed)).count(),
        [all, seconds] if all == "all" => {
            let each = Duration::from_secs(seconds.parse().unwrap_or(60));
            targets.iter().filter(|target| !fuzz(target, each, seed)).count()
        }
        [name, what] => match targets.iter().find(|target| target.name == *name) {
            Some(target) => usize::from(!fuzz_or_replay(target, what, seed)),
            None => return usage(&targets),
        },
        // A filter that was meant for tests: this program has none of them.
        [_filter] if !targets.iter().any(|target| target.name == words[0]) => 0,
        [name] => targets
            .iter()
            .filter(|target| target.name == *name && !fuzz(target, Duration::from_secs(60), seed))
            .count(),
        _ => return usage(&targets),
    };
    let passed = targets.len() - broken;
    let result = if broken == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {broken} failed; fuzz targets, seed {seed}");
    ExitCode::from(u8::from(broken > 0))
}

fn usage(targets: &[Target]) -> ExitCode {
    let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
    eprintln!("usage: [TARGET|all] [SECONDS|FILE]\ntargets: {}", names.join(" "));
    ExitCode::from(2)
}

fn seed() -> u64 {
    let clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    std::env::var("AFTERIMAGE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock)
}

fn fuzz_or_replay(target: &Target, what: &str, seed: u64) -> bool {
    match what.parse() {
        Ok(seconds) => fuzz(target, Duration::from_secs(seconds), seed),
        Err(_) => {
            let bytes = std::fs::read(what).expect("read the input to replay");
            (target.run)(&bytes);
            println!("{} takes {what} without harm", target.name);
            true
        }
    }
}

/// Whether the target stood all of it.
fn fuzz(target: &Target, time: Duration, seed: u64) -> bool {
    let corpus = corpus(target);
    let watch = Watch::over(target.name.clone());
    let mut tried = 0u64;
    let began = Instant::now();
    let mut mutator = Mutator::new(seed, corpus.clone());
    let mut inputs = corpus.into_iter();
    while tried == 0 || inputs.len() > 0 || began.elapsed() < time {
        let input = inputs.next().unwrap_or_else(|| mutator.next());
        watch.begins(&input);
        let stood = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_ok();
        watch.ends();
        tried += 1;
        if !stood {
            let path = keep(&target.name, &input);
            eprintln!(
                "{} broke after {tried} inputs, replay: scripts/fuzz {} {}",
                target.name,
                target.name,
                path.display()
            );
            return false;
        }
    }
    println!("fuzz {}: {tried} inputs in {:.1} s", target.name, began.elapsed().as_secs_f64());
    true
}

/// The seeds of a target, then what is kept in its corpus in the order of names, then nothing at all.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(&target.name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let kept = paths.iter().filter_map(|path| std::fs::read(path).ok());
    target.seeds.iter().cloned().chain(kept).chain([Vec::new()]).collect()
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").join("fuzz");
    let digest: String = Sha256::digest(input).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let path = dir.join(format!("{name}-{digest}"));
    std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, input)).expect("keep the input");
    path
}

/// A thread that ends the process when one input takes too long: a hang is a finding too.
struct Watch {
    began: Instant,
    since: Arc<AtomicU64>,
    latest: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Watch {
    fn over(name: String) -> Watch {
        let (began, since) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let latest = Arc::new(std::sync::Mutex::new(Vec::new()));
        let watch = Watch { began, since: since.clone(), latest: latest.clone() };
        let _ = std::thread::spawn(move || {
            // Ends with the watch: then this is the only one left who holds it.
            while Arc::strong_count(&since) > 1 {
                std::thread::sleep(Duration::from_millis(200));
                let started = since.load(Ordering::Relaxed);
                if started != u64::MAX && began.elapsed().as_secs() > started.saturating_add(INPUT_SECS_MAX) {
                    let path = keep(&name, &latest.lock().expect("no panic holds it"));
                    eprintln!("{name} hangs, replay: scripts/fuzz {name} {}", path.display());
                    std::process::exit(1);
                }
            }
        });
        watch
    }

    fn begins(&self, input: &[u8]) {
        let mut latest = self.latest.lock().expect("no panic holds it");
        latest.clear();
        latest.extend_from_slice(input);
        self.since.store(self.began.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn ends(&self) {
        self.since.store(u64::MAX, Ordering::Relaxed);
    }
}
