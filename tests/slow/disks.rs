//! Disks that no one here made: a Debian root file system between partitions, and the same by way of qcow2.

use crate::common::images::{allocated, digest};
use crate::common::{Output, Sandbox, has_program, is_root, run, skipped};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Builds are shared: one test makes the disk while others wait.
static BUILD: Mutex<()> = Mutex::new(());

fn images() -> PathBuf {
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").join("test-images");
    std::fs::create_dir_all(&dir).expect("make a folder for images");
    dir
}

/// The disk, built by `scripts/lib/debian-disk` when it is not there; `None` (said) where that can't be done.
pub(crate) fn debian_disk() -> Option<PathBuf> {
    let lock = BUILD.lock().unwrap_or_else(|broken| broken.into_inner());
    let disk = images().join("debian.raw");
    if !disk.exists() {
        if !is_root() || !has_program("debootstrap") || !has_program("sfdisk") {
            skipped("a Debian disk wants root, debootstrap and sfdisk");
            return None;
        }
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/debian-disk"));
        let _ = build.arg(&disk).stdin(Stdio::null());
        let output = run(build, Duration::from_secs(900));
        if output.code() != Some(0) {
            skipped("the Debian disk could not be built (no mirror in reach?)");
            println!("{output}");
            return None;
        }
    }
    drop(lock);
    Some(disk)
}

fn minutes(sand: &Sandbox, args: &[&str]) -> Output {
    run(sand.command(args), Duration::from_secs(300)).expect_code(0)
}

fn assert_round_trip(image: &str) {
    let sand = Sandbox::with_repo();
    let _ = minutes(&sand, &["backup", image, "--name", "debian", "--digest"]);
    let want = digest(image);
    assert_eq!(sand.list()[0].item(0, "sha256").as_str(), Some(want.as_str()));
    let mut sum = Command::new("sh");
    let _ = sum
        .args(["-c", "\"$0\" cat debian | sha256sum", env!("CARGO_BIN_EXE_afterimage")])
        .stdin(Stdio::null());
    for (key, value) in sand.command(&[]).get_envs() {
        let _ = sum.env(key, value.unwrap_or_default());
    }
    assert!(run(sum, Duration::from_secs(300)).expect_code(0).text().starts_with(&want));
    let out = sand.at("out.img");
    let _ = minutes(&sand, &["restore", "debian", &out, "--verify"]);
    assert_eq!(digest(&out), want);
    assert!(
        allocated(&out) <= allocated(image) + allocated(image) / 50,
        "{} of {}",
        allocated(&out),
        allocated(image)
    );
    let again = sand.backup("debian", &[image]);
    assert_eq!(again.stat("bytes_new"), 0);
    let _ = minutes(&sand, &["check", "--read-data"]);
}

#[test]
fn a_debian_disk_comes_back_equal_and_as_sparse() {
    let Some(disk) = debian_disk() else { return };
    assert_round_trip(disk.to_str().expect("text"));
}

#[test]
fn a_disk_that_was_qcow2_comes_back_equal() {
    let Some(disk) = debian_disk() else { return };
    if !has_program("qemu-img") {
        return skipped("no qemu-img to convert a qcow2 with");
    }
    let sand = Sandbox::new();
    let (qcow2, raw) = (sand.at("disk.qcow2"), sand.at("disk.raw"));
    for (format, from, to) in [("qcow2", disk.to_str().expect("text"), &qcow2), ("raw", &qcow2, &raw)] {
        let mut convert = Command::new("qemu-img");
        let _ = convert.args(["convert", "-O", format, from, to]).stdin(Stdio::null());
        let _ = run(convert, Duration::from_secs(300)).expect_code(0);
    }
    assert_round_trip(&qcow2);
    assert_round_trip(&raw);
}

#[test]
fn a_file_system_restored_from_a_backup_is_clean_to_its_own_checker() {
    let Some(disk) = debian_disk() else { return };
    let sand = Sandbox::with_repo();
    let _ = minutes(&sand, &["backup", disk.to_str().expect("text"), "--name", "debian"]);
    let out = sand.at("out.img");
    let _ = minutes(&sand, &["restore", "debian", &out]);
    let mut check = Command::new("sh");
    let script =
        "dd if=\"$0\" of=\"$0.part\" bs=1M skip=1 conv=sparse status=none && /sbin/e2fsck -fn \"$0.part\"";
    let _ = check.args(["-c", script, &out]).stdin(Stdio::null());
    let _ = run(check, Duration::from_secs(300)).expect_code(0);
}
