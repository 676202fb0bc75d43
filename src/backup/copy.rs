//! An image as a source: a backup that lies elsewhere becomes one of ours.
//!
//! A thread of its own streams the image, which opens chunks on all cores, so that whoever stores never waits for one read at a time. What is known
//! to be as in the parent is not read at all.

use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::image::bulk::{Ordered, stream_in_order};
use crate::progress::Cancel;
use crate::source::{Facts, Piece, Source};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::ops::Range;

/// Pieces, of a MiB or so each, that are streamed and not yet taken.
const AHEAD: usize = 4;

/// An image that is copied.
pub struct ImageSource {
    facts: Facts,
    pieces: Receiver<Result<Streamed>>,
    /// What the reader stands in, and where that began.
    here: Option<(u64, Streamed)>,
}

/// What was streamed, in order.
enum Streamed {
    Bytes(Vec<u8>),
    Zeros(u64),
    Same(u64),
}

impl Streamed {
    fn len(&self) -> u64 {
        match self {
            Streamed::Bytes(bytes) => bytes.len() as u64,
            Streamed::Zeros(len) | Streamed::Same(len) => *len,
        }
    }
}

impl ImageSource {
    /// The image, of which these ranges (ascending, apart, inside of it) are as in the parent that the backup will have.
    pub fn new(image: Image, facts: Facts, same: Vec<Range<u64>>, cancel: Cancel) -> Result<ImageSource> {
        let facts = Facts { size: Some(image.len()), ..facts };
        let (send, pieces) = bounded(AHEAD);
        let thread = std::thread::Builder::new().name("copy".into());
        let streaming = thread.spawn(move || {
            let done = stream(&image, &same, &cancel, &send);
            if let Err(error) = done {
                // If nobody listens any more, nobody asks why.
                let _unheard = send.send(Err(error));
            }
        });
        let _detached = streaming.context(|| "start the thread that reads a backup")?;
        Ok(ImageSource { facts, pieces, here: None })
    }

    fn failed(&self, error: Error) -> Error {
        Err::<(), _>(error).context(|| format!("read {}", self.facts.name)).unwrap_err()
    }
}

fn stream(image: &Image, same: &[Range<u64>], cancel: &Cancel, to: &Sender<Result<Streamed>>) -> Result<()> {
    let gone = |_| Error::new(Kind::Interrupted, "nobody reads the copy any more");
    let mut at = 0;
    for range in same {
        read(image, at..range.start, cancel, to)?;
        to.send(Ok(Streamed::Same(range.end - range.start))).map_err(gone)?;
        at = range.end;
    }
    read(image, at..image.len(), cancel, to)
}

fn read(image: &Image, range: Range<u64>, cancel: &Cancel, to: &Sender<Result<Streamed>>) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    stream_in_order(image, range, cancel, &mut |piece| {
        let piece = match piece {
            Ordered::Bytes(bytes) => Streamed::Bytes(bytes.to_vec()),
            Ordered::Zeros(len) => Streamed::Zeros(len),
        };
        to.send(Ok(piece)).map_err(|_| Error::new(Kind::Interrupted, "nobody reads the copy any more"))
    })
}

impl Source for ImageSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        let ends = |(start, piece): &(u64, Streamed)| start + piece.len();
        if self.here.as_ref().is_none_or(|here| ends(here) <= at) {
            self.here = match self.pieces.recv() {
                Ok(piece) => Some((at, piece.map_err(|error| self.failed(error))?)),
                Err(_) if Some(at) == self.facts.size => return Ok(Piece::End),
                Err(_) => return Err(Error::new(Kind::Unsupported, "a copy ended early: this is a bug")),
            };
        }
        let Some((start, piece)) = &self.here else { return Ok(Piece::End) };
        let inside = at - start;
        Ok(match piece {
            Streamed::Zeros(len) => Piece::Hole(len - inside),
            Streamed::Same(len) => Piece::Same(len - inside),
            Streamed::Bytes(bytes) => {
                // OK: inside of a piece that lies in memory.
                let rest = &bytes[inside as usize..];
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Piece::Data(len)
            }
        })
    }

    fn finish(&mut self) -> Result<()> {
        Ok(()) // a backup does not change
    }
}
