//! One door for fuzzers per parser of this room: the tables of the machine, names of exports, and what is to be left out.

use super::directory::{Excludes, Owners};
use super::{machine, nbd};

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] =
    &[("mounts", machine::fuzz), ("owners", owners), ("excludes", excludes), ("uri", uri)];

fn owners(bytes: &[u8]) {
    let owners = Owners::of(bytes, bytes);
    let owner = owners.owner(0, 4);
    assert!(owner.user.len() <= 255 && !owner.user.contains(&b'\n') && !owner.group.contains(&b':'));
}

/// Patterns, one a line; behind the first empty line a path.
fn excludes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (lines, path) = text.split_once("\n\n").unwrap_or((&text, "a/b/c"));
    let mut excludes = Excludes::default();
    if excludes.add_lines(lines).is_ok() {
        let both = [true, false].map(|is_directory| excludes.leaves_out(path.as_bytes(), is_directory));
        assert!(!excludes.is_empty() || both == [false, false]);
    }
}

fn uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(uri) = nbd::parse(text, &["bitmap"]) {
        let again = nbd::parse(&uri.to_string(), &["bitmap"]);
        assert!(again.is_ok_and(|again| nbd::identity(&again) == nbd::identity(&uri)));
        assert_eq!(nbd::names_bitmap(text), uri.parameter("bitmap").is_some());
    }
}
