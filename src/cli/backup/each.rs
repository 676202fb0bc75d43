//! `backup --each`: every source becomes a backup of its own, named and dated by a table; for directories of backups that others made, such as
//! Manila's `<backup id>/`.
//!
//! The whole table is judged before the first backup is made. They are made in the order of their times, so that each is compared with the
//! one before it. One that fails ends the run; those before it are listed and stay.

use super::{Began, code_of, make, read_metadata, summary};
use crate::cli::args::Backup;
use crate::cli::context::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::record::is_name;
use crate::format::shown::to_json;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// One source, and what is known of it.
struct Row {
    source: String,
    name: String,
    time: Option<jiff::Timestamp>,
    metadata: Map<String, Value>,
}

pub(super) fn run(context: &Context, args: &Backup) -> Result<u8> {
    if args.parent.is_some() && args.parent.as_deref() != Some("none") {
        return Err(usage(
            "with --each every backup is compared with the latest of its own name: leave --parent out",
        ));
    }
    let table = args.metadata.as_deref().map(read_metadata).transpose()?;
    let mut rows =
        args.sources.iter().map(|source| row(args, source, table.as_ref())).collect::<Result<Vec<_>>>()?;
    if let Some(table) = &table {
        tell_unused(context, table, &rows);
    }
    rows.sort_by_key(|row| row.time);
    let engine = context.writer_engine()?;
    let (mut records, mut code) = (Vec::new(), 0);
    for Row { source, name, time, metadata } in rows {
        let one = Backup { sources: vec![source.clone()], name: Some(name), time, ..args.clone() };
        let record = make(context, &engine, &one, metadata, Began::Claimed).context(|| source)?;
        code = code_of(&record).max(code);
        if !context.global.json {
            context.print(|| Value::Null, || summary(context, &record))?;
        }
        records.push(record);
    }
    if context.global.json {
        context.print(|| records.iter().map(to_json).collect(), String::new)?;
    }
    Ok(code)
}

/// What is known of a source before anything of it is read.
fn row(args: &Backup, source: &str, table: Option<&Map<String, Value>>) -> Result<Row> {
    let own = own_name(source)?;
    let metadata = match table.map(|table| table.get(&own)) {
        None => Map::new(),
        Some(Some(Value::Object(metadata))) => metadata.clone(),
        Some(Some(_)) => return Err(usage(format!("what the table has for {own} is no object"))),
        Some(None) => return Err(usage(format!("the table has nothing for {own}"))),
    };
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    let name = text("name").map(str::to_owned).or_else(|| args.name.clone()).unwrap_or_else(|| own.clone());
    if !is_name(&name) {
        return Err(usage(format!("{name:?} can't be the name of the backup of {own}")));
    }
    let time = match text("time") {
        None => args.time,
        Some(time) => Some(time.parse().map_err(|_| usage(format!("{time:?}, for {own}, is no time")))?),
    };
    Ok(Row { source: source.to_owned(), name, time, metadata })
}

fn own_name(source: &str) -> Result<String> {
    let name = Path::new(source).file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| usage(format!("{source:?} ends in no name")))
}

/// What the table has beyond the sources is no error: a directory may have gone.
fn tell_unused(context: &Context, table: &Map<String, Value>, rows: &[Row]) {
    let used: BTreeSet<String> = rows.iter().filter_map(|row| own_name(&row.source).ok()).collect();
    for name in table.keys().filter(|name| !used.contains(*name)) {
        context.say(format!("note: the table has {name}, which is no source"));
    }
}

fn usage(words: impl Into<String>) -> Error {
    Error::new(Kind::Usage, words)
}
