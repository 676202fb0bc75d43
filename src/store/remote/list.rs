//! Names: pages as services give them become listings as stores do, with one request for each page.

use super::place::{Place, Scheme};
use super::wire::{Call, Wants};
use super::{Naming, Remote, stat_of};
use crate::error::{Error, Kind, Result};
use crate::store::{Listed, Name};
use futures_core::Stream;
use opendal::{Lister, Operator, options};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many names an answer to `list` holds at most; services give them in pages of a thousand or more.
pub(super) const NAMES_MAX: usize = 10_000;
/// What came in this time is an answer, too: with a service that is slow, a whole one would not come before the call has to end.
const LISTING_TIME: Duration = Duration::from_secs(20);

impl Remote {
    /// Refuses a place where anything lies but folders that are called as in `ours`.
    pub(in crate::store) async fn judge_empty(&self, ours: &[&str]) -> Result<()> {
        let doing = self.doing("list", "all");
        let all = self.place.key("");
        let first_other = |operator: Operator, _| {
            let all = &all;
            async move {
                let options = options::ListOptions { recursive: true, ..Default::default() };
                let mut lister = operator.lister_options(all, options).await?;
                while let Some(entry) = next(&mut lister).await {
                    let entry = entry?;
                    let name = self.place.name_of(entry.path()).filter(|name| !matches!(*name, "" | "/"));
                    let folder = name.and_then(|name| name.split('/').next());
                    if folder.is_some_and(|folder| !ours.contains(&folder)) {
                        return Ok(name.map(str::to_owned));
                    }
                }
                Ok(None)
            }
        };
        let other = self.ask(&doing, Wants::default(), first_other).await?;
        let Some(other) = other else { return Ok(()) };
        let words = format!("make a store in {}: it holds other objects, such as {other:?}", self.place);
        Err(Error::new(Kind::Refused, words).hint("choose a prefix that nothing lies under"))
    }

    pub(super) async fn page(&self, under: &str, after: Option<&Name>) -> Result<Vec<Listed>> {
        self.page_within(under, after, LISTING_TIME).await
    }

    /// The names that come within `time`, and some at least.
    pub(super) async fn page_within(
        &self,
        under: &str,
        after: Option<&Name>,
        time: Duration,
    ) -> Result<Vec<Listed>> {
        let after = after.filter(|after| after.as_str() > under);
        if after.is_some_and(|after| self.ends_with(under, after)) {
            return Ok(Vec::new());
        }
        let doing = self.doing("list", under);
        let naming = self.naming;
        let list = |operator: Operator, call: Arc<Call>| {
            let start_after = after.map(|after| self.place.key(after.as_str()));
            let options = options::ListOptions { start_after, recursive: true, ..Default::default() };
            let of_page = Page { place: &self.place, under, naming };
            async move {
                let folder = of_page.place.key(of_page.under);
                let until = Instant::now() + time;
                of_page.gather(operator.lister_options(&folder, options).await?, &call, until).await
            }
        };
        let wants = Wants { ends_with_a_page: self.place.scheme == Scheme::Swift, ..Wants::default() };
        let (listed, is_end) = self.ask(&doing, wants, list).await?;
        if let Some(last) = listed.last().filter(|_| is_end) {
            *self.end() = Some((under.to_owned(), last.name.clone()));
        }
        Ok(listed)
    }

    /// Whether the last listing of this folder was seen to end with this name. Said once, to whoever goes on with it.
    fn ends_with(&self, under: &str, after: &Name) -> bool {
        self.end().take_if(|(folder, last)| folder == under && last == after).is_some()
    }

    fn end(&self) -> MutexGuard<'_, Option<(String, Name)>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which names make a page.
pub(super) struct Page<'a> {
    pub(super) place: &'a Place,
    pub(super) under: &'a str,
    pub(super) naming: Naming,
}

impl Page<'_> {
    /// Names of ours, as many as fit in an answer or come until then, and whether these are the last ones. What else lies there is passed over.
    pub(super) async fn gather(
        &self,
        mut lister: Lister,
        call: &Call,
        until: Instant,
    ) -> opendal::Result<(Vec<Listed>, bool)> {
        let mut listed = Vec::new();
        while listed.len() < NAMES_MAX && (listed.is_empty() || Instant::now() < until) {
            let Some(entry) = next(&mut lister).await else { return Ok((listed, true)) };
            let (key, metadata) = entry?.into_parts();
            let _before = call.names.fetch_add(1, Relaxed);
            if metadata.is_file()
                && let Some(name) = self.place.name_of(&key).filter(|name| name.starts_with(self.under))
                && let Ok(name) = (self.naming)(name)
            {
                listed.push(Listed { name, stat: stat_of(&metadata) });
            }
        }
        Ok((listed, false))
    }
}

async fn next(lister: &mut Lister) -> Option<opendal::Result<opendal::Entry>> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *lister).poll_next(context)).await
}
