//! Images to back up: mixed content, holes, and real file systems with partitions around them.

use super::random::Random;
use super::{Sandbox, has_program, skipped, tool};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// 1024 bytes.
pub(crate) const KIB: u64 = 1024;
/// 1024 KiB.
pub(crate) const MIB: u64 = 1024 * KIB;
/// 1024 MiB.
pub(crate) const GIB: u64 = 1024 * MIB;
/// 1024 GiB.
pub(crate) const TIB: u64 = 1024 * GIB;

/// Bytes like those of a disk: in each run of blocks either noise, text that shrinks, or zeroes.
pub(crate) fn mixed(seed: u64, len: u64) -> Vec<u8> {
    let mut random = Random::seeded(seed);
    let mut bytes = vec![0; usize::try_from(len).expect("an image that fits in memory")];
    for run in bytes.chunks_mut(32 * 1024) {
        match random.below(10) {
            0..=3 => random.fill(run),
            4..=6 => fill_with_text(&mut random, run),
            _ => {}
        }
    }
    bytes
}

fn fill_with_text(random: &mut Random, run: &mut [u8]) {
    let words = ["status=ok ", "disk ", "nov 20 ", "\n", "restore ", "10.0.0.7 ", "GET /index ", "0000"];
    let mut at = 0;
    while at < run.len() {
        let word = words[random.below(words.len() as u64) as usize].as_bytes();
        let len = word.len().min(run.len() - at);
        run[at..at + len].copy_from_slice(&word[..len]);
        at += len;
    }
}

/// Writes a file with those bytes and gives back its path.
pub(crate) fn file(sand: &Sandbox, name: &str, bytes: &[u8]) -> String {
    let path = sand.at(name);
    std::fs::write(&path, bytes).expect("write an image");
    path
}

/// A file that is a hole but for some pieces.
pub(crate) fn sparse(path: &str, len: u64, pieces: &[(u64, &[u8])]) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.set_len(len)?;
    pieces.iter().try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
}

/// Writes over a part of a file.
pub(crate) fn overwrite(path: &str, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("open an image");
    file.write_all_at(bytes, offset).expect("change an image");
}

/// Flips a bit where data lies.
pub(crate) fn flip_in_the_middle(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// SHA-256 of a file, in hex.
pub(crate) fn digest(path: &str) -> String {
    let mut file = File::open(path).expect("open a file");
    let mut state = Sha256::new();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let len = file.read(&mut buffer).expect("read a file");
        if len == 0 {
            return hex(&state.finalize());
        }
        state.update(&buffer[..len]);
    }
}

/// SHA-256 of bytes, in hex.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many bytes a file takes on its disk.
pub(crate) fn allocated(path: &str) -> u64 {
    std::fs::metadata(path).expect("look at a file").blocks() * 512
}

/// Fails, showing where, unless both are the same bytes.
pub(crate) fn assert_same_bytes(got: &[u8], want: &[u8], what: &str) {
    if got == want {
        return;
    }
    let first = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    panic!("{what}: {} bytes instead of {}, first difference at {first}", got.len(), want.len());
}

/// A disk of 64 MiB with a partition table and an ext4 file system with files in it, made without root; `None` (said) where
/// the tools for that are missing.
pub(crate) fn partitioned_disk(sand: &Sandbox, name: &str, seed: u64) -> Option<String> {
    for program in ["mkfs.ext4", "sfdisk"] {
        if !has_program(program) {
            skipped(&format!("no {program} to make a partitioned disk with"));
            return None;
        }
    }
    let (path, tree, part) = (sand.at(name), sand.at("tree"), sand.at("partition"));
    std::fs::create_dir_all(format!("{tree}/etc")).expect("make a tree");
    for number in 0..40 {
        let bytes = mixed(seed + number, 10_000 + 7_001 * number);
        std::fs::write(format!("{tree}/etc/file{number}"), bytes).expect("write a file");
    }
    sparse(&part, 62 * MIB, &[]).expect("make a partition");
    let _ = tool("mkfs.ext4", &["-q", "-d", &tree, &part]);
    sparse(&path, 64 * MIB, &[]).expect("make a disk");
    partition(&path);
    let _ = tool(
        "dd",
        &[
            &format!("if={part}"),
            &format!("of={path}"),
            "bs=1M",
            "seek=1",
            "conv=notrunc,sparse",
            "status=none",
        ],
    );
    std::fs::remove_dir_all(&tree).expect("drop the tree");
    std::fs::remove_file(&part).expect("drop the partition");
    Some(path)
}

fn partition(path: &str) {
    let script = format!("echo 'start=1MiB, size=62MiB, type=83' | sfdisk -q {path}");
    let _ = tool("sh", &["-c", &script]);
}

/// Whether a path's file system keeps files of that length.
pub(crate) fn can_hold(dir: &Path, len: u64) -> bool {
    tempfile::tempfile_in(dir).and_then(|file| file.set_len(len)).is_ok()
}
