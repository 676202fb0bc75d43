//! A backup that lies elsewhere becomes one of ours: its images as sources, and what its record keeps.
//!
//! image -> pieces, in order -> [`run`](super::run) as for any source -> the record, with what the original says that only it can know
//!
//! A thread of its own, started when the first piece is asked for, streams the image, which opens chunks on all cores, so that whoever stores never waits for one read at a time. What is known
//! to be as in the parent is not read at all.

use crate::error::{Context, Error, Kind, Result};
use crate::format::record::{Content, Item, Record};
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
    /// What is to be streamed, until somebody asks for it: of the items of a backup one is streamed at a time.
    waiting: Option<Waiting>,
    pieces: Receiver<Result<Streamed>>,
    /// What the reader stands in, and where that began.
    here: Option<(u64, Streamed)>,
}

struct Waiting {
    image: Image,
    same: Vec<Range<u64>>,
    cancel: Cancel,
    to: Sender<Result<Streamed>>,
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
    pub fn new(image: Image, facts: Facts, same: Vec<Range<u64>>, cancel: Cancel) -> ImageSource {
        let facts = Facts { size: Some(image.len()), ..facts };
        let (to, pieces) = bounded(AHEAD);
        ImageSource { facts, waiting: Some(Waiting { image, same, cancel, to }), pieces, here: None }
    }

    fn begin(&mut self) -> Result<()> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let thread = std::thread::Builder::new().name("copy".into());
        let streaming = thread.spawn(move || {
            let Waiting { image, same, cancel, to } = waiting;
            let done = stream(&image, &same, &cancel, &to);
            if let Err(error) = done {
                // If nobody listens any more, nobody asks why.
                let _unheard = to.send(Err(error));
            }
        });
        let _detached = streaming.context(|| "start the thread that reads a backup")?;
        Ok(())
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
        self.begin()?;
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

/// What lies before, between and behind these ranges, up to `len`: where ranges are what differs, it is what an [`ImageSource`] calls the same.
pub fn between(ranges: &[Range<u64>], len: u64) -> Vec<Range<u64>> {
    let mut at = 0;
    let mut gaps = Vec::new();
    for range in ranges.iter().cloned().chain(std::iter::once(len..len)) {
        let gap = at..range.start.min(len);
        if !gap.is_empty() {
            gaps.push(gap);
        }
        at = range.end.max(at);
    }
    gaps
}

/// Holds a copied item to what its original says of it.
pub(super) fn judge(original: &Record, copy: &Item) -> Result<()> {
    let Some(wanted) = original.items.iter().find(|item| item.name == copy.name) else { return Ok(()) };
    let name = &copy.name;
    let words = match (&wanted.content, &copy.content) {
        (Content::Image { size: wanted, .. }, Content::Image { size, .. }) if size != wanted => {
            format!("{name}: {size} bytes came of {wanted}")
        }
        (Content::Image { sha256: Some(wanted), .. }, Content::Image { sha256: Some(found), .. })
            if wanted != found =>
        {
            format!("{name}: its SHA-256 is {found}, and its record says {wanted}")
        }
        (
            Content::Tree { files: wanted_files, bytes: wanted_bytes, .. },
            Content::Tree { files, bytes, .. },
        ) if (files, bytes) != (wanted_files, wanted_bytes) => {
            format!("{name}: {files} files of {bytes} bytes came of {wanted_files} of {wanted_bytes}")
        }
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Corrupt, words)
        .hint("what was copied is not what was backed up; nothing was listed"))
}

/// Takes over what the original says and a copy of its bytes can't: which backup it is, when it was made, whose it is, and how reading the source went.
pub(super) fn take_over(original: &Record, copy: &mut Record) {
    (copy.id, copy.written) = (original.id, original.written);
    copy.project.clone_from(&original.project);
    copy.user.clone_from(&original.user);
    copy.group.clone_from(&original.group);
    copy.consistency.clone_from(&original.consistency);
    copy.protocol.clone_from(&original.protocol);
    copy.unread.clone_from(&original.unread);
    for item in &mut copy.items {
        let Some(before) = original.items.iter().find(|before| before.name == item.name) else { continue };
        item.changed_while_read = before.changed_while_read;
        if let (Content::Image { sha256: known, .. }, Content::Image { sha256, .. }) =
            (&before.content, &mut item.content)
        {
            *sha256 = sha256.take().or_else(|| known.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_changes_is_the_same() {
        assert_eq!(between(&[], 10), vec![0..10]);
        assert_eq!(between(&[0..2, 5..7], 10), [2..5, 7..10]);
        assert_eq!(between(&[4..20, 30..31], 10), vec![0..4]);
        assert_eq!(between(&[0..5, 5..10], 10), []);
    }
}
