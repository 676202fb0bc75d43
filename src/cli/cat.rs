//! `cat`: bytes to standard output.

use super::args::Cat;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::image::bulk::{Ordered, stream_in_order};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

static ZEROS: [u8; 1 << 18] = [0; 1 << 18];

pub(super) fn run(context: &Context, args: &Cat) -> Result<u8> {
    let library = context.library()?;
    let (_, _, image) = context.image(&*library, &args.backup)?;
    let start = args.offset;
    let end = args.length.map_or(image.len(), |length| start.saturating_add(length));
    if start > image.len() || end > image.len() {
        let words = format!("the image has {} bytes; there are none from {start} to {end}", image.len());
        return Err(Error::new(Kind::Usage, words));
    }
    // Past the standard library's line buffer: what comes is large already.
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(out.map_err(|error| Error::io("write to standard output", error))?);
    stream_in_order(&image, start..end, &context.cancel, &mut |piece| {
        let written = match piece {
            Ordered::Bytes(bytes) => out.write_all(bytes),
            Ordered::Zeros(len) => write_zeros(&mut out, len, &context.cancel)?,
        };
        written.map_err(|error| Error::io("write to standard output", error))
    })?;
    Ok(0)
}

fn write_zeros(out: &mut File, len: u64, cancel: &crate::progress::Cancel) -> Result<std::io::Result<()>> {
    let mut left = len;
    while left > 0 {
        cancel.check()?;
        let step = left.min(ZEROS.len() as u64) as usize;
        if let Err(error) = out.write_all(&ZEROS[..step]) {
            return Ok(Err(error));
        }
        left -= step as u64;
    }
    Ok(Ok(()))
}
