//! Logins at a real Keystone, whose catalogue leads to a real Swift.

use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::{Output, Running, Sandbox, skipped};
use crate::remote::{LONG, done};
use crate::services::{Service, Speech};
use crate::world::{Mounted, lacking};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a token lasts where one has to end.
const SHORT: u32 = 20;

/// Neither what was given nor what Keystone gave for it may be told; its tokens all begin so.
fn keeps_secrets(service: &Service, output: &Output) {
    let said = format!("{}{}", output.stderr, String::from_utf8_lossy(&output.stdout));
    for secret in ["sesame-keystone", "not-my-password", service.said("secret"), "gAAAAA"] {
        assert!(!said.contains(secret), "{output}");
    }
}

fn with(speech: &Speech, changed: &[(&str, &str)]) -> Vec<(String, String)> {
    let is_changed = |name: &str| changed.iter().any(|(other, _)| *other == name);
    let kept = speech.env.iter().filter(|(name, _)| !is_changed(name)).cloned();
    kept.chain(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect()
}

#[test]
fn people_with_a_password_and_programs_with_a_credential_back_up_into_one_container() {
    let Some(service) = Service::keystone(3600) else { return };
    let user = service.as_user();
    let sand = Sandbox::of_service(&user.place("logins"), &user.env);
    let _ = done(&sand, &["init"]);
    let source = file(&sand, "disk", &mixed(11, 16 * MIB));
    let _ = done(&sand, &["backup", &source, "--name", "web"]);
    overwrite(&source, 10 * MIB, b"changed since");
    let application = service.as_application();
    let program = Sandbox::of_service(&user.place("logins"), &application.env);
    let record = done(&program, &["--json", "backup", &source, "--name", "web"]).json();
    assert!(record["stats"]["bytes_new"].as_u64().is_some_and(|new| new < 300_000), "{record}");
    for host in [sand.other_host(), program] {
        let listed = done(&host, &["-vvv", "--json", "list"]);
        assert_eq!(listed.json().as_array().map(Vec::len), Some(2));
        keeps_secrets(&service, &listed);
        let read = done(&host, &["cat", "web"]);
        assert!(read.stdout == std::fs::read(&source).expect("read the source"));
        let report = done(&host, &["-vvv", "--json", "check", "--read-data"]);
        assert_eq!(report.json()["damaged"], serde_json::json!([]));
        keeps_secrets(&service, &report);
    }
    refusals(&service, &user);
}

/// What is wrong is told in words that lead on, and nothing that is secret.
fn refusals(service: &Service, user: &Speech) {
    let application = service.as_application();
    let url = service.said("auth");
    let (nowhere, no_keystone) = (format!("{url}/nowhere"), format!("{}/nowhere", service.url()));
    for (speech, changed, words) in [
        (user, &[("OS_PASSWORD", "not-my-password")][..], "it was refused (401)"),
        (user, &[("OS_USERNAME", "nobody")], "it was refused (401)"),
        (user, &[("OS_PROJECT_NAME", "others")], "it was refused (401)"),
        (&application, &[("OS_APPLICATION_CREDENTIAL_SECRET", "not-my-password")], "it was refused (401)"),
        (user, &[("OS_REGION_NAME", "elsewhere")], "region elsewhere"),
        (user, &[("OS_INTERFACE", "internal")], "internal endpoint in region here"),
        (user, &[("OS_AUTH_URL", &nowhere)], "nobody gives tokens there (404)"),
        (user, &[("OS_AUTH_URL", &no_keystone)], "log in at"),
    ] {
        let sand = Sandbox::of_service(&user.place("logins"), &with(speech, changed));
        for args in [&["-vvv", "list"][..], &["-vvv", "--json", "doctor", "--store"], &["-vvv", "init"]] {
            let output = sand.run(args);
            assert!(matches!(output.code(), Some(1)), "{changed:?}: {output}");
            keeps_secrets(service, &output);
        }
        let _ = sand.ends(1, &["list"]).saying(words).saying("OS_");
    }
    let lacking = Sandbox::of_service(&user.place("logins"), &with(user, &[("OS_PASSWORD", "")]));
    let _ = lacking.ends(2, &["list"]).saying("OS_PASSWORD");
    // Without the region the only one there is serves, with or without the version in the address.
    for changed in [&[("OS_REGION_NAME", "")][..], &[("OS_AUTH_URL", url.trim_end_matches("/v3"))]] {
        let _ = done(&Sandbox::of_service(&user.place("logins"), &with(user, changed)), &["list"]);
    }
}

#[test]
fn b1_tokens_that_end_in_the_middle_of_a_read_or_a_backup_are_renewed_and_nothing_fails() {
    let Some(service) = Service::keystone(SHORT) else { return };
    let user = service.as_user();
    let sand = Sandbox::of_service(&user.place("tokens"), &user.env);
    let _ = done(&sand, &["init"]);
    let (first, second) = (mixed(12, 24 * MIB), mixed(13, 24 * MIB));
    let parts = [file(&sand, "first", &first), file(&sand, "second", &second)];
    let bytes = [first, second].concat();
    for forgets in [false, true] {
        // The second half comes when the token that the first half was sent with is over.
        let name = if forgets { "refused" } else { "ended" };
        let go_on = sand.at(name);
        let feed = format!("cat {}; while [ ! -e {go_on} ]; do sleep 0.1; done; cat {}", parts[0], parts[1]);
        let mut feeder =
            Command::new("sh").args(["-c", &feed]).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut command = sand.command(&["-vvv", "backup", "-", "--name", name]);
        let _ = command.stdin(feeder.stdout.take().expect("its end of the pipe"));
        let backup = Running::start(command);
        std::thread::sleep(Duration::from_secs(3));
        end_tokens(&service, forgets);
        std::fs::write(&go_on, "").expect("tell it to go on");
        let output = backup.wait(LONG).expect_code(0);
        keeps_secrets(&service, &output);
        let _ended = feeder.wait();
        assert!(done(&sand.other_host(), &["cat", name]).stdout == bytes, "{name}");
    }
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    let mounted = Mounted::with(&sand, "mnt", &["--cache-size", "0"]);
    let image = std::fs::File::open(mounted.image("ended")).expect("open the image");
    for (round, offset) in (0..4u64).map(|round| (round, round * 8 * MIB)) {
        let mut found = vec![0; 65_536];
        let began = Instant::now();
        image.read_exact_at(&mut found, offset).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(found == bytes[offset as usize..][..65_536], "round {round}");
        assert!(began.elapsed() < Duration::from_secs(30), "round {round}");
        end_tokens(&service, round % 2 == 0);
    }
}

fn end_tokens(service: &Service, forgets: bool) {
    match forgets {
        true => service.forget_tokens(),
        false => std::thread::sleep(Duration::from_secs(u64::from(SHORT) + 1)),
    }
}
