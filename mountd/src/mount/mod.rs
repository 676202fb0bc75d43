//! A mount's life: judge the place, mount, serve, end.
//!
//! [`Mount::start`] returns when the mount answers, or says why there is none and leaves nothing behind. A mount ends when somebody unmounts
//! it, through [`Mount::run`]'s stop, or when the value is dropped. Ending takes seconds even when the tree hangs: readers are given a
//! grace to finish, then an error.
//!
//! Invariant: always `ro,nosuid,nodev,noexec`; others than the mount's owner get in only when asked for, and then the kernel checks permissions.

mod device;
mod options;
mod place;
mod signals;
mod table;
mod unmount;

use std::fs;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::options::{MountError, MountErrorKind, Options};
use self::place::Pulse;
pub use self::signals::{next_of, stop_signal, stop_signals};
pub(crate) use self::table::fuzz;
pub use self::unmount::{Ended, umount};
use crate::error::Error;
use crate::kernel::{self, Running, Settings};
use crate::notify::Notify;
use crate::tree::{Answer, Attr, Tree};
use crate::watch::Watch;

/// How long the event loops may take to notice that their mount is gone.
const LOOPS_END_WITHIN: Duration = Duration::from_secs(3);

/// A tree that is mounted. Dropping it unmounts, without grace.
#[derive(Debug)]
pub struct Mount {
    mounted: Mounted,
    notify: Notify,
    watch: Arc<Watch>,
    ended: watch::Receiver<bool>,
    grace: Duration,
}

impl Mount {
    /// Mounts a tree on an empty directory.
    ///
    /// A dead mount of the same kind that lies there is replaced. Blocks for some milliseconds.
    pub fn start<T: Tree>(tree: Arc<T>, mountpoint: &Path, options: Options) -> Result<Mount, MountError> {
        let place = place::prepare(mountpoint, &options.kind, &options.forbidden)?;
        let (device, mounted) = Mounted::new(place, &options)?;
        let watch = Arc::new(Watch::default());
        let root_ino = Arc::new(AtomicU64::new(crate::nodes::ROOT));
        let settings = settings(&options, watch.clone(), root_ino.clone());
        learn_root(&*tree, &options, &root_ino);
        let running = kernel::greet(tree, device, &settings).map_err(|error| {
            MountError::new(
                MountErrorKind::Failed,
                format!("greet the kernel at {}: {error}", mounted.entry.at.display()),
            )
        })?;
        let (notify, notices) = Notify::new(watch.clone(), root_ino);
        let herald = running.herald();
        spawn("mountd-notify", move || herald(notices))?;
        let ended = serve(running, notify.clone())?;
        mounted.raise_read_ahead(options.read_ahead);
        tracing::info!(mountpoint = %mounted.entry.at.display(), "mounted");
        Ok(Mount { mounted, notify, watch, ended, grace: options.grace })
    }

    /// Where it is mounted: absolute, without symbolic links.
    pub fn mountpoint(&self) -> &Path {
        &self.mounted.entry.at
    }

    /// Tells the kernel of changes in the tree. Keeps working, to no effect, after the mount has ended.
    pub fn notify(&self) -> Notify {
        self.notify.clone()
    }

    /// What the mount has done so far.
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Whether the kernel is done with it.
    pub fn has_ended(&self) -> bool {
        // The sender goes when the event loops have ended, for whatever reason.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    /// Returns when somebody else has unmounted it.
    pub async fn ended(&self) {
        // An error says that the sender is gone, and with it the event loops.
        drop(self.ended.clone().wait_for(|ended| *ended).await);
    }

    /// Serves until `stop` comes, and then unmounts; or until somebody else ends it.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<Ended, MountError> {
        tokio::select! {
            () = self.ended() => {}
            () = stop => {}
        }
        // A thread of its own: those of the runtime may all hang in the tree.
        let (tell, told) = tokio::sync::oneshot::channel();
        spawn("mountd-end", move || drop(tell.send(self.unmount())))?;
        told.await.unwrap_or_else(|_| Err(MountError::new(MountErrorKind::Failed, "unmounting panicked")))
    }

    /// Unmounts. Those who read may finish within the grace; after it they get an error. Blocks for no longer than some seconds more.
    pub fn unmount(mut self) -> Result<Ended, MountError> {
        let grace = self.grace;
        self.end(grace)
    }

    fn end(&mut self, grace: Duration) -> Result<Ended, MountError> {
        if self.has_ended() {
            return self.mounted.clear();
        }
        let ended = self.mounted.unmount(grace)?;
        let began = Instant::now();
        while !self.has_ended() && began.elapsed() < LOOPS_END_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(if self.has_ended() { ended } else { Ended::InUse })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted.is_there
            && let Err(error) = self.end(Duration::ZERO)
        {
            tracing::error!("{error}");
        }
    }
}

fn settings(options: &Options, watch: Arc<Watch>, root_ino: Arc<AtomicU64>) -> Settings {
    Settings {
        loops: options.loops.max(1),
        allow_other: options.allow_other,
        passthrough: options.passthrough && rustix::process::geteuid().is_root(),
        deadline: options.deadline,
        runtime: options.runtime.clone(),
        watch,
        root_ino,
    }
}

/// The tree's own number of its root, for notices and for `..`; the kernel's is always the same.
fn learn_root<T: Tree>(tree: &T, options: &Options, root_ino: &Arc<AtomicU64>) {
    match tree.attr(&tree.root()) {
        Answer::Now(attr) => store_root(attr, root_ino),
        Answer::Later(attr) => {
            let root_ino = root_ino.clone();
            drop(options.runtime.spawn(async move { store_root(attr.await, &root_ino) }));
        }
    }
}

fn store_root(attr: Result<Attr, Error>, root_ino: &AtomicU64) {
    // A root without attributes says so to whoever looks at it.
    if let Ok(attr) = attr {
        root_ino.store(attr.ino, Relaxed);
    }
}

/// Runs the event loops; what is returned becomes true when they have ended.
fn serve<T: Tree>(running: Running<T>, notify: Notify) -> Result<watch::Receiver<bool>, MountError> {
    let (over, ended) = watch::channel(false);
    spawn("mountd", move || {
        if let Err(error) = running.run() {
            tracing::error!("the mount's event loops ended: {error}");
        }
        notify.end();
        let _ = over.send_replace(true);
    })?;
    Ok(ended)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), MountError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread
        .map(drop)
        .map_err(|error| MountError::new(MountErrorKind::Failed, format!("start a thread: {error}")))
}

/// Something that is mounted, and unmounted when dropped.
#[derive(Debug)]
struct Mounted {
    /// What the table of mounts says of it, by which it is told from what others may mount in its place.
    entry: table::Entry,
    is_there: bool,
}

impl Mounted {
    fn new(at: PathBuf, options: &Options) -> Result<(OwnedFd, Mounted), MountError> {
        let device = device::mount(&at, options)?;
        match table::stack(&at).as_deref() {
            Ok([entry]) => Ok((device, Mounted { entry: entry.clone(), is_there: true })),
            other => {
                // Nobody uses it yet, and without its number there is no telling it apart later.
                drop(unmount::detach(&at));
                let words = match other {
                    Ok([]) => "it went away at once".into(),
                    Ok(_) => "somebody else mounted there at the same time".into(),
                    Err(error) => format!("read the table of mounts: {error}"),
                };
                Err(MountError::new(
                    MountErrorKind::Failed,
                    format!("mount on {}: {words}", table::shown(&at)),
                ))
            }
        }
    }

    fn unmount(&mut self, grace: Duration) -> Result<Ended, MountError> {
        let ended = unmount::end(&self.entry, grace)?;
        self.is_there = false;
        Ok(ended)
    }

    /// Nobody serves it any more. When somebody unmounted it there is nothing to do; when somebody cut its connection it still lies there,
    /// dead. A live one in its place is the next one's.
    fn clear(&mut self) -> Result<Ended, MountError> {
        let at = &self.entry.at;
        let is_dead = place::mounted(at)?.as_ref() == Some(&self.entry) && place::pulse(at) == Pulse::Dead;
        if is_dead {
            unmount::detach(at)?;
        }
        self.is_there = false;
        Ok(if is_dead { Ended::WasDead } else { Ended::Elsewhere })
    }

    /// The kernel reads ahead by 128 KiB, which a FUSE mount takes as the size of its largest read. Root may raise it.
    fn raise_read_ahead(&self, bytes: u32) {
        let file = format!("/sys/class/bdi/{}/read_ahead_kb", self.entry.device);
        if let Err(error) = fs::write(file, (bytes / 1024).to_string()) {
            tracing::debug!(%error, "the kernel's read-ahead stays as it is");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_there {
            drop(self.unmount(Duration::ZERO));
        }
    }
}
