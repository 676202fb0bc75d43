//! `cat`: bytes to standard output.

use super::args::Cat;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::format::record::Content;
use crate::image::bulk::{Ordered, stream_in_order};
use crate::image::tree::Tree;
use crate::image::{Image, Part};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// A small file is read in steps of so many bytes.
const STEP: u64 = 1 << 20;
static ZEROS: [u8; 1 << 18] = [0; 1 << 18];

pub(super) fn run(context: &Context, args: &Cat) -> Result<u8> {
    let library = context.library()?;
    let (record, item) = context.item(&*library, &args.backup)?;
    match (item.content, args.path.as_deref()) {
        (Content::Tree { root, .. }, Some(path)) => {
            let tree = Tree::new(library.engine().of_home(record.repository), root);
            file(context, args, &tree, path)
        }
        (Content::Image { size, root, .. }, None) => {
            let image = library.open(record.repository, record.id, &root, size);
            let range = range(args, image.len(), "image")?;
            write_image(context, &image, range)
        }
        (Content::Tree { .. }, None) => {
            let words = format!("{} is a tree of files", args.backup);
            Err(Error::new(Kind::Usage, words).hint("name the file in it: afterimage cat BACKUP PATH"))
        }
        (Content::Image { .. }, Some(_)) => {
            let words = format!("{} is an image; files inside of images can't be named yet", args.backup);
            Err(Error::new(Kind::Unsupported, words).hint("leave the path out: afterimage cat BACKUP"))
        }
    }
}

fn file(context: &Context, args: &Cat, tree: &Tree, path: &OsStr) -> Result<u8> {
    let member = context.runtime().block_on(tree.find(path.as_bytes()))?;
    let missing = || Error::new(Kind::Missing, format!("{} has no {}", args.backup, path.display()));
    let Some(file) = member.ok_or_else(missing)?.file() else {
        return Err(Error::new(Kind::Usage, format!("{} is no regular file", path.display())));
    };
    let range = range(args, file.len(), "file")?;
    if let Some(image) = file.image() {
        return write_image(context, image, range);
    }
    let mut out = standard_output()?;
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(STEP);
        for part in context.runtime().block_on(file.read_aside(at, len as usize))? {
            let written = match part {
                Part::Bytes(bytes) => out.write_all(&bytes),
                Part::Zeros(len) => write_zeros(&mut out, len, &context.cancel)?,
            };
            written.map_err(no_output)?;
        }
        at += len;
    }
    Ok(0)
}

fn range(args: &Cat, len: u64, what: &str) -> Result<Range<u64>> {
    let start = args.offset;
    let end = args.length.map_or(len, |length| start.saturating_add(length));
    if start > len || end > len {
        let words = format!("the {what} has {len} bytes; there are none from {start} to {end}");
        return Err(Error::new(Kind::Usage, words));
    }
    Ok(start..end)
}

fn write_image(context: &Context, image: &Image, range: Range<u64>) -> Result<u8> {
    let mut out = standard_output()?;
    stream_in_order(image, range, &context.cancel, &mut |piece| {
        let written = match piece {
            Ordered::Bytes(bytes) => out.write_all(bytes),
            Ordered::Zeros(len) => write_zeros(&mut out, len, &context.cancel)?,
        };
        written.map_err(no_output)
    })?;
    Ok(0)
}

/// Past the standard library's line buffer: what comes is large already.
fn standard_output() -> Result<File> {
    std::io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(no_output)
}

fn no_output(error: std::io::Error) -> Error {
    Error::io("write to standard output", error)
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
