//! `diff`: what differs between two images, or between two shares.

mod image;
mod tree;

use super::args::Diff;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Content, Item};
use crate::image::tree::Tree;
use crate::image::{Engine, Image, Map};
use std::sync::Arc;

pub(super) fn run(context: &Context, args: &Diff) -> Result<u8> {
    let engine = context.engine()?;
    let (_, a) = context.item(&engine, &args.a)?;
    let (_, b) = context.item(&engine, &args.b)?;
    match (as_image(&engine, &a), as_image(&engine, &b), Tree::of(&engine, &a), Tree::of(&engine, &b)) {
        (Some(a), Some(b), ..) => image::run(context, &a, &b),
        (.., Some(a), Some(b)) => tree::run(context, &a, &b),
        _ => {
            let words = format!("one of {} and {} is an image and the other a share", args.a, args.b);
            Err(Error::new(Kind::Usage, words))
        }
    }
}

fn as_image(engine: &Arc<Engine>, item: &Item) -> Option<Image> {
    match item.content {
        Content::Image { size, root, .. } => Some(Image::new(Arc::clone(engine), Map { root, len: size })),
        Content::Tree { .. } => None,
    }
}
