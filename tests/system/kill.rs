//! Harness K, sampled: the process dies, or a call fails, at points spread over init and two backups. `tests/slow` asks at
//! every point.

use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::random::Random;
use crate::common::sweep::{Point, SMALL, Scenario, sweep};
use crate::common::tracer::{Act, Touch, Traced, need_tracer, trace};
use crate::common::{Record, Sandbox};

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

/// Two repositories: one with two backups of a share and one of a disk, and one that they are copied to.
struct Sites {
    sand: Sandbox,
    second: String,
    backups: Vec<(Record, Option<&'static str>, Vec<u8>)>,
}

impl Sites {
    fn new() -> Sites {
        let sand = Sandbox::in_memory();
        let _ = sand.done(&["init", "--chunk-size", "64K"]);
        let second = sand.at("second");
        let _ = sand.done(&["-r", &second, "init"]);
        std::fs::create_dir(sand.at("share")).expect("make a directory");
        let large = file(&sand, "share/large", &mixed(50, 2 * MIB));
        let _small = file(&sand, "share/small", &mixed(51, 700));
        let disk = file(&sand, "disk.img", &mixed(52, 2 * MIB + 17));
        let mut backups = Vec::new();
        for round in 0..2 {
            overwrite(&large, round * MIB, &mixed(60 + round, 1000));
            let record = sand.backup("share", &[&sand.at("share")]);
            backups.push((record, Some("large"), std::fs::read(&large).expect("read a file")));
        }
        let record = sand.backup("disk", &[&disk]);
        backups.push((record, None, std::fs::read(&disk).expect("read the disk")));
        Sites { sand, second, backups }
    }

    fn sync(&self, nth: usize) -> Traced {
        let ours = |touch: &Touch| touch.path.starts_with(self.sand.root());
        let act = if nth == 0 { Act::Watch } else { Act::Kill };
        trace(self.sand.command(&["sync", &self.second]), &ours, nth, act)
    }

    /// Everything that the copy lists is whole; how many that are.
    fn judge(&self, context: &str) -> usize {
        let there = |args: &[&str]| self.sand.done(&[&["-r", &self.second][..], args].concat());
        let listed = there(&["--json", "list"]).json();
        let listed: Vec<&str> =
            listed.as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id")).collect();
        for (record, path, bytes) in self.backups.iter().filter(|(one, ..)| listed.contains(&one.id())) {
            let args: Vec<&str> = ["cat", record.id()].into_iter().chain(*path).collect();
            assert!(there(&args).stdout == *bytes, "{context}: listed, thus whole");
        }
        let report = there(&["--json", "check", "--read-data"]).json();
        assert_eq!(report["damaged"], serde_json::json!([]), "{context}");
        listed.len()
    }
}

#[test]
fn a1_killed_anywhere_in_a_sync_what_the_copy_lists_is_whole_and_the_next_one_completes() {
    need_tracer!();
    let total = Sites::new().sync(0).touches.len();
    let stride = total.div_ceil(SAMPLES).max(1);
    let start = 1 + Random::new().below(stride as u64) as usize;
    for nth in (start..=total).step_by(stride) {
        let sites = Sites::new();
        let before = sites.sand.objects();
        let traced = sites.sync(nth);
        let context = format!("at {nth} of {total}: {:?}", traced.touches.get(nth - 1));
        assert!(sites.judge(&context) <= 3, "{context}");
        assert_eq!(sites.sand.objects(), before, "{context}: what is copied from is only read");
        let _ = sites.sand.done(&["sync", &sites.second]);
        assert_eq!(sites.judge(&context), 3, "{context}: the next run");
    }
}
