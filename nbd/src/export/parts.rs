//! What a read gives: data and holes in order, handed to the socket without a copy.

use bytes::Bytes;

/// A piece of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Data(Bytes),
    /// So many zeroes.
    Hole(u32),
}

impl Part {
    /// Bytes it stands for.
    pub fn len(&self) -> usize {
        match self {
            Part::Data(bytes) => bytes.len(),
            Part::Hole(len) => usize::try_from(*len).unwrap_or(usize::MAX),
        }
    }

    /// Whether it stands for nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The pieces of a read, in order. The usual single piece costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// One piece is all.
    One(Part),
    /// Several.
    Many(Vec<Part>),
}

impl Parts {
    /// The pieces.
    pub fn as_slice(&self) -> &[Part] {
        match self {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    /// Bytes they stand for together.
    pub fn len(&self) -> usize {
        self.as_slice().iter().map(Part::len).sum()
    }

    /// Whether they stand for nothing.
    pub fn is_empty(&self) -> bool {
        self.as_slice().iter().all(Part::is_empty)
    }
}

impl From<Bytes> for Parts {
    fn from(bytes: Bytes) -> Self {
        Parts::One(Part::Data(bytes))
    }
}

impl From<Vec<Part>> for Parts {
    fn from(parts: Vec<Part>) -> Self {
        Parts::Many(parts)
    }
}
