//! `diff`: what differs between two images, or between two shares.

mod image;
mod tree;

use super::args::Diff;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::format::record::Content;
use crate::image::tree::Tree;
use crate::image::{Image, Library};

/// What a reference means, opened.
enum Side {
    Image(Image),
    Share(Tree),
}

pub(super) fn run(context: &Context, args: &Diff) -> Result<u8> {
    let library = context.library()?;
    match (side(context, &*library, &args.a)?, side(context, &*library, &args.b)?) {
        (Side::Image(a), Side::Image(b)) => image::run(context, &a, &b),
        (Side::Share(a), Side::Share(b)) => tree::run(context, &a, &b),
        _ => {
            let words = format!("one of {} and {} is an image and the other a share", args.a, args.b);
            Err(Error::new(Kind::Usage, words))
        }
    }
}

fn side(context: &Context, library: &dyn Library, text: &str) -> Result<Side> {
    let (record, item) = context.item(library, text)?;
    Ok(match item.content {
        Content::Image { size, root, .. } => {
            Side::Image(library.open(record.repository, record.id, &root, size))
        }
        Content::Tree { root, .. } => {
            Side::Share(Tree::new(library.engine().of_home(record.repository), root))
        }
    })
}
