//! The stored bytes of an object, in order, a piece at a time: while one is decoded, the next one is on its way.

use crate::error::{Error, Kind, Result};
use crate::store::{AnyStore, Name};
use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The first piece. Who wants little gets little; who goes on gets more at a time.
const PIECE_MIN: u64 = 128 << 10;
const PIECE_MAX: u64 = 1 << 20;

/// Where an object lies.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) store: AnyStore,
    pub(super) runtime: Handle,
    pub(super) name: Name,
    /// How many bytes are stored.
    pub(super) len: u64,
}

/// The bytes from some place on.
pub(super) struct Feed {
    source: Source,
    /// Where the piece in hand begins.
    at: u64,
    piece: Bytes,
    next: Option<JoinHandle<Result<Bytes>>>,
    /// Where what is asked for ends, and how much to ask for then.
    asked: u64,
    step: u64,
}

impl Feed {
    /// From a place on.
    pub(super) fn new(source: Source, at: u64) -> Feed {
        Feed { source, at, piece: Bytes::new(), next: None, asked: at, step: PIECE_MIN }
    }

    /// Where the next byte is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// What is in hand: something, unless all was taken.
    pub(super) fn bytes(&mut self) -> Result<&[u8]> {
        if self.piece.is_empty() && self.at < self.source.len {
            self.piece = self.fetch()?;
        }
        Ok(&self.piece)
    }

    /// Whether the bytes in hand are the last ones.
    pub(super) fn is_last(&self) -> bool {
        self.at + self.piece.len() as u64 >= self.source.len
    }

    /// So many of them are used.
    pub(super) fn take(&mut self, len: usize) {
        self.piece.advance(len.min(self.piece.len()));
        self.at += len as u64;
    }

    /// Nobody will go on soon: no memory is kept for it.
    pub(super) fn rest(&mut self) {
        *self = Feed::new(self.source.clone(), self.at);
    }

    fn fetch(&mut self) -> Result<Bytes> {
        let piece = match self.next.take() {
            Some(next) => self.source.runtime.block_on(next).map_err(|_| {
                Error::new(Kind::Interrupted, format!("read {}: the program is ending", self.source.name))
            })?,
            None => {
                let range = self.ask();
                self.source.runtime.block_on(self.source.store.get(&self.source.name, range))
            }
        }?;
        if self.asked < self.source.len {
            let (source, range) = (self.source.clone(), self.ask());
            // A directory is read in a way that blocks.
            let runtime = source.runtime.clone();
            self.next = Some(
                self.source
                    .runtime
                    .spawn_blocking(move || runtime.block_on(source.store.get(&source.name, range))),
            );
        }
        Ok(piece)
    }

    /// What to ask for next.
    fn ask(&mut self) -> std::ops::Range<u64> {
        let start = self.asked;
        self.asked = start.saturating_add(self.step).min(self.source.len);
        self.step = (self.step * 2).min(PIECE_MAX);
        start..self.asked
    }
}
