//! `export`: backups of ours as a container of Cinder's.
//!
//! Puts the backups in order, parents first, and hands each image to `foreign::cinder::write`. With `--chain`, a backup whose parent has an image
//! of the same size becomes an increment; anything else is a full backup, for which Cinder needs nothing else.

use super::args::{CinderCompression, Export};
use super::context::Context;
use super::units;
use crate::error::{Context as _, Error, Kind, Result};
use crate::foreign::cinder::document::Uuid;
use crate::foreign::cinder::document::metadata::Compression;
use crate::foreign::cinder::write::{BLOCK, Options, Shipment, Shipped, describe, ship};
use crate::format::record::{Content, Item, Record};
use crate::format::{BackupId, limits};
use crate::image::{Engine, Image, Map, compare};
use crate::repo::refs::Reference;
use crate::source::disks;
use serde_json::json;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// An image that is to be exported, and what it adds to.
struct Planned {
    record: Record,
    item: Item,
    image: Image,
    /// Which of those before it is its parent.
    parent: Option<usize>,
}

pub(super) fn run(context: &Context, args: &Export) -> Result<u8> {
    let root = target(context, &args.to)?;
    let options = options(args)?;
    let engine = context.engine()?;
    let planned = plan(context, &engine, args)?;
    let shipped = context.with_progress("exporting", |progress| {
        planned.iter().for_each(|one| progress.expect(one.image.len()));
        let mut shipped: Vec<Shipped> = Vec::with_capacity(planned.len());
        for one in &planned {
            let parent = one.parent.map(|parent| (&planned[parent], &shipped[parent]));
            let shipment = shipment(context, one, parent)?;
            shipped.push(ship(&root, shipment, &options, progress, &context.cancel)?);
        }
        Ok(shipped)
    })?;
    if shipped.iter().any(|one| one.metadata.parent_id.is_some()) {
        context.say(
            "note: Cinder 22 to 28 restores an increment to a new volume wrongly where it turned bytes to zeros; \
             there, restore to a volume that exists, or export without --chain",
        );
    }
    print(context, &planned, &shipped)?;
    Ok(0)
}

/// The directory behind `cinder:`, which is not part of the repository.
fn target(context: &Context, to: &str) -> Result<PathBuf> {
    let off = || Error::new(Kind::Usage, format!("{to:?} is no container")).hint("--to cinder:DIR");
    let dir = to.strip_prefix("cinder:").filter(|dir| !dir.is_empty()).ok_or_else(off)?;
    if dir.contains("://") {
        let words = format!("{to}: containers are only written to directories");
        return Err(Error::new(Kind::Unsupported, words).hint("write it to a directory, and copy that there"));
    }
    let root = PathBuf::from(dir);
    if !root.is_dir() {
        let words = format!("{} is no directory", root.display());
        return Err(
            Error::new(Kind::Missing, words).hint("make it first: it is what backup_posix_path names")
        );
    }
    if let Some(repository) = context.directory()?.filter(|path| path.is_dir())
        && disks::lies_inside(&root, &repository)?
    {
        let words = format!("{} lies inside the repository {}", root.display(), repository.display());
        return Err(Error::new(Kind::Refused, words).hint("name a directory outside of it"));
    }
    Ok(root)
}

fn options(args: &Export) -> Result<Options> {
    let object_size = args.object_size;
    if object_size == 0 || !object_size.is_multiple_of(BLOCK) || object_size > limits::IMAGE_LEN_MAX {
        let words = format!("objects of {object_size} bytes: it has to be a multiple of 32 KiB");
        return Err(Error::new(Kind::Usage, words));
    }
    let compression = match args.compression {
        CinderCompression::Zlib => Compression::Zlib,
        CinderCompression::Zstd => Compression::Zstd,
        CinderCompression::None => Compression::None,
    };
    Ok(Options { compression, object_size, skip_zeros: args.skip_zeros })
}

/// Every image of the backups, each once and after its parent.
fn plan(context: &Context, engine: &Arc<Engine>, args: &Export) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut places: HashMap<(BackupId, String), usize> = HashMap::new();
    for text in &args.backups {
        let reference = Reference::parse(text)?;
        let record = context.runtime().block_on(engine.repository()?.find(&reference))?;
        let chain = match args.chain {
            true => context.runtime().block_on(super::record::ancestors(engine.repository()?, record))?,
            false => vec![record],
        };
        for record in chain {
            for item in wanted_items(&record, reference.item.as_deref(), text)? {
                let key = (record.id, item.name.clone());
                if places.contains_key(&key) {
                    continue;
                }
                let image = image_of(engine, &record, item)?;
                let parent = record.parent.filter(|_| args.chain);
                let parent = parent.and_then(|parent| places.get(&(parent, item.name.clone())).copied());
                // Cinder knows no increment of a volume that grew or shrank.
                let parent = parent.filter(|&parent| planned[parent].image.len() == image.len());
                let _new = places.insert(key, planned.len());
                planned.push(Planned { record: record.clone(), item: item.clone(), image, parent });
            }
        }
    }
    Ok(planned)
}

fn wanted_items<'a>(record: &'a Record, wanted: Option<&str>, text: &str) -> Result<Vec<&'a Item>> {
    let items: Vec<&Item> =
        record.items.iter().filter(|item| wanted.is_none_or(|wanted| item.name == wanted)).collect();
    if items.is_empty() {
        return Err(Error::new(Kind::Missing, format!("{text}: backup {} holds no such item", record.id)));
    }
    Ok(items)
}

fn image_of(engine: &Arc<Engine>, record: &Record, item: &Item) -> Result<Image> {
    let Content::Image { size, root, .. } = item.content else {
        let words = format!("{} of backup {} is a tree: Cinder keeps only volumes", item.name, record.id);
        return Err(Error::new(Kind::Unsupported, words));
    };
    Ok(Image::new(engine.of_home(record.repository), Map { root, len: size }))
}

fn shipment<'a>(
    context: &Context,
    one: &'a Planned,
    parent: Option<(&Planned, &Shipped)>,
) -> Result<Shipment<'a>> {
    let parent_id: Option<Uuid> = parent.map(|(_, shipped)| shipped.metadata.backup_id);
    let metadata = describe::metadata(&one.record, &one.item, one.image.len(), parent_id)?;
    let changes = match parent {
        None => None,
        Some((parent, shipped)) => {
            let mut changed: Vec<Range<u64>> = Vec::new();
            let mut differs = |range| changed.push(range);
            let compared = compare(&parent.image, &one.image, &mut differs);
            context.runtime().block_on(compared).context(|| "compare a backup with its parent")?;
            Some((shipped.place.clone(), changed))
        }
    };
    Ok(Shipment { metadata, image: &one.image, changes })
}

fn print(context: &Context, planned: &[Planned], shipped: &[Shipped]) -> Result<()> {
    let all = || planned.iter().zip(shipped);
    let json = || {
        let one = all().map(|(one, shipped)| {
            json!({
                "backup": one.record.id, "image": one.item.name, "id": shipped.metadata.backup_id,
                "parent": shipped.metadata.parent_id, "volume": shipped.metadata.volume_id,
                "objects": shipped.metadata.objects.len(), "bytes_stored": shipped.stored, "new": !shipped.was_there,
                "container": shipped.place.container, "prefix": shipped.place.prefix,
            })
        });
        json!({ "backups": one.collect::<Vec<_>>() })
    };
    context.print(json, || {
        for (one, shipped) in all() {
            let kind = if shipped.metadata.parent_id.is_some() { "increment" } else { "full" };
            let how = match shipped.was_there {
                true => "was there already".to_owned(),
                false => format!(
                    "{kind}, {} objects, {}",
                    shipped.metadata.objects.len(),
                    units::size(shipped.stored)
                ),
            };
            context.say(format!("{}@{}: {how}", one.record.name, one.record.time));
        }
        shipped.iter().map(|shipped| format!("{}\n", shipped.metadata.backup_id)).collect()
    })
}
