//! One door for fuzzers per parser of this room: names of files, and patterns of paths.

use super::pattern::Pattern;
use super::{escape, unescape};

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("file-name", file_name), ("pattern", pattern)];

fn file_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let name = escape(text);
    assert!((1..=255).contains(&name.len()) && name != "." && name != ".." && !name.contains(['/', '\0']));
    let back = unescape(&name);
    assert!(back.as_deref() == Some(text) || (back.is_none() && name.contains("%~")));
    if let Some(meant) = unescape(text) {
        let _again = escape(&meant);
    }
}

/// A pattern, and behind the first line break a path.
fn pattern(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (text, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"a/b"));
    let Ok(pattern) = Pattern::parse(text) else { return };
    let mut reached = pattern.begin();
    for name in path.split(|byte| *byte == b'/') {
        let may_go_on = pattern.may_go_on(&reached);
        reached = pattern.step(&reached, name);
        assert!(may_go_on || !pattern.is_meant(&reached));
        let _below = pattern.below(&reached);
    }
}
