//! `init`: makes a repository.

use super::args::Init;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::format::node::judge_chunk_size;
use crate::repo::{InitOptions, Repository};
use crate::store;
use serde_json::json;

/// What an interrupted `init` may have left.
const OURS: &[&str] = &["keys"];

pub(super) fn run(context: &Context, args: &Init) -> Result<u8> {
    let chunk_size = judge_chunk_size(args.chunk_size)
        .map_err(|error| Error::new(Kind::Usage, error.to_string()).hint("4K to 4M, a power of two"))?;
    let options = InitOptions { chunk_size, separate: args.separate, password: context.given_password()? };
    let place = context.own_place()?;
    let made = context.runtime().block_on(store::create(place, OURS));
    let opened = made.or_else(|error| match store::open(place) {
        // It may be refused for being a repository; that is for `init` itself to say.
        Ok(opened) if error.kind() == Kind::Refused && is_repository(context, &opened) => Ok(opened),
        _ => Err(error),
    })?;
    let id = context.runtime().block_on(Repository::init(&opened.store, &options))?;
    let key = if options.password.is_some() { "password" } else { "open" };
    if options.password.is_none() {
        context.say("the key is kept beside the data: whoever can read the repository can read the backups");
        context.say("to change that: afterimage key add, then afterimage key remove the open slot");
    }
    context.print(
        || json!({ "repository": id, "place": place, "chunk_size": chunk_size, "key": key }),
        || format!("made repository {id} in {place}\n"),
    )?;
    Ok(0)
}

fn is_repository(context: &Context, opened: &store::Opened) -> bool {
    let config = crate::repo::names::config();
    config.is_ok_and(|name| context.runtime().block_on(opened.store.stat(&name)).is_ok())
}
