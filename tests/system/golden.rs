//! Repositories that a released version made are read forever, and go on being used.
//!
//! `tests/golden/vN-*` were made by the build that was current when format N came, and are never made anew; beside each lies what
//! `list --json` said of it then, and for shares what digests their files have. A build that has to change one of these files has broken its users.

use crate::common::images::{digest_of, file, mixed};
use crate::common::{Sandbox, files_under, tool};
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// A repository of then, in the place of a sandbox's own, and what was said of it.
fn golden(kind: &str) -> (Sandbox, Value) {
    let sand = Sandbox::new();
    let repo = sand.repo();
    let _ = tool("cp", &["-r", &format!("{GOLDEN}/{kind}"), repo.to_str().expect("a path of the sandbox")]);
    let said = std::fs::read(format!("{GOLDEN}/{kind}.json")).expect("what was said of it");
    (sand, serde_json::from_slice(&said).expect("JSON"))
}

/// Every key that was there then is there, with the same value; more may have come.
fn assert_says_all_of(now: &Value, then: &Value, what: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, value) in then {
                let here = now.get(key).unwrap_or_else(|| panic!("{what}.{key} has gone"));
                assert_says_all_of(here, value, &format!("{what}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{what}");
            for (at, (now, then)) in now.iter().zip(then).enumerate() {
                assert_says_all_of(now, then, &format!("{what}[{at}]"));
            }
        }
        _ => assert_eq!(now, then, "{what}"),
    }
}

fn assert_reads_as_then(kind: &str, flags: &[&str]) {
    let (sand, then) = golden(kind);
    let with = |args: &[&str]| sand.done(&[flags, args].concat());
    let before = files_under(&sand.repo());
    assert_says_all_of(&with(&["list", "--json"]).json(), &then, kind);
    for record in then.as_array().expect("records") {
        let id = record["id"].as_str().expect("an id");
        let items = record["items"].as_array().expect("items");
        for item in items.iter().filter(|item| item["kind"] == "image") {
            let name = item["name"].as_str().expect("a name");
            let image = if items.len() > 1 { format!("{id}/{name}") } else { id.to_owned() };
            let got = with(&["cat", &image]).stdout;
            assert_eq!(Some(digest_of(&got).as_str()), item["sha256"].as_str(), "{kind}: {image}");
        }
    }
    for (tree, files) in files_of_trees(kind) {
        for (path, digest) in files.as_object().expect("files") {
            let got = with(&["cat", &tree, path]).stdout;
            assert_eq!(Some(digest_of(&got).as_str()), digest.as_str(), "{kind}: {tree}: {path}");
        }
    }
    let _ = with(&["check", "--read-data"]);
    assert_eq!(files_under(&sand.repo()), before, "reading wrote something");
}

/// The digests of files in the trees of a golden repository, if it has some.
fn files_of_trees(kind: &str) -> serde_json::Map<String, Value> {
    let said = std::fs::read(format!("{GOLDEN}/{kind}.files.json"));
    said.map_or_else(|_| Default::default(), |said| serde_json::from_slice(&said).expect("JSON"))
}

#[test]
fn p10_x11_a_golden_repository_of_shares_reads_as_it_did() {
    assert!(!files_of_trees("v1-share").is_empty());
    assert_reads_as_then("v1-share", &[]);
}

#[test]
fn p10_x11_a_golden_repository_with_an_open_key_reads_as_it_did() {
    assert_reads_as_then("v1-open", &[]);
}

#[test]
fn p10_x11_a_golden_repository_with_a_password_reads_as_it_did() {
    assert_reads_as_then("v1-password", &["--password-file", &format!("{GOLDEN}/password")]);
}

#[test]
fn p10_a_golden_repository_takes_new_backups_and_finds_what_it_has() {
    let (sand, _) = golden("v1-open");
    let image = sand.at("again.img");
    std::fs::write(&image, sand.cat("web01/disk-2.img")).expect("write the image");
    let again = sand.backup("web01", &[&image]);
    assert_eq!(again.stat("bytes_new"), 0, "{again:?}");
    let other = file(&sand, "other.img", &mixed(1, 100_000));
    let _ = sand.backup("web02", &[&other]);
    sand.assert_sound();
}
