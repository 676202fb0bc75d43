//! Files with several names: which of them were read already, in bounded memory.
//!
//! Without it they would be read once for each name, and be stored once all the same. So what finds no room here costs time and nothing else.

use crate::source::directory::Look;
use crate::source::machine::Number;
use std::collections::HashMap;

/// So many files are remembered at once.
const LINKS_MAX: usize = 64 * 1024;

/// Files whose other names have not all come yet.
#[derive(Default)]
pub(super) struct Links(HashMap<(Number, u64), Linked>);

struct Linked {
    look: Look,
    left: u32,
}

/// What the walk does with a name of a linked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// Read it, and remember what it is.
    First,
    /// It is what was read before; `last`: no other name follows.
    Before { last: bool },
    /// Read it; `last`: what was remembered is of no use any more.
    Unknown { last: bool },
}

impl Links {
    /// One name of a file with several.
    pub(super) fn meet(&mut self, look: &Look) -> Met {
        let key = (look.device, look.inode);
        let Some(linked) = self.0.get_mut(&key) else {
            if self.0.len() >= LINKS_MAX {
                return Met::Unknown { last: false };
            }
            let _none = self.0.insert(key, Linked { look: *look, left: look.names.saturating_sub(1) });
            return Met::First;
        };
        let same = look.is_untouched_since(&linked.look);
        linked.left = linked.left.saturating_sub(1);
        let last = linked.left == 0;
        if last {
            let _gone = self.0.remove(&key);
        }
        if same { Met::Before { last } } else { Met::Unknown { last } }
    }
}
