//! Packs: one object holding many sealed chunks, then the sealed table of them, then a trailer.
//!
//! ```text
//! pack    := header chunk* table trailer
//! header  := "AFTRPACK" version[u16] zero[u16] zero[u32] repository[16] pack[16]                      48 bytes
//! table   := sealed( row* )
//! row     := id[32] kind[u8] sealed_len[u32] plain_len[u32]                                           41 bytes
//! trailer := table_offset[u64] table_len[u32] count[u32] "AFTRPEND" checksum[16]                      40 bytes
//! ```
//!
//! Holds: rows tile the bytes between header and table exactly, so a row needs no offset and none can overlap.
//! The checksum is XXH3-128 over everything before it, so that a copy can be judged without the key.

use super::corrupt::{readable, within};
use super::ids::SealKind;
use super::{ChunkId, Corrupt, Cursor, PackId, Place, RepositoryId, limits, put_u16, put_u32, put_u64};

const MAGIC: &[u8; 8] = b"AFTRPACK";
const MAGIC_END: &[u8; 8] = b"AFTRPEND";

/// Bytes before the first chunk.
pub const HEADER_LEN: u32 = 48;
/// Bytes behind the table.
pub const TRAILER_LEN: u32 = 40;
/// Bytes of one row of the table.
pub const ROW_LEN: usize = 41;
/// Bytes of the checksum at the very end.
pub const CHECKSUM_LEN: usize = 16;

/// One chunk, as a pack's table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: ChunkId,
    /// What was sealed.
    pub kind: SealKind,
    /// How many bytes it takes in the pack.
    pub sealed_len: u32,
    /// How many bytes it holds.
    pub plain_len: u32,
}

/// The header of a pack.
pub fn header(repository: RepositoryId, pack: PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    out.extend_from_slice(MAGIC);
    put_u16(&mut out, limits::VERSION);
    put_u16(&mut out, 0);
    put_u32(&mut out, 0);
    out.extend_from_slice(&repository.0);
    out.extend_from_slice(&pack.0);
    out
}

/// Judges a header: ours, this repository's, this pack's, a version we read.
pub fn parse_header(bytes: &[u8], repository: RepositoryId, pack: PackId) -> Result<(), Corrupt> {
    let mut at = Cursor::new(bytes);
    if &at.array::<8>()? != MAGIC {
        return Err(Corrupt::Magic { what: "a pack" });
    }
    let version = at.u16()?;
    readable(version.into(), limits::VERSION.into())?;
    let zero = u64::from(at.u16()?) | u64::from(at.u32()?);
    if zero != 0 {
        return Err(Corrupt::NotZero { found: zero });
    }
    let found = RepositoryId(at.array()?);
    if found != repository {
        return Err(Corrupt::OtherRepository { found: found.to_string() });
    }
    let found = PackId(at.array()?);
    if found != pack {
        return Err(Corrupt::OtherName { found: found.to_string() });
    }
    Ok(())
}

/// The plain bytes of a table.
pub fn table(rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len().saturating_mul(ROW_LEN));
    for row in rows {
        out.extend_from_slice(&row.id.0);
        out.push(row.kind.byte());
        put_u32(&mut out, row.sealed_len);
        put_u32(&mut out, row.plain_len);
    }
    out
}

/// The rows of a table; their lengths are judged, their sum is the caller's to compare ([`tile`]).
pub fn parse_table(bytes: &[u8]) -> Result<Vec<Row>, Corrupt> {
    let rows = bytes.chunks_exact(ROW_LEN);
    if !rows.remainder().is_empty() {
        return Err(Corrupt::Short);
    }
    within(
        "chunks in a pack",
        u64::try_from(rows.len()).unwrap_or(u64::MAX),
        limits::PACK_CHUNKS_MAX.into(),
    )?;
    rows.map(parse_row).collect()
}

fn parse_row(bytes: &[u8]) -> Result<Row, Corrupt> {
    let mut at = Cursor::new(bytes);
    let row = Row {
        id: ChunkId(at.array()?),
        kind: SealKind::of_chunk(at.u8()?)?,
        sealed_len: at.u32()?,
        plain_len: at.u32()?,
    };
    within("sealed length of a chunk", row.sealed_len.into(), limits::SEALED_LEN_MAX.into())?;
    within("length of a chunk", row.plain_len.into(), limits::CHUNK_LEN_MAX.into())?;
    if row.sealed_len < limits::SEAL_OVERHEAD {
        return Err(Corrupt::EmptyEntry);
    }
    at.end()?;
    Ok(row)
}

/// Gives every row its place, and says where the chunks end.
pub fn tile(pack: PackId, rows: &[Row]) -> (Vec<Place>, u64) {
    let mut end = u64::from(HEADER_LEN);
    let places = rows
        .iter()
        .map(|row| {
            // A sum above u32 is noticed by the caller, who compares `end` with the pack's length.
            let place = Place { pack, offset: u32::try_from(end).unwrap_or(u32::MAX), len: row.sealed_len };
            end = end.saturating_add(row.sealed_len.into());
            place
        })
        .collect();
    (places, end)
}

/// Where the table lies, as the trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Its first byte, where the chunks end.
    pub table_offset: u64,
    /// How many sealed bytes it has.
    pub table_len: u32,
    /// How many rows it has.
    pub count: u32,
    /// XXH3-128 of everything before the checksum.
    pub checksum: u128,
}

/// The trailer without its checksum, which covers it.
pub fn trailer(table_offset: u64, table_len: u32, count: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    put_u64(&mut out, table_offset);
    put_u32(&mut out, table_len);
    put_u32(&mut out, count);
    out.extend_from_slice(MAGIC_END);
    out
}

/// Reads the last [`TRAILER_LEN`] bytes of a pack of `pack_len` bytes, and holds them to that length.
pub fn parse_trailer(bytes: &[u8], pack_len: u64) -> Result<Trailer, Corrupt> {
    within("length of a pack", pack_len, limits::PACK_LEN_MAX.into())?;
    let mut at = Cursor::new(bytes);
    let trailer = Trailer {
        table_offset: at.u64()?,
        table_len: at.u32()?,
        count: at.u32()?,
        checksum: {
            if &at.array::<8>()? != MAGIC_END {
                return Err(Corrupt::Magic { what: "the end of a pack" });
            }
            u128::from_le_bytes(at.array()?)
        },
    };
    at.end()?;
    within("chunks in a pack", trailer.count.into(), limits::PACK_CHUNKS_MAX.into())?;
    within("length of a table", trailer.table_len.into(), limits::SEALED_LEN_MAX.into())?;
    let end =
        trailer.table_offset.saturating_add(trailer.table_len.into()).saturating_add(TRAILER_LEN.into());
    if end != pack_len || trailer.table_offset < u64::from(HEADER_LEN) {
        return Err(Corrupt::Tiling { found: end, wanted: pack_len });
    }
    Ok(trailer)
}

/// Holds a table to the trailer that announced it.
pub fn judge_table(pack: PackId, rows: &[Row], trailer: &Trailer) -> Result<Vec<Place>, Corrupt> {
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    if count != u64::from(trailer.count) {
        return Err(Corrupt::Count { table: count, trailer: trailer.count.into() });
    }
    let (places, end) = tile(pack, rows);
    if end != trailer.table_offset {
        return Err(Corrupt::Tiling { found: end, wanted: trailer.table_offset });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: RepositoryId = RepositoryId([1; 16]);
    const PACK: PackId = PackId([2; 16]);

    fn row(n: u8, sealed_len: u32) -> Row {
        Row { id: ChunkId([n; 32]), kind: SealKind::Data, sealed_len, plain_len: 7 }
    }

    #[test]
    fn header_and_table_come_back_as_they_went_in() {
        assert_eq!(parse_header(&header(REPO, PACK), REPO, PACK), Ok(()));
        let rows = vec![row(1, 100), row(2, 200)];
        assert_eq!(parse_table(&table(&rows)), Ok(rows.clone()));
        let (places, end) = tile(PACK, &rows);
        assert_eq!(places[1], Place { pack: PACK, offset: 148, len: 200 });
        assert_eq!(end, 348);
    }

    #[test]
    fn c9_a_pack_of_another_repository_or_name_is_refused() {
        let bytes = header(REPO, PACK);
        assert!(matches!(
            parse_header(&bytes, RepositoryId([9; 16]), PACK),
            Err(Corrupt::OtherRepository { .. })
        ));
        assert!(matches!(parse_header(&bytes, REPO, PackId([9; 16])), Err(Corrupt::OtherName { .. })));
    }

    #[test]
    fn x2_a_trailer_has_to_agree_with_the_length_of_its_pack() {
        let mut bytes = trailer(348, 82, 2);
        bytes.extend_from_slice(&[0; 16]);
        let whole = 348 + 82 + 40;
        assert!(parse_trailer(&bytes, whole).is_ok());
        for wrong in [whole - 1, whole + 1, 0, u64::MAX] {
            assert!(parse_trailer(&bytes, wrong).is_err(), "{wrong}");
        }
        let rows = vec![row(1, 100), row(2, 200)];
        let good = parse_trailer(&bytes, whole).unwrap();
        assert!(judge_table(PACK, &rows, &good).is_ok());
        assert!(judge_table(PACK, &rows[..1], &good).is_err());
        assert!(judge_table(PACK, &[row(1, 100), row(2, 201)], &good).is_err());
    }

    #[test]
    fn x10_rows_at_their_limits() {
        let at = |sealed_len, plain_len| {
            parse_table(&table(&[Row { sealed_len, plain_len, ..row(1, 0) }])).map(|rows| rows.len())
        };
        assert_eq!(at(limits::SEALED_LEN_MAX, limits::CHUNK_LEN_MAX), Ok(1));
        assert_eq!(at(limits::SEAL_OVERHEAD, 0), Ok(1));
        for (sealed, plain, what) in [
            (limits::SEALED_LEN_MAX + 1, 0, "sealed length of a chunk"),
            (limits::SEALED_LEN_MAX, limits::CHUNK_LEN_MAX + 1, "length of a chunk"),
        ] {
            let refused = at(sealed, plain);
            assert!(
                matches!(refused, Err(Corrupt::Limit { what: named, .. }) if named == what),
                "{refused:?}"
            );
        }
        let many = vec![row(1, 40); limits::PACK_CHUNKS_MAX as usize];
        assert!(parse_table(&table(&many)).is_ok());
        let more = vec![row(1, 40); limits::PACK_CHUNKS_MAX as usize + 1];
        assert!(matches!(parse_table(&table(&more)), Err(Corrupt::Limit { what: "chunks in a pack", .. })));
    }
}
