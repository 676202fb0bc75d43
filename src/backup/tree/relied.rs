//! What of an earlier backup may be handed down to a new one: what no check found damaged, and whose pack is there.

use crate::format::node::Child;
use crate::format::tree::{Attribute, Attributes, Content, Directory, FileContent, Value};
use crate::repo::known::Known;
use std::sync::Arc;

/// What a writer knows, asked whether something may be relied on.
#[derive(Clone, Copy)]
pub(super) struct Relied<'a>(pub(super) &'a Known);

impl Relied<'_> {
    pub(super) fn content(self, content: &Content) -> Option<Content> {
        Some(match content {
            Content::File(FileContent::Chunk { len, child }) => {
                Content::File(FileContent::Chunk { len: *len, child: self.child(child)? })
            }
            Content::File(FileContent::Map { len, data, level, child }) => {
                let child = self.whole(child)?;
                Content::File(FileContent::Map { len: *len, data: *data, level: *level, child })
            }
            Content::Directory(Some(below)) => {
                Content::Directory(Some(Directory { child: self.whole(&below.child)?, ..*below }))
            }
            other => other.clone(),
        })
    }

    pub(super) fn attributes(self, attributes: &Attributes) -> Option<Attributes> {
        Some(match attributes {
            Attributes::None => Attributes::None,
            Attributes::Here(set) if are_here(set) => Attributes::Here(Arc::clone(set)),
            Attributes::Here(set) => {
                let relied_on = |one: &Attribute| {
                    let value = match &one.value {
                        Value::Here(bytes) => Value::Here(bytes.clone()),
                        Value::Chunk { len, child } => Value::Chunk { len: *len, child: self.child(child)? },
                    };
                    Some(Attribute { name: one.name.clone(), value })
                };
                Attributes::Here(set.iter().map(relied_on).collect::<Option<Vec<_>>>()?.into())
            }
            Attributes::Node(child) => Attributes::Node(self.whole(child)?),
        })
    }

    /// The child at a place that may be relied on: its own, or another copy's.
    fn child(self, child: &Child) -> Option<Child> {
        let known = self.0;
        if known.holds(child.id, child.place) {
            return Some(*child);
        }
        known.find(child.id).map(|place| Child { place, ..*child })
    }

    /// The same for a node. Below it nothing is looked at: only where nothing is known to be damaged.
    pub(super) fn whole(self, child: &Child) -> Option<Child> {
        if self.0.is_spotless() { self.child(child) } else { None }
    }
}

/// Whether a set of extended attributes needs no chunk.
pub(super) fn are_here(set: &[Attribute]) -> bool {
    set.iter().all(|one| matches!(one.value, Value::Here(_)))
}
