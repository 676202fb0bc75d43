//! What a map names, in the order in which it lies in the store. An image that many backups wrote has its chunks here and there; those of one
//! pack that are near each other are one get, wherever in the image they belong.
//!
//! pieces, in the order of the image -> as many as the horizon holds -> pack by pack, as the packs were met -> groups

use super::{GROUP_LEN, Group};
use crate::error::Result;
use crate::format::{PackId, Place};
use crate::image::Piece;
use std::collections::HashMap;
use std::ops::Range;

/// So many pieces are put in order together: few at first, so that there is something to open soon, and then more each time.
const HORIZON_FIRST: usize = 1 << 10;
const HORIZON_MAX: usize = 1 << 16;

/// Pieces that wait to be put in order.
pub(super) struct Order {
    within: Range<u64>,
    gap_max: u64,
    horizon: usize,
    packs: HashMap<PackId, usize>,
    pieces: Vec<(usize, Place, Piece)>,
}

impl Order {
    /// None yet. What comes is wanted as far as it lies in `within`; chunks with no more than `gap_max` between them are one get.
    pub(super) fn new(within: Range<u64>, gap_max: u64) -> Order {
        let (packs, pieces) = (HashMap::new(), Vec::new());
        Order { within, gap_max, horizon: HORIZON_FIRST, packs, pieces }
    }

    /// Takes a piece; `emit` gets groups when there are enough, and says whether to go on.
    pub(super) fn add(&mut self, piece: Piece, emit: &mut dyn FnMut(Group) -> Result<bool>) -> Result<bool> {
        let Some(child) = piece.child else { return Ok(true) };
        let met = self.packs.len();
        let pack = *self.packs.entry(child.place.pack).or_insert(met);
        self.pieces.push((pack, child.place, piece));
        if self.pieces.len() < self.horizon {
            return Ok(true);
        }
        self.horizon = (self.horizon * 2).min(HORIZON_MAX);
        self.flush(emit)
    }

    /// Gives away all that waits.
    pub(super) fn flush(&mut self, emit: &mut dyn FnMut(Group) -> Result<bool>) -> Result<bool> {
        self.packs.clear();
        self.pieces.sort_by_key(|(pack, place, _)| (*pack, place.offset));
        let mut pieces: Vec<Piece> = Vec::new();
        let mut so_far: Option<(Place, u64, u64)> = None;
        for (_, place, piece) in self.pieces.drain(..) {
            let len = piece.range.end - piece.range.start;
            so_far = match so_far {
                Some((first, end, sum)) if goes_with(&first, end, sum, &place, len, self.gap_max) => {
                    Some((first, end.max(place.end()), sum + len))
                }
                _ => {
                    if !pieces.is_empty() && !emit(group(&mut pieces, &self.within))? {
                        return Ok(false);
                    }
                    Some((place, place.end(), len))
                }
            };
            pieces.push(piece);
        }
        match pieces.is_empty() {
            true => Ok(true),
            false => emit(group(&mut pieces, &self.within)),
        }
    }
}

/// Whether what lies at `next` is fetched with what begins at `first`, ends at `end` and comes to `sum` bytes.
fn goes_with(first: &Place, end: u64, sum: u64, next: &Place, len: u64, gap_max: u64) -> bool {
    next.pack == first.pack
        && u64::from(next.offset) <= end + gap_max
        && end.max(next.end()) - u64::from(first.offset) <= GROUP_LEN
        && sum + len <= GROUP_LEN
}

/// In the order of the image, so that what belongs together there is handed over together.
fn group(pieces: &mut Vec<Piece>, within: &Range<u64>) -> Group {
    let mut pieces = std::mem::take(pieces);
    pieces.sort_by_key(|piece| piece.range.start);
    Group { pieces, range: within.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ChunkId;
    use crate::format::node::Child;
    use proptest::prelude::*;

    const CHUNK: u64 = 64 * 1024;

    fn piece(number: usize, pack: u8, offset: u32, len: u32) -> Piece {
        let range = number as u64 * CHUNK..(number as u64 + 1) * CHUNK;
        let place = Place { pack: PackId([pack; 16]), offset, len };
        Piece { range, child: Some(Child { id: ChunkId([pack; 32]), place }) }
    }

    fn groups(pieces: &[Piece], gap_max: u64) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut emit = |group: Group| {
            groups.push(group);
            Ok(true)
        };
        let mut order = Order::new(0..u64::MAX, gap_max);
        for piece in pieces {
            assert!(order.add(piece.clone(), &mut emit).unwrap());
        }
        assert!(order.flush(&mut emit).unwrap());
        groups
    }

    #[test]
    fn chunks_of_two_packs_that_take_turns_in_the_image_are_two_gets() {
        let pieces: Vec<Piece> =
            (0..12).map(|number| piece(number, (number % 2) as u8, number as u32 * 1000, 900)).collect();
        let groups = groups(&pieces, 4096);
        assert_eq!(groups.len(), 2);
        for group in groups {
            assert!(group.pieces.is_sorted_by_key(|piece| piece.range.start) && group.pieces.len() == 6);
        }
    }

    #[test]
    fn a_chunk_that_an_image_has_twice_is_fetched_once() {
        let pieces = [piece(0, 1, 500, 100), piece(9, 1, 500, 100)];
        assert_eq!(groups(&pieces, 0).len(), 1);
    }

    #[test]
    fn whoever_takes_no_more_gets_no_more() {
        let mut order = Order::new(0..u64::MAX, 0);
        let mut given = 0;
        for number in 0..4 {
            let far = piece(number, number as u8, 0, 100);
            assert!(order.add(far, &mut |_| unreachable!("there is room")).unwrap());
        }
        let more = order.flush(&mut |_| {
            given += 1;
            Ok(given < 2)
        });
        assert_eq!((more.unwrap(), given), (false, 2));
    }

    proptest! {
        #[test]
        fn every_piece_comes_once_and_no_get_is_too_long(
            places in prop::collection::vec((0u8..4, 0u32..40_000_000, 0u32..200_000), 0..3000),
            gap_max in prop_oneof![Just(0), Just(16_384), Just(1 << 20)],
        ) {
            let pieces: Vec<Piece> =
                places.iter().enumerate().map(|(number, (pack, at, len))| piece(number, *pack, *at, *len)).collect();
            let mut seen = Vec::new();
            for group in groups(&pieces, gap_max) {
                let (_, sealed) = group.sealed().unwrap();
                prop_assert!(group.pieces.len() == 1 || (sealed.end - sealed.start <= GROUP_LEN && group.len() <= GROUP_LEN));
                for piece in &group.pieces {
                    let place = piece.child.unwrap().place;
                    prop_assert!(sealed.start <= place.offset.into() && place.end() <= sealed.end);
                }
                seen.extend(group.pieces);
            }
            seen.sort_by_key(|piece| piece.range.start);
            prop_assert_eq!(seen, pieces);
        }
    }
}
