//! Who reads an image in order: several at once, whichever connections they use.
//!
//! A copier with four connections reads at four places that lie far apart, and the requests of one place come by one connection or by
//! any. So what is told apart is places: a read belongs to the stream that it continues, or begins another one and lets the one be
//! forgotten that was idle for longest.

use crate::image::{Ahead, Image};
use std::sync::{Mutex, PoisonError};

/// So many are told apart.
const STREAMS_MAX: usize = 16;
/// A read that begins so near to where a stream has come to belongs to it.
const NEAR: u64 = 4 << 20;

/// The streams of one image.
#[derive(Default)]
pub(super) struct Streams(Mutex<Vec<Stream>>);

#[derive(Default)]
struct Stream {
    next: u64,
    ahead: Ahead,
}

impl Streams {
    /// A read was asked for: has what will come fetched, if it belongs to a stream. Never waits.
    pub(super) fn note(&self, image: &Image, offset: u64, len: u64) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place(&mut streams, offset, len).ahead.note(image, offset, len);
    }
}

/// The stream of a read, as the last of them.
fn place(streams: &mut Vec<Stream>, offset: u64, len: u64) -> &mut Stream {
    let nearest = streams
        .iter()
        .enumerate()
        .map(|(number, stream)| (stream.next.abs_diff(offset), number))
        .filter(|(distance, _)| *distance <= NEAR)
        .min();
    let mut stream = match nearest {
        Some((_, number)) => streams.remove(number),
        None if streams.len() == STREAMS_MAX => {
            let _forgotten = streams.remove(0);
            Stream::default()
        }
        None => Stream::default(),
    };
    stream.next = stream.next.max(offset.saturating_add(len));
    if nearest.is_none() {
        stream.next = offset.saturating_add(len);
    }
    streams.push(stream);
    let last = streams.len() - 1;
    &mut streams[last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_readers_far_apart_are_four_streams() {
        let mut streams = Vec::new();
        for step in 0..64u64 {
            for reader in 0..4u64 {
                let at = reader * (128 << 20) + step * (256 << 10);
                assert_eq!(place(&mut streams, at, 256 << 10).next, at + (256 << 10));
            }
        }
        assert_eq!(streams.len(), 4);
    }

    #[test]
    fn random_reads_push_out_each_other_and_not_who_goes_on() {
        let mut streams = Vec::new();
        for step in 0..1000u64 {
            let (at, noise) = (step * (256 << 10), (1 << 40) + step * (64 << 20));
            assert_eq!(place(&mut streams, noise, 4096).next, noise + 4096);
            assert_eq!(place(&mut streams, at, 256 << 10).next, at + (256 << 10));
            assert!(streams.len() <= STREAMS_MAX);
        }
        assert!(streams.iter().any(|stream| stream.next == 1000 * (256 << 10)));
    }
}
