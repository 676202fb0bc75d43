//! The name of an export: a key, never a path.

use std::fmt;
use std::ops::Deref;

use super::Malformed;
use super::cursor;

/// UTF-8, without NUL, at most 4096 bytes. Compared whole and byte for byte. Empty means the default export.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// A name from text that we hold ourselves.
    pub fn new(text: &str) -> Result<Name, Malformed> {
        Name::decode(text.as_bytes())
    }

    /// A name from the bytes of a peer.
    pub fn decode(bytes: &[u8]) -> Result<Name, Malformed> {
        cursor::string(bytes).map(|text| Name(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Shows the name as a peer may have made it: control and escape characters are spelt out, so that logs can't be forged.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_debug(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limits;

    #[test]
    fn n2_names_are_bounded_utf8_without_nul() {
        let longest = "n".repeat(limits::STRING_LEN_MAX);
        assert_eq!(Name::new("").unwrap().as_str(), "");
        assert_eq!(Name::new(&longest).unwrap().as_str(), longest);
        assert_eq!(Name::new(&format!("{longest}n")), Err(Malformed::StringLong { len: 4097 }));
        assert_eq!(Name::new("ro\0x"), Err(Malformed::StringNul));
        assert_eq!(Name::decode(b"\xff"), Err(Malformed::StringNotUtf8));
    }

    #[test]
    fn n2_shown_names_carry_no_control_characters() {
        let shown = Name::new("a\x1b[31m\n\u{202e}b").unwrap().to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert!(!shown.contains('\u{202e}'), "{shown:?}");
    }
}
