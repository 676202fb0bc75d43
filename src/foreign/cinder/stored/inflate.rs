//! Inflating, and the places from which it can be gone on with.
//!
//! A deflate stream can be entered where a block begins: with the 32 KiB before it, and the bit at which it begins. The decoder stops at each block
//! but says only up to which byte it has read. Which bit of that byte it is, is found out by trying: of the eight there are, one leads to what the
//! stream itself goes on with. Where that does not tell, the place is passed over for the next one.

use super::SPAN;
use super::feed::Feed;
use super::lead_in;
use super::points::Point;
use crate::error::{Error, Kind, Result};
use zlib_rs::{Inflate, InflateFlush, Status};

/// How far back a stream may reach.
const WINDOW: usize = 32 << 10;
/// How many plain bytes a place has to lead to before it is believed.
const PROOF: usize = 1 << 10;
/// How many stored bytes are tried: more than as many plain ones can take.
const SAMPLE: usize = 4 << 10;

/// A decoder of one stream.
pub(super) struct Inflater {
    inflate: Inflate,
    /// Plain bytes given so far, from the start of the object on.
    at: u64,
    /// The last of them, as far as a stream may reach back.
    tail: Vec<u8>,
    /// From where on a place would be welcome, and how far they lie apart.
    due: u64,
    span: u64,
    trying: Option<Trying>,
    ended: bool,
}

/// A block that began, and what it turned out to hold.
struct Trying {
    out: u64,
    at: u64,
    window: Vec<u8>,
    /// Stored bytes from the one on in which it begins.
    sample: Vec<u8>,
    proof: Vec<u8>,
}

impl Inflater {
    /// At the start of an object.
    pub(super) fn new() -> Inflater {
        let (inflate, tail) = (Inflate::new(true, 15), Vec::with_capacity(WINDOW));
        Inflater { inflate, at: 0, tail, due: SPAN, span: SPAN, trying: None, ended: false }
    }

    /// At a place that was saved.
    pub(super) fn resume(point: &Point) -> Result<Inflater> {
        let inflate =
            enter(&point.window, point.byte, point.unused).ok_or_else(|| broken("can't be entered"))?;
        let (at, due, tail) = (point.out, point.out + SPAN, point.window.clone());
        Ok(Inflater { inflate, at, tail, due, span: SPAN, trying: None, ended: false })
    }

    /// The same with places that lie closer together.
    #[cfg(test)]
    pub(super) fn with_span(self, span: u64) -> Inflater {
        Inflater { due: self.at + span, span, ..self }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `into` as far as the stream goes; `save` is given places to begin at.
    pub(super) fn read(
        &mut self,
        feed: &mut Feed,
        into: &mut [u8],
        save: &mut dyn FnMut(Point),
    ) -> Result<usize> {
        let mut filled = 0;
        while filled < into.len() && !self.ended {
            let (used_before, made_before) = (self.inflate.total_in(), self.inflate.total_out());
            let input = feed.bytes()?;
            let status = self.inflate.decompress(input, &mut into[filled..], InflateFlush::Block);
            let used = (self.inflate.total_in() - used_before) as usize;
            let made = (self.inflate.total_out() - made_before) as usize;
            let (all_used, first) = (used >= input.len(), input.get(used.wrapping_sub(1)).copied());
            feed.take(used);
            self.prove(&into[filled..filled + made], save);
            filled += made;
            self.at += made as u64;
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(_) if used == 0 && made == 0 => {
                    // It wants more than there is.
                    if feed.bytes()?.is_empty() {
                        return Err(broken("ends in its middle"));
                    }
                    if !all_used {
                        return Err(broken("does not go on"));
                    }
                }
                // It stopped though it had bytes to read and room to write: a block begins.
                Ok(_) if !all_used && filled < into.len() => self.try_here(feed, first, &into[..filled])?,
                Ok(_) => {}
                Err(_) => return Err(broken("does not inflate")),
            }
        }
        self.keep_tail(&into[..filled]);
        Ok(filled)
    }

    /// Whether the stream has ended where it stands.
    pub(super) fn is_at_end(&mut self, feed: &mut Feed) -> Result<bool> {
        let mut more = [0];
        Ok(self.ended || self.read(feed, &mut more, &mut |_| {})? == 0)
    }

    /// A block begins here, with bits of the byte `first` perhaps: remembers all that is needed to find out.
    fn try_here(&mut self, feed: &mut Feed, first: Option<u8>, new: &[u8]) -> Result<()> {
        if self.at < self.due || self.trying.is_some() {
            return Ok(());
        }
        let (at, is_last) = (feed.at(), feed.is_last());
        let rest = feed.bytes()?;
        let Some(first) = first.filter(|_| rest.len() >= SAMPLE || is_last) else { return Ok(()) };
        let sample = [&[first][..], &rest[..rest.len().min(SAMPLE)]].concat();
        let window = last_of(&self.tail, new);
        self.trying = Some(Trying { out: self.at, at, window, sample, proof: Vec::with_capacity(PROOF) });
        Ok(())
    }

    fn prove(&mut self, new: &[u8], save: &mut dyn FnMut(Point)) {
        let Some(trying) = &mut self.trying else { return };
        let wanted = (PROOF - trying.proof.len()).min(new.len());
        trying.proof.extend(&new[..wanted]);
        if trying.proof.len() < PROOF {
            return;
        }
        let unused = trying.unused();
        let Some(Trying { out, at, window, sample, .. }) = self.trying.take() else { return };
        if let Some(unused) = unused {
            self.due = out + self.span;
            save(Point { out, at, unused, byte: sample[0], window });
        }
    }

    fn keep_tail(&mut self, new: &[u8]) {
        if new.len() >= WINDOW {
            self.tail.clear();
            self.tail.extend(&new[new.len() - WINDOW..]);
        } else if !new.is_empty() {
            self.tail = last_of(&self.tail, new);
        }
    }
}

impl Trying {
    /// How many bits of the first byte belong to the block, if that can be told.
    fn unused(&self) -> Option<u8> {
        let fits: Vec<u8> = (0..8).filter(|unused| self.leads_on(*unused)).collect();
        match fits.as_slice() {
            [only] => Some(*only),
            // Blocks that are stored as they are begin anew at a byte: where all agree which one, any will do.
            [first, rest @ ..]
                if rest.iter().all(|other| self.stored_at(*other) == self.stored_at(*first)) =>
            {
                self.stored_at(*first).map(|_| *first)
            }
            _ => None,
        }
    }

    fn leads_on(&self, unused: u8) -> bool {
        let Some(mut inflate) = enter(&self.window, self.sample[0], unused) else { return false };
        let mut out = [0; PROOF];
        let made_before = inflate.total_out();
        let _status = inflate.decompress(&self.sample[1..], &mut out, InflateFlush::NoFlush);
        inflate.total_out() - made_before == PROOF as u64 && out[..] == self.proof[..]
    }

    /// At which byte of the sample the bytes of a stored block begin, if it is one.
    fn stored_at(&self, unused: u8) -> Option<usize> {
        let next = self.sample.get(1).copied().unwrap_or_default();
        let bits = u16::from_le_bytes([self.sample[0], next]) >> (8 - unused);
        (bits >> 1 & 0b11 == 0).then_some(if unused >= 3 { 1 } else { 2 })
    }
}

/// A decoder that stands before the highest `unused` bits of `byte`, behind the bytes of `window`.
fn enter(window: &[u8], byte: u8, unused: u8) -> Option<Inflate> {
    let mut inflate = Inflate::new(false, 15);
    if !window.is_empty() {
        let _adler = inflate.set_dictionary(window).ok()?;
    }
    if unused > 0 {
        let lead_in = lead_in::before(byte, unused);
        let mut used = 0;
        while used < lead_in.len() {
            let before = inflate.total_in();
            // What is left of the byte may be a whole block, even with something in it: none that is entered so is believed.
            let status = inflate.decompress(&lead_in[used..], &mut [], InflateFlush::NoFlush).ok()?;
            let step = (inflate.total_in() - before) as usize;
            if step == 0 || status == Status::StreamEnd {
                return None;
            }
            used += step;
        }
    }
    Some(inflate)
}

/// The last bytes of two runs, as far as a stream may reach back.
fn last_of(old: &[u8], new: &[u8]) -> Vec<u8> {
    let from_new = &new[new.len() - new.len().min(WINDOW)..];
    let room = WINDOW - from_new.len();
    let from_old = &old[old.len() - old.len().min(room)..];
    [from_old, from_new].concat()
}

fn broken(how: &str) -> Error {
    Error::new(Kind::Corrupt, format!("its zlib stream {how}"))
}
