//! `stats`: what a running mount or server does.

use super::args::Stats;
use super::context::Context;
use super::{control, units};
use crate::error::{Error, Kind, Result};
use serde_json::Value;
use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub(super) fn run(context: &Context, args: &Stats) -> Result<u8> {
    let paths = find(args.at.as_deref())?;
    let request = if args.prometheus { "stats prometheus" } else { "stats json" };
    let mut answers = Vec::new();
    for path in &paths {
        match control::ask(path, request) {
            Ok(answer) => answers.push(answer),
            // Of many, one that was killed has left its socket; of one that was asked for, that is the answer.
            Err(error) if args.at.is_none() => tracing::debug!("{error}"),
            Err(error) => return Err(error),
        }
    }
    if args.prometheus {
        return context.print(|| Value::from(answers.concat()), || answers.concat()).map(|()| 0);
    }
    let parse = |answer: &String| {
        serde_json::from_str::<Value>(answer)
            .map_err(|error| Error::new(Kind::Corrupt, "read what the mount answered").caused_by(error))
    };
    let mut documents = answers.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let people = documents.iter().map(page_of).collect::<Vec<_>>().join("\n");
    let json = match (args.at.is_some(), documents.pop()) {
        (true, Some(only)) => only,
        (_, last) => documents.into_iter().chain(last).collect(),
    };
    context.print(|| json, || people)?;
    Ok(0)
}

/// Whom to ask: the one that is named, or all of this user's.
fn find(at: Option<&Path>) -> Result<Vec<PathBuf>> {
    let Some(at) = at else { return Ok(control::all_paths()) };
    let is_socket = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket(at) {
        return Ok(vec![at.to_owned()]);
    }
    let real = std::fs::canonicalize(at).unwrap_or_else(|_| at.to_owned());
    match control::paths_of(&real).as_slice() {
        [] => Err(Error::new(Kind::Missing, format!("nothing of yours is mounted at {}", at.display()))
            .hint("afterimage stats without a mountpoint shows all")),
        found => Ok(found.to_vec()),
    }
}

fn page_of(stats: &Value) -> String {
    if stats["exports"].is_array() { page_of_server(stats) } else { page(stats) }
}

fn page_of_server(stats: &Value) -> String {
    let mut out = String::new();
    let _fits = writeln!(out, "server      process {}, since {}", stats["pid"], text(&stats["since"]));
    let head = ["CLIENTS", "READ", "WRITTEN", "ZEROED", "SPARED"];
    let _fits = writeln!(out, "{:<24}{}", "EXPORT", head.map(|word| format!("{word:>12}")).concat());
    for export in stats["exports"].as_array().into_iter().flatten() {
        let name = export["name"].as_str().map_or("(backups)".to_owned(), units::plain);
        let size = |key: &str| format!("{:>12}", units::size(export[key].as_u64().unwrap_or(0)));
        let sizes = ["read_bytes", "written_bytes", "zeroed_bytes", "spared_bytes"].map(size).concat();
        let _fits = writeln!(out, "{name:<24}{:>12}{sizes}", export["connections"].to_string());
        if let Some(line) = line_of_capture(&export["capture"]).or_else(|| line_of_live(&export["live"])) {
            let _fits = writeln!(out, "  {line}");
        }
    }
    out
}

fn line_of_capture(facts: &Value) -> Option<String> {
    let state = facts["state"].as_str()?;
    let of = |key: &str| units::size(facts[key].as_u64().unwrap_or(0));
    let mut line = format!("{state}: {} of {} written", of("written"), of("size"));
    if state == "partial" {
        line += "; waits for `afterimage capture commit`";
    }
    if let Some(why) = facts["error"].as_str() {
        line += &format!("; no backup: {}", units::plain(why));
    } else if let Some(id) = facts["backup"]["id"].as_str() {
        line += &format!("; last backup {id}");
    }
    Some(line)
}

fn line_of_live(facts: &Value) -> Option<String> {
    let state = facts["state"].as_str()?;
    let of = |key: &str| units::size(facts[key].as_u64().unwrap_or(0));
    let trouble = facts["trouble"].as_str().map(|why| format!("; {}", units::plain(why))).unwrap_or_default();
    Some(format!("{state}: {} of {} on the target{trouble}", of("present"), of("size")))
}

fn page(stats: &Value) -> String {
    let number = |room: &str, name: &str| stats[room][name].as_u64().unwrap_or(0);
    let size = |room: &str, name: &str| units::size(number(room, name));
    let share = |part: u64, whole: u64| match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    };
    let mut out = String::new();
    let mut line = |what: &str, value: String| {
        let _fits = writeln!(out, "{what:<12}{value}");
    };
    line(
        "mount",
        format!("{} (process {}, since {})", text(&stats["mountpoint"]), stats["pid"], text(&stats["since"])),
    );
    line(
        "read",
        format!("{} in {} reads", size("mount", "read_bytes"), stats["operations"]["read"]["count"]),
    );
    let (hits, misses) = (number("cache", "hits"), number("cache", "misses"));
    line(
        "cache",
        format!(
            "{} of {} used, {} of {} lookups hit",
            size("cache", "bytes"),
            size("cache", "budget"),
            share(hits, hits + misses),
            hits + misses
        ),
    );
    line(
        "store",
        format!(
            "{} in {} gets, {} opened",
            size("image", "sealed_bytes"),
            number("image", "gets"),
            size("image", "bytes_opened")
        ),
    );
    let (ahead, used) = (number("image", "ahead_bytes"), number("image", "ahead_used_bytes"));
    line("read-ahead", format!("{}, {} of it used", units::size(ahead), share(used, ahead)));
    line(
        "open",
        format!("{} files, {} directories", number("mount", "open_files"), number("mount", "open_dirs")),
    );
    line(
        "trouble",
        format!(
            "{} chunks failed, {} deadlines, {} panics",
            number("image", "chunks_failed"),
            number("mount", "deadlines"),
            number("mount", "panics")
        ),
    );
    out.push('\n');
    let _fits = writeln!(out, "{:<10}{:>12}{:>10}{:>12}{:>12}", "OPERATION", "COUNT", "ERRORS", "P50", "P99");
    for (name, op) in stats["operations"].as_object().into_iter().flatten() {
        if op["count"].as_u64() == Some(0) {
            continue;
        }
        let quantile = |key: &str| op[key].as_u64().map_or("-".to_owned(), |micros| format!("<{micros} us"));
        let _fits = writeln!(
            out,
            "{name:<10}{:>12}{:>10}{:>12}{:>12}",
            op["count"].to_string(),
            op["errors"].to_string(),
            quantile("p50_us"),
            quantile("p99_us")
        );
    }
    out
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
