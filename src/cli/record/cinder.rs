//! Records of Cinder's: printed from a container alone, and read as Cinder or its clients printed them.

use crate::cli::adopt::ancestors;
use crate::cli::args::{RecordExport, RecordFormat};
use crate::cli::context::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::foreign::cinder::Container;
use crate::foreign::cinder::document::listed;
use crate::foreign::cinder::document::record::{ExportRecord, Row};
use crate::foreign::cinder::rows;
use crate::format::BackupId;
use crate::format::record::Record;
use crate::image::Library;
use crate::repo::refs::Reference;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Prints what `cinder backup-import` takes, parents first.
pub(super) fn export(context: &Context, container: &Arc<Container>, args: &RecordExport) -> Result<u8> {
    if args.format == Some(RecordFormat::Native) {
        let words = "a container of Cinder's needs no record to be read by afterimage";
        return Err(Error::new(Kind::Unsupported, words).hint("-r cinder:DIR, or backup cinder:DIR#BACKUP"));
    }
    let runtime = context.runtime();
    let record = runtime.block_on(container.find(&Reference::parse(&args.backup)?))?;
    let chain = match args.chain {
        true => runtime.block_on(ancestors(&**container, record))?,
        false => vec![record],
    };
    let service = args.service.as_deref().unwrap_or(rows::SERVICE);
    let records: Vec<ExportRecord> = chain
        .iter()
        .map(|record| Ok(ExportRecord::of(service, &rows::row(record)?)?))
        .collect::<Result<_>>()?;
    if let [only] = chain.as_slice()
        && only.parent.is_some()
    {
        context.say(
            "note: it is an increment: Cinder restores it only if its parents are imported too (--chain)",
        );
    }
    context.print(|| as_json(&records, args.chain), || listed::write(&records))?;
    Ok(0)
}

fn as_json(records: &[ExportRecord], several: bool) -> Value {
    match (several, records) {
        (false, [only]) => json!(only),
        _ => json!(records),
    }
}

/// Looks up each record in a container: where it is one of Cinder's own, nothing has to be kept of it.
pub(super) fn look_up(context: &Context, container: &Arc<Container>, text: &[u8]) -> Result<u8> {
    let rows = rows_in(text)?;
    let listed = listed_in(context, container)?;
    let found = rows.iter().map(|row| find(&listed, row)).collect::<Result<Vec<Record>>>()?;
    let json = || Value::Array(found.iter().map(|record| container.json(record)).collect());
    context.print(json, || {
        let line = |record: &Record| {
            format!(
                "{}  {}@{}\n",
                crate::foreign::cinder::document::Uuid::from(record.id),
                record.name,
                record.time
            )
        };
        found.iter().map(line).collect()
    })?;
    Ok(0)
}

/// What the records in a text say.
pub(super) fn rows_in(text: &[u8]) -> Result<Vec<Row>> {
    let records = listed::parse(text).map_err(|refused| {
        Error::new(Kind::Usage, format!("read export records: {refused}"))
            .hint("afterimage record export, cinder backup-export or openstack volume backup record export prints them")
    })?;
    let row = |record: &ExportRecord| record.row().map_err(Error::from).context(|| "read an export record");
    records.iter().map(row).collect()
}

/// What a container has, by its ids.
pub(super) fn listed_in(context: &Context, container: &Arc<Container>) -> Result<HashMap<BackupId, Record>> {
    let listed = context.runtime().block_on(container.list())?;
    Ok(listed.records.into_iter().map(|record| (record.id, record)).collect())
}

/// The backup that a record speaks of, where the container has it whole.
pub(super) fn find(listed: &HashMap<BackupId, Record>, row: &Row) -> Result<Record> {
    let record = listed.get(&BackupId::from(row.id)).ok_or_else(|| {
        let told = row.container.as_deref().unwrap_or_default();
        Error::new(Kind::Missing, format!("backup {} is not in this container", row.id)).hint(format!(
            "its record says that it lies in {told:?}, under {:?}",
            row.service_metadata.as_deref().unwrap_or_default()
        ))
    })?;
    match record.unread.first() {
        Some(why) => Err(Error::new(Kind::Corrupt, format!("backup {} can't be read: {why}", row.id))),
        None => Ok(record.clone()),
    }
}
