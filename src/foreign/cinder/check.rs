//! Check: is everything there that the backups of a container need, and, when asked for, is every byte what it was?
//!
//! Each backup's own objects are held to its own digests, so that an object is read once, however many backups rest on it. What is wrong with
//! one is then said of every image that has something of it. Where all is read, the
//! digests of what a backup has from earlier ones are held to theirs.

use super::catalogue::{Catalogue, Known};
use super::container::Container;
use super::image::{Image as Made, Own};
use crate::error::{Error, Kind, Result};
use crate::format::BackupId;
use crate::image::Library;
use crate::progress::{Cancel, Progress};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object, or what stands before the suffixes of all of a backup's.
    pub object: String,
    /// The backup that it hurts.
    pub backup: BackupId,
    /// Which bytes of its image.
    pub range: Range<u64>,
    /// What is wrong.
    pub why: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Backups that can be read whole, as far as was checked.
    pub backups_ok: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Objects that there are.
    pub objects: u64,
    /// Those that were read.
    pub objects_read: u64,
    /// Bytes of images that were in them.
    pub bytes_read: u64,
}

/// How thorough a check is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Of so many percent of the objects the content is read, too.
    pub read_percent: f64,
    /// Only these backups, and what they rest on; none: all.
    pub only: Vec<BackupId>,
}

/// What is wrong with a part of an object: where it is in the image, and why.
struct Wrong {
    layer: BackupId,
    own: Own,
    range: Range<u64>,
    why: String,
}

/// Checks. Not to be called on a worker of the runtime.
pub fn check(
    container: &Container,
    options: &Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report> {
    let runtime = container.engine().runtime();
    let catalogue = runtime.block_on(container.catalogue())?;
    let wanted = |known: &&Known| options.only.is_empty() || options.only.contains(&known.record.id);
    let chosen: Vec<&Known> = catalogue.backups.iter().filter(wanted).collect();
    let mut report = Report::default();
    let mut layers = BTreeSet::new();
    for known in &chosen {
        match (&known.image, known.record.unread.first()) {
            (None, why) => report.findings.push(Finding {
                object: known.draft.found.path.clone(),
                backup: known.record.id,
                range: 0..0,
                why: why.cloned().unwrap_or_default(),
            }),
            (Some(_), _) => {
                layers.extend(chain_of(&catalogue, known.record.id));
            }
        }
    }
    // One image at a time: what an open one knows of its chain can be large.
    let mut wrong = Vec::new();
    for id in layers {
        cancel.check()?;
        let Some(image) = container.made(&catalogue, id) else { continue };
        wrong.extend(check_layer(id, &image, options, &mut report, progress, cancel)?);
        if options.read_percent >= 100.0
            && wrong.iter().all(|wrong| wrong.layer != id || !wrong.own.is_none())
        {
            let own = Own::default();
            let found = image.check_inherited(cancel)?.into_iter();
            wrong.extend(found.map(|(range, why)| Wrong { layer: id, own: own.clone(), range, why }));
        }
    }
    blame(container, &catalogue, &chosen, &wrong, &mut report)?;
    let hurt: BTreeSet<BackupId> = report.findings.iter().map(|finding| finding.backup).collect();
    report.backups_ok = chosen.iter().filter(|known| !hurt.contains(&known.record.id)).count() as u64;
    Ok(report)
}

/// Looks at one backup's own objects, several at once.
fn check_layer(
    id: BackupId,
    image: &Made,
    options: &Options,
    report: &mut Report,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<Wrong>> {
    let own = match image.own() {
        Ok(own) => own,
        Err(error) if error.kind().may_pass() => return Err(error),
        Err(error) => {
            let own = Own::default();
            return Ok(vec![Wrong { layer: id, own, range: 0..image.len, why: error.to_string() }]);
        }
    };
    let is_read = |number: usize| {
        let share = |number: usize| (number as f64 * options.read_percent / 100.0).floor();
        share(number + 1) > share(number)
    };
    let read: u64 =
        own.iter().enumerate().filter(|(number, _)| is_read(*number)).map(|(_, own)| own.len()).sum();
    progress.total.store(progress.now().1 + read, Relaxed);
    report.objects += own.len() as u64;
    report.objects_read += (0..own.len()).filter(|number| is_read(*number)).count() as u64;
    report.bytes_read += read;
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(one) = own.get(number) else { return Ok(()) };
            cancel.check()?;
            let found = image.check_own(one, is_read(number), progress, cancel)?;
            let found =
                found.into_iter().map(|(range, why)| Wrong { layer: id, own: one.clone(), range, why });
            wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(own.len())).map(|_| scope.spawn(work)).collect();
        let panicked =
            |_| Err(Error::new(Kind::Unsupported, "a thread that checks ended in a panic: this is a bug"));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(panicked))
    })?;
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.sort_by_key(|wrong| (wrong.range.start, wrong.range.end));
    Ok(wrong)
}

/// A backup and those that it rests on.
fn chain_of(catalogue: &Catalogue, backup: BackupId) -> BTreeSet<BackupId> {
    let mut chain = BTreeSet::new();
    let mut next = Some(backup);
    while let Some(id) = next.filter(|id| chain.insert(*id)) {
        let image = catalogue.get(id).and_then(|known| known.image);
        next = image.and_then(|image| image.parent).map(BackupId::from);
    }
    chain
}

/// Says of every image what of it is hurt.
fn blame(
    container: &Container,
    catalogue: &Arc<Catalogue>,
    chosen: &[&Known],
    wrong: &[Wrong],
    report: &mut Report,
) -> Result<()> {
    let hurt: BTreeSet<BackupId> = wrong.iter().map(|wrong| wrong.layer).collect();
    for known in chosen.iter().filter(|known| known.image.is_some()) {
        let chain = chain_of(catalogue, known.record.id);
        if chain.is_disjoint(&hurt) {
            continue;
        }
        let Some(image) = container.made(catalogue, known.record.id) else { continue };
        for wrong in wrong.iter().filter(|wrong| chain.contains(&wrong.layer)) {
            let ranges = match wrong.own.is_none() {
                // Nothing can be told of a backup that does not open, but that it does not.
                true if wrong.layer == known.record.id => vec![wrong.range.clone()],
                true => Vec::new(),
                false => image.has_of(&wrong.own, &wrong.range)?,
            };
            let finding = |range| Finding {
                object: wrong.own.name().unwrap_or_else(|| known.draft.found.path.clone()),
                backup: known.record.id,
                range,
                why: wrong.why.clone(),
            };
            report.findings.extend(ranges.into_iter().map(finding));
        }
    }
    Ok(())
}
