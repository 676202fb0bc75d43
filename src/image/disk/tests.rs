//! The tier on disk: what it keeps, what it forgets, and what it makes of files that others wrote.

use super::*;

const REPOSITORY: RepositoryId = RepositoryId([7; 16]);
const PACK: PackId = PackId([9; 16]);

fn chunk(number: u64) -> (ChunkId, Vec<u8>) {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    (ChunkId(id), vec![number as u8; 1000 + number as usize % 50])
}

fn fill(disk: &Disk, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let (id, bytes) = chunk(number);
        disk.put(id, PACK, &bytes);
    }
}

fn held(disk: &Disk, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let is_here = |number: &u64| {
        let (id, bytes) = chunk(*number);
        disk.get(id, PACK).is_some_and(|found| found == bytes)
    };
    numbers.filter(is_here).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let folder = dir.join("chunks").join(REPOSITORY.to_string());
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| !path.ends_with("lock")).collect();
    paths.sort();
    paths
}

#[test]
fn what_was_put_in_is_there_after_a_restart_and_under_its_own_pack_only() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    fill(&disk, 0..100);
    assert_eq!(held(&disk, 0..200), (0..100).collect::<Vec<_>>());
    assert!(disk.get(chunk(1).0, PackId([8; 16])).is_none());
    drop(disk);
    let disk = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    assert_eq!(held(&disk, 0..200), (0..100).collect::<Vec<_>>());
    fill(&disk, 100..200);
    assert_eq!(held(&disk, 0..200).len(), 200);
}

#[test]
fn a_second_process_reads_what_the_first_puts_in_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = Disk::open(dir.path(), REPOSITORY, 100_000).unwrap();
    fill(&first, 0..10);
    let second = Disk::open(dir.path(), REPOSITORY, 100_000).unwrap();
    assert_eq!(held(&second, 0..20), (0..10).collect::<Vec<_>>());
    fill(&second, 50..60);
    assert_eq!((held(&first, 50..60).len(), held(&second, 50..60).len()), (0, 0));
    fill(&first, 10..20);
    second.state().followed = None;
    assert_eq!(held(&second, 0..20), (0..20).collect::<Vec<_>>());
    fill(&first, 100..1000);
    second.state().followed = None;
    assert!(second.get(chunk(999).0, PACK).is_some(), "new segments are found");
    assert_eq!(held(&second, 0..20), held(&first, 0..20), "and those that are gone are let go");
    assert_eq!(second.bytes(), first.bytes());
    drop(first);
    assert!(second.get(chunk(999).0, PACK).is_some());
}

#[test]
fn a11_a_tier_that_takes_long_to_be_learnt_is_opened_all_the_same_and_used_once_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let first = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    fill(&first, 0..10);
    // Who opens a pipe to read it waits until somebody writes to it.
    let pipe = segments(dir.path())[0].with_file_name(format!("{:016x}", 99));
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let second = Disk::open_within(dir.path(), REPOSITORY, 1 << 20, Duration::ZERO).unwrap();
    assert_eq!((held(&second, 0..10), second.bytes()), (vec![], 0));
    let _writer = OpenOptions::new().write(true).open(&pipe).unwrap();
    let began = Instant::now();
    while held(&second, 0..10).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "it is never known");
        std::thread::yield_now();
    }
    assert_eq!((held(&second, 0..10).len(), second.bytes()), (10, first.bytes()));
}

#[test]
fn the_bound_holds_and_the_oldest_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 100_000;
    let disk = Disk::open(dir.path(), REPOSITORY, bound).unwrap();
    for number in 0..1000 {
        fill(&disk, number..number + 1);
        let on_disk: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(on_disk <= bound && disk.bytes() == on_disk, "{on_disk}");
    }
    let held = held(&disk, 0..1000);
    assert!(held.len() > 70 && held.iter().copied().eq(held[0]..1000), "{held:?}");
    drop(disk);
    let smaller = Disk::open(dir.path(), REPOSITORY, bound / 2).unwrap();
    assert!(smaller.bytes() <= bound / 2);
}

#[test]
fn a11_damage_costs_misses_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    fill(&disk, 0..100);
    drop(disk);
    let path = &segments(dir.path())[0];
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2 / 1084 * 1084;
    bytes[middle..middle + 2000].iter_mut().for_each(|byte| *byte ^= 0x55);
    bytes.truncate(bytes.len() - 10);
    fs::write(path, bytes).unwrap();
    let disk = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    let held = held(&disk, 0..100);
    assert!((10..100).contains(&held.len()), "{held:?}");
    fill(&disk, 0..100);
}

#[test]
fn a11_files_of_others_are_no_segments_and_there_is_always_a_next_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap());
    let folder = dir.path().join("chunks").join(REPOSITORY.to_string());
    for name in ["ffffffffffffffff", "+000000000000001", "000000000000000A", "lost"] {
        fs::write(folder.join(name), b"not ours").unwrap();
    }
    let disk = Disk::open(dir.path(), REPOSITORY, 1 << 20).unwrap();
    fill(&disk, 0..10);
    assert_eq!((held(&disk, 0..10).len(), disk.off.load(Relaxed)), (10, false));
    assert!(fs::read(folder.join("ffffffffffffffff")).unwrap() == b"not ours");
}

#[test]
fn a11_a_folder_that_goes_away_turns_the_tier_off_when_it_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), REPOSITORY, 80_000).unwrap();
    fill(&disk, 0..5);
    fs::remove_dir_all(dir.path().join("chunks")).unwrap();
    fill(&disk, 5..1000);
    assert!(disk.off.load(Relaxed) && held(&disk, 0..1000).is_empty());
}
