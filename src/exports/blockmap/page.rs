//! The bytes of a block map: a header that says what it belongs to, and pages that each hold the states of some thousand blocks.
//!
//! ```text
//! header := checksum[u64] magic[8] version[u32] block[u32] id[16] size[u64] data_at[u64] note_len[u32] note zero*      4096 bytes
//! page   := checksum[u64] id[16] number[u64] sequence[u64] states[4056]                                       4096 bytes
//! state  := two bits, the first block in the lowest: 0 base · 1 present · 2 zero
//! file   := header ( page page )*                       two slots for each page, written in turns
//! ```
//!
//! Checksums are XXH3-64 of all that follows them. A slot that was never written is zero. Of two slots the one with the higher sequence
//! counts; one that does not prove itself was torn by a crash before anyone relied on it, so the other one counts.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Header and page, in bytes.
pub const PAGE_LEN: usize = 4096;
/// Bytes of states in one page.
pub const STATES_LEN: usize = PAGE_LEN - 40;
/// Blocks that one page knows.
pub const PAGE_BLOCKS: u64 = 4 * 4056;
const _: () = assert!(STATES_LEN == 4056);
/// The longest note.
pub const NOTE_LEN_MAX: usize = PAGE_LEN - 60;
/// More blocks than this have no map: it is held in memory.
pub const BLOCKS_MAX: u64 = 1 << 26;
/// The smallest and the largest block. A larger one would cost too much to complete.
pub const BLOCK_MIN: u32 = 4096;
/// With it, 256 TiB have a map.
pub const BLOCK_MAX: u32 = 4 << 20;

const MAGIC: &[u8; 8] = b"blockmap";
const VERSION: u32 = 1;

/// Why bytes are no block map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Too short, or begins with something else.
    Other,
    /// A version that this build does not know.
    Version(u32),
    /// The checksum does not hold.
    Checksum,
    /// It says what can't be.
    Field(&'static str),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Other => write!(f, "it is no block map of ours"),
            Unfit::Version(version) => write!(f, "its version is {version}, this build knows {VERSION}"),
            Unfit::Checksum => write!(f, "its checksum does not hold"),
            Unfit::Field(what) => write!(f, "its {what} can't be"),
        }
    }
}

/// What a map belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Every page carries it.
    pub id: [u8; 16],
    /// Bytes that the map covers.
    pub size: u64,
    /// Bytes of one block: a power of two.
    pub block: u32,
    /// Where the data of these blocks begins, if it lies in the same file.
    pub data_at: u64,
    /// What the owner wants to find again.
    pub note: Vec<u8>,
}

/// The size of blocks for something of that size: as small as [`BLOCKS_MAX`] allows. None where it is too large for a map.
pub fn block_for(size: u64) -> Option<u32> {
    let least = u32::try_from(size.div_ceil(BLOCKS_MAX).next_power_of_two()).ok()?;
    (least <= BLOCK_MAX).then_some(least.max(BLOCK_MIN))
}

/// How many pages a map over so many bytes has.
pub fn pages_of(size: u64, block: u32) -> u64 {
    size.div_ceil(u64::from(block).max(1)).div_ceil(PAGE_BLOCKS)
}

/// Where a slot of a page lies.
pub fn place_of(number: u64, slot: u8) -> u64 {
    let slots = number.saturating_mul(2).saturating_add(u64::from(slot)).saturating_add(1);
    slots.saturating_mul(u64::try_from(PAGE_LEN).unwrap_or(u64::MAX))
}

impl Header {
    /// As it is stored.
    pub fn write(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(PAGE_LEN);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&self.block.to_le_bytes());
        body.extend_from_slice(&self.id);
        body.extend_from_slice(&self.size.to_le_bytes());
        body.extend_from_slice(&self.data_at.to_le_bytes());
        body.extend_from_slice(&u32::try_from(self.note.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&self.note);
        body.resize(PAGE_LEN.saturating_sub(8), 0);
        sealed(&body)
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Header, Unfit> {
        let body = bytes.get(8..PAGE_LEN).filter(|body| body.starts_with(MAGIC)).ok_or(Unfit::Other)?;
        let version = u32_at(body, 8)?;
        if version != VERSION {
            return Err(Unfit::Version(version));
        }
        let _proven = opened(bytes)?;
        let note_len = usize::try_from(u32_at(body, 48)?).map_err(|_| Unfit::Field("note"))?;
        let note = body.get(52..).and_then(|rest| rest.get(..note_len)).ok_or(Unfit::Field("note"))?;
        let header = Header {
            block: u32_at(body, 12)?,
            id: array_at(body, 16)?,
            size: u64_at(body, 32)?,
            data_at: u64_at(body, 40)?,
            note: note.to_vec(),
        };
        header.judge()?;
        Ok(header)
    }

    fn judge(&self) -> Result<(), Unfit> {
        if !self.block.is_power_of_two() || !(BLOCK_MIN..=BLOCK_MAX).contains(&self.block) {
            return Err(Unfit::Field("block size"));
        }
        if self.size > i64::MAX.unsigned_abs() || self.size.div_ceil(self.block.into()) > BLOCKS_MAX {
            return Err(Unfit::Field("size"));
        }
        let end = place_of(pages_of(self.size, self.block), 0);
        if self.data_at != 0 && (self.data_at < end || self.data_at > i64::MAX.unsigned_abs() / 2) {
            return Err(Unfit::Field("place of the data"));
        }
        Ok(())
    }
}

/// A page as it is stored.
pub fn write_page(id: &[u8; 16], number: u64, sequence: u64, states: &[u8; STATES_LEN]) -> Vec<u8> {
    let mut body = Vec::with_capacity(PAGE_LEN);
    body.extend_from_slice(id);
    body.extend_from_slice(&number.to_le_bytes());
    body.extend_from_slice(&sequence.to_le_bytes());
    body.extend_from_slice(states);
    sealed(&body)
}

/// A page that proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Which of the two slots is newer.
    pub sequence: u64,
    /// Two bits a block.
    pub states: Box<[u8; STATES_LEN]>,
}

/// Reads a slot; `None` if it was never written.
pub fn parse_page(bytes: &[u8], id: &[u8; 16], number: u64) -> Result<Option<Page>, Unfit> {
    if bytes.len() == PAGE_LEN && bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let body = opened(bytes)?;
    if array_at::<16>(body, 0)? != *id || u64_at(body, 16)? != number {
        return Err(Unfit::Field("place"));
    }
    let sequence = u64_at(body, 24)?;
    let states: [u8; STATES_LEN] = array_at(body, 32)?;
    // Both bits of a pair are no state.
    if states.iter().any(|byte| byte & (byte >> 1) & 0x55 != 0) {
        return Err(Unfit::Field("state"));
    }
    Ok(Some(Page { sequence, states: Box::new(states) }))
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [&xxh3_64(body).to_le_bytes(), body].concat()
}

fn opened(bytes: &[u8]) -> Result<&[u8], Unfit> {
    let body = bytes.get(8..PAGE_LEN).filter(|_| bytes.len() == PAGE_LEN).ok_or(Unfit::Other)?;
    if u64_at(bytes, 0)? == xxh3_64(body) { Ok(body) } else { Err(Unfit::Checksum) }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unfit> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Unfit::Other)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Unfit> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Unfit> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

/// For fuzzers: any bytes, no panic; what parses is written back the same.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(header) = Header::parse(bytes) {
        assert!(Header::parse(&header.write()) == Ok(header));
    }
    let id = bytes.get(8..24).and_then(|id| id.first_chunk()).copied().unwrap_or([0; 16]);
    if let Ok(Some(page)) = parse_page(bytes, &id, 7) {
        assert!(write_page(&id, 7, page.sequence, &page.states) == bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    use super::*;

    fn header() -> Header {
        let (size, block) = (1 << 40, block_for(1 << 40).unwrap());
        let data_at = place_of(pages_of(size, block), 0);
        Header { id: [7; 16], size, block, data_at, note: b"{\"backup\":1}".to_vec() }
    }

    #[test]
    fn headers_and_pages_come_back_and_one_flipped_bit_is_noticed() {
        let bytes = header().write();
        assert_eq!((bytes.len(), Header::parse(&bytes)), (PAGE_LEN, Ok(header())));
        let states = [0x12; STATES_LEN];
        let page = write_page(&[7; 16], 3, 9, &states);
        assert_eq!(parse_page(&page, &[7; 16], 3).unwrap().unwrap().sequence, 9);
        assert_eq!(parse_page(&[0; PAGE_LEN], &[7; 16], 3), Ok(None));
        assert!(parse_page(&page, &[7; 16], 4).is_err() && parse_page(&page, &[8; 16], 3).is_err());
        for at in (0..PAGE_LEN).step_by(13) {
            let (mut one, mut other) = (bytes.clone(), page.clone());
            one[at] ^= 4;
            other[at] ^= 4;
            assert!(Header::parse(&one).is_err() && parse_page(&other, &[7; 16], 3).is_err(), "byte {at}");
        }
        assert!(parse_page(&write_page(&[7; 16], 3, 9, &[3; STATES_LEN]), &[7; 16], 3).is_err());
    }

    #[test]
    fn x10_sizes_that_can_not_be_are_refused_and_maps_stay_small() {
        for wrong in [
            Header { block: 5000, ..header() },
            Header { block: 512, ..header() },
            Header { block: 8 << 20, ..header() },
            Header { size: u64::MAX, ..header() },
            Header { block: 4096, ..header() },
            Header { data_at: 4096, ..header() },
        ] {
            assert!(matches!(Header::parse(&wrong.write()), Err(Unfit::Field(_))), "{wrong:?}");
        }
        for size in [0, 1, 1 << 38, (1 << 38) + 1, 1 << 46, 1 << 48] {
            let block = block_for(size).unwrap();
            assert!(size.div_ceil(block.into()) <= BLOCKS_MAX && pages_of(size, block) <= 4137, "{size}");
        }
        assert_eq!((block_for(1 << 38), block_for(1 << 46)), (Some(4096), Some(1 << 20)));
        assert_eq!((block_for((1 << 48) + 1), block_for(u64::MAX)), (None, None));
    }
}
