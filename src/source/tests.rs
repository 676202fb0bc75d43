//! Sources, as a backup meets them: what they give, and how they fail (D9, D10).

use super::disks::{Beneath, lies_inside};
use super::fake::Fake;
use super::machine::{Machine, Number};
use super::stream::Stream;
use super::testing::{Loop, MadeUp, Mounted, tool};
use super::*;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// All pieces of a source, read as a backup does it; holes filled with zeroes.
fn read_all(source: &mut dyn Source, piece_max: usize) -> Result<(Vec<u8>, Vec<Piece>)> {
    let (mut bytes, mut pieces, mut buf) = (Vec::new(), Vec::new(), vec![0xEE; piece_max]);
    loop {
        let piece = source.next(bytes.len() as u64, &mut buf)?;
        pieces.push(piece);
        match piece {
            Piece::Data(len) => bytes.extend_from_slice(&buf[..len]),
            Piece::Hole(len) | Piece::Same(len) => bytes.resize(bytes.len() + len as usize, 0),
            Piece::End => return source.finish().map(|()| (bytes, pieces)),
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    path: PathBuf,
    file: File,
}

impl Fixture {
    fn new(size: u64) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        Fixture { dir, path, file }
    }

    fn open(&self) -> Box<dyn Source> {
        open(self.path.to_str().unwrap()).unwrap()
    }

    /// Whether the file system here can tell holes.
    fn tells_holes(&self) -> bool {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(0)) == Err(rustix::io::Errno::NXIO)
    }
}

#[test]
fn a_sparse_file_is_data_and_holes_and_equal_to_what_cat_sees() {
    let fixture = Fixture::new(8 * MIB + 17);
    if !fixture.tells_holes() {
        println!("SKIPPED the file system of temporary files knows no holes");
        return;
    }
    fixture.file.write_all_at(&[7; 5000], 0).unwrap();
    fixture.file.write_all_at(&[9; 100], 4 * MIB + 1).unwrap();
    fixture.file.write_all_at(&[1; 1], 8 * MIB + 16).unwrap();
    for piece_max in [1 << 20, 4096, 1000] {
        let (bytes, pieces) = read_all(&mut *fixture.open(), piece_max).unwrap();
        assert_eq!(bytes, std::fs::read(&fixture.path).unwrap());
        let holes: u64 = pieces.iter().map(|piece| if let Piece::Hole(len) = piece { *len } else { 0 }).sum();
        assert!(holes > 7 * MIB, "only {holes} bytes of holes");
    }
}

#[test]
fn a_sparse_64_tib_file_is_one_hole_and_sizes_of_0_and_1_end_where_they_should() {
    let fixture = Fixture::new(0);
    assert_eq!(read_all(&mut *fixture.open(), 10).unwrap().1, [Piece::End]);
    fixture.file.write_all_at(b"x", 0).unwrap();
    assert_eq!(read_all(&mut *fixture.open(), 10).unwrap().1, [Piece::Data(1), Piece::End]);
    fixture.file.set_len(0).unwrap();
    // Not every file system has files as large; the largest of ext4 is 16 TiB.
    let size =
        [64, 8, 1].map(|tib| tib << 40).into_iter().find(|size| fixture.file.set_len(*size).is_ok()).unwrap();
    let mut source = fixture.open();
    assert_eq!(source.next(0, &mut [0; 10]).unwrap(), Piece::Hole(size));
    assert_eq!(source.next(size, &mut [0; 10]).unwrap(), Piece::End);
    source.finish().unwrap();
}

#[test]
fn facts_of_a_file_name_its_identity_which_hard_links_and_symbolic_links_share() {
    let fixture = Fixture::new(3000);
    let (hard, soft) = (fixture.dir.path().join("hard"), fixture.dir.path().join("soft"));
    std::fs::hard_link(&fixture.path, &hard).unwrap();
    std::os::unix::fs::symlink(&fixture.path, &soft).unwrap();
    let facts = fixture.open().facts().clone();
    assert_eq!((facts.kind.as_str(), facts.size, facts.sector), ("file", Some(3000), None));
    for other in [hard, soft] {
        let other = open(other.to_str().unwrap()).unwrap().facts().clone();
        assert_eq!(other.identity, facts.identity);
    }
    assert_ne!(Fixture::new(3000).open().facts().identity, facts.identity);
}

#[test]
fn d9_a_file_that_shrinks_or_grows_while_it_is_read_fails_with_both_sizes() {
    for now in [5 * MIB, 9 * MIB] {
        let fixture = Fixture::new(8 * MIB);
        let mut source = fixture.open();
        fixture.file.set_len(now).unwrap();
        let error = read_all(&mut *source, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains(&format!("from {} to {now} bytes", 8 * MIB)), "{error}");
    }
}

#[test]
fn d9_data_that_is_cut_off_under_the_reader_fails_at_its_offset() {
    let fixture = Fixture::new(0);
    fixture.file.write_all_at(&vec![5; 256 * 1024], 0).unwrap();
    let mut source = fixture.open();
    assert_eq!(source.next(0, &mut [0; 4096]).unwrap(), Piece::Data(4096));
    fixture.file.set_len(10_000).unwrap();
    assert_eq!(source.next(4096, &mut [0; 8192]).unwrap(), Piece::Data(5904));
    let error = source.next(10_000, &mut [0; 4096]).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("at offset 10000"), "{error}");
}

#[test]
fn d9_a_file_that_is_written_while_it_is_read_is_told_to_have_changed() {
    let fixture = Fixture::new(MIB);
    let mut source = fixture.open();
    let _ = read_all(&mut *source, 1 << 20).unwrap();
    assert!(!source.changed());
    // Times of files have the grain of the kernel's tick.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fixture.file.write_all_at(b"meanwhile", 10).unwrap();
    source.finish().unwrap();
    assert!(source.changed());
}

#[test]
fn a_hole_punched_behind_the_readers_back_reads_as_zeroes() {
    let fixture = Fixture::new(0);
    fixture.file.write_all_at(&vec![5; 1 << 20], 0).unwrap();
    fixture.file.sync_all().unwrap();
    let mut source = fixture.open();
    assert_eq!(source.next(0, &mut [0; 4096]).unwrap(), Piece::Data(4096));
    let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(&fixture.file, how, 0, MIB).is_err() {
        println!("SKIPPED the file system of temporary files punches no holes");
        return;
    }
    let mut buf = [9; 4096];
    assert_eq!(source.next(4096, &mut buf).unwrap(), Piece::Data(4096));
    assert_eq!(buf, [0; 4096]);
}

#[test]
fn d10_what_is_no_image_is_refused_with_what_to_do_instead() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (dir.path().to_path_buf(), "a directory: a share"),
        (fifo, "a FIFO"),
        (socket, "a socket"),
        ("/dev/null".into(), "a character device"),
    ];
    for (path, words) in cases {
        let Err(error) = open(path.to_str().unwrap()) else { panic!("{} was opened", path.display()) };
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(words) && error.what_to_try().is_some(), "{error}");
    }
    let Err(error) = open(dir.path().join("none").to_str().unwrap()) else { panic!("nothing was opened") };
    assert_eq!(error.kind(), Kind::Missing);
}

#[test]
fn d10_a_source_inside_the_repository_is_refused_by_identity_however_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repo");
    std::fs::create_dir_all(repository.join("packs/00")).unwrap();
    let pack = repository.join("packs/00/pack");
    std::fs::write(&pack, b"sealed").unwrap();
    let (soft, hard, beside) =
        (dir.path().join("soft"), dir.path().join("hard"), dir.path().join("repo-not"));
    std::os::unix::fs::symlink(repository.join("packs"), &soft).unwrap();
    std::fs::hard_link(&pack, &hard).unwrap();
    std::fs::write(&beside, b"free").unwrap();
    for inside in
        [repository.clone(), pack.clone(), soft.join("00/pack"), repository.join("packs/../packs/00"), hard]
    {
        let error = refuse_inside(inside.to_str().unwrap(), &repository).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", inside.display());
    }
    refuse_inside(beside.to_str().unwrap(), &repository).unwrap();
    refuse_inside("-", &repository).unwrap();
    assert!(lies_inside(&repository.join("packs/00/not yet"), &repository).unwrap());
    assert!(!lies_inside(&dir.path().join("not yet"), &repository).unwrap());
}

#[test]
fn d10_a_bind_mount_of_a_part_of_the_repository_is_still_inside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, elsewhere) = (dir.path().join("repo"), dir.path().join("elsewhere"));
    std::fs::create_dir_all(repository.join("packs")).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(repository.join("packs/pack"), b"sealed").unwrap();
    let from = repository.join("packs");
    let Some(mounted) = Mounted::new(&["--bind", from.to_str().unwrap()], &elsewhere) else { return };
    assert!(lies_inside(&mounted.point.join("pack"), &repository).unwrap());
}

#[test]
fn d10_a_file_in_a_mount_of_ours_is_refused_and_in_another_is_not() {
    let fixture = Fixture::new(100);
    let open = |fstype| {
        let made = MadeUp::new().mounting(&fixture.path, fstype);
        open_on(made.machine(), fixture.path.to_str().unwrap())
    };
    let Err(error) = open("fuse.afterimage") else { panic!("a backup was opened as a source") };
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    drop(open("fuse.sshfs").unwrap());
}

#[test]
fn a_source_beside_the_repository_shares_its_disks() {
    let fixture = Fixture::new(100);
    let facts = fixture.open().facts().clone();
    assert_eq!(shared_disks(&facts, fixture.dir.path()).unwrap(), facts.disks);
    let elsewhere = Facts { disks: vec!["no such disk".into()], ..facts };
    assert_eq!(shared_disks(&elsewhere, fixture.dir.path()).unwrap(), Vec::<String>::new());
}

#[test]
fn a_stream_is_its_bytes_whatever_size_its_pieces_have() {
    let bytes: Vec<u8> = (0..10_000_u32).map(|at| at as u8).collect();
    for piece_max in [1, 7, 4096, 100_000] {
        let (got, pieces) = read_all(&mut Stream::new("test", &bytes[..]), piece_max).unwrap();
        assert_eq!(got, bytes);
        assert_eq!(pieces.last(), Some(&Piece::End));
    }
    let error = Stream::new("test", &bytes[..]).next(5, &mut [0; 10]).unwrap_err();
    assert!(error.to_string().contains("stands at 0"), "{error}");
}

#[test]
fn d9_a_stream_that_breaks_fails_with_the_offset() {
    struct Breaks(u32);
    impl std::io::Read for Breaks {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => Err(std::io::ErrorKind::Interrupted.into()),
                2 => Ok(buf.len()),
                _ => Err(std::io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
    let error = read_all(&mut Stream::new("test", Breaks(0)), 100).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("offset 100"), "{error}");
}

#[test]
fn the_scripted_source_keeps_its_script() {
    let fake = || Fake::empty(1000).with(100, [1; 50]).with(150, [2; 10]).with(900, [3; 100]);
    let (bytes, pieces) = read_all(&mut fake(), 30).unwrap();
    assert_eq!(bytes, fake().bytes());
    assert_eq!(pieces[..2], [Piece::Hole(100), Piece::Data(30)]);
    let failing = read_all(&mut fake().failing_at(130), 4096).unwrap_err();
    assert!(failing.to_string().contains("offset 130"), "{failing}");
    assert!(read_all(&mut fake().shrinking_to(950), 4096).unwrap_err().to_string().contains("offset 950"));
    assert_eq!(read_all(&mut fake().growing_to(2000), 4096).unwrap_err().kind(), Kind::Source);
    assert_eq!(fake().same(200, 300).next(200, &mut [0; 4]).unwrap(), Piece::Same(300));
}

#[test]
fn a_loop_device_has_a_size_a_sector_and_the_disk_of_its_file() {
    let fixture = Fixture::new(4 * MIB);
    fixture.file.write_all_at(&[3; 4096], MIB).unwrap();
    let Some(device) = Loop::on(&fixture.path, 4096) else { return };
    let mut source = open(device.path.to_str().unwrap()).unwrap();
    let facts = source.facts().clone();
    assert_eq!((facts.kind.as_str(), facts.size, facts.sector), ("block", Some(4 * MIB), Some(4096)));
    assert!(facts.identity.unwrap().starts_with("block 7:"));
    assert_eq!(facts.disks, fixture.open().facts().disks);
    assert_eq!(read_all(&mut *source, 1 << 20).unwrap().0, std::fs::read(&fixture.path).unwrap());
    assert!(!source.changed());
}

#[test]
fn d9_a_device_that_is_written_or_resized_while_it_is_read_is_noticed() {
    let fixture = Fixture::new(4 * MIB);
    let Some(device) = Loop::on(&fixture.path, 512) else { return };
    let mut source = open(device.path.to_str().unwrap()).unwrap();
    let writer = File::options().write(true).open(&device.path).unwrap();
    writer.write_all_at(&[1; 4096], 8192).unwrap();
    writer.sync_all().unwrap();
    source.finish().unwrap();
    assert!(source.changed());
    fixture.file.set_len(5 * MIB).unwrap();
    let _ = tool("losetup", &["--set-capacity", device.path.to_str().unwrap()]).unwrap();
    let error = source.finish().unwrap_err();
    assert!(error.to_string().contains("grew"), "{error}");
}

#[test]
fn d9_a_sector_that_cannot_be_read_fails_at_its_offset() {
    let fixture = Fixture::new(0);
    fixture.file.write_all_at(&vec![3; 4 << 20], 0).unwrap();
    let Some(device) = Loop::on(&fixture.path, 512) else { return };
    let mut source = open(device.path.to_str().unwrap()).unwrap();
    // The device keeps its size, but the medium behind its second half is gone.
    fixture.file.set_len(2 * MIB).unwrap();
    let error = read_all(&mut *source, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains(&format!("at offset {}", 2 * MIB)), "{error}");
}

#[test]
fn the_disks_beneath_are_found_through_partitions_volumes_and_raid() {
    let made = MadeUp::new()
        .device("sda", "8:0", None)
        .device("sda1", "8:1", Some("sda"))
        .device("sdb", "8:16", None)
        .device("md0", "9:0", None)
        .device("dm-0", "253:0", None)
        .made_of("md0", "sda1")
        .made_of("md0", "sdb")
        .made_of("dm-0", "md0");
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let of = |number: &str| Beneath::device(&made.machine(), number.parse::<Number>().unwrap()).unwrap();
    assert_eq!(of("253:0").disks, names(&["sda", "sdb"]));
    assert_eq!(of("253:0").devices, names(&["dm-0", "md0", "sda", "sda1", "sdb"]));
    assert_eq!(of("8:1").devices, names(&["sda", "sda1"]));
    assert_eq!(of("8:99"), Beneath::default());
}

#[test]
fn devices_that_claim_to_be_made_of_each_other_end_the_search() {
    let made = MadeUp::new().device("dm-0", "253:0", None).device("dm-1", "253:1", None);
    let made = made.made_of("dm-0", "dm-1").made_of("dm-1", "dm-0");
    let found = Beneath::device(&made.machine(), "253:0".parse().unwrap()).unwrap();
    assert_eq!((found.devices.len(), found.disks.len()), (2, 0));
}

#[test]
fn a_file_on_a_partition_of_a_loop_device_lies_on_all_of_them() {
    let fixture = Fixture::new(64 * MIB);
    let Some(mut device) = Loop::on(&fixture.path, 512) else { return };
    let Some(partition) = device.add_partition(1, 2048, 65536) else { return };
    let point = fixture.dir.path().join("point");
    std::fs::create_dir(&point).unwrap();
    let Some(_mounted) = Mounted::ext4(&partition, &point) else { return };
    let file = point.join("file");
    std::fs::write(&file, b"x").unwrap();
    let beneath = Beneath::path(&Machine::here(), &file).unwrap();
    let name = device.name();
    assert!(beneath.devices.contains(&name) && beneath.devices.contains(&format!("{name}p1")), "{beneath:?}");
    assert!(!beneath.disks.contains(&name), "a loop device is no physical disk: {beneath:?}");
    let of_partition = open(partition.to_str().unwrap()).unwrap().facts().clone();
    assert_eq!(of_partition.size, Some(65536 * 512));
    assert_eq!(of_partition.disks, Vec::from_iter(beneath.disks));
}

#[test]
fn tables_of_mounts_swaps_and_attributes_are_read_and_absence_is_nothing() {
    let made = MadeUp::new()
        .device("sda", "8:0", None)
        .attribute("sda", "size", " 2048\n")
        .attribute("sda", "serial", "\n");
    let made = made.mount("8:0", "/srv", "xfs", "/dev/sda").swap(r"/swap\040file");
    let machine = made.machine();
    assert_eq!(machine.attribute("sda", "size").unwrap().as_deref(), Some("2048"));
    assert_eq!(machine.attribute("sda", "serial").unwrap(), None);
    assert_eq!(machine.attribute("sdz", "size").unwrap(), None);
    assert_eq!(machine.swaps().unwrap(), [PathBuf::from("/swap file")]);
    assert_eq!(machine.mounts().unwrap()[0].point, PathBuf::from("/srv"));
    assert_eq!(machine.holders("sda").unwrap(), Vec::<String>::new());
    let nothing = Machine::told_by("/nowhere", "/nowhere");
    assert!(nothing.swaps().unwrap().is_empty() && nothing.loops().unwrap().is_empty());
    assert!(
        nothing.mounts().is_err(),
        "a machine without a table of mounts must not pass for one without mounts"
    );
}
