//! Bad luck with services that no one here made, as far as it can be had on purpose: the cases B1 to B11.

use crate::cloud::between::{Between, Trouble};
use crate::common::images::{MIB, file, mixed};
use crate::common::{Output, Running, Sandbox};
use crate::remote::{LONG, done, for_each_service};
use crate::services::{Service, Speech};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What a listing's target has in it, in each language.
const LISTINGS: [&str; 2] = ["list-type=2", "format=json"];

fn sound(sand: &Sandbox, backups: u64, name: &str) {
    let report = done(sand, &["--json", "check", "--read-data"]).json();
    let found = (&report["backups_ok"], &report["damaged"]);
    assert_eq!(found, (&backups.into(), &serde_json::json!([])), "{name}");
}

/// The same repository with somebody between, and without.
fn house(service: &Service, speech: &Speech, prefix: &str) -> (Arc<Between>, Sandbox, Sandbox) {
    let between = Between::start(service.url());
    let place = speech.place(prefix);
    let direct = Sandbox::of_service(&place, &speech.env);
    let _ = done(&direct, &["init"]);
    let sand = Sandbox::of_service(&place, &between.env(&speech.env));
    (between, sand, direct)
}

fn keeps_secrets(output: &Output) {
    let said = format!("{}{}", output.stderr, String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("testing") && !said.contains("AUTH_tk"), "{output}");
}

#[test]
fn b1_b4_b9_a_service_that_stumbles_throttles_and_breaks_off_costs_time_only() {
    for_each_service(|name, service, speech| {
        let (between, sand, direct) = house(service, speech, "stumbles");
        let is_s3 = speech.place("").starts_with("s3");
        between.plan("PUT", "/packs/", 3, Trouble::Refuse(503, "SlowDown", Some(1)));
        between.plan("PUT", "", 5, Trouble::Reset);
        between.plan("GET", "/packs/", 7, Trouble::Cut);
        between.plan("GET", "/packs/", 8, Trouble::Refuse(429, "TooManyRequests", Some(1)));
        between.plan("GET", "", 11, Trouble::Refuse(if is_s3 { 500 } else { 498 }, "InternalError", None));
        between.plan("HEAD", "", 5, Trouble::Reset);
        let bytes = mixed(21, 48 * MIB);
        let source = file(&sand, "disk", &bytes);
        let backup = done(&sand, &["-vvv", "backup", &source, "--name", "web"]);
        keeps_secrets(&backup);
        let target = sand.at("target");
        keeps_secrets(&done(&sand, &["-vvv", "restore", "web", &target, "--verify"]));
        assert!(std::fs::read(&target).expect("read the target") == bytes, "{name}");
        sound(&sand, 1, name);
        assert!(between.hits() > 4, "{name}: {}", between.hits());
        sound(&direct, 1, name);
    });
}

#[test]
fn b5_uploads_whose_answers_are_lost_are_taken_for_what_they_are() {
    for_each_service(|name, service, speech| {
        let (between, sand, direct) = house(service, speech, "lost");
        between.plan("PUT", "", 2, Trouble::ReplyLost);
        let source = file(&sand, "disk", &mixed(22, 48 * MIB));
        let record = done(&sand, &["--json", "backup", &source, "--name", "web"]).json();
        assert!(between.hits() > 1, "{name}: {}", between.hits());
        between.behave();
        sound(&direct, 1, name);
        let again = done(&sand, &["--json", "backup", &source, "--name", "web"]).json();
        let new = |record: &serde_json::Value| record["stats"]["bytes_stored"].as_u64().expect("a number");
        assert!(new(&again) < new(&record) / 10, "{name}: {again}");
    });
}

#[test]
fn b6_lists_that_lag_cost_space_and_neither_a_backup_nor_an_error() {
    for_each_service(|name, service, speech| {
        let (between, sand, direct) = house(service, speech, "lags");
        let sources = [23, 24, 25].map(|seed| file(&sand, &format!("disk-{seed}"), &mixed(seed, 16 * MIB)));
        let _ = done(&sand, &["backup", &sources[0], "--name", "a"]);
        let _ = done(&sand.other_host(), &["list"]);
        LISTINGS.iter().for_each(|part| between.plan("GET", part, 1, Trouble::AsBefore));
        let _ = done(&direct, &["backup", &sources[1], "--name", "b"]);
        let record = done(&sand, &["--json", "backup", &sources[2], "--name", "c"]).json();
        let id = record["id"].as_str().expect("an id");
        assert!(
            done(&sand, &["cat", id]).stdout == std::fs::read(&sources[2]).expect("read the source"),
            "{name}"
        );
        assert!(
            done(&sand, &["cat", "a"]).stdout == std::fs::read(&sources[0]).expect("read the source"),
            "{name}"
        );
        let listed = done(&sand.other_host(), &["--json", "list"]).json();
        assert!(listed.as_array().is_some_and(|listed| !listed.is_empty()), "{name}");
        assert!(between.hits() > 0, "{name}");
        between.behave();
        let listed = done(&sand.other_host(), &["--json", "list"]).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(3), "{name}");
        sound(&direct, 3, name);
    });
}

#[test]
fn b10_without_the_right_to_delete_backups_are_made_and_read() {
    for_each_service(|name, service, speech| {
        let (between, sand, direct) = house(service, speech, "keeps");
        between.plan("DELETE", "", 1, Trouble::Refuse(403, "AccessDenied", None));
        let source = file(&sand, "disk", &mixed(26, 8 * MIB));
        let _ = done(&sand, &["backup", &source, "--name", "web"]);
        assert!(
            done(&sand, &["cat", "web"]).stdout == std::fs::read(&source).expect("read the source"),
            "{name}"
        );
        sound(&sand, 1, name);
        sound(&direct, 1, name);
    });
}

#[test]
fn p2_a_backup_that_is_killed_at_any_moment_leaves_a_repository_that_takes_the_next_one() {
    for_each_service(|name, _, speech| {
        let sand = Sandbox::of_service(&speech.place("killed"), &speech.env);
        let _ = done(&sand, &["init"]);
        let source = file(&sand, "disk", &mixed(27, 80 * MIB));
        let mut whole = 0;
        for millis in [100, 400, 800, 1600, 3200] {
            let mut backup = Running::start(sand.command(&["backup", &source, "--name", "web"]));
            std::thread::sleep(Duration::from_millis(millis));
            backup.kill();
            drop(backup);
            let listed = done(&sand.other_host(), &["--json", "list"]).json();
            let found = listed.as_array().map_or(0, Vec::len);
            assert!(found == whole || found == whole + 1, "{name}: {listed}");
            whole = found;
        }
        let _ = done(&sand, &["backup", &source, "--name", "web"]);
        let fresh = sand.other_host();
        assert!(
            done(&fresh, &["cat", "web"]).stdout == std::fs::read(&source).expect("read the source"),
            "{name}"
        );
        sound(&fresh, whole as u64 + 1, name);
    });
}

#[test]
fn b2_a_bucket_that_vanishes_in_the_middle_ends_a_backup_with_its_name_and_a_new_one_can_be_begun() {
    for_each_service(|name, service, speech| {
        service.has_passing_bucket(true);
        let sand = Sandbox::of_service(&speech.passing_place("vanishes"), &speech.env);
        let _ = done(&sand, &["init"]);
        let source = file(&sand, "disk", &mixed(28, 40 * MIB));
        let _ = done(&sand, &["backup", &source, "--name", "web"]);
        let (rest, go_on) = (file(&sand, "rest", &mixed(29, 80 * MIB)), sand.at("go-on"));
        let feed = format!("cat {source}; while [ ! -e {go_on} ]; do sleep 0.1; done; cat {rest}");
        let mut feeder =
            Command::new("sh").args(["-c", &feed]).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut command = sand.command(&["-vvv", "backup", "-", "--name", "web"]);
        let _ = command.stdin(feeder.stdout.take().expect("its end of the pipe"));
        let backup = Running::start(command);
        std::thread::sleep(Duration::from_secs(3));
        service.has_passing_bucket(false);
        std::fs::write(&go_on, "").expect("tell it to go on");
        let output = backup.wait(LONG).expect_code(1).saying("two has to be there first");
        keeps_secrets(&output);
        let _ended = feeder.wait();
        for args in [&["cat", "web"][..], &["--json", "check"], &["backup", &source, "--name", "web"]] {
            let output = crate::common::run(sand.other_host().command(args), LONG).expect_code(1);
            keeps_secrets(&output);
        }
        service.has_passing_bucket(true);
        let _ = sand.other_host().ends(1, &["list"]);
        let _ = done(&sand, &["init"]);
        let _ = done(&sand, &["backup", &source, "--name", "web"]);
        let fresh = sand.other_host();
        assert!(
            done(&fresh, &["cat", "web"]).stdout == std::fs::read(&source).expect("read the source"),
            "{name}"
        );
        sound(&fresh, 1, name);
    });
}

#[test]
fn b2_a_wrong_region_a_wrong_key_and_a_clock_that_is_off_are_told() {
    let Some(service) = Service::swift() else { return };
    let speech = service.as_s3();
    let (between, sand, _direct) = house(&service, &speech, "told");
    let with = |name: &str, value: &str| {
        let pair = (name.to_owned(), value.to_owned());
        let env: Vec<_> =
            speech.env.iter().filter(|(other, _)| other != name).cloned().chain([pair]).collect();
        Sandbox::of_service(&speech.place("told"), &env)
    };
    keeps_secrets(&with("AWS_REGION", "eu-elsewhere-1").ends(1, &["-vvv", "list"]).saying("AWS_REGION"));
    keeps_secrets(&with("AWS_SECRET_ACCESS_KEY", "other").ends(1, &["-vvv", "list"]).saying("AWS_"));
    keeps_secrets(&with("AWS_ACCESS_KEY_ID", "nobody").ends(1, &["-vvv", "list"]).saying("AWS_"));
    between.plan("*", "", 1, Trouble::Earlier);
    keeps_secrets(&sand.ends(1, &["-vvv", "list"]).saying("clock"));
    between.behave();
    let _ = done(&sand, &["list"]);
    let speech = service.as_swift();
    let (_, sand, _direct) = house(&service, &speech, "told");
    let env: Vec<_> =
        speech.env.iter().map(|(name, value)| (name.clone(), value.replace("testing", "other"))).collect();
    let wrong = Sandbox::of_service(&speech.place("told"), &env);
    keeps_secrets(&wrong.ends(1, &["-vvv", "list"]).saying("it was refused (401)").saying("ST_*"));
    let _ = done(&sand, &["list"]);
}

#[test]
fn b11_a_container_that_two_languages_reach_is_one_repository() {
    let Some(service) = Service::swift() else { return };
    let (swift, s3) = (service.as_swift(), service.as_s3());
    let env: Vec<_> = swift.env.iter().chain(&s3.env).cloned().collect();
    let place = swift.place("twice");
    let sand = Sandbox::of_service(&place, &env);
    let _ = done(&sand, &["init"]);
    let source = file(&sand, "disk", &mixed(30, 8 * MIB));
    let _ = done(&sand, &["backup", &source, "--name", "web"]);
    let other = place.replace("swift://", "s3://");
    let _ = sand.ends(4, &["sync", &other]).saying("the same repository");
    let _ = sand.ends(4, &["-r", &other, "sync", &place]).saying("the same repository");
    assert!(
        done(&sand, &["-r", &other, "cat", "web"]).stdout == std::fs::read(&source).expect("read the source")
    );
    let _ = done(&sand, &["-r", &other, "backup", &source, "--name", "web"]);
    sound(&sand, 2, "Swift");
}
