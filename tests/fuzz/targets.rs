//! Who is fuzzed: the doors that each package opens for it.

/// A parser, and the name its corpus lies under.
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Takes any bytes; a panic is a finding.
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) fn all() -> Vec<Target> {
    let format = afterimage::format::fuzz::TARGETS
        .iter()
        .map(|(name, run)| Target { name: format!("format-{name}"), run: *run });
    format.collect()
}
