//! The format is what its page says: a reader that was written from `src/format/FORMAT.md` alone, in another language, gets
//! the same bytes out of a repository that the built command made.

use crate::common::images::{KIB, MIB, assert_same_bytes, digest_of, file, mixed, overwrite, sparse};
use crate::common::shares::made_share;
use crate::common::{Output, Record, Sandbox, run, skipped, tool};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Debian's own interpreter, because Debian's packages are what the reader needs.
const PYTHON: &str = "/usr/bin/python3";
const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/read_repository.py");
const DEADLINE: Duration = Duration::from_secs(120);

/// Whether the reader can run here; says so when it can't.
fn has_reader() -> bool {
    let mut imports = Command::new(PYTHON);
    let _ = imports.args(["-c", "import argon2, cryptography, xxhash, zstandard"]);
    let _ = imports.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = imports.status().is_ok_and(|status| status.success());
    if !there {
        skipped(
            "no python3-argon2, python3-cryptography, python3-xxhash, python3-zstandard to read a repository with",
        );
    }
    there
}

fn reader(sand: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    let _ = command.arg("-B").arg(READER).arg(sand.here()).args(args).stdin(Stdio::null());
    command
}

fn read(sand: &Sandbox, args: &[&str]) -> Output {
    run(reader(sand, args), DEADLINE).expect_code(0)
}

/// What the reader gets for an image, and what was backed up, are the same bytes.
fn assert_reads(sand: &Sandbox, flags: &[&str], record: &Record, item: &str, image: &str) {
    let got = read(sand, &[flags, &["cat", record.id(), item]].concat()).stdout;
    assert_same_bytes(&got, &std::fs::read(image).expect("read the source"), image);
}

#[test]
fn a_stranger_reads_images_of_every_shape_and_the_same_records() {
    if !has_reader() {
        return;
    }
    for chunk_size in ["4K", "128K"] {
        let sand = Sandbox::new();
        let _ = sand.done(&["init", "--chunk-size", chunk_size]);
        let mut made = Vec::new();
        for size in [0, 1, 4 * KIB, 3 * MIB + 17] {
            let image = file(&sand, &format!("disk-{size}"), &mixed(size, size));
            made.push((sand.backup(&format!("size-{size}"), &[&image]), "disk.img", image));
        }
        let changed = file(&sand, "changed", &mixed(3 * MIB + 17, 3 * MIB + 17));
        overwrite(&changed, MIB + 5, &[7; 9000]);
        made.push((sand.backup(&format!("size-{}", 3 * MIB + 17), &[&changed]), "disk.img", changed));
        for (record, item, image) in &made {
            assert_reads(&sand, &[], record, item, image);
        }
        let listed = read(&sand, &["list"]);
        let ids: Vec<Value> =
            listed.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for (record, ..) in &made {
            let same = ids.iter().find(|read| read["id"] == record.0["id"]).expect("it is listed");
            for key in ["name", "time", "parent", "tags", "metadata", "stats"] {
                assert_eq!(same[key], record.0[key], "{key}");
            }
        }
        let audit = read(&sand, &["audit"]).json();
        assert_eq!(audit["backups"], made.len(), "{audit}");
    }
}

#[test]
fn a_stranger_with_the_password_reads_several_items_and_nobody_does_without() {
    if !has_reader() {
        return;
    }
    let sand = Sandbox::new();
    let first = file(&sand, "first", b"a first password\n");
    let second = file(&sand, "second", "ein zweites, längeres\r\n".as_bytes());
    let _ = sand.done(&["--password-file", &first, "init"]);
    let _ = sand.done(&["--password-file", &first, "key", "add", "--new-password-file", &second]);
    let (boot, data) = (file(&sand, "boot", &mixed(1, MIB)), file(&sand, "data", &mixed(2, MIB + 1)));
    let record =
        sand.backup_with("db", &[&format!("b={boot}"), &format!("d={data}")], &["--password-file", &first]);
    for password in [&first, &second] {
        let flags = ["--password-file", password.as_str()];
        assert_reads(&sand, &flags, &record, "b", &boot);
        assert_reads(&sand, &flags, &record, "d", &data);
    }
    let wrong = file(&sand, "wrong", b"a third password\n");
    for flags in [&[][..], &["--password-file", &wrong]] {
        let refused = run(reader(&sand, &[flags, &["list"]].concat()), DEADLINE).expect_code(1);
        let _ = refused.saying("no slot opens");
    }
}

#[test]
fn a_stranger_reads_a_tree_with_everything_in_it() {
    if !has_reader() {
        return;
    }
    let sand = Sandbox::new();
    let _ = sand.done(&["init", "--chunk-size", "4K"]);
    let share = made_share(&sand, "share");
    let record = sand.backup("share", &[&share]);
    let told = read(&sand, &["tree", record.id(), "tree"]);
    let mut told: Vec<Value> =
        told.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let there = everything_in(Path::new(&share));
    assert_eq!(told.len(), there.len());
    told.sort_by(|one, next| one["path"].as_str().cmp(&next["path"].as_str()));
    for (told, (path, at)) in told.iter().zip(there) {
        let stat = at.symlink_metadata().expect("look");
        let is = |key: &str, value: i64| assert_eq!(told[key].as_i64(), Some(value), "{key} of {told}");
        assert_eq!(told["path"].as_str(), Some(path.as_str()));
        is("mode", i64::from(stat.mode() & 0o7777));
        is("uid", i64::from(stat.uid()));
        is("gid", i64::from(stat.gid()));
        is("mtime", stat.mtime());
        is("nanos", stat.mtime_nsec());
        if stat.is_symlink() {
            let target = std::fs::read_link(&at).expect("read a link");
            assert_eq!(told["target"].as_str(), Some(hex(target.as_os_str().as_bytes()).as_str()));
        }
        if stat.is_file() {
            is("size", stat.len() as i64);
            let digest = digest_of(&std::fs::read(&at).expect("read a file"));
            assert_eq!(told["sha256"].as_str(), Some(digest.as_str()), "{told}");
        }
        if !stat.is_dir() && stat.nlink() > 1 {
            is("names", stat.nlink() as i64);
        }
    }
    let audit = read(&sand, &["audit"]).json();
    assert_eq!(audit["backups"], 1, "{audit}");
}

/// Everything in a directory, by its path in hexadecimal digits, in the order of those.
fn everything_in(root: &Path) -> BTreeMap<String, PathBuf> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(at) = left.pop() {
        if at.symlink_metadata().expect("look").is_dir() {
            left.extend(std::fs::read_dir(&at).expect("list").map(|entry| entry.expect("list").path()));
        }
        let path = at.strip_prefix(root).expect("below").as_os_str().as_bytes();
        let _none = found.insert(hex(path), at);
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_stranger_finds_holes_at_every_level_of_a_map() {
    if !has_reader() {
        return;
    }
    let sand = Sandbox::new();
    let _ = sand.done(&["init", "--chunk-size", "4K"]);
    let (image, out) = (sand.at("disk"), sand.at("out"));
    let noise = mixed(9, 50_000);
    // A node of level 1 covers 256 MiB: this map has three levels, the middle of it is not there.
    sparse(&image, 700 * MIB + 1234, &[(0, &noise), (3 * MIB + 1, &noise), (700 * MIB - 50_000, &noise)])
        .expect("make an image");
    let record = sand.backup("sparse", &[&image]);
    assert_eq!(record.item(0, "allocated").as_u64().map(|len| len < MIB), Some(true), "{record:?}");
    let mut to_file = reader(&sand, &["cat", record.id(), "disk.img"]);
    let _ = to_file.stdout(std::fs::File::create(&out).expect("make a file"));
    assert!(to_file.status().expect("run the reader").success());
    let _ = tool("cmp", &[&image, &out]);
}

#[test]
fn a_stranger_reads_merged_indexes_and_catalogues() {
    if !has_reader() {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = sand.at("disk");
    for number in 0..66u8 {
        std::fs::write(&image, [number; 5000]).expect("write an image");
        let _ = sand.backup("many", &[&image]);
    }
    let has_some = |folder: &str| sand.objects().iter().any(|path| path.starts_with(Path::new(folder)));
    assert!(has_some("catalog") && has_some("index"), "{:?}", sand.objects());
    let audit = read(&sand, &["audit"]).json();
    assert_eq!(audit["backups"], 66, "{audit}");
    assert!(audit["catalogued"].as_u64() >= Some(64), "{audit}");
}

#[test]
fn c4_a_stranger_too_finds_the_other_copy_of_a_damaged_chunk() {
    if !has_reader() {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk", &mixed(4, 2 * MIB));
    let record = sand.backup("web01", &[&image]);
    sand.change(sand.largest_pack(), |bytes| bytes[1000..1016].fill(0x55));
    let blamed = run(reader(&sand, &["audit"]), DEADLINE).expect_code(1);
    let _ = blamed.saying("checksum");
    let _ = sand.ends(3, &["check", "--read-data"]);
    let _ = run(reader(&sand, &["cat", record.id(), "disk.img"]), DEADLINE).expect_code(1).saying("tag");
    let _ = sand.backup("web01", &[&image]);
    assert_reads(&sand, &[], &record, "disk.img", &image);
}
