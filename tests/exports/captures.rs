//! Captures: what is written becomes a backup, by itself only when it is whole.

use crate::common::images::{MIB, assert_same_bytes, file, mixed};
use crate::common::{Record, Running, Sandbox, tool};
use crate::servers::{Listening, have, ours};
use crate::shell;
use crate::torture::facts_of;
use serde_json::Value;
use std::time::{Duration, Instant};

const LEN: u64 = 8 * MIB + 1536;

fn serve(sand: &Sandbox, capture: &str) -> Listening {
    ours(sand, &["--control", &sand.at("control"), "--capture", capture])
}

/// Waits until a capture has this state, and gives the backups that there are then.
fn once(sand: &Sandbox, state: &str) -> Vec<Record> {
    let began = Instant::now();
    loop {
        let facts = facts_of(sand, "capture");
        if facts["state"] == state {
            return sand.list();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never {state}: {facts}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for that many backups.
fn backups(sand: &Sandbox, count: usize) -> Vec<Record> {
    let list = once(sand, "empty");
    assert_eq!(list.len(), count, "backups");
    list
}

fn commit(sand: &Sandbox) -> Value {
    sand.done(&["--json", "capture", "commit", "vm", "--control", &sand.at("control")]).json()
}

#[test]
fn what_common_tools_copy_onto_a_capture_is_a_backup_by_itself_and_the_next_one_shares_with_it() {
    if !have(&["qemu-img", "nbdcopy"]) {
        return;
    }
    for copier in ["qemu-img", "nbdcopy"] {
        let sand = Sandbox::with_repo();
        let mut bytes = mixed(51, LEN);
        bytes[2 * MIB as usize..4 * MIB as usize].fill(0);
        let image = file(&sand, "disk.img", &bytes);
        let server = serve(&sand, &format!("vm,size={LEN}"));
        let uri = server.uri("vm", "");
        let copy = || match copier {
            "nbdcopy" => tool("nbdcopy", &[&image, &uri]),
            _ => tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, &uri]),
        };
        let _ = copy();
        let first = backups(&sand, 1);
        assert_same_bytes(&sand.cat("vm"), &bytes, "the first backup");
        bytes[5 * MIB as usize..][..4096].fill(7);
        let _ = file(&sand, "disk.img", &bytes);
        let _ = copy();
        let second = backups(&sand, 2);
        assert_eq!(second[1].0["parent"], first[0].0["id"], "{copier}");
        assert!(second[1].stat("bytes_new") <= 128 * 1024, "{copier}: {}", second[1].0);
        assert_same_bytes(&sand.cat("vm"), &bytes, "the second backup");
        // It shows what was backed up, and takes more.
        let out = sand.at("out");
        let _ = tool("nbdcopy", &[&uri, &out]);
        assert_same_bytes(&std::fs::read(&out).expect("read"), &bytes, "read back");
        let _ = server.stop().expect_code(0);
        sand.assert_sound();
    }
}

#[test]
fn a_part_is_no_backup_until_it_is_committed_and_then_only_what_was_written_was_read() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let mut bytes = mixed(52, LEN);
    let parent = sand.backup("vm", &[&file(&sand, "disk.img", &bytes)]);
    let server = serve(&sand, "vm");
    let refused = sand.ends(1, &["capture", "commit", "vm", "--control", &sand.at("control")]);
    let _ = refused.saying("nothing was written");
    let _ = shell::on(
        &server.uri("vm", ""),
        "h.pwrite(b'x' * 5000, 700); h.zero(2 ** 20, 2 ** 21)\nh.shutdown()",
    )
    .expect_code(0);
    bytes[700..5700].fill(b'x');
    bytes[2 * MIB as usize..3 * MIB as usize].fill(0);
    assert_eq!(once(&sand, "partial").len(), 1, "a part is not listed");
    // Several visits are one capture.
    let _ = shell::on(&server.uri("vm", ""), "h.pwrite(b'y' * 100, 2 ** 22)\nh.shutdown()").expect_code(0);
    bytes[4 * MIB as usize..][..100].fill(b'y');
    let _ = once(&sand, "partial");
    let record = commit(&sand);
    assert_eq!(record["parent"], Value::from(parent.id()));
    let read = record["stats"]["bytes_read"].as_u64().expect("a number");
    assert!(read <= 512 * 1024, "{read} bytes were read for what was written");
    assert_same_bytes(&sand.cat("vm"), &bytes, "the new backup");
    // At once, before anybody has looked at the repository again: the next part lies on that backup and no other.
    let script = "print(h.pread(3, 2 ** 22)); h.pwrite(b'z' * 100, 2 ** 23)\nh.shutdown()";
    let said = shell::on(&server.uri("vm", ""), script).expect_code(0);
    assert!(said.text().contains("yyy"), "{said}");
    bytes[8 * MIB as usize..][..100].fill(b'z');
    let _ = once(&sand, "partial");
    let next = commit(&sand);
    assert_eq!(next["parent"], record["id"]);
    assert_same_bytes(&sand.cat("vm"), &bytes, "the one after it");
    let text = server.stop().expect_code(0);
    assert!(text.stderr.contains("capture commit vm"), "{text}");
    sand.assert_sound();
}

#[test]
fn a_part_of_the_first_capture_lies_on_zeroes_and_a_larger_one_than_its_parent_ends_in_them() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let server = serve(&sand, &format!("vm,size={LEN}"));
    let _ = shell::on(&server.uri("vm", ""), "h.pwrite(b'x' * 10, 2 ** 20 + 1)\nh.shutdown()").expect_code(0);
    let _ = once(&sand, "partial");
    let _ = commit(&sand);
    let _ = server.stop().expect_code(0);
    let mut bytes = vec![0; LEN as usize];
    bytes[MIB as usize + 1..][..10].fill(b'x');
    assert_same_bytes(&sand.cat("vm"), &bytes, "over nothing");
    let larger = LEN + 3 * MIB + 5;
    let server = serve(&sand, &format!("vm,size={larger}"));
    let script = format!(
        "print(h.get_size()); h.pwrite(b'z' * 10, {LEN} - 5); print(h.pread(20, {LEN} - 10)); h.shutdown()"
    );
    let said = shell::on(&server.uri("vm", ""), &script).expect_code(0);
    assert!(
        said.text().contains(&format!("{larger}\nbytearray(b'\\x00\\x00\\x00\\x00\\x00zzzzzzzzzz")),
        "{said}"
    );
    let _ = once(&sand, "partial");
    let _ = commit(&sand);
    bytes.resize(larger as usize, 0);
    bytes[LEN as usize - 5..][..10].fill(b'z');
    assert_same_bytes(&sand.cat("vm"), &bytes, "over a smaller backup");
    let _ = server.stop().expect_code(0);
    sand.assert_sound();
}

#[test]
fn n12_whoever_vanishes_or_leaves_out_the_last_sector_has_made_no_backup() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let server = serve(&sand, &format!("vm,size={LEN}"));
    let write = |to: u64, end: &str| {
        format!("import os\nfor at in range(0, {to}, 512): h.pwrite(b'q' * 512, at)\nh.flush()\n{end}")
    };
    for script in
        [write(LEN, "os._exit(0)"), write(LEN - 512, "h.shutdown()"), write(LEN / 2, "h.shutdown()")]
    {
        let _ = shell::on(&server.uri("vm", ""), &script).expect_code(0);
        assert_eq!(once(&sand, "partial").len(), 0, "{script}");
    }
    // What earlier visits wrote counts for nothing: it may be of another moment.
    let _ = shell::on(&server.uri("vm", ""), &format!("h.pwrite(b'q' * 512, {LEN} - 512)\nh.shutdown()"))
        .expect_code(0);
    assert_eq!(once(&sand, "partial").len(), 0, "two visits");
    let _ = shell::on(&server.uri("vm", ""), &write(LEN, "h.shutdown()")).expect_code(0);
    let _ = backups(&sand, 1);
    assert_same_bytes(&sand.cat("vm"), &vec![b'q'; LEN as usize], "the whole visit");
    // An end that nobody committed before lists nothing.
    let _ = shell::on(&server.uri("vm", ""), "h.pwrite(b'r' * 512, 0)\nh.shutdown()").expect_code(0);
    let _ = once(&sand, "partial");
    let said = server.stop().expect_code(0);
    assert!(said.stderr.contains("given up"), "{said}");
    let server = serve(&sand, "vm");
    assert_eq!(once(&sand, "empty").len(), 1);
    let said = shell::on(&server.uri("vm", ""), "print(h.pread(3, 0))").expect_code(0);
    assert!(said.text().contains("qqq"), "{said}");
    let _ = server.stop().expect_code(0);
}

#[test]
fn n17_one_client_at_a_time_has_a_capture_and_nobody_commits_under_it() {
    if !shell::is_there() || !have(&["nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let server = serve(&sand, &format!("vm,size={LEN}"));
    let uri = server.uri("vm", "");
    let (ready, go) = (sand.at("ready"), sand.at("go"));
    let script = format!(
        "import os\nh.pwrite(b'x', 0)\nopen('{ready}', 'w')\nwhile not os.path.exists('{go}'): time.sleep(0.01)\nh.shutdown()"
    );
    let writer = Running::start(shell::command(&uri, &script));
    let began = Instant::now();
    while !std::path::Path::new(&ready).exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "the first client does not come in");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(shell::on(&uri, "print('in')").code(), Some(0), "a second client");
    let refused = sand.ends(1, &["capture", "commit", "vm", "--control", &sand.at("control")]);
    let _ = refused.saying("a client is attached");
    std::fs::write(&go, "").expect("write");
    let _ = writer.wait(Duration::from_secs(20)).expect_code(0);
    let _ = once(&sand, "partial");
    let _ = shell::on(&uri, "print('in')").expect_code(0);
    let _ = server.stop().expect_code(0);
}

#[test]
fn a_copy_that_was_whole_is_a_backup_also_when_the_server_is_stopped_at_once() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let bytes = mixed(57, 32 * MIB);
    let image = file(&sand, "disk.img", &bytes);
    let server = serve(&sand, "vm,size=32M");
    let _ = tool("nbdcopy", &[&image, &server.uri("vm", "")]);
    let _ = server.stop().expect_code(0);
    assert_same_bytes(&sand.cat("vm"), &bytes, "the backup");
    sand.assert_sound();
}

#[test]
fn a_capture_of_a_server_that_its_client_started_is_a_backup_before_that_server_ends() {
    if !shell::is_there() || !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let bytes = mixed(58, 16 * MIB);
    let image = file(&sand, "disk.img", &bytes);
    let ours = env!("CARGO_BIN_EXE_afterimage");
    // By a socket that it inherits, and told to stop as soon as the client is done; then as the other end of a pipe.
    let mut copy = std::process::Command::new("nbdcopy");
    let _ = copy.args([&image, "--", "[", ours, "serve", "--capture", "activated,size=16M", "]"]);
    let mut script = std::process::Command::new("/usr/bin/python3");
    let write = format!(
        "import nbd\nh = nbd.NBD()\nh.connect_command(['{ours}', 'serve', '--single', '--capture', 'single,size=16M'])\n\
        data = open('{image}', 'rb').read()\nfor at in range(0, len(data), 2 ** 20): h.pwrite(data[at:at + 2 ** 20], at)\nh.shutdown()"
    );
    let _ = script.args(["-c", &write]);
    for (mut client, name) in [(copy, "activated"), (script, "single")] {
        for (key, value) in sand.command(&[]).get_envs() {
            let _ = value.map(|value| client.env(key, value));
        }
        let _ = crate::common::run(client, Duration::from_secs(60)).expect_code(0);
        // The client does not wait for its server.
        let began = Instant::now();
        while !sand.list().iter().any(|record| record.text("name") == name) {
            assert!(began.elapsed() < Duration::from_secs(20), "{name}: no backup was made");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_same_bytes(&sand.cat(name), &bytes, name);
    }
}

/// With what is written, and before the goodbye, nothing can be stored any more.
fn copy_into_nothing(sand: &Sandbox) -> String {
    let (packs, away) = (sand.at("repo/packs"), sand.at("repo/away"));
    format!(
        "import os\nh.pwrite(os.urandom(2 ** 20), 0)\nos.rename('{packs}', '{away}')\nopen('{packs}', 'w').close()\nh.shutdown()\n"
    )
}

fn mend(sand: &Sandbox) {
    std::fs::remove_file(sand.at("repo/packs")).expect("remove");
    std::fs::rename(sand.at("repo/away"), sand.at("repo/packs")).expect("rename");
}

#[test]
fn r6_a_server_whose_last_copy_became_no_backup_ends_with_an_error() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let _ = sand.backup("other", &[&file(&sand, "disk.img", &mixed(59, MIB))]);
    // Asked to stop as soon as the client has left, and with the only client that it had.
    let server = serve(&sand, "vm,size=1M");
    let _ = shell::on(&server.uri("vm", ""), &copy_into_nothing(&sand)).expect_code(0);
    let _ = server.stop().expect_code(4).saying("no backup was made");
    mend(&sand);
    let ours = env!("CARGO_BIN_EXE_afterimage");
    let script = format!(
        "import nbd, socket, subprocess, sys\nours, theirs = socket.socketpair()\n\
        server = subprocess.Popen(['{ours}', 'serve', '--single', '--capture', 'vm,size=1M'], stdin=theirs, stdout=theirs)\n\
        theirs.close()\nh = nbd.NBD()\nh.connect_socket(ours.detach())\n{}print('ended with', server.wait(50))",
        copy_into_nothing(&sand)
    );
    let mut client = std::process::Command::new("/usr/bin/python3");
    let _ = client.args(["-c", &script]);
    for (key, value) in sand.command(&[]).get_envs() {
        let _ = value.map(|value| client.env(key, value));
    }
    let said = crate::common::run(client, Duration::from_secs(60)).expect_code(0);
    assert_eq!(said.text().trim(), "ended with 4", "{said}");
    let _ = said.saying("no backup was made");
    mend(&sand);
    assert_eq!(sand.list().len(), 1);
}

#[test]
fn a_commit_without_room_for_what_is_written_next_lists_nothing_and_may_be_asked_for_again() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let (place, socket) = (sand.at("place"), sand.at("serve.sock"));
    std::fs::create_dir(&place).expect("mkdir");
    let (listen, control) = (format!("unix:{socket}"), sand.at("control"));
    let mut command =
        sand.command(&["serve", "--listen", &listen, "--control", &control, "--capture", "vm,size=1M"]);
    let _ = command.env("TMPDIR", &place);
    let server = Listening::start(command, &socket);
    let _ = shell::on(&server.uri("vm", ""), "h.pwrite(b'x' * 512, 0)\nh.shutdown()").expect_code(0);
    let _ = once(&sand, "partial");
    std::fs::remove_dir(&place).expect("rmdir");
    let _ = sand.ends(1, &["capture", "commit", "vm", "--control", &control]);
    assert_eq!(sand.list().len(), 0, "it was said to have failed");
    std::fs::create_dir(&place).expect("mkdir");
    let _ = commit(&sand);
    assert_eq!(sand.list().len(), 1);
    let _ = server.stop().expect_code(0);
}

#[test]
fn words_that_make_no_capture_are_refused() {
    let sand = Sandbox::with_repo();
    let listen = format!("unix:{}", sand.at("serve.sock"));
    for (words, why) in [
        ("vm", "size=S"),
        ("vm,size=0x", "size"),
        ("a@b,size=1M", "name"),
        ("vm,size=512T", "256 TiB"),
        ("vm,keep=/x", "size=S"),
    ] {
        let code = if words.contains("512T") { 1 } else { 2 };
        let _ = sand.ends(code, &["serve", "--listen", &listen, "--capture", words]).saying(why);
    }
    let _ = sand.ends(1, &["capture", "commit", "nobody"]).saying("nobody");
}

#[test]
fn r6_a_capture_whose_disk_is_full_says_so_and_lists_nothing() {
    if !shell::is_there() || !have(&["mount"]) || !crate::common::is_root() {
        return;
    }
    let sand = Sandbox::with_repo();
    let small = sand.at("small");
    std::fs::create_dir(&small).expect("mkdir");
    let _ = tool("mount", &["-t", "tmpfs", "-o", "size=4M", "tmpfs", &small]);
    let socket = sand.at("serve.sock");
    let mut command = sand.command(&[
        "serve",
        "--listen",
        &format!("unix:{socket}"),
        "--control",
        &sand.at("control"),
        "--capture",
        "vm,size=8M",
    ]);
    let _ = command.env("TMPDIR", &small);
    let server = Listening::start(command, &socket);
    let script = "import random\nfull = 0\nfor at in range(0, 2 ** 23, 2 ** 18):\n    full += no(h.pwrite, random.randbytes(2 ** 18), at) == 'ENOSPC'\n\
        print('full', full > 0)\nh.shutdown()";
    let said = shell::on(&server.uri("vm", ""), script);
    let state = once(&sand, "partial").len();
    let _ = server.stop();
    let _ = tool("umount", &[&small]);
    assert!(said.text().contains("full True") && state == 0, "{said} {state}");
}
