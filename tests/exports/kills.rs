//! SIGKILL at random moments, some times: the slow tier does it often.

use crate::torture::{live_survives, overlay_survives};

const ROUNDS: usize = 6;

#[test]
fn n13_what_was_flushed_to_a_kept_overlay_survives_sigkill_at_any_moment() {
    overlay_survives(ROUNDS);
}

#[test]
fn n13_what_was_flushed_to_a_live_restore_survives_sigkill_at_any_moment() {
    live_survives(ROUNDS);
}
