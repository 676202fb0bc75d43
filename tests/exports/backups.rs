//! Backups as exports: their names, their bytes, where their holes are, and what changed between them.

use crate::common::images::{MIB, assert_same_bytes, digest, file, mixed, overwrite, sparse};
use crate::common::{Sandbox, tool};
use crate::servers::{Listening, have, ours, same_files};
use crate::shell;
use serde_json::Value;

/// What `nbdinfo --map` says of a context: offset, length, type.
pub(crate) fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let said = tool("nbdinfo", &["--json", &format!("--map={context}"), uri]);
    let map: Value = serde_json::from_str(&said).expect("JSON");
    let number = |entry: &Value, key: &str| entry[key].as_u64().expect("a number");
    let entries = map.as_array().expect("an array").iter();
    entries.map(|e| (number(e, "offset"), number(e, "length"), number(e, "type"))).collect()
}

fn stats(sand: &Sandbox, server: &str) -> Value {
    sand.done(&["--json", "stats", server]).json()
}

fn info(uri: &str) -> Value {
    let said: Value = serde_json::from_str(&tool("nbdinfo", &["--json", uri])).expect("JSON");
    said["exports"][0].clone()
}

#[test]
fn n16_every_backup_is_an_export_by_all_of_its_names_and_copies_out_byte_for_byte() {
    if !have(&["nbdinfo", "nbdcopy", "qemu-img"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(5, 9 * MIB + 512));
    let old = sand.backup_with("web01", &[&image], &["--time", "2026-11-18T10:00:00Z"]);
    let before = sand.at("before.img");
    let _ = std::fs::copy(&image, &before).expect("copy");
    overwrite(&image, 3 * MIB, &[0x5a; 70_000]);
    let new = sand.backup_with("web01", &[&image], &["--time", "2026-11-19T10:00:00Z"]);
    let server = ours(&sand, &[]);
    for (name, wanted) in [
        ("web01", &image),
        ("web01@latest", &image),
        (new.id(), &image),
        ("web01@latest~1", &before),
        ("web01@2026-11-18", &before),
        (&old.id()[..8], &before),
        ("web01@2026-11-18T12:00:00Z/disk.img", &before),
    ] {
        let out = sand.at("out.img");
        let _ = tool("nbdcopy", &[&server.uri(name, ""), &out]);
        same_files(&out, wanted);
        std::fs::remove_file(&out).expect("remove");
    }
    let out = sand.at("convert.qcow2");
    let _ = tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &server.uri("web01", ""), &out]);
    let _ = tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &out, &server.uri("web01", "")]);
    let facts = info(&server.uri("web01", ""));
    assert_eq!((&facts["is_read_only"], &facts["can_multi_conn"]), (&true.into(), &true.into()), "{facts}");
    assert_eq!(facts["can_cache"], true, "{facts}");
    assert_eq!(facts["export-size"], 9 * MIB + 512, "{facts}");
    let description = facts["description"].as_str().expect("text");
    assert!(description.contains("web01") && description.contains("2026-11-19T10:00:00Z"), "{description}");
    let _ = server.stop().expect_code(0);
}

#[test]
fn the_list_shows_canonical_names_newest_first_and_new_backups_without_a_restart() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let (one, two) = (file(&sand, "one.img", &mixed(1, MIB)), file(&sand, "two.img", &mixed(2, MIB)));
    let _ = sand.backup_with("a", &[&one], &["--time", "2026-11-18T10:00:00Z"]);
    let server = ours(&sand, &["--target", &format!("t={}", file(&sand, "t.raw", &[0; 4096]))]);
    let names = |server: &Listening| -> Vec<String> {
        let said = tool("nbdinfo", &["--json", "--list", &server.uri("", "")]);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let exports = said["exports"].as_array().expect("an array").iter();
        exports.map(|export| export["export-name"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(names(&server), ["t", "a@2026-11-18T10:00:00Z"]);
    let _ = sand.backup_with("b", &[&one, &two], &["--time", "2026-11-19T10:00:00Z"]);
    let wanted =
        ["t", "b@2026-11-19T10:00:00Z/one.img", "b@2026-11-19T10:00:00Z/two.img", "a@2026-11-18T10:00:00Z"];
    let began = std::time::Instant::now();
    while names(&server) != wanted {
        assert!(began.elapsed().as_secs() < 20, "{:?}", names(&server));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    if shell::is_there() {
        let said = shell::on(
            &server.uri("b/two.img", ""),
            "print(h.pread(512, 0) == open(sys.argv[1].split('socket=')[1].rsplit('/', 1)[0] + '/two.img', 'rb').read(512))",
        );
        assert_eq!(said.expect_code(0).text().trim(), "True");
        for name in ["b", "nobody", "a@2026-11-17", "..%2F..%2Fetc%2Fpasswd", "", "b/three.img"] {
            let said = shell::on(&server.uri(name, ""), "print('in')");
            let served = name.is_empty(); // the only one that was named with the call
            assert_eq!(said.text().trim() == "in", served, "{name}: {said}");
        }
    }
}

#[test]
fn n16_holes_and_data_are_told_from_the_map_and_no_chunk_is_opened_for_it() {
    if !have(&["nbdinfo", "qemu-img"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = sand.at("sparse.img");
    let pieces: [(u64, &[u8]); 3] = [(0, &[1; 131_072]), (40 * MIB, &[2; 262_144]), (1 << 40, &[3; 512])];
    sparse(&image, (1 << 40) + 4096, &pieces).expect("a sparse file");
    let _ = sand.backup("big", &[&image]);
    let control = sand.at("control");
    let server = ours(&sand, &["--control", &control]);
    let (data, hole) = (0, 3);
    let wanted = [
        (0, 131_072, data),
        (131_072, 40 * MIB - 131_072, hole),
        (40 * MIB, 262_144, data),
        (40 * MIB + 262_144, (1 << 40) - 40 * MIB - 262_144, hole),
        (1 << 40, 4096, data),
    ];
    assert_eq!(map(&server.uri("big", ""), "base:allocation"), wanted);
    let depth: Vec<u64> =
        map(&server.uri("big", ""), "qemu:allocation-depth").iter().map(|entry| entry.2).collect();
    assert_eq!(depth, [1, 0, 1, 0, 1]);
    let said = tool("qemu-img", &["map", "--output=json", "-f", "raw", &server.uri("big", "")]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let data: u64 = said
        .as_array()
        .expect("an array")
        .iter()
        .filter(|entry| entry["data"] == true)
        .map(|entry| entry["length"].as_u64().expect("a number"))
        .sum();
    assert_eq!(data, 131_072 + 262_144 + 4096, "{said}");
    let figures = stats(&sand, &control);
    assert_eq!(figures["image"]["chunks_opened"], 0, "{figures}");
    let backups = figures["exports"].as_array().and_then(|all| all.last()).expect("a row for the backups");
    assert_eq!((&backups["kind"], &backups["read_bytes"]), (&"backups".into(), &0.into()), "{figures}");
}

#[test]
fn what_changed_since_another_backup_is_a_dirty_bitmap_that_agrees_with_diff() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(6, 16 * MIB));
    let _ = sand.backup_with("vm", &[&image], &["--time", "2026-11-18T10:00:00Z"]);
    let server = ours(&sand, &[]);
    // Somebody elsewhere backs up the export itself, whichever backup is the latest.
    let other = Sandbox::with_repo();
    let first = other.backup("copy", &[&server.uri("vm", "")]);
    let _ = server.stop().expect_code(0);
    for offset in [0, 5 * MIB + 7, 16 * MIB - 1] {
        overwrite(&image, offset, b"!");
    }
    overwrite(&image, 8 * MIB, &vec![0; MIB as usize]);
    let _ = sand.backup_with("vm", &[&image], &["--time", "2026-11-19T10:00:00Z"]);
    let diff = sand.done(&["--json", "diff", "vm@latest~1", "vm"]).json();
    let extents = diff["extents"].as_array().expect("extents").iter();
    let wanted: Vec<(u64, u64)> = extents
        .map(|e| (e["offset"].as_u64().expect("offset"), e["length"].as_u64().expect("length")))
        .collect();
    assert!(wanted.len() >= 4, "{diff}");
    let server = ours(&sand, &[]);
    let dirty = |name: &str, since: &str| -> Vec<(u64, u64)> {
        let map = map(&server.uri(name, ""), &format!("qemu:dirty-bitmap:since:{since}"));
        assert_eq!(map.iter().map(|entry| entry.1).sum::<u64>(), 16 * MIB);
        map.into_iter().filter(|entry| entry.2 == 1).map(|entry| (entry.0, entry.1)).collect()
    };
    assert_eq!(dirty("vm", "vm@2026-11-18T10:00:00Z"), wanted);
    assert_eq!(dirty("vm@latest~1", "vm@2026-11-19T10:00:00Z"), wanted);
    // Any reference names it.
    assert_eq!(dirty("vm", "vm@latest~1"), wanted);
    assert_eq!(dirty("vm@latest~1", "vm/disk.img"), wanted);
    let contexts = info(&server.uri("vm", ""))["contexts"].clone();
    let listed: Vec<&str> = contexts.as_array().expect("an array").iter().filter_map(Value::as_str).collect();
    assert!(listed.contains(&"qemu:dirty-bitmap:since:vm@2026-11-18T10:00:00Z"), "{contexts}");
    assert!(listed.contains(&"qemu:allocation-depth"), "{contexts}");
    // Elsewhere only what changed is read.
    let bitmap = server.uri("vm", "&bitmap=qemu:dirty-bitmap:since:vm@2026-11-18T10:00:00Z");
    let second = other.backup_with("copy", &[&bitmap], &["--parent", first.id()]);
    let most: u64 = wanted.iter().map(|(_, length)| length).sum();
    assert!(second.stat("bytes_read") <= most, "{} > {most}", second.stat("bytes_read"));
    let out = other.at("out.img");
    let _ = other.done(&["restore", "copy", &out]);
    assert_eq!(digest(&out), digest(&image));
}

#[test]
fn n16_empty_and_odd_images_are_served() {
    if !have(&["nbdcopy", "nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    for (name, len) in [("odd", 131_072 + 77), ("byte", 1)] {
        let image = file(&sand, name, &vec![9; len]);
        let _ = sand.backup(name, &[&image]);
    }
    let _ = sand.backup("empty", &[&file(&sand, "empty.img", b"")]);
    let server = ours(&sand, &[]);
    for name in ["odd", "byte"] {
        let out = sand.at("out");
        let _ = tool("nbdcopy", &[&server.uri(name, ""), &out]);
        same_files(&out, &sand.at(name));
        std::fs::remove_file(&out).expect("remove");
    }
    assert_eq!(info(&server.uri("empty", ""))["export-size"], 0);
}

#[test]
fn n11_a_backup_cannot_be_changed_and_the_session_goes_on() {
    if !have(&["nbdinfo"]) || !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &[7; 1 << 20]);
    let _ = sand.backup("vm", &[&image]);
    let server = ours(&sand, &[]);
    let script = "print([no(h.pwrite, b'x' * 65536, 0) == 'EPERM', no(h.trim, 4096, 0) == 'EPERM', \
        no(h.zero, 4096, 0) == 'EPERM', no(h.flush), h.pread(2, 0)])\n\
        print(no(h.pread, 1024, 2 ** 20) == 'EINVAL', h.pread(1, 2 ** 20 - 1))";
    let said = shell::on(&server.uri("vm", ""), script).expect_code(0);
    let lines: Vec<&str> = said.text().lines().collect();
    assert_eq!(lines, ["[True, True, True, 'done', bytearray(b'\\x07\\x07')]", "True bytearray(b'\\x07')"]);
    assert_same_bytes(&sand.cat("vm"), &[7; 1 << 20], "the backup");
}

#[test]
fn a_cache_request_has_chunks_opened_before_they_are_read() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(8, 4 * MIB))]);
    let control = sand.at("control");
    let server = ours(&sand, &["--control", &control]);
    let _ = shell::on(&server.uri("vm", ""), "h.cache(2 ** 21, 0)").expect_code(0);
    let figures = stats(&sand, &control);
    let opened = figures["image"]["chunks_opened"].as_u64().expect("a number");
    assert!(opened >= 1, "{figures}");
    let _ = shell::on(&server.uri("vm", ""), "h.pread(2 ** 20, 0)").expect_code(0);
    assert_eq!(stats(&sand, &control)["image"]["chunks_opened"], opened);
}

#[test]
fn strides_of_four_connections_are_read_ahead_of() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(9, 48 * MIB))]);
    let control = sand.at("control");
    let server = ours(&sand, &["--control", &control]);
    // Four places 12 MiB apart, in turns, as a copier with four connections reads.
    let script = "for step in range(24):\n    for place in range(4): h.pread(2 ** 18, place * 12 * 2 ** 20 + step * 2 ** 18)";
    let _ = shell::on(&server.uri("vm", ""), script).expect_code(0);
    let figures = stats(&sand, &control);
    let used = figures["image"]["ahead_used_bytes"].as_u64().expect("a number");
    assert!(used > 16 * MIB, "of 24 MiB read in order only {used} bytes were fetched ahead");
}

#[test]
fn a_mount_and_exports_share_one_process_and_one_cache() {
    if !have(&["nbdcopy"]) || !crate::common::is_root() || !std::path::Path::new("/dev/fuse").exists() {
        return crate::common::skipped("no root or no /dev/fuse for a mount beside exports");
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(10, 4 * MIB));
    let _ = sand.backup("vm", &[&image]);
    let (at, control) = (sand.at("mnt"), sand.at("control"));
    std::fs::create_dir(&at).expect("make a mountpoint");
    let server = ours(&sand, &["--mount", &at, "--control", &control]);
    let through = format!("{at}/volumes/vm/latest/disk.img");
    let began = std::time::Instant::now();
    while !std::path::Path::new(&through).exists() {
        assert!(began.elapsed().as_secs() < 20, "nothing is mounted");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    same_files(&through, &image);
    let opened = |figures: &Value| figures["image"]["chunks_opened"].as_u64().expect("a number");
    let before = opened(&stats(&sand, &control));
    let out = sand.at("out.img");
    let _ = tool("nbdcopy", &[&server.uri("vm", ""), &out]);
    same_files(&out, &image);
    assert_eq!(opened(&stats(&sand, &control)), before, "what the mount had read was opened again");
    assert_eq!(stats(&sand, &at)["mountpoint"], at.as_str());
    let output = server.stop().expect_code(0);
    assert!(output.text().contains("mounted at"), "{output}");
    assert!(!std::path::Path::new(&through).exists(), "it is still mounted");
}

#[test]
fn a_server_says_where_its_exports_are_and_what_clients_did_with_them() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(11, MIB));
    let _ = sand.backup("vm", &[&image]);
    let control = sand.at("control");
    let target = format!("t={},size=1M,create", sand.at("t.raw"));
    let args = ["--json", "--control", &control, "--target", &target, "--overlay", "o=vm"];
    let server = ours(&sand, &args);
    let _ = tool("nbdcopy", &[&server.uri("vm", ""), &server.uri("t", "")]);
    let page = sand.done(&["stats", &control]);
    let lines: Vec<&str> = page.text().lines().collect();
    assert!(lines[1].contains("EXPORT") && lines[1].contains("SPARED"), "{page}");
    assert!(
        lines[2].starts_with("t ") && lines[3].starts_with("o ") && lines[4].starts_with("(backups)"),
        "{page}"
    );
    // Without a name, all of this user's servers answer; this one listens elsewhere.
    let said = sand.done(&["stats", &control, "--prometheus"]);
    let written = "afterimage_export_written_bytes_total{kind=\"target\",export=\"t\"}";
    assert!(said.text().contains(written) && said.text().contains("afterimage_image_gets_total"), "{said}");
    let output = server.stop().expect_code(0);
    let said: Vec<Value> =
        output.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!((&said[0]["export"], &said[1]["export"]), (&"t".into(), &"o".into()), "{output}");
    assert_eq!((&said[2]["backups"], &said[3]["ready"]), (&true.into(), &true.into()), "{output}");
    same_files(&sand.at("t.raw"), &image);
}
