//! Exports as targets: written whole, zeroed where they must be, refused where they must not be written.

use crate::common::Sandbox;
use crate::common::images::{MIB, file, mixed};
use crate::servers::{NbdServer, nbdkit, ours, same_files};

/// A repository with one backup, and the file that was backed up.
fn one(len: u64) -> (Sandbox, String) {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(11, len));
    let _ = sand.backup("vm", &[&image]);
    (sand, image)
}

#[test]
fn r5_a_dirty_export_becomes_the_image_and_keeps_its_tail() {
    let (sand, image) = one(9 * MIB + 512);
    let dirty = file(&sand, "target.raw", &vec![0xaa; 10 * MIB as usize]);
    let Some(server) = nbdkit(&sand, "k.sock", &["file", &dirty]) else { return };
    let report = sand.done(&["--json", "restore", "vm", &server.uri("", ""), "--verify"]).json();
    assert_eq!(report["verified"], true, "{report}");
    drop(server);
    let (bytes, expected) = (std::fs::read(&dirty).expect("read"), std::fs::read(&image).expect("read"));
    assert!(bytes[..expected.len()] == expected, "the image on the target");
    assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0xaa), "the tail was touched");
}

#[test]
fn r5_servers_without_zeroes_or_small_blocks_are_written_all_the_same() {
    for extra in [
        &["--filter=nozero"][..],
        &["--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-error-policy=error"],
    ] {
        let (sand, image) = one(3 * MIB + 1536);
        let dirty = file(&sand, "target.raw", &vec![0xaa; 4 * MIB as usize]);
        let (filters, parameters): (Vec<&str>, Vec<&str>) =
            extra.iter().partition(|word| word.starts_with("--"));
        let args = [filters, vec!["file", &dirty], parameters].concat();
        let Some(server) = nbdkit(&sand, "k.sock", &args) else { return };
        let report = sand.done(&["--json", "restore", "vm", &server.uri("", ""), "--verify"]).json();
        assert_eq!(report["verified"], true, "{extra:?}: {report}");
        drop(server);
        let (bytes, expected) = (std::fs::read(&dirty).expect("read"), std::fs::read(&image).expect("read"));
        assert!(bytes[..expected.len()] == expected && bytes[expected.len()] == 0xaa, "{extra:?}");
    }
}

#[test]
fn a_differential_restore_writes_only_what_differs() {
    let (sand, _) = one(8 * MIB);
    let Some(server) = nbdkit(&sand, "k.sock", &["memory", "8M"]) else { return };
    let _ = sand.done(&["restore", "vm", &server.uri("", "")]);
    let report =
        sand.done(&["--json", "restore", "vm", &server.uri("", ""), "--differential", "--verify"]).json();
    assert_eq!((&report["bytes_written"], &report["verified"]), (&0.into(), &true.into()), "{report}");
}

#[test]
fn r1_exports_that_are_too_small_or_read_only_are_refused_untouched() {
    let (sand, _) = one(2 * MIB);
    let small = file(&sand, "small.raw", &vec![0xaa; 2 * MIB as usize - 512]);
    let fits = file(&sand, "fits.raw", &vec![0xaa; 2 * MIB as usize]);
    let Some(server) = nbdkit(&sand, "small", &["file", &small]) else { return };
    let _ = sand.ends(4, &["restore", "vm", &server.uri("", "")]).saying("too small");
    let Some(server) = nbdkit(&sand, "read-only", &["-r", "file", &fits]) else { return };
    let _ = sand.ends(4, &["restore", "vm", &server.uri("", "")]).saying("read-only");
    for path in [small, fits] {
        assert!(
            std::fs::read(path).expect("read").iter().all(|byte| *byte == 0xaa),
            "refused, but written to"
        );
    }
}

#[test]
fn r3_the_source_itself_is_overwritten_only_by_force() {
    let sand = Sandbox::with_repo();
    let Some(server) = nbdkit(&sand, "k.sock", &["memory", "2M"]) else { return };
    let _ = sand.backup("vm", &[&server.uri("", "")]);
    let _ = sand.ends(4, &["restore", "vm", &server.uri("", "")]).saying("--force");
    let _ = sand.done(&["restore", "vm", &server.uri("", ""), "--force"]);
}

#[test]
fn r6_a_write_that_fails_fails_the_restore_and_says_where() {
    let (sand, _) = one(4 * MIB);
    let args = ["--filter=error", "memory", "4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let Some(server) = nbdkit(&sand, "k.sock", &args) else { return };
    let _ = sand.ends(1, &["restore", "vm", &server.uri("", "")]).saying("offset").saying("--differential");
}

#[test]
fn our_own_served_target_takes_a_restore() {
    let (sand, image) = one(5 * MIB);
    let target = sand.at("new.raw");
    let server = ours(&sand, &["--target", &format!("new={target},size=5M,create")]);
    let report = sand.done(&["--json", "restore", "vm", &server.uri("new", ""), "--verify"]).json();
    assert_eq!(report["verified"], true, "{report}");
    let _ = server.stop().expect_code(0);
    same_files(&target, &image);
}

#[test]
fn n16_a_server_from_before_structured_replies_gives_and_takes_every_byte() {
    let (sand, image) = one(6 * MIB);
    let disk = file(&sand, "old.raw", &vec![0xaa; 6 * MIB as usize]);
    let Some(server) = NbdServer::start(&sand, &disk) else { return };
    let report = sand.done(&["--json", "restore", "vm", &server.uri(), "--verify"]).json();
    assert_eq!(report["verified"], true, "{report}");
    same_files(&disk, &image);
    let _ = sand.backup("again", &[&server.uri()]);
    assert!(sand.cat("again") == std::fs::read(&image).expect("read"), "what was backed up differs");
}
