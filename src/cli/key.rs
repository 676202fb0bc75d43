//! `key`: passwords.

use super::args::{Key, KeyVerb};
use super::context::Context;
use super::password;
use crate::error::Result;
use serde_json::json;

pub(super) fn run(context: &Context, args: &Key) -> Result<u8> {
    let repository = context.repository()?;
    let runtime = context.runtime();
    match &args.verb {
        KeyVerb::Add { new_password_file } => {
            let password = match new_password_file {
                Some(path) => password::from_file(path)?,
                None => password::ask_twice()?,
            };
            let id = runtime.block_on(repository.add_key(&password))?;
            context.print(|| json!({ "id": id }), || format!("added key slot {id}\n"))?;
            if runtime.block_on(repository.is_open_to_all())? {
                context.say("the repository still opens without a password; afterimage key remove ends that");
            }
        }
        KeyVerb::List => {
            let slots = runtime.block_on(repository.key_slots())?;
            let line = |slot: &crate::repo::SlotLine| {
                let created = slot.created.map_or_else(|| "-".to_owned(), |time| time.to_string());
                format!(
                    "{}  {:<10}  {created}  {}\n",
                    slot.id,
                    slot.lock,
                    slot.damage.as_deref().unwrap_or("")
                )
            };
            context.print(|| json!(slots), || slots.iter().map(line).collect())?;
        }
        KeyVerb::Remove { id } => {
            let open_before = runtime.block_on(repository.is_open_to_all())?;
            let mut ask = || {
                context.say("a key slot that stays has to be seen to open first");
                password::ask("A password that stays")
            };
            let id = runtime.block_on(repository.remove_key(id, &mut ask))?;
            context.print(|| json!({ "id": id }), || format!("removed key slot {id}\n"))?;
            if open_before {
                context.say("whoever copied the repository while its key lay open can read it still");
            }
        }
    }
    Ok(0)
}
