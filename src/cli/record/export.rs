//! `record export`: one line that another repository imports.

use crate::cli::args::{RecordExport, RecordFormat};
use crate::cli::context::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::record::Record;
use crate::format::{BackupId, RepositoryId};
use crate::repo::Repository;
use crate::repo::refs::Reference;
use serde_json::Value;
use std::path::Path;

pub(super) fn run(context: &Context, args: &RecordExport) -> Result<u8> {
    if let Some(container) = context.cinder()? {
        return super::cinder::export(context, &container, args);
    }
    let repository = context.repository()?;
    if args.format == Some(RecordFormat::Cinder) {
        let words = "Cinder imports backups of a container of its own, and this repository is none";
        return Err(Error::new(Kind::Unsupported, words)
            .hint("afterimage export BACKUP --to cinder:DIR makes one, and afterimage -r cinder:DIR record export its records"));
    }
    let runtime = context.runtime();
    let record = runtime.block_on(repository.find(&Reference::parse(&args.backup)?))?;
    refuse_imported(&record, repository.id())?;
    let chain = match args.chain {
        true => runtime.block_on(ancestors(&repository, record))?,
        false => vec![record],
    };
    let ids: Vec<BackupId> = chain.iter().map(|record| record.id).collect();
    let line = runtime.block_on(repository.carry(&ids, home_place(context.place()?)?))?.write()?;
    // The line is JSON already, for people as for machines.
    let json = || serde_json::from_str::<Value>(&line).unwrap_or_default();
    context.print(json, || format!("{line}\n"))?;
    Ok(0)
}

/// A backup and those before it, as far as they are still here; the oldest first.
pub(in crate::cli) async fn ancestors(repository: &Repository, record: Record) -> Result<Vec<Record>> {
    let mut chain = vec![record];
    while let Some(parent) = chain.last().and_then(|last| last.parent) {
        // A parent is named by who holds the key; a circle would be a bug of somebody's, and endless.
        if chain.iter().any(|record| record.id == parent) {
            break;
        }
        match repository.record(parent).await {
            Ok(record) if record.repository == repository.id() => chain.push(record),
            Ok(_) => break,
            Err(error) if error.kind() == Kind::Missing => break,
            Err(error) => return Err(error),
        }
    }
    chain.reverse();
    Ok(chain)
}

fn refuse_imported(record: &Record, here: RepositoryId) -> Result<()> {
    if record.repository == here {
        return Ok(());
    }
    let words = format!(
        "backup {} is in another repository, {}: its record is that one's",
        record.id, record.repository
    );
    Err(Error::new(Kind::Refused, words).hint("export it there; afterimage show says where that is"))
}

/// A place as others can name it: a directory by its whole path.
pub(super) fn home_place(place: &str) -> Result<String> {
    let path = Path::new(place);
    if !path.is_dir() {
        return Ok(place.to_owned());
    }
    let whole = path.canonicalize().context(|| format!("look at {place}"))?;
    whole.into_os_string().into_string().map_err(|path| {
        let words = format!("{}: a record can only name places that are text", path.display());
        Error::new(Kind::Unsupported, words)
    })
}
