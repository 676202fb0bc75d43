//! Directory cursors: the kernel's offsets <-> the tree's.
//!
//! The kernel starts at 0 and goes on where the last entry it took said. `.` and `..` come from here, so its 0 and 1 are theirs and
//! the tree's cursors start two higher: kernel 2 is the tree's 0. What a name may be is judged here, too.

/// Where a page starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At `.`
    Dot,
    /// At `..`
    DotDot,
    /// In the tree's entries, behind this cursor.
    After(u64),
}

/// The offset that stands behind `.`
pub(crate) const BEHIND_DOT: u64 = 1;
/// The offset that stands behind `..`
pub(crate) const BEHIND_DOT_DOT: u64 = 2;
/// The tree's cursors are not above this: the kernel's offsets are signed and some programs keep two bits for themselves.
pub(crate) const CURSOR_MAX: u64 = 1 << 62;

/// What a kernel's offset means.
pub(crate) fn start(offset: u64) -> Start {
    match offset {
        0 => Start::Dot,
        BEHIND_DOT => Start::DotDot,
        _ => Start::After(offset - BEHIND_DOT_DOT),
    }
}

/// The kernel's offset behind an entry of the tree, unless the tree gave a cursor that it must not give.
pub(crate) fn offset(cursor: u64) -> Option<u64> {
    (1..=CURSOR_MAX).contains(&cursor).then(|| cursor + BEHIND_DOT_DOT)
}

/// The longest name.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// A name that a directory may show.
pub(crate) fn name_is_fit(name: &[u8]) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_offsets_and_cursors_turn_into_each_other() {
        assert_eq!(start(0), Start::Dot);
        assert_eq!(start(BEHIND_DOT), Start::DotDot);
        assert_eq!(start(BEHIND_DOT_DOT), Start::After(0));
        for cursor in [1, 2, 77, CURSOR_MAX] {
            let offset = offset(cursor).expect("a fair cursor");
            assert_eq!(start(offset), Start::After(cursor));
            assert!(i64::try_from(offset).is_ok());
        }
    }

    #[test]
    fn f8_cursors_that_would_repeat_or_overflow_are_not_passed_on() {
        for cursor in [0, CURSOR_MAX + 1, u64::MAX] {
            assert_eq!(offset(cursor), None);
        }
    }

    #[test]
    fn f8_odd_names_are_fit_and_impossible_ones_are_not() {
        let long = [b'x'; 255];
        for name in [b"a".as_slice(), b"new\nline", b"\xff\xfe", "\u{202e}gpj".as_bytes(), b"...", &long] {
            assert!(name_is_fit(name), "{name:?}");
        }
        let longer = [b'x'; 256];
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", &longer] {
            assert!(!name_is_fit(name), "{name:?}");
        }
    }
}
