//! SIGKILL under load: what was flushed to a kept overlay is there afterwards.

use crate::common::images::{MIB, file, mixed};
use crate::common::random::Random;
use crate::common::{Running, Sandbox};
use crate::servers::ours;
use crate::shell;
use std::time::Duration;

const SLOTS: u64 = 64;
const SLOT_LEN: usize = 3000;
const ROUNDS: usize = 6;

/// Where a slot lies: across the borders of blocks, with parts of blocks between.
fn place(slot: u64) -> usize {
    slot as usize * 5000 + 123
}

/// What a slot may hold: the value that was flushed last, and those that were written since.
#[derive(Clone)]
struct Slot {
    flushed: Option<u8>,
    since: Vec<u8>,
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
            (Some("f"), ..) => slots.iter_mut().for_each(|slot| {
                slot.flushed = slot.since.last().copied().or(slot.flushed);
                slot.since.clear();
            }),
            _ => panic!("{line:?} in the log"),
        }
    }
}

#[test]
fn n13_what_was_flushed_to_a_kept_overlay_survives_sigkill_at_any_moment() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let base = mixed(41, 2 * MIB);
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &base)]);
    let overlay = format!("x=vm,keep={}", sand.at("x.overlay"));
    let mut random = Random::new();
    let mut slots = vec![Slot { flushed: None, since: Vec::new() }; SLOTS as usize];
    for round in 0..ROUNDS {
        let (log, out) = (sand.at("log"), sand.at("out"));
        let mut server = ours(&sand, &["--overlay", &overlay]);
        let uri = server.uri("x", "");
        let writer = Running::start(shell::command(&uri, &script(&log, random.next())));
        std::thread::sleep(Duration::from_millis(300 + random.below(500)));
        server.running.kill();
        drop(server);
        let _ = writer.wait(Duration::from_secs(20));
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        replay(&mut slots, &log);
        let server = ours(&sand, &["--overlay", &overlay]);
        let read = format!("open('{out}', 'wb').write(h.pread({}, 0))", 2 * MIB);
        let _ = shell::on(&server.uri("x", ""), &read).expect_code(0);
        let _ = server.stop().expect_code(0);
        let found = std::fs::read(&out).expect("read");
        check(&mut slots, &found, &base, round);
    }
    assert!(slots.iter().any(|slot| slot.flushed.is_some()), "nothing was ever flushed");
}

fn check(slots: &mut [Slot], found: &[u8], base: &[u8], round: usize) {
    let mut covered = vec![false; found.len()];
    for (number, slot) in slots.iter_mut().enumerate() {
        let at = place(number as u64);
        for byte in at..at + SLOT_LEN {
            covered[byte] = true;
            let old = slot.flushed.unwrap_or(base[byte]);
            let is = found[byte];
            assert!(
                is == old || slot.since.contains(&is),
                "round {round}: byte {byte} of slot {number} is {is}, was flushed as {old}, written since: {:?}",
                slot.since
            );
        }
    }
    let strays = (0..found.len()).filter(|&byte| !covered[byte] && found[byte] != base[byte]).count();
    assert_eq!(strays, 0, "round {round}: bytes between the slots changed");
    // What is there now was read back after a restart. A slot that was torn stays open to all it may hold.
    for (number, slot) in slots.iter_mut().enumerate() {
        let bytes = &found[place(number as u64)..][..SLOT_LEN];
        if !slot.since.is_empty()
            && bytes.iter().all(|byte| *byte == bytes[0])
            && slot.since.contains(&bytes[0])
        {
            *slot = Slot { flushed: Some(bytes[0]), since: Vec::new() };
        }
    }
}
