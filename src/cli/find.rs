//! `find` and `history`: files across all backups, and one file's versions.

use super::args::{Find, History};
use super::context::Context;
use super::units;
use crate::error::{Error, Kind, Result};
use crate::format::tree::Time;
use crate::view::pattern::Pattern;
use crate::view::versions::{self, Found, Series, Stat, Version};
use serde_json::{Value, json};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Shows every file that a pattern means.
pub(super) fn run(context: &Context, args: &Find) -> Result<u8> {
    let pattern = Pattern::parse(args.pattern.as_bytes())?;
    let all = series(context, args.name.as_deref())?;
    let mut found = Vec::new();
    for series in &all {
        let here =
            context.runtime().block_on(versions::find(series, &pattern, versions::ROOM, &context.cancel))?;
        found.extend(here.into_iter().map(|found| (series, found)));
    }
    let many = all.len() > 1;
    context.print(
        || Value::Array(found.iter().map(|(series, found)| found_json(series, found)).collect()),
        || found.iter().map(|(series, found)| found_words(series, found, many)).collect(),
    )?;
    Ok(if found.is_empty() { 1 } else { 0 })
}

/// Shows the versions of one file.
pub(super) fn history(context: &Context, args: &History) -> Result<u8> {
    let all = series(context, Some(&args.name))?;
    let path = args.path.as_bytes();
    let mut found = Vec::new();
    for series in &all {
        let versions = context.runtime().block_on(versions::history(series, path, &context.cancel))?;
        if !versions.is_empty() {
            found.push((series, Found { path: path.to_owned(), versions }));
        }
    }
    if found.is_empty() {
        let words = format!("no backup of {} has {}", args.name, path.escape_ascii());
        return Err(
            Error::new(Kind::Missing, words).hint("paths begin below the directory that was backed up")
        );
    }
    context.print(
        || Value::Array(found.iter().map(|(series, found)| found_json(series, found)).collect()),
        || found.iter().map(|(series, found)| found_words(series, found, false)).collect(),
    )?;
    Ok(0)
}

fn series(context: &Context, name: Option<&str>) -> Result<Vec<Series>> {
    let engine = context.engine()?;
    let listing = context.runtime().block_on(engine.repository()?.list())?;
    for (id, error) in &listing.damaged {
        tracing::warn!("backup {id} is passed over: {error}");
    }
    let all = Series::of(&engine, &listing.records, name);
    match (all.is_empty(), name) {
        (true, Some(name)) => {
            let words = format!("there is no backup of a share named {name:?}");
            Err(Error::new(Kind::Missing, words).hint("afterimage list shows what there is"))
        }
        _ => Ok(all),
    }
}

fn found_json(series: &Series, found: &Found) -> Value {
    let versions: Vec<Value> = found.versions.iter().map(|version| version_json(series, version)).collect();
    let mut json = json!({ "name": series.name, "item": series.item, "versions": versions });
    if let Some(map) = json.as_object_mut() {
        map.extend(path_json(&found.path));
    }
    json
}

/// A path as JSON can have it: as text, and where it is none as the hex digits of its bytes, too.
pub(super) fn path_json(path: &[u8]) -> serde_json::Map<String, Value> {
    let mut map = serde_json::Map::new();
    let _new = map.insert("path".to_owned(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        let hex = path.iter().fold(String::new(), |mut hex, byte| {
            let _fits = write!(hex, "{byte:02x}");
            hex
        });
        let _new = map.insert("path_hex".to_owned(), hex.into());
    }
    map
}

fn version_json(series: &Series, version: &Version) -> Value {
    let Stat { kind, mode, uid, gid, size, mtime } = version.stat;
    let numbers = version.backups.iter().flat_map(|(first, last)| *first..=*last);
    let backups: Vec<Value> = numbers
        .filter_map(|number| series.backups.get(number))
        .map(|backup| json!({ "id": backup.id, "time": backup.time }))
        .collect();
    json!({
        "kind": kind.to_string(), "mode": format!("{mode:04o}"), "uid": uid, "gid": gid, "size": size,
        "mtime": time(mtime), "backups": backups,
    })
}

fn time(time: Time) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    jiff::Timestamp::new(time.secs, nanos).map_or_else(|_| time.secs.to_string(), |time| time.to_string())
}

fn found_words(series: &Series, found: &Found, named: bool) -> String {
    let name = if named { format!("{}: ", units::plain(&series.name)) } else { String::new() };
    let mut out = format!("{name}{}\n", shown(&found.path));
    for version in &found.versions {
        let Stat { kind, mode, size, mtime, .. } = version.stat;
        let written = time(Time { nanos: 0, ..mtime });
        let _fits = writeln!(
            out,
            "  {kind}{mode:04o} {:>10}  written {written}  in {}",
            units::size(size),
            backups(series, version)
        );
    }
    out
}

fn backups(series: &Series, version: &Version) -> String {
    let time =
        |number: usize| series.backups.get(number).map_or(String::new(), |backup| backup.time.to_string());
    let range = |(first, last): &(usize, usize)| match last - first {
        0 => time(*first),
        more => format!("{} to {} ({} backups)", time(*last), time(*first), more + 1),
    };
    version.backups.iter().map(range).collect::<Vec<_>>().join(", ")
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => units::plain(text),
        Err(_) => path.escape_ascii().to_string(),
    }
}
