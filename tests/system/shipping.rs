//! Containers that we write for Cinder: a stranger, written from what is known of the format, restores them byte by byte. Cinder itself does in
//! `tests/slow/cinder`.

use crate::common::images::{KIB, MIB, assert_same_bytes, file, mixed, sparse};
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use crate::common::{Output, Sandbox, files_under, run, skipped};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Debian's own interpreter, because Debian's packages are what the stranger needs.
const PYTHON: &str = "/usr/bin/python3";
const STRANGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/restore_cinder.py");
const DEADLINE: Duration = Duration::from_secs(120);
/// About how many points of an export it is killed at.
const SAMPLES: usize = 10;

/// Whether the stranger can run here; says so when it can't.
fn has_stranger() -> bool {
    let mut imports = Command::new(PYTHON);
    let _ = imports.args(["-c", "import zstandard"]);
    let _ = imports.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = imports.status().is_ok_and(|status| status.success());
    if !there {
        skipped("no python3-zstandard to restore a container of Cinder's with");
    }
    there
}

/// A sandbox with a repository and an empty directory for a container.
fn with_container() -> (Sandbox, String) {
    let sand = Sandbox::with_repo();
    let dir = sand.at("container");
    std::fs::create_dir(&dir).expect("make a directory");
    (sand, dir)
}

fn stranger(dir: &str, args: &[&str]) -> Output {
    let mut command = Command::new(PYTHON);
    let _ = command.arg("-B").arg(STRANGER).arg(dir).args(args).stdin(Stdio::null());
    run(command, DEADLINE)
}

fn export(sand: &Sandbox, dir: &str, args: &[&str]) -> Vec<Value> {
    let to = format!("cinder:{dir}");
    let done = sand.done(&[&["--json", "export", "--to", &to], args].concat()).json();
    done["backups"].as_array().expect("a list of backups").clone()
}

/// What the stranger restores onto a volume full of other bytes is the image.
fn assert_restores(sand: &Sandbox, dir: &str, exported: &Value, image: &[u8]) {
    let used = file(sand, "used", &vec![0xa5; image.len()]);
    let id = exported["id"].as_str().expect("an id");
    let _ = stranger(dir, &["restore", id, &used]).expect_code(0);
    assert_same_bytes(&std::fs::read(&used).expect("read it"), image, id);
}

/// Three states of one volume: the second changes parts of blocks, the third turns some of them, and a whole MiB, to zeros.
fn chain(sand: &Sandbox) -> Vec<Vec<u8>> {
    let mut states = vec![mixed(7, 3 * MIB + 4321)];
    let mut next = states[0].clone();
    for at in [5, 40 * 32 * KIB as usize - 3, next.len() - 9] {
        next[at..at + 9].copy_from_slice(b"different");
    }
    states.push(next.clone());
    next[MIB as usize + 77..2 * MIB as usize + 99].fill(0);
    next[..32 * KIB as usize].fill(0);
    states.push(next);
    for (number, state) in states.iter().enumerate() {
        let image = file(sand, "disk", state);
        let time = format!("2026-01-0{}T05:00:00Z", number + 1);
        let _ = sand.backup_with("web01", &[&image], &["--time", &time]);
    }
    states
}

#[test]
fn a_stranger_restores_fulls_and_increments_of_every_compression() {
    if !has_stranger() {
        return;
    }
    let (sand, _) = with_container();
    let states = chain(&sand);
    for (number, compression) in ["zlib", "zstd", "none"].into_iter().enumerate() {
        let sizes = [("1M", 4), ("1952K", 2)];
        for (size, objects) in sizes.into_iter().take(if number == 0 { 2 } else { 1 }) {
            let dir = sand.at(&format!("container-{number}-{size}"));
            let _there = std::fs::create_dir(&dir);
            let args = ["web01", "--chain", "--compression", compression, "--object-size", size];
            let exported = export(&sand, &dir, &args);
            assert_eq!(exported.len(), 3);
            assert_eq!(exported[0]["objects"], objects);
            assert!(exported[0]["parent"].is_null() && exported[2]["parent"] == exported[1]["id"]);
            let _ = stranger(&dir, &["audit"]).expect_code(0);
            for (exported, state) in exported.iter().zip(&states) {
                assert_restores(&sand, &dir, exported, state);
            }
            let listed = stranger(&dir, &["list"]);
            let used = listed.text().lines().any(|line| line.contains(&format!("\"{compression}\"")));
            assert!(used, "{listed}");
        }
    }
}

#[test]
fn images_of_every_size_are_shipped_whole() {
    if !has_stranger() {
        return;
    }
    let (sand, dir) = with_container();
    for size in [0, 1, 32 * KIB, 32 * KIB + 1, MIB, 5 * MIB + 17] {
        let bytes = mixed(size, size);
        let name = format!("size-{size}");
        let _ = sand.backup(&name, &[&file(&sand, "disk", &bytes)]);
        let exported = export(&sand, &dir, &[&name, "--object-size", "1M"]);
        assert_restores(&sand, &dir, &exported[0], &bytes);
    }
    let _ = stranger(&dir, &["audit"]).expect_code(0);
}

#[test]
fn holes_are_stored_unless_they_are_to_be_left_out() {
    if !has_stranger() {
        return;
    }
    let (sand, dir) = with_container();
    let (image, len) = (sand.at("disk"), 40 * MIB + 100);
    let noise = mixed(3, 200_000);
    sparse(&image, len, &[(3 * MIB + 5, &noise), (20 * MIB, &noise)]).expect("make an image");
    let bytes = std::fs::read(&image).expect("read it");
    let _ = sand.backup("thin", &[&image]);
    let whole = export(&sand, &dir, &["thin", "--object-size", "4M"]);
    assert_restores(&sand, &dir, &whole[0], &bytes);
    let other = sand.at("other");
    std::fs::create_dir(&other).expect("make a directory");
    let less = export(&sand, &other, &["thin", "--object-size", "4M", "--skip-zeros"]);
    let _ = stranger(&other, &["audit"]).expect_code(0);
    let new = file(&sand, "new", &[]);
    let _ = stranger(&other, &["restore", less[0]["id"].as_str().unwrap_or_default(), &new]).expect_code(0);
    assert_same_bytes(&std::fs::read(&new).expect("read it"), &bytes, "onto a new volume");
    let (whole, less) = (whole[0]["objects"].as_u64(), less[0]["objects"].as_u64());
    assert_eq!((whole, less), (Some(11), Some(3)));
}

#[test]
fn an_export_that_is_done_is_left_as_it_is() {
    if !has_stranger() {
        return;
    }
    let (sand, dir) = with_container();
    let states = chain(&sand);
    let first = export(&sand, &dir, &["web01", "--chain"]);
    let looks = || -> Vec<(String, SystemTime)> {
        let look = |path: &Path| {
            (path.display().to_string(), path.metadata().and_then(|meta| meta.modified()).expect("look"))
        };
        files_under(Path::new(&dir)).iter().map(|path| look(path)).collect()
    };
    let before = looks();
    let again = export(&sand, &dir, &["web01", "web01@latest~1", "--chain"]);
    assert!(first.iter().all(|one| one["new"] == true) && again.iter().all(|one| one["new"] == false));
    assert_eq!(looks(), before);
    for (key, one) in ["id", "parent", "volume", "container", "prefix"]
        .iter()
        .flat_map(|key| again.iter().map(move |one| (key, one)))
    {
        let same = first.iter().find(|before| before["id"] == one["id"]).expect("it was there");
        assert_eq!(one[key], same[key], "{key}");
    }
    // The next of the same volume stacks on them.
    let mut state = states[2].clone();
    state[100..200].fill(0x77);
    let _ = sand.backup("web01", &[&file(&sand, "disk", &state)]);
    let more = export(&sand, &dir, &["web01", "--chain"]);
    assert_eq!(more.iter().filter(|one| one["new"] == true).count(), 1);
    assert_restores(&sand, &dir, &more[3], &state);
    let _ = stranger(&dir, &["audit"]).expect_code(0);
}

#[test]
fn a_volume_that_grew_or_shrank_is_a_full_backup() {
    if !has_stranger() {
        return;
    }
    let (sand, dir) = with_container();
    let states = [mixed(1, MIB), mixed(1, MIB + 5), mixed(1, 900_000)];
    for (number, state) in states.iter().enumerate() {
        let time = format!("2026-01-0{}T05:00:00Z", number + 1);
        let _ = sand.backup_with("web01", &[&file(&sand, "disk", state)], &["--time", &time]);
    }
    let exported = export(&sand, &dir, &["web01", "--chain"]);
    for (exported, state) in exported.iter().zip(&states) {
        assert!(exported["parent"].is_null(), "{exported}");
        assert_restores(&sand, &dir, exported, state);
    }
}

#[test]
fn each_image_of_a_backup_is_a_volume() {
    if !has_stranger() {
        return;
    }
    let (sand, dir) = with_container();
    let (boot, data) = (mixed(1, MIB), mixed(2, MIB + 9));
    let sources = [format!("boot={}", file(&sand, "b", &boot)), format!("data={}", file(&sand, "d", &data))];
    let _ = sand.backup("db", &[&sources[0], &sources[1]]);
    let exported = export(&sand, &dir, &["db"]);
    assert!(exported[0]["id"] != exported[1]["id"] && exported[0]["volume"] != exported[1]["volume"]);
    for (exported, bytes) in exported.iter().zip([&boot, &data]) {
        assert_restores(&sand, &dir, exported, bytes);
    }
    let one = export(&sand, &dir, &["db/data"]);
    assert_eq!((one.len(), &one[0]["id"]), (1, &exported[1]["id"]));
}

#[test]
fn a1_killed_anywhere_an_export_leaves_nothing_that_cinder_takes_for_a_backup() {
    need_tracer!();
    if !has_stranger() {
        return;
    }
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let states = chain(&sand);
    let dir = sand.at("container");
    let to = format!("cinder:{dir}");
    let call = ["export", "web01", "--chain", "--object-size", "1M", "--to", to.as_str()];
    let root = Path::new(&dir).to_path_buf();
    let there = move |touch: &Touch| touch.path.starts_with(&root);
    let fresh = || {
        let _gone = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("make a directory");
    };
    fresh();
    let total = trace(sand.command(&call), &there, 0, Act::Watch).touches.len();
    assert!(total > 20, "{total}");
    for nth in (1..=total).step_by(total.div_ceil(SAMPLES)) {
        fresh();
        let killed = trace(sand.command(&call), &there, nth, Act::Kill);
        let context = format!("killed at {nth} of {total}: {:?}", killed.touches.get(nth - 1));
        // What is called a backup by now is whole; audit also refuses what lies beside it, which may be there until the next run.
        let listed = stranger(&dir, &["list"]);
        assert_eq!(listed.code(), Some(0), "{context}: {listed}");
        for line in listed.text().lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let number = line["created_at"].as_str().and_then(|time| time[9..10].parse::<usize>().ok());
            let exported = serde_json::json!({ "id": line["backup_id"] });
            assert_restores(&sand, &dir, &exported, &states[number.expect("a day") - 1]);
        }
        let exported = export(&sand, &dir, &call[1..5]);
        let audit = stranger(&dir, &["audit"]);
        assert_eq!((audit.code(), audit.text().trim()), (Some(0), "3"), "{context}: {audit}");
        assert_restores(&sand, &dir, &exported[2], &states[2]);
    }
}

#[test]
fn what_cant_be_written_there_is_refused_before_a_byte() {
    let (sand, dir) = with_container();
    let image = file(&sand, "disk", &mixed(1, MIB));
    let _ = sand.backup("web01", &[&image]);
    let to = format!("cinder:{dir}");
    let inside = format!("cinder:{}", sand.repo().join("packs").display());
    for (code, args, words) in [
        (2, &["web01", "--to", dir.as_str()][..], "no container"),
        (2, &["web01", "--to", "cinder:"], "no container"),
        (2, &["--to", &to], "required"),
        (2, &["web01", "--to", &to, "--object-size", "1000"], "multiple of 32 KiB"),
        (2, &["web01", "--to", &to, "--object-size", "0"], "multiple of 32 KiB"),
        (2, &["web01", "--to", &to, "--compression", "bz2"], "bz2"),
        (1, &["web01", "--to", "cinder:s3://bucket"], "directories"),
        (1, &["web01", "--to", "cinder:/nowhere/at/all"], "no directory"),
        (1, &["nobody", "--to", &to], "no backup"),
        (1, &["web01/other", "--to", &to], "no such item"),
        (4, &["web01", "--to", &inside], "inside the repository"),
    ] {
        let _ = sand.ends(code, &[&["export"], args].concat()).saying(words);
    }
    assert!(files_under(Path::new(&dir)).is_empty());
}

#[test]
fn c7_a_damaged_backup_is_not_exported_and_leaves_nothing() {
    let (sand, dir) = with_container();
    let image = file(&sand, "disk", &mixed(5, 4 * MIB));
    let _ = sand.backup("web01", &[&image]);
    sand.change(sand.largest_pack(), |bytes| bytes[100_000..100_016].fill(0x55));
    let to = format!("cinder:{dir}");
    let _ = sand.ends(3, &["export", "web01", "--to", &to, "--object-size", "1M"]).saying("tag");
    assert_eq!(files_under(Path::new(&dir)), Vec::<std::path::PathBuf>::new());
}
