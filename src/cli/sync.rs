//! `sync`: copies backups to another repository, where they are missing.

use super::args::Sync as Args;
use super::context::Context;
use super::units;
use crate::error::{Error, Kind, Result};
use crate::format::record::Record;
use crate::sync::{self, Report, Wish};
use serde_json::json;
use std::time::Instant;

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let began = Instant::now();
    let from = context.engine_within(context.global.memory / 2)?;
    let to = context.other_writer_engine(
        &args.other,
        args.other_password_file.as_deref(),
        context.global.memory / 2,
    )?;
    let wish = Wish { name: args.name.clone(), since: args.since };
    let report = context.with_progress("copying", |progress| {
        sync::run(&from, &to, context.runtime(), &wish, progress, &context.cancel)
    })?;
    context.print(|| as_json(&report, began), || as_text(&report))?;
    for (id, error) in &report.left {
        context.say(format!("backup {id} was not copied: {error}"));
    }
    Ok(code_of(&report))
}

fn sum(report: &Report, of: impl Fn(&Record) -> u64) -> u64 {
    report.copied.iter().map(of).sum()
}

fn as_json(report: &Report, began: Instant) -> serde_json::Value {
    let copied: Vec<String> = report.copied.iter().map(|record| record.id.to_string()).collect();
    let left = report.left.iter().map(|(id, error)| json!({ "backup": id, "error": error.to_string() }));
    json!({
        "copied": copied,
        "present": report.present,
        "left": left.collect::<Vec<_>>(),
        "bytes_read": sum(report, |record| record.stats.bytes_read),
        "bytes_new": sum(report, |record| record.stats.bytes_new),
        "bytes_stored": sum(report, |record| record.stats.bytes_stored),
        "seconds": began.elapsed().as_secs_f64(),
    })
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for record in &report.copied {
        text += &format!("{} {} {}\n", record.id, record.name, record.time);
    }
    text + &format!(
        "{} copied, {} were there; {} stored\n",
        report.copied.len(),
        report.present,
        units::size(sum(report, |record| record.stats.bytes_stored))
    )
}

/// What could not be copied decides; damage before all else.
fn code_of(report: &Report) -> u8 {
    let is_damage = |(_, error): &(_, Error)| error.kind() == Kind::Corrupt;
    match report.left.as_slice() {
        [] => 0,
        left if left.iter().any(is_damage) => Kind::Corrupt.exit_code(),
        _ => 1,
    }
}
