//! Files with several names: which of them were read already, in bounded memory.
//!
//! Without it they would be read once for each name, and be stored once all the same. So what finds no room here costs time and nothing else.
//! What is read for other names too is opened by the walk, where it was met: by the time a worker reads it, its first name may be another file's.

use crate::source::directory::{Look, OpenFile};
use crate::source::machine::Number;
use std::collections::HashMap;
use std::sync::Arc;

/// So many files are remembered at once.
const LINKS_MAX: usize = 64 * 1024;
/// So many of them wait opened for a worker, where the limit of the process is not too low for that.
const OPENED_MAX: usize = 1024;

/// Files whose other names have not all come yet.
pub(super) struct Links {
    met: HashMap<(Number, u64), Linked>,
    opened: Arc<()>,
    opened_max: usize,
}

/// A file that waits opened for a worker. It is counted until it is closed.
pub(super) struct Opened {
    pub(super) file: OpenFile,
    _counted: Arc<()>,
}

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
    /// For a process that may have so many files open; three quarters of them are for others.
    pub(super) fn new(files_max: u64) -> Links {
        let opened_max = usize::try_from(files_max / 4).unwrap_or(usize::MAX).min(OPENED_MAX);
        Links { met: HashMap::new(), opened: Arc::new(()), opened_max }
    }

    /// Counts a file that is to wait opened.
    pub(super) fn opened(&self, file: OpenFile) -> Opened {
        Opened { file, _counted: Arc::clone(&self.opened) }
    }

    /// The first name led to another file: nothing is kept for the others.
    pub(super) fn forget(&mut self, look: &Look) {
        let _gone = self.met.remove(&(look.device, look.inode));
    }

    /// One name of a file with several.
    pub(super) fn meet(&mut self, look: &Look) -> Met {
        let key = (look.device, look.inode);
        let Some(linked) = self.met.get_mut(&key) else {
            if self.met.len() >= LINKS_MAX || Arc::strong_count(&self.opened) > self.opened_max {
                return Met::Unknown { last: false };
            }
            let _none = self.met.insert(key, Linked { look: *look, left: look.names.saturating_sub(1) });
            return Met::First;
        };
        let same = look.is_untouched_since(&linked.look);
        linked.left = linked.left.saturating_sub(1);
        let last = linked.left == 0;
        if last {
            let _gone = self.met.remove(&key);
        }
        if same { Met::Before { last } } else { Met::Unknown { last } }
    }
}
