//! `restore`: an image onto a target, a share into a directory.

mod image;
mod tree;

use super::args::Restore;
use super::context::Context;
use crate::error::Result;
use crate::format::record::Content;
use crate::image::tree::Tree;
use crate::image::{Image, Map};
use std::sync::Arc;

pub(super) fn run(context: &Context, args: &Restore) -> Result<u8> {
    let engine = context.engine()?;
    let (record, item) = context.item(&engine, &args.backup)?;
    match item.content {
        Content::Image { size, root, .. } => {
            let image = Image::new(Arc::clone(&engine), Map { root, len: size });
            image::run(context, args, &record, &item, &image)
        }
        Content::Tree { root, .. } => {
            let tree = Tree::new(Arc::clone(&engine), root);
            tree::run(context, args, &record, &item, &tree)
        }
    }
}
