//! `umount`: ends a mount, live, busy or dead.

use super::args::Umount;
use super::context::Context;
use super::mount::of_mount_error;
use crate::error::Result;
use afterimage_mountd::Ended;
use serde_json::json;

pub(super) fn run(context: &Context, args: &Umount) -> Result<u8> {
    let ended = afterimage_mountd::umount(&args.mountpoint, super::mount::KIND)
        .map_err(|error| of_mount_error(&error))?;
    let (how, words) = match ended {
        Ended::Cleanly | Ended::Elsewhere => ("cleanly", None),
        Ended::ByForce => ("by force", Some("it was in use: who used it gets errors")),
        Ended::WasDead => ("was dead", Some("its process had gone; the mount is cleared")),
        Ended::InUse => (
            "in use",
            Some("it is gone from its place; who uses it keeps it until they close what they have"),
        ),
    };
    if let Some(words) = words {
        context.say(words);
    }
    context.print(
        || json!({ "mountpoint": args.mountpoint.display().to_string(), "ended": how }),
        String::new,
    )?;
    Ok(0)
}
