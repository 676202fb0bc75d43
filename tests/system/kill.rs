//! Harness K, sampled: the process dies, or a call fails, at points spread over init and two backups. `tests/slow` asks at
//! every point.

use crate::common::sweep::{Point, SMALL, Scenario, sweep};
use crate::common::tracer::need_tracer;

/// About how many points of each run are tried here.
const SAMPLES: usize = 9;

#[test]
fn a1_killed_anywhere_in_a_first_backup_the_repository_is_whole() {
    need_tracer!();
    sweep(Scenario::First, Point::Kill, SMALL, SAMPLES);
}

#[test]
fn a2_killed_anywhere_in_a_second_backup_the_first_is_untouched() {
    need_tracer!();
    sweep(Scenario::Second, Point::Kill, SMALL, SAMPLES);
}

#[test]
fn a2_killed_anywhere_in_a_second_backup_of_a_share_the_first_is_untouched() {
    need_tracer!();
    sweep(Scenario::Share, Point::Kill, SMALL, SAMPLES);
}

#[test]
fn a7_without_room_at_any_write_the_backup_of_a_share_fails_and_the_store_stays_whole() {
    need_tracer!();
    sweep(Scenario::Share, Point::NoRoom, SMALL, SAMPLES);
}

#[test]
fn a3_killed_anywhere_in_init_there_is_no_repository_or_a_usable_one() {
    need_tracer!();
    sweep(Scenario::Init, Point::Kill, SMALL, SAMPLES);
}

#[test]
fn a7_without_room_at_any_write_the_backup_fails_and_the_store_stays_whole() {
    need_tracer!();
    sweep(Scenario::Second, Point::NoRoom, SMALL, SAMPLES);
}

#[test]
fn a8_a_sync_that_fails_once_fails_the_backup_and_the_next_one_completes() {
    need_tracer!();
    sweep(Scenario::Second, Point::SyncFails, SMALL, SAMPLES);
}
