//! `show`: a backup's record, and what rests on it.

use super::args::Show;
use super::context::Context;
use super::units;
use crate::error::Result;
use crate::format::record::{Content, Record};
use crate::format::shown::to_json;
use crate::repo::pins::Pin;
use crate::repo::refs::Reference;
use serde_json::json;
use std::fmt::Write;

pub(super) fn run(context: &Context, args: &Show) -> Result<u8> {
    let repository = context.repository()?;
    let reference = Reference::parse(&args.backup)?;
    let record = context.runtime().block_on(repository.find(&reference))?;
    let pins = context.runtime().block_on(repository.pins())?;
    let pins: Vec<Pin> = pins.into_iter().map(|(_, pin)| pin).filter(|pin| pin.backup == record.id).collect();
    let json = || {
        let mut json = to_json(&record);
        // Elsewhere a record has no such key, and most have none here.
        if !pins.is_empty() {
            json["pins"] = json!(pins);
        }
        json
    };
    context.print(json, || page(&record, &pins))?;
    Ok(0)
}

/// So many files that could not be read are shown to people.
const UNREAD_MAX: usize = 20;

fn page(record: &Record, pins: &[Pin]) -> String {
    let mut out = String::new();
    let mut line = |what: &str, value: &str| {
        let _fits = writeln!(out, "{what:<12}{}", units::plain(value));
    };
    line("backup", &record.id.to_string());
    line("name", &record.name);
    line("kind", record.kind());
    line("time", &record.time.to_string());
    line("written", &format!("{} by {} on {}", record.written, record.writer.program, record.writer.host));
    line("parent", &record.parent.map_or_else(|| "none".to_owned(), |id| id.to_string()));
    for (key, value) in &record.tags {
        line("tag", &format!("{key}={value}"));
    }
    for item in &record.items {
        match &item.content {
            Content::Image { size, allocated, sha256, .. } => {
                let data = units::size(*allocated);
                line(
                    "image",
                    &format!("{}: {} ({size} bytes), {data} of data", item.name, units::size(*size)),
                );
                if let Some(sha256) = sha256 {
                    line("  sha256", sha256);
                }
            }
            Content::Tree { files, bytes, .. } => {
                line("tree", &format!("{}: {files} files, {}", item.name, units::size(*bytes)));
            }
        }
        if item.changed_while_read {
            line(
                "  note",
                "the source was written to while it was read: it may hold parts of different moments",
            );
        }
    }
    for path in record.unread.iter().take(UNREAD_MAX) {
        line("not read", path);
    }
    if record.unread.len() > UNREAD_MAX {
        line("not read", &format!("and {} more, see --json", record.unread.len() - UNREAD_MAX));
    }
    for pin in pins {
        line("needed by", &format!("{} on {}, since {}", pin.by, pin.host, pin.since));
    }
    let stats = &record.stats;
    let (read, new, stored) =
        (units::size(stats.bytes_read), units::size(stats.bytes_new), units::size(stats.bytes_stored));
    line("cost", &format!("read {read}, new {new}, stored {stored}, in {:.1} s", stats.seconds));
    if !record.metadata.is_empty() {
        line("metadata", &serde_json::Value::Object(record.metadata.clone()).to_string());
    }
    out
}
