//! An earlier backup that lies on both sides, walked through beside the one that is copied: what is equal there need not be read, because it lies
//! here already.
//!
//! Both directories of it are gone through forward only, in the order of the names that are asked for, and no node is opened in vain.

use super::super::relied::{Relied, are_here};
use crate::error::Result;
use crate::format::ChunkId;
use crate::format::node::Child;
use crate::format::tree::{Attributes, Content, FileContent};
use crate::image::tree::{Closed, Cursor, Seen, content_key, same_attributes};

/// An entry of the earlier backup, as it is there and as it is here.
pub(super) struct Pair {
    pub(super) there: Seen,
    pub(super) here: Seen,
}

/// A directory of the earlier backup.
pub(super) struct Earlier {
    pair: Pair,
    there: Cursor,
    here: Cursor,
}

/// An entry that is to be copied, and what lies here already of it.
pub(super) struct Row {
    pub(super) seen: Seen,
    pub(super) pair: Option<Pair>,
    /// What is in it, and the sightings beside that.
    pub(super) content: Option<(Content, Option<Child>)>,
    pub(super) attributes: Option<Attributes>,
}

impl Earlier {
    /// What an entry holds, if it is a directory that is not empty on either side.
    pub(super) fn of(pair: Pair) -> Result<Option<Earlier>> {
        let (there, here) = (pair.there.cursor()?, pair.here.cursor()?);
        Ok(there.zip(here).map(|(there, here)| Earlier { pair, there, here }))
    }

    /// The node here that holds what this one holds, if there was such a one in the earlier backup.
    pub(super) async fn node(&mut self, node: &Closed) -> Result<Option<Closed>> {
        let (first, level) = (node.first(), node.says().level);
        let there = self.there.seek(first, level).await?;
        let same = |there: &Closed| there.id() == node.id() && same_id(there.beside(), node.beside());
        if !there.is_some_and(|there| same(&there)) {
            return Ok(None);
        }
        let wanted = (node.says().rows, node.says().totals);
        let here = self.here.seek(first, level).await?;
        Ok(here.filter(|here| (here.says().rows, here.says().totals) == wanted))
    }

    /// What it had under the name of an entry; or of a file or directory that has another name now, if it stood nearby.
    pub(super) async fn find(&mut self, row: &Seen) -> Result<Option<Pair>> {
        let name = row.member.name();
        if let Some(there) = self.there.find(name).await? {
            return Ok(self.here.find(name).await?.map(|here| Pair { there, here }));
        }
        let Some(spot) = row.sighting.spot else { return Ok(None) };
        let Some(there) = self.there.near(spot.inode) else { return Ok(None) };
        let Some(mut dir) = self.pair.here.dir()? else { return Ok(None) };
        Ok(dir.find(there.member.name()).await?.map(|here| Pair { there, here }))
    }
}

impl Row {
    /// Looks for what lies here already. What needs no chunk always does.
    pub(super) fn new(seen: Seen, pair: Option<Pair>, relied: Relied<'_>) -> Row {
        let content = content(&seen, pair.as_ref(), relied);
        let attributes = attributes(&seen, pair.as_ref(), relied);
        Row { seen, pair, content, attributes }
    }

    /// Whether an earlier backup can be of any use for an entry.
    pub(super) fn needs_more(seen: &Seen) -> bool {
        let entry = seen.member.entry();
        !is_here(&entry.content) || !needs_nothing(&entry.attributes)
    }

    /// Whether nothing of it is missing here.
    pub(super) fn is_complete(&self) -> bool {
        self.content.is_some() && self.attributes.is_some()
    }
}

fn same_id(a: Option<Child>, b: Option<Child>) -> bool {
    let id = |child: Child| -> ChunkId { child.id };
    a.map(id) == b.map(id)
}

/// Whether what is in an entry lies in the entry itself.
fn is_here(content: &Content) -> bool {
    !matches!(
        content,
        Content::Directory(Some(_)) | Content::File(FileContent::Chunk { .. } | FileContent::Map { .. })
    )
}

fn needs_nothing(attributes: &Attributes) -> bool {
    match attributes {
        Attributes::None => true,
        Attributes::Here(set) => are_here(set),
        Attributes::Node(_) => false,
    }
}

fn content(seen: &Seen, pair: Option<&Pair>, relied: Relied<'_>) -> Option<(Content, Option<Child>)> {
    let new = &seen.member.entry().content;
    if is_here(new) {
        return Some((new.clone(), None));
    }
    let Pair { there, here } = pair?;
    let ours = &here.member.entry().content;
    if content_key(new) != content_key(&there.member.entry().content) {
        return None;
    }
    match (new, ours) {
        (Content::File(new), Content::File(file)) if new.len() == file.len() => {
            Some((relied.content(ours)?, None))
        }
        (Content::Directory(Some(new)), Content::Directory(Some(below))) => {
            // What was seen since may differ though nothing in it does.
            let same = (new.rows, new.totals) == (below.rows, below.totals)
                && same_id(seen.sighting.below, there.sighting.below);
            let beside = here.sighting.below.filter(|_| same)?;
            Some((relied.content(ours)?, Some(relied.whole(&beside)?)))
        }
        _ => None,
    }
}

fn attributes(seen: &Seen, pair: Option<&Pair>, relied: Relied<'_>) -> Option<Attributes> {
    let new = &seen.member.entry().attributes;
    if needs_nothing(new) {
        return Some(new.clone());
    }
    let Pair { there, here } = pair?;
    match same_attributes(new, &there.member.entry().attributes) {
        true => relied.attributes(&here.member.entry().attributes),
        false => None,
    }
}
