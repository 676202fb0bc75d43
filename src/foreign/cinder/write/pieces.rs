//! A range of an image in pieces of one MiB: each is worked on by some core, and taken in the order of its bytes.
//!
//! reader (opens chunks on all cores) -> pieces -> workers -> whoever takes them, in order, on the calling thread
//!
//! What is under way is bounded: a piece sets out only when there is room for it and what becomes of it.

use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::image::bulk::{Ordered, stream_in_order};
use crate::progress::Cancel;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a piece; the last of a range is shorter.
pub(super) const PIECE: usize = 1 << 20;
/// What reads of holes are made of.
static ZEROS: [u8; PIECE] = [0; PIECE];

/// A piece.
pub(super) struct Piece {
    /// Where it begins in the image.
    pub(super) offset: u64,
    len: usize,
    /// Nothing, when all of it is zero.
    bytes: Option<Vec<u8>>,
}

impl Piece {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(&ZEROS[..self.len])
    }

    /// Whether it is known to be all zero and as long as most are.
    pub(super) fn is_plain_zero(&self) -> bool {
        self.bytes.is_none() && self.len == PIECE
    }
}

/// Calls `work` for each piece on some core and `take` with what came of it, in order, on this thread.
pub(super) fn each<T: Send>(
    image: &Image,
    range: Range<u64>,
    cancel: &Cancel,
    work: &(dyn Fn(&Piece) -> Result<T> + Sync),
    take: &mut dyn FnMut(&Piece, T) -> Result<()>,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // A piece may be there twice: as it was read, and compressed.
    let affordable = usize::try_from(image.engine().memory() / 8).unwrap_or(usize::MAX) / (2 * PIECE);
    let window = (workers * 3).min(affordable).max(2);
    let (room_in, room_out) = bounded::<()>(window);
    let (pieces_in, pieces_out) = bounded::<(u64, Piece)>(window);
    let (done_in, done_out) = bounded::<(u64, Piece, Result<T>)>(window);
    for _ in 0..window {
        let _fits = room_in.send(());
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut cutter =
                Cutter { at: range.start, number: 0, room: room_out, to: pieces_in, piece: Vec::new() };
            stream_in_order(image, range, cancel, &mut |bytes| cutter.add(bytes))?;
            cutter.end()
        });
        for _ in 0..workers {
            let (from, to) = (pieces_out.clone(), done_in.clone());
            let _worker = scope.spawn(move || work_on(&from, &to, work));
        }
        drop((pieces_out, done_in));
        let taken = in_order(&done_out, &room_in, take);
        // Whoever still waits for room or to hand over sees that nobody takes any more.
        drop((done_out, room_in));
        let read = reader.join().unwrap_or_else(|_| Err(panicked()));
        // If taking failed, the reader only saw a channel end.
        taken?;
        read
    })
}

fn work_on<T>(
    from: &Receiver<(u64, Piece)>,
    to: &Sender<(u64, Piece, Result<T>)>,
    work: &(dyn Fn(&Piece) -> Result<T> + Sync),
) {
    for (number, piece) in from {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&piece)));
        if to.send((number, piece, done.unwrap_or_else(|_| Err(panicked())))).is_err() {
            return;
        }
    }
}

fn in_order<T>(
    from: &Receiver<(u64, Piece, Result<T>)>,
    room: &Sender<()>,
    take: &mut dyn FnMut(&Piece, T) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (number, piece, done) in from {
        let _none = early.insert(number, (piece, done?));
        while let Some((piece, done)) = early.remove(&next) {
            take(&piece, done)?;
            next += 1;
            let _nobody = room.send(());
        }
    }
    Ok(())
}

fn panicked() -> Error {
    Error::new(Kind::Unsupported, "a thread of the export ended in a panic: this is a bug")
}

/// Cuts what is streamed into pieces.
struct Cutter {
    at: u64,
    number: u64,
    room: Receiver<()>,
    to: Sender<(u64, Piece)>,
    /// What was streamed of the next piece.
    piece: Vec<u8>,
}

impl Cutter {
    fn add(&mut self, streamed: Ordered<'_>) -> Result<()> {
        match streamed {
            Ordered::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
                    self.piece.extend_from_slice(now);
                    bytes = later;
                    self.send_if_full()?;
                }
            }
            Ordered::Zeros(mut len) => {
                while len > 0 {
                    if self.piece.is_empty() && len >= PIECE as u64 {
                        self.send(None, PIECE)?;
                        len -= PIECE as u64;
                        continue;
                    }
                    // OK: no more than is left of a piece.
                    let now = len.min((PIECE - self.piece.len()) as u64) as usize;
                    self.piece.resize(self.piece.len() + now, 0);
                    len -= now as u64;
                    self.send_if_full()?;
                }
            }
        }
        Ok(())
    }

    fn send_if_full(&mut self) -> Result<()> {
        if self.piece.len() < PIECE { Ok(()) } else { self.end() }
    }

    /// Sends what there is of a piece.
    fn end(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.piece);
        let len = bytes.len();
        if len == 0 { Ok(()) } else { self.send(Some(bytes), len) }
    }

    fn send(&mut self, bytes: Option<Vec<u8>>, len: usize) -> Result<()> {
        let gone = || Error::new(Kind::Interrupted, "nobody takes the pieces any more");
        self.room.recv().map_err(|_| gone())?;
        let piece = Piece { offset: self.at, len, bytes };
        self.at += len as u64;
        self.number += 1;
        self.to.send((self.number - 1, piece)).map_err(|_| gone())
    }
}
