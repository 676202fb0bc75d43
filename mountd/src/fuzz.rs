//! One door for fuzzers per table of the kernel's that is read here: anybody who mounts or runs something writes names into them.

use crate::{gone, mount};

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("mounts", mount::fuzz), ("status", status)];

fn status(bytes: &[u8]) {
    let _ends = gone::has_ending_signal(&String::from_utf8_lossy(bytes));
}
