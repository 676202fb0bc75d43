//! `mount`: every backup as a read-only file.
//!
//! ```text
//! afterimage mount M  --- the same program again, in the background ---> opens the repository, mounts, listens, says ready
//!        ^                                                                      serves until SIGTERM or umount
//!        '---------------- "ready", or the error and its exit code -------------'
//! ```
//!
//! A password is asked for in front and handed over through a private line; it is in no argument and no file.

mod figures;
mod inside;
mod tree;

use super::args::Mount as Args;
use super::background::{self, Log};
use super::context::Context;
use super::control::{self, Control};
use super::locations;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::RepositoryId;
use crate::image::Engine;
use crate::image::disk::Disk;
use crate::image::whole::Whole;
use crate::seal::Password;
use crate::view::View;
use afterimage_mountd::background::{Child, Ready};
use afterimage_mountd::mount::{MountErrorKind, stop_signal};
use afterimage_mountd::{Mount, MountError, Options, systemd};
use figures::Figures;
use serde_json::json;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tree::Mounted;
use zeroize::Zeroizing;

/// Our mounts are of the type `fuse.afterimage`.
pub(super) const KIND: &str = "afterimage";
/// What the tier on disk takes at most when nobody said.
const CACHE_SIZE_MAX: u64 = 4 << 30;
/// How long the process may take to end after its mount has.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    match Child::of_this_process().context(|| "start in the background")? {
        Some(child) => run_child(context, args, child),
        None if args.foreground => {
            let serving = Serving::start(context, args, context.given_password()?)?;
            announce(context, &serving)?;
            serving.until_stopped(context)
        }
        None => run_parent(context, args),
    }
}

fn run_parent(context: &Context, args: &Args) -> Result<u8> {
    let password =
        if context.needs_password()? { context.ask_password()? } else { Zeroizing::new(Vec::new()) };
    let doing = || format!("mount on {}", args.mountpoint.display());
    let Ready { words, process } = background::start(&password, doing)?;
    let mountpoint = words.as_str();
    context.print(
        || json!({ "mountpoint": mountpoint, "pid": process.id() }),
        || format!("mounted at {mountpoint}; afterimage umount {mountpoint} ends it\n"),
    )?;
    Ok(0)
}

fn run_child(context: &Context, args: &Args, mut child: Child) -> Result<u8> {
    let password: Password = Zeroizing::new(child.handed_over());
    let started = Serving::start(context, args, (!password.is_empty()).then_some(password));
    let serving = match started {
        Ok(serving) => serving,
        Err(error) => background::fail(child, &error),
    };
    let log = serving.control.path().file_stem().and_then(Log::open);
    let at = serving.mount.mountpoint().display().to_string();
    child.ready(&at, log.as_ref().map(Log::file)).context(|| "tell that the mount is ready")?;
    if let Some(log) = log {
        drop(context.runtime().spawn(log.stay_short()));
    }
    serving.until_stopped(context)
}

fn announce(context: &Context, serving: &Serving) -> Result<()> {
    let at = serving.mount.mountpoint();
    if let Err(error) = systemd::ready(&format!("mounted at {}", at.display())) {
        tracing::warn!("tell the service manager that the mount is ready: {error}");
    }
    context.print(
        || json!({ "mountpoint": at.display().to_string(), "pid": std::process::id() }),
        || format!("mounted at {}\n", at.display()),
    )
}

/// A mount and what belongs to it.
struct Serving {
    mount: Mount,
    control: Control,
    /// Comes when we are told to end, also if that was before the mount was there.
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Serving {
    fn start(context: &Context, args: &Args, password: Option<Password>) -> Result<Serving> {
        let stop = context.runtime().block_on(async { stop_signal() });
        let stop = Box::pin(stop.context(|| "listen for signals")?);
        let size = args.cache_size.map(|size| if passes_through(args) { size / 4 } else { size });
        let disk = |id| disk(context, args.cache_dir.as_deref(), size, id);
        let library = context.library_by(password, disk)?;
        let engine = Arc::clone(library.engine());
        let whole = whole(args, engine.home()).map(Arc::new);
        let view = View::new(library);
        let warm = view.clone();
        // Who looks first finds the list on its way, or there.
        drop(context.runtime().spawn(async move { warm.look().await.map(drop) }));
        context.cancel.check()?;
        let mount = mount(context, &args.mountpoint, args.allow_other, view, whole.clone())?;
        let control = listen(context, &mount, engine, whole)?;
        Ok(Serving { mount, control, stop })
    }

    fn until_stopped(self, context: &Context) -> Result<u8> {
        let Serving { mount, control, stop } = self;
        let at = mount.mountpoint().to_owned();
        let ended = context.runtime().block_on(async {
            let stop = async {
                stop.await;
                let _unheard = systemd::stopping();
            };
            mount.run(stop).await.map_err(|error| of_mount_error(&error))
        });
        drop(control);
        let ended = ended?;
        tracing::info!("{} is unmounted: {ended:?}", at.display());
        end_soon();
        Ok(0)
    }
}

/// Listens on the control socket. The mount that was at this place before may be a moment from its end.
fn listen_at(context: &Context, path: &Path, answers: Arc<control::Answers>) -> Result<Control> {
    let began = Instant::now();
    loop {
        match Control::listen(path.to_owned(), context.runtime(), Arc::clone(&answers)) {
            Err(error) if error.kind() == Kind::Refused && began.elapsed() < ENDS_WITHIN * 2 => {
                std::thread::sleep(Duration::from_millis(10));
            }
            listening => return listening,
        }
    }
}

/// What was served is gone. Threads that hang in a store are not waited for.
pub(super) fn end_soon() {
    let end = || {
        std::thread::sleep(ENDS_WITHIN);
        std::process::exit(0);
    };
    if let Err(error) = std::thread::Builder::new().name("end".into()).spawn(end) {
        tracing::debug!("start the thread that ends the process: {error}");
    }
}

/// The tier on disk that was asked for, and for a repository across a network one that was not: in the user's cache directory. Without it all
/// works, so what keeps it from being used is told and no more (A11).
pub(super) fn disk(
    context: &Context,
    dir: Option<&Path>,
    size: Option<u64>,
    repository: RepositoryId,
) -> Result<Option<Disk>> {
    let is_near = context.directory()?.is_some();
    let (dir, size) = match (dir, size) {
        (_, Some(0)) => return Ok(None),
        (Some(dir), Some(size)) => (dir.to_owned(), size),
        (None, None) if is_near => return Ok(None),
        (None, Some(_)) if is_near => {
            return Err(Error::new(Kind::Usage, "--cache-size says how much, but not where")
                .hint("give --cache-dir D"));
        }
        (dir, size) => {
            let dir = dir.map_or_else(locations::cache, Path::to_owned);
            let size = size.unwrap_or_else(|| usual_size(&dir));
            (dir, size)
        }
    };
    let Ok(dir) = std::path::absolute(dir) else { return Ok(None) };
    let opened = Disk::open(&dir, repository, size);
    Ok(opened.map_err(|error| tracing::warn!("{error}; it goes without")).ok())
}

/// A tenth of what is free where the folder is, or will be.
fn usual_size(dir: &Path) -> u64 {
    let there = dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let room = rustix::fs::statvfs(there).map_or(0, |facts| facts.f_bavail.saturating_mul(facts.f_frsize));
    (room / 10).min(CACHE_SIZE_MAX)
}

/// Only root's mounts can have the kernel read by itself; what nobody would read is not filled.
fn passes_through(args: &Args) -> bool {
    args.passthrough && rustix::process::geteuid().is_root()
}

/// The plain files that were asked for.
fn whole(args: &Args, home: RepositoryId) -> Option<Whole> {
    let (dir, size) = (args.cache_dir.as_ref()?, args.cache_size?);
    if !passes_through(args) {
        return None;
    }
    let dir = std::path::absolute(dir).ok()?;
    let opened = Whole::open(&dir, home, size - size / 4);
    opened.map_err(|error| tracing::warn!("{error}; it goes without")).ok()
}

/// Mounts what is in view.
pub(super) fn mount(
    context: &Context,
    mountpoint: &Path,
    allow_other: bool,
    view: View,
    whole: Option<Arc<Whole>>,
) -> Result<Mount> {
    let mut options = Options::new(KIND, context.runtime().clone());
    options.allow_other = allow_other;
    options.passthrough = whole.is_some();
    options.source = format!("afterimage:{}", context.place()?);
    options.forbidden = context.directory()?.into_iter().filter(|directory| directory.is_dir()).collect();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let tree = Arc::new(Mounted { view, whole, uid, gid, others: allow_other });
    context.ends_itself();
    Mount::start(tree, mountpoint, options).map_err(|error| of_mount_error(&error))
}

/// The socket on which a mount tells its figures.
pub(super) fn listen(
    context: &Context,
    mount: &Mount,
    engine: Arc<Engine>,
    whole: Option<Arc<Whole>>,
) -> Result<Control> {
    let figures = Figures::new(mount.mountpoint().to_owned(), mount.watch(), engine, whole);
    let path = control::path_for(mount.mountpoint())?;
    listen_at(context, &path, Arc::new(move |request: &str| figures.answer(request)))
}

/// The one table from what `mountd` says to what the command says.
pub(super) fn of_mount_error(error: &MountError) -> Error {
    let kind = match error.kind() {
        MountErrorKind::Missing | MountErrorKind::NotMounted => Kind::Missing,
        MountErrorKind::Refused => Kind::Refused,
        MountErrorKind::Denied => Kind::Denied,
        MountErrorKind::Unsupported => Kind::Unsupported,
        MountErrorKind::Failed => Kind::Unreachable,
    };
    Error::new(kind, error.to_string())
}
