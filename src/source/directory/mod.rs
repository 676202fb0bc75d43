//! A directory as a source: a share, which is read file by file.
//!
//! directory -> names in order -> what each looks like -> its bytes, its target, its extended attributes
//!
//! Everything is reached by one name from the descriptor of the directory above, and no link is followed, so nobody who may write to the
//! share can lead us out of it while we read. Times of access are left alone where the kernel lets us. What is to be read, and what of it can be
//! taken over from an earlier backup, is decided in `backup::tree`.

mod exclude;
mod folder;
mod look;
mod owners;

pub use exclude::Excludes;
pub use folder::{Attributes, Folder, OpenFile};
pub use look::{Look, Type};
pub use owners::Owners;

use super::Facts;
use super::disks::{Beneath, lies_inside};
use super::machine::{Machine, Number, identity, stat_path};
use crate::error::{Context, Error, Kind, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::sync::Arc;

/// How a directory is to be read.
#[derive(Default)]
pub struct Options {
    /// Whether to go on into other file systems that are mounted in it.
    pub cross_filesystems: bool,
    /// What is left out.
    pub excludes: Excludes,
    /// Whether directories that call themselves caches are left out, but for the tag that says so.
    pub exclude_caches: bool,
    /// Whether what can't be read is noted instead of failing the backup.
    pub keep_going: bool,
    /// When the reading begins, by this machine's clock; now, unless given.
    pub began: Option<jiff::Timestamp>,
}

/// A directory that is to be backed up.
pub struct Directory {
    facts: Facts,
    top: Arc<Folder>,
    options: Options,
    owners: Owners,
    machine: Machine,
    /// The repository, when it is a directory: it is no part of its own backups.
    avoid: Option<(Number, u64)>,
}

/// Why something in a directory is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Another file system is mounted there.
    OtherFileSystem,
    /// It is the repository that is written to.
    Repository,
    /// It is a mount of afterimage: backups, not what is to be backed up.
    OwnMount,
}

impl Directory {
    /// Opens a directory. `repository`: where the repository lies, when that is a directory; it is passed over where it lies inside, and nothing
    /// that lies in it is a source.
    pub fn open(name: &str, options: Options, repository: Option<&Path>) -> Result<Directory> {
        let (path, machine) = (Path::new(name), Machine::here());
        let what = || format!("open source {name}");
        let stat = stat_path(path).context(what)?;
        let refused = |words: &str, hint: &str| {
            Err(Error::new(Kind::Refused, format!("back up {name}: {words}")).hint(hint))
        };
        if machine.is_own_mount(&stat)? {
            return refused(
                "it lies in a mount of afterimage, so it is a backup already",
                "to copy a backup to another repository: afterimage sync",
            );
        }
        if let Some(repository) = repository
            && lies_inside(path, repository)?
        {
            return refused("it lies inside the repository", "name a source outside of it");
        }
        let avoid = repository.and_then(|path| stat_path(path).ok()).map(|stat| Look::of(&stat));
        let facts = Facts {
            kind: "directory".into(),
            name: name.into(),
            identity: Some(identity(&stat)),
            disks: Beneath::file(&machine, &stat)?.disks.into_iter().collect(),
            ..Facts::default()
        };
        Ok(Directory {
            facts,
            top: Arc::new(Folder::open(path).context(what)?),
            options,
            owners: Owners::of_this_machine(),
            machine,
            avoid: avoid.map(|look| (look.device, look.inode)),
        })
    }

    /// What it is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The directory itself.
    pub fn top(&self) -> &Arc<Folder> {
        &self.top
    }

    /// How it is to be read.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The names of users and groups.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Whether a directory in it is none of its own; `above`: the device of the directory that it lies in.
    pub fn apart(&self, look: &Look, above: Number) -> Result<Option<Apart>> {
        if self.avoid == Some((look.device, look.inode)) {
            return Ok(Some(Apart::Repository));
        }
        if look.device == above {
            return Ok(None);
        }
        if !self.options.cross_filesystems {
            return Ok(Some(Apart::OtherFileSystem));
        }
        let own = self.machine.is_own_mount_id(look.mount)?;
        Ok(own.then_some(Apart::OwnMount))
    }
}

/// Lets this process have as many files open as its limit can be raised to: one for each directory of a deep path. How many that are.
pub fn open_many_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the number of open files stays limited: {error}");
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}
