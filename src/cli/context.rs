//! What every verb needs: the runtime, the repository, the engine, and how to talk to whoever called.

use super::args::Global;
use super::{locations, password, units};
use crate::error::{Error, Kind, Result};
use crate::foreign::cinder::Container;
use crate::format::RepositoryId;
use crate::format::record::{Item, Record};
use crate::image::disk::Disk;
use crate::image::library::Ours;
use crate::image::{Engine, Library};
use crate::progress::{Cancel, Progress};
use crate::repo::Repository;
use crate::repo::refs::{Reference, choose_item};
use crate::seal::Password;
use crate::store::{self, AnyStore};
use afterimage_mountd::mount::{next_of, stop_signals};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};

/// Work shorter than this shows no progress.
const QUICK: Duration = Duration::from_secs(1);
/// No writer takes so long over one object.
const UNFINISHED_FOR: Duration = Duration::from_secs(48 * 3600);
/// What has mounted or serves gets so long to end by itself, before a signal ends it: more than its clients and its mount are waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Linux's number of the signal that says that a file is as long as it may be.
const SIGXFSZ: i32 = 25;
const BAR: &str = "{msg} {wide_bar} {percent}% · {rate} · {left} left";

/// The call.
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) cancel: Cancel,
    ends_itself: Arc<AtomicBool>,
    /// Never shut down: what still runs at the end ends with the process, rather than being waited for or finding no clock any more.
    runtime: &'static Runtime,
}

impl Context {
    /// Starts the runtime and hears signals.
    pub(super) fn new(global: Global) -> Result<Context> {
        start_logs(&global);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(8))
            .enable_all()
            .build()
            .map_err(|error| Error::io("start the runtime", error))?;
        let (cancel, ends_itself) = (Cancel::default(), Arc::<AtomicBool>::default());
        drop(runtime.spawn(hear_signals(cancel.clone(), Arc::clone(&ends_itself))));
        Ok(Context { global, cancel, ends_itself, runtime: Box::leak(Box::new(runtime)) })
    }

    /// From here on a second signal waits for the verb to end in its own way, and for no longer than [`ENDS_WITHIN`]: what it has mounted or serves
    /// would be left dead.
    pub(super) fn ends_itself(&self) {
        self.ends_itself.store(true, Ordering::Relaxed);
    }

    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    pub(super) fn place(&self) -> Result<&str> {
        self.global.repo.as_deref().ok_or_else(|| {
            Error::new(Kind::Usage, "which repository?").hint("give -r REPO or set AFTERIMAGE_REPO")
        })
    }

    /// The same for what writes, or speaks of keys: what Cinder wrote is only read.
    pub(super) fn own_place(&self) -> Result<&str> {
        refuse_cinder(self.place()?)
    }

    /// The password that was given with the call.
    pub(super) fn given_password(&self) -> Result<Option<Password>> {
        self.global.password_file.as_deref().map(password::from_file).transpose()
    }

    /// The directory that the backups lie in, when it is one of this machine.
    pub(super) fn directory(&self) -> Result<Option<PathBuf>> {
        let place = self.place()?;
        let place = of_cinder(place).unwrap_or(place);
        Ok(store::is_directory(place).then(|| PathBuf::from(place)))
    }

    /// The password: as given with the call, or as asked for.
    pub(super) fn ask_password(&self) -> Result<Password> {
        match self.given_password()? {
            Some(password) => Ok(password),
            None => password::ask("Password of the repository"),
        }
    }

    /// Whether a password is to be handed to the background: where the repository wants one, and where one was given, also if the key lies open.
    pub(super) fn needs_password(&self) -> Result<bool> {
        if of_cinder(self.place()?).is_some() {
            return Ok(false);
        }
        let store = self.store()?.store;
        let needed = self.runtime().block_on(Repository::needs_password(&store))?;
        Ok(needed || self.global.password_file.is_some())
    }

    /// Where the repository lies.
    pub(super) fn store(&self) -> Result<store::Opened> {
        open_store(self.own_place()?)
    }

    /// Opens the repository.
    pub(super) fn repository(&self) -> Result<Arc<Repository>> {
        self.repository_by(self.given_password()?)
    }

    /// Opens the repository by this password and no other way, or as it can: it may ask for one.
    pub(super) fn repository_by(&self, password: Option<Password>) -> Result<Arc<Repository>> {
        self.repository_in(self.store()?.store, password)
    }

    fn repository_in(&self, store: AnyStore, password: Option<Password>) -> Result<Arc<Repository>> {
        let cache = locations::cache();
        let opened = match password {
            Some(password) => self.runtime().block_on(Repository::open_with(store, &cache, &password))?,
            None => {
                let whose = format!("Password of {}", store.place());
                let mut ask = || password::ask(&whose);
                self.runtime().block_on(Repository::open(store, &cache, &mut ask))?
            }
        };
        Ok(Arc::new(opened))
    }

    /// Opens the repository to write to it: what writers that were killed long ago left unfinished goes.
    pub(super) fn writer_engine(&self) -> Result<Arc<Engine>> {
        let opened = self.store()?;
        let repository = self.repository_in(opened.store.clone(), self.given_password()?)?;
        self.sweep(&opened);
        Engine::new(repository, self.runtime().clone(), self.global.memory)
    }

    /// Opens another repository to write to it.
    pub(super) fn other_writer_engine(
        &self,
        place: &str,
        password_file: Option<&Path>,
        memory: u64,
    ) -> Result<Arc<Engine>> {
        let opened = open_store(refuse_cinder(place)?)?;
        let password = password_file.map(password::from_file).transpose()?;
        let repository = self.repository_in(opened.store.clone(), password)?;
        self.sweep(&opened);
        Engine::new(repository, self.runtime().clone(), memory)
    }

    fn sweep(&self, opened: &store::Opened) {
        if let Some(local) = &opened.local
            && let Err(error) = self.runtime().block_on(local.sweep(UNFINISHED_FOR))
        {
            tracing::warn!("remove what was left unfinished: {error}");
        }
    }

    /// Opens what knows the backups: a repository, or what Cinder wrote.
    pub(super) fn library(&self) -> Result<Arc<dyn Library>> {
        self.library_by(self.given_password()?, |_| Ok(None))
    }

    /// The same, by this password and with the tier on disk that `disk` gives for a repository.
    pub(super) fn library_by(
        &self,
        password: Option<Password>,
        disk: impl FnOnce(RepositoryId) -> Result<Option<Disk>>,
    ) -> Result<Arc<dyn Library>> {
        if let Some(cinder) = self.cinder()? {
            return Ok(cinder);
        }
        let repository = self.repository_by(password)?;
        let disk = disk(repository.id())?;
        let engine = Engine::with_disk(repository, self.runtime().clone(), self.global.memory, disk)?;
        Ok(Arc::new(Ours::new(engine)))
    }

    /// What Cinder wrote, if the call is about that.
    pub(super) fn cinder(&self) -> Result<Option<Arc<Container>>> {
        let Some(place) = of_cinder(self.place()?) else { return Ok(None) };
        let opened = store::open_foreign(place)?;
        let (runtime, memory) = (self.runtime().clone(), self.global.memory);
        Container::open(opened.store, &locations::cache(), runtime, memory).map(Some)
    }

    /// Opens the repository with the engine that reads from it.
    pub(super) fn engine(&self) -> Result<Arc<Engine>> {
        self.engine_within(self.global.memory)
    }

    /// The same with a part of the memory.
    pub(super) fn engine_within(&self, memory: u64) -> Result<Arc<Engine>> {
        Engine::new(self.repository()?, self.runtime().clone(), memory)
    }

    /// The backup and the item of it that a reference means.
    pub(super) fn item(&self, library: &dyn Library, text: &str) -> Result<(Record, Item)> {
        let reference = Reference::parse(text)?;
        let record = self.runtime().block_on(library.find(&reference))?;
        if let ([], Some(why)) = (record.items.as_slice(), record.unread.first()) {
            return Err(Error::new(Kind::Corrupt, format!("{text} is no image: {why}")));
        }
        let item = choose_item(&record, reference.item.as_deref())?.clone();
        Ok((record, item))
    }

    /// Says something to a person; machines and the quiet don't hear it.
    pub(super) fn say(&self, words: impl AsRef<str>) {
        if !self.global.quiet {
            eprintln!("{}", words.as_ref());
        }
    }

    /// Prints the result.
    pub(super) fn print(&self, json: impl FnOnce() -> Value, people: impl FnOnce() -> String) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let text = match self.global.json {
            true => format!("{}\n", json()),
            false => people(),
        };
        let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        printed.map_err(|error| Error::io("print the result", error))
    }

    /// Prints many rows, for programs as one array. Each is let go of before the next is made.
    pub(super) fn print_rows<R: Serialize>(
        &self,
        rows: impl Iterator<Item = R>,
        people: impl FnOnce() -> String,
    ) -> Result<()> {
        if !self.global.json {
            return self.print(|| Value::Null, people);
        }
        let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
        let printed = (|| {
            out.write_all(b"[")?;
            for (place, row) in rows.enumerate() {
                if place > 0 {
                    out.write_all(b",")?;
                }
                serde_json::to_writer(&mut out, &row)?;
            }
            out.write_all(b"]\n")?;
            out.flush()
        })();
        printed.map_err(|error| Error::io("print the result", error))
    }

    /// Does long work on this thread while another one shows how far it is.
    pub(super) fn with_progress<T>(
        &self,
        what: &str,
        work: impl FnOnce(&Progress) -> Result<T>,
    ) -> Result<T> {
        let progress = Progress::default();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let shower = scope.spawn(|| self.show(what, &progress, &over));
            let _over = Over { over: &over, shower: shower.thread() };
            work(&progress)
        })
    }

    fn show(&self, what: &str, progress: &Progress, over: &AtomicBool) {
        let started = Instant::now();
        let bar =
            (!self.global.json && !self.global.quiet && std::io::stderr().is_terminal()).then(|| bar(what));
        let (mut step, mut shown) = (QUICK, false);
        loop {
            std::thread::park_timeout(step);
            if over.load(Ordering::Relaxed) {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                return;
            }
            let (done, total) = progress.now();
            if let Some(bar) = &bar {
                if !shown {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.reset_elapsed();
                }
                shown = true;
                step = Duration::from_millis(100);
                bar.set_length(total.max(done));
                bar.set_position(done);
            } else if self.global.json {
                let seconds = started.elapsed().as_secs_f64();
                let mut line =
                    serde_json::json!({ "progress": { "done": done, "total": total, "seconds": seconds } });
                if let (Some(state), Some(progress)) = (progress.state(), line["progress"].as_object_mut()) {
                    let _new = progress.insert("state".to_owned(), state.into());
                }
                let _unheard = writeln!(std::io::stdout(), "{line}");
            }
        }
    }
}

/// Where Cinder's backups lie, if that is what a place says.
fn of_cinder(place: &str) -> Option<&str> {
    place.strip_prefix("cinder:")
}

fn refuse_cinder(place: &str) -> Result<&str> {
    if of_cinder(place).is_none() {
        return Ok(place);
    }
    let words = format!("{place} holds what Cinder wrote: it is only read from here");
    Err(Error::new(Kind::Refused, words).hint("for this, give a repository of your own (afterimage init)"))
}

fn open_store(place: &str) -> Result<store::Opened> {
    store::open(place).map_err(|error| match error.kind() {
        Kind::Missing => error.hint("afterimage init makes a repository"),
        _ => error,
    })
}

fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
        let _fits = write!(out, "{}/s", units::size(state.per_sec() as u64));
    });
    let style = style.with_key("left", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
        let _fits = write!(out, "{} s", state.eta().as_secs());
    });
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style)
        .with_message(what.to_owned())
}

fn start_logs(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        _ => "trace",
    };
    // Who came and went is worth a line unless nobody wants to hear anything.
    let audit = if global.quiet { "error" } else { "info" };
    let filter = format!(
        "error,afterimage={level},afterimage_nbd={level},afterimage_nbd::audit={audit},afterimage_mountd={level}"
    );
    let logs = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    // A second start in one process is a test's; the first one's logs do.
    let _already = logs.try_init();
}

/// Dropped, also by a panic, it ends what shows the progress of a work.
struct Over<'a> {
    over: &'a AtomicBool,
    shower: &'a std::thread::Thread,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.shower.unpark();
    }
}

/// The first signal asks the work to stop, the second one ends the process; where that ends itself, only after it had some time to.
async fn hear_signals(cancel: Cancel, ends_itself: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let heard = stop_signals();
    // A write beyond the limit on file sizes shall be an error with words, not the end of the process: hearing the signal does that.
    let _beyond_limit = signal(SignalKind::from_raw(SIGXFSZ));
    let Ok(mut signals) = heard else { return };
    let mut first = None;
    loop {
        let _which = next_of(&mut signals).await;
        cancel.stop();
        password::give_up();
        if first.is_some_and(|first: Instant| {
            !ends_itself.load(Ordering::Relaxed) || first.elapsed() >= ENDS_WITHIN
        }) {
            std::process::exit(130);
        }
        let _when = first.get_or_insert_with(Instant::now);
    }
}
