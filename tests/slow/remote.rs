//! Repositories in services that no one here made: what they keep to, and what people do with them.

use crate::cloud::{BUCKET, Cloud};
use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::{Running, Sandbox, run, skipped};
use crate::services::{Service, Speech};
use crate::world::{Mounted, errno, lacking};
use nix::libc::EIO;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../../scripts/lib/many.rs"]
#[allow(dead_code)] // its own program has a `main`
mod many;

pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Each service that runs here, in each of its languages.
pub(crate) fn for_each_service(check: impl Fn(&str, &Service, &Speech)) {
    if let Some(swift) = Service::swift() {
        check("Swift", &swift, &swift.as_swift());
        check("Swift's s3api", &swift, &swift.as_s3());
    }
    if let Some(moto) = Service::moto() {
        check("moto's S3", &moto, &moto.as_s3());
    }
}

pub(crate) fn done(sand: &Sandbox, args: &[&str]) -> crate::common::Output {
    run(sand.command(args), LONG).expect_code(0)
}

#[test]
fn a_real_service_keeps_what_a_repository_needs() {
    for_each_service(|name, _, speech| {
        let sand = Sandbox::of_service(&speech.place("probed"), &speech.env);
        let report = done(&sand, &["--json", "doctor", "--store"]).json();
        let found = report["store"].as_array().expect("what was found of the store");
        let wrong: Vec<_> = found.iter().filter(|one| one["state"] == "WRONG").collect();
        assert!(found.len() > 14 && wrong.is_empty(), "{name}: {wrong:#?}");
        for lacking in found.iter().filter(|one| one["state"] == "lacking") {
            println!("{name} lacks: {lacking}");
        }
    });
}

#[test]
fn a_repository_in_a_real_service_does_what_one_in_a_directory_does() {
    for_each_service(|name, _, speech| {
        let sand = Sandbox::of_service(&speech.place("flows"), &speech.env);
        let _ = done(&sand, &["init"]);
        let source = file(&sand, "disk", &mixed(1, 70 * MIB));
        let first = done(&sand, &["--json", "backup", &source, "--name", "web01"]).json();
        overwrite(&source, 30 * MIB, b"changed since");
        let second = done(&sand, &["--json", "backup", &source, "--name", "web01"]).json();
        assert!(second["stats"]["bytes_new"].as_u64().is_some_and(|new| new < 300_000), "{name}: {second}");
        let bytes = std::fs::read(&source).expect("read the source");
        assert!(done(&sand, &["cat", "web01"]).stdout == bytes, "{name}: other bytes came back");
        let target = sand.at("target");
        let _ = done(&sand, &["restore", "web01", &target, "--verify"]);
        assert!(std::fs::read(&target).expect("read the target") == bytes, "{name}");
        let report = done(&sand, &["--json", "check", "--read-data"]).json();
        assert_eq!(
            (&report["backups_ok"], &report["damaged"]),
            (&2.into(), &serde_json::json!([])),
            "{name}"
        );
        let id = first["id"].as_str().expect("an id");
        assert_eq!(done(&sand, &["cat", id, "--offset", "1000", "--length", "10"]).stdout.len(), 10);
        mounted(name, &sand, &bytes);
    });
}

fn mounted(name: &str, sand: &Sandbox, bytes: &[u8]) {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    let mounted = Mounted::new(sand);
    let read = std::fs::read(mounted.image("web01"));
    assert!(read.expect("read through the mount") == bytes, "{name}");
    assert!(sand.home().join("cache/afterimage/chunks").is_dir(), "{name}: no tier on disk");
}

#[test]
fn two_hosts_back_up_into_one_bucket_at_once_and_a_third_reads_both() {
    for_each_service(|name, _, speech| {
        let sand = Sandbox::of_service(&speech.place("shared"), &speech.env);
        let _ = done(&sand, &["init"]);
        let hosts = [sand.other_host(), sand.other_host()];
        let sources = [3, 4].map(|seed| file(&sand, &format!("disk-{seed}"), &mixed(seed, 40 * MIB)));
        let runs: Vec<_> = hosts
            .iter()
            .zip(&sources)
            .map(|(host, source)| Running::start(host.command(&["backup", source, "--name", "web"])))
            .collect();
        for run in runs {
            let _ = run.wait(LONG).expect_code(0);
        }
        let third = sand.other_host();
        let listed = done(&third, &["--json", "list"]).json();
        let ids: Vec<_> =
            listed.as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id")).collect();
        assert_eq!(ids.len(), 2, "{name}");
        let mut read: Vec<_> = ids.iter().map(|id| done(&third, &["cat", id]).stdout).collect();
        let mut expected: Vec<_> =
            sources.iter().map(|source| std::fs::read(source).expect("read a source")).collect();
        read.sort();
        expected.sort();
        assert!(read == expected, "{name}");
        let report = done(&third, &["--json", "check", "--read-data"]).json();
        assert_eq!(report["damaged"], serde_json::json!([]), "{name}");
    });
}

#[test]
fn b3_a_service_that_hangs_in_the_middle_of_a_backup_is_waited_for() {
    for_each_service(|name, service, speech| {
        let sand = Sandbox::of_service(&speech.place("hangs"), &speech.env);
        let _ = done(&sand, &["init"]);
        let source = file(&sand, "disk", &mixed(5, 100 * MIB));
        let mut backup = Running::start(sand.command(&["backup", &source, "--name", "web"]));
        std::thread::sleep(Duration::from_millis(700));
        service.hang(true);
        std::thread::sleep(Duration::from_secs(10));
        let ended = backup.has_ended();
        service.hang(false);
        let _ = backup.wait(LONG).expect_code(0);
        println!("{name}: {}", if ended { "it was done before" } else { "it went on" });
        assert!(
            done(&sand, &["cat", "web"]).stdout == std::fs::read(&source).expect("read the source"),
            "{name}"
        );
    });
}

#[test]
fn b3_a_mount_over_a_service_that_hangs_answers_with_an_error_and_recovers() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    for_each_service(|name, service, speech| {
        let sand = Sandbox::of_service(&speech.place("dead"), &speech.env);
        answers_with_an_error_and_recovers(name, &sand, |dead| service.hang(dead));
    });
}

/// Mounts a backup, lets the service be dead for its reader, and brings it back.
pub(crate) fn answers_with_an_error_and_recovers(name: &str, sand: &Sandbox, kill: impl Fn(bool)) {
    let _ = done(sand, &["init"]);
    let bytes = mixed(6, 64 * MIB);
    let _ = done(sand, &["backup", &file(sand, "disk", &bytes), "--name", "web"]);
    let mounted = Mounted::with(sand, "mnt", &["--cache-size", "0"]);
    let image = mounted.image("web");
    let read = |offset: u64| {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 4096];
        std::fs::File::open(&image)?.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    let before = read(0).expect("read before");
    kill(true);
    let began = Instant::now();
    let dead = read(40 * MIB);
    let took = began.elapsed();
    let near = read(0);
    kill(false);
    assert!(took < Duration::from_secs(120), "{name}: {took:?}");
    assert_eq!(errno(dead), EIO, "{name}");
    assert_eq!(near.expect("what is here is read still"), before, "{name}");
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        match read(40 * MIB) {
            Ok(found) => break assert!(found[..] == bytes[40 << 20..][..4096], "{name}"),
            Err(error) => assert!(Instant::now() < until, "{name}: it does not recover: {error}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("{name}: an error after {took:?}");
}

#[test]
fn a_copy_goes_from_a_directory_to_a_service_and_to_another_one() {
    for_each_service(|name, _, speech| {
        let near = Sandbox::with_repo();
        let source = file(&near, "disk", &mixed(7, 40 * MIB));
        let record = near.backup("web", &[&source]);
        let far = Sandbox::of_service(&speech.place("second"), &speech.env);
        let _ = done(&far, &["init"]);
        let near_repo = near.repo().to_str().expect("text").to_owned();
        let _ = done(&far, &["-r", &near_repo, "sync", &speech.place("second")]);
        assert!(
            done(&far, &["cat", record.id()]).stdout == std::fs::read(&source).expect("read the source"),
            "{name}"
        );
        let _ = done(&far, &["-r", &speech.place("third"), "init"]);
        let _ = done(&far, &["sync", &speech.place("third")]);
        let report = done(&far, &["-r", &speech.place("third"), "--json", "check", "--read-data"]).json();
        assert_eq!(
            (&report["backups_ok"], &report["damaged"]),
            (&1.into(), &serde_json::json!([])),
            "{name}"
        );
    });
}

#[test]
fn ten_thousand_backups_are_listed_by_a_fresh_machine_in_at_most_twenty_requests_and_one_is_opened_in_four() {
    let near = Sandbox::in_memory();
    let _ = near.done(&["init"]);
    let source = file(&near, "disk", &mixed(8, MIB));
    let record = near.backup("web01", &[&source]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    many::fill(&runtime, near.repo().to_str().expect("text"), 10_000).expect("make many backups");
    let cloud = Cloud::start();
    load(&cloud, &near.repo(), "many");
    for (scheme, env, page_len) in [("s3", cloud.s3_env(), 1000), ("swift", cloud.swift_env(), 10_000)] {
        let place = format!("{scheme}://{BUCKET}/many");
        let sand = Sandbox::of_service(&place, &env);
        drop(cloud.take_log());
        cloud.page_len(page_len);
        let listed = done(&sand, &["--json", "list"]).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(10_000));
        let log = cloud.take_log();
        assert!(log.len() <= 20, "{scheme}: {} requests: {log:#?}", log.len());
        let _ = sand.other_host().done(&["cat", record.id(), "--length", "4096"]);
        let log = cloud.take_log();
        let with = |part: &str| log.iter().filter(|line| line.contains(part)).count();
        assert!(log.len() - with("/packs/") - with("/auth/") <= 4, "{log:#?}");
    }
}

/// Puts a repository in a directory into the cloud, object by object.
fn load(cloud: &Cloud, repo: &Path, prefix: &str) {
    for path in crate::common::files_under(repo) {
        let name = path.strip_prefix(repo).expect("below").to_str().expect("names are text");
        if !name.split('/').any(|part| part.starts_with('.')) {
            cloud.put(&format!("{prefix}/{name}"), std::fs::read(&path).expect("read an object"));
        }
    }
}
