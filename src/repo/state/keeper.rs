//! The one thread that touches `sled`: it opens, works and closes, so that whatever happens to it happens to nobody else.
//!
//! ```text
//! open -> work ... -> flush, close
//!   |       |
//!   +-------+-- panic, or an error that means damage: move aside, open afresh (once)
//!   +-------+-- another process has it, disk full, no permission: nothing is kept in this process
//! ```
//! `sled` may also hang when a thread of its own has panicked; whoever asks waits for a bounded time, after which nobody asks again.

use std::any::Any;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anyone waits for an answer.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the threads of a state that was closed may take to let go of it.
const LOCKED_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a write may stay in memory only.
const FLUSH_EVERY_MS: u64 = 2000;
const CACHE_LEN: u64 = 8 << 20;
const THREAD: &str = "state";

/// Work for the thread; it sends its own answer.
type Job = Box<dyn FnOnce(&sled::Db) -> sled::Result<()> + Send>;

/// The way to ask the thread. Dropped, the state is closed.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: Mutex<Option<Sender<Job>>>,
    ended: Mutex<Receiver<()>>,
    is_off: AtomicBool,
}

impl Keeper {
    /// Opens what is in `cache_dir`, behind the caller's back.
    pub(super) fn start(cache_dir: &Path) -> Keeper {
        let (jobs, todo) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let dir = cache_dir.to_owned();
        let work = move || {
            let _end: Sender<()> = end; // dropped with the thread, which is how it tells
            keep(&dir, &todo);
        };
        quiet_panics();
        let started = thread::Builder::new().name(THREAD.to_owned()).spawn(work);
        Keeper {
            jobs: Mutex::new(Some(jobs)),
            ended: Mutex::new(ended),
            is_off: AtomicBool::new(started.is_err()),
        }
    }

    /// What `work` says, if there is a state and it works.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
    ) -> Option<T> {
        if self.is_off.load(Ordering::Relaxed) {
            return None;
        }
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |db| {
            let _ = answer.send(work(db)?); // nobody waits any more: no matter
            Ok(())
        });
        let is_sent = match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.send(job).is_ok(),
            None => false,
        };
        match answered.recv_timeout(ANSWER_TIME_MAX) {
            Ok(answer) => return Some(answer),
            Err(RecvTimeoutError::Timeout) => self.turn_off("it does not answer"),
            Err(RecvTimeoutError::Disconnected) if !is_sent => self.is_off.store(true, Ordering::Relaxed),
            Err(RecvTimeoutError::Disconnected) => {} // this work failed; the next may find a fresh state
        }
        None
    }

    fn turn_off(&self, why: &str) {
        self.is_off.store(true, Ordering::Relaxed);
        tracing::warn!(why, "this machine's state is not used from here on");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(ANSWER_TIME_MAX);
    }
}

/// What keeps a state from being used.
enum Trouble {
    /// It is not what was written: away with it.
    Damage(String),
    /// It can't be had now, but may be good.
    Away(String),
}

fn keep(cache_dir: &Path, todo: &Receiver<Job>) {
    let _lock = match lock(cache_dir) {
        Ok(lock) => lock,
        Err(error) => return tracing::debug!(%error, "this machine's state is in use or can't be had"),
    };
    let dir = cache_dir.join("state");
    for _ in 0..2 {
        match open_and_work(&dir, todo) {
            Ok(()) => return,
            Err(Trouble::Away(why)) => return tracing::warn!(why, "this machine's state is not used"),
            Err(Trouble::Damage(why)) => {
                tracing::warn!(why, dir = %dir.display(), "this machine's state is damaged and made anew");
                if let Err(error) = move_aside(&dir) {
                    return tracing::warn!(%error, "the damaged state can't be moved aside");
                }
            }
        }
    }
}

fn open_and_work(dir: &Path, todo: &Receiver<Job>) -> Result<(), Trouble> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_LEN);
    let config = config.flush_every_ms(Some(FLUSH_EVERY_MS));
    let db = open_when_free(&config)?;
    for job in todo {
        if let Err(trouble) = guarded(|| job(&db)) {
            std::mem::forget(db); // closing what has panicked may hang; the files go with the process
            return Err(trouble);
        }
    }
    let _flushed = guarded(|| db.flush())?;
    guarded(|| {
        drop(db);
        Ok(())
    })
}

/// We hold our own lock, so whoever still holds that of `sled` is a thread of a state that this process closed a moment ago.
fn open_when_free(config: &sled::Config) -> Result<sled::Db, Trouble> {
    let began = Instant::now();
    loop {
        let opened = guarded(|| match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) => Ok(None),
            opened => opened.map(Some),
        })?;
        match opened {
            Some(db) => return Ok(db),
            None if began.elapsed() > LOCKED_TIME_MAX => {
                return Err(Trouble::Away("it stays locked".to_owned()));
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) if is_away(&error) => Err(Trouble::Away(error.to_string())),
        Ok(Err(error)) => Err(Trouble::Damage(error.to_string())),
        Err(panic) => Err(Trouble::Damage(words_of(&*panic))),
    }
}

/// Whether an error says nothing about the bytes that are there.
fn is_away(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    is_locked(error)
        || matches!(
            error.kind(),
            StorageFull | QuotaExceeded | PermissionDenied | ReadOnlyFilesystem | NotFound
        )
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

/// Our own lock, so that `sled` never looks at files which another process has open.
fn lock(cache_dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(cache_dir)?;
    let path = cache_dir.join("state.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    lock.try_lock()?;
    Ok(lock)
}

/// Keeps the last damaged state, for whoever wants to know what happened.
fn move_aside(dir: &Path) -> io::Result<()> {
    let aside: PathBuf = dir.with_extension("damaged");
    let _ = std::fs::remove_dir_all(&aside).or_else(|_| std::fs::remove_file(&aside));
    std::fs::rename(dir, aside)
}

/// Keeps panics of this thread and of those of `sled` off the user's terminal; all others are told as before.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_ours = |name: &str| name == THREAD || name == "log flusher" || name.starts_with("sled-");
            if !thread::current().name().is_some_and(is_ours) {
                others(panic);
            }
        }));
    });
}
