//! The way out of shares through the built command: restored, compared, searched; refused with a reason where a target does not fit;
//! killed at any time, and ended by the next run.

use crate::common::faithful::{assert_same_trees, made_odd, names_below};
use crate::common::images::mixed;
use crate::common::shares::made_share;
use crate::common::{Running, Sandbox, has_program, is_root, run, skipped};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Some file system of its own in the sandbox; unmounted when it goes.
struct Place(PathBuf);

impl Place {
    /// Nothing, where this machine cannot do that.
    fn mount(sand: &Sandbox, name: &str, args: &[&str]) -> Option<Place> {
        let at = PathBuf::from(sand.at(name));
        fs::create_dir_all(&at).expect("make a mountpoint");
        let mut command = Command::new("mount");
        let _ = command.args(args).arg(&at).stderr(Stdio::null());
        let mounted = command.status().is_ok_and(|status| status.success());
        mounted.then_some(Place(at))
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("temporary paths are text")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn with_odd_share() -> (Sandbox, PathBuf) {
    let sand = Sandbox::with_repo();
    let share = PathBuf::from(sand.at("share"));
    if is_root() {
        made_odd(&share);
    } else {
        let _ = made_share(&sand, "share");
    }
    let _ = sand.backup("share", &[share.to_str().expect("text")]);
    (sand, share)
}

#[test]
fn r12_a_share_comes_back_and_what_was_changed_is_mended() {
    let (sand, share) = with_odd_share();
    let said = sand.done(&["restore", "share", "back", "--verify", "--json"]).json();
    assert_same_trees(&share, Path::new(&sand.at("back")));
    assert_eq!((&said["verified"], &said["lost"]), (&Value::Bool(true), &Value::from(Vec::<Value>::new())));
    assert!(said["bytes_written"].as_u64() > Some(3 << 20) && said["seconds"].is_number(), "{said}");
    let _ = sand.ends(4, &["restore", "share", "back"]).saying("--into");
    let again = sand.done(&["restore", "share", "back", "--differential", "--delete", "--json"]).json();
    assert_eq!((again["bytes_written"].as_u64(), again["removed"].as_u64()), (Some(0), Some(0)), "{again}");
    fs::write(sand.at("back/large"), "other")
        .or_else(|_| fs::write(sand.at("back/none"), "other"))
        .expect("write");
    fs::write(sand.at("back/new"), "new").expect("write");
    let _ = sand.done(&["restore", "share", "back", "--differential", "--delete", "--verify"]);
    assert_same_trees(&share, Path::new(&sand.at("back")));
    let _ = sand.ends(2, &["restore", "share", "disk", "--memory"]);
    let _ = sand.ends(4, &["restore", "share", "share"]).saying("--force");
}

#[test]
fn r3_a_smaller_a_read_only_and_a_poorer_target_are_refused_with_their_reasons_and_nothing_is_written() {
    if !is_root() {
        return skipped("not root: these targets are mounted");
    }
    let (sand, _share) = with_odd_share();
    let small = Place::mount(&sand, "small", &["-t", "tmpfs", "-o", "size=1m", "none"]).expect("a tmpfs");
    let _ = sand.ends(4, &["restore", "share", small.text()]).saying("too small");
    let few = Place::mount(&sand, "few", &["-t", "tmpfs", "-o", "size=100m,nr_inodes=10", "none"])
        .expect("a tmpfs");
    let _ = sand.ends(4, &["restore", "share", few.text()]).saying("so many files");
    let fixed = Place::mount(&sand, "fixed", &["-t", "tmpfs", "-o", "ro", "none"]).expect("a tmpfs");
    let _ = sand.ends(4, &["restore", "share", fixed.text()]).saying("read-only");
    for place in [&small, &few, &fixed] {
        assert_eq!(names_below(&place.0), [b""], "{}", place.text());
    }
    let disk = sand.at("fat.img");
    fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("make a disk");
    let formatted = has_program("mkfs.vfat")
        && run(command_of("mkfs.vfat", &[&disk]), Duration::from_secs(30)).code() == Some(0);
    let Some(fat) = formatted.then(|| Place::mount(&sand, "fat", &["-o", "loop", &disk])).flatten() else {
        return skipped("no mkfs.vfat, or a kernel without vfat");
    };
    let refused = sand.ends(4, &["restore", "share", fat.text()]).saying("vfat cannot keep");
    let _ = refused.saying("symbolic links");
    assert_eq!(names_below(&fat.0), [b""]);
    let lossy = sand.done(&["restore", "share", fat.text(), "--lossy", "--json"]).json();
    let lost: Vec<&str> =
        lossy["lost"].as_array().expect("a list").iter().filter_map(|one| one["what"].as_str()).collect();
    assert!(lost.contains(&"symlinks") && lost.contains(&"entries"), "{lossy}");
    assert_eq!(fs::read(fat.0.join("small")).expect("read"), b"some bytes\n");
}

fn command_of(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let _ = command.args(args).stdin(Stdio::null()).env("PATH", path);
    command
}

#[test]
fn r6_a_target_that_fills_up_says_what_is_there_and_goes_on_when_it_has_room() {
    if !is_root() {
        return skipped("not root: this target is mounted");
    }
    let sand = Sandbox::with_repo();
    let share = sand.at("share");
    fs::create_dir(&share).expect("make a directory");
    for number in 0..40u64 {
        fs::write(format!("{share}/{number}"), mixed(number, 100_000)).expect("write");
    }
    let _ = sand.backup("share", &[&share]);
    let place = Place::mount(&sand, "place", &["-t", "tmpfs", "-o", "size=8m", "none"]).expect("a tmpfs");
    // Somebody fills it while the restore runs: it was large enough when it was judged.
    let filler = place.0.join("filler");
    let command = sand.command(&["restore", "share", place.text(), "--into"]);
    fs::write(&filler, vec![1; 3 << 20]).expect("fill it");
    let mut running = Running::start(command);
    let mut full = false;
    while !running.has_ended() {
        full |= fs::OpenOptions::new()
            .append(true)
            .open(&filler)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[1; 1 << 20]))
            .is_err();
    }
    let output = running.wait(Duration::from_secs(30));
    if output.code() == Some(1) {
        let _ = output.saying("no space left").saying("in place").saying("goes on from there");
    } else {
        // It was faster, or it was judged after the place was full.
        assert!(full || matches!(output.code(), Some(0 | 4)), "{output}");
    }
    // A child that another test forks just now has the file open for a moment, so it is emptied, too.
    fs::write(&filler, b"").and_then(|()| fs::remove_file(&filler)).expect("make room");
    let _ = sand.done(&["restore", "share", place.text(), "--differential", "--verify"]);
    assert_same_trees(Path::new(&share), &place.0);
}

#[test]
fn r8_killed_at_any_time_it_is_ended_by_the_next_run() {
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let share = sand.at("share");
    for number in 0..400u64 {
        let dir = format!("{share}/{:02}", number / 20);
        fs::create_dir_all(&dir).expect("make a directory");
        fs::write(format!("{dir}/{number}"), mixed(number, 3000 + number * 200)).expect("write");
        if number % 20 == 0 {
            fs::hard_link(format!("{dir}/{number}"), format!("{share}/again {number}")).expect("link");
        }
    }
    let _ = sand.backup("share", &[&share]);
    let mut unfinished = 0;
    for millis in (1..24).chain([40, 80, 160, 320]) {
        let target = format!("back {millis}");
        let mut running = Running::start(sand.command(&["restore", "share", &target]));
        std::thread::sleep(Duration::from_millis(millis * 3));
        running.kill();
        let killed = running.wait(Duration::from_secs(30)).code().is_none();
        unfinished += u32::from(killed && Path::new(&sand.at(&target)).exists());
        let again = sand.run(&["restore", "share", &target]);
        // After one that was done in time, even if it could not say so any more, it finds its directory full, and right.
        assert!(matches!(again.code(), Some(0 | 4)), "after {millis}: {again}");
        assert_same_trees(Path::new(&share), Path::new(&sand.at(&target)));
        fs::remove_dir_all(sand.at(&target)).expect("remove it");
    }
    println!("{unfinished} restores were killed with something done");
}

#[test]
fn r12_without_privilege_what_is_not_the_users_own_is_listed_and_said_by_the_exit_code() {
    if !is_root() || !has_program("setpriv") {
        return skipped("not root, or no setpriv");
    }
    let (sand, share) = with_odd_share();
    fs::write(sand.at("mine"), "").expect("write");
    let home = sand.at("their home");
    fs::create_dir(&home).expect("make a home");
    for path in [sand.at(""), home.clone()] {
        let _ = run(command_of("chmod", &["-R", "a+rwX", &path]), Duration::from_secs(10));
    }
    let ours = sand.ours_for_all();
    let restore = |target: &str, more: &[&str]| {
        let repo = sand.repo();
        let mut args = vec!["--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=-all", "env"];
        let envs = [format!("HOME={home}"), format!("AFTERIMAGE_REPO={}", repo.display())];
        args.extend(envs.iter().map(String::as_str));
        args.extend([ours.as_str(), "--json", "restore", "share", target]);
        args.extend(more);
        let mut command = command_of("setpriv", &args);
        let _ = command.current_dir(sand.root());
        run(command, Duration::from_secs(60))
    };
    let output = restore("theirs", &[]).expect_code(1);
    let said = output.json();
    let lost =
        |what: &str| said["lost"].as_array().expect("a list").iter().find(|one| one["what"] == what).cloned();
    for what in ["owners", "devices", "set_ids", "capabilities", "system_xattrs"] {
        assert!(lost(what).is_some_and(|one| one["count"].as_u64() > Some(0)), "{what}: {said}");
    }
    assert!(lost("symlinks").is_none() && lost("hard_links").is_none(), "{said}");
    assert!(output.stderr.contains("not kept: owners"), "{output}");
    assert_eq!(
        fs::read(sand.at("theirs/large")).expect("read"),
        fs::read(share.join("large")).expect("read")
    );
    let stat = fs::metadata(sand.at("theirs/small")).expect("stat");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&stat) & 0o6000, 0, "nobody's set-id bit becomes his");
    let _ = restore("theirs too", &["--lossy"]).expect_code(0);
}

#[test]
fn diff_find_and_history_tell_what_became_of_files() {
    let sand = Sandbox::with_repo();
    let share = made_share(&sand, "share");
    let first = sand.backup("share", &[&share]);
    fs::write(format!("{share}/docs/small"), "changed").expect("write");
    fs::rename(format!("{share}/docs/old/large"), format!("{share}/large")).expect("move");
    fs::write(format!("{share}/new"), "new").expect("write");
    let second = sand.backup("share", &[&share]);
    let said = sand.done(&["diff", first.id(), second.id(), "--json"]).json();
    let change = |path: &str| {
        let all = said["paths"].as_array().expect("a list");
        all.iter()
            .find(|one| one["path"] == path)
            .map(|one| one["change"].as_str().expect("a word").to_owned())
    };
    assert_eq!(change("docs/small").as_deref(), Some("content"));
    assert_eq!((change("large").as_deref(), change("new").as_deref()), (Some("moved"), Some("added")));
    assert_eq!((change("docs/chunk"), change("docs/old/large")), (None, None));
    let words = sand.done(&["diff", "share@latest~1", "share"]);
    assert!(words.text().contains("docs/old/large -> large"), "{words}");
    assert_eq!(sand.done(&["diff", "share", "share"]).text(), "they are equal\n");

    let found = sand.done(&["find", "large", "--json"]).json();
    let paths: Vec<&str> =
        found.as_array().expect("a list").iter().filter_map(|one| one["path"].as_str()).collect();
    assert_eq!(paths, ["docs/old/large", "large"]);
    assert!(sand.done(&["find", "docs/sm*", "--name", "share"]).text().starts_with("docs/small\n"));
    assert_eq!(sand.run(&["find", "no such thing"]).code(), Some(1));
    let _ = sand.ends(2, &["find", "[x"]).saying("no pattern");
    let history = sand.done(&["history", "docs/small", "--name", "share", "--json"]).json();
    let versions = history[0]["versions"].as_array().expect("a list");
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[0]["backups"][0]["id"], second.text("id"));
    assert_eq!(versions[1]["backups"][0]["id"], first.text("id"));
    let _ = sand.ends(1, &["history", "docs/nothing", "--name", "share"]).saying("no backup of share has");
    let _ = sand.ends(1, &["history", "docs/small", "--name", "nobody"]);
}

/// A directory as Manila's NFS driver keeps it: a plain tree for each backup, under the backup's id.
#[test]
fn a_directory_of_backups_that_others_made_becomes_one_backup_for_each() {
    let sand = Sandbox::with_repo();
    let ids = [
        "0b9f5d6c-7b7e-4c55-9d0c-111111111111",
        "5f0a3b1e-0b0b-4a7e-8a51-222222222222",
        "c3c1d0de-aaaa-4bbb-8ccc-333333333333",
    ];
    let mut sources = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let path = sand.at(&format!("backups/{id}"));
        fs::create_dir_all(format!("{path}/docs")).expect("make a directory");
        fs::write(format!("{path}/docs/report"), mixed(7, 50_000)).expect("write");
        fs::write(format!("{path}/number"), number.to_string()).expect("write");
        sources.push(path);
    }
    // The older of two backups of one share comes second in the directory.
    let row = |name: &str, time: &str, share: &str| serde_json::json!({ "name": name, "time": time, "share_id": share, "protocol": "NFS", "size": 1, "export": ["10.0.0.0/8 rw"] });
    let table = serde_json::json!({
        ids[0]: row("projects", "2026-11-20T10:00:00Z", "s-1"),
        ids[1]: row("projects", "2026-11-19T10:00:00Z", "s-1"),
        ids[2]: row("homes", "2026-11-20T11:00:00Z", "s-2"),
    });
    fs::write(sand.at("table.json"), table.to_string()).expect("write");
    let mut args = vec!["backup", "--each", "--metadata", "table.json", "--json"];
    args.extend(sources.iter().map(String::as_str));
    let made = sand.done(&args).json();
    assert_eq!(made.as_array().map(Vec::len), Some(3));
    let listed = sand.done(&["list", "projects", "--json"]).json();
    let times: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|one| one["time"].as_str()).collect();
    assert_eq!(times, ["2026-11-19T10:00:00Z", "2026-11-20T10:00:00Z"]);
    assert_eq!(listed[1]["parent"], listed[0]["id"]);
    assert_eq!((&listed[1]["metadata"]["share_id"], &listed[1]["protocol"]), (&"s-1".into(), &"NFS".into()));
    assert_eq!(sand.done(&["cat", "projects", "number"]).stdout, b"0");
    assert_eq!(sand.done(&["cat", "projects@latest~1", "number"]).stdout, b"1");
    let _ = sand.done(&["restore", "homes", "back", "--verify"]);
    assert_same_trees(Path::new(&sources[2]), Path::new(&sand.at("back")));

    let before = sand.done(&["list", "--json"]).json();
    for (table, words) in [
        (serde_json::json!({ ids[0]: {} }), "has nothing for"),
        (serde_json::json!({ ids[0]: 1, ids[1]: {}, ids[2]: {} }), "no object"),
        (serde_json::json!({ ids[0]: {}, ids[1]: {"time": "noon"}, ids[2]: {} }), "is no time"),
        (serde_json::json!({ ids[0]: {}, ids[1]: {"name": "a/b"}, ids[2]: {} }), "can't be the name"),
    ] {
        fs::write(sand.at("table.json"), table.to_string()).expect("write");
        let _ = sand.ends(2, &args).saying(words);
    }
    assert_eq!(sand.done(&["list", "--json"]).json(), before, "all is judged before the first is made");
    let _ = sand.ends(2, &["backup", &sources[0]]).saying("--name");
}
