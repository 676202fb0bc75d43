//! `backup`: sources become one backup.
//!
//! Opens the sources, refuses those that lie in the repository itself, says (or with `init --separate` refuses) when they share a disk with it, and
//! reads tags and metadata. The rest is `backup::run`.

use super::args::Backup;
use super::context::Context;
use super::units;
use crate::backup::{ItemSource, Job, Parent, run as back_up};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::record::{Record, is_name};
use crate::format::shown::to_json;
use crate::repo::refs::Reference;
use crate::source;
use afterimage_nbd::uri::Uri;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The longest file of metadata that is read.
const METADATA_LEN_MAX: u64 = 2 << 20;

/// Who says at which backup a bitmap began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// The user, by `--parent`: held to what the records tell.
    Claimed,
    /// Whoever keeps the bitmap: that backup is its parent, whatever it was made of.
    Known,
}

pub(super) fn run(context: &Context, args: Backup) -> Result<u8> {
    run_from(context, args, Began::Claimed)
}

pub(super) fn run_from(context: &Context, args: Backup, began: Began) -> Result<u8> {
    let tags = args.tags.iter().map(|tag| split_tag(tag)).collect::<Result<BTreeMap<_, _>>>()?;
    let metadata = args.metadata.as_deref().map(read_metadata).transpose()?.unwrap_or_default();
    let with_bitmap = whose_bitmap(&args)? && began == Began::Claimed;
    let engine = context.writer_engine()?;
    let items = open_sources(context, &args.sources, began)?;
    same_disk(context, &items, engine.repository().config.separate)?;
    let parent = match args.parent.as_deref() {
        None => Parent::Latest,
        Some("none") => Parent::None,
        Some(text) => {
            let reference = Reference::parse(text)?;
            let record = context.runtime().block_on(engine.repository().find(&reference))?;
            if with_bitmap && record.name != args.name {
                let words = format!(
                    "a backup named {} takes what its bitmap calls unchanged from its own past, not from {text}, which is named {}",
                    args.name, record.name
                );
                return Err(Error::new(Kind::Refused, words).hint("name a --parent of the same --name"));
            }
            Parent::Of(record.id)
        }
    };
    let job = Job {
        name: args.name,
        items,
        parent,
        time: args.time,
        tags,
        metadata,
        level: args.level,
        digest: args.digest,
        memory: context.global.memory,
    };
    let record = context.with_progress("backing up", |progress| {
        back_up(&engine, context.runtime(), job, progress, &context.cancel)
    })?;
    for item in record.items.iter().filter(|item| item.changed_while_read) {
        context.say(format!("{} was written to while it was read; the record says so", item.name));
    }
    context.print(|| to_json(&record), || summary(context, &record))?;
    Ok(0)
}

/// People get the id on standard output, for scripts, and the rest beside it.
fn summary(context: &Context, record: &Record) -> String {
    let stats = &record.stats;
    let rate = units::size((stats.bytes_read as f64 / stats.seconds.max(0.001)) as u64);
    let (read, new) = (units::size(stats.bytes_read), units::size(stats.bytes_new));
    let stored = units::size(stats.bytes_stored);
    context.say(format!("read {read} in {:.1} s ({rate}/s), {new} new, {stored} stored", stats.seconds));
    format!("{}\n", record.id)
}

pub(super) fn split_tag(tag: &str) -> Result<(String, String)> {
    let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
    if !is_name(key) || value.chars().any(char::is_control) || !tag.contains('=') {
        return Err(Error::new(Kind::Usage, format!("{tag:?} is no tag")).hint("a tag looks like site=ams"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn read_metadata(path: &Path) -> Result<Map<String, Value>> {
    let what = || format!("read the metadata in {}", path.display());
    let len = std::fs::metadata(path).context(what)?.len();
    if len > METADATA_LEN_MAX {
        return Err(Error::new(Kind::Usage, format!("{}: it is longer than 2 MiB", what())));
    }
    let bytes = std::fs::read(path).context(what)?;
    let off = |why: String| {
        Error::new(Kind::Usage, format!("{}: {why}", what())).hint("it has to be a JSON object")
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(off("it is JSON, but no object".to_owned())),
        Err(error) => Err(off(error.to_string())),
    }
}

fn open_sources(context: &Context, words: &[String], began: Began) -> Result<Vec<ItemSource>> {
    let directory = context.directory()?;
    let mut items = Vec::new();
    for word in words {
        let (given, name) = split_item(word);
        if let Some(directory) = &directory {
            source::refuse_inside(name, directory)?;
        }
        let source = match Uri::is_meant(name) {
            true => {
                let export = source::nbd::open(context.runtime(), name)?;
                Box::new(if began == Began::Known { export.of_its_parent() } else { export })
                    as Box<dyn source::Source>
            }
            false => source::open(name)?,
        };
        let name = given.map_or_else(|| item_name(words.len(), name), str::to_owned);
        items.push(ItemSource { name, source });
    }
    Ok(items)
}

/// A bitmap counts from the moment of one backup on. With another one as the parent the result would be a mix of two moments, so the user has
/// to say which it is. Tells whether there is one.
fn whose_bitmap(args: &Backup) -> Result<bool> {
    let with_bitmap = args.sources.iter().find(|word| source::nbd::names_bitmap(split_item(word).1));
    match (with_bitmap, args.parent.as_deref()) {
        (Some(source), None | Some("none")) => {
            let words =
                format!("{source}: a bitmap says what changed since some backup, but not since which");
            Err(Error::new(Kind::Usage, words)
                .hint("name the backup that was made when the bitmap was begun: --parent BACKUP"))
        }
        (with_bitmap, _) => Ok(with_bitmap.is_some()),
    }
}

/// ITEM=SOURCE, where ITEM can be a name and no such file is there.
fn split_item(word: &str) -> (Option<&str>, &str) {
    match word.split_once('=') {
        Some((item, source)) if is_name(item) && !Path::new(word).exists() => (Some(item), source),
        _ => (None, word),
    }
}

/// One image is `disk.img`; of several each has its file's name.
fn item_name(count: usize, source: &str) -> String {
    if count == 1 {
        return "disk.img".to_owned();
    }
    if let Ok(uri) = source.parse::<Uri>() {
        let last = uri.export.rsplit('/').next().filter(|name| is_name(name));
        return last.unwrap_or("disk").to_owned();
    }
    let last = Path::new(source).file_name().map(|name| name.to_string_lossy().into_owned());
    let last = last.unwrap_or_else(|| source.to_owned());
    last.replace(['@', ',', '='], "-")
}

/// A source on the disk of the repository: said each time, or refused where the repository was made so.
fn same_disk(context: &Context, items: &[ItemSource], separate: bool) -> Result<()> {
    // A service across a network shares no disk with this machine.
    let Some(directory) = context.directory()? else { return Ok(()) };
    for item in items {
        let facts = item.source.facts();
        let shared = match source::shared_disks(facts, &directory) {
            Ok(shared) => shared,
            // What was asked for at `init` can't be shown to hold: that is no reason to go on.
            Err(error) if separate => {
                let words =
                    format!("whether {} and the repository are on separate disks can't be told", facts.name);
                return Err(error.as_kind(Kind::Refused)).context(|| words);
            }
            Err(error) => {
                tracing::debug!("which disks the repository lies on can't be told: {error}");
                Vec::new()
            }
        };
        let Some(disk) = shared.first() else { continue };
        let words = format!("{} lies on the same physical disk as the repository ({disk})", facts.name);
        if separate {
            return Err(Error::new(Kind::Refused, words).hint("this repository was made with --separate"));
        }
        context.say(format!("note: {words}: one broken disk would take both"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_named_by_the_caller_or_by_their_source() {
        assert_eq!(split_item("boot=/dev/sda1"), (Some("boot"), "/dev/sda1"));
        assert_eq!(split_item("/no/such=file"), (None, "/no/such=file"));
        assert_eq!(item_name(1, "/dev/sda"), "disk.img");
        assert_eq!(item_name(2, "/images/a=b.img"), "a-b.img");
    }

    #[test]
    fn tags_are_a_key_and_a_value() {
        assert_eq!(split_tag("site=ams=1").unwrap(), ("site".to_owned(), "ams=1".to_owned()));
        for bad in ["site", "=x", "a\nb=c", "a=b\n"] {
            assert_eq!(split_tag(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
