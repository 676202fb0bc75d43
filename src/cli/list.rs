//! `list`: backups, oldest first.

use super::args::List;
use super::context::Context;
use super::{backup::split_tag, units};
use crate::error::{Error, Kind, Result};
use crate::format::RepositoryId;
use crate::format::record::{Content, Record};

pub(super) fn run(context: &Context, args: &List) -> Result<u8> {
    let tags = args.tags.iter().map(|tag| split_tag(tag)).collect::<Result<Vec<_>>>()?;
    let library = context.library()?;
    let listing = context.runtime().block_on(library.list())?;
    let wanted = |record: &&Record| {
        args.name.as_ref().is_none_or(|name| *name == record.name)
            && tags.iter().all(|(key, value)| record.tags.get(key) == Some(value))
    };
    let records: Vec<&Record> = listing.records.iter().filter(wanted).collect();
    let rows = records.iter().map(|record| library.shown(record));
    context.print_rows(rows, || table(&records, library.engine().home()))?;
    match listing.damaged.as_slice() {
        [] => Ok(0),
        damaged => {
            for (id, error) in damaged {
                context.say(format!("backup {id} can't be read: {error}"));
            }
            Err(Error::new(Kind::Corrupt, format!("{} records are damaged", damaged.len()))
                .hint("afterimage check says more"))
        }
    }
}

fn table(records: &[&Record], here: RepositoryId) -> String {
    let width = records.iter().map(|record| record.name.chars().count()).max().unwrap_or(4).clamp(4, 40);
    let mut out = match records {
        [] => String::new(),
        _ => format!(
            "{:<16}  {:<width$}  {:<20}  {:>10}  {:>10}  {:>10}  TAGS\n",
            "ID", "NAME", "TIME", "SIZE", "DATA", "STORED"
        ),
    };
    for record in records {
        let (size, data) = record.items.iter().fold((0, 0), |(size, data), item| match item.content {
            Content::Image { size: s, allocated, .. } => (size + s, data + allocated),
            Content::Tree { bytes, .. } => (size + bytes, data + bytes),
        });
        let stored = match record.repository == here {
            true => units::size(record.stats.bytes_stored),
            false => "elsewhere".to_owned(),
        };
        let tags: Vec<String> = record.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let line = format!(
            "{:.16}  {:<width$}  {:<20}  {:>10}  {:>10}  {:>10}  {}",
            record.id.to_string(),
            record.name,
            record.time.to_string(),
            units::size(size),
            units::size(data),
            stored,
            units::plain(&tags.join(" "))
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
