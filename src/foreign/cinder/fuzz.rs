//! One door for fuzzers per parser of what is no document: objects, their names, and what this machine keeps of them.

use super::document::names::{Prefix, data, split, split_data};
use super::{index, stored};

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("names", names),
    ("index", index::fuzz),
    ("stored", stored::fuzz::stored),
    ("points", stored::points::fuzz),
];

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((path, number)) = split_data(text) {
        assert_eq!(split_data(&data(path, number)), Some((path, number)));
    }
    let path = split(text).map_or(text, |(path, _)| path);
    let prefix = Prefix::parse(path);
    assert!(path.ends_with(prefix.text) && path.starts_with(prefix.container));
    if let Some(told) = Prefix::told(path, prefix.text) {
        assert_eq!((told.text, told.container), (prefix.text, prefix.container.trim_end_matches('/')));
    }
}
