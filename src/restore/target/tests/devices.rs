//! Opening devices and files that somebody uses (R2, R3, R6). Needs root and loop devices, else the tests are skipped.

use super::*;
use crate::source::testing::{Loop, MadeUp, Mounted, tool, wait_until};
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

/// A loop device on a dirty file of the fixture's directory.
fn device(fixture: &Fixture, size: u64) -> Option<Loop> {
    Loop::on(&fixture.dirty("behind.img", size), 512)
}

fn folder(fixture: &Fixture, name: &str) -> PathBuf {
    let path = fixture.path(name);
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn r1_a_device_smaller_by_a_sector_is_refused_and_a_larger_one_keeps_its_tail() {
    let mut fixture = Fixture::wishing(4 * MIB + 1);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    assert!(refused(fixture.open(&device.path)).contains("too small: it has 4194304 bytes"));
    fixture.wish.size = 4 * MIB - 700;
    let opened = fixture.open(&device.path).unwrap();
    assert_eq!((opened.verdict.tail, opened.facts.sector), (700, Some(512)));
    opened.target.write_at(0, &vec![1; 4 * MIB as usize - 700]).unwrap();
    opened.target.finish().unwrap();
    drop(opened);
    assert_eq!(bytes_of(&device.path), [vec![1; 4 * MIB as usize - 700], vec![0xDD; 700]].concat());
}

#[test]
fn r1_sectors_of_another_size_are_said() {
    let fixture =
        Fixture { wish: Wish { size: MIB, sector: Some(512), force: false }, ..Fixture::wishing(0) };
    let Some(device) = Loop::on(&fixture.dirty("behind.img", MIB), 4096) else { return };
    let opened = fixture.open(&device.path).unwrap();
    assert!(opened.verdict.notes[0].contains("the target has 4096"), "{:?}", opened.verdict);
}

#[test]
fn r2_a_mounted_device_is_refused_by_its_mount_point_and_so_is_every_partition_beside_it() {
    let fixture = Fixture::wishing(MIB);
    let Some(mut device) = device(&fixture, 32 * MIB) else { return };
    let Some(mounted_one) = device.add_partition(1, 2048, 32768) else { return };
    let Some(other) = device.add_partition(2, 40960, 8192) else { return };
    drop(fixture.open(&other).unwrap());
    let Some(mounted) = Mounted::ext4(&mounted_one, &folder(&fixture, "point")) else { return };
    for path in [&mounted_one, &device.path] {
        let words = refused(fixture.open(path));
        assert!(words.contains(&format!("is mounted on {}", mounted.point.display())), "{words}");
    }
    // A partition beside the mounted one is free.
    drop(fixture.open(&other).unwrap());
}

#[test]
fn r2_a_partition_of_a_disk_that_is_mounted_as_a_whole_is_refused() {
    let fixture = Fixture::wishing(MIB);
    let Some(mut device) = device(&fixture, 32 * MIB) else { return };
    let Some(partition) = device.add_partition(1, 40960, 8192) else { return };
    let Some(mounted) = Mounted::ext4(&device.path, &folder(&fixture, "point")) else { return };
    let words = refused(fixture.open(&partition));
    assert!(
        words.contains(&format!("{} is mounted on {}", device.name(), mounted.point.display())),
        "{words}"
    );
}

#[test]
fn r2_a_swap_device_is_refused() {
    struct Swap(String);
    impl Drop for Swap {
        fn drop(&mut self) {
            let _ = tool("swapoff", &[&self.0]);
        }
    }
    let fixture = Fixture::wishing(MIB);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    let path = device.path.to_string_lossy().into_owned();
    if tool("mkswap", &["-f", &path]).is_none() || tool("swapon", &[&path]).is_none() {
        println!("SKIPPED no swap can be added here");
        return;
    }
    let _swap = Swap(path.clone());
    let words = refused(fixture.open(&device.path));
    assert!(words.contains(&format!("{path} is swapped to")), "{words}");
}

#[test]
fn r2_a_device_that_somebody_holds_exclusively_is_refused() {
    let fixture = Fixture::wishing(MIB);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    let how = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    let held = rustix::fs::open(&device.path, how, Mode::empty()).unwrap();
    assert!(refused(fixture.open(&device.path)).contains("held exclusively"));
    drop(held);
    let opened = fixture.open(&device.path).unwrap();
    assert!(
        refused(fixture.open(&device.path)).contains("held exclusively"),
        "a restore holds its target itself"
    );
    drop(opened);
}

#[test]
fn r2_a_file_behind_a_loop_device_is_refused() {
    let fixture = Fixture::wishing(MIB);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    let words = refused(fixture.open(&fixture.path("behind.img")));
    assert!(words.contains(&format!("behind the loop device {}", device.name())), "{words}");
}

#[test]
fn r2_a_device_behind_another_loop_device_is_refused() {
    let fixture = Fixture::wishing(MIB);
    let Some(lower) = device(&fixture, 4 * MIB) else { return };
    let Some(upper) = Loop::on(&lower.path, 512) else { return };
    let words = refused(fixture.open(&lower.path));
    assert!(words.contains(&format!("behind the loop device {}", upper.name())), "{words}");
}

#[test]
fn r2_parts_of_raid_volumes_and_multipath_are_refused_with_what_they_are_a_part_of() {
    let fixture = Fixture::wishing(MIB);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    let number = std::fs::read_to_string(format!("/sys/class/block/{}/dev", device.name())).unwrap();
    let disk = || MadeUp::new().device("sda", number.trim(), None).device("md0", "9:0", None);
    let partitioned = disk().device("sda1", "8:1", Some("sda"));
    let cases = [
        (disk().made_of("md0", "sda"), "sda is a part of md0"),
        (partitioned.made_of("md0", "sda1"), "sda1 is a part of md0"),
        (disk().swap("/dev/sda").mount(number.trim(), "/srv", "xfs", "/dev/sda"), "sda is mounted on /srv"),
        (disk().mount("0:44", "/data", "btrfs", &device.path.to_string_lossy()), "sda is mounted on /data"),
        (disk().attribute("sda", "ro", "1\n"), "the device is read-only"),
    ];
    for (made, words) in cases {
        let said = refused(open::open_on(&made.machine(), &device.path, &fixture.wish, Guarded::default()));
        assert!(said.contains(words), "{said}");
    }
    let free = disk();
    drop(open::open_on(&free.machine(), &device.path, &fixture.wish, Guarded::default()).unwrap());
}

#[test]
fn r2_a_file_that_a_virtual_machine_has_locked_is_refused() {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let fixture = Fixture::wishing(MIB);
    let path = fixture.dirty("disk.img", MIB);
    // It ends by itself, also when nobody is left to stop it.
    let mut command = Command::new("qemu-io");
    let command = command.args(["-f", "raw", "-c", "sleep 15000"]).arg(&path);
    let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        println!("SKIPPED no qemu-io here");
        return;
    };
    let machine = Running(child);
    let inode = format!(":{} ", std::fs::metadata(&path).unwrap().ino());
    wait_until("the machine's lock", || std::fs::read_to_string("/proc/locks").unwrap().contains(&inode));
    let words = refused(fixture.open(&path));
    assert!(words.contains("another program has locked it"), "{words}");
    drop(machine);
    assert_eq!(bytes_of(&path), vec![0xDD; MIB as usize]);
}

#[test]
fn r3_a_device_under_the_repository_is_refused_as_such_and_so_is_its_disk() {
    let fixture = Fixture::wishing(MIB);
    let Some(mut device) = device(&fixture, 32 * MIB) else { return };
    let Some(partition) = device.add_partition(1, 2048, 32768) else { return };
    let Some(mounted) = Mounted::ext4(&partition, &folder(&fixture, "point")) else { return };
    let repository = mounted.point.join("repo");
    std::fs::create_dir(&repository).unwrap();
    let guarded = Guarded { source: None, repository: Some(&repository) };
    for path in [&partition, &device.path] {
        let words = refused(fixture.guarded(path, guarded));
        assert!(words.contains("the repository lies on this device"), "{words}");
    }
}

#[test]
fn r3_a_device_that_is_the_source_is_refused_by_its_number_and_force_lifts_it() {
    let mut fixture = Fixture::wishing(MIB);
    let Some(device) = device(&fixture, 4 * MIB) else { return };
    let link = fixture.path("by-id");
    std::os::unix::fs::symlink(&device.path, &link).unwrap();
    let facts = crate::source::open(device.path.to_str().unwrap()).unwrap().facts().clone();
    let guarded = Guarded { source: facts.identity.as_deref(), repository: None };
    assert!(refused(fixture.guarded(&link, guarded)).contains("the source of this backup"));
    fixture.wish.force = true;
    drop(fixture.guarded(&link, guarded).unwrap());
}

#[test]
fn r4_a_link_to_another_device_after_the_check_is_no_success() {
    let fixture = Fixture::wishing(MIB);
    let Some(first) = device(&fixture, 4 * MIB) else { return };
    let Some(second) = Loop::on(&fixture.dirty("second.img", 4 * MIB), 512) else { return };
    let link = fixture.path("by-id");
    std::os::unix::fs::symlink(&first.path, &link).unwrap();
    let opened = fixture.open(&link).unwrap();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&second.path, &link).unwrap();
    opened.target.write_at(0, &[1; 512]).unwrap();
    assert!(opened.target.finish().unwrap_err().to_string().contains("leads elsewhere now"));
    assert!(bytes_of(&second.path).iter().all(|byte| *byte == 0xDD));
}

#[test]
fn a_read_only_device_is_refused_with_how_to_change_that() {
    let fixture = Fixture::wishing(MIB);
    let Some(device) = Loop::read_only(&fixture.dirty("behind.img", 4 * MIB)) else { return };
    let words = refused(fixture.open(&device.path));
    assert!(words.contains("read-only") && words.contains("--setrw"), "{words}");
}

#[test]
fn r6_a_device_whose_medium_fails_at_the_sync_is_never_written_again() {
    let fixture = Fixture::wishing(4 * MIB);
    let point = folder(&fixture, "small");
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=1M", "tmpfs"], &point) else { return };
    let behind = point.join("behind.img");
    File::create_new(&behind).unwrap().set_len(4 * MIB).unwrap();
    let Some(device) = Loop::on(&behind, 512) else { return };
    let opened = fixture.open(&device.path).unwrap();
    // Memory takes it all; the medium has room for a quarter.
    opened.target.write_at(0, &vec![1; 4 * MIB as usize]).unwrap();
    let error = opened.target.sync().unwrap_err();
    assert_eq!(error.kind(), Kind::Target);
    for result in [
        opened.target.write_at(0, &[1]),
        opened.target.zero(0, 4096),
        opened.target.sync(),
        opened.target.drop_cache(),
        opened.target.finish(),
    ] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("earlier sync failed"), "{error}");
    }
}
