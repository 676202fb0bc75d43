//! Records: what `list`, `show` and `backup --json` say, and the ways to name a backup.

use crate::common::images::{assert_same_bytes, file, mixed};
use crate::common::{Record, Sandbox};
use serde_json::json;

/// Four backups of two names at known times; each with bytes of its own.
fn four() -> (Sandbox, Vec<(Record, Vec<u8>)>) {
    let sand = Sandbox::with_repo();
    let times = [
        ("web01", "2026-01-01T00:00:00Z"),
        ("web01", "2026-01-02T00:00:00Z"),
        ("db01", "2026-01-02T12:00:00Z"),
        ("web01", "2026-01-03T10:30:00+02:00"),
    ];
    let mut made = Vec::new();
    for (number, (name, time)) in times.into_iter().enumerate() {
        let bytes = mixed(number as u64, 200_000 + number as u64);
        let image = file(&sand, &format!("{number}.img"), &bytes);
        made.push((sand.backup_with(name, &[&image], &["--time", time]), bytes));
    }
    (sand, made)
}

#[test]
fn a_record_has_every_key_of_the_contract() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(1, 300_000));
    let facts = file(&sand, "facts.json", br#"{"volume_id": "6f2a", "size": 1, "nested": {"a": [1, 2]}}"#);
    let made = sand.backup_with(
        "web01",
        &[&image],
        &["--tag", "site=a", "--tag", "tier=gold", "--metadata", &facts],
    );
    let record = &made.0;
    let keys = [
        "id", "name", "kind", "time", "parent", "tags", "metadata", "items", "project", "group", "protocol",
        "stats", "complete", "origin",
    ];
    for key in keys {
        assert!(record.get(key).is_some(), "no {key:?} in {record}");
    }
    assert_eq!(record["name"], "web01");
    assert_eq!(record["kind"], "volume");
    assert_eq!(record["origin"], "native");
    assert_eq!(record["complete"], true);
    assert_eq!(record["parent"], json!(null));
    assert_eq!(record["tags"], json!({"site": "a", "tier": "gold"}));
    assert_eq!(record["metadata"], json!({"volume_id": "6f2a", "size": 1, "nested": {"a": [1, 2]}}));
    assert_eq!(record["items"][0]["name"], "disk.img");
    assert_eq!(record["items"][0]["kind"], "image");
    assert_eq!(record["items"][0]["size"], 300_000);
    for key in ["bytes_read", "bytes_new", "bytes_stored", "seconds"] {
        assert!(record["stats"][key].is_number(), "no number stats.{key} in {record}");
    }
    let shown = sand.done(&["--json", "show", made.id()]).json();
    assert_eq!(&shown, record, "show says what backup said");
    assert_eq!(sand.done(&["--json", "list"]).json(), json!([record]), "and so does list");
}

#[test]
fn for_people_backup_prints_the_id_and_nothing_else() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", b"some bytes");
    let printed = sand.done(&["backup", &image, "--name", "web01"]);
    assert_eq!(printed.text().trim(), sand.list()[0].id());
    let table = sand.done(&["list"]);
    assert!(table.text().contains("web01"), "{table}");
    assert!(sand.done(&["show", "web01"]).text().contains(printed.text().trim()));
}

#[test]
fn an_empty_repository_lists_nothing() {
    let sand = Sandbox::with_repo();
    assert_eq!(sand.done(&["--json", "list"]).json(), json!([]));
    let _ = sand.ends(1, &["show", "web01"]).saying("web01");
}

#[test]
fn list_is_oldest_first_and_can_be_narrowed() {
    let (sand, made) = four();
    let ids = |listed: Vec<Record>| listed.iter().map(|record| record.id().to_string()).collect::<Vec<_>>();
    let want: Vec<_> = made.iter().map(|(record, _)| record.clone()).collect();
    assert_eq!(ids(sand.list()), ids(want), "oldest first");
    let web: Vec<Record> = sand
        .done(&["--json", "list", "web01"])
        .json()
        .as_array()
        .expect("array")
        .iter()
        .cloned()
        .map(Record)
        .collect();
    assert_eq!(web.len(), 3);
    assert!(web.iter().all(|record| record.text("name") == "web01"));
    let image = file(&sand, "tagged.img", b"tagged");
    let tagged = sand.backup_with("db01", &[&image], &["--tag", "site=b"]);
    let by_tag = sand.done(&["--json", "list", "--tag", "site=b"]).json();
    assert_eq!(by_tag, json!([tagged.0]));
    assert_eq!(sand.done(&["--json", "list", "no-such-name"]).json(), json!([]));
}

#[test]
fn a_backup_is_found_by_every_kind_of_reference() {
    let (sand, made) = four();
    let by_id = made[1].0.id().to_string();
    let cases = [
        (by_id.as_str(), 1),
        (&by_id[..8], 1),
        ("web01", 3),
        ("db01", 2),
        ("web01@latest", 3),
        ("web01@latest~0", 3),
        ("web01@latest~1", 1),
        ("web01@latest~2", 0),
        ("web01@2026-01-02T00:00:00Z", 1),
        ("web01@2026-01-02T23:00:00Z", 1),
        ("web01@2026-01-03T10:29:59+02:00", 1),
        ("web01@2026-01-03T08:30:00Z", 3),
        ("web01@2030-01-01T00:00:00Z", 3),
    ];
    for (reference, which) in cases {
        assert_eq!(
            Record(sand.done(&["--json", "show", reference]).json()).id(),
            made[which].0.id(),
            "{reference}"
        );
        assert_same_bytes(&sand.cat(reference), &made[which].1, reference);
    }
}

#[test]
fn a_reference_to_nothing_says_so() {
    let (sand, _) = four();
    for reference in ["web02", "web01@latest~3", "web01@2020-01-01T00:00:00Z", "00000000", "db01@latest~1"] {
        let _ = sand.ends(1, &["show", reference]).saying(reference.split('@').next().expect("a first part"));
    }
    for reference in ["web01@", "web01@latest~", "web01@latest~x", "web01@noon", "@latest"] {
        let _ = sand.ends(2, &["show", reference]);
    }
}

#[test]
fn names_of_200_bytes_and_of_other_scripts_are_kept() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", b"bytes");
    let long = "n".repeat(200);
    for name in [long.as_str(), "wéb 01", "服务器", "a.b-c_d", "percent%41"] {
        let record = sand.backup(name, &[&image]);
        assert_eq!(record.text("name"), name);
        assert_eq!(sand.cat(name), b"bytes");
    }
    let _ = sand.ends(2, &["backup", &image, "--name", &"n".repeat(201)]);
    let _ = sand.ends(2, &["backup", &image, "--name", "two\nlines"]);
    let _ = sand.ends(2, &["backup", &image, "--name", "a,b"]);
    let _ = sand.ends(2, &["backup", &image, "--name", "k=v"]);
}

#[test]
fn metadata_that_is_not_json_or_too_much_is_refused_before_the_backup() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", b"bytes");
    let broken = file(&sand, "broken.json", b"{\"a\": ");
    let _ = sand.ends(2, &["backup", &image, "--name", "web01", "--metadata", &broken]);
    let huge = file(&sand, "huge.json", format!("{{\"a\": \"{}\"}}", "x".repeat(64 << 20)).as_bytes());
    let output = sand.run(&["backup", &image, "--name", "web01", "--metadata", &huge]);
    assert!(matches!(output.code(), Some(1 | 2)), "{output}");
    assert_eq!(sand.list(), []);
}

#[test]
fn the_parent_is_the_latest_of_the_name_unless_told() {
    let (sand, made) = four();
    assert_eq!(made[1].0.text("parent"), made[0].0.id());
    assert!(made[2].0.0["parent"].is_null(), "another name has no parent here");
    assert_eq!(made[3].0.text("parent"), made[1].0.id());
    let image = file(&sand, "more.img", b"more");
    let told = sand.backup_with("web01", &[&image], &["--parent", "db01"]);
    assert_eq!(told.text("parent"), made[2].0.id());
    let _ = sand.ends(1, &["backup", &image, "--name", "web01", "--parent", "web07"]);
}

#[test]
fn d5_a_time_before_all_others_changes_no_order_but_its_own() {
    let (sand, made) = four();
    let image = file(&sand, "old.img", b"old");
    let old = sand.backup_with("web01", &[&image], &["--time", "1999-12-31T23:59:59Z"]);
    assert_eq!(sand.list()[0], old);
    assert_same_bytes(&sand.cat("web01"), &made[3].1, "latest is by time");
}
