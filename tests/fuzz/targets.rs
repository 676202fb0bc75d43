//! Who is fuzzed: the doors that each package opens for it.

use super::seeds;

/// A parser, and the name its corpus lies under.
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Takes any bytes; a panic is a finding.
    pub(crate) run: fn(&[u8]),
    /// What its writer makes.
    pub(crate) seeds: Vec<Vec<u8>>,
}

/// All of them.
pub(crate) fn all() -> Vec<Target> {
    seeds::assert_valid();
    let format = |(name, run): &(&str, fn(&[u8]))| Target {
        name: format!("format-{name}"),
        run: *run,
        seeds: seeds::of_format(name),
    };
    afterimage::format::fuzz::TARGETS.iter().map(format).collect()
}
