//! One backup from beginning to end: its parent, its items one after the other, its record.
//!
//! [`run`] judges the job before anything is read, and publishes the record after everything it names is durable. Merging small objects comes
//! last and may fail: the backup is listed by then. Entered from `cli`, on a thread that may wait.

use super::copy;
use super::over::Over;
use super::pipeline::{ItemDone, ItemPlan, back_up_item};
use super::tree::{TreeCopy, TreeDone, TreePlan, back_up_tree, copy_tree};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use crate::format::record::{Content, Item, Record, Root, Stats, Writer as WrittenBy, is_name};
use crate::format::{BackupId, limits};
use crate::image::tree::Tree;
use crate::image::{Engine, Image, Map};
use crate::progress::{Cancel, Progress};
use crate::repo::Repository;
use crate::repo::writer::Writer;
use crate::seal::random;
use crate::source::directory::Directory;
use crate::source::{Facts, Source};
use serde_json::{Map as JsonMap, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Which backup the new one is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// The latest of the same name that lies in this repository.
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
    pub source: Input,
}

/// What an item is read from.
pub enum Input {
    /// It becomes an image.
    Image(Box<dyn Source>),
    /// It becomes a tree.
    Tree(Box<Directory>),
    /// It is a tree of another repository, and becomes one here.
    Copy(Box<TreeCopy>),
}

impl<S: Source + 'static> From<Box<S>> for Input {
    fn from(source: Box<S>) -> Input {
        Input::Image(source)
    }
}

impl Input {
    /// What it is.
    pub fn facts(&self) -> &Facts {
        match self {
            Input::Image(source) => source.facts(),
            Input::Tree(directory) => directory.facts(),
            Input::Copy(copy) => copy.facts(),
        }
    }
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
    /// The same backup elsewhere: its id, its times and whose it is are kept, an image has to have the length and the digest that are known of it,
    /// and nothing is listed before it was read back.
    pub copy_of: Option<Box<Record>>,
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
    let repository = engine.repository()?;
    let time = job.time.unwrap_or_else(clock::now_in_seconds);
    let known = async {
        match job.copy_of.is_some() {
            true => repository.known_for_a_copy().await,
            false => repository.known().await,
        }
    };
    // Far away, what is asked one after another is most of what a small backup takes.
    let (parent, known) = runtime.block_on(async { tokio::join!(find_parent(engine, &job), known) });
    let parent = parent?;
    let known = Arc::new(known.context(|| "read what the repository has")?);
    // Where each put has its way to go, more are under way at once.
    let share = if engine.is_far() { 2 } else { 4 };
    let uploads = (job.memory / share / u64::from(limits::PACK_LEN_GOAL)).clamp(1, 4);
    let mut writer = Writer::new(repository, &known, runtime, usize::try_from(uploads).unwrap_or(1))?;
    if job.copy_of.is_some() {
        writer = writer.that_reads_back();
    }
    let mut items = Vec::new();
    let mut stats = Stats::default();
    let mut unread = Vec::new();
    for item in &job.items {
        judge_parent(parent.as_ref(), item)?;
    }
    for item in job.items {
        let (level, memory, name) = (job.level, job.memory, item.name);
        let before = parent.as_ref().and_then(|parent| Some((parent, &item_of(parent, &name)?.content)));
        // What lies in another repository is read there, but nothing of it can be taken over: its chunks are not here.
        let is_here = parent.as_ref().is_some_and(|parent| parent.repository == repository.id());
        let source = match item.source {
            Input::Image(source) => source,
            tree => {
                let parent = before.filter(|_| is_here).and_then(|(_, before)| tree_of(engine, before));
                let plan =
                    TreePlan { repository, runtime, known: &known, parent, level, memory, progress, cancel };
                let mut done = back_up_tree_of(&plan, &mut writer, &tree)?;
                stats.bytes_read += done.bytes_read;
                stats.bytes_new += done.bytes_new;
                unread.append(&mut done.unread);
                let item = tree_item(name, done)?;
                judge_copy(&job.copy_of, &item)?;
                items.push(item);
                continue;
            }
        };
        let before = before.and_then(|(parent, before)| Some((parent, map_of(before)?)));
        let (source, parent) = match before {
            Some((parent, map)) if !is_here => {
                let image = Image::new(engine.of_home(parent.repository), map);
                (Box::new(Over::new(source, image, runtime.clone())) as Box<dyn Source>, None)
            }
            before => (source, before.map(|(_, map)| map)),
        };
        let digest = job.digest;
        let plan =
            ItemPlan { engine, runtime, known: &known, parent, level, digest, memory, progress, cancel };
        let done = back_up_item(&plan, &mut writer, source).context(|| format!("back up {name}"))?;
        stats.bytes_read += done.bytes_read;
        stats.bytes_new += done.bytes_new;
        let item = as_item(name, done)?;
        judge_copy(&job.copy_of, &item)?;
        items.push(item);
    }
    cancel.check()?;
    let named = runtime.block_on(repository.publish_index(writer.finish()?))?;
    stats.bytes_stored = named.stored;
    stats.seconds = started.elapsed().as_secs_f64();
    let text = |key: &str| job.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut record = Record {
        version: limits::VERSION.into(),
        repository: repository.id(),
        id: BackupId(new_id()?),
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
        unread,
    };
    if let Some(original) = &job.copy_of {
        copy::take_over(original, &mut record);
    }
    runtime.block_on(repository.publish_backup(&record, &named))?;
    if job.copy_of.is_some() {
        record = runtime.block_on(repository.record(record.id))?;
        forget_import(repository, runtime, record.id);
    }
    tidy(engine, runtime);
    Ok(record)
}

fn back_up_tree_of(plan: &TreePlan<'_>, writer: &mut Writer, source: &Input) -> Result<TreeDone> {
    let done = match source {
        Input::Tree(directory) => back_up_tree(plan, writer, directory),
        Input::Copy(copy) => copy_tree(plan, writer, copy),
        Input::Image(_) => Err(Error::new(Kind::Unsupported, "an image is no tree")),
    };
    done.context(|| format!("back up {}", source.facts().name))
}

fn judge_copy(copy_of: &Option<Box<Record>>, item: &Item) -> Result<()> {
    copy_of.as_ref().map_or(Ok(()), |original| copy::judge(original, item))
}

/// The backup is listed; what makes the next listing faster may fail without harm.
fn tidy(engine: &Arc<Engine>, runtime: &Handle) {
    let done = runtime.block_on(async {
        let repository = engine.repository()?;
        let (indexes, catalogue) = tokio::join!(repository.merge_indexes(), repository.merge_catalogue());
        indexes.and(catalogue)
    });
    if let Err(error) = done {
        tracing::warn!("merge small objects: {error}; the backup itself is complete");
    }
}

/// A copy lies here now, whatever was imported before. Credentials may not delete, so nothing is deleted that is not there.
fn forget_import(repository: &Repository, runtime: &Handle, id: BackupId) {
    let forgotten = runtime.block_on(async {
        match repository.import_ids().await?.contains(&id) {
            true => repository.forget_import(id).await,
            false => Ok(()),
        }
    });
    if let Err(error) = forgotten {
        tracing::warn!("forget what was imported of {id}: {error}; the copy itself is complete");
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
    let repository = engine.repository()?;
    match job.parent {
        Parent::None => Ok(None),
        Parent::Of(id) => repository.record(id).await.map(Some),
        Parent::Latest => {
            let listing = repository.list_ours().await?;
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

fn map_of(content: &Content) -> Option<Map> {
    match *content {
        Content::Image { size, root, .. } => Some(Map { root, len: size }),
        Content::Tree { .. } => None,
    }
}

/// The tree that an item is, and the top of what stands beside it.
pub(super) fn tree_of(engine: &Arc<Engine>, content: &Content) -> Option<(Tree, Option<Root>)> {
    match *content {
        Content::Tree { root, sightings, .. } => Some((Tree::new(Arc::clone(engine), root), sightings)),
        Content::Image { .. } => None,
    }
}

/// What a source calls unchanged is taken from the parent unseen, so the source has a say in which parent that is.
fn judge_parent(parent: Option<&Record>, item: &ItemSource) -> Result<()> {
    let Input::Image(source) = &item.source else { return Ok(()) };
    let before = parent.and_then(|parent| item_of(parent, &item.name));
    let facts = before.and_then(|before| serde_json::from_value(before.source.clone()).ok());
    source.judge_parent(facts.as_ref()).context(|| format!("back up {}", item.name))
}

fn written_down(facts: &Facts) -> Result<Value> {
    serde_json::to_value(facts)
        .map_err(|error| Error::new(Kind::Unsupported, "write down the source").caused_by(error))
}

fn tree_item(name: String, done: TreeDone) -> Result<Item> {
    Ok(Item {
        name,
        content: Content::Tree {
            files: done.totals.files,
            bytes: done.totals.bytes,
            root: done.root,
            sightings: Some(done.sightings),
        },
        source: written_down(&done.facts)?,
        changed_while_read: done.changed,
    })
}

fn as_item(name: String, done: ItemDone) -> Result<Item> {
    let source = written_down(&done.facts)?;
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
