//! UUIDs as OpenStack writes them: of backups, of volumes. A backup's is its id here, too.

use super::Refused;
use crate::format::BackupId;
use crate::format::ids::{from_hex, to_hex};
use serde::{Serialize, Serializer};
use std::fmt;

/// Where the dashes stand in the 36 characters.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// From 36 characters, of either case.
    pub fn parse(text: &str) -> Option<Uuid> {
        let has_dashes = || DASHES.iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        let digits = (text.len() == 36 && has_dashes()).then(|| text.replace('-', ""))?;
        from_hex(&digits.to_ascii_lowercase()).map(Uuid)
    }

    /// The same, with a name for what it is of when it is none.
    pub(super) fn of(what: &'static str, text: &str) -> Result<Uuid, Refused> {
        Uuid::parse(text).ok_or(Refused::Uuid { what })
    }

    /// The digits of a UUID's beginning, at least `len_min` of them, with its dashes or without.
    pub fn prefix(text: &str, len_min: usize) -> Option<String> {
        let stands_right = |(at, byte): (usize, u8)| (byte == b'-') == DASHES.contains(&at);
        let is_dashed = text.contains('-') && text.len() <= 36 && text.bytes().enumerate().all(stands_right);
        let digits = if is_dashed { text.replace('-', "") } else { text.to_owned() }.to_ascii_lowercase();
        let fits = (len_min..=32).contains(&digits.len());
        (fits && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(digits)
    }
}

impl From<Uuid> for BackupId {
    fn from(uuid: Uuid) -> BackupId {
        BackupId(uuid.0)
    }
}

impl From<BackupId> for Uuid {
    fn from(id: BackupId) -> Uuid {
        Uuid(id.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = to_hex(&self.0);
        let mut from = 0;
        for to in [8, 12, 16, 20, 32] {
            out.write_str(if from == 0 { "" } else { "-" })?;
            out.write_str(digits.get(from..to).unwrap_or_default())?;
            from = to;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "12d0b1fc-9f7f-523d-a916-e42336c52cdc";

    #[test]
    fn a_uuid_comes_back_as_it_is_written() {
        let uuid = Uuid::parse(TEXT).unwrap();
        assert_eq!(uuid.to_string(), TEXT);
        assert_eq!(Uuid::parse(&TEXT.to_ascii_uppercase()), Some(uuid));
        for wrong in ["", "12d0b1fc", &TEXT[1..], &TEXT.replace('-', ""), &TEXT.replace("fc-9", "f-c9")] {
            assert_eq!(Uuid::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Uuid::parse(&TEXT.replace('2', "g")), None);
        assert_eq!(Uuid::parse("ä2d0b1fc-9f7f-523d-a916-e42336c52cd"), None);
    }

    #[test]
    fn the_beginning_of_a_uuid_may_have_its_dashes_or_not() {
        for (text, digits) in [
            (TEXT, Some("12d0b1fc9f7f523da916e42336c52cdc")),
            ("12d0b1fc", Some("12d0b1fc")),
            ("12D0B1FC-9f", Some("12d0b1fc9f")),
            ("12d0b1fc-", Some("12d0b1fc")),
            ("12d0b1fc9f", Some("12d0b1fc9f")),
            ("12d0b1f", None),
            ("12d0-b1fc", None),
            ("12d0b1fg", None),
            ("web01", None),
        ] {
            assert_eq!(Uuid::prefix(text, 8).as_deref(), digits, "{text}");
        }
    }
}
