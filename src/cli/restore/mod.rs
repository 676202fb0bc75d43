//! `restore`: an image onto a target, a share into a directory.

mod image;
mod tree;

use super::args::Restore;
use super::context::Context;
use crate::error::Result;
use crate::format::record::Content;
use crate::image::tree::Tree;

pub(super) fn run(context: &Context, args: &Restore) -> Result<u8> {
    let library = context.library()?;
    let (record, item) = context.item(&*library, &args.backup)?;
    match item.content {
        Content::Image { size, root, .. } => {
            let image = library.open(record.repository, record.id, &root, size);
            image::run(context, args, &record, &item, &image)
        }
        Content::Tree { root, .. } => {
            let tree = Tree::new(library.engine().of_home(record.repository), root);
            tree::run(context, args, &record, &item, &tree)
        }
    }
}
