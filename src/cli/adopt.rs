//! `backup cinder:DIR#BACKUP`: backups of Cinder's become ours, with their ids, times and metadata.
//!
//! Of an increment only what changed is read, if the backup that it adds to is here: Cinder's own documents say what that is. With `--chain`, or
//! where a volume's id is named, there are several, and the oldest comes first.

use super::args::Backup;
use super::backup::split_tag;
use super::context::Context;
use super::{locations, units};
use crate::backup::{ImageSource, ItemSource, Job, Parent, between, run as back_up};
use crate::error::{Context as _, Error, Kind, Result};
use crate::foreign::cinder::Container;
use crate::foreign::cinder::document::Uuid;
use crate::format::BackupId;
use crate::format::record::{Content, Record};
use crate::format::shown::to_json;
use crate::image::{Engine, Image, Library, compare};
use crate::progress::Progress;
use crate::repo::refs::Reference;
use crate::source::Facts;
use crate::store;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

const SCHEME: &str = "cinder:";

/// Whether a source is a backup of Cinder's.
pub(super) fn is_meant(source: &str) -> bool {
    source.starts_with(SCHEME)
}

/// A container, and where it lies.
pub(super) struct Place {
    pub(super) container: Arc<Container>,
    pub(super) name: String,
}

/// What the backups of ours are to be.
pub(super) struct Wish {
    /// Backups of this; of what they are called in the container unless given.
    pub(super) name: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) level: i32,
    pub(super) digest: bool,
}

/// Which backups of a container are meant.
struct Chosen {
    place: Place,
    /// Oldest first.
    records: Vec<Record>,
    /// Whether there could be several.
    several: bool,
}

pub(super) fn run(context: &Context, args: &Backup) -> Result<u8> {
    let [source] = args.sources.as_slice() else {
        return Err(Error::new(Kind::Usage, "one source at a time, if it is a backup of Cinder's"));
    };
    if args.parent.is_some() || args.metadata.is_some() || args.time.is_some() {
        let words = "a backup of Cinder's has its own parent, metadata and time";
        return Err(Error::new(Kind::Usage, words).hint("leave out --parent, --metadata and --time"));
    }
    let tags = args.tags.iter().map(|tag| split_tag(tag)).collect::<Result<BTreeMap<_, _>>>()?;
    let wish = Wish { name: args.name.clone(), tags, level: args.level, digest: args.digest };
    let engine = context.writer_engine()?;
    let chosen = choose(context, source, args.chain)?;
    let (mut made, mut failed) = (Vec::new(), Ok(0));
    for record in &chosen.records {
        match adopt(context, &engine, &chosen.place, record, &wish) {
            Ok(one) => made.push(one),
            Err(error) => {
                failed = Err(error);
                break;
            }
        }
    }
    // What was made before stays, and is told.
    if made.is_empty() {
        return failed;
    }
    let json = || match (chosen.several, made.as_slice()) {
        (false, [(only, _)]) => to_json(only),
        (_, made) => Value::Array(made.iter().map(|(record, _)| to_json(record)).collect()),
    };
    context.print(json, || page(context, &made))?;
    failed
}

impl Place {
    /// Opens a container by the name that it has as a repository; nothing, when that is not how it is called.
    pub(super) fn open(context: &Context, name: &str) -> Result<Option<Place>> {
        let Some(place) = name.strip_prefix(SCHEME).filter(|place| !place.is_empty()) else {
            return Ok(None);
        };
        let opened = store::open_foreign(place)?;
        let (runtime, memory) = (context.runtime().clone(), context.global.memory);
        let container = Container::open(opened.store, &locations::cache(), runtime, memory)?;
        Ok(Some(Place { container, name: name.to_owned() }))
    }
}

fn choose(context: &Context, source: &str, chain: bool) -> Result<Chosen> {
    let off = || {
        Error::new(Kind::Usage, format!("{source:?} names no backup of Cinder's"))
            .hint("cinder:DIR#BACKUP; a volume's id means all of its backups")
    };
    let (name, which) = source.rsplit_once('#').filter(|(_, which)| !which.is_empty()).ok_or_else(off)?;
    let place = Place::open(context, name)?.ok_or_else(off)?;
    let (runtime, container) = (context.runtime(), &place.container);
    let of_volume = match Uuid::parse(which) {
        Some(volume) => {
            let is_of_it = |record: &Record| {
                record.metadata.get("volume_id").and_then(Value::as_str).and_then(Uuid::parse) == Some(volume)
            };
            let listed = runtime.block_on(container.list())?.records;
            listed.into_iter().filter(is_of_it).collect()
        }
        None => Vec::new(),
    };
    // What died half made stays listed for as long as it lies there; it keeps nobody from the others.
    let (whole, dead): (Vec<Record>, Vec<Record>) =
        of_volume.into_iter().partition(|record| !record.items.is_empty());
    if !whole.is_empty() {
        for record in dead {
            let why = record.unread.first().map_or("it holds no image", String::as_str);
            context.say(format!("passed over backup {}: {why}", Uuid::from(record.id)));
        }
        return Ok(Chosen { place, records: parents_first(whole), several: true });
    }
    let record = runtime.block_on(container.find(&Reference::parse(which)?))?;
    let records = match chain {
        true => runtime.block_on(ancestors(&**container, record))?,
        false => vec![record],
    };
    Ok(Chosen { place, records, several: chain })
}

/// A backup and all that it adds to, the full one first.
pub(super) async fn ancestors(library: &dyn Library, record: Record) -> Result<Vec<Record>> {
    let mut chain = vec![record];
    while let Some(parent) = chain.last().and_then(|last| last.parent) {
        // Whoever made the documents may have made a circle of them.
        if chain.iter().any(|record| record.id == parent) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("backup {}: its parents lead back to itself", Uuid::from(parent)),
            ));
        }
        chain.push(library.record(parent).await?);
    }
    chain.reverse();
    Ok(chain)
}

/// In the order of their times, but none before the one that it adds to: clocks were set back before.
fn parents_first(records: Vec<Record>) -> Vec<Record> {
    let mut left: HashMap<BackupId, Record> =
        records.iter().map(|record| (record.id, record.clone())).collect();
    let mut order = Vec::with_capacity(records.len());
    for record in records {
        let (mut way, mut next) = (Vec::new(), Some(record.id));
        while let Some(record) = next.and_then(|id| left.remove(&id)) {
            next = record.parent;
            way.push(record);
        }
        order.extend(way.into_iter().rev());
    }
    order
}

/// Makes one backup of ours, unless it is here; whether it is new.
pub(super) fn adopt(
    context: &Context,
    engine: &Arc<Engine>,
    place: &Place,
    theirs: &Record,
    wish: &Wish,
) -> Result<(Record, bool)> {
    let repository = engine.repository()?;
    let runtime = context.runtime();
    let id = Uuid::from(theirs.id);
    let name = wish.name.as_ref().unwrap_or(&theirs.name);
    match runtime.block_on(repository.record(theirs.id)) {
        // What is only known by its record lies elsewhere still.
        Ok(record) if record.repository != repository.id() => {}
        Ok(record) if record.name == *name => return Ok((record, false)),
        Ok(record) => {
            let words = format!("backup {id} of Cinder's is here already, as one of {}", record.name);
            return Err(Error::new(Kind::Refused, words));
        }
        Err(error) if error.kind() == Kind::Missing => {}
        Err(error) => return Err(error),
    }
    let image = image_of(&*place.container, theirs)?;
    let (parent, same) = match parent(context, engine, &place.container, theirs, &image)? {
        Some((parent, same)) => (Parent::Of(parent), same),
        None => (Parent::Latest, Vec::new()),
    };
    let source = format!("{}#{id}", place.name);
    let facts = Facts {
        kind: "cinder".into(),
        name: source,
        identity: Some(format!("cinder {id}")),
        ..Facts::default()
    };
    let source = ImageSource::new(image, facts, same, context.cancel.clone());
    let job = Job {
        name: name.clone(),
        items: vec![ItemSource { name: "disk.img".to_owned(), source: Box::new(source).into() }],
        parent,
        time: Some(theirs.time),
        tags: wish.tags.clone(),
        metadata: theirs.metadata.clone(),
        level: wish.level,
        digest: wish.digest,
        memory: context.global.memory,
        copy_of: Some(Box::new(theirs.clone())),
    };
    let work = |progress: &Progress| back_up(engine, runtime, job, progress, &context.cancel);
    let made = context.with_progress("backing up", work).context(|| format!("back up Cinder's {id}"))?;
    Ok((made, true))
}

fn image_of(library: &dyn Library, record: &Record) -> Result<Image> {
    match record.items.first().map(|item| &item.content) {
        Some(Content::Image { size, root, .. }) => {
            Ok(library.open(record.repository, record.id, root, *size))
        }
        _ => {
            let why = record.unread.first().map_or("it holds no image", String::as_str);
            Err(Error::new(Kind::Corrupt, format!("backup {} can't be read: {why}", Uuid::from(record.id))))
        }
    }
}

/// The backup of ours that was made of what an increment adds to, and what the increment left as it was there.
fn parent(
    context: &Context,
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    theirs: &Record,
    image: &Image,
) -> Result<Option<(BackupId, Vec<Range<u64>>)>> {
    let runtime = context.runtime();
    let Some(id) = theirs.parent else { return Ok(None) };
    let ours = match runtime.block_on(engine.repository()?.record(id)) {
        Ok(record) if record.repository == engine.repository()?.id() => record,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == Kind::Missing => return Ok(None),
        Err(error) => return Err(error),
    };
    let before = image_of(&**container, &runtime.block_on(container.record(id))?)?;
    let is_copy = ours.items.first().is_some_and(|item| {
        let identity = item.source.get("identity").and_then(Value::as_str);
        let has_its_size = matches!(item.content, Content::Image { size, .. } if size == before.len());
        has_its_size && identity == Some(format!("cinder {}", Uuid::from(id)).as_str())
    });
    if !is_copy {
        return Ok(None);
    }
    let mut changed: Vec<Range<u64>> = Vec::new();
    let mut differs = |range| changed.push(range);
    runtime
        .block_on(compare(&before, image, &mut differs))
        .context(|| "compare an increment with its parent")?;
    Ok(Some((id, between(&changed, image.len().min(before.len())))))
}

/// People get the ids on standard output, for scripts, and the rest beside it.
pub(super) fn page(context: &Context, made: &[(Record, bool)]) -> String {
    for (record, new) in made {
        let stats = &record.stats;
        let (read, stored) = (units::size(stats.bytes_read), units::size(stats.bytes_stored));
        context.say(match new {
            true => format!(
                "{}@{}: read {read} in {:.1} s, {stored} stored",
                record.name, record.time, stats.seconds
            ),
            false => format!("{}@{}: here already", record.name, record.time),
        });
    }
    made.iter().map(|(record, _)| format!("{}\n", record.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::tests::sample;

    #[test]
    fn parents_come_before_what_adds_to_them_whatever_their_times() {
        let of = |id: u8, parent: Option<u8>| Record {
            id: BackupId([id; 16]),
            parent: parent.map(|id| BackupId([id; 16])),
            ..sample()
        };
        let order = |records: Vec<Record>| -> Vec<u8> {
            parents_first(records).iter().map(|record| record.id.0[0]).collect()
        };
        assert_eq!(order(vec![of(1, None), of(2, Some(1)), of(3, Some(1))]), [1, 2, 3]);
        assert_eq!(order(vec![of(3, Some(2)), of(1, None), of(2, Some(1))]), [1, 2, 3]);
        assert_eq!(order(vec![of(2, Some(9)), of(1, None)]), [2, 1]);
        assert_eq!(order(vec![of(1, Some(2)), of(2, Some(1))]), [2, 1], "a circle ends");
    }
}
