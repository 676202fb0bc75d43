//! Servers that are killed under load, fifty times each; the gate does it some times.

use crate::torture::{live_survives, overlay_survives};

const KILLS: usize = 50;

#[test]
fn n13_what_was_flushed_to_a_kept_overlay_survives_fifty_kills() {
    overlay_survives(KILLS);
}

#[test]
fn n13_what_was_flushed_to_a_live_restore_survives_fifty_kills() {
    live_survives(KILLS);
}
