//! `restore` of an image: onto a file, a device or an NBD export.
//!
//! Has the target judged and opened by `restore::target`, with what the record says of the source and where the repository lies; then writes.

use crate::cli::args::Restore;
use crate::cli::context::Context;
use crate::cli::{locations, units};
use crate::error::{Error, Kind, Result};
use crate::format::record::{Item, Record};
use crate::image::Image;
use crate::restore::target::journal::{Begun, Journal};
use crate::restore::target::progress::Bound;
use crate::restore::target::{Guarded, Opened, Target, Wish, nbd, open};
use crate::restore::{Options, restore_image};
use afterimage_nbd::uri::Uri;
use serde_json::{Value, json};

pub(super) fn run(
    context: &Context,
    args: &Restore,
    record: &Record,
    item: &Item,
    image: &Image,
) -> Result<u8> {
    if args.into || args.delete || args.lossy || !args.only.is_empty() {
        let words =
            format!("{} is an image: --only, --into, --delete and --lossy are for shares", args.backup);
        return Err(Error::new(Kind::Usage, words));
    }
    let sector =
        item.source.get("sector").and_then(Value::as_u64).and_then(|sector| u32::try_from(sector).ok());
    let wish = Wish { size: image.len(), sector, force: args.force };
    let directory = context.directory()?;
    let source = item.source.get("identity").and_then(Value::as_str);
    let guarded = Guarded { source, repository: directory.as_deref() };
    let text = args.target.to_string_lossy();
    let (target, facts, verdict): (Box<dyn Target>, _, _) = if Uri::is_meant(&text) {
        let (target, verdict) = nbd::open(context.runtime(), &text, &wish, guarded)?;
        (Box::new(target), None, verdict)
    } else {
        let Opened { target, facts, verdict } = open(&args.target, &wish, guarded)?;
        (target, Some(facts), verdict)
    };
    for note in &verdict.notes {
        context.say(format!("note: {note}"));
    }
    let bound = Bound {
        backup: record.id.to_string(),
        item: item.name.clone(),
        root: item.root().id.to_string(),
        size: image.len(),
        target: String::new(),
    };
    let (journal, begun) = match &facts {
        Some(facts) => Journal::begin(facts, &verdict, bound, &locations::state())?,
        None => (Journal::unkept(bound), Begun::Fresh),
    };
    match &begun {
        Begun::Fresh => {}
        Begun::Resumed(done) => context.say(format!("going on: {} were in place", units::size(*done))),
        Begun::Again(why) => context.say(format!("beginning again: {why}")),
    }
    let fresh = verdict.create || verdict.set_size;
    let options = Options { fresh, differential: args.differential, verify: args.verify };
    let done = context.with_progress("restoring", |progress| {
        restore_image(image, &*target, &journal, options, progress, &context.cancel)
    })?;
    journal.complete()?;
    context.print(
        || {
            json!({
                "backup": record.id, "image": item.name, "target": args.target, "size": image.len(), "root": item.root().id,
                "bytes_written": done.bytes_written, "bytes_skipped": done.bytes_skipped, "bytes_zeroed": done.bytes_zeroed,
                "verified": done.verified, "seconds": done.seconds,
            })
        },
        || {
            let (written, skipped) = (units::size(done.bytes_written), units::size(done.bytes_skipped));
            let verified = if done.verified { ", read back and right" } else { "" };
            format!(
                "restored {}@{} ({}) onto {}: {written} written, {} zeroed, {skipped} left as it was, in {:.1} s{verified}\n",
                record.name,
                record.time,
                item.root().id,
                args.target.display(),
                units::size(done.bytes_zeroed),
                done.seconds
            )
        },
    )?;
    Ok(0)
}
