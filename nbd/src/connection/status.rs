//! Making an export's extents fit for the wire.

use crate::wire::{Extent, limits};

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) one: bool,
}

/// Equal neighbours become one; nothing is empty; only the last extent may reach past what was asked, and none past
/// the export's end. `None` if the export said nothing about the first byte.
pub(super) fn tidy(extents: &[Extent], asked: Asked, size: u64) -> Option<Vec<Extent>> {
    let to_end = size.checked_sub(asked.offset)?;
    let mut tidy: Vec<Extent> = Vec::new();
    let mut covered = 0u64;
    for extent in extents {
        let len = extent.len.min(to_end - covered);
        let full = tidy.len() == limits::EXTENTS_MAX;
        match tidy.last_mut() {
            _ if len == 0 => continue,
            Some(last) if last.flags == extent.flags => last.len += len,
            // Equal neighbours still count to an extent that has passed the end of the request; others don't.
            Some(_) if covered >= asked.len || asked.one || full => break,
            _ => tidy.push(Extent { len, flags: extent.flags }),
        }
        covered += len;
    }
    if let (true, Some(first)) = (asked.one, tidy.first_mut()) {
        first.len = first.len.min(asked.len);
    }
    if tidy.is_empty() { None } else { Some(tidy) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
        list.iter().map(|&(len, flags)| Extent { len, flags }).collect()
    }

    fn asked(offset: u64, len: u64, one: bool) -> Asked {
        Asked { offset, len, one }
    }

    #[test]
    fn neighbours_join_and_ends_are_cut() {
        let many = extents(&[(10, 0), (10, 0), (0, 3), (5, 3), (100, 0)]);
        assert_eq!(tidy(&many, asked(0, 100, false), 1000), Some(extents(&[(20, 0), (5, 3), (100, 0)])));
        assert_eq!(tidy(&many, asked(0, 100, false), 60), Some(extents(&[(20, 0), (5, 3), (35, 0)])));
        assert_eq!(tidy(&many, asked(0, 22, false), 1000), Some(extents(&[(20, 0), (5, 3)])));
        assert_eq!(tidy(&many, asked(0, 100, true), 1000), Some(extents(&[(20, 0)])));
        assert_eq!(tidy(&many, asked(0, 7, true), 1000), Some(extents(&[(7, 0)])));
    }

    #[test]
    fn an_export_that_says_nothing_is_caught() {
        assert_eq!(tidy(&[], asked(0, 10, false), 10), None);
        assert_eq!(tidy(&extents(&[(0, 1)]), asked(0, 10, false), 10), None);
    }

    proptest! {
        #[test]
        fn n3_whatever_an_export_says_the_answer_keeps_the_rules(
            list in prop::collection::vec((any::<u64>(), 0u64..3), 1..20),
            small: bool, offset in 0u64..1000, len in 1u64..1000, one: bool,
        ) {
            let list: Vec<_> = list.into_iter().map(|(l, flags)| (if small { l % 50 } else { l }, flags)).collect();
            let size = offset + len + 100;
            if let Some(tidy) = tidy(&extents(&list), asked(offset, len, one), size) {
                prop_assert!(tidy.iter().all(|extent| extent.len > 0));
                prop_assert!(tidy.windows(2).all(|pair| pair[0].flags != pair[1].flags));
                let sum: u64 = tidy.iter().map(|extent| extent.len).sum();
                prop_assert!(sum <= size - offset);
                prop_assert!(sum - tidy.last().unwrap().len < len);
                prop_assert!(!one || (tidy.len() == 1 && sum <= len));
            }
        }
    }
}
