//! Bytes of a segment: what each block of the file means, and whether it is what was written.
//!
//! ```text
//! segment  := head groups packs fan-out rows         each begins on a block of 4096 bytes
//! block    := content[4088] check[8]                 of head, packs and rows; little-endian
//! check    := xxh3(content) ^ xxh3(salt, block number)
//! head     := magic[8] version[4] bits[4] salt[8] rows[8] packs[8] groups_len[8] sum[8] zero...
//! groups   := count[4] (names[4] (len[2] name)*)*    what the rows of one `add` stand for
//! packs    := (pack[16] group[4])*                   204 to a block, sorted
//! fan-out  := first_row[4] * (2^bits + 1)            by the leading bits of an id
//! rows     := (id[24] pack[4] offset[4] len[4])*     113 to a block, sorted
//! ```
//! Numbers inside packs and rows are big-endian, so that their bytes sort as they do. `sum` is xxh3 over groups and fan-out.
//! Groups are sorted too: renumbering those of several segments into one keeps every order, which is what lets a merge stream.
//!
//! The salt and the block's number in each check mean that a block of another segment, or from another place, is damage.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use xxhash_rust::xxh3::xxh3_64;

/// Bytes in a block, and in its content.
pub(super) const BLOCK: usize = 4096;
const CONTENT: usize = 4088;

/// Bytes of an id that a row keeps.
pub(super) const KEY: usize = 24;
/// Bytes of a row.
pub(super) const ROW: usize = 36;
/// Bytes of an entry in the table of packs.
pub(super) const PACK: usize = 20;

/// The most rows of one segment: the fan-out counts in 32 bits.
pub(super) const ROWS_MAX: u64 = 0xffff_fffe;
/// The most bytes that the groups may take.
const GROUPS_LEN_MAX: u64 = 64 << 20;
/// The most leading bits that the fan-out distinguishes.
const BITS_MAX: u32 = 26;
/// Rows for one entry of the fan-out: at most this many, at least half, if ids are spread evenly.
const ROWS_PER_ENTRY: u64 = 64;

const MAGIC: [u8; 8] = *b"aim-segm";
const VERSION: u32 = 1;

/// A row as it is stored.
pub(super) type RawRow = [u8; ROW];
/// An entry of the table of packs as it is stored.
pub(super) type RawPack = [u8; PACK];
/// A block as it is stored.
pub(super) type Block = [u8; BLOCK];

/// What the first block says, with where things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) bits: u32,
    pub(super) salt: u64,
    pub(super) rows: u64,
    pub(super) packs: u64,
    pub(super) groups_len: u64,
    pub(super) sum: u64,
}

impl Head {
    /// The first block of a segment.
    pub(super) fn to_block(self) -> Block {
        let mut content = Vec::with_capacity(BLOCK);
        content.extend_from_slice(&MAGIC);
        content.extend_from_slice(&VERSION.to_le_bytes());
        content.extend_from_slice(&self.bits.to_le_bytes());
        for number in [self.salt, self.rows, self.packs, self.groups_len, self.sum] {
            content.extend_from_slice(&number.to_le_bytes());
        }
        checked_block(self.salt, 0, &content)
    }

    /// What a first block says, if it is one of ours and fits a file of `file_len` bytes.
    pub(super) fn parse(block: &[u8], file_len: u64) -> Option<Head> {
        let (magic, rest) = block.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (bits, mut rest) = rest.split_first_chunk::<4>()?;
        let mut next = || {
            let (number, behind) = rest.split_first_chunk::<8>()?;
            rest = behind;
            Some(u64::from_le_bytes(*number))
        };
        let (salt, rows, packs, groups_len, sum) = (next()?, next()?, next()?, next()?, next()?);
        let head = Head { bits: u32::from_le_bytes(*bits), salt, rows, packs, groups_len, sum };
        let fits = *magic == MAGIC
            && u32::from_le_bytes(*version) == VERSION
            && is_whole(salt, 0, block)
            && head.bits <= BITS_MAX
            && rows <= ROWS_MAX
            && packs <= ROWS_MAX
            && groups_len <= GROUPS_LEN_MAX
            && head.file_len()? == file_len;
        fits.then_some(head)
    }

    /// The number of the block in which the table of packs begins.
    pub(super) fn packs_block(&self) -> Option<u64> {
        blocks_of_bytes(self.groups_len)?.checked_add(1)
    }

    /// The number of the block in which the fan-out begins.
    pub(super) fn fan_out_block(&self) -> Option<u64> {
        self.packs_block()?.checked_add(blocks_of_records(self.packs, PACK)?)
    }

    /// The number of the block in which the rows begin.
    pub(super) fn rows_block(&self) -> Option<u64> {
        self.fan_out_block()?.checked_add(blocks_of_bytes(self.fan_out_len()?)?)
    }

    /// How many bytes the fan-out has.
    pub(super) fn fan_out_len(&self) -> Option<u64> {
        1u64.checked_shl(self.bits)?.checked_add(1)?.checked_mul(4)
    }

    /// The length of the whole file.
    pub(super) fn file_len(&self) -> Option<u64> {
        self.rows_block()?.checked_add(blocks_of_records(self.rows, ROW)?)?.checked_mul(4096)
    }
}

/// How many leading bits the fan-out of so many rows distinguishes.
pub(super) fn bits_for(rows: u64) -> u32 {
    (0..BITS_MAX).find(|bits| rows >> bits <= ROWS_PER_ENTRY).unwrap_or(BITS_MAX)
}

/// Which entry of the fan-out an id (or the beginning of a row) belongs to.
pub(super) fn entry_of(key: &[u8], bits: u32) -> u64 {
    let lead = key.first_chunk::<8>().map_or(0, |lead| u64::from_be_bytes(*lead));
    lead.checked_shr(64u32.saturating_sub(bits)).unwrap_or(0)
}

/// How many records of `width` bytes are in a block.
pub(super) const fn per_block(width: usize) -> usize {
    match CONTENT.checked_div(width) {
        Some(count) => count,
        None => 0,
    }
}

fn blocks_of_bytes(len: u64) -> Option<u64> {
    Some(len.div_ceil(4096))
}

fn blocks_of_records(count: u64, width: usize) -> Option<u64> {
    let each = u64::try_from(per_block(width)).ok()?;
    (each > 0).then(|| count.div_ceil(each))
}

/// A block with its check. Content that is too long is cut; no caller has any.
pub(super) fn checked_block(salt: u64, number: u64, content: &[u8]) -> Block {
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().take(CONTENT).zip(content) {
        *to = *from;
    }
    let check = block.first_chunk::<CONTENT>().map_or(0, |content| check_of(salt, number, content));
    if let Some(end) = block.last_chunk_mut::<8>() {
        *end = check.to_le_bytes();
    }
    block
}

/// Whether a block is what was written there.
pub(super) fn is_whole(salt: u64, number: u64, block: &[u8]) -> bool {
    match block.split_last_chunk::<8>() {
        Some((content, check)) => {
            content.len() == CONTENT && u64::from_le_bytes(*check) == check_of(salt, number, content)
        }
        None => false,
    }
}

fn check_of(salt: u64, number: u64, content: &[u8]) -> u64 {
    xxh3_64(content) ^ place_of(salt, number)
}

fn place_of(salt: u64, number: u64) -> u64 {
    let place = (u128::from(salt) << 64) | u128::from(number);
    xxh3_64(&place.to_le_bytes())
}

/// The groups as bytes; `None` if they are too many for one segment.
pub(super) fn join_groups(groups: &[Vec<String>]) -> Option<Vec<u8>> {
    let mut bytes = u32::try_from(groups.len()).ok()?.to_le_bytes().to_vec();
    for names in groups {
        bytes.extend_from_slice(&u32::try_from(names.len()).ok()?.to_le_bytes());
        for name in names {
            bytes.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
    }
    (u64::try_from(bytes.len()).ok()? <= GROUPS_LEN_MAX).then_some(bytes)
}

/// The groups that these bytes list; they must be all of them and sorted.
pub(super) fn split_groups(mut bytes: &[u8]) -> Option<Vec<Vec<String>>> {
    let at = &mut bytes;
    let mut groups = Vec::new();
    for _ in 0..take_u32(at)? {
        let mut names = Vec::new();
        for _ in 0..take_u32(at)? {
            let (len, rest) = at.split_first_chunk::<2>()?;
            let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            names.push(String::from_utf8(name.to_vec()).ok()?);
            *at = rest;
        }
        groups.push(names);
    }
    (at.is_empty() && groups.is_sorted()).then_some(groups)
}

fn take_u32(at: &mut &[u8]) -> Option<u32> {
    let (number, rest) = at.split_first_chunk::<4>()?;
    *at = rest;
    Some(u32::from_le_bytes(*number))
}

/// A row from its parts.
pub(super) fn raw_row(id: &[u8; 32], pack: u32, offset: u32, len: u32) -> RawRow {
    let mut row = [0; ROW];
    let parts = id.iter().take(KEY).copied().chain(pack.to_be_bytes());
    let parts = parts.chain(offset.to_be_bytes()).chain(len.to_be_bytes());
    row.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    row
}

/// Pack number, offset and length of a row.
pub(super) fn place_in_row(row: &[u8]) -> Option<(u32, u32, u32)> {
    let (_, rest) = row.split_first_chunk::<KEY>()?;
    let (pack, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let len = rest.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*pack), u32::from_be_bytes(*offset), u32::from_be_bytes(*len)))
}

/// The same row with another pack number.
pub(super) fn with_pack(mut row: RawRow, pack: u32) -> RawRow {
    row.iter_mut().skip(KEY).zip(pack.to_be_bytes()).for_each(|(to, from)| *to = from);
    row
}

/// An entry of the table of packs.
pub(super) fn raw_pack(pack: &[u8; 16], group: u32) -> RawPack {
    let mut entry = [0; PACK];
    entry.iter_mut().zip(pack.iter().copied().chain(group.to_be_bytes())).for_each(|(to, from)| *to = from);
    entry
}

/// Pack and group of an entry.
pub(super) fn split_pack(entry: &[u8]) -> Option<([u8; 16], u32)> {
    let (pack, rest) = entry.split_first_chunk::<16>()?;
    Some((*pack, u32::from_be_bytes(*rest.first_chunk::<4>()?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const HEAD: Head = Head { bits: 3, salt: 77, rows: 300, packs: 5, groups_len: 12, sum: 9 };

    #[test]
    fn a_head_is_read_as_it_was_written_and_only_for_a_file_of_its_length() {
        let block = HEAD.to_block();
        let len = HEAD.file_len().unwrap();
        assert_eq!(len, (1 + 1 + 1 + 1 + 3) * 4096);
        assert_eq!(Head::parse(&block, len), Some(HEAD));
        assert_eq!(Head::parse(&block, len + 4096), None);
        assert_eq!(Head::parse(&block[..4095], len), None);
    }

    #[test]
    fn a_head_that_a_newer_build_wrote_is_none_of_ours() {
        let mut content = HEAD.to_block()[..4088].to_vec();
        content[8] = 2;
        let newer = checked_block(HEAD.salt, 0, &content);
        assert!(is_whole(HEAD.salt, 0, &newer));
        assert_eq!(Head::parse(&newer, HEAD.file_len().unwrap()), None);
    }

    #[test]
    fn a_block_is_whole_only_in_its_place_and_its_segment() {
        let block = checked_block(7, 3, b"rows");
        assert!(is_whole(7, 3, &block));
        assert!(!is_whole(7, 4, &block));
        assert!(!is_whole(8, 3, &block));
        assert!(!is_whole(7, 3, &[0; BLOCK]));
    }

    #[test]
    fn groups_come_back_and_nothing_else_passes() {
        let groups =
            vec![vec![], vec!["index/a".to_owned()], vec!["index/b".to_owned(), "index/c".to_owned()]];
        let bytes = join_groups(&groups).unwrap();
        assert_eq!(split_groups(&bytes), Some(groups));
        (0..bytes.len()).for_each(|len| assert_eq!(split_groups(&bytes[..len]), None));
        let longer = [bytes, vec![0]].concat();
        assert_eq!(split_groups(&longer), None);
    }

    #[test]
    fn the_fan_out_grows_with_the_rows() {
        let of = |rows| bits_for(rows);
        assert_eq!((of(0), of(64), of(65), of(2_000_000)), (0, 0, 1, 15));
        assert_eq!(of(400_000_000), 23);
        assert_eq!(entry_of(&[0xff; 24], 4), 15);
        assert_eq!(entry_of(&[0xff; 24], 0), 0);
    }
}
