//! Records and paths as people and scripts see them: the JSON of `list`, `show` and `backup`, and of `backup.json` in a mount.

use super::record::{Content, Item, Record, Stats, Writer};
use super::{ChunkId, RepositoryId};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A backup, as the contract of the command has it. Written as it is: lists are long.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    /// Its id, as those write it who made it.
    pub id: String,
    repository: RepositoryId,
    name: &'a str,
    kind: &'static str,
    time: Timestamp,
    written: Timestamp,
    /// The id of the backup that it was made after.
    pub parent: Option<String>,
    tags: &'a BTreeMap<String, String>,
    metadata: &'a Map<String, Value>,
    items: Vec<ShownItem<'a>>,
    project: &'a Option<String>,
    user: &'a Option<String>,
    group: &'a Option<String>,
    consistency: &'a Option<String>,
    protocol: &'a Option<String>,
    writer: &'a Writer,
    stats: &'a Stats,
    complete: bool,
    unread: &'a [String],
    /// Whose program made it.
    pub origin: &'static str,
}

#[derive(Debug, Serialize)]
struct ShownItem<'a> {
    name: &'a str,
    #[serde(flatten)]
    content: ShownContent<'a>,
    source: &'a Value,
    changed_while_read: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum ShownContent<'a> {
    Image { size: u64, allocated: u64, root: ChunkId, sha256: &'a Option<String> },
    Tree { files: u64, bytes: u64, root: ChunkId },
}

impl<'a> Shown<'a> {
    /// A backup of ours.
    pub fn of(record: &'a Record) -> Shown<'a> {
        Shown {
            id: record.id.to_string(),
            repository: record.repository,
            name: &record.name,
            kind: record.kind(),
            time: record.time,
            written: record.written,
            parent: record.parent.map(|parent| parent.to_string()),
            tags: &record.tags,
            metadata: &record.metadata,
            items: record.items.iter().map(ShownItem::of).collect(),
            project: &record.project,
            user: &record.user,
            group: &record.group,
            consistency: &record.consistency,
            protocol: &record.protocol,
            writer: &record.writer,
            stats: &record.stats,
            complete: record.unread.is_empty(),
            unread: &record.unread,
            origin: "native",
        }
    }
}

impl<'a> ShownItem<'a> {
    fn of(item: &'a Item) -> ShownItem<'a> {
        let content = match &item.content {
            Content::Image { size, allocated, root, sha256 } => {
                ShownContent::Image { size: *size, allocated: *allocated, root: root.id, sha256 }
            }
            Content::Tree { files, bytes, root, .. } => {
                ShownContent::Tree { files: *files, bytes: *bytes, root: root.id }
            }
        };
        ShownItem {
            name: &item.name,
            content,
            source: &item.source,
            changed_while_read: item.changed_while_read,
        }
    }
}

/// A backup of ours, as the contract of the command has it.
pub fn to_json(record: &Record) -> Value {
    json!(Shown::of(record))
}

/// A path within a tree, as people read it: names that are no text have their odd bytes written as `\xff`.
pub fn path_text(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok("") => ".".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
