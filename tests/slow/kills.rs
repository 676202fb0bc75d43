//! Harness K in full: every point of every run, 200 kills at random instants, two machines at once.

use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::random::Random;
use crate::common::sweep::{LARGE, Point, SMALL, Scenario, sweep};
use crate::common::tracer::need_tracer;
use crate::common::{Running, Sandbox};
use std::time::{Duration, Instant};

const EVERY: usize = usize::MAX;

#[test]
fn a1_killed_at_every_point_of_a_first_backup() {
    need_tracer!();
    sweep(Scenario::First, Point::Kill, SMALL, EVERY);
}

#[test]
fn a2_killed_at_every_point_of_a_second_backup() {
    need_tracer!();
    sweep(Scenario::Second, Point::Kill, SMALL, EVERY);
}

#[test]
fn a1_killed_at_every_point_of_a_first_backup_of_several_packs() {
    need_tracer!();
    sweep(Scenario::First, Point::Kill, LARGE, EVERY);
}

#[test]
fn a7_without_room_at_any_of_several_packs() {
    need_tracer!();
    sweep(Scenario::First, Point::NoRoom, LARGE, EVERY);
}

#[test]
fn a3_killed_at_every_point_of_init() {
    need_tracer!();
    sweep(Scenario::Init, Point::Kill, SMALL, EVERY);
}

#[test]
fn a7_without_room_at_every_write() {
    need_tracer!();
    sweep(Scenario::First, Point::NoRoom, SMALL, EVERY);
    sweep(Scenario::Second, Point::NoRoom, SMALL, EVERY);
}

#[test]
fn a8_each_sync_fails_once() {
    need_tracer!();
    sweep(Scenario::First, Point::SyncFails, SMALL, EVERY);
    sweep(Scenario::Second, Point::SyncFails, SMALL, EVERY);
}

/// One disk that changes between backups, and every backup's bytes by their digest.
#[test]
fn p2_after_200_kills_at_random_instants_every_listed_backup_is_byte_equal() {
    let mut random = Random::new();
    let sand = Sandbox::in_memory();
    let hosts = [sand.other_host(), sand.other_host()];
    let _ = sand.done(&["init"]);
    let mut bytes = mixed(random.next(), 24 * MIB);
    let image = file(&sand, "disk.img", &bytes);
    let began = Instant::now();
    let _ = sand.backup("disk", &[&image]);
    let whole_run = began.elapsed();
    let mut states = vec![bytes.clone()];
    for round in 0..200u64 {
        let change = mixed(random.next(), 200_000);
        let offset = random.below(23 * MIB);
        overwrite(&image, offset, &change);
        bytes[offset as usize..][..change.len()].copy_from_slice(&change);
        let tag = format!("state={round}");
        let call = ["backup", &image, "--name", "disk", "--tag", &tag];
        let mut running: Vec<Running> =
            hosts.iter().map(|host| Running::start(host.command(&call))).collect();
        for one in &mut running {
            std::thread::sleep(Duration::from_micros(random.below(1 + whole_run.as_micros() as u64 / 2)));
            one.kill();
        }
        drop(running);
        states.push(bytes.clone());
        if round % 20 == 19 {
            assert_states(&sand, &states);
        }
    }
    assert_states(&sand, &states);
    println!(
        "200 rounds, two machines killed in each; {} backups got as far as being listed",
        sand.list().len()
    );
    let last = sand.backup("disk", &[&image]);
    assert!(sand.cat(last.id()) == bytes, "the next run completes");
}

fn assert_states(sand: &Sandbox, states: &[Vec<u8>]) {
    let eyes = sand.other_host();
    eyes.assert_sound();
    for record in eyes.list() {
        let state =
            record.0["tags"]["state"].as_str().map_or(0, |tag| 1 + tag.parse::<usize>().expect("a number"));
        assert!(eyes.cat(record.id()) == states[state], "{record:?}");
    }
}

#[test]
fn d1_two_machines_back_up_at_once_for_a_while() {
    let sand = Sandbox::with_repo();
    let hosts = [sand.other_host(), sand.other_host()];
    std::thread::scope(|scope| {
        for (number, host) in hosts.iter().enumerate() {
            let _ = scope.spawn(move || {
                let mut random = Random::seeded(number as u64);
                for round in 0..15 {
                    // Half of what the two back up is the same, and half of each backup was there before.
                    let bytes =
                        [mixed(1, 4 * MIB), mixed(round / 2, 2 * MIB), mixed(random.next(), MIB)].concat();
                    let image = file(host, &format!("host{number}.img"), &bytes);
                    let record = host.backup(&format!("host{number}"), &[&image]);
                    assert!(host.cat(record.id()) == bytes);
                }
            });
        }
    });
    assert_eq!(sand.list().len(), 30);
    sand.assert_sound();
}
