//! `check`: can everything be read?

use super::args::Check;
use super::context::Context;
use super::units;
use crate::error::{Error, Kind, Result};
use crate::foreign::cinder;
use crate::image::Library;
use crate::repo::refs::Reference;
use crate::upkeep::{Damage, Options, Report, check};

pub(super) fn run(context: &Context, args: &Check) -> Result<u8> {
    let (report, looked_at) = match context.cinder()? {
        Some(container) => {
            let report = of_cinder(context, args, &container)?;
            (report, "objects")
        }
        None => (of_repository(context, args)?, "packs"),
    };
    let json = || serde_json::to_value(&report).unwrap_or_default();
    context.print(json, || page(&report, looked_at))?;
    match report.damaged.len() {
        0 if report.unchecked > 0 => {
            let words = format!("{} imported backups could not be checked", report.unchecked);
            Err(Error::new(Kind::Unreachable, words).hint("what lies in this repository itself is right"))
        }
        0 => Ok(0),
        count => Err(Error::new(Kind::Corrupt, format!("{count} pieces of damage were found")).hint(
            "what is not named is right; a new backup of the same source stores what is missing afresh",
        )),
    }
}

fn of_repository(context: &Context, args: &Check) -> Result<Report> {
    let engine = context.engine()?;
    let mut only = Vec::new();
    for text in &args.backups {
        let reference = Reference::parse(text)?;
        only.push(context.runtime().block_on(engine.repository()?.find(&reference))?.id);
    }
    let options =
        Options { read_percent: args.read_data.unwrap_or(0.0), only, note: args.read_data.is_some() };
    context.with_progress("checking", |progress| {
        check(&engine, context.runtime(), &options, progress, &context.cancel)
    })
}

/// What another program wrote is held to the digests that it wrote down; nothing is noted there.
fn of_cinder(context: &Context, args: &Check, container: &cinder::Container) -> Result<Report> {
    let mut only = Vec::new();
    for text in &args.backups {
        let reference = Reference::parse(text)?;
        only.push(context.runtime().block_on(container.find(&reference))?.id);
    }
    let options = cinder::Options { read_percent: args.read_data.unwrap_or(0.0), only };
    let report = context.with_progress("checking", |progress| {
        cinder::check(container, &options, progress, &context.cancel)
    })?;
    let damage = |finding: cinder::Finding| Damage {
        object: finding.object,
        backup: Some(cinder::document::Uuid::from(finding.backup).to_string()),
        image: (!finding.range.is_empty()).then(|| "disk.img".to_owned()),
        path: None,
        offset: finding.range.start,
        length: finding.range.end - finding.range.start,
        why: finding.why,
    };
    Ok(Report {
        backups_ok: report.backups_ok,
        damaged: report.findings.into_iter().map(damage).collect(),
        packs: report.objects,
        packs_read: report.objects_read,
        bytes_read: report.bytes_read,
        unchecked: 0,
        notes: Vec::new(),
    })
}

fn page(report: &Report, looked_at: &str) -> String {
    let mut out: String = report.damaged.iter().map(line).collect();
    for note in &report.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    let read = match report.packs_read {
        0 => String::new(),
        count => format!(", {count} of them read ({})", units::size(report.bytes_read)),
    };
    out.push_str(&format!("{} backups are right; {} {looked_at}{read}\n", report.backups_ok, report.packs));
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
