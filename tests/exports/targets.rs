//! Targets: what is there already is not written again, and whoever has one for itself has it with all of its connections.

use crate::common::images::{MIB, allocated, file, mixed, overwrite};
use crate::common::{Running, Sandbox, tool};
use crate::servers::{Listening, have, ours, same_files};
use crate::shell;
use std::time::Duration;

/// A counter of the only target of a server.
fn figure(sand: &Sandbox, key: &str) -> u64 {
    let figures = sand.done(&["--json", "stats", &sand.at("control")]).json();
    figures["exports"][0][key].as_u64().unwrap_or_else(|| panic!("no {key} in {figures}"))
}

fn serve(sand: &Sandbox, target: &str, options: &str) -> Listening {
    ours(sand, &["--control", &sand.at("control"), "--target", &format!("t={target}{options}")])
}

#[test]
fn r5_copiers_that_know_nothing_of_it_make_a_differential_restore_onto_an_old_copy() {
    if !have(&["nbdcopy", "qemu-img"]) {
        return;
    }
    const LEN: u64 = 32 * MIB;
    for copier in ["nbdcopy", "qemu-img"] {
        let sand = Sandbox::with_repo();
        let image = file(&sand, "disk.img", &mixed(21, LEN));
        let target = file(&sand, "old.raw", &std::fs::read(&image).expect("read"));
        for piece in 0..80 {
            overwrite(&image, piece * LEN / 80 / 4096 * 4096, &[piece as u8; 4096]);
        }
        let _ = sand.backup("vm", &[&image]);
        let server = serve(&sand, &target, "");
        let (from, to) = (server.uri("vm", ""), server.uri("t", ""));
        let _ = match copier {
            "nbdcopy" => tool("nbdcopy", &["--flush", &from, &to]),
            _ => tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &from, &to]),
        };
        let (written, spared) = (figure(&sand, "written_bytes"), figure(&sand, "spared_bytes"));
        assert!(written <= LEN * 12 / 1000, "{copier} wrote {written} of {LEN} bytes for 1 % that differed");
        assert!(spared > LEN / 2, "{copier}: {spared} spared");
        let output = server.stop().expect_code(0);
        assert!(output.stderr.contains("spared"), "{output}");
        same_files(&target, &image);
    }
}

#[test]
fn r5_a_target_full_of_something_else_becomes_the_image() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(22, 8 * MIB));
    let _ = sand.backup("vm", &[&image]);
    let target = file(&sand, "dirty.raw", &vec![0xaa; 8 * MIB as usize]);
    let server = serve(&sand, &target, "");
    let _ = tool("nbdcopy", &[&server.uri("vm", ""), &server.uri("t", "")]);
    let _ = server.stop().expect_code(0);
    same_files(&target, &image);
}

#[test]
fn zeroes_cost_nothing_on_a_fresh_target_unless_they_shall_be_provisioned() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = sand.at("new.raw");
    let server = serve(&sand, &target, ",size=16M,create");
    let _ = shell::on(&server.uri("t", ""), "h.zero(2 ** 24, 0)\nh.pwrite(bytes(2 ** 20), 0)\nh.flush()");
    assert_eq!((figure(&sand, "zeroed_bytes"), figure(&sand, "written_bytes")), (0, 0));
    assert!(allocated(&target) < MIB, "{}", allocated(&target));
    let _ = shell::on(&server.uri("t", ""), "h.zero(2 ** 22, 0, nbd.CMD_FLAG_NO_HOLE)\nh.flush()");
    assert!(allocated(&target) >= 4 * MIB, "{}", allocated(&target));
    let _ = server.stop().expect_code(0);
}

#[test]
fn n17_an_exclusive_target_is_one_clients_with_all_of_its_connections() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let server = serve(&sand, &target, ",exclusive");
    let uri = server.uri("t", "");
    let mark = sand.at("both-in");
    let script = format!(
        "g = nbd.NBD()\ng.connect_uri(sys.argv[1])\ng.pwrite(b'x' * 512, 0)\nh.flush()\nprint(h.pread(1, 0))\n\
        open('{mark}', 'w').close()\ntime.sleep(60)"
    );
    let holder = Running::start(shell::command(&uri, &script));
    let began = std::time::Instant::now();
    while !std::path::Path::new(&mark).exists() {
        assert!(began.elapsed().as_secs() < 20, "its second connection was kept out");
        std::thread::sleep(Duration::from_millis(20));
    }
    let other = shell::on(&uri, "print('in')");
    assert!(other.code() != Some(0) && other.text().is_empty(), "{other}");
    drop(holder);
    let began = std::time::Instant::now();
    while shell::on(&uri, "print('in')").code() != Some(0) {
        assert!(began.elapsed().as_secs() < 20, "it stays taken");
    }
}

#[test]
fn n12_a_client_that_vanishes_is_told_from_one_that_was_done() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let server = serve(&sand, &target, "");
    let _ = shell::on(&server.uri("t", ""), "h.pwrite(b'x' * 512, 0)\nh.shutdown()").expect_code(0);
    let began = std::time::Instant::now();
    while figure(&sand, "connections") > 0 {
        assert!(began.elapsed().as_secs() < 20, "it never left");
    }
    assert_eq!(figure(&sand, "broken"), 0);
    let vanishes = "import os, socket, struct\nh.pwrite(b'y' * 512, 512)\nos._exit(0)";
    let _ = shell::on(&server.uri("t", ""), vanishes).expect_code(0);
    let began = std::time::Instant::now();
    while figure(&sand, "broken") != 1 {
        assert!(began.elapsed().as_secs() < 20, "nobody noticed");
    }
    let output = server.stop().expect_code(0);
    assert!(output.stderr.contains("without a goodbye"), "{output}");
    let bytes = std::fs::read(&target).expect("read");
    assert!(
        bytes[..512].iter().all(|byte| *byte == b'x') && bytes[512..1024].iter().all(|byte| *byte == b'y')
    );
}
