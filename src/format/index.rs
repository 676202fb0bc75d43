//! Index objects: the tables of many packs, merged. A convenience: the packs alone are enough to write them again.
//!
//! ```text
//! first part  := supersedes[u32] object[16]*
//! other parts := ( pack[16] pack_len[u64] rows[u32] row* )*            rows as in a pack's table
//! ```
//!
//! Holds: a part ends where a pack ends, so each part can be read alone.

use super::corrupt::within;
use super::pack::{ROW_LEN, Row, parse_table, table};
use super::{Corrupt, Cursor, ObjectId, PackId, limits, put_u32, put_u64};

/// What an index says of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRows {
    /// Which pack.
    pub pack: PackId,
    /// How long it is.
    pub pack_len: u64,
    /// Its table.
    pub rows: Vec<Row>,
}

/// The first part: the objects that this one takes the place of.
pub fn write_supersedes(objects: &[ObjectId]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, u32::try_from(objects.len()).unwrap_or(u32::MAX));
    for object in objects {
        out.extend_from_slice(&object.0);
    }
    out
}

/// Reads what [`write_supersedes`] wrote.
pub fn parse_supersedes(bytes: &[u8]) -> Result<Vec<ObjectId>, Corrupt> {
    let mut at = Cursor::new(bytes);
    let count = at.u32()?;
    within("superseded objects", count.into(), limits::SUPERSEDES_MAX.into())?;
    let mut objects = Vec::new();
    for _ in 0..count {
        objects.push(ObjectId(at.array()?));
    }
    at.end()?;
    Ok(objects)
}

/// The other parts, none longer than a chunk may be.
pub fn write_parts(packs: &[PackRows]) -> Vec<Vec<u8>> {
    let limit = usize::try_from(limits::CHUNK_LEN_MAX).unwrap_or(usize::MAX);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for pack in packs {
        let len = pack.rows.len().saturating_mul(ROW_LEN).saturating_add(28);
        let fits = parts.last().is_some_and(|part| part.len().saturating_add(len) <= limit);
        if !fits {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend_from_slice(&pack.pack.0);
            put_u64(part, pack.pack_len);
            put_u32(part, u32::try_from(pack.rows.len()).unwrap_or(u32::MAX));
            part.extend_from_slice(&table(&pack.rows));
        }
    }
    parts
}

/// Reads one part.
pub fn parse_part(bytes: &[u8]) -> Result<Vec<PackRows>, Corrupt> {
    let mut at = Cursor::new(bytes);
    let mut packs = Vec::new();
    while !at.rest().is_empty() {
        within(
            "packs of an index",
            u64::try_from(packs.len()).unwrap_or(u64::MAX),
            limits::INDEX_PACKS_MAX.into(),
        )?;
        let pack = PackId(at.array()?);
        let pack_len = at.u64()?;
        within("length of a pack", pack_len, limits::PACK_LEN_MAX.into())?;
        let count = at.u32()?;
        within("chunks in a pack", count.into(), limits::PACK_CHUNKS_MAX.into())?;
        let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(ROW_LEN);
        packs.push(PackRows { pack, pack_len, rows: parse_table(at.take(len)?)? });
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{ChunkId, ids::SealKind};

    fn pack(n: u8, rows: usize) -> PackRows {
        let row = Row { id: ChunkId([n; 32]), kind: SealKind::Data, sealed_len: 100, plain_len: 128 };
        PackRows { pack: PackId([n; 16]), pack_len: 5000, rows: vec![row; rows] }
    }

    #[test]
    fn many_packs_are_spread_over_parts_and_come_back_in_order() {
        let packs: Vec<_> = (0..200).map(|n| pack(n, 30_000)).collect();
        let parts = write_parts(&packs);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= limits::CHUNK_LEN_MAX as usize));
        let back: Vec<_> = parts.iter().flat_map(|part| parse_part(part).unwrap()).collect();
        assert!(back == packs);
    }

    #[test]
    fn d4_a_row_may_stand_twice() {
        let twice = [pack(1, 2), pack(1, 2)];
        assert_eq!(parse_part(&write_parts(&twice)[0]).unwrap(), twice);
    }

    #[test]
    fn x2_a_cut_part_is_refused() {
        let part = &write_parts(&[pack(1, 3)])[0];
        for len in 1..part.len() {
            assert!(parse_part(&part[..len]).is_err(), "{len}");
        }
        let objects = [ObjectId([1; 16]), ObjectId([2; 16])];
        let bytes = write_supersedes(&objects);
        assert_eq!(parse_supersedes(&bytes), Ok(objects.to_vec()));
        assert!(parse_supersedes(&bytes[..bytes.len() - 1]).is_err());
    }
}
