//! Shares through the built command: one directory, several, directories and images together; what is left out, refused, or not there.

use crate::common::images::{KIB, MIB, assert_same_bytes, digest_of, file, flip_in_the_middle, mixed};
use crate::common::shares::made_share;
use crate::common::{Record, Sandbox};
use serde_json::Value;
use std::path::Path;

fn assert_files(sand: &Sandbox, backup: &str, share: &str) {
    for path in
        ["none", "docs/small", "docs/chunk", "docs/old/large", "many/other name", "holes", "many/file-299"]
    {
        let want = std::fs::read(Path::new(share).join(path)).expect("read the source");
        assert_same_bytes(&sand.done(&["cat", backup, path]).stdout, &want, path);
    }
}

#[test]
fn a_share_is_backed_up_shown_listed_and_read_file_by_file() {
    let sand = Sandbox::with_repo();
    let share = made_share(&sand, "share");
    let record = sand.backup("share", &[&share]);
    assert_eq!(record.text("kind"), "share");
    assert_eq!(
        (record.item(0, "name"), record.item(0, "kind")),
        (&Value::from("tree"), &Value::from("tree"))
    );
    // 300 small ones, five named ones, the odd name, two links, one with holes, one pipe.
    assert_eq!(record.item(0, "files").as_u64(), Some(309));
    assert_files(&sand, record.id(), &share);
    let part = sand.done(&["cat", "share", "docs/old/large", "--offset", "1M", "--length", "4097"]).stdout;
    assert_same_bytes(&part, &mixed(3 * MIB + 7, 3 * MIB + 7)[MIB as usize..][..4097], "a part");
    assert!(sand.done(&["show", "share"]).text().contains("309 files"));
    assert!(sand.done(&["list"]).text().contains("share"));
    let second = sand.backup("share", &[&share]);
    assert_eq!(second.stat("bytes_new"), 0);
    assert_eq!(second.item(0, "root"), record.item(0, "root"));
    sand.assert_sound();
}

#[test]
fn words_for_a_tree_and_for_an_image_are_told_apart() {
    let sand = Sandbox::with_repo();
    let (share, disk) = (made_share(&sand, "share"), file(&sand, "disk", &mixed(1, 9000)));
    let (_, _) = (sand.backup("share", &[&share]), sand.backup("disk", &[&disk]));
    let _ = sand.ends(2, &["cat", "share"]).saying("cat BACKUP PATH");
    let _ = sand.ends(1, &["cat", "share", "docs/none"]).saying("has no docs/none");
    let _ = sand.ends(2, &["cat", "share", "docs"]).saying("no regular file");
    let _ = sand.ends(2, &["cat", "share", "none", "--length", "1"]).saying("0 bytes");
    let _ = sand.ends(1, &["cat", "disk", "etc/passwd"]);
}

#[test]
fn volumes_and_shares_of_a_machine_make_one_set() {
    let sand = Sandbox::with_repo();
    let (share, disk) = (made_share(&sand, "share"), file(&sand, "disk", &mixed(1, 900 * KIB)));
    let etc = made_share(&sand, "etc");
    let metadata = file(
        &sand,
        "m.json",
        br#"{"id": "s-1", "protocol": "nfs", "size": 10, "export": {"path": "/s", "options": ["rw"]}}"#,
    );
    let one = sand.backup_with("pair", &[&disk, &share], &["--metadata", &metadata]);
    let names = |record: &Record| [record.item(0, "name").clone(), record.item(1, "name").clone()];
    assert_eq!((one.text("kind"), names(&one)), ("set", ["disk.img".into(), "tree".into()]));
    assert_eq!((one.text("protocol"), &one.0["metadata"]["export"]["path"]), ("nfs", &Value::from("/s")));
    let two = sand.backup("shares", &[&share, &format!("conf={etc}")]);
    assert_eq!((two.text("kind"), names(&two)), ("set", ["share".into(), "conf".into()]));
    assert_files(&sand, "pair/tree", &share);
    assert_files(&sand, "shares/conf", &etc);
    assert_eq!(digest_of(&sand.cat("pair/disk.img")), digest_of(&mixed(1, 900 * KIB)));
    let _ = sand.ends(2, &["cat", "pair"]).saying("tree");
    sand.assert_sound();
}

#[test]
fn d10_the_repository_is_no_part_of_its_own_backup_and_nothing_in_it_a_source() {
    let sand = Sandbox::with_repo();
    let _ = file(&sand, "beside", b"beside the repository");
    let output =
        sand.done(&["backup", sand.at("").as_str(), "--name", "all", "--exclude", "/home", "--json"]);
    assert!(output.stderr.contains("repo is left out: it is the repository"), "{output}");
    let _ = sand.done(&["cat", "all", "beside"]);
    let _ = sand.ends(1, &["cat", "all", "repo/afterimage.json"]);
    let repo = sand.at("repo");
    for inside in [repo.clone(), format!("{repo}/packs")] {
        let _ = sand.ends(4, &["backup", &inside, "--name", "inside"]).saying("inside the repository");
    }
}

#[test]
fn d9_what_cant_be_read_is_listed_and_shows_in_the_exit_code_when_it_is_to_go_on() {
    let sand = Sandbox::with_repo();
    let base = [
        "backup",
        "/proc/self",
        "--name",
        "self",
        "--exclude",
        "/*",
        "--exclude",
        "!/mem",
        "--exclude",
        "!/comm",
    ];
    let _ = sand.ends(1, &base).saying("mem").saying("--keep-going");
    assert!(sand.list().is_empty());
    let output = sand.run(&[&base[..], &["--keep-going", "--json"]].concat()).expect_code(1);
    let record = output.json();
    assert_eq!((&record["unread"], &record["complete"]), (&serde_json::json!(["mem"]), &Value::from(false)));
    assert!(output.stderr.contains("mem could not be read"), "{output}");
    assert!(sand.done(&["show", "self"]).text().contains("not read    mem"));
}

#[test]
fn x2_damage_is_named_by_path_and_spares_the_other_files() {
    let sand = Sandbox::with_repo();
    let share = made_share(&sand, "share");
    let record = sand.backup("share", &[&share]);
    sand.change(sand.largest_pack(), |pack| flip_in_the_middle(pack));
    let report = sand.run(&["check", "--read-data", "--json"]).expect_code(3).json();
    let damaged = report["damaged"].as_array().expect("damage");
    assert_eq!(damaged[0]["backup"].as_str(), Some(record.id()));
    let path = damaged[0]["path"].as_str().expect("a path").to_owned();
    assert!(Path::new(&share).join(&path).is_file(), "{path}");
    let _ = sand.run(&["cat", "share", &path]).expect_code(3);
    for other in ["docs/small", "many/file-7"].iter().filter(|other| **other != path) {
        let want = std::fs::read(Path::new(&share).join(other)).expect("read the source");
        assert_same_bytes(&sand.done(&["cat", "share", other]).stdout, &want, other);
    }
}
