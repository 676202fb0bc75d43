//! What the walk has done, what the workers find out, and what the assembler puts together.

use super::super::pipeline::Outcome;
use crate::error::Error;
use crate::format::node::Child;
use crate::format::tree::{Below, Content, Directory, Entry, Sighting, Spot};
use crate::format::{ChunkId, PackId};
use crate::source::directory::{Attributes, Look};
use bytes::Bytes;
use std::num::NonZeroUsize;

/// So many contents are remembered for when they come again.
pub(super) const CONTENTS_MAX: NonZeroUsize = NonZeroUsize::new(64 * 1024).expect("it is not zero");

/// What stands for a content in the repository that it is copied from: its chunk or node, and the sightings beside that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) ChunkId, pub(super) Option<ChunkId>);

/// Tasks that set out together, for one pack, with a buffer that bounds how many units are under way.
pub(super) struct Unit<E> {
    pub(super) number: u64,
    pub(super) pack: PackId,
    pub(super) tasks: Vec<Task<E>>,
    pub(super) buffer: Vec<u8>,
}

/// The same after a worker.
pub(super) struct DoneUnit {
    pub(super) number: u64,
    pub(super) pack: PackId,
    pub(super) facts: Vec<Fact>,
    pub(super) buffer: Vec<u8>,
}

/// What is to be done, in the order of the tree.
pub(super) enum Task<E> {
    /// Something that a worker has to find out.
    Errand(E),
    /// The next chunks of a large file: these lengths of the unit's buffer.
    Chunks(Vec<usize>),
    /// Nothing is left to find out.
    Fact(Fact),
}

/// What the assembler does with what became of something that may come again, under the same name or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nothing.
    None,
    /// Keeps it, for the other names of the file.
    Keep,
    /// Forgets what it kept.
    Forget,
    /// Remembers its content, as what came of this one.
    As(Key),
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
    /// What came of this content, which was remembered.
    As(Key),
}

/// What is known by now, in the order of the tree.
pub(super) enum Fact {
    /// A directory begins.
    Enter(Box<Draft>),
    /// A node of it, of this level, as it lies here already, and the sightings beside it.
    Node(u8, Box<Below>, Child),
    /// All of it, as it lies here already, and the sightings beside that.
    Whole(Directory, Child),
    /// It ends.
    Leave,
    /// As it lies here already.
    Known(Box<Entry>, Sighting),
    /// What something is.
    Made(Box<Draft>, Body),
    /// Another name of a file that came before.
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
    /// A large file begins.
    Begin(Box<Draft>),
    /// Its next chunks.
    Chunks(Vec<(u32, Outcome)>),
    /// So many zeros of it.
    Hole(u64),
    /// It changed while it was read; it begins anew.
    Anew,
    /// It ends; and how, where it may have changed since it began.
    End(Option<Ending>),
    /// It can't be read to its end.
    Broken,
    /// Something can't be read.
    Unread(Vec<u8>, Error),
}

/// How reading a large file ended.
pub(super) struct Ending {
    /// What it looks like now.
    pub(super) look: Look,
    /// By what a later run recognises it, if it can.
    pub(super) spot: Option<Spot>,
    /// Whether it changed, the second time too.
    pub(super) changed: bool,
}
