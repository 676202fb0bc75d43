//! Objects in a service across a network: S3 and what speaks it, Swift.
//!
//! ```text
//! place + environment -> operator (s3) or sessions (login, keystone) -> one call -> wire -> service
//!                                                                          '-> words, when it fails
//! ```
//!
//! Holds: one call is one request, but for a listing and for a `put` whose name is taken. A `put` never replaces where the service knows how
//! to create only; where it does not, names that are random or derive from what they name carry that promise. Nothing is retried here
//! (`store::retry` does), except once with a new session when the one in use was refused.
//!
//! Credentials come from the environment and are in no argument, error, log or `Debug`.

pub(super) mod env;
#[cfg(feature = "swift")]
mod keystone;
#[cfg(feature = "swift")]
mod login;
pub(super) mod place;
#[cfg(feature = "s3")]
mod profile;
#[cfg(feature = "s3")]
mod s3;
#[cfg(test)]
mod tests;
mod wire;
mod words;

use super::{Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use env::Env;
#[cfg(feature = "swift")]
use login::{Held, Login};
use opendal::{Buffer, Lister, Metadata, Operator, options};
use place::{Place, Scheme};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use wire::{Call, Wants};
use words::{Doing, failure};

/// How many names an answer to `list` holds at most; services give them in pages of a thousand or more.
const NAMES_MAX: usize = 10_000;
/// How many calls a service gets at once, before anything is known of it.
pub(super) const CALLS_AT_ONCE: usize = 16;
/// So many bytes of an object whose name was taken are compared at a time.
const COMPARE_LEN: u64 = 8 << 20;
/// What a service answers when it should create and the name is taken.
const TAKEN: u16 = 412;
/// What a service answers that does not know how to create only.
const NOT_KNOWN: u16 = 501;

/// A store in a bucket or container.
pub(super) struct Remote {
    place: Place,
    client: reqwest::Client,
    door: Door,
    /// Whether the service can create and never replace.
    creates_only: AtomicBool,
    /// The folder that was listed last to its end, and the name that it ended with: services need no question more for that.
    end: Mutex<Option<(String, Name)>>,
}

/// How the service is spoken to.
enum Door {
    S3(Operator),
    Swift(Login),
}

/// A call that failed, and the status that it failed with.
struct Failed {
    status: u16,
    error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { status: 0, error }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        failed.error
    }
}

/// What one call goes through.
struct Way {
    operator: Operator,
    session: Option<Arc<Held>>,
}

impl Remote {
    /// The store at `place`, as the environment describes its service. Nobody is asked yet.
    pub(super) fn open(place: Place, env: &Env) -> Result<Remote> {
        let (door, client) = match place.scheme {
            Scheme::S3 => {
                let (operator, certificates) = s3::operator(&place, env)?;
                (Door::S3(operator), wire::client(certificates.as_deref())?)
            }
            Scheme::Swift => {
                let client = wire::client(env.get("OS_CACERT").map(std::path::Path::new))?;
                (Door::Swift(Login::new(&place, env, client.clone())?), client)
            }
        };
        Ok(Remote { place, client, door, creates_only: AtomicBool::new(true), end: Mutex::new(None) })
    }

    /// Refuses a place where anything lies but folders that are called as in `ours`.
    pub(super) async fn judge_empty(&self, ours: &[&str]) -> Result<()> {
        let doing = self.doing("list", "all");
        let first_other = |operator: Operator, _| async move {
            let options = options::ListOptions { recursive: true, ..Default::default() };
            let mut lister = operator.lister_options("/", options).await?;
            while let Some(entry) = next(&mut lister).await {
                let path = entry?.path().to_owned();
                let folder = path.split('/').next().unwrap_or_default();
                if path != "/" && !ours.contains(&folder) {
                    return Ok(Some(path));
                }
            }
            Ok(None)
        };
        let other = self.ask(&doing, Wants::default(), first_other).await?;
        let Some(other) = other else { return Ok(()) };
        let words = format!("make a store in {}: it holds other objects, such as {other:?}", self.place);
        Err(Error::new(Kind::Refused, words).hint("choose a prefix that nothing lies under"))
    }

    async fn way(&self) -> Result<Way> {
        match &self.door {
            Door::S3(operator) => Ok(Way { operator: operator.clone(), session: None }),
            Door::Swift(login) => {
                let session = login.session().await.context(|| format!("open {}", self.place))?;
                Ok(Way { operator: session.operator.clone(), session: Some(session) })
            }
        }
    }

    /// Asks once; and once more with a new session where the one in use was refused.
    async fn ask<T, F>(
        &self,
        doing: &Doing<'_>,
        wants: Wants,
        ask: impl Fn(Operator, Arc<Call>) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let mut again = true;
        loop {
            let way = self.way().await?;
            let call = Arc::new(Call::new(wants));
            let cause = match ask(call.through(way.operator, &self.client), Arc::clone(&call)).await {
                Ok(answer) => return Ok(answer),
                Err(cause) => cause,
            };
            let status = call.seen().status;
            if let (Door::Swift(login), Some(session), 401) = (&self.door, &way.session, status)
                && std::mem::take(&mut again)
                && login.refused(session).await
            {
                continue;
            }
            return Err(Failed { status, error: failure(doing, &call, &cause) });
        }
    }

    fn doing<'a>(&'a self, what: &'static str, object: &'a str) -> Doing<'a> {
        Doing { what, object, place: &self.place }
    }

    async fn read(&self, name: &Name, range: Range<u64>) -> Result<Bytes> {
        let doing = self.doing("get", name.as_str());
        if range.start > range.end {
            return Err(Error::new(Kind::Usage, format!("{doing}: {range:?} is no range")));
        }
        if range.is_empty() || range.end > i64::MAX as u64 {
            return self.read_beside(&doing, name, range).await;
        }
        let wants = Wants { object_len_max: Some(range.end - range.start), ..Wants::default() };
        let read = |operator: Operator, _| {
            let (name, range) = (name.to_string(), range.clone());
            async move {
                let options = options::ReadOptions { range: range.into(), ..Default::default() };
                operator.read_options(&name, options).await
            }
        };
        let bytes = self.ask(&doing, wants, read).await?;
        whole(&doing, bytes.to_bytes(), range.end - range.start)
    }

    /// A range that no request can name: nothing of an object that is there, or what no object has.
    async fn read_beside(&self, doing: &Doing<'_>, name: &Name, range: Range<u64>) -> Result<Bytes> {
        let len = self.look(name).await?.len;
        if range.end <= len {
            return Ok(Bytes::new());
        }
        Err(Error::new(Kind::Corrupt, format!("{doing}: it ends at {len}, before {range:?} does")))
    }

    async fn read_whole(&self, name: &Name, len_max: u64) -> Result<Bytes> {
        let doing = self.doing("get", name.as_str());
        let wants = Wants { object_len_max: Some(len_max), ..Wants::default() };
        let read = |operator: Operator, _| {
            let name = name.to_string();
            async move { operator.read_options(&name, options::ReadOptions::default()).await }
        };
        let bytes = self.ask(&doing, wants, read).await?;
        Ok(bytes.to_bytes())
    }

    async fn look(&self, name: &Name) -> Result<Stat> {
        let doing = self.doing("stat", name.as_str());
        let stat = |operator: Operator, _| {
            let name = name.to_string();
            async move { operator.stat(&name).await }
        };
        let metadata = self.ask(&doing, Wants::default(), stat).await?;
        Ok(stat_of(&metadata))
    }

    async fn publish(&self, name: &Name, body: Body) -> Result<()> {
        if !self.creates_only.load(Relaxed) {
            return self.publish_unguarded(name, &body).await;
        }
        match self.write(name, &body, true).await {
            Err(failed) if failed.status == TAKEN => match self.is_there(name, &body).await? {
                true => Ok(()),
                // Whoever has it has not shown it yet.
                false => Err(failed.error.as_kind(Kind::Busy)),
            },
            Err(failed) if failed.status == NOT_KNOWN => {
                self.creates_only.store(false, Relaxed);
                self.publish_unguarded(name, &body).await
            }
            written => Ok(written?),
        }
    }

    /// Where the service can't create only: a name that is taken is seen before, unless two writers come at the same moment.
    async fn publish_unguarded(&self, name: &Name, body: &Body) -> Result<()> {
        match self.is_there(name, body).await? {
            true => Ok(()),
            false => Ok(self.write(name, body, false).await?),
        }
    }

    async fn write(&self, name: &Name, body: &Body, create: bool) -> Result<(), Failed> {
        let doing = self.doing("put", name.as_str());
        let buffer = Buffer::from(body.parts.clone());
        let by_library = matches!(self.door, Door::S3(_));
        let wants = Wants { create_only: create && !by_library, ..Wants::default() };
        let write = |operator: Operator, _| {
            let (name, buffer) = (name.to_string(), buffer.clone());
            let options = options::WriteOptions { if_not_exists: create && by_library, ..Default::default() };
            async move { operator.write_options(&name, buffer, options).await }
        };
        self.ask(&doing, wants, write).await.map(drop)
    }

    /// Whether the name is taken by these very bytes; `Refused` if it is by others.
    async fn is_there(&self, name: &Name, body: &Body) -> Result<bool> {
        let stat = match self.look(name).await {
            Err(error) if error.kind() == Kind::Missing => return Ok(false),
            stat => stat?,
        };
        if stat.len == body.len() && self.holds(name, body).await? {
            return Ok(true);
        }
        let words = format!(
            "put {name} in {}: another object of that name is there, {} bytes long and not these {}",
            self.place,
            stat.len,
            body.len()
        );
        Err(Error::new(Kind::Refused, words))
    }

    async fn holds(&self, name: &Name, body: &Body) -> Result<bool> {
        let whole = Buffer::from(body.parts.clone());
        let len = body.len();
        let mut at = 0;
        while at < len {
            let end = (at + COMPARE_LEN).min(len);
            let there = self.read(name, at..end).await?;
            if !whole.slice(at as usize..end as usize).flat_map(|part| part.into_iter()).eq(there) {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    async fn page(&self, under: &str, after: Option<&Name>) -> Result<Vec<Listed>> {
        let after = after.filter(|after| after.as_str() > under);
        if after.is_some_and(|after| self.ends_with(under, after)) {
            return Ok(Vec::new());
        }
        let doing = self.doing("list", under);
        let list = |operator: Operator, call: Arc<Call>| {
            let start_after = after.map(Name::to_string);
            let options = options::ListOptions { start_after, recursive: true, ..Default::default() };
            let under = under.to_owned();
            async move { gather(operator.lister_options(&under, options).await?, &under, &call).await }
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

    async fn remove(&self, name: &Name) -> Result<()> {
        let doing = self.doing("delete", name.as_str());
        let delete = |operator: Operator, _| {
            let name = name.to_string();
            async move { operator.delete(&name).await }
        };
        match self.ask(&doing, Wants::default(), delete).await {
            Err(failed) if failed.error.kind() != Kind::Missing => Err(failed.error),
            _ => Ok(()),
        }
    }
}

/// Names of ours, as many as fit in an answer, and whether these are the last ones. What else lies there is passed over.
async fn gather(mut lister: Lister, under: &str, call: &Call) -> opendal::Result<(Vec<Listed>, bool)> {
    let mut listed = Vec::new();
    while listed.len() < NAMES_MAX {
        let Some(entry) = next(&mut lister).await else { return Ok((listed, true)) };
        let (path, metadata) = entry?.into_parts();
        let _before = call.names.fetch_add(1, Relaxed);
        if metadata.is_file()
            && path.starts_with(under)
            && let Ok(name) = Name::parse(&path)
        {
            listed.push(Listed { name, stat: stat_of(&metadata) });
        }
    }
    Ok((listed, false))
}

async fn next(lister: &mut Lister) -> Option<opendal::Result<opendal::Entry>> {
    use futures_core::Stream;
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *lister).poll_next(context)).await
}

fn stat_of(metadata: &Metadata) -> Stat {
    let published = metadata.last_modified().map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    Stat { len: metadata.content_length(), published }
}

fn whole(doing: &Doing<'_>, bytes: Bytes, len: u64) -> Result<Bytes> {
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    Err(Error::new(Kind::Corrupt, format!("{doing}: {} bytes came, {len} should have", bytes.len())))
}

impl Store for Remote {
    fn place(&self) -> String {
        self.place.to_string()
    }

    fn calls_at_once(&self) -> Option<usize> {
        Some(CALLS_AT_ONCE)
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(self.read(name, range))
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(self.read_whole(name, len_max))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(self.look(name))
    }

    /// A service shows an object once it is there to stay.
    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move { self.look(name).await.map(drop) })
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(self.publish(name, body))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(self.page(under, after))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.remove(name))
    }
}
