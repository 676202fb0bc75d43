//! What went wrong with a directory, in words that name the path and, where it matters, its owner.

use super::disk::Folder;
use crate::error::{Error, Kind};
use rustix::io::Errno;

/// The error of having failed to do `doing` to `path`.
pub(super) fn failed(doing: &str, path: &str, errno: Errno) -> Error {
    let words = format!("{doing} {path}");
    match errno {
        Errno::NOTDIR => {
            Error::new(Kind::Refused, format!("{words}: a file or a link is where a folder should be"))
        }
        Errno::ISDIR => Error::new(Kind::Refused, format!("{words}: a folder is where a file should be")),
        Errno::LOOP => {
            Error::new(Kind::Refused, format!("{words}: it is a link or a special file, no store made it"))
        }
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::BUSY => {
            Error::new(Kind::Busy, words).caused_by(std::io::Error::from(errno))
        }
        errno => Error::io(words, errno.into()),
    }
}

/// The same for a change in `folder` of the store at `place`: says that the store is full, or who may write there.
pub(super) fn change_failed(
    doing: &str,
    path: &str,
    place: &str,
    folder: &dyn Folder,
    errno: Errno,
) -> Error {
    match errno {
        Errno::NOSPC | Errno::DQUOT => {
            Error::new(Kind::Full, format!("the store {place} is full: {doing} {path}"))
                .caused_by(std::io::Error::from(errno))
                .hint("make room there; nothing that was stored is harmed")
        }
        Errno::ACCESS | Errno::PERM => failed(doing, path, errno).hint(who_may_write(folder)),
        Errno::OPNOTSUPP => Error::new(
            Kind::Unsupported,
            format!(
                "{doing} {path}: this file system can neither rename without replacing nor make hard links"
            ),
        )
        .hint("keep the store on another file system"),
        errno => failed(doing, path, errno),
    }
}

fn who_may_write(folder: &dyn Folder) -> String {
    let us = rustix::process::geteuid().as_raw();
    match folder.facts() {
        Ok(facts) => format!(
            "its folder belongs to user {} with mode {:o}; this runs as user {us}",
            facts.owner, facts.mode
        ),
        Err(_) => format!("this runs as user {us}"),
    }
}
