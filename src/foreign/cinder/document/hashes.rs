//! `<prefix>_sha256file`: a SHA-256 of every block of the whole image, also of what an incremental backup left out.
//!
//! ```text
//! { "version": "1.0.0", "backup_id", "volume_id", "backup_name", "backup_description", "created_at", "chunk_size": 32768,
//!   "sha256s": [
//!     "<64 digits>",          block i is bytes i*chunk_size and on; the last one may be short
//!     ... ] }
//! ```
//!
//! For a volume of a terabyte that is more than two gigabytes of text, which nobody wants to read for one block. As Cinder lays it out, each
//! digest takes the same room: a [`Frame`] says where, from the beginning and the end of the document alone. What is laid out otherwise is read
//! as a whole, if it is short.

use super::metadata::is_known;
use super::refused::{len_within, within};
use super::{Refused, Uuid, json, limits, time};
use crate::format::ids::{from_hex, to_hex};
use jiff::Timestamp;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What stands before the first digest.
const OPENS: &[u8] = b"\n  \"sha256s\": [";
/// What stands behind the last one.
const CLOSES: &[u8] = b"\n  ]";
/// What stands before each digest, and its quotes, and the comma behind it.
const BEFORE: &[u8] = b"\n    \"";
const DIGITS: usize = 64;
const STRIDE: u64 = 72;
const _: () = assert!(BEFORE.len() + DIGITS + 2 == 72);

/// A digest.
pub type Sha256 = [u8; 32];

/// What the document says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which backup.
    pub backup_id: Uuid,
    /// Of which volume.
    pub volume_id: Uuid,
    /// What its maker called it.
    pub backup_name: Option<String>,
    /// What its maker said of it.
    pub backup_description: Option<String>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// How many bytes each digest speaks for.
    pub block: u64,
}

/// A whole `_sha256file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Whose digests they are.
    pub head: Head,
    /// One for each block.
    pub sha256s: Vec<Sha256>,
}

/// Where the digests of a document lie that is laid out as Cinder does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whose digests they are.
    pub head: Head,
    /// How many there are.
    pub count: u64,
    begins: u64,
}

impl Hashes {
    /// Reads the document and judges what it says.
    pub fn parse(bytes: &[u8]) -> Result<Hashes, Refused> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        within("length of a _sha256file", len, limits::HASHES_LEN_MAX)?;
        let document: Document = serde_json::from_slice(bytes)?;
        let (head, sha256s) = document.judge()?;
        Ok(Hashes { head, sha256s: sha256s.into_iter().map(|Digest(digest)| digest).collect() })
    }

    /// Writes it.
    pub fn write(&self) -> Result<Vec<u8>, Refused> {
        let Hashes { head, sha256s } = self;
        json::indented(&Document {
            backup_description: head.backup_description.clone(),
            backup_id: Some(head.backup_id.to_string()),
            backup_name: head.backup_name.clone(),
            chunk_size: head.block,
            created_at: Some(time::in_container(head.created_at)),
            sha256s: sha256s.iter().map(|digest| Digest(*digest)).collect(),
            version: Some(super::metadata::VERSION.to_owned()),
            volume_id: Some(head.volume_id.to_string()),
        })
    }
}

/// What stands around the digests of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// Before the first one.
    pub before: Vec<u8>,
    /// Behind the last one.
    pub behind: Vec<u8>,
}

impl Head {
    /// What stands around `count` digests, for who writes them a few at a time.
    pub fn around(&self, count: u64) -> Result<Around, Refused> {
        let sha256s = if count == 0 { Vec::new() } else { vec![[0; 32]] };
        let written = Hashes { head: self.clone(), sha256s }.write()?;
        if count == 0 {
            return Ok(Around { before: written, behind: Vec::new() });
        }
        let opens = find(&written, OPENS).and_then(|at| at.checked_add(OPENS.len()));
        let parts = opens.zip(rfind(&written, CLOSES)).and_then(|(opens, closes)| {
            Some(Around { before: written.get(..opens)?.to_vec(), behind: written.get(closes..)?.to_vec() })
        });
        parts.ok_or(Refused::Layout)
    }

    /// These digests as they stand in the document; `is_end` says that no others come behind them.
    pub fn lines(digests: &[Sha256], is_end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for digest in digests {
            out.extend_from_slice(BEFORE);
            out.extend_from_slice(to_hex(digest).as_bytes());
            out.extend_from_slice(b"\",");
        }
        if is_end {
            let _comma = out.pop();
        }
        out
    }
}

impl Frame {
    /// From the first and the last bytes of a document that is `len` long; nothing, when it is laid out otherwise.
    pub fn of(first: &[u8], last: &[u8], len: u64) -> Option<Result<Frame, Refused>> {
        let opens = find(first, OPENS)?.checked_add(OPENS.len())?;
        let closes = rfind(last, CLOSES)?;
        let (before, behind) = (first.get(..opens)?, last.get(closes..)?);
        let begins = u64::try_from(opens).ok()?;
        let room = len.checked_sub(begins)?.checked_sub(u64::try_from(behind.len()).ok()?)?;
        // The last one has no comma behind it.
        let padded = if room == 0 { 0 } else { room.checked_add(1)? };
        if !padded.is_multiple_of(STRIDE) {
            return None;
        }
        let document: Document = serde_json::from_slice(&[before, behind].concat()).ok()?;
        let count = padded.checked_div(STRIDE)?;
        Some(document.judge().map(|(head, _)| Frame { head, count, begins }))
    }

    /// Where the digests of these blocks lie.
    pub fn range(&self, blocks: &Range<u64>) -> Range<u64> {
        let at = |block: u64| self.begins.saturating_add(block.min(self.count).saturating_mul(STRIDE));
        let end = if blocks.end >= self.count { at(self.count).saturating_sub(1) } else { at(blocks.end) };
        at(blocks.start)..end.max(at(blocks.start))
    }

    /// Reads the digests that lie in such a range.
    pub fn parse(bytes: &[u8]) -> Result<Vec<Sha256>, Refused> {
        Frame::parse_each(bytes).collect()
    }

    /// The same, where one that can't be read spoils no other.
    pub fn parse_each(bytes: &[u8]) -> impl Iterator<Item = Result<Sha256, Refused>> + '_ {
        let stride = BEFORE.len().saturating_add(DIGITS).saturating_add(2);
        bytes.chunks(stride).map(line)
    }
}

/// One digest with what stands around it.
fn line(bytes: &[u8]) -> Result<Sha256, Refused> {
    let off = Refused::Digest { what: "a block" };
    let rest = bytes.strip_prefix(BEFORE).ok_or(off.clone())?;
    let (digits, behind) = rest.split_at_checked(DIGITS).ok_or(off.clone())?;
    let digits = std::str::from_utf8(digits).ok().filter(|_| matches!(behind, b"\"," | b"\""));
    digits.and_then(from_hex).ok_or(off)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn rfind(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).rposition(|window| window == what)
}

/// As it is written; keys come sorted.
#[derive(Serialize, Deserialize)]
struct Document {
    backup_description: Option<String>,
    backup_id: Option<String>,
    backup_name: Option<String>,
    chunk_size: u64,
    created_at: Option<String>,
    sha256s: Vec<Digest>,
    version: Option<String>,
    volume_id: Option<String>,
}

struct Digest(Sha256);

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        let off = || D::Error::custom("a digest is not 64 hexadecimal digits");
        from_hex(&text.to_ascii_lowercase()).map(Digest).ok_or_else(off)
    }
}

impl Document {
    fn judge(self) -> Result<(Head, Vec<Digest>), Refused> {
        let there = |what: &'static str, field: Option<String>| field.ok_or(Refused::Absent { what });
        is_known(&there("version", self.version)?)?;
        within("block of a _sha256file", self.chunk_size, limits::BLOCK_MAX)?;
        if self.chunk_size < limits::BLOCK_MIN {
            return Err(Refused::Limit {
                what: "block of a _sha256file",
                found: self.chunk_size,
                limit: limits::BLOCK_MIN,
            });
        }
        for text in [&self.backup_name, &self.backup_description].into_iter().flatten() {
            len_within("length of a name", text.len(), limits::TEXT_LEN_MAX)?;
        }
        let head = Head {
            backup_id: Uuid::of("backup_id", &there("backup_id", self.backup_id)?)?,
            volume_id: Uuid::of("volume_id", &there("volume_id", self.volume_id)?)?,
            backup_name: self.backup_name,
            backup_description: self.backup_description,
            created_at: time::parse("created_at", &there("created_at", self.created_at)?)?,
            block: self.chunk_size,
        };
        Ok((head, self.sha256s))
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::{ID, VOLUME};
    use super::*;
    use proptest::prelude::*;

    fn sample(count: u64, description: &str) -> Hashes {
        let head = Head {
            backup_id: Uuid::parse(ID).unwrap(),
            volume_id: Uuid::parse(VOLUME).unwrap(),
            backup_name: Some("n".into()),
            backup_description: Some(description.into()),
            created_at: Timestamp::UNIX_EPOCH,
            block: 32_768,
        };
        let digest =
            |number: u64| std::array::from_fn(|at| (number as u8).wrapping_mul(31).wrapping_add(at as u8));
        Hashes { head, sha256s: (0..count).map(digest).collect() }
    }

    fn frame(bytes: &[u8]) -> Option<Result<Frame, Refused>> {
        let last = bytes.len().saturating_sub(limits::HASHES_TAIL_MAX);
        Frame::of(&bytes[..bytes.len().min(limits::HASHES_HEAD_MAX)], &bytes[last..], bytes.len() as u64)
    }

    proptest! {
        #[test]
        fn any_block_is_found_without_reading_the_others(
            count in 0u64..40, description in "\\PC{0,30}|[\"\\]\\[\\\\\n]{0,20}", from in 0u64..40, some in 0u64..40
        ) {
            let hashes = sample(count, &description);
            let bytes = hashes.write().unwrap();
            prop_assert_eq!(Hashes::parse(&bytes), Ok(hashes.clone()));
            if count == 0 {
                return Ok(());
            }
            let frame = frame(&bytes).unwrap().unwrap();
            prop_assert_eq!((&frame.head, frame.count), (&hashes.head, count));
            let blocks = from.min(count)..(from + some).min(count).max(from.min(count));
            let range = frame.range(&blocks);
            let found = Frame::parse(&bytes[range.start as usize..range.end as usize]).unwrap();
            prop_assert_eq!(&found[..], &hashes.sha256s[blocks.start as usize..blocks.end as usize]);
        }
    }

    #[test]
    fn what_is_written_a_few_digests_at_a_time_is_the_same_document() {
        for count in [0, 1, 5] {
            let Hashes { head, sha256s } = sample(count, "a \n  ] of");
            let around = head.around(count).unwrap();
            let (some, rest) = sha256s.split_at(sha256s.len() / 2);
            let lines = [Head::lines(some, false), Head::lines(rest, true)].concat();
            let lines = if count == 0 { Vec::new() } else { lines };
            let pieced = [around.before, lines, around.behind].concat();
            assert_eq!(pieced, Hashes { head, sha256s }.write().unwrap(), "{count}");
        }
    }

    #[test]
    fn what_is_laid_out_otherwise_has_no_frame_and_is_read_whole() {
        let hashes = sample(7, "d");
        let value: serde_json::Value = serde_json::from_slice(&hashes.write().unwrap()).unwrap();
        let flat = serde_json::to_vec(&value).unwrap();
        assert!(frame(&flat).is_none());
        assert_eq!(Hashes::parse(&flat), Ok(hashes));
        assert!(frame(b"").is_none() && frame(b"\n  \"sha256s\": [").is_none());
    }

    #[test]
    fn a_block_of_no_sensible_size_is_refused() {
        for (block, fits) in
            [(511, false), (512, true), (limits::BLOCK_MAX, true), (limits::BLOCK_MAX + 1, false)]
        {
            let mut hashes = sample(1, "d");
            hashes.head.block = block;
            let read = Hashes::parse(&hashes.write().unwrap());
            assert_eq!(read.is_ok(), fits, "{block}");
            assert!(fits || matches!(read, Err(Refused::Limit { .. })));
        }
    }

    #[test]
    fn digests_that_are_none_are_refused_where_they_stand() {
        let bytes = sample(3, "d").write().unwrap();
        let range = frame(&bytes).unwrap().unwrap().range(&(0..3));
        let mut digests = bytes[range.start as usize..range.end as usize].to_vec();
        digests[80] = b'x';
        assert_eq!(Frame::parse(&digests), Err(Refused::Digest { what: "a block" }));
        assert_eq!(Frame::parse(&digests[1..]), Err(Refused::Digest { what: "a block" }));
    }
}
