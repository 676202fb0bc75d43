//! Restore: what it refuses before a byte is written, what it writes, and when it says that it is done.

use crate::common::images::{MIB, allocated, assert_same_bytes, digest, file, mixed, overwrite, sparse};
use crate::common::loops::Loop;
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use crate::common::{Sandbox, skipped, tool};
use nix::libc;
use std::os::unix::fs::FileExt;

/// A repository with one backup of `disk.img`, and its bytes.
fn one() -> (Sandbox, String, Vec<u8>) {
    let sand = Sandbox::with_repo();
    let bytes = mixed(50, 4 * MIB + 512);
    let image = file(&sand, "disk.img", &bytes);
    let _ = sand.backup("web01", &[&image]);
    (sand, image, bytes)
}

#[test]
fn a_restore_reports_what_it_did() {
    let (sand, image, _) = one();
    let out = sand.at("out.img");
    let report = sand.done(&["--json", "restore", "web01", &out]).json();
    for key in ["bytes_written", "bytes_skipped", "bytes_zeroed", "verified", "seconds"] {
        assert!(report.get(key).is_some(), "no {key} in {report}");
    }
    assert_eq!(report["verified"], false);
    assert_eq!(digest(&out), digest(&image));
    let verified = sand.done(&["--json", "restore", "web01", &sand.at("again.img"), "--verify"]).json();
    assert_eq!(verified["verified"], true, "{verified}");
}

#[test]
fn r1_a_device_too_small_by_a_sector_is_refused_and_a_larger_one_keeps_its_tail() {
    let (sand, image, bytes) = one();
    let small = file(&sand, "small", &vec![0xaa; bytes.len() - 512]);
    let large = file(&sand, "large", &vec![0xaa; bytes.len() + 512 * 8]);
    let Some(device) = Loop::over(&small, &[]) else { return };
    let _ = sand.ends(4, &["restore", "web01", &device.0]).saying(&device.0);
    drop(device);
    assert!(std::fs::read(&small).expect("read").iter().all(|byte| *byte == 0xaa), "refused, but written to");
    let Some(device) = Loop::over(&large, &[]) else { return };
    let _ = sand.done(&["restore", "web01", &device.0]);
    drop(device);
    let got = std::fs::read(&large).expect("read");
    assert_same_bytes(&got[..bytes.len()], &std::fs::read(&image).expect("read"), "the image on the device");
    assert!(got[bytes.len()..].iter().all(|byte| *byte == 0xaa), "the tail behind the image was touched");
}

#[test]
fn r1_a_file_that_is_too_small_is_refused_and_one_that_is_larger_keeps_its_tail() {
    let (sand, _, bytes) = one();
    let small = file(&sand, "small", &vec![0xaa; bytes.len() - 1]);
    let _ = sand.ends(4, &["restore", "web01", &small]).saying("too small");
    assert!(std::fs::read(&small).expect("read").iter().all(|byte| *byte == 0xaa), "refused, but written to");
    let large = file(&sand, "large", &vec![0xaa; bytes.len() + 4096]);
    let _ = sand.done(&["restore", "web01", &large]);
    let got = std::fs::read(&large).expect("read");
    assert_same_bytes(&got[..bytes.len()], &bytes, "the image in the file");
    assert!(
        got.len() == bytes.len() || got[bytes.len()..].iter().all(|byte| *byte == 0xaa),
        "the tail was touched"
    );
}

#[test]
fn r2_a_mounted_device_is_refused_by_name() {
    let (sand, _, _) = one();
    let disk = sand.at("mounted.img");
    sparse(&disk, 32 * MIB, &[]).expect("make a disk");
    let Some(device) = Loop::over(&disk, &[]) else { return };
    let _ = tool("mkfs.ext4", &["-q", &device.0]);
    let at = sand.at("mnt");
    std::fs::create_dir(&at).expect("make a mount point");
    // To be read only: a file system that may be written to writes by itself when it likes.
    if !std::process::Command::new("mount")
        .args(["-o", "ro", &device.0, &at])
        .status()
        .is_ok_and(|status| status.success())
    {
        return skipped("this machine does not let root mount");
    }
    let before = digest(&disk);
    let output = sand.run(&["restore", "web01", &device.0]);
    let forced = sand.run(&["restore", "web01", &device.0, "--force"]);
    let untouched = digest(&disk) == before;
    let _ = tool("umount", &[&at]);
    let _ = output.expect_code(4).saying(&at);
    let _ = forced.expect_code(4);
    assert!(untouched, "refused, but written to");
}

#[test]
fn r3_the_source_is_refused_under_any_of_its_names_and_only_force_lifts_it() {
    let (sand, image, bytes) = one();
    overwrite(&image, 0, b"changed since the backup");
    let changed = digest(&image);
    let (soft, hard) = (sand.at("soft"), sand.at("hard"));
    std::os::unix::fs::symlink(&image, &soft).expect("symlink");
    std::fs::hard_link(&image, &hard).expect("hard link");
    for name in [&image, &soft, &hard] {
        let _ = sand.ends(4, &["restore", "web01", name]).saying("--force");
        assert_eq!(digest(&image), changed, "refused, but written to by {name}");
    }
    let _ = sand.done(&["restore", "web01", &image, "--force"]);
    assert_same_bytes(&std::fs::read(&image).expect("read"), &bytes, "forced");
}

#[test]
fn r3_a_file_of_the_repository_is_refused_and_force_lifts_nothing() {
    let (sand, _, _) = one();
    for object in sand.objects() {
        let path = sand.repo().join(&object);
        let before = std::fs::read(&path).expect("read an object");
        let (soft, hard) = (sand.at("soft"), sand.at("hard"));
        std::os::unix::fs::symlink(&path, &soft).expect("symlink");
        std::fs::hard_link(&path, &hard).expect("hard link");
        for name in [path.to_str().expect("text"), &soft, &hard] {
            let _ = sand.ends(4, &["restore", "web01", name]);
            let _ = sand.ends(4, &["restore", "web01", name, "--force"]);
        }
        assert!(std::fs::read(&path).expect("read an object") == before, "{object:?} was written to");
        std::fs::remove_file(&soft).expect("drop");
        std::fs::remove_file(&hard).expect("drop");
    }
    let inside = sand.repo().join("new.img");
    let _ = sand.ends(4, &["restore", "web01", inside.to_str().expect("text")]);
    assert!(!inside.exists());
    sand.assert_sound();
}

#[test]
fn r3_what_is_no_file_and_no_device_is_refused() {
    let (sand, _, _) = one();
    let (directory, fifo) = (sand.at("directory"), sand.at("fifo"));
    std::fs::create_dir(&directory).expect("make a directory");
    let _ = tool("mkfifo", &[&fifo]);
    for target in [directory.as_str(), &fifo, "/dev/null", "/dev/tty"] {
        let output = sand.run(&["restore", "web01", target]);
        assert_eq!(output.code(), Some(4), "{target}: {output}");
    }
    let _ = sand.ends(1, &["restore", "web01", &sand.at("no/such/folder/out.img")]);
}

#[test]
fn r5_old_data_under_holes_is_gone() {
    let sand = Sandbox::with_repo();
    let image = sand.at("disk.img");
    let noise = mixed(51, MIB);
    sparse(&image, 24 * MIB + 100, &[(MIB, &noise), (20 * MIB, &noise)]).expect("make an image");
    let _ = sand.backup("web01", &[&image]);
    let want = std::fs::read(&image).expect("read");
    for (case, len) in [("same", want.len()), ("longer", 30 << 20)] {
        let dirty = file(&sand, case, &vec![0xaa; len]);
        let _ = sand.done(&["restore", "web01", &dirty, "--verify"]);
        let got = std::fs::read(&dirty).expect("read");
        assert_same_bytes(&got[..want.len()], &want, case);
    }
    let under = file(&sand, "under", &vec![0xaa; 32 << 20]);
    let Some(device) = Loop::over(&under, &[]) else { return };
    let _ = sand.done(&["restore", "web01", &device.0, "--verify"]);
    drop(device);
    assert_same_bytes(&std::fs::read(&under).expect("read")[..want.len()], &want, "a dirty device");
}

#[test]
fn r4_a_target_swapped_while_it_is_written_is_noticed() {
    need_tracer!();
    let (sand, _, bytes) = one();
    let out = sand.at("out.img");
    let mut swap = || {
        std::fs::rename(&out, sand.at("moved.img")).expect("move the target away");
        std::fs::write(&out, b"somebody else's").expect("put another file there");
    };
    let at_target = |touch: &Touch| touch.call == "write" && touch.path.ends_with("out.img");
    let traced = trace(sand.command(&["restore", "web01", &out]), &at_target, 1, Act::Call(&mut swap));
    if !traced.reached(1) {
        // Written elsewhere and renamed into place: then nobody's file may have been replaced half.
        let _ = traced.output.expect_code(0);
        return assert_same_bytes(&std::fs::read(&out).expect("read"), &bytes, "restored");
    }
    assert_ne!(
        traced.output.code(),
        Some(0),
        "said done about a file that is not there any more: {}",
        traced.output
    );
    assert_eq!(std::fs::read(&out).expect("read"), b"somebody else's");
}

#[test]
fn r6_a_target_that_is_full_or_fails_to_sync_is_no_success_and_running_again_completes() {
    need_tracer!();
    let (sand, image, _) = one();
    for (call, errno) in [("write", libc::ENOSPC), ("write", libc::EIO), ("sync", libc::EIO)] {
        let out = sand.at("out.img");
        let at_target = |touch: &Touch| touch.call == call && touch.path.ends_with("out.img");
        let traced = trace(sand.command(&["restore", "web01", &out]), &at_target, 1, Act::Fail(errno));
        assert!(traced.reached(1), "a restore without a {call}");
        assert_eq!(traced.output.code(), Some(1), "{call} {errno}: {}", traced.output);
        assert!(traced.output.stderr.contains("out.img"), "names no target: {}", traced.output);
        let _ = sand.done(&["restore", "web01", &out]);
        assert_eq!(digest(&out), digest(&image));
        std::fs::remove_file(&out).expect("drop");
    }
}

#[test]
fn p9_done_is_said_after_the_last_write_was_synced() {
    need_tracer!();
    let (sand, _, _) = one();
    let out = sand.at("out.img");
    let traced = trace(
        sand.command(&["restore", "web01", &out]),
        &|touch| touch.path.starts_with(sand.root()) && !touch.path.starts_with(sand.home()),
        0,
        Act::Watch,
    );
    let _ = traced.output.expect_code(0);
    let last_write = traced.touches.iter().rposition(|touch| touch.call == "write").expect("it writes");
    assert!(
        traced.touches[last_write..]
            .iter()
            .any(|touch| touch.call == "sync" && touch.path == traced.touches[last_write].path),
        "no sync behind the last write: {:?}",
        traced.touches
    );
}

#[test]
fn differential_restore_writes_what_differs() {
    let (sand, image, bytes) = one();
    let out = file(&sand, "out.img", &bytes);
    overwrite(&out, MIB, &[0xaa; 4096]);
    let report = sand.done(&["--json", "restore", "web01", &out, "--differential"]).json();
    assert_eq!(digest(&out), digest(&image));
    let written = report["bytes_written"].as_u64().expect("a number")
        + report["bytes_zeroed"].as_u64().expect("a number");
    // One chunk; and what does not fill a block at the end of the image may be made zero without being read first.
    assert!((1..=128 * 1024 + 4096).contains(&written), "{report}");
}

#[test]
fn an_interrupted_restore_is_completed_by_running_it_again() {
    need_tracer!();
    let (sand, image, _) = one();
    let out = sand.at("out.img");
    let at_target = |touch: &Touch| touch.call == "write" && touch.path.ends_with("out.img");
    let traced = trace(sand.command(&["restore", "web01", &out]), &at_target, 3, Act::Kill);
    assert!(traced.output.code().is_none(), "{}", traced.output);
    let _ = sand.done(&["restore", "web01", &out]);
    assert_eq!(digest(&out), digest(&image));
}

#[test]
fn a_restored_sparse_image_is_sparse_also_on_a_used_file() {
    let sand = Sandbox::with_repo();
    let image = sand.at("disk.img");
    sparse(&image, 64 * MIB, &[(0, &mixed(52, MIB))]).expect("make an image");
    let _ = sand.backup("web01", &[&image]);
    let used = file(&sand, "used", &vec![0xaa; 64 << 20]);
    let _ = sand.done(&["restore", "web01", &used]);
    assert_eq!(digest(&used), digest(&image));
    if std::fs::File::options().write(true).open(&used).and_then(|file| file.write_at(b"", 0)).is_ok()
        && punches(&sand)
    {
        assert!(
            allocated(&used) < 4 * MIB,
            "{} bytes allocated: zeroes were written where holes can be punched",
            allocated(&used)
        );
    }
}

/// Whether the sandbox's file system can punch holes.
fn punches(sand: &Sandbox) -> bool {
    let path = file(sand, "punch", &[1; 65536]);
    let file = std::fs::File::options().write(true).open(path).expect("open");
    let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, how, 0, 65536).is_ok()
}
