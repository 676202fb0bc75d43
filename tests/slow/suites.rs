//! Whole test programs of the fast tier once more, with all of their repositories, and all that Cinder wrote, in a service.
//!
//! They run as the fast tier has built them, or are built here. A test that looks into the directory that a repository is says so by failing
//! (`Sandbox::repo`), until it asks otherwise or stands in [`OF_A_DIRECTORY`] with the reason.

use crate::common::theirs::{Client, Listed, path_of};
use crate::common::{OF_SERVICES, PLACE, Running};
use crate::services::{Service, Speech};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BUILDING: Duration = Duration::from_secs(1800);
const RUNNING: Duration = Duration::from_secs(1800);
/// As many tests at once as Swift's servers, a process each, answer on two cores well within a command's deadline.
const THREADS: &str = "--test-threads=4";

/// The programs, and how many tests of each must at least have run over a service.
const SUITES: [(&str, usize); 4] = [("system", 110), ("mount", 40), ("exports", 36), ("nbd", 28)];
/// What runs over Swift's s3api. A mount and a server ask a store as the other verbs do, and all of it twice would be a quarter of an hour.
const BY_S3: &[&str] = &["system"];

/// Tests that are of a repository in a directory only: the program, why, and which.
const OF_A_DIRECTORY: &[(&str, &str, &[&str])] = &[
    (
        "system",
        "kills and fails the calls that change a directory",
        &[
            "adopting::a1_an_import_that_was_killed_anywhere_goes_on",
            "bad_luck::a7_a_store_without_room_is_named_full_and_keeps_what_it_had",
            "bad_luck::d9_a_source_that_shrinks_fails_the_backup_and_nothing_is_listed",
            "kill::a1_killed_anywhere_in_a_first_backup_the_repository_is_whole",
            "kill::a1_killed_anywhere_in_a_sync_what_the_copy_lists_is_whole_and_the_next_one_completes",
            "kill::a2_killed_anywhere_in_a_second_backup_of_a_share_the_first_is_untouched",
            "kill::a2_killed_anywhere_in_a_second_backup_the_first_is_untouched",
            "kill::a3_killed_anywhere_in_init_there_is_no_repository_or_a_usable_one",
            "kill::a7_without_room_at_any_write_the_backup_fails_and_the_store_stays_whole",
            "kill::a7_without_room_at_any_write_the_backup_of_a_share_fails_and_the_store_stays_whole",
            "kill::a8_a_sync_that_fails_once_fails_the_backup_and_the_next_one_completes",
        ],
    ),
    (
        "system",
        "its files, their owners and their times are what is looked at",
        &[
            "bad_luck::a3_init_never_touches_a_folder_that_holds_something_else",
            "bad_luck::a12_a_read_only_repository_reads_and_says_why_it_does_not_write",
            "bad_luck::p5_reading_verbs_write_nothing_to_the_repository",
            "shares_out::r12_without_privilege_what_is_not_the_users_own_is_listed_and_said_by_the_exit_code",
        ],
    ),
    (
        "system",
        "nothing on this machine lies in the repository when it is in a service",
        &[
            "bad_luck::d10_the_repository_itself_is_no_source",
            "cinder::nothing_is_restored_into_the_directory_of_a_container",
            "restore::r3_a_file_of_the_repository_is_refused_and_force_lifts_nothing",
            "shares::d10_the_repository_is_no_part_of_its_own_backup_and_nothing_in_it_a_source",
            "shipping::what_cant_be_written_there_is_refused_before_a_byte",
        ],
    ),
    (
        "system",
        "the directory moves, or another one is put in its place",
        &[
            "carried::a_home_that_is_away_fails_who_reads_from_it_and_nobody_else",
            "carried::a_record_is_imported_from_where_its_home_is_now",
            "golden::p10_a_golden_repository_takes_new_backups_and_finds_what_it_has",
            "golden::p10_x11_a_golden_repository_of_shares_reads_as_it_did",
            "golden::p10_x11_a_golden_repository_with_a_password_reads_as_it_did",
            "golden::p10_x11_a_golden_repository_with_an_open_key_reads_as_it_did",
            "images::a_repository_that_moved_or_was_copied_needs_nothing_else",
        ],
    ),
    (
        "system",
        "harms files in many rounds, which are minutes each over a service",
        &[
            "damage::c1_damage_of_each_kind_is_noticed_and_no_wrong_byte_leaves",
            "damage::c1_two_objects_of_a_kind_swapped_are_two_damages",
            "damage::c9_a_record_of_another_repository_is_refused",
            "damage::c9_an_object_under_another_name_or_kind_is_refused",
        ],
    ),
    (
        "mount",
        "a file system below the directory hangs",
        &[
            "hangs::b3_f5_packs_that_hang_under_100_readers_cost_them_an_error_at_the_deadline_and_nobody_else",
            "hangs::b3_f5_what_is_in_memory_or_in_the_cache_on_disk_is_served_while_the_whole_repository_hangs",
            "hangs::f2_b3_sigterm_ends_a_mount_whose_repository_hangs_in_seconds",
            "hangs::f2_b3_umount_ends_a_mount_whose_repository_hangs_in_seconds",
        ],
    ),
    (
        "mount",
        "the directory moves, or something lies in it",
        &[
            "life::a_bad_place_is_refused_and_left_as_it_was",
            "trouble::b3_a_repository_that_goes_away_costs_errors_and_comes_back_by_itself",
        ],
    ),
    (
        "exports",
        "parts of the directory move away while it is served",
        &[
            "captures::r6_a_server_whose_last_copy_became_no_backup_ends_with_an_error",
            "lives::d7_a_volume_is_used_while_it_is_restored_and_stands_alone_when_it_is_done",
            "trouble::a_repository_that_goes_away_costs_errors_and_nothing_when_it_is_back",
            "trouble::d7_a_backup_that_is_deleted_while_exported_gives_its_bytes_or_errors_and_nothing_else",
        ],
    ),
    (
        "exports",
        "nothing on this machine lies in the repository when it is in a service",
        &[
            "lives::r3_neither_target_nor_state_of_a_live_restore_lies_inside_the_repository",
            "overlays::no_overlay_is_kept_inside_the_repository",
        ],
    ),
    (
        "nbd",
        "nothing on this machine lies in the repository when it is in a service",
        &["serve::a_file_of_the_repository_is_no_target"],
    ),
];

#[test]
fn what_holds_of_a_repository_in_a_directory_holds_of_one_in_swift_and_one_in_its_s3api() {
    let Some(swift) = Service::swift() else { return };
    let programs = build();
    let every = SUITES.map(|(suite, _)| suite);
    for (name, speech, suites) in
        [("Swift", swift.as_swift(), &every[..]), ("Swift's s3api", swift.as_s3(), BY_S3)]
    {
        for (suite, at_least) in SUITES.into_iter().filter(|(suite, _)| suites.contains(suite)) {
            let program = programs.iter().find(|(name, _)| name == suite).expect("it was built");
            run_over(name, &swift, &speech, suite, &program.1, at_least);
        }
    }
}

/// Runs all tests of a program that a service is no matter to.
fn run_over(name: &str, swift: &Service, speech: &Speech, suite: &str, program: &Path, at_least: usize) {
    let all = tests_of(program);
    let here: BTreeSet<&str> = OF_A_DIRECTORY
        .iter()
        .filter(|(of, ..)| *of == suite)
        .flat_map(|(_, _, tests)| tests.iter().copied())
        .collect();
    let gone: Vec<_> = here.iter().filter(|name| !all.contains(**name)).collect();
    assert!(gone.is_empty(), "{suite} has no such tests any more: {gone:?}");
    let there = all.iter().filter(|name| !here.contains(name.as_str()));
    let mut command = Command::new(program);
    let _ = command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let _ = command.args(["--exact", THREADS]).args(there);
    // Nothing that the caller has elsewhere counts.
    let of_services = |name: &String| OF_SERVICES.iter().any(|begin| name.starts_with(begin));
    for name in std::env::vars().map(|(name, _)| name).filter(of_services) {
        let _ = command.env_remove(name);
    }
    // Whichever language is read in: what Cinder wrote is put there in Swift's.
    let _ = command.env(PLACE, speech.place(suite)).envs(swift.as_swift().env).envs(speech.env.clone());
    let began = Instant::now();
    let output = Running::start(command).wait(RUNNING);
    let took = began.elapsed().as_secs();
    let ran = passed(output.text());
    // Past the test runner's capture, like what was skipped there.
    let said = format!(
        "{}OVER {name}: {ran:?} tests of {suite} in {took} s; {} are of a directory\n",
        output.stderr,
        here.len()
    );
    let _ = std::io::stderr().write_all(said.as_bytes());
    assert!(output.code() == Some(0) && ran >= Some(at_least), "{name}: {}", output.text());
    let places = places(swift, speech, suite);
    assert!(places * 2 >= at_least, "{name}: {suite} left {places} repositories there");
}

/// How many tests passed, if none failed.
fn passed(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("test result: ok. ")?;
    rest.split_once(' ')?.0.parse().ok()
}

/// How many sandboxes a program had in the service.
fn places(swift: &Service, speech: &Speech, suite: &str) -> usize {
    let found = Client::log_in(&swift.as_swift().env).list(path_of(&speech.place(suite)));
    let sandbox = |one: &Listed| one.name.split('/').next().map(str::to_owned);
    found.iter().filter_map(sandbox).collect::<BTreeSet<_>>().len()
}

/// The names of a program's tests.
fn tests_of(program: &Path) -> BTreeSet<String> {
    let mut command = Command::new(program);
    let _ = command.args(["--list", "--format", "terse"]).stdin(Stdio::null());
    let listed = Running::start(command).wait(Duration::from_secs(60)).expect_code(0);
    listed.text().lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Builds the programs, unless they are; where they are.
fn build() -> Vec<(String, PathBuf)> {
    let mut command = Command::new(env!("CARGO"));
    let _ = command.args(["test", "--locked", "--no-run", "--message-format=json"]).stdin(Stdio::null());
    let _ = command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let _ = command.args(SUITES.iter().flat_map(|(suite, _)| ["--test", suite]));
    let built = Running::start(command).wait(BUILDING).expect_code(0);
    let program = |line: &str| {
        let said: Value = serde_json::from_str(line).ok()?;
        let path = said["executable"].as_str().filter(|_| said["profile"]["test"] == true)?;
        Some((said["target"]["name"].as_str()?.to_owned(), path.into()))
    };
    built.text().lines().filter_map(program).collect()
}
