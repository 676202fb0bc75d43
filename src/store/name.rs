//! Names of objects: short, printable, and safe as a path or a key in every store.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// The longest name that a store has to take.
pub(super) const NAME_LEN_MAX: usize = 200;

/// An object's name: `/`-separated parts of lower-case letters, digits, `.` and `-`; no part empty or beginning with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Judges a name; listings hold whatever somebody left in the store.
    pub fn parse(text: &str) -> Result<Name> {
        let fits = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        };
        if text.len() > NAME_LEN_MAX || !text.split('/').all(fits) {
            return Err(Error::new(Kind::Usage, format!("{text:?} is not an object name")));
        }
        Ok(Name(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the last `/`.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_never_leave_the_store_or_hide_in_it() {
        for good in ["afterimage.json", "packs/3f/3fa9", "index/0-77aa", "a"] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(NAME_LEN_MAX + 1);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            ".hidden",
            "packs/.tmp-1",
            "A",
            "a b",
            "a\0",
            "ä",
            &long,
        ] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }
}
