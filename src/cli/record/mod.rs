//! `record`: a backup's record, to take elsewhere; and back.

mod cinder;
mod export;
mod import;

pub(super) use export::ancestors;

use super::args::{Record, RecordVerb};
use super::context::Context;
use crate::error::Result;

pub(super) fn run(context: &Context, args: &Record) -> Result<u8> {
    match &args.verb {
        RecordVerb::Export(args) => export::run(context, args),
        RecordVerb::Import(args) => import::run(context, args),
        RecordVerb::Remove { backup } => import::remove(context, backup),
    }
}
