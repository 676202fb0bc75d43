//! Catalogue objects: many records in one object, so that a fresh machine lists a large repository in a few gets.
//!
//! ```text
//! first part  := as an index's: the catalogue objects that this one takes the place of
//! other parts := ( backup[16] len[u32] record )*                      record: the JSON of the record itself
//! ```
//!
//! A catalogue proves nothing: a backup is listed when its own object is. It only spares reading that object.

use super::corrupt::within;
use super::{BackupId, Corrupt, Cursor, limits, put_u32};

/// Records longer than this are left to their own objects.
pub const RECORD_LEN_HERE_MAX: usize = 64 * 1024;

/// The other parts, none longer than a chunk may be.
pub fn write_parts<'a>(records: impl IntoIterator<Item = (BackupId, &'a [u8])>) -> Vec<Vec<u8>> {
    let limit = usize::try_from(limits::CHUNK_LEN_MAX).unwrap_or(usize::MAX);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (id, record) in records {
        let len = record.len().saturating_add(20);
        let fits = parts.last().is_some_and(|part| part.len().saturating_add(len) <= limit);
        if !fits {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend_from_slice(&id.0);
            put_u32(part, u32::try_from(record.len()).unwrap_or(u32::MAX));
            part.extend_from_slice(record);
        }
    }
    parts
}

/// Reads one part: each backup's id and the JSON of its record.
pub fn parse_part(bytes: &[u8]) -> Result<Vec<(BackupId, &[u8])>, Corrupt> {
    let mut at = Cursor::new(bytes);
    let mut records = Vec::new();
    while !at.rest().is_empty() {
        let id = BackupId(at.array()?);
        let len = usize::try_from(at.u32()?).unwrap_or(usize::MAX);
        within(
            "length of a record in a catalogue",
            u64::try_from(len).unwrap_or(u64::MAX),
            u64::try_from(RECORD_LEN_HERE_MAX).unwrap_or(u64::MAX),
        )?;
        records.push((id, at.take(len)?));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_cuts_are_refused() {
        let records = [(BackupId([1; 16]), &b"{}"[..]), (BackupId([2; 16]), &b"{\"a\": 1}"[..])];
        let part = &write_parts(records)[0];
        assert_eq!(parse_part(part).unwrap(), records);
        for len in [1, 15, 19, 21, part.len() - 1] {
            assert!(parse_part(&part[..len]).is_err(), "{len}");
        }
    }
}
