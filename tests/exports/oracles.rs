//! nbdkit at the other end of every copy: its `sparse-random` says what each byte is, its `checkwrite` takes no other.

use crate::common::images::MIB;
use crate::common::{Sandbox, tool};
use crate::servers::{Listening, have, nbdkit, ours};
use crate::torture::wait_until_done;
use std::time::{Duration, Instant};

const SIZE: &str = "96M";

fn oracle(sand: &Sandbox, name: &str, filters: &[&str], seed: &str) -> Option<Listening> {
    let seed = format!("seed={seed}");
    let disk = ["sparse-random", SIZE, &seed, "percent=20"];
    nbdkit(sand, name, &[filters, &disk].concat())
}

fn copy(connections: u32, from: &str, to: &str) {
    let _ = tool("nbdcopy", &[&format!("--connections={connections}"), from, to]);
}

#[test]
fn n16_backups_targets_overlays_captures_and_live_restores_give_what_the_oracle_expects() {
    if !have(&["nbdcopy", "nbdinfo", "nbdkit"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let Some(source) = oracle(&sand, "source", &[], "21") else { return };
    let Some(judge) = oracle(&sand, "judge", &["--filter=checkwrite"], "21") else { return };
    let judge = judge.uri("", "");
    let _ = sand.backup("vm", &[&source.uri("", "")]);
    let target = format!("t={},size={SIZE},create", sand.at("t.raw"));
    let live = format!("live=vm,target={},state={}", sand.at("live.raw"), sand.at("live.state"));
    let capture = format!("copied,size={SIZE}");
    let words = ["--live", &live, "--target", &target, "--overlay", "o=vm", "--capture", &capture];
    let server = ours(&sand, &[&["--control", &sand.at("control")], &words[..]].concat());
    for connections in [1, 4] {
        for export in ["vm", "o", "live"] {
            copy(connections, &server.uri(export, ""), &judge);
        }
        for export in ["t", "copied", "o"] {
            copy(connections, &source.uri("", ""), &server.uri(export, ""));
            copy(connections, &server.uri(export, ""), &judge);
        }
        copy(connections, &server.uri("vm", ""), &server.uri("t", ""));
        copy(connections, &server.uri("t", ""), &judge);
    }
    // Two copies onto a capture are two backups, and exports some seconds later.
    let first = server.uri("copied@latest~1", "");
    let is_there = || {
        let mut asked = std::process::Command::new("nbdinfo");
        let _ = asked.args(["--size", &first]);
        crate::common::run(asked, Duration::from_secs(20)).code() == Some(0)
    };
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < Duration::from_secs(30), "no second backup: {}", sand.list().len());
        std::thread::sleep(Duration::from_millis(100));
    }
    copy(4, &first, &judge);
    let _ = server.stop().expect_code(0);
    let taken = crate::common::images::allocated(&sand.at("t.raw"));
    assert!(taken < 64 * MIB, "holes were filled: {taken} bytes");
}

/// The judge is awake: the disk of another seed is refused.
#[test]
fn n16_the_oracle_refuses_what_it_does_not_expect() {
    if !have(&["nbdcopy", "nbdkit"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let Some(source) = oracle(&sand, "source", &[], "22") else { return };
    let Some(judge) = oracle(&sand, "judge", &["--filter=checkwrite"], "23") else { return };
    let _ = sand.backup("vm", &[&source.uri("", "")]);
    let live = format!("live=vm,target={},state={}", sand.at("live.raw"), sand.at("live.state"));
    let server = ours(&sand, &["--control", &sand.at("control"), "--live", &live]);
    wait_until_done(&sand);
    let mut refused = std::process::Command::new("nbdcopy");
    let _ = refused.args([server.uri("live", ""), judge.uri("", "")]);
    assert_ne!(crate::common::run(refused, Duration::from_secs(60)).code(), Some(0));
    let _ = server.stop().expect_code(0);
}
