//! A mount of a repository in a service: what its tier on disk spares, and what becomes of readers when the service does not answer.

use crate::cloud::Harm;
use crate::common::images::{MIB, file, mixed};
use crate::common::random::Random;
use crate::common::skipped;
use crate::world::{Mounted, lacking};
use crate::{BOTH, house};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

fn read(image: &str, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    std::fs::File::open(image)?.read_exact_at(&mut bytes, offset).map(|()| bytes)
}

#[test]
fn what_was_read_once_is_read_from_this_machines_disk_by_the_next_mount_and_by_one_beside() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    for language in BOTH {
        let (cloud, sand) = house(language);
        let bytes = mixed(9, 6 * MIB);
        let _ = sand.backup("web01", &[&file(&sand, "disk", &bytes)]);
        {
            let first = Mounted::new(&sand);
            assert!(std::fs::read(first.image("web01")).expect("read through the mount") == bytes);
            first.until_kept(sand.home());
        }
        let second = Mounted::new(&sand);
        let third = Mounted::with(&sand, "mnt-3", &[]);
        drop(cloud.take_log());
        for mounted in [&second, &third] {
            assert!(std::fs::read(mounted.image("web01")).expect("read through the mount") == bytes);
        }
        let of_packs: Vec<_> = cloud.take_log().into_iter().filter(|line| line.contains("/packs/")).collect();
        assert_eq!(of_packs, Vec::<String>::new(), "{language:?}");
    }
}

#[test]
fn a_reader_in_order_has_neighbours_fetched_by_the_mebibyte() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    for language in BOTH {
        let (cloud, sand) = house(language);
        // Bytes that do not shrink: a chunk is a little longer sealed than plain.
        let mut bytes = vec![0; 32 << 20];
        Random::seeded(12).fill(&mut bytes);
        let _ = sand.backup("web01", &[&file(&sand, "disk", &bytes)]);
        let mounted = Mounted::with(&sand, "mnt", &["--cache-size", "0"]);
        drop(cloud.take_log());
        assert!(std::fs::read(mounted.image("web01")).expect("read through the mount") == bytes);
        let log = cloud.take_log();
        let lens = || log.iter().filter(|line| line.contains("/packs/")).filter_map(|line| asked(line));
        // What the reader itself waits for comes in smaller gets, and how often it has to wait is the machine's affair.
        let long: u64 = lens().filter(|len| *len > 512 << 10).sum();
        assert!(long > lens().sum::<u64>() / 4, "{language:?}: {:?}", lens().collect::<Vec<_>>());
    }
}

/// How many bytes a line of the log asks for.
fn asked(line: &str) -> Option<u64> {
    let (first, last) = line.split_once("bytes=")?.1.split_once('-')?;
    Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
}

#[test]
fn b3_readers_of_a_mount_get_an_error_while_the_service_fails_and_bytes_when_it_is_back() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    for language in BOTH {
        let (cloud, sand) = house(language);
        let bytes = mixed(10, 12 * MIB);
        let _ = sand.backup("web01", &[&file(&sand, "disk", &bytes)]);
        let mounted = Mounted::with(&sand, "mnt", &["--cache-size", "0"]);
        let image = mounted.image("web01");
        let began = read(&image, 0, 4096).expect("read before");
        cloud.plan("GET", "/packs/", 1..u64::MAX, Harm::Status(403, None));
        assert!(read(&image, 9 * MIB, 4096).is_err(), "{language:?}");
        assert_eq!(read(&image, 0, 4096).expect("what is here is read still"), began);
        cloud.behave();
        let until = Instant::now() + Duration::from_secs(60);
        while read(&image, 9 * MIB, 4096).is_err() {
            assert!(Instant::now() < until, "{language:?}: it does not recover");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(read(&image, 9 * MIB, 4096).expect("read again")[..] == bytes[9 << 20..][..4096]);
    }
}
