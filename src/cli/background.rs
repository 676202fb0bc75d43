//! The verbs that stay in the background: how the front hears of it, how an error gets there, and where the log goes.
//!
//! What goes over the line between the two is in `afterimage_mountd::background`.

use crate::error::{Error, Kind, Result};
use afterimage_mountd::background::{Child, NotReady, Ready, spawn_and_wait_ready};
use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// How long the background process may take to be ready: opening a far repository with a slow password.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// When the background's log begins anew, and how often that is looked at.
const LOG_LEN_MAX: u64 = 1 << 20;
const LOG_LOOK_EVERY: Duration = Duration::from_secs(10);

/// Starts this call again in the background, and returns when that is ready.
pub(super) fn start(password: &[u8], doing: impl FnOnce() -> String) -> Result<Ready> {
    match spawn_and_wait_ready(std::env::args_os().skip(1), password, READY_WITHIN) {
        Ok(ready) => Ok(ready),
        Err(NotReady::Failed { code, words }) => Err(Error::new(kind_of_code(code), words)),
        Err(other) => Err(Error::new(Kind::Unreachable, format!("{}: {other}", doing()))),
    }
}

/// Ends the background process with an error that the front will tell.
pub(super) fn fail(child: Child, error: &Error) -> ! {
    // The parent says it; when it is gone, nobody is left to hear it.
    let _unheard = child.failed(code_of_kind(error.kind()), &error.to_string());
    std::process::exit(error.kind().exit_code().into());
}

/// Where the background process writes what it has to say. Made anew by each, and bounded.
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Begins the log of what goes by this name.
    pub(super) fn open(stem: &OsStr) -> Option<Log> {
        let folder = super::locations::state().join("log");
        let path = folder.join(stem).with_extension("log");
        std::fs::create_dir_all(&folder).ok()?;
        // A log that was written by the one before is that one's. Appended to, so that what follows a cut begins at the start.
        drop(std::fs::remove_file(&path));
        let file = File::options().append(true).create(true).open(&path).ok()?;
        Some(Log { file, path })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// When it is long, what it says is kept as the one before, and it begins anew.
    pub(super) async fn stay_short(self) {
        loop {
            tokio::time::sleep(LOG_LOOK_EVERY).await;
            let is_long = self.file.metadata().is_ok_and(|meta| meta.len() > LOG_LEN_MAX);
            if is_long {
                let cut = std::fs::copy(&self.path, self.path.with_extension("log.1"))
                    .and_then(|_| self.file.set_len(0));
                if let Err(error) = cut {
                    tracing::debug!("shorten the log: {error}");
                }
            }
        }
    }
}

/// An error goes from the background to the front as its kind and its words.
const KINDS: [Kind; 12] = [
    Kind::Unreachable,
    Kind::Missing,
    Kind::Corrupt,
    Kind::Full,
    Kind::Busy,
    Kind::Denied,
    Kind::Refused,
    Kind::Unsupported,
    Kind::Source,
    Kind::Target,
    Kind::Usage,
    Kind::Interrupted,
];

fn code_of_kind(kind: Kind) -> u8 {
    let place = KINDS.iter().position(|known| *known == kind);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(0)
}

fn kind_of_code(code: u8) -> Kind {
    KINDS.get(usize::from(code)).copied().unwrap_or(Kind::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_the_background_ends_the_command_as_one_in_front_would() {
        for kind in KINDS {
            assert_eq!(kind_of_code(code_of_kind(kind)), kind);
        }
        assert_eq!(kind_of_code(255), Kind::Unreachable);
    }
}
