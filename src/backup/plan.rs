//! One backup from beginning to end: its parent, its items one after the other, its record.
//!
//! [`run`] judges the job before anything is read, and publishes the record after everything it names is durable. Merging small objects comes
//! last and may fail: the backup is listed by then. Entered from `cli`, on a thread that may wait.

use super::pipeline::{ItemDone, ItemPlan, back_up_item};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use crate::format::record::{Content, Item, Record, Stats, Writer as WrittenBy, is_name};
use crate::format::{BackupId, limits};
use crate::image::{Engine, Map};
use crate::progress::{Cancel, Progress};
use crate::repo::writer::Writer;
use crate::seal::random;
use crate::source::Source;
use serde_json::{Map as JsonMap, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Which backup the new one is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// The latest of the same name.
    #[default]
    Latest,
    /// None.
    None,
    /// This one.
    Of(BackupId),
}

/// A source and the name of the item that it becomes.
pub struct ItemSource {
    /// The item's name.
    pub name: String,
    /// What is read.
    pub source: Box<dyn Source>,
}

/// What a backup is told.
pub struct Job {
    /// What it is a backup of.
    pub name: String,
    /// What is backed up.
    pub items: Vec<ItemSource>,
    /// What it is compared with.
    pub parent: Parent,
    /// When what it holds was so; now, unless given.
    pub time: Option<jiff::Timestamp>,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// Metadata of the volume or share. `project`, `user`, `group`, `consistency` and `protocol` in it also become fields of the record.
    pub metadata: JsonMap<String, Value>,
    /// Level of compression.
    pub level: i32,
    /// Whether the SHA-256 of whole images is wanted.
    pub digest: bool,
    /// How many bytes of buffers may be in use.
    pub memory: u64,
}

/// Makes the backup. Runs on the calling thread and on others, none of which may be a worker of `runtime`.
pub fn run(
    engine: &Arc<Engine>,
    runtime: &Handle,
    job: Job,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Record> {
    let started = Instant::now();
    judge(&job)?;
    let repository = engine.repository();
    let time = job.time.unwrap_or_else(clock::now_in_seconds);
    let parent = runtime.block_on(find_parent(engine, &job))?;
    let known = Arc::new(runtime.block_on(repository.known()).context(|| "read what the repository has")?);
    let uploads = (job.memory / 4 / u64::from(limits::PACK_LEN_GOAL)).clamp(1, 4);
    let mut writer = Writer::new(repository, &known, runtime, usize::try_from(uploads).unwrap_or(1))?;
    let mut items = Vec::new();
    let mut stats = Stats::default();
    for item in &job.items {
        judge_parent(parent.as_ref(), item)?;
    }
    for item in job.items {
        let plan = ItemPlan {
            engine,
            runtime,
            known: &known,
            parent: parent.as_ref().and_then(|parent| map_of(parent, &item.name)),
            level: job.level,
            digest: job.digest,
            memory: job.memory,
            progress,
            cancel,
        };
        let name = item.name;
        let done = back_up_item(&plan, &mut writer, item.source).context(|| format!("back up {name}"))?;
        stats.bytes_read += done.bytes_read;
        stats.bytes_new += done.bytes_new;
        items.push(as_item(name, done)?);
    }
    cancel.check()?;
    let named = runtime.block_on(repository.publish_index(writer.finish()?))?;
    stats.bytes_stored = named.stored;
    stats.seconds = started.elapsed().as_secs_f64();
    let id = BackupId(new_id()?);
    let text = |key: &str| job.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let record = Record {
        version: limits::VERSION.into(),
        repository: repository.id(),
        id,
        name: job.name,
        time,
        written: clock::now(),
        parent: parent.map(|parent| parent.id),
        items,
        tags: job.tags,
        project: text("project"),
        user: text("user"),
        group: text("group"),
        consistency: text("consistency"),
        protocol: text("protocol"),
        metadata: job.metadata,
        writer: WrittenBy {
            program: concat!("afterimage ", env!("CARGO_PKG_VERSION")).to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        },
        stats,
        unread: Vec::new(),
    };
    runtime.block_on(repository.publish_backup(&record, &named))?;
    tidy(engine, runtime);
    Ok(record)
}

/// The backup is listed; what makes the next listing faster may fail without harm.
pub(super) fn tidy(engine: &Arc<Engine>, runtime: &Handle) {
    let repository = engine.repository();
    let done = runtime.block_on(async {
        repository.merge_indexes().await?;
        repository.merge_catalogue().await
    });
    if let Err(error) = done {
        tracing::warn!("merge small objects: {error}; the backup itself is complete");
    }
}

fn new_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    random(&mut id)?;
    Ok(id)
}

fn judge(job: &Job) -> Result<()> {
    let usage = |words: String| Err(Error::new(Kind::Usage, words));
    if !is_name(&job.name) {
        return usage(format!("{:?} can't be the name of a backup", job.name));
    }
    if job.items.is_empty() || job.items.len() > limits::ITEMS_MAX {
        return usage(format!("a backup has 1 to {} sources, not {}", limits::ITEMS_MAX, job.items.len()));
    }
    for (number, item) in job.items.iter().enumerate() {
        if !is_name(&item.name) {
            return usage(format!("{:?} can't be the name of an item", item.name));
        }
        if job.items[..number].iter().any(|before| before.name == item.name) {
            return usage(format!("two sources would both be called {:?}; name them ITEM=SOURCE", item.name));
        }
    }
    Ok(())
}

async fn find_parent(engine: &Arc<Engine>, job: &Job) -> Result<Option<Record>> {
    let repository = engine.repository();
    match job.parent {
        Parent::None => Ok(None),
        Parent::Of(id) => repository.record(id).await.map(Some),
        Parent::Latest => {
            let listing = repository.list().await?;
            for (id, error) in &listing.damaged {
                tracing::warn!("backup {id} can't be the parent: {error}");
            }
            Ok(listing.records.into_iter().rev().find(|record| record.name == job.name))
        }
    }
}

fn item_of<'a>(parent: &'a Record, item: &str) -> Option<&'a Item> {
    let named = parent.items.iter().find(|there| there.name == item);
    // One image in, one image out: it is the same disk, whatever it was called.
    named.or((parent.items.len() == 1).then(|| &parent.items[0]))
}

pub(super) fn map_of(parent: &Record, item: &str) -> Option<Map> {
    match item_of(parent, item)?.content {
        Content::Image { size, root, .. } => Some(Map { root, len: size }),
        Content::Tree { .. } => None,
    }
}

/// What a source calls unchanged is taken from the parent unseen, so the source has a say in which parent that is.
fn judge_parent(parent: Option<&Record>, item: &ItemSource) -> Result<()> {
    let before = parent.and_then(|parent| item_of(parent, &item.name));
    let facts = before.and_then(|before| serde_json::from_value(before.source.clone()).ok());
    item.source.judge_parent(facts.as_ref()).context(|| format!("back up {}", item.name))
}

fn as_item(name: String, done: ItemDone) -> Result<Item> {
    let source = serde_json::to_value(&done.facts)
        .map_err(|error| Error::new(Kind::Unsupported, "write down the source").caused_by(error))?;
    Ok(Item {
        name,
        content: Content::Image {
            size: done.size,
            allocated: done.allocated,
            root: done.root,
            sha256: done.sha256,
        },
        source,
        changed_while_read: done.changed,
    })
}
