//! Bad luck with a service, as the whole command meets it.

use crate::cloud::{Cloud, Harm, ROLE};
use crate::common::images::{MIB, file, mixed};
use crate::common::{Output, Sandbox};
use crate::{BOTH, Language, house};
use std::sync::Arc;

const ALWAYS: std::ops::Range<u64> = 1..u64::MAX;
const SECRETS: [&str; 3] = ["sesame-s3", "secret", "t0ken"];

fn keeps_secrets(output: &Output) {
    let said = format!("{}{}", output.stderr, String::from_utf8_lossy(&output.stdout));
    assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{output}");
}

fn with_backup(language: Language) -> (Arc<Cloud>, Sandbox, Vec<u8>) {
    let (cloud, sand) = house(language);
    let bytes = mixed(5, 4 * MIB);
    let source = file(&sand, "disk", &bytes);
    let _ = sand.backup("web01", &[&source]);
    (cloud, sand, bytes)
}

#[test]
fn b1_a_backup_and_a_restore_survive_a_service_that_stumbles() {
    for language in BOTH {
        let (cloud, sand, bytes) = with_backup(language);
        for (method, harm) in [
            ("PUT", Harm::ReplyLost),
            ("PUT", Harm::Status(503, Some(1))),
            ("GET", Harm::Reset),
            ("GET", Harm::Cut(100)),
            ("HEAD", Harm::Status(500, None)),
        ] {
            cloud.plan(method, "backups/", 1..2, harm);
        }
        let other = file(&sand, "other", &mixed(6, 3 * MIB));
        let record = sand.backup("db", &[&other]);
        assert!(sand.cat("web01") == bytes, "{language:?}");
        assert!(sand.cat(record.id()) == std::fs::read(&other).expect("read the source"));
        assert!(cloud.hits() >= 4, "{}", cloud.hits());
        sand.assert_sound();
    }
}

#[test]
fn a_machines_role_is_asked_for_credentials_whatever_is_read_and_may_stumble() {
    let cloud = Cloud::start();
    let sand = Sandbox::of_service(&Language::S3.place("backups"), &cloud.role_env());
    let _made = sand.done(&["init"]);
    let bytes = mixed(5, 2 * MIB);
    let source = file(&sand, "disk", &bytes);
    let _ = sand.backup("web01", &[&source]);
    assert!(cloud.take_log().iter().filter(|line| line.contains(ROLE)).count() > 3);
    // Packs' tables and short chunks are shorter than what the role says.
    sand.assert_sound();
    cloud.plan("GET", ROLE, 3..4, Harm::Status(503, None));
    cloud.plan("GET", ROLE, 6..7, Harm::Reset);
    assert!(sand.other_host().cat("web01") == bytes);
    assert_eq!(cloud.hits(), 2);
    cloud.plan("GET", ROLE, ALWAYS, Harm::Status(403, None));
    let output = sand.run(&["list"]);
    assert!(output.stderr.contains("no credentials were found"), "{output}");
    keeps_secrets(&output);
}

#[test]
fn p12_no_secret_is_in_what_a_call_says_however_it_fails() {
    for language in BOTH {
        let (cloud, sand, _) = with_backup(language);
        for harm in [Harm::Status(403, None), Harm::Status(400, None), Harm::Status(401, None)] {
            cloud.plan("*", "backups/", ALWAYS, harm);
            for args in
                [&["-vvv", "list"][..], &["-vvv", "--json", "cat", "web01"], &["-vvv", "doctor", "--store"]]
            {
                let output = sand.run(args);
                assert_ne!(output.code(), Some(0), "{output}");
                keeps_secrets(&output);
            }
            cloud.behave();
        }
        keeps_secrets(&sand.done(&["-vvv", "check"]));
    }
}

#[test]
fn what_is_wrong_with_the_environment_is_said_and_what_to_try() {
    let cloud = Cloud::start();
    let without = |drop: &str, language: Language| {
        let env: Vec<_> = language.env(&cloud).into_iter().filter(|(name, _)| name != drop).collect();
        Sandbox::of_service(&language.place("x"), &env)
    };
    let _ = without("OS_PASSWORD", Language::Swift).ends(2, &["list"]).saying("OS_PASSWORD");
    let _ = without("OS_AUTH_URL", Language::Swift).ends(2, &["list"]).saying("OS_AUTH_URL");
    let nowhere = Sandbox::of_service("s3://", &[]);
    let _ = nowhere.ends(2, &["list"]).saying("s3://BUCKET");
    let env = cloud.s3_env();
    let other = Sandbox::of_service("s3://other-bucket/x", &env);
    let _ = other.ends(1, &["init"]).saying("has to be there first");
}

#[test]
fn b3_a_service_that_is_down_is_said_in_bounded_time() {
    let env = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "sesame-s3"),
    ];
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sand = Sandbox::of_service("s3://bucket/x", &env);
    keeps_secrets(&sand.ends(1, &["list"]).saying("connection refused"));
}

#[test]
fn a_token_that_is_over_in_the_middle_of_a_backup_is_no_trouble() {
    let (cloud, sand, _) = with_backup(Language::Swift);
    cloud.plan("PUT", "/packs/", 1..2, Harm::Status(401, None));
    let source = file(&sand, "other", &mixed(7, 3 * MIB));
    let record = sand.backup("db", &[&source]);
    assert!(sand.cat(record.id()) == std::fs::read(&source).expect("read the source"));
    assert_eq!(cloud.hits(), 1);
}
