//! Zstandard. A frame is entered at its start only: it reaches back by megabytes, and no decoder tells its tables. What was decoded stays in the
//! cache, and a decoder that stands before what is wanted goes on.

use super::feed::Feed;
use crate::error::{Error, Kind, Result};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

/// The most memory that a frame may ask for, as a power of two. Cinder's level needs two megabytes.
const WINDOW_LOG_MAX: u32 = 23;

/// A decoder of one object.
pub(super) struct Unzstd {
    decoder: Decoder<'static>,
    at: u64,
    /// Between frames: the object may end here.
    between: bool,
}

impl Unzstd {
    pub(super) fn new() -> Result<Unzstd> {
        let cause = |error| Error::io("make a zstd decoder", error);
        let mut decoder = Decoder::new().map_err(cause)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(cause)?;
        Ok(Unzstd { decoder, at: 0, between: true })
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn read(&mut self, feed: &mut Feed, into: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            let input = feed.bytes()?;
            if input.is_empty() && self.between {
                break;
            }
            let is_over = input.is_empty();
            let mut input = InBuffer::around(input);
            let mut output = OutBuffer::around(&mut into[filled..]);
            let left = self.decoder.run(&mut input, &mut output).map_err(|error| {
                Error::new(Kind::Corrupt, "its zstd frame does not decompress").caused_by(error)
            })?;
            let (used, made) = (input.pos(), output.pos());
            feed.take(used);
            filled += made;
            self.at += made as u64;
            self.between = left == 0;
            if is_over && made == 0 && !self.between {
                return Err(Error::new(Kind::Corrupt, "its zstd frame ends in its middle"));
            }
        }
        Ok(filled)
    }

    pub(super) fn is_at_end(&mut self, feed: &mut Feed) -> Result<bool> {
        Ok(self.read(feed, &mut [0])? == 0)
    }
}
