//! Names of objects: short, printable, and safe as a path or a key in every store; and names that somebody else gave, which are only safe.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// The longest name that a store has to take.
pub(super) const NAME_LEN_MAX: usize = 200;
/// The longest name that somebody else may have given: what S3 and Swift take.
const FOREIGN_LEN_MAX: usize = 1024;

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

    /// A name that somebody else gave: any text of which no part is empty, leads elsewhere or holds a NUL. For stores that are only read.
    pub fn foreign(text: &str) -> Result<Name> {
        let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if text.len() > FOREIGN_LEN_MAX || !text.split('/').all(fits) {
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

    #[test]
    fn a_name_that_somebody_else_gave_can_never_leave_the_store_either() {
        for good in ["volume_a/20260105050000/az_Ä b_backup_c-00001", "A", ".hidden", "...", "a b\n"] {
            assert_eq!(Name::foreign(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(FOREIGN_LEN_MAX + 1);
        for bad in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "./a", "a\0", &long] {
            assert!(Name::foreign(bad).is_err(), "{bad:?}");
        }
    }
}
