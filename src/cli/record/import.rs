//! `record import` and `record remove`: backups of other repositories among ours.
//!
//! The home is opened with its own key, which opens the record. Then the record stays here and the backup there, or (`--copy`) the backup is stored
//! here, in this repository's own chunks and under its own key.

use super::cinder;
use super::export::home_place;
use crate::cli::adopt::{self, Place, Wish, adopt, ancestors};
use crate::cli::args::RecordImport;
use crate::cli::context::Context;
use crate::cli::{locations, password};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::carried::Carried;
use crate::format::record::{Content, Item, Record};
use crate::format::shown::to_json;
use crate::format::{BackupId, limits};
use crate::image::Engine;
use crate::repo::Repository;
use crate::repo::pins::Pin;
use crate::repo::refs::Reference;
use crate::seal::{LEVEL_DEFAULT, Verified};
use crate::store;
use crate::sync::Sides;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub(super) fn run(context: &Context, args: &RecordImport) -> Result<u8> {
    let text = read(&args.file)?;
    if let Some(container) = context.cinder()? {
        return cinder::look_up(context, &container, &text);
    }
    if !Carried::is_meant(&text) {
        return import_cinder(context, args, &text);
    }
    let carried =
        Carried::parse(&text).map_err(Error::from).context(|| format!("read {}", args.file.display()))?;
    let engine = context.writer_engine()?;
    let ours = engine.repository()?;
    if carried.home == ours.id() {
        return Err(Error::new(Kind::Refused, "the record is of this very repository, which has it already"));
    }
    let place = match &args.home {
        Some(place) => home_place(place)?,
        None => carried.place.clone(),
    };
    let home = Arc::new(open_home(context, args, &place)?);
    let records = home.open_carried(&carried)?;
    let imported = match args.copy {
        true => copy_all(context, &engine, &home, records.into_iter().map(|(record, _)| record).collect())?,
        false => {
            refuse_to_expose(context, ours, &home)?;
            let import = |(record, json): (Record, Verified)| {
                let new = context.runtime().block_on(ours.import(&home, &place, record.id, &json))?;
                Ok((record, new))
            };
            records.into_iter().map(import).collect::<Result<Vec<_>>>()?
        }
    };
    context.print(|| as_json(&imported), || page(context, &imported))?;
    Ok(0)
}

/// Stores the backups that records of Cinder's speak of, parents first.
fn import_cinder(context: &Context, args: &RecordImport, text: &[u8]) -> Result<u8> {
    let rows = cinder::rows_in(text).context(|| format!("read {}", args.file.display()))?;
    let place =
        args.home.as_deref().filter(|_| args.copy).map(|home| Place::open(context, home)).transpose()?;
    let Some(place) = place.flatten() else {
        let words = "records of Cinder's speak of a container, which is read as it is";
        return Err(Error::new(Kind::Usage, words).hint(
            "afterimage -r cinder:DIR record import looks them up there; --home cinder:DIR --copy stores their backups here",
        ));
    };
    let engine = context.writer_engine()?;
    let wish = Wish { name: None, tags: BTreeMap::new(), level: LEVEL_DEFAULT, digest: false };
    let mut made: Vec<(Record, bool)> = Vec::new();
    let listed = cinder::listed_in(context, &place.container)?;
    for row in rows {
        let record = cinder::find(&listed, &row)?;
        for theirs in context.runtime().block_on(ancestors(&*place.container, record))? {
            if made.iter().all(|(ours, _)| ours.id != theirs.id) {
                made.push(adopt(context, &engine, &place, &theirs, &wish)?);
            }
        }
    }
    context.print(|| as_json(&made), || adopt::page(context, &made))?;
    Ok(0)
}

/// Forgets an imported record.
pub(super) fn remove(context: &Context, backup: &str) -> Result<u8> {
    let repository = context.repository()?;
    let runtime = context.runtime();
    let record = runtime.block_on(repository.find(&Reference::parse(backup)?))?;
    if record.repository == repository.id()
        && !runtime.block_on(repository.import_ids())?.contains(&record.id)
    {
        let words = format!("backup {} is in this repository itself, not imported", record.id);
        return Err(Error::new(Kind::Refused, words));
    }
    let pins = runtime.block_on(repository.pins())?;
    let needs_it = |pin: &Pin| pin.backup == record.id && record.repository != repository.id();
    if let Some((_, pin)) = pins.iter().find(|(_, pin)| needs_it(pin)) {
        let words =
            format!("backup {} is needed by {} on {}, since {}", record.id, pin.by, pin.host, pin.since);
        return Err(Error::new(Kind::Refused, words));
    }
    runtime.block_on(repository.forget_import(record.id))?;
    context.print(|| json!({ "id": record.id }), || format!("removed the record of {}\n", record.id))?;
    Ok(0)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("read the record in {}", path.display());
    let reader: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).context(what)?),
    };
    let (mut text, limit) = (Vec::new(), u64::from(limits::CARRIED_LEN_MAX));
    let len = reader.take(limit + 1).read_to_end(&mut text).context(what)?;
    match len as u64 > limit {
        true => Err(Error::new(Kind::Usage, format!("{}: it is longer than {limit} bytes", what()))),
        false => Ok(text),
    }
}

fn open_home(context: &Context, args: &RecordImport, place: &str) -> Result<Repository> {
    let what = || format!("open the repository that the record comes from, {place}");
    let opened = store::open(place).context(what).map_err(|error| match error.kind() {
        Kind::Missing | Kind::Unreachable => error.hint("--home PLACE says where it lies as seen from here"),
        _ => error,
    })?;
    let cache = locations::cache();
    let runtime = context.runtime();
    match args.home_password_file.as_deref().map(password::from_file).transpose()? {
        Some(password) => runtime.block_on(Repository::open_with(opened.store, &cache, &password)),
        None => {
            let mut ask = || {
                password::ask(&format!("Password of {place}"))
                    .map_err(|error| error.hint("give --home-password-file F"))
            };
            runtime.block_on(Repository::open(opened.store, &cache, &mut ask))
        }
    }
    .context(what)
}

/// The home's key lies in the imported record: it must not be easier to get at than at home.
fn refuse_to_expose(context: &Context, ours: &Repository, home: &Repository) -> Result<()> {
    let is_open = |repository: &Repository| context.runtime().block_on(repository.is_open_to_all());
    if is_open(ours)? && !is_open(home)? {
        let words = "the key of this repository lies open, that of the record's home does not: importing it would lay that one open too";
        return Err(Error::new(Kind::Refused, words)
            .hint("afterimage key add and key remove end that; or copy the backup in: --copy"));
    }
    Ok(())
}

/// Stores backups of another repository in this one, parents first; which of them that was needed for.
fn copy_all(
    context: &Context,
    to: &Arc<Engine>,
    home: &Arc<Repository>,
    records: Vec<Record>,
) -> Result<Vec<(Record, bool)>> {
    let runtime = context.runtime();
    let from = Engine::new(Arc::clone(home), runtime.clone(), context.global.memory / 2)?;
    let ours = to.repository()?;
    let (ids, listed) = (runtime.block_on(ours.record_ids())?, runtime.block_on(ours.list_ours())?);
    let mut here: BTreeMap<BackupId, Record> =
        listed.records.into_iter().map(|record| (record.id, record)).collect();
    let mut imported = Vec::new();
    for record in &records {
        let new = !ids.contains(&record.id);
        if new {
            let digest = record.items.iter().any(|item| digest_of(item).is_some());
            let copied = context.with_progress("copying", |progress| {
                let cancel = &context.cancel;
                Sides { from: &from, to, runtime, digest, progress, cancel }.copy(record, &records, &here)
            })?;
            let _none = here.insert(copied.id, copied);
        }
        imported.push((record.clone(), new));
    }
    Ok(imported)
}

fn digest_of(item: &Item) -> Option<&str> {
    match &item.content {
        Content::Image { sha256, .. } => sha256.as_deref(),
        Content::Tree { .. } => None,
    }
}

fn as_json(imported: &[(Record, bool)]) -> Value {
    let one = |(record, new): &(Record, bool)| {
        let mut json = to_json(record);
        json["new"] = json!(new);
        json
    };
    Value::Array(imported.iter().map(one).collect())
}

fn page(context: &Context, imported: &[(Record, bool)]) -> String {
    for (record, new) in imported {
        let how = if *new { "imported" } else { "here already:" };
        context.say(format!("{how} {}@{}", record.name, record.time));
    }
    imported.iter().map(|(record, _)| format!("{}\n", record.id)).collect()
}
