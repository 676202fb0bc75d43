//! `restore` of a share: into a directory.
//!
//! Has it judged and written by `restore::tree`. What was done without is listed, on standard error for people and in the result for programs.

use crate::cli::args::Restore;
use crate::cli::context::Context;
use crate::cli::units;
use crate::error::Result;
use crate::format::record::{Item, Record};
use crate::image::tree::Tree;
use crate::restore::target::Guarded;
use crate::restore::tree::{Done, Losses, Marker, Part, Request, Wish, restore_tree};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// So many paths of each loss are shown to people.
const PATHS_SHOWN: usize = 5;

pub(super) fn run(
    context: &Context,
    args: &Restore,
    record: &Record,
    item: &Item,
    tree: &Tree,
) -> Result<u8> {
    let directory = context.directory()?;
    let text = |key: &str| item.source.get(key).and_then(Value::as_str);
    let part = Part::of(args.only.iter().map(|path| path.as_bytes()));
    let marker = Marker { backup: record.id.to_string(), item: item.name.clone(), only: part.words() };
    let request = Request {
        tree,
        part,
        target: &args.target,
        guarded: Guarded { source: text("identity"), repository: directory.as_deref() },
        source: text("name").map(Path::new),
        wish: Wish {
            into: args.into || args.differential || args.delete,
            delete: args.delete,
            force: args.force,
            lossy: args.lossy,
            marker: Some(marker),
        },
        differential: args.differential,
        verify: args.verify,
    };
    let done =
        context.with_progress("restoring", |progress| restore_tree(&request, progress, &context.cancel))?;
    for note in &done.notes {
        context.say(format!("note: {note}"));
    }
    list_losses(context, &done.losses);
    context.print(|| as_json(record, item, args, &done), || in_words(record, item, args, &done))?;
    Ok(if done.losses.is_empty() || args.lossy { 0 } else { 1 })
}

fn list_losses(context: &Context, losses: &Losses) {
    for (aspect, loss) in losses.iter() {
        let why = loss.why.map(|why| format!(" ({why})")).unwrap_or_default();
        context.say(format!("not kept: {aspect}, of {}{why}:", loss.count));
        for path in loss.paths.iter().take(PATHS_SHOWN) {
            context.say(format!("  {}", shown(path)));
        }
        let more = loss.count.saturating_sub(PATHS_SHOWN as u64);
        if more > 0 {
            context.say(format!("  and {more} more (--json lists them)"));
        }
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { path.escape_ascii().to_string() }
}

fn as_json(record: &Record, item: &Item, args: &Restore, done: &Done) -> Value {
    let lost = |(aspect, loss): (crate::restore::tree::Aspect, &crate::restore::tree::Loss)| {
        let paths: Vec<String> = loss.paths.iter().map(|path| shown(path)).collect();
        json!({ "what": aspect.key(), "count": loss.count, "why": loss.why, "paths": paths })
    };
    let lost: Vec<Value> = done.losses.iter().map(lost).collect();
    json!({
        "backup": record.id, "tree": item.name, "target": args.target, "root": item.root().id,
        "files": done.files, "directories": done.directories, "links": done.links, "removed": done.removed,
        "bytes_written": done.bytes_written, "bytes_skipped": done.bytes_skipped, "bytes_zeroed": done.bytes_zeroed,
        "verified": done.verified, "resumed": done.resumed, "lost": lost, "seconds": done.seconds,
    })
}

fn in_words(record: &Record, item: &Item, args: &Restore, done: &Done) -> String {
    let skipped = match done.bytes_skipped {
        0 => String::new(),
        bytes => format!(", {} left as it was", units::size(bytes)),
    };
    let removed = if done.removed > 0 { format!(", {} removed", done.removed) } else { String::new() };
    let verified = if done.verified { ", read back and right" } else { "" };
    format!(
        "restored {}@{} ({}) into {}: {} files, {} written{skipped}{removed}, in {:.1} s{verified}\n",
        record.name,
        record.time,
        item.root().id,
        args.target.display(),
        done.files + done.links,
        units::size(done.bytes_written),
        done.seconds
    )
}
