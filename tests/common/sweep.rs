//! The crash sweep: pulls the plug, or lets a call fail, at the Nth change to a file, and looks at what is left.
//!
//! After each: the repository opens without a manual unlock, `check --read-data` is clean, what is listed reads byte-equal,
//! and the same command run again completes.

use super::images::{KIB, MIB, file, mixed, overwrite};
use super::random::Random;
use super::tracer::{Act, Touch, Traced, trace};
use super::{Record, Sandbox};
use nix::libc;

/// The file of the share that changes between two backups.
const IN_THE_SHARE: &str = "share/large";

/// What runs when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// `init`.
    Init,
    /// The first backup of a repository.
    First,
    /// A backup that has a parent.
    Second,
    /// A backup of a directory that has a parent.
    Share,
}

impl Scenario {
    fn has_parent(self) -> bool {
        matches!(self, Scenario::Second | Scenario::Share)
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The process dies.
    Kill,
    /// Writes, creations and resizes fail from here on, for want of room.
    NoRoom,
    /// One sync fails, then they succeed again.
    SyncFails,
}

/// Fits in one pack.
pub(crate) const SMALL: u64 = 3 * MIB + 17;
/// Takes several packs, written while others are filled.
pub(crate) const LARGE: u64 = 160 * MIB + 17;

/// Tries about `samples` points, spread evenly with a random start; all of them if there are fewer.
pub(crate) fn sweep(scenario: Scenario, point: Point, len: u64, samples: usize) {
    let total = Bench::new(scenario, len).run(point, 0).touches.len();
    assert!(total > 0, "{scenario:?} makes no call that {point:?} could hit");
    let stride = total.div_ceil(samples).max(1);
    let start = 1 + Random::new().below(stride as u64) as usize;
    for nth in (start..=total).step_by(stride) {
        let bench = Bench::new(scenario, len);
        let traced = bench.run(point, nth);
        let at = traced.touches.get(nth - 1).cloned();
        bench.judge(point, traced, &format!("{scenario:?} × {point:?} at {nth} of {total}: {at:?}"));
    }
    println!("{scenario:?} × {point:?}: every {stride} of {total} points");
}

/// A repository as the scenario wants it, and the image that is about to be backed up.
struct Bench {
    sand: Sandbox,
    scenario: Scenario,
    source: String,
    before: Vec<(Record, Vec<u8>)>,
    bytes: Vec<u8>,
}

impl Bench {
    fn new(scenario: Scenario, len: u64) -> Bench {
        let sand = Sandbox::in_memory();
        let mut bytes = mixed(40, len);
        std::fs::create_dir(sand.at("share")).expect("make a directory");
        let (name, source) = match scenario {
            Scenario::Share => (IN_THE_SHARE, sand.at("share")),
            _ => ("disk.img", sand.at("disk.img")),
        };
        let image = file(&sand, name, &bytes);
        for number in 0..20 {
            let _ = file(&sand, &format!("share/small-{number}"), &mixed(number, number * 700));
        }
        let mut before = Vec::new();
        if scenario != Scenario::Init {
            let _ = sand.done(&["init", "--chunk-size", "64K"]);
        }
        if scenario.has_parent() {
            before.push((sand.backup("web01", &[&source]), bytes.clone()));
            for offset in [0, len / 3, len - MIB] {
                let change = mixed(offset + 41, 100 * KIB);
                overwrite(&image, offset, &change);
                bytes[offset as usize..][..change.len()].copy_from_slice(&change);
            }
        }
        Bench { sand, scenario, source, before, bytes }
    }

    /// The bytes that changed between the backups, as one of them has them.
    fn cat(&self, eyes: &Sandbox, backup: &str) -> Vec<u8> {
        match self.scenario {
            Scenario::Share => {
                let path = IN_THE_SHARE.trim_start_matches("share/");
                eyes.done(&["cat", backup, path]).stdout
            }
            _ => eyes.cat(backup),
        }
    }

    fn call(&self) -> Vec<&str> {
        match self.scenario {
            Scenario::Init => vec!["init", "--chunk-size", "64K"],
            _ => vec!["backup", &self.source, "--name", "web01"],
        }
    }

    fn run(&self, point: Point, nth: usize) -> Traced {
        let ours = |touch: &Touch| touch.path.starts_with(self.sand.root());
        let repo = self.sand.repo();
        let stored = |touch: &Touch| touch.path.starts_with(&repo);
        let takes_room =
            |touch: &Touch| stored(touch) && ["write", "create", "resize", "mkdir"].contains(&touch.call);
        let syncs = |touch: &Touch| stored(touch) && touch.call == "sync";
        let command = self.sand.command(&self.call());
        match (nth, point) {
            (0, Point::Kill) => trace(command, &ours, 0, Act::Watch),
            (0, Point::NoRoom) => trace(command, &takes_room, 0, Act::Watch),
            (0, Point::SyncFails) => trace(command, &syncs, 0, Act::Watch),
            (nth, Point::Kill) => trace(command, &ours, nth, Act::Kill),
            (nth, Point::NoRoom) => trace(command, &takes_room, nth, Act::FailOn(libc::ENOSPC)),
            (nth, Point::SyncFails) => trace(command, &syncs, nth, Act::Fail(libc::EIO)),
        }
    }

    fn judge(self, point: Point, traced: Traced, context: &str) {
        let finished = traced.output.code() == Some(0);
        match point {
            Point::Kill => {}
            Point::NoRoom => {
                let said = traced.output.stderr.to_lowercase();
                assert!(
                    finished || ["full", "no space", "no room"].iter().any(|words| said.contains(words)),
                    "{context}: {}",
                    traced.output
                );
            }
            // What is published last is not needed for the backup to be whole; what is published before is.
            Point::SyncFails => {
                assert!(matches!(traced.output.code(), Some(0 | 1)), "{context}: {}", traced.output)
            }
        }
        match self.scenario {
            Scenario::Init => self.judge_init(finished, context),
            _ => self.judge_backup(finished, context),
        }
    }

    /// Either no repository, which the same call makes now, or a usable one, which it refuses to make again.
    fn judge_init(self, finished: bool, context: &str) {
        let again = self.sand.run(&self.call());
        let usable = again.code() == Some(0)
            || (again.code() == Some(4) && self.sand.run(&["list"]).code() == Some(0));
        assert!(usable, "{context}: {again}");
        assert!(!finished || again.code() == Some(4), "{context}: made twice: {again}");
        let record = self.sand.backup("web01", &[&self.source]);
        assert!(self.cat(&self.sand, record.id()) == self.bytes, "{context}");
        self.sand.assert_sound();
    }

    fn judge_backup(self, finished: bool, context: &str) {
        // Another machine's eyes, then this one's: a half-written cache must not matter either.
        for eyes in [self.sand.other_host(), self.sand.other_host_at(self.sand.home())] {
            let listed = eyes.list();
            let new = listed.len() - self.before.len();
            assert!(new <= 1 && (!finished || new == 1), "{context}: {} listed", listed.len());
            for (record, bytes) in &self.before {
                assert!(self.cat(&eyes, record.id()) == *bytes, "{context}: the backup before it");
            }
            if new == 1 {
                assert!(self.cat(&eyes, "web01") == self.bytes, "{context}: listed, thus whole");
            }
            eyes.assert_sound();
        }
        let again = self.sand.backup("web01", &[&self.source]);
        assert!(self.cat(&self.sand, again.id()) == self.bytes, "{context}: the next run");
        self.sand.assert_sound();
    }
}
