//! The door for fuzzers: a segment of any bytes, and the same with every check as its writer would have made it.

use super::layout::{self, BLOCK, Head, KEY, PACK, ROW};
use super::segment::Segment;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// No file of a fuzzer is longer.
const FILE_LEN_MAX: u64 = 1 << 20;
/// So many of its rows are looked up.
const LOOKUPS: usize = 16;

/// Any bytes, no panic; answers are about what was asked for.
pub fn segment(bytes: &[u8]) {
    for bytes in [Some(bytes.to_vec()), proven(bytes)].into_iter().flatten() {
        let file = rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
        let file = file.expect("a file in memory");
        file.write_all_at(&bytes, 0).expect("room in memory");
        if let Ok(segment) = Segment::open(file, Path::new("segment")) {
            ask(&segment);
        }
    }
}

fn ask(segment: &Segment) {
    let (mut scan, mut ids) = (segment.scan_rows(), Vec::new());
    while let Ok(Some(row)) = scan.next() {
        let mut id = [0; 32];
        id[..KEY].copy_from_slice(&row[..KEY]);
        ids.push(id);
    }
    assert!(ids.len() as u64 <= segment.rows());
    for id in ids.into_iter().take(LOOKUPS).chain([[0; 32], [0xff; 32]]) {
        let mut found = Vec::new();
        let _damaged = segment.lookup(&id, &mut found).is_err();
        assert!(found.iter().all(|row| row.id == id));
    }
    let mut packs = Vec::new();
    segment.live_packs(&mut packs);
    assert!(packs.len() as u64 <= segment.packs());
    let names = segment.groups().iter().flat_map(|group| &group.names);
    assert!(names.into_iter().all(|name| segment.covers(name)));
}

fn proven(bytes: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let bits = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?);
    let (salt, rows, packs, groups_len) = (number(16)?, number(24)?, number(32)?, number(40)?);
    let head = Head { bits, salt, rows, packs, groups_len, sum: 0 };
    let len = head.file_len().filter(|len| *len <= FILE_LEN_MAX)?;
    let mut all = bytes.to_vec();
    all.resize(usize::try_from(len).ok()?, 0);
    let part = |from: u64, len: u64| {
        let from = usize::try_from(from).ok()?;
        Some(from..from.checked_add(usize::try_from(len).ok()?)?)
    };
    let mut sum = Xxh3::new();
    sum.update(all.get(part(BLOCK as u64, groups_len)?)?);
    sum.update(all.get(part(head.fan_out_block()?.checked_mul(BLOCK as u64)?, head.fan_out_len()?)?)?);
    let head = Head { sum: sum.digest(), ..head };
    for (first, count, width) in [(head.packs_block()?, packs, PACK), (head.rows_block()?, rows, ROW)] {
        for block in first..first + count.div_ceil(layout::per_block(width) as u64) {
            let place = all.get_mut(part(block * BLOCK as u64, BLOCK as u64)?)?;
            let checked = layout::checked_block(salt, block, place);
            place.copy_from_slice(&checked);
        }
    }
    all.get_mut(..BLOCK)?.copy_from_slice(&head.to_block());
    Some(all)
}
