//! nbdkit as the judge of our bytes: it knows what every byte of its disk is, and takes no other.

use crate::common::images::{KIB, MIB};
use crate::common::{Sandbox, tool};
use crate::servers::{Listening, have, nbdkit, ours};

/// A disk that one number determines, in runs with holes between them.
fn disk(seed: u32) -> Vec<String> {
    vec!["sparse-random".into(), "128M".into(), format!("seed={seed}"), "percent=20".into()]
}

fn server(sand: &Sandbox, name: &str, filters: &[&str], seed: u32) -> Option<Listening> {
    let disk = disk(seed);
    let args: Vec<&str> = filters.iter().copied().chain(disk.iter().map(String::as_str)).collect();
    nbdkit(sand, name, &args)
}

#[test]
fn n16_what_is_restored_is_what_the_oracle_expects_byte_for_byte() {
    let sand = Sandbox::with_repo();
    let Some(source) = server(&sand, "source", &[], 7) else { return };
    let record = sand.backup("random", &[&source.uri("", "")]);
    assert!(record.stat("bytes_read") < 64 * MIB, "holes were read: {}", record.0);
    let Some(same) = server(&sand, "same", &["--filter=checkwrite"], 7) else { return };
    let report = sand.done(&["--json", "restore", "random", &same.uri("", ""), "--verify"]).json();
    assert_eq!(report["verified"], true, "{report}");
    // The oracle is awake: the bytes of another disk are refused.
    let Some(other) = server(&sand, "other", &["--filter=checkwrite"], 8) else { return };
    let _ = sand.ends(1, &["restore", "random", &other.uri("", "")]).saying("offset");
}

#[test]
fn n16_what_our_server_keeps_is_what_the_oracle_gave_it() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = sand.at("t.raw");
    let ours = ours(&sand, &["--target", &format!("t={target},size=128M,create")]);
    let Some(source) = server(&sand, "source", &[], 9) else { return };
    let Some(same) = server(&sand, "same", &["--filter=checkwrite"], 9) else { return };
    for connections in ["--connections=1", "--connections=4"] {
        let _ = tool("nbdcopy", &[connections, &source.uri("", ""), &ours.uri("t", "")]);
        let _ = tool("nbdcopy", &[connections, &ours.uri("t", ""), &same.uri("", "")]);
    }
    let _ = ours.stop().expect_code(0);
    let taken = crate::common::images::allocated(&target);
    assert!(taken < 64 * MIB, "holes were filled: {} KiB", taken / KIB);
}

#[test]
fn n16_a_backup_of_the_oracle_reads_as_the_oracle_does() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let Some(source) = server(&sand, "source", &[], 10) else { return };
    let _ = sand.backup("random", &[&source.uri("", "")]);
    let copy = sand.at("copy.raw");
    let _ = tool("nbdcopy", &["--allocated", &source.uri("", ""), &copy]);
    let expected = std::fs::read(&copy).expect("read");
    crate::common::images::assert_same_bytes(&sand.cat("random"), &expected, "cat of the backup");
    sand.assert_sound();
}
