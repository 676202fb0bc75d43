//! A backup's image as an export: read-only, allocation from the map alone, what changed since another backup as a bitmap.
//!
//! What is in memory is answered on the connection's own thread; everything else waits for the engine that all images share. Any number of
//! connections share one [`BackupExport`], so that one detector sees all that is read of an image.

mod shelf;
mod since;
mod streams;

pub use shelf::{Known, KnownImage, Look, Looking, Pick, Shelf};

use super::answer::{failed, from_repository};
use super::watch::Traffic;
use crate::error::Result;
use crate::format::BackupId;
use crate::image::{Image, Library, Part as ImagePart};
use afterimage_nbd::export::{
    Aliases, Answer, BlockSizes, Error as Refusal, Export, Extent, Info, Kind as RefusalKind, Name, Part,
    Parts, Peer,
};
use afterimage_nbd::wire::state;
use since::Since;
use std::sync::Arc;
use streams::Streams;

/// The context that says in which layer data lies.
pub(super) const DEPTH: &str = "qemu:allocation-depth";
/// Before the name of another backup: what differs from it.
const SINCE: &str = "qemu:dirty-bitmap:since:";
/// As many other backups can be compared with as a client can be told of.
const SINCE_MAX: usize = 60;
/// One answer about blocks goes no further than this where it has to look at nodes.
const STATUS_SPAN: u64 = 4 << 30;
/// Extents in one answer; clients ask on.
const EXTENTS_MAX: usize = 4096;
/// So much of a source's name is told in one line.
const SOURCE_SHOWN_MAX: usize = 200;
/// What a hint fetches at a time, and at most.
const CACHE_STEP: u64 = 1 << 20;
const CACHE_MAX: u64 = 32 << 20;

/// One image of a backup.
pub struct BackupExport {
    id: BackupId,
    item: String,
    image: Image,
    info: Info,
    streams: Streams,
    since: Vec<Since>,
    traffic: Arc<Traffic>,
}

impl BackupExport {
    /// The image that was picked from the shelf. Fetches nothing.
    pub fn new(
        library: &dyn Library,
        shelf: &Arc<Shelf>,
        pick: &Pick<'_>,
        traffic: Arc<Traffic>,
    ) -> BackupExport {
        let open = |pick: &Pick<'_>| {
            library.open(pick.backup.home, pick.backup.id, &pick.image().root, pick.image().size)
        };
        let relatives = shelf.relatives(pick).into_iter().take(SINCE_MAX);
        let relatives: Vec<(Pick<'_>, String)> = relatives
            .map(|other| (other, format!("{SINCE}{}", shelf.canonical(&other))))
            .filter(|(_, context)| Name::new(context).is_ok())
            .collect();
        let since = relatives.iter().map(|(other, _)| Since::new(open(other))).collect();
        let others: Vec<_> = relatives.iter().map(|(other, _)| (other.backup.id, other.number)).collect();
        let contexts = relatives.into_iter().map(|(_, context)| context).collect();
        let image = open(pick);
        let chunk = pick.image().root.chunk_size.max(4096);
        let info = Info {
            block_sizes: BlockSizes {
                minimum: 1,
                preferred: if chunk.is_power_of_two() { chunk } else { 4096 },
            },
            name: Name::new(&shelf.canonical(pick)).ok(),
            description: describe(pick),
            cache: true,
            contexts: [vec![DEPTH.to_owned()], contexts].concat(),
            aliases: Some(aliases(Arc::clone(shelf), others)),
            ..Info::read_only(image.len())
        };
        let (id, item) = (pick.backup.id, pick.image().name.clone());
        BackupExport { id, item, image, info, streams: Streams::default(), since, traffic }
    }

    /// Which backup it belongs to.
    pub fn id(&self) -> BackupId {
        self.id
    }

    /// Its name there.
    pub fn item(&self) -> &str {
        &self.item
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }
}

/// Any reference to one of the others is a name of its bitmap, not only the canonical one: `since:web01@latest~1`.
fn aliases(shelf: Arc<Shelf>, others: Vec<(BackupId, usize)>) -> Aliases {
    Aliases::new(move |name| {
        let pick = shelf.find(name.strip_prefix(SINCE)?).ok()?;
        // Behind the context that says in which layer data lies.
        others.iter().position(|other| *other == (pick.backup.id, pick.number)).map(|place| place + 1)
    })
}

/// What people are told of an image.
pub fn describe(pick: &Pick<'_>) -> String {
    let (backup, image) = (pick.backup, pick.image());
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let source = image.source.as_deref().unwrap_or("somewhere");
    let shown: String = source.escape_debug().take(SOURCE_SHOWN_MAX).collect();
    format!(
        "backup {} of {} at {}: {}, {:.2} GiB, {:.2} GiB of it data, read from {shown}",
        &backup.id.to_string()[..8],
        backup.name,
        backup.time,
        image.name,
        gib(image.size),
        gib(image.allocated)
    )
}

impl Export for BackupExport {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        self.traffic.came();
        Answer::ok(None)
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        let _last = self.traffic.left(clean);
        Answer::ok(())
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let here = self.image.read_now(offset, bytes);
        self.streams.note(&self.image, offset, len.into());
        self.traffic.read(len.into());
        match here {
            Some(parts) => Answer::Now(parts.map(parts_of).map_err(|why| failed(&why).at(offset))),
            None => {
                let image = self.image.clone();
                from_repository(async move {
                    image.read(offset, bytes).await.map(parts_of).map_err(|why| failed(&why).at(offset))
                })
            }
        }
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        let image = self.image.clone();
        let end = offset + len.min(CACHE_MAX).min(image.engine().memory() / 8);
        from_repository(async move {
            let mut at = offset;
            while at < end {
                let step = CACHE_STEP.min(end - at);
                // It is in the cache now, which is all that was asked for.
                drop(image.read(at, step as usize).await.map_err(|why| failed(&why).at(at))?);
                at += step;
            }
            Ok(())
        })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let image = self.image.clone();
        let failed = move |why| failed(&why).at(offset);
        let flags = match context {
            0 => [state::HOLE | state::ZERO, 0],
            1 => [0, 1],
            other => {
                let Some(since) = self.since.get(other - 2) else {
                    return Answer::err(Refusal::new(RefusalKind::Invalid, "no such context"));
                };
                let changed = since.changed(&image);
                return from_repository(
                    async move { Ok(changed.await.map_err(failed)?.extents(offset, len)) },
                );
            }
        };
        from_repository(async move { stretches(&image, offset, len, one, flags).await.map_err(failed) })
    }
}

/// What is stored and what is not from `offset` on, under the flags for holes and for data.
pub(super) async fn stretches(
    image: &Image,
    offset: u64,
    len: u64,
    one: bool,
    flags: [u64; 2],
) -> Result<Vec<Extent>> {
    let end = offset + len;
    let until = end.min(offset.saturating_add(STATUS_SPAN));
    let mut extents = Vec::new();
    let mut at = offset;
    let most = if one { 1 } else { EXTENTS_MAX };
    while at < until && extents.len() < most {
        let mut extent = image.extent(at, until).await?;
        if !extent.data && extent.range.end == until && until < end {
            // However far a hole reaches, it is found in a few steps.
            extent = image.extent(at, end).await?;
        }
        extents.push(Extent { len: extent.range.end - at, flags: flags[usize::from(extent.data)] });
        at = extent.range.end;
    }
    Ok(extents)
}

/// What an image gives, for the wire.
pub(super) fn parts_of(parts: Vec<ImagePart>) -> Parts {
    let part = |part| match part {
        ImagePart::Bytes(bytes) => Part::Data(bytes.into_bytes()),
        // No request is longer than 32 bits.
        ImagePart::Zeros(len) => Part::Hole(u32::try_from(len).unwrap_or(u32::MAX)),
    };
    let mut parts: Vec<Part> = parts.into_iter().map(part).collect();
    match parts.len() {
        1 => Parts::One(parts.remove(0)),
        _ => Parts::Many(parts),
    }
}
