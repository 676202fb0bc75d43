//! What INFO, GO and EXPORT_NAME say about an export, and how a failed lookup is put.

use crate::export::{Error, Info, Kind};
use crate::wire::{ExportNameReply, InfoReply, Name, OptionReply, info as kinds, limits, rep};

/// Everything a client gets to know: size and block sizes always, names and texts when it asked.
pub(super) fn infos(asked: &Name, wants: &[u16], info: &Info, flags: u16) -> Vec<InfoReply> {
    let wanted = |kind| wants.contains(&kind);
    let mut replies = vec![InfoReply::Export { size: info.size, flags }];
    if wanted(kinds::NAME) {
        replies.push(InfoReply::Name(info.name.as_ref().unwrap_or(asked).clone()));
    }
    if wanted(kinds::DESCRIPTION) && !info.description.is_empty() {
        replies.push(InfoReply::Description(info.description.clone()));
    }
    replies.push(InfoReply::BlockSize {
        minimum: info.block_sizes.minimum,
        preferred: info.block_sizes.preferred,
        maximum: limits::PAYLOAD_MAX,
    });
    replies
}

pub(super) fn export_name(info: &Info, flags: u16) -> ExportNameReply {
    ExportNameReply { size: info.size, flags }
}

/// Missing and forbidden sound the same, so that nobody learns names by asking.
pub(super) fn refusal(error: &Error) -> OptionReply {
    match error.kind() {
        Kind::Missing | Kind::Denied => OptionReply::error(rep::ERR_UNKNOWN, "no such export"),
        Kind::Leaving => OptionReply::error(rep::ERR_SHUTDOWN, "server is about to stop"),
        Kind::Busy => OptionReply::error(rep::ERR_POLICY, error.message()),
        _ => OptionReply::error(rep::ERR_UNKNOWN, error.message()),
    }
}
