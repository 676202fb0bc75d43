//! Where the children of a node lay when it was written: hints beside what its id covers, for map nodes and tree nodes alike.
//!
//! ```text
//! places := packs[u16] pack[16]* ( pack_number[u16] offset[u32] sealed_len[u32] )*     one per child, in order
//! ```

use super::corrupt::within;
use super::{Corrupt, Cursor, PackId, Place, limits, put_u16, put_u32};

/// Appends the places of a node's children.
pub(super) fn write(out: &mut Vec<u8>, places: &[Place]) {
    let mut packs: Vec<PackId> = places.iter().map(|place| place.pack).collect();
    packs.sort_unstable();
    packs.dedup();
    put_u16(out, u16::try_from(packs.len()).unwrap_or(u16::MAX));
    for pack in &packs {
        out.extend_from_slice(&pack.0);
    }
    for place in places {
        let number = packs.binary_search(&place.pack).unwrap_or(0);
        put_u16(out, u16::try_from(number).unwrap_or(u16::MAX));
        put_u32(out, place.offset);
        put_u32(out, place.len);
    }
}

/// Reads the places of so many children, one after the other.
pub(super) struct Places {
    packs: Vec<PackId>,
}

impl Places {
    /// Reads which packs they lie in.
    pub(super) fn parse(at: &mut Cursor<'_>, children: usize) -> Result<Places, Corrupt> {
        let count = at.u16()?;
        within("packs of a node", count.into(), u64::try_from(children).unwrap_or(u64::MAX))?;
        let packs = (0..count).map(|_| at.array().map(PackId)).collect::<Result<Vec<_>, _>>()?;
        Ok(Places { packs })
    }

    /// Reads where the next child lies.
    pub(super) fn next(&self, at: &mut Cursor<'_>) -> Result<Place, Corrupt> {
        let number = at.u16()?;
        let count = u64::try_from(self.packs.len()).unwrap_or(u64::MAX);
        let unknown = Corrupt::PackNumber { found: number.into(), count };
        let pack = *self.packs.get(usize::from(number)).ok_or(unknown)?;
        let place = Place { pack, offset: at.u32()?, len: at.u32()? };
        within("sealed length of a chunk", place.len.into(), limits::SEALED_LEN_MAX.into())?;
        Ok(place)
    }
}
