//! Streams of every kind, from their start, from every place that was saved, and broken ones.

use super::bunzip::Bunzip;
use super::feed::{Feed, Source};
use super::inflate::Inflater;
use super::points::{Folder, Point};
use super::{Object, SPAN, Yard};
use crate::error::{Kind, Result};
use crate::foreign::cinder::document::metadata::Compression;
use crate::store::{AnyStore, MemStore, Name};
use std::sync::Arc;
use tokio::runtime::Runtime;
use zlib_rs::{Deflate, DeflateFlush, Status};

struct Bench {
    runtime: Runtime,
    store: AnyStore,
}

impl Bench {
    fn new() -> Bench {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Bench { runtime, store: Arc::new(MemStore::new()) }
    }

    fn source(&self, name: &str, bytes: &[u8]) -> Source {
        let name = Name::parse(name).unwrap();
        self.runtime.block_on(self.store.put(&name, bytes.to_vec().into())).unwrap();
        let (store, runtime) = (Arc::clone(&self.store), self.runtime.handle().clone());
        Source { store, runtime, name, len: bytes.len() as u64 }
    }

    fn object(
        &self,
        name: &str,
        bytes: &[u8],
        compression: Compression,
        len: u64,
        folder: &Folder,
    ) -> Object {
        let source = self.source(name, bytes);
        let stat = self.runtime.block_on(self.store.stat(&source.name)).unwrap();
        Object::new((source.store, source.runtime), (source.name, &stat), compression, len, folder)
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// Bytes like those of a disk: text that shrinks, runs of one byte, noise, one after the other.
fn mixed(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 100_000);
    let mut number = 0u64;
    while bytes.len() < len {
        match number % 7 {
            0..=3 => {
                (0..2000).for_each(|line| bytes.extend(format!("{line} of {number}: all is well\n").bytes()))
            }
            4 => bytes.resize(bytes.len() + 70_000, (number % 3) as u8),
            _ => bytes.extend(noise(number, 50_000)),
        }
        number += 1;
    }
    bytes.truncate(len);
    bytes
}

pub(super) fn deflated(plain: &[u8], level: i32) -> Vec<u8> {
    let mut deflate = Deflate::new(level, true, 15);
    let mut out = vec![0; plain.len() + plain.len() / 100 + 1000];
    let status = deflate.compress(plain, &mut out, DeflateFlush::Finish);
    assert_eq!(status, Ok(Status::StreamEnd));
    out.truncate(deflate.total_out() as usize);
    out
}

/// Reads a stream in steps of odd sizes; all of it, and the places on the way.
fn inflate_all(source: &Source, mut inflater: Inflater, steps: &[usize]) -> Result<(Vec<u8>, Vec<Point>)> {
    let (mut all, mut points) = (Vec::new(), Vec::new());
    let mut feed = Feed::new(source.clone(), 0);
    for step in steps.iter().cycle() {
        let mut some = vec![0; *step];
        let len = inflater.read(&mut feed, &mut some, &mut |point| points.push(point))?;
        all.extend(&some[..len]);
        if len < *step {
            return Ok((all, points));
        }
    }
    Ok((all, points))
}

#[test]
fn a_zlib_stream_is_gone_on_with_from_every_place_that_was_saved() {
    let bench = Bench::new();
    for (number, (plain, level)) in [
        (mixed(3 << 20), 6),
        (mixed(2 << 20), 3),
        (noise(9, 1 << 20), 6),
        (vec![0; 3 << 20], 6),
        (mixed(1 << 20), 9),
    ]
    .into_iter()
    .enumerate()
    {
        let stored = deflated(&plain, level);
        let source = bench.source(&format!("s{number}"), &stored);
        let inflater = Inflater::new().with_span(128 << 10);
        let (all, points) = inflate_all(&source, inflater, &[100_000, 7, 300_001]).unwrap();
        assert!(all == plain, "{number}");
        let least = if number == 3 { 0 } else { plain.len() / (400 << 10) };
        assert!(points.len() >= least, "{number}: only {} places in {} bytes", points.len(), plain.len());
        for point in points {
            let mut feed = Feed::new(source.clone(), point.at);
            let mut inflater = Inflater::resume(&point).unwrap();
            let mut rest = vec![0; plain.len() - point.out as usize];
            assert_eq!(inflater.read(&mut feed, &mut rest, &mut |_| {}).unwrap(), rest.len());
            assert!(rest == plain[point.out as usize..], "{number}: from {}", point.out);
            assert!(inflater.is_at_end(&mut feed).unwrap());
        }
    }
}

#[test]
fn a_torn_or_wrong_zlib_stream_is_damage_and_ends() {
    let bench = Bench::new();
    let plain = mixed(300_000);
    let stored = deflated(&plain, 6);
    for (number, at) in (0..stored.len()).step_by(stored.len() / 40).enumerate() {
        let torn = bench.source(&format!("torn{number}"), &stored[..at]);
        let error = inflate_all(&torn, Inflater::new(), &[65_536]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{at}");
        let mut flipped = stored.clone();
        flipped[at] ^= 0x20;
        let flipped = bench.source(&format!("flipped{number}"), &flipped);
        if let Ok((all, _)) = inflate_all(&flipped, Inflater::new(), &[65_536]) {
            assert!(all.len() < plain.len() * 2000, "it ends somewhere");
        }
    }
}

/// What Python's bz2 made of the lines of `lines`, at its first level: several blocks of 100 kB.
const BZ2: &[u8] = include_bytes!("../../../../tests/golden/cinder/lines.bz2");

fn lines() -> Vec<u8> {
    (0..40_000u32)
        .flat_map(|line| format!("{line} {}\n", "ab".repeat((line % 50) as usize)).into_bytes())
        .collect()
}

#[test]
fn a_bzip2_stream_is_entered_at_each_of_its_blocks() {
    let bench = Bench::new();
    let (plain, source) = (lines(), bench.source("bz2", &[BZ2, BZ2].concat()));
    let twice = [plain.clone(), plain].concat();
    let mut bunzip = Bunzip::new().with_span(1);
    let (mut feed, mut all, mut points) = (Feed::new(source.clone(), 0), vec![0; twice.len()], Vec::new());
    for some in all.chunks_mut(77_777) {
        assert_eq!(bunzip.read(&mut feed, some, &mut |point| points.push(point)).unwrap(), some.len());
    }
    assert!(all == twice && bunzip.is_at_end(&mut feed).unwrap());
    assert!(points.len() > 10, "{}", points.len());
    for point in points {
        let mut feed = Feed::new(source.clone(), point.at);
        let mut rest = vec![0; twice.len() - point.out as usize];
        assert_eq!(Bunzip::resume(&point).read(&mut feed, &mut rest, &mut |_| {}).unwrap(), rest.len());
        assert!(rest == twice[point.out as usize..], "from {}", point.out);
    }
}

#[test]
fn a_torn_or_wrong_bzip2_stream_is_damage_and_ends() {
    let bench = Bench::new();
    for (number, at) in (0..BZ2.len()).step_by(BZ2.len() / 40).enumerate() {
        let read = |name: String, bytes: &[u8]| {
            let mut feed = Feed::new(bench.source(&name, bytes), 0);
            let mut all = vec![0; 8 << 20];
            Bunzip::new().read(&mut feed, &mut all, &mut |_| {})
        };
        let torn = read(format!("torn{number}"), &BZ2[..at]);
        assert_eq!(torn.unwrap_err().kind(), Kind::Corrupt, "{at}");
        let mut flipped = BZ2.to_vec();
        flipped[at] ^= 0x20;
        let _whatever = read(format!("flipped{number}"), &flipped);
    }
}

#[test]
fn any_range_of_any_object_is_what_it_was_and_one_pass_is_enough() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path());
    let plain = mixed(3 * SPAN as usize + 12_345);
    let zstd = zstd::bulk::compress(&plain, 3).unwrap();
    for (name, stored, compression) in [
        ("zlib", deflated(&plain, 6), Compression::Gzip),
        ("zstd", zstd, Compression::Zstd),
        ("none", plain.clone(), Compression::None),
    ] {
        let object = bench.object(name, &stored, compression, plain.len() as u64, &folder);
        let yard = Yard::new();
        for (offset, len) in
            [(2 * SPAN + 99, 5000), (0, 10), (SPAN - 5, 100_000), (plain.len() as u64 - 1, 1)]
        {
            let mut into = vec![0; len];
            object.read(&yard, offset, &mut into, false).unwrap();
            assert!(into == plain[offset as usize..offset as usize + len], "{name} at {offset}");
        }
        object.ends_as_it_should(&yard).unwrap();
        assert!(object.is_near(2 * SPAN) || name == "zstd");
        // Read by several at once, in any order.
        std::thread::scope(|scope| {
            for reader in 0..4u64 {
                let (object, yard, plain) = (&object, &yard, &plain);
                let _thread = scope.spawn(move || {
                    for step in 0..6 {
                        let offset = (reader * 7 + step * 5) % 12 * (1 << 20);
                        let mut into = vec![0; 1 << 18];
                        object.read(yard, offset, &mut into, false).unwrap();
                        assert!(into == plain[offset as usize..][..1 << 18], "{offset}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_object_that_is_too_short_or_too_long_is_named() {
    let bench = Bench::new();
    let (plain, folder) = (mixed(100_000), Folder::open(std::path::Path::new("/dev/null")));
    for compression in [Compression::Zlib, Compression::None, Compression::Zstd] {
        let stored = match compression {
            Compression::Zlib => deflated(&plain, 6),
            Compression::Zstd => zstd::bulk::compress(&plain, 3).unwrap(),
            _ => plain.clone(),
        };
        let word = compression.word();
        let long = bench.object(&format!("{word}-long"), &stored, compression, 120_000, &folder);
        let error = long.read(&Yard::new(), 90_000, &mut [0; 20_000], false).unwrap_err();
        assert!(
            error.kind() == Kind::Corrupt && error.to_string().contains(&format!("{word}-long")),
            "{error}"
        );
        let short = bench.object(&format!("{word}-short"), &stored, compression, 90_000, &folder);
        let mut into = vec![0; 90_000];
        short.read(&Yard::new(), 0, &mut into, false).unwrap();
        assert!(into == plain[..90_000]);
        let error = short.ends_as_it_should(&Yard::new()).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.to_string().contains("more than"), "{error}");
    }
}

#[test]
fn a_place_that_another_process_got_wrong_is_given_up() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let plain = mixed(2 * SPAN as usize);
    let stored = deflated(&plain, 6);
    let folder = Folder::open(dir.path());
    let object = bench.object("o", &stored, Compression::Zlib, plain.len() as u64, &folder);
    object.read(&Yard::new(), 2 * SPAN - 10, &mut [0; 10], false).unwrap();
    // A window that was never there: whole, and wrong.
    let path = std::fs::read_dir(dir.path().join("points")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(path).unwrap();
    let stat = bench.runtime.block_on(bench.store.stat(&Name::parse("o").unwrap())).unwrap();
    let age = stat.published.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let points = folder.of(&format!("o\0{}\0{age}\0{}", stored.len(), plain.len()));
    points.put(Point { out: SPAN, at: 1000, unused: 3, byte: 7, window: vec![0x55; 32_768] });
    let object = bench.object("o", &stored, Compression::Zlib, plain.len() as u64, &folder);
    let (yard, mut into) = (Yard::new(), vec![0; 1000]);
    let led_astray = object.read(&yard, SPAN + 100, &mut into, false);
    assert!(led_astray.is_err() || into != plain[SPAN as usize + 100..][..1000]);
    assert!(object.distrust() && !object.distrust());
    object.read(&yard, SPAN + 100, &mut into, true).unwrap();
    assert!(into == plain[SPAN as usize + 100..][..1000]);
}
