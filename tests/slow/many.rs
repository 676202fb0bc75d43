//! Long histories and large numbers: cost and memory stay what they were.

use crate::common::images::{MIB, file, mixed, overwrite, sparse};
use crate::common::{Sandbox, run};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The peak of anonymous memory that a verb is allowed: the budget of 256 MiB and 64 MiB more.
const MEMORY_MAX_KIB: u64 = (256 + 64) * 1024;

/// Runs a verb under a sampler of its anonymous memory; gives the peak in KiB.
fn peak_of(sand: &Sandbox, args: &[&str]) -> u64 {
    let inner = sand.command(args);
    let mut measure = Command::new("python3");
    let _ = measure.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/peak-memory"));
    let _ = measure.arg(inner.get_program()).args(inner.get_args()).env_clear().current_dir(sand.root());
    for (key, value) in inner.get_envs() {
        let _ = measure.env(key, value.unwrap_or_default());
    }
    let _ = measure.stdin(Stdio::null());
    let output = run(measure, Duration::from_secs(300)).expect_code(0);
    let line = output.stderr.lines().rev().find_map(|line| line.strip_prefix("peak anonymous KiB: "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no measure: {output}"))
}

#[test]
fn p7_with_2000_backups_each_verb_keeps_its_time_and_memory() {
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let image = file(&sand, "disk.img", &mixed(1, 4 * MIB));
    for number in 0..2000u64 {
        overwrite(&image, (number * 8191) % (4 * MIB - 8), &number.to_le_bytes());
        let _ = sand.done(&["backup", &image, "--name", &format!("disk{}", number % 10)]);
    }
    assert_eq!(sand.list().len(), 2000);
    let fresh = sand.other_host();
    let began = Instant::now();
    assert_eq!(fresh.list().len(), 2000);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "a fresh machine lists 2000 backups in {:?}",
        began.elapsed()
    );
    for call in [
        &["list"][..],
        &["show", "disk3"],
        &["cat", "disk9@latest~100"],
        &["check"],
        &["backup", &image, "--name", "disk0"],
    ] {
        let peak = peak_of(&sand, call);
        assert!(peak <= MEMORY_MAX_KIB, "{call:?} took {peak} KiB");
    }
    sand.assert_sound();
}

#[test]
fn p7_with_64_tib_each_verb_keeps_its_memory() {
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let (image, out) = (sand.at("huge.img"), sand.at("out.img"));
    let noise = mixed(2, 64 * MIB);
    let pieces = [(0, noise.as_slice()), (1 << 45, &noise[..1 << 20])];
    if sparse(&image, 64 << 40, &pieces).is_err() {
        return crate::common::skipped("no file system here that keeps a file of 64 TiB");
    }
    for call in [
        &["backup", &image, "--name", "huge"][..],
        &["show", "huge"],
        &["cat", "huge", "--length", "1G"],
        &["check", "--read-data"],
        &["restore", "huge", &out],
        &["backup", &image, "--name", "huge"],
    ] {
        let peak = peak_of(&sand, call);
        println!("{call:?}: {peak} KiB");
        assert!(peak <= MEMORY_MAX_KIB, "{call:?} took {peak} KiB");
    }
}
