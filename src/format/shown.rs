//! Records and paths as people and scripts see them: the JSON of `list`, `show` and `backup`, and of `backup.json` in a mount.

use super::record::{Content, Item, Record};
use serde_json::{Value, json};

/// A backup, as the contract of the command has it.
pub fn to_json(record: &Record) -> Value {
    json!({
        "id": record.id,
        "name": record.name,
        "kind": record.kind(),
        "time": record.time,
        "written": record.written,
        "parent": record.parent,
        "tags": record.tags,
        "metadata": record.metadata,
        "items": record.items.iter().map(item).collect::<Vec<_>>(),
        "project": record.project,
        "user": record.user,
        "group": record.group,
        "consistency": record.consistency,
        "protocol": record.protocol,
        "writer": record.writer,
        "stats": record.stats,
        "complete": record.unread.is_empty(),
        "unread": record.unread,
        "origin": "native",
    })
}

fn item(item: &Item) -> Value {
    match &item.content {
        Content::Image { size, allocated, root, sha256 } => json!({
            "name": item.name, "kind": "image", "size": size, "allocated": allocated, "root": root.id, "sha256": sha256,
            "source": item.source, "changed_while_read": item.changed_while_read,
        }),
        Content::Tree { files, bytes, root, .. } => json!({
            "name": item.name, "kind": "tree", "files": files, "bytes": bytes, "root": root.id,
            "source": item.source, "changed_while_read": item.changed_while_read,
        }),
    }
}

/// A path within a tree, as people read it: names that are no text have their odd bytes written as `\xff`.
pub fn path_text(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok("") => ".".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
