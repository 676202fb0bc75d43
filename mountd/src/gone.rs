//! Is the one who asked being killed? Thread id -> yes or no.
//!
//! The kernel's own interrupt message is turned down by the protocol library, after which a reader waits for its answer even through SIGKILL.
//! So whoever waits longer than a moment is looked at: a pending signal that ends most programs means that the answer may be an error now.

use std::fs;

/// HUP, INT, QUIT, KILL and TERM, as the kernel's masks have them.
const ENDING: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 14;

/// Whether the thread has such a signal waiting. False also when it cannot be known, as for threads of another PID namespace.
pub(crate) fn is_being_killed(thread: u32) -> bool {
    thread != 0
        && fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| has_ending_signal(&status))
}

pub(crate) fn has_ending_signal(status: &str) -> bool {
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & ENDING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f5_a_pending_ending_signal_is_seen_unless_it_is_blocked() {
        let status = |own: u64, shared: u64, blocked: u64| {
            format!(
                "Name:\tdd\nSigQ:\t0/1\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n"
            )
        };
        assert!(has_ending_signal(&status(1 << 8, 0, 0)), "SIGKILL to the thread");
        assert!(has_ending_signal(&status(0, 1 << 1, 0)), "SIGINT to the process");
        assert!(!has_ending_signal(&status(0, 1 << 1, 1 << 1)), "blocked");
        assert!(!has_ending_signal(&status(0, 1 << 16, 0)), "SIGCHLD ends nobody");
        assert!(!has_ending_signal("nonsense") && !has_ending_signal(""));
    }

    #[test]
    fn f5_a_thread_that_is_not_there_is_not_being_killed() {
        assert!(!is_being_killed(0) && !is_being_killed(u32::MAX));
        assert!(!is_being_killed(std::process::id()));
    }
}
