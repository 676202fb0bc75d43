//! Exports as sources: what is read, what is not, and what is said when it can't be.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Running, Sandbox, tool};
use crate::servers::{have, nbdkit, qemu_nbd, same_files};
use std::time::Duration;

/// A qcow2 image with mixed content, and the same bytes raw.
fn qcow2(sand: &Sandbox, bitmap: bool) -> (String, String) {
    let raw = file(sand, "disk.raw", &mixed(7, 24 * MIB));
    let image = sand.at("disk.qcow2");
    let _ = tool("qemu-img", &["convert", "-q", "-f", "raw", "-O", "qcow2", &raw, &image]);
    if bitmap {
        let _ = tool("qemu-img", &["bitmap", "--add", &image, "b0"]);
    }
    (image, raw)
}

#[test]
fn n16_an_export_of_qemu_becomes_the_bytes_that_qemu_img_reads() {
    if !have(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let (image, raw) = qcow2(&sand, false);
    let Some(server) = qemu_nbd(&sand, &image, &["-r"]) else { return };
    let record = sand.backup_with("vm", &[&server.uri("vda", "")], &["--digest"]);
    drop(server);
    let out = sand.at("out.raw");
    let _ = sand.done(&["restore", "vm", &out]);
    same_files(&out, &raw);
    let source = &record.0["items"][0]["source"];
    assert_eq!((source["kind"].as_str(), source["size"].as_u64()), (Some("nbd"), Some(24 * MIB)), "{source}");
    assert!(record.stat("bytes_read") < 24 * MIB, "holes were read: {}", record.0);
    sand.assert_sound();
}

#[test]
fn with_a_bitmap_only_what_changed_is_read() {
    if !have(&["qemu-img", "qemu-nbd", "qemu-io"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let (image, raw) = qcow2(&sand, true);
    let Some(server) = qemu_nbd(&sand, &image, &["-B", "b0"]) else { return };
    let first = sand.backup("vm", &[&server.uri("vda", "")]);
    for change in [
        "write -q -P 85 1M 64k",
        "write -q -P 86 20000k 100k",
        "write -q -z 8M 1M",
        "write -q -P 87 24511k 65k",
    ] {
        let _ = tool("qemu-io", &["-f", "raw", &server.uri("vda", ""), "-c", change]);
    }
    let with_bitmap = server.uri("vda", "&bitmap=b0");
    let second = sand.backup_with("vm", &[&with_bitmap], &["--parent", first.id(), "--digest"]);
    drop(server);
    assert!(second.stat("bytes_read") <= MIB, "{}", second.0);
    assert!(second.stat("bytes_read") >= 64 * 1024, "{}", second.0);
    let _ = tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &image, &raw]);
    let out = sand.at("out.raw");
    let _ = sand.done(&["restore", "vm", &out]);
    same_files(&out, &raw);
    sand.assert_sound();
}

#[test]
fn a_bitmap_wants_its_parent_named_and_to_be_there() {
    if !have(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let (image, _) = qcow2(&sand, true);
    let Some(server) = qemu_nbd(&sand, &image, &["-B", "b0"]) else { return };
    let _ = sand.backup("vm", &[&server.uri("vda", "")]);
    let with = |bitmap: &str| server.uri("vda", &format!("&bitmap={bitmap}"));
    let _ = sand.ends(2, &["backup", &with("b0"), "--name", "vm"]).saying("--parent");
    let _ = sand.ends(2, &["backup", &with("b0"), "--name", "vm", "--parent", "none"]).saying("--parent");
    let _ =
        sand.ends(1, &["backup", &with("b9"), "--name", "vm", "--parent", "vm"]).saying("dirty-bitmap:b0");
    assert_eq!(sand.list().len(), 1);
}

#[test]
fn a_bitmap_is_refused_over_a_parent_that_was_another_disk() {
    if !have(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let (image, raw) = qcow2(&sand, true);
    let Some(server) = qemu_nbd(&sand, &image, &["-B", "b0"]) else { return };
    let right = sand.backup("vm", &[&server.uri("vda", "")]);
    let other = file(&sand, "other.raw", &mixed(8, 24 * MIB));
    let a_file = sand.backup("vm", &[&raw]);
    let Some(kit) = nbdkit(&sand, "k.sock", &["-e", "vdb", "file", &other]) else { return };
    let another = sand.backup("vm", &[&kit.uri("vdb", "")]);
    let named_otherwise = sand.backup("web02", &[&server.uri("vda", "")]);
    let with_bitmap = server.uri("vda", "&bitmap=b0");
    let over = |parent: &str| ["backup", &with_bitmap, "--name", "vm", "--parent", parent].map(str::to_owned);
    let before = sand.list().len();
    for (parent, words) in [
        (&a_file, "is a backup of file"),
        (&another, "is a backup of nbd"),
        (&named_otherwise, "which is named web02"),
    ] {
        let args = over(parent.id());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let _ = sand.ends(4, &args).saying(words).saying("--parent");
    }
    assert_eq!(sand.list().len(), before, "a refused backup left a record");
    let _ = sand.backup_with("vm", &[&with_bitmap], &["--parent", right.id()]);
    drop(server);
    assert!(sand.cat("vm") == std::fs::read(&raw).expect("read"), "over the right parent");
    sand.assert_sound();
}

#[test]
fn n16_holes_of_an_export_are_not_read_and_sparse_content_is_exact() {
    let sand = Sandbox::with_repo();
    let Some(server) = nbdkit(&sand, "k.sock", &["sparse-random", "1G", "seed=3", "percent=2"]) else {
        return;
    };
    let record = sand.backup("random", &[&server.uri("", "")]);
    assert!(record.stat("bytes_read") < 128 * MIB, "{}", record.0);
    if have(&["nbdcopy"]) {
        let raw = sand.at("random.raw");
        let _ = tool("nbdcopy", &[&server.uri("", ""), &raw]);
        let _ = sand.done(&["restore", "random", &sand.at("out.raw")]);
        let _ = tool("cmp", &[&raw, &sand.at("out.raw")]);
    }
}

#[test]
fn exports_of_odd_sizes_and_of_none_are_backed_up() {
    let sand = Sandbox::with_repo();
    for (number, len) in [0, 1, 511, MIB + 513, 3 * MIB - 1].into_iter().enumerate() {
        let bytes = mixed(number as u64, len);
        let image = file(&sand, "odd.raw", &bytes);
        let Some(server) = nbdkit(&sand, &format!("k{number}"), &["-r", "file", &image]) else { return };
        let _ = sand.backup("odd", &[&server.uri("", "")]);
        assert!(sand.cat("odd") == bytes, "{len} bytes");
    }
}

#[test]
fn a_read_error_fails_the_backup_and_says_where() {
    let sand = Sandbox::with_repo();
    let trigger = sand.at("broken");
    let trigger_arg = format!("error-pread-file={trigger}");
    let args = ["--filter=error", "pattern", "8M", "error-pread=EIO", "error-pread-rate=100%", &trigger_arg];
    let Some(server) = nbdkit(&sand, "k.sock", &args) else { return };
    let _ = sand.backup("whole", &[&server.uri("", "")]);
    std::fs::write(&trigger, b"").expect("break it");
    let _ = sand.ends(1, &["backup", &server.uri("", ""), "--name", "broken"]).saying("at offset 0");
    assert_eq!(sand.list().len(), 1);
}

#[test]
fn n8_a_server_that_goes_away_in_the_middle_fails_the_backup_and_says_where() {
    let sand = Sandbox::with_repo();
    let log = sand.at("log");
    let log_to = format!("logfile={log}");
    let slow = ["--filter=log", "--filter=delay", "pattern", "64M", "delay-read=300ms", &log_to];
    let Some(mut server) = nbdkit(&sand, "k.sock", &slow) else { return };
    let uri = server.uri("", "");
    let mut backup = Running::start(sand.command(&["backup", &uri, "--name", "vm"]));
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while std::fs::read_to_string(&log).unwrap_or_default().matches(" Read ").count() < 40 {
        assert!(
            !backup.has_ended() && std::time::Instant::now() < until,
            "the backup was to be in its midst"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    server.running.kill();
    let output = backup.wait(Duration::from_secs(30)).expect_code(1);
    let _ = output.saying(&format!("read {uri} at offset ")).saying("the server left");
    assert_eq!(sand.list().len(), 0, "half a disk is no backup");
    drop(server);
    let Some(server) = nbdkit(&sand, "again.sock", &["pattern", "64M"]) else { return };
    let _ = sand.backup("vm", &[&server.uri("", "")]);
    sand.assert_sound();
}

#[test]
fn servers_that_are_not_there_and_words_that_are_no_uri_are_told_apart() {
    let sand = Sandbox::with_repo();
    let _ = sand.ends(1, &["backup", "nbd+unix:///?socket=/nowhere/s", "--name", "x"]).saying("connect");
    let _ = sand.ends(2, &["backup", "nbd+unix:///x", "--name", "x"]).saying("socket is missing");
    let _ = sand.ends(2, &["backup", "nbd+unix:///?socket=/x&bitmpa=b", "--name", "x"]).saying("bitmpa");
}
