//! SIGKILL under load: serves something again and again, kills the server while a client writes, and holds what is there afterwards to what was
//! flushed. The gate kills some times, the slow tier often.

use crate::common::images::{MIB, file, mixed};
use crate::common::random::Random;
use crate::common::{Running, Sandbox};
use crate::servers::ours;
use crate::shell;
use serde_json::Value;
use std::time::{Duration, Instant};

const SLOTS: u64 = 64;
const SLOT_LEN: usize = 3000;

/// Where a slot lies: across the borders of blocks, with parts of blocks between.
fn place(slot: u64) -> usize {
    slot as usize * 5000 + 123
}

/// What a slot may hold: the bytes that were flushed last or that a restart has shown, and the values that were written since.
#[derive(Clone)]
struct Slot {
    known: Vec<u8>,
    since: Vec<u8>,
    was_flushed: bool,
}

/// Writes slots at random and flushes now and then, saying before each write and after each flush.
fn script(log: &str, seed: u64) -> String {
    format!(
        "import random, os\nrandom.seed({seed})\nlog = os.open('{log}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n\
        while True:\n    slot, value = random.randrange({SLOTS}), random.randrange(256)\n    \
        os.write(log, b'w %d %d\\n' % (slot, value))\n    at = slot * 5000 + 123\n    \
        h.zero({SLOT_LEN}, at) if value == 0 else h.pwrite(bytes([value]) * {SLOT_LEN}, at, nbd.CMD_FLAG_FUA if value == 1 else 0)\n    \
        if random.random() < 0.1:\n        h.flush()\n        os.write(log, b'f 0 0\\n')\n"
    )
}

/// Brings the slots up to what a log says.
fn replay(slots: &mut [Slot], log: &str) {
    for line in log.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("w"), Some(slot), Some(value)) => {
                let slot: usize = slot.parse().expect("a slot");
                slots[slot].since.push(value.parse().expect("a value"));
            }
            (Some("f"), ..) => {
                for slot in slots.iter_mut() {
                    if let Some(last) = slot.since.last() {
                        *slot = Slot { known: vec![*last; SLOT_LEN], since: Vec::new(), was_flushed: true };
                    }
                }
            }
            _ => panic!("{line:?} in the log"),
        }
    }
}

/// Serves the export `x`, in as many rounds.
fn survives_kills(sand: &Sandbox, export: &[&str], base: &[u8], rounds: usize) {
    let mut random = Random::new();
    let of_base = |slot| base[place(slot)..][..SLOT_LEN].to_vec();
    let mut slots: Vec<Slot> =
        (0..SLOTS).map(|slot| Slot { known: of_base(slot), since: Vec::new(), was_flushed: false }).collect();
    for round in 0..rounds {
        let (log, out) = (sand.at("log"), sand.at("out"));
        let _of_the_round_before = std::fs::remove_file(&log);
        let mut server = ours(sand, export);
        let uri = server.uri("x", "");
        let mut writer = Running::start(shell::command(&uri, &script(&log, random.next())));
        if round == 0 {
            until_flushed(&log, &mut writer);
        }
        std::thread::sleep(Duration::from_millis(300 + random.below(500)));
        server.running.kill();
        drop(server);
        let _ = writer.wait(Duration::from_secs(20));
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        replay(&mut slots, &log);
        let server = ours(sand, export);
        let read = format!(
            "open('{out}', 'wb').write(b''.join(h.pread({MIB}, at) for at in range(0, {}, {MIB})))",
            base.len()
        );
        let _ = shell::on(&server.uri("x", ""), &read).expect_code(0);
        let _ = server.stop().expect_code(0);
        let found = std::fs::read(&out).expect("read");
        check(&mut slots, &found, base, round);
    }
    assert!(slots.iter().any(|slot| slot.was_flushed), "nothing was ever flushed");
}

/// Waits until the log says that something was flushed.
fn until_flushed(log: &str, writer: &mut Running) {
    let until = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(log).unwrap_or_default().lines().any(|line| line.starts_with("f ")) {
        let ended = writer.has_ended();
        assert!(!ended && Instant::now() < until, "nothing is flushed; ended: {ended}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check(slots: &mut [Slot], found: &[u8], base: &[u8], round: usize) {
    let mut covered = vec![false; found.len()];
    for (number, slot) in slots.iter_mut().enumerate() {
        let at = place(number as u64);
        for byte in at..at + SLOT_LEN {
            covered[byte] = true;
            let (is, known) = (found[byte], slot.known[byte - at]);
            assert!(
                is == known || slot.since.contains(&is),
                "round {round}: byte {byte} of slot {number} is {is}, was known to be {known}, written since: {:?}",
                slot.since
            );
        }
    }
    let strays = (0..found.len()).filter(|&byte| !covered[byte] && found[byte] != base[byte]).count();
    assert_eq!(strays, 0, "round {round}: bytes between the slots changed");
    // What is there now was read back after a restart, whether it was written whole, in part or not at all: it has to stay.
    for (number, slot) in slots.iter_mut().enumerate() {
        slot.known = found[place(number as u64)..][..SLOT_LEN].to_vec();
        slot.since.clear();
    }
}

/// A kept overlay, killed so many times.
pub(crate) fn overlay_survives(rounds: usize) {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let base = mixed(41, 2 * MIB);
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &base)]);
    let overlay = format!("x=vm,keep={}", sand.at("x.overlay"));
    survives_kills(&sand, &["--overlay", &overlay], &base, rounds);
    sand.assert_sound();
}

/// A live restore, killed so many times: the copier is still at it when the first kills come, and done in the end.
pub(crate) fn live_survives(rounds: usize) {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let base = mixed(42, 64 * MIB);
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &base)]);
    let target = sand.at("x.raw");
    let live = format!("x=vm,target={target},state={}", sand.at("x.state"));
    survives_kills(&sand, &["--live", &live], &base, rounds);
    let server = ours(&sand, &["--control", &sand.at("control"), "--live", &live]);
    wait_until_done(&sand);
    let out = sand.at("out");
    let _ = shell::on(&server.uri("x", ""), &format!("open('{out}', 'wb').write(h.pread({MIB}, 0))"));
    let _ = server.stop().expect_code(0);
    let (alone, seen) = (std::fs::read(&target).expect("read"), std::fs::read(out).expect("read"));
    assert!(
        alone.len() == base.len() && alone[..MIB as usize] == seen,
        "the target alone is what was served"
    );
    let rest = place(SLOTS);
    assert!(alone[rest..] == base[rest..], "what nobody wrote is the backup's");
    sand.assert_sound();
}

/// How the only live restore of a server stands.
pub(crate) fn live_facts(sand: &Sandbox) -> Value {
    facts_of(sand, "live")
}

/// What the only export of a server tells of its kind.
pub(crate) fn facts_of(sand: &Sandbox, kind: &str) -> Value {
    let control = sand.at("control");
    // A server that can be connected to may not be ready yet.
    let began = Instant::now();
    while !std::path::Path::new(&control).exists() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    sand.done(&["--json", "stats", &control]).json()["exports"][0][kind].clone()
}

/// Waits until all of it is on the target.
pub(crate) fn wait_until_done(sand: &Sandbox) {
    let began = Instant::now();
    while live_facts(sand)["state"] != "done" {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end: {}", live_facts(sand));
        std::thread::sleep(Duration::from_millis(20));
    }
}
