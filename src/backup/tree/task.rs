//! What the walk has done, what the workers find out, and what the assembler puts together.

use super::super::pipeline::Outcome;
use crate::error::Error;
use crate::format::PackId;
use crate::format::tree::{Content, Entry, Sighting};
use crate::source::directory::{Attributes, Folder, Look};
use bytes::Bytes;
use std::sync::Arc;

/// Tasks that set out together, for one pack, with a buffer that bounds how many units are under way.
pub(super) struct Unit {
    pub(super) number: u64,
    pub(super) pack: PackId,
    pub(super) tasks: Vec<Task>,
    pub(super) buffer: Vec<u8>,
}

/// The same after a worker.
pub(super) struct DoneUnit {
    pub(super) number: u64,
    pub(super) pack: PackId,
    pub(super) facts: Vec<Fact>,
    pub(super) buffer: Vec<u8>,
}

/// Something that is to be backed up, as the walk saw it.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) name: Bytes,
    pub(super) look: Look,
    /// Which of the linked files it is, if it has more names than one.
    pub(super) group: Option<[u8; 16]>,
    /// Whether other names of it will come.
    pub(super) memory: Memory,
}

/// What the assembler does with what became of a file with several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nothing.
    None,
    /// Keeps it, for the names that follow.
    Keep,
    /// Forgets what it kept.
    Forget,
}

/// What is to be done, in the order of the tree.
pub(super) enum Task {
    /// A directory begins. Nothing: it is not looked into.
    Enter(Subject, Option<Arc<Folder>>),
    /// It ends.
    Leave,
    /// As in the parent.
    Known(Box<Entry>, Sighting),
    /// To be read by the worker; it lies in this folder.
    Read(Subject, Arc<Folder>),
    /// Another name of a file that came before, and whether it is the last.
    Again {
        /// Its name.
        name: Bytes,
        /// Which file.
        group: [u8; 16],
        /// Where it lies.
        path: Vec<u8>,
        /// Whether no other name follows.
        last: bool,
    },
    /// A large file begins, with its extended attributes.
    Begin(Subject, Attributes),
    /// Its next chunks: these lengths of the unit's buffer.
    Chunks(Vec<usize>),
    /// So many zeros of it.
    Hole(u64),
    /// It changed while it was read; it begins anew.
    Anew,
    /// It ends, and this is what it looks like.
    End {
        /// At its end.
        look: Look,
        /// Whether it changed, the second time too.
        changed: bool,
    },
    /// It can't be read to its end.
    Broken,
    /// Something can't be read.
    Unread(Vec<u8>, Error),
}

/// What is known of something but its content.
pub(super) struct Draft {
    /// Its content and its attributes are still to be put in.
    pub(super) entry: Entry,
    pub(super) sighting: Sighting,
    pub(super) attributes: Attributes,
    pub(super) memory: Memory,
}

/// What is in it.
pub(super) enum Body {
    /// This.
    Whole(Content),
    /// A file of these chunks.
    Chunks(Vec<(u32, Outcome)>),
}

/// What a worker made of a task.
pub(super) enum Fact {
    Enter(Box<Draft>),
    Leave,
    Known(Box<Entry>, Sighting),
    Made(Box<Draft>, Body),
    /// Another name of the file of this group, in a folder of this path.
    Again {
        name: Bytes,
        group: [u8; 16],
        path: Vec<u8>,
        last: bool,
    },
    Begin(Box<Draft>),
    Chunks(Vec<(u32, Outcome)>),
    Hole(u64),
    Anew,
    End {
        look: Look,
        changed: bool,
    },
    Broken,
    Unread(Vec<u8>, Error),
}
