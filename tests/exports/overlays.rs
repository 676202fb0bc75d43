//! Overlays: a backup that can be written to, thrown away, kept, and made into the next backup.

use crate::backups::map;
use crate::common::images::{MIB, assert_same_bytes, file, mixed};
use crate::common::{Sandbox, tool};
use crate::servers::{Listening, have, ours};
use crate::shell;
use serde_json::Value;

const LEN: u64 = 8 * MIB + 1536;

/// A repository with one backup of these bytes, and its id.
fn one(seed: u64) -> (Sandbox, Vec<u8>, String) {
    let sand = Sandbox::with_repo();
    let bytes = mixed(seed, LEN);
    let backup = sand.backup("vm", &[&file(&sand, "disk.img", &bytes)]);
    let id = backup.id().to_owned();
    (sand, bytes, id)
}

fn serve(sand: &Sandbox, overlay: &str) -> Listening {
    ours(sand, &["--control", &sand.at("control"), "--overlay", overlay])
}

fn qemu_io(uri: &str, commands: &[&str]) -> String {
    let mut args = vec!["-f", "raw"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    args.push(uri);
    tool("qemu-io", &args)
}

/// All that an export holds.
fn content(sand: &Sandbox, uri: &str) -> Vec<u8> {
    let out = sand.at("content");
    let _ = tool("nbdcopy", &[uri, &out]);
    let bytes = std::fs::read(&out).expect("read");
    std::fs::remove_file(&out).expect("remove");
    bytes
}

#[test]
fn an_overlay_is_written_to_and_thrown_away_and_the_backup_stays_as_it_is() {
    if !have(&["qemu-io", "nbdcopy", "nbdinfo"]) {
        return;
    }
    let (sand, mut bytes, _) = one(31);
    let before = bytes.clone();
    let server = serve(&sand, "try=vm@latest");
    let said = qemu_io(
        &server.uri("try", ""),
        &["write -P 1 700 5000", "write -P 2 1M 128k", "write -z -u 3M 1M", "write -P 3 8388607 1", "flush"],
    );
    assert!(!said.contains("failed"), "{said}");
    bytes[700..5700].fill(1);
    bytes[MIB as usize..MIB as usize + 131_072].fill(2);
    bytes[3 * MIB as usize..4 * MIB as usize].fill(0);
    bytes[8 * MIB as usize - 1] = 3;
    assert_same_bytes(&content(&sand, &server.uri("try", "")), &bytes, "the overlay");
    assert_same_bytes(&content(&sand, &server.uri("vm", "")), &before, "the backup beside it");
    let written: Vec<(u64, u64)> = map(&server.uri("try", ""), "qemu:dirty-bitmap:written")
        .into_iter()
        .filter(|entry| entry.2 == 1)
        .map(|entry| (entry.0, entry.1))
        .collect();
    assert_eq!(written, [(0, 8192), (MIB, 131_072), (3 * MIB, MIB), (8 * MIB - 4096, 4096)]);
    let holes = map(&server.uri("try", ""), "base:allocation");
    assert!(holes.contains(&(3 * MIB, MIB, 3)), "{holes:?}");
    let depth = map(&server.uri("try", ""), "qemu:allocation-depth");
    assert_eq!(depth.iter().find(|entry| entry.0 == MIB).map(|entry| entry.2), Some(1), "{depth:?}");
    let _ = server.stop().expect_code(0);
    assert_same_bytes(&sand.cat("vm"), &before, "the backup afterwards");
    let server = serve(&sand, "try=vm");
    assert_same_bytes(&content(&sand, &server.uri("try", "")), &before, "an overlay begun anew");
}

#[test]
fn an_overlay_that_is_kept_goes_on_after_a_restart_with_the_backup_it_lies_on() {
    if !have(&["qemu-io", "nbdcopy"]) {
        return;
    }
    let (sand, mut bytes, _) = one(32);
    let kept = format!("fix=vm,keep={}", sand.at("fix.overlay"));
    let server = serve(&sand, &kept);
    let _ = qemu_io(&server.uri("fix", ""), &["write -P 9 100000 100", "flush"]);
    let _ = server.stop().expect_code(0);
    bytes[100_000..100_100].fill(9);
    // A later backup changes nothing for it, though the same words mean another one now.
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(99, LEN))]);
    let server = serve(&sand, &kept);
    assert_same_bytes(&content(&sand, &server.uri("fix", "")), &bytes, "the overlay");
    // Nobody else gets at its file meanwhile.
    let _ = sand.ends(4, &["overlay", "commit", &sand.at("fix.overlay"), "--name", "vm"]);
    let _ = server.stop().expect_code(0);
}

#[test]
fn a_committed_overlay_is_a_backup_whose_parent_it_lay_on_and_only_what_was_written_was_read() {
    if !have(&["qemu-io", "nbdcopy"]) {
        return;
    }
    let (sand, mut bytes, parent) = one(33);
    let path = sand.at("fix.overlay");
    let kept = format!("fix=vm,keep={path}");
    let server = serve(&sand, &kept);
    let _ = qemu_io(&server.uri("fix", ""), &["write -P 5 2M 64k", "write -z 6M 64k", "flush"]);
    bytes[2 * MIB as usize..][..65_536].fill(5);
    bytes[6 * MIB as usize..][..65_536].fill(0);
    let control = sand.at("control");
    let commit =
        ["--json", "overlay", "commit", "fix", "--name", "vm", "--control", &control, "--tag", "why=test"];
    let record = sand.done(&commit).json();
    assert_eq!(
        (&record["parent"], &record["tags"]["why"]),
        (&Value::from(parent), &"test".into()),
        "{record}"
    );
    let read = record["stats"]["bytes_read"].as_u64().expect("a number");
    assert!(read <= 256 * 1024, "{read} bytes were read for 64 KiB that were written");
    assert_same_bytes(&sand.cat("vm"), &bytes, "the new backup");
    let _ = qemu_io(&server.uri("fix", ""), &["write -P 6 4M 4k", "flush"]);
    let _ = server.stop().expect_code(0);
    bytes[4 * MIB as usize..][..4096].fill(6);
    let record = sand.done(&["--json", "overlay", "commit", &path, "--name", "other"]).json();
    assert!(record["stats"]["bytes_read"].as_u64().is_some_and(|read| read <= 512 * 1024), "{record}");
    assert_same_bytes(&sand.cat("other"), &bytes, "the backup of its file");
    let _ = sand.ends(1, &["overlay", "commit", "nobody", "--name", "vm"]).saying("nobody");
    sand.assert_sound();
}

#[test]
fn d7_the_backup_under_a_kept_overlay_is_pinned_until_the_overlay_is_removed() {
    let (sand, _, id) = one(36);
    let path = sand.at("fix.overlay");
    let pins = || sand.done(&["--json", "show", &id]).json()["pins"].as_array().map_or(0, Vec::len);
    let server = serve(&sand, "try=vm");
    let _ = server.stop().expect_code(0);
    assert_eq!(pins(), 0, "one that is thrown away pins nothing for longer than it lives");
    for _ in 0..2 {
        let server = serve(&sand, &format!("fix=vm,keep={path}"));
        assert_eq!(pins(), 1);
        let _ = sand.ends(4, &["overlay", "remove", &path]);
        let _ = server.stop().expect_code(0);
    }
    let _ = sand.ends(4, &["overlay", "remove", &sand.at("disk.img")]);
    assert!(sand.done(&["show", "vm"]).text().contains("needed by"));
    let _ = sand.done(&["overlay", "remove", &path]);
    assert!(pins() == 0 && !std::path::Path::new(&path).exists());
    let _ = sand.ends(1, &["overlay", "remove", &path]);
}

#[test]
fn no_overlay_is_kept_inside_the_repository() {
    let (sand, _, _) = one(34);
    let overlay = format!("x=vm,keep={}", sand.repo().join("packs/x").display());
    let listen = format!("unix:{}", sand.at("s"));
    let _ =
        sand.ends(4, &["serve", "--listen", &listen, "--overlay", &overlay]).saying("inside the repository");
}

#[test]
fn files_that_are_not_this_overlays_are_refused_untouched() {
    let (sand, _, _) = one(34);
    let listen = format!("unix:{}", sand.at("s"));
    let refused = |code: i32, overlay: &str, words: &str| {
        let output = sand.ends(code, &["serve", "--listen", &listen, "--overlay", overlay]).saying(words);
        assert_eq!(output.text(), "", "{output}");
    };
    let other = file(&sand, "something", &[7; 8192]);
    refused(4, &format!("x=vm,keep={other}"), "block map");
    assert_eq!(std::fs::read(&other).expect("read"), [7; 8192]);
    refused(1, "x=nobody", "nobody");
    let kept = sand.at("kept");
    let server = serve(&sand, &format!("x=vm,keep={kept}"));
    let _ = server.stop().expect_code(0);
    let second = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(35, LEN))]);
    refused(4, &format!("x={},keep={kept}", second.id()), "lies on");
    let elsewhere = Sandbox::with_repo();
    let _ = elsewhere.backup("vm", &[&file(&elsewhere, "disk.img", &mixed(34, LEN))]);
    let output =
        elsewhere.ends(4, &["serve", "--listen", &listen, "--overlay", &format!("x=vm,keep={kept}")]);
    let _ = output.saying("another repository");
    // Its last page torn, the one before it counts; both harmed, it is damage and not a guess.
    let mut bytes = std::fs::read(&kept).expect("read");
    bytes[4096..3 * 4096].fill(0x55);
    std::fs::write(&kept, bytes).expect("write");
    refused(3, &format!("x=vm@latest~1,keep={kept}"), "map");
    let mut no_repository = sand.command(&["serve", "--listen", &listen, "--overlay", "x=vm"]);
    let _ = no_repository.env_remove("AFTERIMAGE_REPO");
    let _ = crate::common::run(no_repository, std::time::Duration::from_secs(30)).expect_code(2);
}

#[test]
fn r6_a_disk_that_is_full_under_an_overlay_is_no_space_and_loses_nothing() {
    if !shell::is_there() || !have(&["prlimit", "nbdcopy"]) {
        return;
    }
    let (sand, mut bytes, _) = one(36);
    let path = sand.at("small.overlay");
    let server = serve(&sand, &format!("x=vm,keep={path}"));
    let script =
        |script: &str| shell::on(&server.uri("x", ""), script).expect_code(0).text().trim().to_owned();
    let _ = script("h.pwrite(b'a' * 8192, 0)\nh.flush()");
    let limit = format!("--fsize={}", 65_536 + MIB);
    let _ = tool("prlimit", &["--pid", &server.running.pid().to_string(), &limit]);
    assert_eq!(script("print(no(h.pwrite, b'b' * 4096, 4 * 2 ** 20))"), "ENOSPC");
    assert_eq!(script("print(no(h.pwrite, b'c' * 4096, 4096), no(h.flush))"), "done done");
    bytes[..4096].fill(b'a');
    bytes[4096..8192].fill(b'c');
    assert_same_bytes(&content(&sand, &server.uri("x", "")), &bytes, "the overlay");
    let _ = server.stop().expect_code(0);
    let server = serve(&sand, &format!("x=vm,keep={path}"));
    assert_same_bytes(&content(&sand, &server.uri("x", "")), &bytes, "after a restart");
}
