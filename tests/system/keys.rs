//! Passwords: who gets in, who does not, and that no secret ever shows.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Output, Sandbox, files_under, run};
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;

const SECRET: &str = "correct-horse-PLANTED-battery";
const OTHER: &str = "another-PLANTED-staple";

/// A repository under a password, whose file is at the given path.
fn locked() -> (Sandbox, String) {
    let sand = Sandbox::new();
    let password = file(&sand, "password", format!("{SECRET}\n").as_bytes());
    let _ = sand.done(&["init", "--password-file", &password]);
    (sand, password)
}

fn slots(sand: &Sandbox, password: &str) -> Vec<String> {
    let listed = sand.done(&["--password-file", password, "--json", "key", "list"]).json();
    let id = |slot: &serde_json::Value| slot["id"].as_str().expect("a slot has an id").to_string();
    listed.as_array().expect("slots are an array").iter().map(id).collect()
}

#[test]
fn without_a_password_init_says_that_the_key_lies_beside_the_data() {
    let sand = Sandbox::new();
    let output = sand.done(&["init"]);
    let said = format!("{}{}", output.text(), output.stderr);
    assert!(said.contains("beside the data"), "{output}");
}

#[test]
fn a_password_is_wanted_by_every_verb() {
    let (sand, password) = locked();
    let image = file(&sand, "disk.img", &mixed(60, MIB));
    let _ = sand.done(&["--password-file", &password, "backup", &image, "--name", "web01"]);
    let calls: [&[&str]; 7] = [
        &["list"],
        &["show", "web01"],
        &["cat", "web01"],
        &["restore", "web01", "out.img"],
        &["check"],
        &["key", "list"],
        &["backup", &image, "--name", "web01"],
    ];
    for call in calls {
        let _ = sand.ends(1, call).saying("password");
        let wrong = file(&sand, "wrong", b"not it\n");
        let mut with_wrong = vec!["--password-file", wrong.as_str()];
        with_wrong.extend(call);
        let _ = sand.ends(1, &with_wrong).saying("password");
    }
    assert!(!std::path::Path::new(&sand.at("out.img")).exists());
}

#[test]
fn the_password_file_may_be_named_by_the_environment_and_may_end_without_a_newline() {
    let (sand, _) = locked();
    let bare = file(&sand, "bare", SECRET.as_bytes());
    let mut command = sand.command(&["--json", "list"]);
    let _ = command.env("AFTERIMAGE_PASSWORD_FILE", &bare);
    assert_eq!(run(command, Duration::from_secs(20)).expect_code(0).json(), json!([]));
}

#[test]
fn x4_wrong_password_and_damaged_slot_are_one_message() {
    let (sand, password) = locked();
    let wrong = file(&sand, "wrong", b"not it\n");
    let of_wrong = sand.ends(1, &["--password-file", &wrong, "list"]).stderr;
    let empty = file(&sand, "empty", b"");
    let _ = sand
        .run(&["--password-file", &empty, "list"])
        .code()
        .filter(|code| *code != 0)
        .expect("an empty password");
    let slot = sand.objects().into_iter().find(|path| path.starts_with("keys")).expect("a slot");
    sand.change(slot, |slot| *slot.last_mut().expect("bytes") ^= 1);
    let of_damaged = sand.run(&["--password-file", &password, "list"]);
    assert!(matches!(of_damaged.code(), Some(1 | 3)), "{of_damaged}");
    assert!(of_wrong.contains("password"), "{of_wrong}");
}

#[test]
fn slots_are_added_listed_and_removed_but_never_the_last() {
    let (sand, password) = locked();
    let second = file(&sand, "second", OTHER.as_bytes());
    let first_slot = slots(&sand, &password);
    assert_eq!(first_slot.len(), 1);
    let _ = sand.done(&["--password-file", &password, "key", "add", "--new-password-file", &second]);
    assert_eq!(slots(&sand, &second).len(), 2, "both passwords open, and both see two slots");
    let _ = sand.done(&["--password-file", &second, "key", "remove", &first_slot[0]]);
    let _ = sand.ends(1, &["--password-file", &password, "list"]).saying("password");
    let left = slots(&sand, &second);
    assert_eq!(left.len(), 1);
    let _ = sand.ends(4, &["--password-file", &second, "key", "remove", &left[0]]);
    assert_eq!(slots(&sand, &second), left);
}

#[test]
fn a_slot_is_removed_only_where_another_one_was_seen_to_open() {
    let sand = Sandbox::new();
    let _ = sand.done(&["init"]);
    let password = file(&sand, "password", SECRET.as_bytes());
    let _ = sand.done(&["key", "add", "--new-password-file", &password]);
    let listed = sand.done(&["--json", "key", "list"]).json();
    let of_lock = |lock: &str| {
        let mut slots = listed.as_array().expect("slots").iter();
        slots.find(|slot| slot["lock"] == lock).expect("one of each")["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let (open, locked) = (of_lock("open"), of_lock("password"));
    // Nobody has shown a password, and there is no terminal to ask on.
    let _ = sand.ends(1, &["key", "remove", &open]).saying("password");
    let flip = |slot: &mut Vec<u8>| {
        let mut json: serde_json::Value = serde_json::from_slice(slot).expect("a slot is JSON");
        let wrapped = json["wrapped"].as_str().expect("text").to_owned();
        let other = if wrapped.starts_with('0') { "1" } else { "0" };
        json["wrapped"] = json!(format!("{other}{}", &wrapped[1..]));
        *slot = json.to_string().into_bytes();
    };
    let name = format!("keys/{locked}");
    let mut whole = Vec::new();
    sand.change(&name, |slot| {
        whole.clone_from(slot);
        flip(slot);
    });
    let _ = sand.ends(1, &["--password-file", &password, "key", "remove", &open]);
    sand.change(&name, |slot| slot.clone_from(&whole));
    let _ = sand.done(&["--password-file", &password, "key", "remove", &open]);
    let _ = sand.ends(1, &["list"]).saying("password");
    assert_eq!(slots(&sand, &password), [locked]);
}

#[test]
fn x3_a_slot_that_asks_for_more_than_bounds_allow_is_refused_at_once() {
    let (sand, password) = locked();
    let slot = sand.objects().into_iter().find(|path| path.starts_with("keys")).expect("a slot");
    let mut whole = serde_json::Value::Null;
    sand.change(&slot, |stored| whole = serde_json::from_slice(stored).expect("a slot is JSON"));
    let harms = [
        ("memory_kib", json!(4_294_967_295u32)),
        ("memory_kib", json!(0)),
        ("passes", json!(1_000_000_000)),
        ("passes", json!(0)),
        ("lanes", json!(16_777_216)),
        ("lanes", json!(0)),
        ("salt", json!("")),
        ("salt", json!("00".repeat(1_000_000))),
        ("kdf", json!("rot13")),
        ("wrapped", json!("")),
        ("version", json!(2)),
    ];
    for (key, value) in harms {
        assert!(whole.get(key).is_some(), "slots have no {key} any more: {whole}");
        let mut harmed = whole.clone();
        harmed[key] = value;
        sand.change(&slot, |stored| *stored = harmed.to_string().into_bytes());
        let output = sand.run(&["--password-file", &password, "list"]);
        assert!(matches!(output.code(), Some(1 | 3)), "{key}: {output}");
    }
}

#[test]
fn p12_no_password_and_no_plain_byte_shows_in_any_output_or_stored_file() {
    let (sand, password) = locked();
    let second = file(&sand, "second", OTHER.as_bytes());
    let content = "PLANTED-content-of-the-disk ".repeat(8000);
    let image = file(&sand, "disk.img", content.as_bytes());
    let metadata = file(&sand, "facts.json", br#"{"note": "PLANTED-metadata"}"#);
    let wrong = file(&sand, "wrong", b"PLANTED-wrong-password");
    let calls: [&[&str]; 9] = [
        &["-vvv", "--password-file", &password, "backup", &image, "--name", "web01", "--metadata", &metadata],
        &["-vvv", "--password-file", &password, "list"],
        &["-vvv", "--password-file", &password, "check", "--read-data"],
        &["-vvv", "--password-file", &password, "restore", "web01", "out.img"],
        &["-vvv", "--password-file", &password, "key", "add", "--new-password-file", &second],
        &["-vvv", "--password-file", &password, "key", "list"],
        &["-vvv", "--password-file", &wrong, "list"],
        &["-vvv", "--password-file", &password, "cat", "no-such-backup"],
        &["-vvv", "--password-file", &sand.at("no-such-file"), "list"],
    ];
    for call in calls {
        let mut command = sand.command(call);
        let _ = command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").stdin(Stdio::null());
        assert_silent(&run(command, Duration::from_secs(60)));
    }
    for path in files_under(&sand.here()).into_iter().chain(files_under(sand.home())) {
        let bytes = std::fs::read(&path).expect("read");
        assert!(!bytes.windows(7).any(|window| window == b"PLANTED"), "{} holds a secret", path.display());
    }
}

fn assert_silent(output: &Output) {
    let said = [output.stdout.as_slice(), output.stderr.as_bytes()].concat();
    assert!(!said.windows(7).any(|window| window == b"PLANTED"), "a secret shows: {output}");
}
