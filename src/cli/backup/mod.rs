//! `backup`: sources become one backup.
//!
//! Opens the sources, refuses those that lie in the repository itself, says (or with `init --separate` refuses) when they share a disk with it, and
//! reads tags and metadata. The rest is `backup::run`.

mod each;

use super::adopt;
use super::args::{Backup, Directories};
use super::context::Context;
use super::units;
use crate::backup::{Input, ItemSource, Job, Parent, run as back_up};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::record::{Record, is_name};
use crate::format::shown::to_json;
use crate::image::Engine;
use crate::repo::refs::Reference;
use crate::source;
use crate::source::directory::{Directory, Excludes, Options};
use afterimage_nbd::uri::Uri;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The longest file of metadata that is read.
const METADATA_LEN_MAX: u64 = 2 << 20;

/// So many paths that could not be read are shown; the record has more.
const SHOWN_MAX: usize = 20;

/// Who says at which backup a bitmap began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// The user, by `--parent`: held to what the records tell.
    Claimed,
    /// Whoever keeps the bitmap: that backup is its parent, whatever it was made of.
    Known,
}

pub(super) fn run(context: &Context, args: Backup) -> Result<u8> {
    if args.sources.iter().any(|source| adopt::is_meant(source)) {
        return adopt::run(context, &args);
    }
    if args.chain {
        return Err(Error::new(Kind::Usage, "--chain is for backups of Cinder's: cinder:DIR#BACKUP"));
    }
    match args.each {
        true => each::run(context, &args),
        false => run_from(context, args, Began::Claimed),
    }
}

pub(super) fn run_from(context: &Context, args: Backup, began: Began) -> Result<u8> {
    let metadata = args.metadata.as_deref().map(read_metadata).transpose()?.unwrap_or_default();
    let _bitmap = whose_bitmap(&args)?;
    let engine = context.writer_engine()?;
    let record = make(context, &engine, &args, metadata, began)?;
    context.print(|| to_json(&record), || summary(context, &record))?;
    Ok(code_of(&record))
}

/// All of it was done unless something could not be read.
fn code_of(record: &Record) -> u8 {
    u8::from(!record.unread.is_empty())
}

/// Makes one backup, and tells what it came by.
fn make(
    context: &Context,
    engine: &Arc<Engine>,
    args: &Backup,
    metadata: Map<String, Value>,
    began: Began,
) -> Result<Record> {
    let tags = args.tags.iter().map(|tag| split_tag(tag)).collect::<Result<BTreeMap<_, _>>>()?;
    let name = args.name.clone().unwrap_or_default();
    let items = open_sources(context, args, began)?;
    same_disk(context, &items, engine.repository()?.config.separate)?;
    let parent = parent(context, engine, args, began)?;
    let (time, level, digest, memory) = (args.time, args.level, args.digest, context.global.memory);
    let job = Job { name, items, parent, time, tags, metadata, level, digest, memory, copy_of: None };
    let record = context.with_progress("backing up", |progress| {
        back_up(engine, context.runtime(), job, progress, &context.cancel)
    })?;
    for item in record.items.iter().filter(|item| item.changed_while_read) {
        context.say(format!("{} was written to while it was read; the record says so", item.name));
    }
    for path in record.unread.iter().take(SHOWN_MAX) {
        context.say(format!("{path} could not be read and is not in the backup"));
    }
    Ok(record)
}

/// What the new backup is compared with.
fn parent(context: &Context, engine: &Arc<Engine>, args: &Backup, began: Began) -> Result<Parent> {
    let text = match args.parent.as_deref() {
        None => return Ok(Parent::Latest),
        Some("none") => return Ok(Parent::None),
        Some(text) => text,
    };
    let record = context.runtime().block_on(engine.repository()?.find(&Reference::parse(text)?))?;
    let name = args.name.as_deref().unwrap_or_default();
    if whose_bitmap(args)? && began == Began::Claimed && record.name != name {
        let words = format!(
            "a backup named {name} takes what its bitmap calls unchanged from its own past, not from {text}, which is named {}",
            record.name
        );
        return Err(Error::new(Kind::Refused, words).hint("name a --parent of the same --name"));
    }
    Ok(Parent::Of(record.id))
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

fn open_sources(context: &Context, args: &Backup, began: Began) -> Result<Vec<ItemSource>> {
    let directory = context.directory()?;
    let is_tree = |word: &String| Path::new(split_item(word).1).is_dir();
    let trees = args.sources.iter().filter(|word| is_tree(word)).count();
    let images = args.sources.len() - trees;
    let mut items = Vec::new();
    for word in &args.sources {
        let (given, name) = split_item(word);
        if is_tree(word) {
            let source = Directory::open(name, options(&args.directories)?, directory.as_deref())?;
            let name = given.map_or_else(|| tree_name(trees, name), str::to_owned);
            items.push(ItemSource { name, source: Input::Tree(Box::new(source)) });
            continue;
        }
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
        let name = given.map_or_else(|| item_name(images, name), str::to_owned);
        items.push(ItemSource { name, source: Input::Image(source) });
    }
    Ok(items)
}

/// How directories are to be read.
fn options(args: &Directories) -> Result<Options> {
    let mut excludes = Excludes::default();
    for file in &args.exclude_from {
        let what = || format!("read the patterns in {}", file.display());
        let text = std::fs::read_to_string(file).context(what)?;
        excludes.add_lines(&text).context(what)?;
    }
    args.exclude.iter().try_for_each(|pattern| excludes.add(pattern))?;
    Ok(Options {
        cross_filesystems: args.cross_filesystems,
        excludes,
        exclude_caches: args.exclude_caches,
        keep_going: args.keep_going,
        began: None,
    })
}

/// One tree is `tree`; of several each has its directory's name.
fn tree_name(count: usize, source: &str) -> String {
    let real = std::fs::canonicalize(source).ok();
    let last = real.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match last {
        Some(last) if count > 1 => last.replace(['@', ',', '='], "-"),
        None if count > 1 => "root".to_owned(),
        _ => "tree".to_owned(),
    }
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
