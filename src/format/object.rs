//! Objects that are not packs: records, indexes, catalogues, leases, ...: a header, sealed parts, a checksum.
//!
//! ```text
//! object := "AFTROBJ1" version[u16] kind[u8] zero[u8] repository[16] object[16] parts[u32] part* checksum[16]
//! part   := sealed_len[u32] sealed
//! ```
//!
//! The seal of a part binds repository, kind, object, its number and how many there are, so that none can be left out, moved or
//! taken for another. The checksum is XXH3-128 over everything before it.

use super::corrupt::{readable, within};
use super::ids::SealKind;
use super::{Corrupt, Cursor, ObjectId, RepositoryId, limits, put_u16, put_u32};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 8] = b"AFTROBJ1";
const CHECKSUM_LEN: usize = 16;

/// Puts an object together from its sealed parts.
pub fn write(repository: RepositoryId, kind: SealKind, object: ObjectId, parts: &[Vec<u8>]) -> Vec<u8> {
    let len = |part: &Vec<u8>| u32::try_from(part.len()).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    put_u16(&mut out, limits::VERSION);
    out.extend_from_slice(&[kind.byte(), 0]);
    out.extend_from_slice(&repository.0);
    out.extend_from_slice(&object.0);
    put_u32(&mut out, u32::try_from(parts.len()).unwrap_or(u32::MAX));
    for part in parts {
        put_u32(&mut out, len(part));
        out.extend_from_slice(part);
    }
    let checksum = xxh3_128(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// The sealed parts of an object that is whole, ours, and what it was asked for as.
pub fn parse(
    bytes: &[u8],
    repository: RepositoryId,
    kind: SealKind,
    object: ObjectId,
) -> Result<Vec<&[u8]>, Corrupt> {
    let mut at = Cursor::new(bytes);
    judge_magic(&mut at)?;
    let body_len = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(Corrupt::Short)?;
    let (body, checksum) = bytes.split_at_checked(body_len).ok_or(Corrupt::Short)?;
    if xxh3_128(body).to_le_bytes() != checksum {
        return Err(Corrupt::Checksum);
    }
    judge_head(&mut at, repository, kind, object)?;
    let parts = parse_parts(&mut at)?;
    let _checksum = at.array::<CHECKSUM_LEN>()?;
    at.end()?;
    Ok(parts)
}

/// What the bytes that an object begins with say of its first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<'a> {
    /// There is none.
    None,
    /// It ends behind them.
    Longer,
    /// All of it, and how many parts there are. Its seal is the only proof of it: the checksum covers the whole object.
    Here {
        /// As it is sealed.
        part: &'a [u8],
        /// How many there are.
        count: u32,
    },
}

/// The first part of an object of which these are the first bytes.
pub fn parse_first(
    bytes: &[u8],
    repository: RepositoryId,
    kind: SealKind,
    object: ObjectId,
) -> Result<First<'_>, Corrupt> {
    let mut at = Cursor::new(bytes);
    judge_magic(&mut at)?;
    judge_head(&mut at, repository, kind, object)?;
    let count = at.u32()?;
    within("parts of an object", count.into(), limits::OBJECT_PARTS_MAX.into())?;
    if count == 0 {
        return Ok(First::None);
    }
    let len = at.u32()?;
    within("sealed length of a part", len.into(), limits::SEALED_LEN_MAX.into())?;
    let part = at.rest().get(..usize::try_from(len).unwrap_or(usize::MAX));
    Ok(part.map_or(First::Longer, |part| First::Here { part, count }))
}

fn judge_magic(at: &mut Cursor<'_>) -> Result<(), Corrupt> {
    if &at.array::<8>()? != MAGIC {
        return Err(Corrupt::Magic { what: "an object" });
    }
    let version = at.u16()?;
    readable(version.into(), limits::VERSION.into())
}

fn judge_head(
    at: &mut Cursor<'_>,
    repository: RepositoryId,
    kind: SealKind,
    object: ObjectId,
) -> Result<(), Corrupt> {
    let (found, zero) = (at.u8()?, at.u8()?);
    if found != kind.byte() {
        return Err(Corrupt::OtherKind { found, wanted: kind.byte() });
    }
    if zero != 0 {
        return Err(Corrupt::NotZero { found: zero.into() });
    }
    let found = RepositoryId(at.array()?);
    if found != repository {
        return Err(Corrupt::OtherRepository { found: found.to_string() });
    }
    let found = ObjectId(at.array()?);
    if found != object {
        return Err(Corrupt::OtherName { found: found.to_string() });
    }
    Ok(())
}

fn parse_parts<'a>(at: &mut Cursor<'a>) -> Result<Vec<&'a [u8]>, Corrupt> {
    let count = at.u32()?;
    within("parts of an object", count.into(), limits::OBJECT_PARTS_MAX.into())?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let len = at.u32()?;
        within("sealed length of a part", len.into(), limits::SEALED_LEN_MAX.into())?;
        parts.push(at.take(usize::try_from(len).unwrap_or(usize::MAX))?);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: RepositoryId = RepositoryId([1; 16]);
    const ID: ObjectId = ObjectId([2; 16]);

    fn sample() -> Vec<u8> {
        write(REPO, SealKind::Record, ID, &[vec![1, 2, 3], vec![], vec![4]])
    }

    #[test]
    fn parts_come_back_as_they_went_in() {
        assert_eq!(parse(&sample(), REPO, SealKind::Record, ID), Ok(vec![&[1u8, 2, 3][..], &[], &[4]]));
    }

    #[test]
    fn the_first_part_is_found_in_the_first_bytes_or_said_to_end_behind_them() {
        fn of(bytes: &[u8]) -> First<'_> {
            parse_first(bytes, REPO, SealKind::Record, ID).unwrap()
        }
        let (whole, end) = (sample(), 52 + 3);
        assert_eq!(of(&whole), First::Here { part: &[1, 2, 3], count: 3 });
        assert_eq!(of(&whole[..end]), First::Here { part: &[1, 2, 3], count: 3 });
        assert_eq!(of(&whole[..end - 1]), First::Longer);
        assert_eq!(of(&write(REPO, SealKind::Record, ID, &[])), First::None);
        for other in [RepositoryId([9; 16]), RepositoryId([0; 16])] {
            assert!(parse_first(&whole, other, SealKind::Record, ID).is_err());
        }
    }

    #[test]
    fn c1_every_flipped_bit_and_every_cut_is_noticed() {
        let good = sample();
        for at in 0..good.len() {
            assert!(parse(&good[..at], REPO, SealKind::Record, ID).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(parse(&bad, REPO, SealKind::Record, ID).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn c9_an_object_is_never_taken_for_another() {
        let bytes = sample();
        assert!(matches!(parse(&bytes, REPO, SealKind::Index, ID), Err(Corrupt::OtherKind { .. })));
        let other = RepositoryId([9; 16]);
        assert!(matches!(parse(&bytes, other, SealKind::Record, ID), Err(Corrupt::OtherRepository { .. })));
        let other = ObjectId([9; 16]);
        assert!(matches!(parse(&bytes, REPO, SealKind::Record, other), Err(Corrupt::OtherName { .. })));
    }

    #[test]
    fn x11_a_future_version_is_named_before_anything_else_is_judged() {
        let mut bytes = sample();
        bytes[8] = 7;
        assert_eq!(
            parse(&bytes, REPO, SealKind::Record, ID),
            Err(Corrupt::Newer { found: 7, known: limits::VERSION.into() })
        );
    }
}
