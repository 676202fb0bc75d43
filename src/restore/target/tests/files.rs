//! Opening files: what is refused, what is made, what stays as it was (R1, R3, R4, R6).

use super::*;
use crate::source::machine::{identity, stat_path};
use crate::source::testing::{MadeUp, Mounted};
use std::os::unix::fs::{MetadataExt, symlink};

#[test]
fn r1_a_file_smaller_by_one_byte_is_refused_and_keeps_every_byte() {
    let fixture = Fixture::wishing(10_000);
    let path = fixture.dirty("disk.img", 9_999);
    assert!(refused(fixture.open(&path)).contains("it has 9999 bytes and the image 10000"));
    assert_eq!(bytes_of(&path), [0xDD; 9_999]);
}

#[test]
fn r1_a_larger_file_is_written_up_to_the_images_end_and_the_tail_is_said() {
    let fixture = Fixture::wishing(10_000);
    let path = fixture.dirty("disk.img", 10_007);
    let opened = fixture.open(&path).unwrap();
    assert_eq!(opened.verdict.tail, 7);
    assert!(opened.verdict.notes[0].contains("its last 7 bytes stay as they are"));
    opened.target.write_at(0, &[1; 10_000]).unwrap();
    for result in [
        opened.target.write_at(9_999, &[1; 2]),
        opened.target.zero(0, 10_001),
        opened.target.zero(u64::MAX, 2),
    ] {
        assert!(result.unwrap_err().to_string().contains("past the image's end"));
    }
    opened.target.finish().unwrap();
    assert_eq!(bytes_of(&path), [vec![1; 10_000], vec![0xDD; 7]].concat());
}

#[test]
fn a_missing_file_is_made_for_its_owner_only_and_an_empty_one_grows() {
    let fixture = Fixture::wishing(3 * MIB + 1);
    let (new, empty) = (fixture.path("new.img"), fixture.dirty("empty.img", 0));
    for (path, create) in [(&new, true), (&empty, false)] {
        let opened = fixture.open(path).unwrap();
        assert_eq!((opened.verdict.create, opened.target.size()), (create, 3 * MIB + 1));
        assert!(opened.target.proven_zero(0, 3 * MIB + 1).unwrap());
        opened.target.write_at(3 * MIB, &[7]).unwrap();
        opened.target.finish().unwrap();
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!(meta.len(), 3 * MIB + 1);
        assert!(meta.blocks() * 512 < MIB, "{} blocks are allocated", meta.blocks());
        assert_eq!(bytes_of(path).iter().filter(|byte| **byte != 0).count(), 1);
    }
    assert_eq!(std::fs::metadata(&new).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_file_larger_than_its_file_system_can_hold_fails_and_leaves_nothing() {
    let fixture = Fixture::wishing(u64::MAX / 2 + 10);
    let error = failed(fixture.open(&fixture.path("huge.img")));
    assert_eq!(error.kind(), Kind::Target, "{error}");
    assert_eq!(fixture.names(), Vec::<String>::new());
}

#[test]
fn a_missing_directory_is_missing_and_not_made() {
    let fixture = Fixture::wishing(10);
    let error = failed(fixture.open(&fixture.path("none/disk.img")));
    assert_eq!(error.kind(), Kind::Missing, "{error}");
    assert_eq!(fixture.names(), Vec::<String>::new());
}

#[test]
fn r3_what_is_no_target_is_refused_by_what_it_is_also_through_a_link() {
    let fixture = Fixture::wishing(0);
    let (fifo, socket, nothing) = (fixture.path("fifo"), fixture.path("socket"), fixture.path("nothing"));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    symlink(fixture.path("gone"), &nothing).unwrap();
    let cases = [
        (fixture.dir.path().to_path_buf(), "a directory"),
        (fifo, "a FIFO"),
        (socket, "a socket"),
        ("/dev/null".into(), "a character device"),
        ("/dev/tty".into(), "a terminal"),
        (nothing, "a symbolic link to nothing"),
    ];
    for (nth, (path, words)) in cases.into_iter().enumerate() {
        assert!(refused(fixture.open(&path)).contains(words), "{}", path.display());
        if words != "a symbolic link to nothing" {
            let link = fixture.path(&format!("link{nth}"));
            symlink(&path, &link).unwrap();
            assert!(refused(fixture.open(&link)).contains(words), "a link to {}", path.display());
        }
    }
    assert!(!fixture.path("gone").exists());
}

#[test]
fn r3_the_source_is_refused_through_every_name_and_force_lifts_it() {
    let mut fixture = Fixture::wishing(5000);
    let source = fixture.dirty("source.img", 5000);
    let (hard, soft) = (fixture.path("hard"), fixture.path("soft"));
    std::fs::hard_link(&source, &hard).unwrap();
    symlink(&source, &soft).unwrap();
    let known = identity(&stat_path(&source).unwrap());
    let guarded = Guarded { source: Some(&known), repository: None };
    for path in [&source, &hard, &soft] {
        assert!(refused(fixture.guarded(path, guarded)).contains("--force overwrites it"));
    }
    drop(fixture.guarded(&fixture.dirty("other.img", 5000), guarded).unwrap());
    fixture.wish.force = true;
    let opened = fixture.guarded(&soft, guarded).unwrap();
    assert_eq!(opened.verdict.notes, ["the source of this backup is overwritten"]);
}

#[test]
fn r3_a_target_inside_the_repository_is_refused_through_every_name_even_with_force() {
    let mut fixture = Fixture::wishing(100);
    fixture.wish.force = true;
    let repository = fixture.path("repo");
    std::fs::create_dir_all(repository.join("packs/00")).unwrap();
    let pack = repository.join("packs/00/pack");
    std::fs::write(&pack, [5; 100]).unwrap();
    let (hard, soft, folder) = (fixture.path("hard"), fixture.path("soft"), fixture.path("folder"));
    std::fs::hard_link(&pack, &hard).unwrap();
    symlink(&pack, &soft).unwrap();
    symlink(repository.join("packs"), &folder).unwrap();
    let guarded = Guarded { source: None, repository: Some(&repository) };
    let new = repository.join("packs/new.img");
    for path in [&pack, &hard, &soft, &folder.join("00/pack"), &new, &folder.join("new.img")] {
        assert!(
            refused(fixture.guarded(path, guarded)).contains("inside the repository"),
            "{}",
            path.display()
        );
    }
    assert_eq!(bytes_of(&pack), [5; 100]);
    assert!(!new.exists());
    drop(fixture.guarded(&fixture.path("repo.img"), guarded).unwrap());
}

#[test]
fn r3_a_file_in_our_own_mount_is_refused() {
    let fixture = Fixture::wishing(100);
    let path = fixture.dirty("disk.img", 100);
    let told = |fstype| MadeUp::new().mounting(&path, fstype);
    let (own, other) = (told("fuse.afterimage"), told("fuse.sshfs"));
    for path in [path.clone(), fixture.path("new.img")] {
        let open = |made: &MadeUp| open::open_on(&made.machine(), &path, &fixture.wish, Guarded::default());
        assert!(refused(open(&own)).contains("a mount of afterimage"));
        drop(open(&other).unwrap());
    }
}

#[test]
fn r4_a_target_that_is_swapped_for_another_keeps_the_other_untouched_and_is_no_success() {
    let fixture = Fixture::wishing(1000);
    let path = fixture.dirty("disk.img", 1000);
    let link = fixture.path("link");
    symlink(&path, &link).unwrap();
    let (direct, through_link) = (fixture.open(&path).unwrap(), fixture.open(&link).unwrap());
    std::fs::rename(&path, fixture.path("moved.img")).unwrap();
    let swapped = fixture.dirty("disk.img", 1000);
    for opened in [direct, through_link] {
        opened.target.write_at(0, &[1; 1000]).unwrap();
        let error = opened.target.finish().unwrap_err();
        assert_eq!(error.kind(), Kind::Target);
        assert!(error.to_string().contains("leads elsewhere now"), "{error}");
    }
    assert_eq!(bytes_of(&swapped), [0xDD; 1000]);
    assert_eq!(bytes_of(&fixture.path("moved.img")), [1; 1000]);
}

#[test]
fn r4_a_target_that_is_removed_or_cut_while_it_is_written_is_no_success() {
    let fixture = Fixture::wishing(1000);
    let (gone, cut) = (fixture.path("gone.img"), fixture.dirty("cut.img", 1000));
    let opened = fixture.open(&gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
    assert_eq!(opened.target.finish().unwrap_err().kind(), Kind::Target);
    let opened = fixture.open(&cut).unwrap();
    File::options().write(true).open(&cut).unwrap().set_len(999).unwrap();
    assert!(opened.target.finish().unwrap_err().to_string().contains("cut it to 999 bytes"));
}

#[test]
fn r6_a_full_disk_fails_at_the_offset_where_it_got_full() {
    let fixture = Fixture::wishing(4 * MIB);
    let point = fixture.path("small");
    std::fs::create_dir(&point).unwrap();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=1M", "tmpfs"], &point) else { return };
    let opened = fixture.open(&point.join("disk.img")).unwrap();
    let error = (0..64).find_map(|at| opened.target.write_at(at * 65536, &[1; 65536]).err()).unwrap();
    assert_eq!(error.kind(), Kind::Target, "a full target is not a full store");
    let at: u64 =
        error.to_string().split_once("at offset ").unwrap().1.split(':').next().unwrap().parse().unwrap();
    let mut read = vec![0; at as usize];
    opened.target.read_at(0, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 1), "what lies before the offset was written");
    assert!(opened.target.read_at(at, &mut [0]).is_err() || at < 4 * MIB);
}

#[test]
fn r9_the_cache_is_dropped_so_that_a_second_look_shows_the_medium() {
    let fixture = Fixture::wishing(MIB);
    let path = fixture.path("disk.img");
    let opened = fixture.open(&path).unwrap();
    opened.target.write_at(0, &vec![3; MIB as usize]).unwrap();
    let file = File::open(&path).unwrap();
    let in_memory = || {
        let mut buf = [0; 4096];
        let now = rustix::io::ReadWriteFlags::NOWAIT;
        rustix::io::preadv2(&file, &mut [std::io::IoSliceMut::new(&mut buf)], 512 * 1024, now)
    };
    if in_memory() != Ok(4096) {
        println!("SKIPPED the file system of temporary files can't tell what is in memory");
        return;
    }
    opened.target.drop_cache().unwrap();
    // Asked once: the question itself makes the kernel read ahead.
    assert_eq!(in_memory(), Err(rustix::io::Errno::AGAIN));
    let mut read = vec![0; MIB as usize];
    opened.target.read_at(0, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 3));
}
