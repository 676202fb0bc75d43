//! The words of a call: what is refused before anything is opened, and where results and reasons go.

use crate::common::images::file;
use crate::common::{Sandbox, run};
use std::time::Duration;

#[test]
fn help_and_version_are_results_and_end_with_0() {
    let sand = Sandbox::new();
    assert!(sand.done(&["--version"]).text().starts_with("afterimage "));
    let help = sand.done(&["--help"]);
    for verb in ["init", "key", "backup", "list", "show", "cat", "restore", "check"] {
        assert!(help.text().contains(verb), "help does not name {verb}: {help}");
        assert!(!sand.done(&["help", verb]).text().is_empty());
        assert!(!sand.done(&[verb, "--help"]).text().is_empty());
    }
}

#[test]
fn words_that_are_off_end_with_2_and_touch_nothing() {
    let sand = Sandbox::with_repo();
    let before = sand.objects();
    let image = file(&sand, "disk.img", b"bytes");
    let calls: [&[&str]; 14] = [
        &[],
        &["no-such-verb"],
        &["init", "--no-such-flag"],
        &["init", "--chunk-size", "100K"],
        &["init", "--chunk-size", "2K"],
        &["init", "--chunk-size", "8M"],
        &["init", "--chunk-size", "many"],
        &["backup", "--name", "web01"],
        &["backup", &image],
        &["backup", &image, "--name", "a/b"],
        &["backup", &image, "--name", ""],
        &["backup", &image, "--name", "a@b"],
        &["backup", &image, "--name", "web01", "--time", "yesterday"],
        &["restore", "web01"],
    ];
    for call in calls {
        let output = sand.ends(2, call);
        assert!(output.stdout.is_empty(), "a reason is no result: {output}");
    }
    assert_eq!(sand.objects(), before, "a wrong call wrote something");
}

#[test]
fn without_a_repository_every_verb_says_that_there_is_none() {
    let sand = Sandbox::new();
    let image = file(&sand, "disk.img", b"bytes");
    let calls: [&[&str]; 6] = [
        &["list"],
        &["show", "web01"],
        &["cat", "web01"],
        &["restore", "web01", "out.img"],
        &["check"],
        &["backup", &image, "--name", "web01"],
    ];
    for call in calls {
        let output = sand.ends(1, call);
        assert!(output.stderr.contains(&sand.place()), "names no place: {output}");
    }
    assert!(!sand.has_anything(), "a reading verb made a repository");
}

#[test]
fn without_any_word_about_the_repository_the_call_is_off() {
    let sand = Sandbox::new();
    let mut command = sand.command(&["list"]);
    let _ = command.env_remove("AFTERIMAGE_REPO");
    let output = run(command, Duration::from_secs(20)).expect_code(2);
    assert!(output.stderr.contains("AFTERIMAGE_REPO"), "does not say how to name one: {output}");
}

#[test]
fn the_repository_may_be_named_by_flag_before_or_after_the_verb() {
    let sand = Sandbox::new();
    let elsewhere = sand.at("elsewhere");
    let _ = sand.done(&["-r", &elsewhere, "init"]);
    let before = sand.done(&["-r", &elsewhere, "--json", "list"]).json();
    let after = sand.done(&["list", "-r", &elsewhere, "--json"]).json();
    assert_eq!(before, serde_json::json!([]));
    assert_eq!(before, after);
    assert!(!sand.has_anything());
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &vec![42; 4 << 20]);
    let _ = sand.backup("web01", &[&image]);
    let call = format!("{} cat web01 | head -c 10 | wc -c", env!("CARGO_BIN_EXE_afterimage"));
    let mut command = sand.command(&[]);
    let mut shell = std::process::Command::new("sh");
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = shell.env(key, value);
        }
    }
    let _ = shell.args(["-c", &call]).stdin(std::process::Stdio::null());
    command = shell;
    let output = run(command, Duration::from_secs(20)).expect_code(0);
    assert_eq!(output.text().trim(), "10");
}
