//! Pieces that are compressed each by itself, on any core, and together make one stream of the kind that Cinder reads.
//!
//! ```text
//! zlib   78 9c, each piece deflated up to a byte boundary, an empty last block, the Adler-32 of all
//! zstd   one frame that says how long its content is: made as a whole, by the library's own threads
//! none   the bytes
//! ```

use super::folder::Out;
use crate::error::{Context, Error, Kind, Result};
use crate::foreign::cinder::document::metadata::Compression;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use zlib_rs::{Deflate, DeflateFlush};

/// Cinder's own level of zlib, and that of its zstd.
const ZLIB_LEVEL: i32 = 6;
const WINDOW_BITS: u8 = 15;
/// More than a piece ever grows by.
const ROOM: usize = 1024;
const ZSTD_LEVEL: i32 = 3;
const ZLIB_HEADER: [u8; 2] = [0x78, 0x9c];
/// A last block of fixed codes with nothing in it.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];
const ADLER_MOD: u32 = 65_521;
/// So many bytes can be summed up before the sums leave 32 bits.
const ADLER_RUN: usize = 5552;

/// What a piece became.
pub(super) struct Encoded {
    /// Nothing, where the piece goes as it is into what is made as a whole.
    bytes: Option<Arc<Vec<u8>>>,
    adler: Adler,
}

/// Compresses one piece.
pub(super) fn piece(compression: Compression, bytes: &[u8], is_plain_zero: bool) -> Result<Encoded> {
    static ZEROS: OnceLock<Encoded> = OnceLock::new();
    if !is_zlib(compression) {
        return Ok(Encoded { bytes: None, adler: Adler::default() });
    }
    if !is_plain_zero {
        return deflated(bytes);
    }
    match ZEROS.get() {
        Some(Encoded { bytes, adler }) => Ok(Encoded { bytes: bytes.clone(), adler: *adler }),
        None => {
            let encoded = deflated(bytes)?;
            let _same = ZEROS.set(Encoded { bytes: encoded.bytes.clone(), adler: encoded.adler });
            Ok(encoded)
        }
    }
}

fn is_zlib(compression: Compression) -> bool {
    matches!(compression, Compression::Zlib | Compression::Gzip)
}

fn deflated(bytes: &[u8]) -> Result<Encoded> {
    let mut deflate = Deflate::new(ZLIB_LEVEL, false, WINDOW_BITS);
    let mut out = vec![0; bytes.len() + bytes.len() / 1000 + ROOM];
    // All of it fits: deflate adds a few bytes to each block of what it can't make smaller.
    let done = deflate.compress(bytes, &mut out, DeflateFlush::SyncFlush);
    let len = usize::try_from(deflate.total_out()).unwrap_or(usize::MAX);
    if done.is_err() || deflate.total_in() != bytes.len() as u64 || len >= out.len() {
        return Err(Error::new(Kind::Unsupported, "deflate a piece: it did not end"));
    }
    out.truncate(len);
    out.shrink_to_fit();
    Ok(Encoded { bytes: Some(Arc::new(out)), adler: Adler::of(bytes) })
}

/// A stream that is put together.
pub(super) enum Stream<'a> {
    /// Pieces one behind the other.
    Joined { out: &'a mut Out, zlib: bool, adler: Adler },
    /// A frame.
    Frame(zstd::stream::write::Encoder<'static, &'a mut Out>),
}

impl<'a> Stream<'a> {
    /// Begins the stream of an object of `length` bytes.
    pub(super) fn begin(compression: Compression, length: u64, out: &'a mut Out) -> Result<Stream<'a>> {
        let what = || "begin an object";
        match compression {
            Compression::Zstd => {
                let mut frame = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).context(what)?;
                frame.set_pledged_src_size(Some(length)).context(what)?;
                frame.include_contentsize(true).context(what)?;
                let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
                // OK: nobody has 2^32 cores.
                frame.multithread(cores as u32).context(what)?;
                Ok(Stream::Frame(frame))
            }
            other => {
                let zlib = is_zlib(other);
                if zlib {
                    out.write_all(&ZLIB_HEADER).context(what)?;
                }
                Ok(Stream::Joined { out, zlib, adler: Adler::default() })
            }
        }
    }

    /// Adds the next piece.
    pub(super) fn add(&mut self, plain: &[u8], encoded: &Encoded) -> Result<()> {
        let written = match self {
            Stream::Frame(frame) => frame.write_all(plain),
            Stream::Joined { out, adler, .. } => {
                *adler = adler.then(encoded.adler);
                out.write_all(encoded.bytes.as_ref().map_or(plain, |bytes| bytes))
            }
        };
        written.context(|| "write an object")
    }

    /// Ends it; how long it is.
    pub(super) fn end(self) -> Result<u64> {
        let what = || "end an object";
        let out = match self {
            Stream::Frame(frame) => frame.finish().context(what)?,
            Stream::Joined { out, zlib, adler } => {
                if zlib {
                    out.write_all(&LAST_BLOCK).context(what)?;
                    out.write_all(&adler.value().to_be_bytes()).context(what)?;
                }
                out
            }
        };
        out.flush().context(what)?;
        Ok(out.len())
    }
}

/// Adler-32 of bytes that lie one behind the other, summed up apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adler {
    a: u32,
    b: u32,
    /// Modulo 65521: nothing more is needed of it.
    len: u32,
}

impl Default for Adler {
    fn default() -> Adler {
        Adler { a: 1, b: 0, len: 0 }
    }
}

impl Adler {
    fn of(bytes: &[u8]) -> Adler {
        let (mut a, mut b) = (1, 0);
        for run in bytes.chunks(ADLER_RUN) {
            for byte in run {
                a += u32::from(*byte);
                b += a;
            }
            (a, b) = (a % ADLER_MOD, b % ADLER_MOD);
        }
        // OK: less than 65521.
        Adler { a, b, len: (bytes.len() as u64 % u64::from(ADLER_MOD)) as u32 }
    }

    /// Of these bytes and those behind them.
    fn then(self, next: Adler) -> Adler {
        let m = u64::from(ADLER_MOD);
        let wide = |value: u32| u64::from(value);
        let a = (wide(self.a) + wide(next.a) + m - 1) % m;
        // The first sum stands at the beginning of the second one, and so counts once for each of its bytes; a 1 stood there before.
        let b = (wide(self.b) + wide(next.b) + wide(next.len) * (wide(self.a) + m - 1)) % m;
        let len = (wide(self.len) + wide(next.len)) % m;
        Adler { a: a as u32, b: b as u32, len: len as u32 }
    }

    fn value(self) -> u32 {
        (self.b << 16) | self.a
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_are_those_of_the_algorithm() {
        for (bytes, sum) in [(&b""[..], 1), (b"a", 0x0062_0062), (b"Wikipedia", 0x11e6_0398)] {
            assert_eq!(Adler::of(bytes).value(), sum);
        }
    }

    proptest! {
        #[test]
        fn what_is_summed_up_apart_is_the_sum_of_all(bytes in prop::collection::vec(any::<u8>(), 0..200_000), cut in any::<prop::sample::Index>()) {
            let (before, behind) = bytes.split_at(cut.index(bytes.len() + 1));
            let joined = Adler::default().then(Adler::of(before)).then(Adler::of(behind));
            prop_assert_eq!(joined.value(), Adler::of(&bytes).value());
        }

        #[test]
        fn deflated_pieces_inflate_as_one_stream(pieces in prop::collection::vec(prop::collection::vec(0u8..4, 0..40_000), 0..5)) {
            let (mut stream, mut adler) = (ZLIB_HEADER.to_vec(), Adler::default());
            for plain in &pieces {
                let encoded = deflated(plain).unwrap();
                adler = adler.then(encoded.adler);
                stream.extend_from_slice(&encoded.bytes.unwrap());
            }
            stream.extend_from_slice(&LAST_BLOCK);
            stream.extend_from_slice(&adler.value().to_be_bytes());
            let plain = pieces.concat();
            let mut out = vec![0; plain.len() + 1];
            let mut inflate = zlib_rs::Inflate::new(true, WINDOW_BITS);
            let done = inflate.decompress(&stream, &mut out, zlib_rs::InflateFlush::Finish);
            prop_assert_eq!(done, Ok(zlib_rs::Status::StreamEnd));
            prop_assert_eq!(inflate.total_in(), stream.len() as u64);
            out.truncate(plain.len());
            prop_assert!(inflate.total_out() == plain.len() as u64 && out == plain);
        }
    }
}
