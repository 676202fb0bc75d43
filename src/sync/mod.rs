//! The second site: backups of one repository become backups of another one.
//!
//! list there -> list here -> for each that is missing here, oldest first: what differs from one that lies on both sides -> read, opened ->
//! sealed for here, sent, read back -> listed
//!
//! A copy keeps its id, so a second run knows what is done; what an interrupted run has sent is used by the next. The two may have
//! other keys and cut images and files elsewhere: chunks are sealed, and where needed cut, anew.
//!
//! **Invariant:** nothing is written to the repository that is read.

use crate::backup::{ImageSource, Input, ItemSource, Job, Parent, TreeCopy, between, run as back_up};
use crate::error::{Context, Error, Kind, Result};
use crate::format::record::{Content, Item, Record};
use crate::format::{BackupId, ids::SealKind};
use crate::image::{Engine, Image, Map, compare};
use crate::progress::{Cancel, Progress};
use crate::repo::names;
use crate::seal::LEVEL_DEFAULT;
use crate::source::Facts;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// With more ranges than this that differ, what lies between the later ones is read as if it differed.
const RANGES_MAX: usize = 1 << 20;

/// Which backups are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Those of this name only.
    pub name: Option<String>,
    /// Those of this time and later only.
    pub since: Option<jiff::Timestamp>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The copies that were made, as their records are here, oldest first.
    pub copied: Vec<Record>,
    /// Backups that were wanted and are here already.
    pub present: u64,
    /// Backups that were wanted and can't be copied: their id, and why.
    pub left: Vec<(BackupId, Error)>,
}

/// Copies what is missing, of what lies in `from`: a record that it imported is for its home to copy. Runs on the calling thread and on others, none of which may be a worker of `runtime`.
pub fn run(
    from: &Arc<Engine>,
    to: &Arc<Engine>,
    runtime: &Handle,
    wish: &Wish,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report> {
    refuse_itself(from, to)?;
    let there = runtime.block_on(from.repository()?.list_ours()).context(|| "list what is to be copied")?;
    let here = runtime.block_on(to.repository()?.list_ours()).context(|| "list what is there already")?;
    let damaged_here: BTreeMap<BackupId, Error> = here.damaged.into_iter().collect();
    let mut here: BTreeMap<BackupId, Record> =
        here.records.into_iter().map(|record| (record.id, record)).collect();
    let mut report = Report { left: there.damaged, ..Report::default() };
    let sides = Sides { from, to, runtime, digest: false, progress, cancel };
    for record in there.records.iter().filter(|record| wish.includes(record)) {
        cancel.check()?;
        if here.contains_key(&record.id) {
            report.present += 1;
            continue;
        }
        // Its name is taken there, so a copy of it has no place.
        if let Some(error) = damaged_here.get(&record.id) {
            report.left.push((record.id, sides.taken(record.id, error)?));
            continue;
        }
        match sides.copy(record, &there.records, &here) {
            Ok(copied) => {
                let _none = here.insert(copied.id, copied.clone());
                report.copied.push(copied);
            }
            // Somebody else has copied it meanwhile.
            Err(error) if error.kind() == Kind::Refused => {
                let ours = to.repository()?;
                let there = runtime.block_on(ours.record(record.id)).ok();
                let there = there.filter(|there| there.repository == ours.id()).ok_or(error)?;
                let _none = here.insert(there.id, there);
                report.present += 1;
            }
            // One backup that can't be read or held says nothing of the others.
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing | Kind::Unsupported) => {
                tracing::error!("{error}");
                report.left.push((record.id, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// Copies of one repository have equal keys and equal names: what one sealed, the other would seal again, and two writers of one id would meet.
fn refuse_itself(from: &Engine, to: &Engine) -> Result<()> {
    let (from, to) = (from.repository()?, to.repository()?);
    if from.id() != to.id() {
        return Ok(());
    }
    let (a, b) = (from.store.place(), to.store.place());
    let words =
        format!("{a} and {b} are the same repository {}, or one is a plain copy of the other", to.id());
    Err(Error::new(Kind::Refused, words)
        .hint("copy the objects of a plain copy with the tools of the store; sync copies to a repository of its own"))
}

impl Wish {
    fn includes(&self, record: &Record) -> bool {
        self.name.as_ref().is_none_or(|name| *name == record.name)
            && self.since.is_none_or(|since| record.time >= since)
    }
}

/// A backup as it is on both sides.
struct Both<'a> {
    from: &'a Record,
    to: &'a Record,
}

/// What a copy can be told apart from: its parent, or the newest before it of its name, that lies on both sides.
fn common<'a>(
    there: &'a [Record],
    here: &'a BTreeMap<BackupId, Record>,
    record: &Record,
) -> Option<Both<'a>> {
    let on_both = |from: &'a Record| Some(Both { from, to: here.get(&from.id)? });
    let parent = there.iter().find(|from| Some(from.id) == record.parent).and_then(on_both);
    let of_name =
        |from: &&Record| from.name == record.name && from.id != record.id && from.time <= record.time;
    parent.or_else(|| there.iter().rev().filter(of_name).find_map(on_both))
}

/// Two repositories, of which one gets what the other has.
pub struct Sides<'a> {
    /// What reads from the one.
    pub from: &'a Arc<Engine>,
    /// What reads from the other; that is written to.
    pub to: &'a Arc<Engine>,
    /// What waits for both.
    pub runtime: &'a Handle,
    /// Whether the SHA-256 of whole images is wanted, and compared with what is known of it.
    pub digest: bool,
    /// How far it is.
    pub progress: &'a Progress,
    /// The wish to stop.
    pub cancel: &'a Cancel,
}

impl Sides<'_> {
    /// Copies one backup. Earlier ones lie `there`, in the order of their times, and their copies `here`: of what is as in one of them, nothing
    /// is read. What lies on both sides may be damaged here: then all is read and what is lost is stored afresh.
    pub fn copy(
        &self,
        record: &Record,
        there: &[Record],
        here: &BTreeMap<BackupId, Record>,
    ) -> Result<Record> {
        let both = common(there, here, record);
        let has_both = both.is_some();
        let copied = match self.copy_over(record, both) {
            Err(error) if has_both && error.kind() == Kind::Corrupt => {
                tracing::warn!("{error}; all of the backup is read");
                self.copy_over(record, None)
            }
            copied => copied,
        };
        copied.context(|| format!("copy backup {}", record.id))
    }

    /// What keeps a copy from being listed: a record of its id, which can't be read there.
    fn taken(&self, id: BackupId, error: &Error) -> Result<Error> {
        let words = format!("its record at {} can't be read", self.to.repository()?.store.place());
        let taken = Error::new(error.kind(), words).caused_by(error.clone());
        if error.kind() != Kind::Corrupt {
            return Ok(taken);
        }
        let name = names::object(SealKind::Record, id.into())?;
        Ok(taken.hint(format!(
            "delete {name} there and copy again: what it needs and is there is not sent again"
        )))
    }

    fn copy_over(&self, record: &Record, both: Option<Both<'_>>) -> Result<Record> {
        let items = record.items.iter().map(|item| self.item(item, both.as_ref()));
        let job = Job {
            name: record.name.clone(),
            items: items.collect::<Result<Vec<_>>>()?,
            parent: both.map_or(Parent::None, |both| Parent::Of(both.to.id)),
            time: Some(record.time),
            tags: record.tags.clone(),
            metadata: record.metadata.clone(),
            level: LEVEL_DEFAULT,
            digest: self.digest,
            memory: self.to.memory(),
            copy_of: Some(Box::new(record.clone())),
        };
        back_up(self.to, self.runtime, job, self.progress, self.cancel)
    }

    fn item(&self, item: &Item, both: Option<&Both<'_>>) -> Result<ItemSource> {
        let before = both.and_then(|both| Some((named(both.from, &item.name)?, named(both.to, &item.name)?)));
        let facts: Facts = serde_json::from_value(item.source.clone()).unwrap_or_default();
        let source = match item.content {
            Content::Image { size, root, .. } => {
                let map = Map { root, len: size };
                Input::Image(Box::new(self.image(map, facts, before)?))
            }
            Content::Tree { root, sightings, .. } => {
                let earlier = before.map(|(from, _)| from);
                Input::Copy(Box::new(TreeCopy::new(self.from, (root, sightings), facts, earlier)))
            }
        };
        Ok(ItemSource { name: item.name.clone(), source })
    }

    fn image(&self, map: Map, facts: Facts, before: Option<(&Item, &Item)>) -> Result<ImageSource> {
        let image = |map: Map| Image::new(Arc::clone(self.from), map);
        let whole = image(map);
        // Only what has the same name and length on both sides can be called the same.
        let before = before.and_then(|(from, to)| {
            let (before, after) = (map_of(from)?, map_of(to)?);
            (before.len == after.len).then(|| image(before))
        });
        let same = match before {
            Some(before) => self.runtime.block_on(same(&whole, &before))?,
            None => Vec::new(),
        };
        Ok(ImageSource::new(whole, facts, same, self.cancel.clone()))
    }
}

/// What two images of one length have in common, which their maps tell: nothing of it is read.
async fn same(image: &Image, before: &Image) -> Result<Vec<Range<u64>>> {
    let mut differs: Vec<Range<u64>> = Vec::new();
    let mut note = |range: Range<u64>| {
        let is_full = differs.len() >= RANGES_MAX;
        match differs.last_mut().filter(|_| is_full) {
            Some(last) => last.end = range.end,
            None => differs.push(range),
        }
    };
    compare(image, before, &mut note).await?;
    Ok(between(&differs, image.len()))
}

fn named<'a>(record: &'a Record, item: &str) -> Option<&'a Item> {
    record.items.iter().find(|there| there.name == item)
}

fn map_of(item: &Item) -> Option<Map> {
    match item.content {
        Content::Image { size, root, .. } => Some(Map { root, len: size }),
        Content::Tree { .. } => None,
    }
}
