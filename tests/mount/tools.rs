//! What people read images with: each has to give the bytes that were backed up, and copies have to stay sparse.

use crate::common::images::{KIB, allocated};
use crate::common::{Sandbox, has_program, skipped, tool};
use crate::world::run_tool;
use std::fs;

/// A hole that begins inside a chunk is found at the chunk's end.
const CHUNK: u64 = 128 * KIB;

/// Reads a mounted image with every tool, and holds it against the original. `few_blocks` leaves out what takes long.
pub(crate) fn every_tool_agrees(sand: &Sandbox, original: &str, shown: &str, few_blocks: bool) {
    let out = sand.at("out");
    let same = |what: &str| {
        assert_eq!(run_tool("cmp", &[original, &out]).code(), Some(0), "{what}");
        fs::remove_file(&out).expect("drop the copy");
    };
    let _ = tool("cmp", &[original, shown]);
    let tiny: &[&[&str]] = if few_blocks { &[] } else { &[&["bs=4k"], &["bs=1000"]] };
    for flags in tiny.iter().chain(&[&["bs=1M"][..], &["bs=64k", "iflag=direct"]]) {
        let (from, to) = (format!("if={shown}"), format!("of={out}"));
        let _ = tool("dd", &[&[from.as_str(), &to, "status=none"], *flags].concat());
        same(&format!("dd {flags:?}"));
    }
    for flag in ["--sparse=always", "--sparse=auto"] {
        let _ = tool("cp", &[flag, shown, &out]);
        let (of_copy, of_source) = (allocated(&out), allocated(original));
        assert!(of_copy <= of_source + CHUNK, "{flag}: {of_copy} bytes on disk, {of_source} of the source");
        same(flag);
    }
    if has_program("rsync") {
        let _ = tool("rsync", &["--sparse", "-L", shown, &out]);
        same("rsync");
    }
    if has_program("qemu-img") {
        let _ = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", original, shown]);
        let _ = tool("qemu-img", &["convert", "-f", "raw", "-O", "raw", shown, &out]);
        let _ = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", original, &out]);
        fs::remove_file(&out).expect("drop the copy");
    } else {
        skipped("no qemu-img to read the mounted image with");
    }
}
