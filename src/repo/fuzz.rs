//! One door for fuzzers per parser of this room: what people call backups, and what lies in this machine's cache.

use super::refs::{Reference, Which, parse_time};
use super::segments;

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] =
    &[("reference", reference), ("segment", segments::fuzz::segment), ("state", super::state::fuzz)];

fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(found) = Reference::parse(text) else { return };
    let _uuid = found.backup.as_uuid();
    if let Which::At(name, time) = &found.backup {
        assert!(text.starts_with(name.as_str()) && parse_time(&time.to_string()) == Some(*time));
    }
}
