//! `sync`: from a directory to a service, between services, interrupted, damaged, and onto itself.

use crate::cloud::{Cloud, Harm};
use crate::common::faithful::assert_same_trees;
use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::shares::made_share;
use crate::common::{Output, Running, Sandbox};
use crate::{BOTH, Language};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The second site, as the first one's commands reach it.
struct Site {
    there: Sandbox,
    place: String,
    env: Vec<(String, String)>,
}

impl Site {
    fn new(place: &str, env: &[(String, String)], init: &[&str]) -> Site {
        let there = Sandbox::of_service(place, env);
        let _ = there.done(&[&["init"], init].concat());
        Site { there, place: place.to_owned(), env: env.to_vec() }
    }

    fn sync(&self, from: &Sandbox, more: &[&str]) -> Value {
        self.try_to_sync(from, &[&["--json"], more].concat()).expect_code(0).json()
    }

    fn try_to_sync(&self, from: &Sandbox, more: &[&str]) -> Output {
        let mut command = from.command(&[&["sync", &self.place], more].concat());
        let _ = command.envs(self.env.iter().map(|(name, value)| (name, value)));
        crate::common::run(command, Duration::from_secs(60))
    }
}

fn local() -> Site {
    let there = Sandbox::with_repo();
    let place = there.repo().to_str().expect("temporary paths are text").to_owned();
    Site { there, place, env: Vec::new() }
}

fn count(report: &Value, key: &str) -> usize {
    report[key].as_array().map_or(0, Vec::len)
}

#[test]
fn a_copy_keeps_its_id_and_all_that_is_said_of_it_and_costs_what_differs() {
    let from = Sandbox::with_repo();
    let source = file(&from, "disk", &mixed(1, 6 * MIB));
    let first =
        from.backup_with("web01", &[&source], &["--tag", "site=ams", "--time", "2026-11-01T10:00:00Z"]);
    let site = local();
    let report = site.sync(&from, &[]);
    assert_eq!((count(&report, "copied"), report["present"].as_u64()), (1, Some(0)), "{report}");
    overwrite(&source, 2 * MIB, b"changed since");
    let _second = from.backup("web01", &[&source]);
    let report = site.sync(&from, &[]);
    assert_eq!((count(&report, "copied"), report["present"].as_u64()), (1, Some(1)), "{report}");
    assert!(report["bytes_read"].as_u64().is_some_and(|read| read < 300_000), "{report}");
    let there = site.there.list();
    assert_eq!(there.len(), 2);
    for key in ["id", "name", "time", "tags"] {
        assert_eq!(there[0].0[key], first.0[key], "{key}");
    }
    assert_eq!(there[1].0["parent"], first.0["id"]);
    assert!(site.there.cat("web01") == std::fs::read(&source).expect("read the source"));
    assert!(site.there.cat(first.id()) == from.cat(first.id()));
    site.there.assert_sound();
    let report = site.sync(&from, &[]);
    assert_eq!((count(&report, "copied"), report["present"].as_u64()), (0, Some(2)), "{report}");
}

#[test]
fn a_copy_goes_to_a_service_and_back_and_to_other_chunk_sizes_and_passwords() {
    for language in BOTH {
        let from = Sandbox::with_repo();
        let source = file(&from, "disk", &mixed(2, 5 * MIB + 12_345));
        let record = from.backup("web01", &[&source]);
        let cloud = Cloud::start();
        cloud.refuse_deletes();
        let site = Site::new(&language.place("second"), &language.env(&cloud), &["--chunk-size", "64K"]);
        assert_eq!(count(&site.sync(&from, &[]), "copied"), 1);
        assert!(
            site.there.cat(record.id()) == std::fs::read(&source).expect("read the source"),
            "{language:?}"
        );
        site.there.assert_sound();
        let password = file(&from, "password", b"correct horse\n");
        let back = from.at("back");
        let _ = from.done(&["-r", &back, "--password-file", &password, "init", "--chunk-size", "1M"]);
        let _ = site.there.done(&["sync", &back, "--other-password-file", &password]);
        let bytes = from.done(&["-r", &back, "--password-file", &password, "cat", record.id()]).stdout;
        assert!(bytes == std::fs::read(&source).expect("read the source"), "{language:?}");
    }
}

#[test]
fn a_name_and_a_time_choose_what_is_copied() {
    let from = Sandbox::with_repo();
    let source = file(&from, "disk", &mixed(3, MIB));
    for (name, time) in [("a", "2026-01-01"), ("a", "2026-02-01"), ("b", "2026-02-02")] {
        let _ = from.backup_with(name, &[&source], &["--time", &format!("{time}T00:00:00Z")]);
    }
    let site = local();
    assert_eq!(count(&site.sync(&from, &["--name", "a", "--since", "2026-01-15T00:00:00Z"]), "copied"), 1);
    assert_eq!(count(&site.sync(&from, &["--name", "a"]), "copied"), 1);
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 1);
    assert_eq!(
        site.there.list().iter().map(|record| record.text("name")).collect::<Vec<_>>(),
        ["a", "a", "b"]
    );
}

#[test]
fn b11_a_repository_is_not_copied_onto_itself_or_its_plain_copy() {
    let from = Sandbox::with_repo();
    let copy = from.at("copy");
    let _ = crate::common::tool("cp", &["-r", from.repo().to_str().expect("text"), &copy]);
    for other in [from.repo().to_str().expect("text"), &copy] {
        let _ = from.ends(4, &["sync", other]).saying("the same repository");
    }
    let _ = from.ends(1, &["sync", &from.at("nothing")]).saying("init makes");
}

#[test]
fn p2_a_copy_that_is_killed_is_taken_up_by_the_next_and_nothing_half_is_listed() {
    let from = Sandbox::with_repo();
    let source = file(&from, "disk", &mixed(4, 40 * MIB));
    let record = from.backup("web01", &[&source]);
    let cloud = Cloud::start();
    let site = Site::new(&Language::S3.place("second"), &cloud.s3_env(), &[]);
    // The second upload hangs, so the kill comes when one pack is there and the record is not.
    cloud.plan("PUT", "/packs/", 2..3, Harm::Silence);
    let mut command = from.command(&["sync", &site.place]);
    let _ = command.envs(site.env.iter().map(|(name, value)| (name, value)));
    let mut running = Running::start(command);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while cloud.hits() == 0 || !cloud.keys().iter().any(|key| key.contains("/packs/")) {
        assert!(
            !running.has_ended() && std::time::Instant::now() < until,
            "no pack was sent: {:?}",
            cloud.keys()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    running.kill();
    drop(running);
    assert_eq!(site.there.list().len(), 0);
    let report = site.sync(&from, &[]);
    assert_eq!(count(&report, "copied"), 1);
    let (new, size) = (report["bytes_new"].as_u64().expect("a number"), record.item(0, "size").as_u64());
    assert!(Some(new) < size, "what was sent is used: {report}");
    assert!(site.there.cat(record.id()) == std::fs::read(&source).expect("read the source"));
    site.there.assert_sound();
}

#[test]
fn what_does_not_arrive_as_it_was_sent_is_not_listed() {
    let from = Sandbox::with_repo();
    let source = file(&from, "disk", &mixed(5, 2 * MIB));
    let _ = from.backup("web01", &[&source]);
    let cloud = Cloud::start();
    let site = Site::new(&Language::S3.place("second"), &cloud.s3_env(), &[]);
    cloud.plan("PUT", "/packs/", 1..2, Harm::Spoil);
    let output = site.try_to_sync(&from, &[]).expect_code(3);
    assert!(output.stderr.contains("did not arrive as it was sent"), "{output}");
    assert_eq!(site.there.list().len(), 0);
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 1);
    site.there.assert_sound();
}

#[test]
fn what_was_not_seen_to_arrive_is_never_taken_for_what_was_left_behind() {
    let from = Sandbox::with_repo();
    let source = file(&from, "disk", &mixed(5, 2 * MIB));
    let original = from.backup("web01", &[&source]);
    // Read back, found wrong, and not to be deleted; or not even read back.
    for reads_back in [true, false] {
        let cloud = Cloud::start();
        let site = Site::new(&Language::S3.place("second"), &cloud.s3_env(), &[]);
        cloud.refuse_deletes();
        cloud.plan("PUT", "/packs/", 1..2, Harm::Spoil);
        if !reads_back {
            cloud.plan("GET", "/packs/", 1..u64::MAX, Harm::Status(403, None));
        }
        let output = site.try_to_sync(&from, &[]);
        assert!(!output.status.success(), "{output}");
        assert_eq!(site.there.list().len(), 0);
        cloud.behave();
        assert_eq!(count(&site.sync(&from, &[]), "copied"), 1);
        assert!(site.there.cat(original.id()) == std::fs::read(&source).expect("read the source"));
    }
}

#[test]
fn what_the_second_site_has_lost_since_is_sent_again() {
    let from = Sandbox::with_repo();
    // What is unchanged is a whole node of the map, and what changes lies below another one.
    let disk = file(&from, "disk", &[mixed(15, 32 * MIB), vec![0; 32 << 20]].concat());
    let share = made_share(&from, "share");
    let backup = || [from.backup("web01", &[&disk]), from.backup("team", &[&share])];
    let _earlier = backup();
    let cloud = Cloud::start();
    let site = Site::new(&Language::S3.place("second"), &cloud.s3_env(), &[]);
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 2);
    cloud.lose_largest("/packs/");
    overwrite(&disk, 40 * MIB, b"changed since");
    std::fs::write(Path::new(&share).join("new"), b"new").expect("write");
    let newest = backup();
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 2);
    let report = site.there.run(&["--json", "check", "--read-data"]).expect_code(3).json();
    let hurt: Vec<&str> = report["damaged"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["backup"].as_str())
        .collect();
    assert!(newest.iter().all(|record| !hurt.contains(&record.id())), "{report}");
    assert!(site.there.cat(newest[0].id()) == std::fs::read(&disk).expect("read the source"));
}

#[test]
fn a_damaged_backup_is_named_and_the_others_are_copied() {
    let from = Sandbox::with_repo();
    let good = file(&from, "good", &mixed(6, MIB));
    let bad = file(&from, "bad", &mixed(7, MIB));
    let before = from.objects();
    let broken = from.backup("bad", &[&bad]);
    let packs: Vec<_> = from
        .objects()
        .into_iter()
        .filter(|path| !before.contains(path) && path.starts_with("packs"))
        .collect();
    let _ = from.backup("good", &[&good]);
    for pack in packs {
        std::fs::remove_file(from.repo().join(pack)).expect("lose a pack");
    }
    let site = local();
    let output = from.run(&["sync", &site.place]).expect_code(3);
    assert!(output.stderr.contains(broken.id()), "{output}");
    assert_eq!(site.there.list().iter().map(|record| record.text("name")).collect::<Vec<_>>(), ["good"]);
}

#[test]
fn a_share_goes_along_and_later_what_changed_in_it() {
    let from = Sandbox::with_repo();
    let share = made_share(&from, "share");
    let first = from.backup_with("share", &[&share], &["--tag", "site=ams"]);
    let site = local();
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 1);
    std::fs::write(Path::new(&share).join("many/file-7"), b"changed since ".repeat(500))
        .expect("change a file");
    let second = from.backup("share", &[&share]);
    let report = site.sync(&from, &[]);
    assert_eq!((count(&report, "copied"), report["present"].as_u64()), (1, Some(1)), "{report}");
    assert_eq!(report["bytes_read"], 7000, "{report}");
    let there = site.there.list();
    for key in ["id", "name", "time", "written", "tags", "parent"] {
        for (copy, original) in there.iter().zip([&first, &second]) {
            assert_eq!(copy.0[key], original.0[key], "{key}");
        }
    }
    let back = site.there.at("back");
    let _ = site.there.done(&["restore", "share", &back, "--verify"]);
    assert_same_trees(Path::new(&share), Path::new(&back));
    site.there.assert_sound();
    let report = site.sync(&from, &[]);
    assert_eq!((count(&report, "copied"), report["bytes_stored"].as_u64()), (0, Some(0)), "{report}");
}

#[test]
fn a_share_goes_from_service_to_service() {
    for language in BOTH {
        let (cloud, from) = crate::house(language);
        let share = made_share(&from, "share");
        let _ = from.backup("share", &[&share]);
        let site = Site::new(&language.place("second"), &language.env(&cloud), &["--chunk-size", "32K"]);
        assert_eq!(count(&site.sync(&from, &[]), "copied"), 1, "{language:?}");
        let back = site.there.at("back");
        let _ = site.there.done(&["restore", "share", &back, "--verify"]);
        assert_same_trees(Path::new(&share), Path::new(&back));
        site.there.assert_sound();
    }
}

#[test]
fn a_damaged_share_is_named_with_its_file_and_the_others_are_copied() {
    let from = Sandbox::with_repo();
    let share = from.at("share");
    std::fs::create_dir_all(Path::new(&share).join("docs")).expect("make a share");
    std::fs::write(Path::new(&share).join("docs/file"), mixed(8, 90_000)).expect("fill it");
    let broken = from.backup("share", &[&share]);
    let size = |path: &std::path::PathBuf| from.repo().join(path).metadata().expect("look").len();
    let data = from.objects().into_iter().filter(|path| path.starts_with("packs")).max_by_key(size);
    let data = from.repo().join(data.expect("a pack"));
    let disk = file(&from, "disk", &mixed(9, MIB));
    let _ = from.backup("web01", &[&disk]);
    overwrite(data.to_str().expect("text"), 5000, &[0x55; 16]);
    let site = local();
    let output = from.run(&["sync", &site.place]).expect_code(3);
    assert!(output.stderr.contains(broken.id()) && output.stderr.contains("docs/file"), "{output}");
    assert_eq!(site.there.list().iter().map(|record| record.text("name")).collect::<Vec<_>>(), ["web01"]);
    site.there.assert_sound();
}

#[test]
fn a_copy_says_of_its_bytes_what_the_original_says() {
    let from = Sandbox::with_repo();
    let disk = file(&from, "disk", &mixed(9, 2 * MIB));
    let metadata = file(&from, "metadata", br#"{"project": "p1", "more": [1]}"#);
    let more = ["--digest", "--metadata", metadata.as_str()];
    let first = from.backup_with("web01", &[&disk], &more);
    overwrite(&disk, MIB, b"changed since");
    let second = from.backup_with("web01", &[&disk], &more);
    let site = local();
    assert_eq!(count(&site.sync(&from, &[]), "copied"), 2);
    let there = site.there.list();
    for (original, copy) in [first, second].iter().zip(&there) {
        for key in ["id", "time", "written", "project", "metadata"] {
            assert_eq!(original.0[key], copy.0[key], "{key}");
        }
        for key in ["sha256", "source", "size"] {
            assert_eq!(original.0["items"][0][key], copy.0["items"][0][key], "{key}");
        }
    }
}
