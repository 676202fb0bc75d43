//! What is taken over from the parent, unread: what nobody touched since, as far as it can be relied on.
//!
//! Nothing that a check found damaged, or whose pack is gone, is handed down; it is read again, which heals it.

use super::reading::{Subject, entry_of};
use super::relied::Relied;
use super::walk::Walk;
use crate::format::tree::{Content, Entry, Sighting};
use crate::image::tree::Seen;
use crate::source::directory::Type;

impl Walk<'_> {
    /// What the parent has of something that nobody touched since, if all of it may be relied on.
    pub(super) fn untouched(&self, subject: &Subject, before: &Seen) -> Option<(Entry, Sighting)> {
        let (there, look) = (before.member.entry(), &subject.look);
        let same = before.sighting.spot == Some(look.spot())
            && there.mtime == look.mtime
            && !there.changed
            && kind_of(&there.content) == look.kind
            && (look.kind != Type::File || there.size() == look.size);
        if !same {
            return None;
        }
        let relied = Relied(self.plan.known);
        let content = relied.content(&there.content)?;
        let attributes = relied.attributes(&there.attributes)?;
        let (mut entry, sighting) = entry_of(subject, self.shop, content);
        entry.attributes = attributes;
        Some((entry, sighting))
    }
}

fn kind_of(content: &Content) -> Type {
    match content {
        Content::Directory(_) => Type::Directory,
        Content::File(_) => Type::File,
        Content::Symlink(_) => Type::Symlink,
        Content::Fifo => Type::Fifo,
        Content::Socket => Type::Socket,
        Content::CharDevice { .. } => Type::CharDevice,
        Content::BlockDevice { .. } => Type::BlockDevice,
    }
}
