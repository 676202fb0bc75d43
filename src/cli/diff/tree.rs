//! `diff` of two shares: the paths that differ, and how.

use crate::cli::context::Context;
use crate::cli::find::{path_json, shown};
use crate::error::Result;
use crate::image::tree::Tree;
use crate::view::changes::{Change, How, ROOM, changes};
use serde_json::{Value, json};

pub(super) fn run(context: &Context, a: &Tree, b: &Tree) -> Result<u8> {
    let all = context.runtime().block_on(changes(a, b, ROOM, &context.cancel))?;
    context.print(
        || json!({ "paths": all.iter().map(as_json).collect::<Vec<_>>() }),
        || match all.len() {
            0 => "they are equal\n".to_owned(),
            count => format!("{}{count} paths\n", all.iter().map(in_words).collect::<String>()),
        },
    )?;
    Ok(0)
}

fn as_json(change: &Change) -> Value {
    let mut map = path_json(&change.path);
    let _new = map.insert("change".to_owned(), change.how.key().into());
    if let How::Moved(from) = &change.how {
        let from = path_json(from);
        let renamed = from.into_iter().map(|(key, value)| (key.replace("path", "from"), value));
        map.extend(renamed);
    }
    Value::Object(map)
}

fn in_words(change: &Change) -> String {
    let path = shown(&change.path);
    match &change.how {
        How::Moved(from) => format!("{:<9} {} -> {path}\n", "moved", shown(from)),
        how => format!("{:<9} {path}\n", how.key()),
    }
}
