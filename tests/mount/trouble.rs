//! Damage and loss beneath a mount: an error for exactly what is lost, never other bytes.

use crate::common::files_under;
use crate::common::images::{KIB, MIB, file, flip_in_the_middle, mixed};
use crate::world::{Mounted, errno, within};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const CHUNK: usize = 128 * KIB as usize;
const IO: i32 = 5;

fn noise(len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    crate::common::random::Random::seeded(11).fill(&mut bytes);
    bytes
}

/// Which chunks of the image can't be read; the others have to be right.
fn lost(path: &str, bytes: &[u8]) -> Vec<usize> {
    let file = File::open(path).expect("open");
    let mut lost = Vec::new();
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        let mut buffer = vec![0; chunk.len()];
        match file.read_exact_at(&mut buffer, (number * CHUNK) as u64) {
            Ok(()) => assert!(buffer == chunk, "wrong bytes in chunk {number}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(IO), "chunk {number}: {error}");
                lost.push(number);
            }
        }
    }
    lost
}

#[test]
fn c7_a_damaged_byte_costs_its_chunk_and_nothing_beside_it() {
    within(60, |sand| {
        let bytes = noise(4 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        sand.change(sand.largest_pack(), |pack| flip_in_the_middle(pack));
        let mounted = Mounted::new(sand);
        let lost = lost(&mounted.image("web01"), &bytes);
        assert_eq!(lost.len(), 1, "{lost:?}");
        let file = File::open(mounted.image("web01")).expect("open");
        let at = (lost[0] * CHUNK) as u64;
        let mut buffer = [0; 4096];
        assert_eq!(errno(file.read_exact_at(&mut buffer, at)), IO);
        assert_eq!(errno(file.read_exact_at(&mut buffer, at + CHUNK as u64 - 4096)), IO);
        for beside in [at - 4096, at + CHUNK as u64] {
            file.read_exact_at(&mut buffer, beside).expect("what lies beside it reads");
            assert!(buffer[..] == bytes[beside as usize..beside as usize + 4096]);
        }
        let _ = sand.ends(3, &["check", "--read-data"]);
    });
}

#[test]
fn d7_without_its_packs_an_open_image_gives_errors_and_never_other_bytes() {
    within(60, |sand| {
        let bytes = noise(4 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let record = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let open = File::open(mounted.image("web01")).expect("open");
        sand.lose(format!("backups/{}", record.id()));
        sand.lose_all("packs/");
        let mut failed = 0;
        for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
            let mut buffer = vec![0; CHUNK];
            match open.read_exact_at(&mut buffer, (number * CHUNK) as u64) {
                Ok(()) => assert!(buffer == chunk, "wrong bytes in chunk {number}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(IO));
                    failed += 1;
                }
            }
        }
        assert!(failed > 0);
        assert!(mounted.lives() && mounted.path("volumes").is_dir());
    });
}

#[test]
fn a_record_that_is_damaged_is_passed_over_and_the_others_are_listed() {
    within(60, |sand| {
        let image = file(sand, "disk.img", &mixed(12, 100_000));
        let bad = sand.backup("web01", &[&image]);
        let good = sand.backup("web01", &[&image]);
        sand.change(format!("backups/{}", bad.id()), |record| *record.last_mut().expect("bytes") ^= 1);
        let mounted = Mounted::new(sand);
        let ids: Vec<_> = fs::read_dir(mounted.path("ids"))
            .expect("list")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(ids, [good.id()]);
    });
}

#[test]
fn b3_a_repository_that_goes_away_costs_errors_and_comes_back_by_itself() {
    within(60, |sand| {
        let bytes = mixed(13, 2 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let away = sand.root().join("away");
        assert!(mounted.path("volumes/web01").is_dir());
        fs::rename(sand.repo(), &away).expect("move the repository away");
        let names = fs::read_dir(mounted.path("volumes")).expect("what was known is listed").count();
        assert_eq!(names, 1);
        fs::rename(&away, sand.repo()).expect("move it back");
        crate::world::eventually("it reads again", || {
            fs::read(mounted.image("web01")).is_ok_and(|read| read == bytes)
        });
    });
}

#[test]
fn a11_the_cache_on_disk_spares_the_store_after_a_restart_and_its_damage_harms_nobody() {
    within(120, |sand| {
        let bytes = noise(4 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let flags = ["--cache-dir", "cache", "--cache-size", "64M"];
        let read_all = |mounted: &Mounted<'_>| {
            assert!(fs::read(mounted.image("web01")).expect("read") == bytes);
            let stats = mounted.stats();
            let figure = |name: &str| stats["image"][name].as_u64().expect("a number");
            (figure("gets"), figure("disk_chunks"), figure("disk_damaged"))
        };
        let first = Mounted::with(sand, "mnt", &flags);
        let (gets, from_disk, _) = read_all(&first);
        first.until_kept(&sand.root().join("cache"));
        drop(first);
        assert!(gets > 0 && from_disk == 0, "{gets} gets, {from_disk} chunks from the disk");
        assert_eq!(read_all(&Mounted::with(sand, "mnt", &flags)), (0, 32, 0));
        for segment in files_under(&sand.root().join("cache")) {
            let mut stored = fs::read(&segment).expect("read a segment");
            for at in (0..stored.len()).step_by(400_000) {
                stored[at + 70] ^= 1;
            }
            fs::write(&segment, stored).expect("damage a segment");
        }
        let (gets, from_disk, damaged) = read_all(&Mounted::with(sand, "mnt", &flags));
        // 32 chunks, and the map's only node.
        assert!(
            gets > 0 && from_disk + damaged <= 33,
            "{gets} gets, {from_disk} from the disk, {damaged} damaged"
        );
        fs::remove_dir_all(sand.at("cache")).expect("drop the cache");
        fs::write(sand.at("cache"), "no directory").expect("write");
        assert_eq!(read_all(&Mounted::with(sand, "mnt", &flags)).1, 0);
    });
}

#[test]
fn a11_a_cache_on_a_full_disk_is_done_without() {
    within(120, |sand| {
        let bytes = noise(8 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        fs::create_dir(sand.at("small")).expect("make a folder");
        let small = sand.at("small");
        let made = crate::world::run_tool("mount", &["-t", "tmpfs", "-o", "size=2m", "none", &small]);
        if made.code() != Some(0) {
            return crate::common::skipped("no tmpfs here to fill");
        }
        {
            let mounted = Mounted::with(sand, "mnt", &["--cache-dir", &small, "--cache-size", "64M"]);
            assert!(fs::read(mounted.image("web01")).expect("read") == bytes);
            assert!(mounted.lives());
        }
        assert_eq!(crate::world::run_tool("umount", &["-l", &small]).code(), Some(0));
    });
}
