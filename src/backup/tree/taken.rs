//! What is taken over from the parent, unread: what nobody touched since, as far as it can be relied on.
//!
//! Nothing that a check found damaged, or whose pack is gone, is handed down; it is read again, which heals it.

use super::task::Subject;
use super::walk::Walk;
use super::worker::entry_of;
use crate::format::node::Child;
use crate::format::tree::{Attribute, Attributes, Content, Entry, FileContent, Sighting, Value};
use crate::image::tree::Seen;
use crate::source::directory::Type;
use std::sync::Arc;

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
        let content = self.content_relied_on(&there.content)?;
        let attributes = self.attributes_relied_on(&there.attributes)?;
        let (mut entry, sighting) = entry_of(subject, self.shop, content);
        entry.attributes = attributes;
        Some((entry, sighting))
    }

    fn content_relied_on(&self, content: &Content) -> Option<Content> {
        Some(match content {
            Content::File(FileContent::Chunk { len, child }) => {
                Content::File(FileContent::Chunk { len: *len, child: self.relied_on(child)? })
            }
            // Below a map nothing is looked at: only where nothing is known to be damaged.
            Content::File(FileContent::Map { len, data, level, child }) if self.plan.known.is_spotless() => {
                let child = self.relied_on(child)?;
                Content::File(FileContent::Map { len: *len, data: *data, level: *level, child })
            }
            Content::File(FileContent::Map { .. }) => return None,
            other => other.clone(),
        })
    }

    fn attributes_relied_on(&self, attributes: &Attributes) -> Option<Attributes> {
        Some(match attributes {
            Attributes::None => Attributes::None,
            Attributes::Here(set) if set.iter().all(|one| matches!(one.value, Value::Here(_))) => {
                Attributes::Here(Arc::clone(set))
            }
            Attributes::Here(set) => {
                let relied_on = |one: &Attribute| {
                    let value = match &one.value {
                        Value::Here(bytes) => Value::Here(bytes.clone()),
                        Value::Chunk { len, child } => {
                            Value::Chunk { len: *len, child: self.relied_on(child)? }
                        }
                    };
                    Some(Attribute { name: one.name.clone(), value })
                };
                Attributes::Here(set.iter().map(relied_on).collect::<Option<Vec<_>>>()?.into())
            }
            Attributes::Node(child) if self.plan.known.is_spotless() => {
                Attributes::Node(self.relied_on(child)?)
            }
            Attributes::Node(_) => return None,
        })
    }

    /// The child at a place that may be relied on: its own, or another copy's.
    fn relied_on(&self, child: &Child) -> Option<Child> {
        let known = self.plan.known;
        if known.holds(child.id, child.place) {
            return Some(*child);
        }
        known.find(child.id).map(|place| Child { place, ..*child })
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
