//! `capture commit`: has the server that captures make a backup of what is there, and waits for it.

use super::args::{Capture, CaptureVerb};
use super::context::Context;
use super::control;
use crate::error::{Error, Kind, Result};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two questions how far it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn run(context: &Context, args: &Capture) -> Result<u8> {
    let CaptureVerb::Commit { name, control } = &args.verb;
    let (path, _) =
        control::ask_whom(control.as_deref(), &format!("capture {name}"), &format!("a capture {name:?}"))?;
    let begun = ask(&path, &format!("commit {name}"))?["begun"].as_u64().unwrap_or(0);
    let facts = context.with_progress("backing up", |progress| {
        loop {
            // To give up waiting stops nothing.
            context.cancel.check()?;
            let facts = ask(&path, &format!("capture {name}"))?;
            if facts["state"] != "committing" || facts["begun"].as_u64() != Some(begun) {
                return Ok(facts);
            }
            let number = |key: &str| facts["progress"][key].as_u64().unwrap_or(0);
            progress.total.store(number("total"), Ordering::Relaxed);
            progress.done.store(number("done"), Ordering::Relaxed);
            std::thread::sleep(ASK_EVERY);
        }
    })?;
    match (facts["error"].as_str(), &facts["backup"]) {
        (Some(why), _) => Err(Error::new(Kind::Source, format!("commit the capture {name}: {why}"))),
        (None, record) => {
            let id = record["id"].as_str().unwrap_or_default();
            context.print(|| record.clone(), || format!("{id}\n"))?;
            Ok(0)
        }
    }
}

fn ask(path: &Path, request: &str) -> Result<Value> {
    let answer = control::ask(path, request)?;
    serde_json::from_str(&answer)
        .map_err(|error| Error::new(Kind::Unsupported, "read what the server answered").caused_by(error))
}
