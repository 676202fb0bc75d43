//! `check`: can everything be read?

use super::args::Check;
use super::context::Context;
use super::units;
use crate::error::{Error, Kind, Result};
use crate::repo::refs::Reference;
use crate::upkeep::{Damage, Options, Report, check};

pub(super) fn run(context: &Context, args: &Check) -> Result<u8> {
    let engine = context.engine()?;
    let mut only = Vec::new();
    for text in &args.backups {
        let reference = Reference::parse(text)?;
        only.push(context.runtime().block_on(engine.repository().find(&reference))?.id);
    }
    let options =
        Options { read_percent: args.read_data.unwrap_or(0.0), only, note: args.read_data.is_some() };
    let report = context.with_progress("checking", |progress| {
        check(&engine, context.runtime(), &options, progress, &context.cancel)
    })?;
    let json = || serde_json::to_value(&report).unwrap_or_default();
    context.print(json, || page(&report))?;
    match report.damaged.len() {
        0 => Ok(0),
        count => Err(Error::new(Kind::Corrupt, format!("{count} pieces of damage were found")).hint(
            "what is not named is right; a new backup of the same source stores what is missing afresh",
        )),
    }
}

fn page(report: &Report) -> String {
    let mut out: String = report.damaged.iter().map(line).collect();
    for note in &report.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    let read = match report.packs_read {
        0 => String::new(),
        count => format!(", {count} of them read ({})", units::size(report.bytes_read)),
    };
    out.push_str(&format!("{} backups are right; {} packs{read}\n", report.backups_ok, report.packs));
    out
}

fn line(damage: &Damage) -> String {
    let whom = match (&damage.backup, &damage.image) {
        (Some(backup), Some(item)) => {
            let path = damage.path.as_ref().map_or(String::new(), |path| format!(", {}", units::plain(path)));
            let end = damage.offset + damage.length;
            format!("backup {backup}, {item}{path}, bytes {} to {end}", damage.offset)
        }
        (Some(backup), None) => format!("backup {backup}"),
        _ => "no listed backup".to_owned(),
    };
    format!("damaged {}: {whom}: {}\n", damage.object, damage.why)
}
