//! `show`: a backup's record, and what rests on it.

use super::args::Show;
use super::context::Context;
use super::units;
use crate::error::Result;
use crate::format::record::{Content, Record};
use crate::image::Library;
use crate::repo::imports::Whereabouts;
use crate::repo::pins::Pin;
use crate::repo::refs::Reference;
use crate::view;
use serde_json::{Value, json};
use std::fmt::Write;

/// How a LUKS container begins.
const LUKS: &[u8; 6] = b"LUKS\xba\xbe";

pub(super) fn run(context: &Context, args: &Show) -> Result<u8> {
    let library = context.library()?;
    let reference = Reference::parse(&args.backup)?;
    let record = context.runtime().block_on(library.find(&reference))?;
    let pins = match library.engine().repository() {
        Ok(repository) => context.runtime().block_on(repository.pins())?,
        // Nobody pins what another program wrote.
        Err(_) => Vec::new(),
    };
    let pins: Vec<Pin> = pins.into_iter().map(|(_, pin)| pin).filter(|pin| pin.backup == record.id).collect();
    let home = home(context, &*library, &record)?;
    let encrypted = encrypted(context, &*library, &record);
    let json = || {
        let mut json = library.json(&record);
        if let Some(home) = &home {
            json["home"] = json!(home);
        }
        if !encrypted.is_empty() {
            json["encrypted"] = json!(encrypted.iter().map(Encrypted::json).collect::<Vec<_>>());
        }
        // Elsewhere a record has no such key, and most have none here.
        if !pins.is_empty() {
            json["pins"] = json!(pins);
        }
        json
    };
    let shown = library.json(&record);
    context.print(json, || page(&shown, &record, home.as_ref(), &pins, &encrypted))?;
    Ok(0)
}

/// So many files that could not be read are shown to people.
const UNREAD_MAX: usize = 20;

/// Where an imported backup lies; nothing, for one that lies here.
fn home(context: &Context, library: &dyn Library, record: &Record) -> Result<Option<Whereabouts>> {
    if record.repository == library.engine().home() {
        return Ok(None);
    }
    let imported = library.engine().repository()?.imported(record.id);
    context.runtime().block_on(imported).map(|(_, whereabouts)| Some(whereabouts))
}

/// An image whose bytes are encrypted: what is seen of it is a LUKS container.
struct Encrypted {
    item: String,
    /// The key, as OpenStack's key manager calls it.
    key: Option<String>,
    /// What opens it in a mount.
    command: String,
}

impl Encrypted {
    fn json(&self) -> Value {
        json!({ "image": self.item, "encryption_key_id": self.key, "open": self.command })
    }
}

/// Those images that say so by their first bytes, and all of a volume that its cloud calls encrypted.
fn encrypted(context: &Context, library: &dyn Library, record: &Record) -> Vec<Encrypted> {
    let key = record.metadata.get("encryption_key_id").and_then(Value::as_str);
    let mut found = Vec::new();
    for item in &record.items {
        let Content::Image { size, root, .. } = &item.content else { continue };
        let len = LUKS.len().min(usize::try_from(*size).unwrap_or(usize::MAX));
        let first = context
            .runtime()
            .block_on(library.open(record.repository, record.id, root, *size).read_at(0, len));
        // What can't be read says nothing; whoever reads it will hear of it.
        if key.is_some() || first.is_ok_and(|bytes| bytes[..] == *LUKS) {
            let folder = format!("MOUNTPOINT/ids/{}", record.id);
            let command =
                format!("cryptsetup open --readonly --type luks {folder}/{} NAME", view::escape(&item.name));
            found.push(Encrypted { item: item.name.clone(), key: key.map(str::to_owned), command });
        }
    }
    found
}

fn page(
    shown: &Value,
    record: &Record,
    home: Option<&Whereabouts>,
    pins: &[Pin],
    encrypted: &[Encrypted],
) -> String {
    let mut out = String::new();
    let mut line = |what: &str, value: &str| {
        let _fits = writeln!(out, "{what:<12}{}", units::plain(value));
    };
    line("backup", shown["id"].as_str().unwrap_or_default());
    line("name", &record.name);
    if let Some(home) = home {
        line(
            "lies in",
            &format!("{} (repository {}), imported {}", home.place, home.repository, home.imported),
        );
    }
    line("kind", record.kind());
    line("time", &record.time.to_string());
    let on = if record.writer.host.is_empty() { "" } else { " on " };
    line("written", &format!("{} by {}{on}{}", record.written, record.writer.program, record.writer.host));
    line("parent", shown["parent"].as_str().unwrap_or("none"));
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
        for image in encrypted.iter().filter(|image| image.item == item.name) {
            let key = image.key.as_ref().map(|key| format!(", by the key {key} of the key manager"));
            line("  encrypted", &format!("it is a LUKS container{}", key.unwrap_or_default()));
            line("  open it", &format!("{}   (in a mount)", image.command));
        }
        if item.changed_while_read {
            line(
                "  note",
                "the source was written to while it was read: it may hold parts of different moments",
            );
        }
    }
    // Of a backup without any item it says why there is none.
    let lacking = if record.items.is_empty() { "not whole" } else { "not read" };
    for what in record.unread.iter().take(UNREAD_MAX) {
        line(lacking, what);
    }
    if record.unread.len() > UNREAD_MAX {
        line(lacking, &format!("and {} more, see --json", record.unread.len() - UNREAD_MAX));
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
