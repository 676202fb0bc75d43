//! Keeping up with a library in which backups come and go, at no cost while nobody looks.
//!
//! Whoever looks at a list that is older than some seconds has it compared with the store first: one listing of ids, and the records of those
//! that are new. A store that is slow or away delays a look by a moment, once; then people go on with what was known.

use super::contents::{Backup, Contents};
use crate::error::{Error, Kind, Result};
use crate::format::BackupId;
use crate::format::record::Record;
use crate::image::Library;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// For how long a list is taken as true.
pub const YOUNG: Duration = Duration::from_secs(2);
/// How long somebody who looks waits for a new list when there is an old one.
const PATIENCE: Duration = Duration::from_secs(2);
/// With more new backups than this, the merged catalogue is read instead of each record.
const SINGLY: usize = 32;
/// When a record that could not be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The list of backups, kept up to date for those who look.
pub(super) struct Kept {
    library: Arc<dyn Library>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    contents: Option<Arc<Contents>>,
    /// When the store was last asked and what kept it from answering.
    asked: Option<Instant>,
    trouble: Option<Error>,
    running: Option<(Instant, watch::Receiver<()>)>,
    /// What can't be shown, and since when that is known: damaged records, and kinds this tree has no place for.
    passed_over: HashMap<BackupId, Instant>,
}

impl Kept {
    pub(super) fn new(library: Arc<dyn Library>) -> Arc<Kept> {
        Arc::new(Kept { library, state: Mutex::default() })
    }

    /// The list, if it is young. Never waits.
    pub(super) fn now(&self) -> Option<Arc<Contents>> {
        let state = self.state();
        state.contents.clone().filter(|_| state.is_young())
    }

    /// The list, compared with the store if it is no longer young.
    pub(super) async fn look(self: &Arc<Self>) -> Result<Arc<Contents>> {
        let (old, since, mut done) = {
            let mut state = self.state();
            match (&state.contents, &state.trouble) {
                (Some(contents), _) if state.is_young() => return Ok(Arc::clone(contents)),
                (None, Some(trouble)) if state.is_young() => return Err(trouble.clone()),
                _ => {}
            }
            let (since, done) = match &state.running {
                Some(running) => running.clone(),
                None => self.start(&mut state),
            };
            (state.contents.clone(), since, done)
        };
        // An error says that the one who asks the store is done, too.
        let answer = done.changed();
        match &old {
            None => drop(answer.await),
            Some(_) => drop(tokio::time::timeout(PATIENCE.saturating_sub(since.elapsed()), answer).await),
        }
        let state = self.state();
        match (&state.contents, old, &state.trouble) {
            (Some(contents), _, _) => Ok(Arc::clone(contents)),
            (None, Some(old), _) => Ok(old),
            (None, None, Some(trouble)) => Err(trouble.clone()),
            (None, None, None) => Err(Error::new(Kind::Unreachable, "list the backups: it was given up")),
        }
    }

    fn start(self: &Arc<Self>, state: &mut State) -> (Instant, watch::Receiver<()>) {
        let (done, wait) = watch::channel(());
        let kept = Arc::clone(self);
        // What the repository keeps on this machine is read in a way that blocks.
        let runtime = self.library.engine().runtime().clone();
        drop(self.library.engine().runtime().spawn_blocking(move || {
            let asked = catch_unwind(AssertUnwindSafe(|| runtime.block_on(kept.ask())));
            kept.take(asked.unwrap_or_else(|_| Err(panicked())));
            drop(done);
        }));
        let running = (Instant::now(), wait);
        state.running = Some(running.clone());
        running
    }

    async fn ask(&self) -> Result<Option<Contents>> {
        let Some(old) = self.state().contents.clone() else {
            let listing = self.library.list().await?;
            return Ok(Some(self.contents_of(listing, &HashMap::new())));
        };
        let ids = self.library.ids().await?;
        let new: Vec<BackupId> = ids.iter().copied().filter(|id| self.is_new(&old, id)).collect();
        let known: HashMap<BackupId, Arc<Backup>> = ids
            .iter()
            .filter_map(|id| old.ids().get(id))
            .map(|shown| (shown.backup.id, Arc::clone(&shown.backup)))
            .collect();
        if new.is_empty() && known.len() == old.ids().len() {
            return Ok(None);
        }
        if new.len() > SINGLY {
            let listing = self.library.list().await?;
            return Ok(Some(self.contents_of(listing, &known)));
        }
        let mut backups: Vec<Arc<Backup>> = known.into_values().collect();
        for id in new {
            match self.library.record(id).await {
                Ok(record) => backups.extend(self.shown(&record)),
                Err(error) if error.kind() == Kind::Missing => {}
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                    self.pass_over(id, &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Contents::new(backups)))
    }

    fn is_new(&self, old: &Contents, id: &BackupId) -> bool {
        let passed_over = self.state().passed_over.get(id).is_some_and(|since| since.elapsed() < AGAIN_AFTER);
        !passed_over && !old.ids().contains_key(id)
    }

    fn contents_of(
        &self,
        listing: crate::repo::catalogue::Listing,
        known: &HashMap<BackupId, Arc<Backup>>,
    ) -> Contents {
        for (id, error) in &listing.damaged {
            self.pass_over(*id, error);
        }
        let backup = |record: &Record| known.get(&record.id).cloned().or_else(|| self.shown(record));
        Contents::new(listing.records.iter().filter_map(backup))
    }

    fn shown(&self, record: &Record) -> Option<Arc<Backup>> {
        let shown = Backup::of(record).map(Arc::new);
        if shown.is_none() {
            let words = format!("it is a {}, for which there is no place here", record.kind());
            self.pass_over(record.id, &Error::new(Kind::Unsupported, words));
        }
        shown
    }

    /// Said once, however often it is seen.
    fn pass_over(&self, id: BackupId, error: &Error) {
        if self.state().passed_over.insert(id, Instant::now()).is_none() {
            tracing::warn!("backup {id} is not shown: {error}");
        }
    }

    fn take(&self, answer: Result<Option<Contents>>) {
        let mut state = self.state();
        state.running = None;
        state.asked = Some(Instant::now());
        match answer {
            Ok(new) => {
                state.trouble = None;
                if let Some(new) = new {
                    state.contents = Some(Arc::new(new));
                }
            }
            Err(error) => {
                if state.trouble.is_none() && state.contents.is_some() {
                    tracing::warn!("the list of backups stays as it was: {error}");
                }
                state.trouble = Some(error);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panicked() -> Error {
    Error::new(Kind::Unsupported, "the thread that lists the backups ended in a panic: this is a bug")
}

impl State {
    fn is_young(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < YOUNG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::RepositoryId;
    use crate::format::record::Root;
    use crate::image::{Engine, Image};
    use crate::repo::catalogue::Listing;
    use crate::repo::refs::Reference;
    use crate::store::Fut;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    /// Has no backups, and panics when it is asked for the first time.
    struct Fragile {
        engine: Arc<Engine>,
        broke: AtomicBool,
    }

    impl Library for Fragile {
        fn engine(&self) -> &Arc<Engine> {
            &self.engine
        }

        fn list(&self) -> Fut<'_, Listing> {
            Box::pin(async {
                assert!(self.broke.swap(true, SeqCst), "it breaks, as the test wants");
                Ok(Listing::default())
            })
        }

        fn ids(&self) -> Fut<'_, Vec<BackupId>> {
            unreachable!("nothing is known yet")
        }

        fn record(&self, _id: BackupId) -> Fut<'_, Record> {
            unreachable!("there is none")
        }

        fn find<'a>(&'a self, _reference: &'a Reference) -> Fut<'a, Record> {
            unreachable!("there is none")
        }

        fn open(&self, _home: RepositoryId, _backup: BackupId, _root: &Root, _len: u64) -> Image {
            unreachable!("there is none")
        }
    }

    #[test]
    fn f5_a_panic_while_backups_are_listed_is_an_error_once_and_not_for_ever() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let engine = Engine::foreign(RepositoryId([1; 16]), runtime.handle().clone(), 1 << 20).unwrap();
        let kept = Kept::new(Arc::new(Fragile { engine, broke: AtomicBool::new(false) }));
        let error = runtime.block_on(kept.look()).map(drop).unwrap_err();
        assert!(error.to_string().contains("panic"), "{error}");
        // Some seconds later.
        kept.state().asked = None;
        assert!(runtime.block_on(kept.look()).unwrap().ids().is_empty());
    }
}
