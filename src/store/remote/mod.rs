//! Objects in a service across a network: S3 and what speaks it, Swift.
//!
//! ```text
//! place + environment -> operator (s3) or sessions (login, keystone) -> one call (here, publish, list) -> wire -> service
//!                                                                                                '-> words, when it fails
//! ```
//!
//! Holds: one call is one request, but for a listing and for a `put` whose name is taken. A `put` never replaces where the service knows how
//! to create only; where it does not, names that are random or derive from what they name carry that promise. Nothing is retried here
//! (`store::retry` does), except once with a new session when the one in use was refused.
//!
//! Credentials come from the environment and are in no argument, error, log or `Debug`.

pub(super) mod env;
pub(super) mod fuzz;
mod keystone;
mod list;
mod login;
pub(super) mod place;
#[cfg_attr(not(feature = "s3"), allow(dead_code))]
mod profile;
mod publish;
#[cfg_attr(not(feature = "s3"), allow(dead_code, unused_imports))]
mod s3;
#[cfg(test)]
mod tests;
mod wire;
mod words;

use super::{Body, Fut, Listed, Name, Stat, Store};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use env::Env;
use login::{Held, Login};
use opendal::{HttpTransporter, Metadata, Operator, options};
use place::{Place, Scheme};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use wire::{Call, Wants};
use words::{Doing, failure};

/// How many calls a service gets at once, before anything is known of it.
pub(super) const CALLS_AT_ONCE: usize = 16;

type Naming = fn(&str) -> Result<Name>;

/// A store in a bucket or container.
pub(super) struct Remote {
    place: Place,
    transport: HttpTransporter,
    door: Door,
    /// Which of the objects are ours, by their names.
    naming: Naming,
    /// Whether the service can create and never replace.
    creates_only: AtomicBool,
    /// Whether the service has ever answered a request, which it only does to one that could be signed.
    was_signed: AtomicBool,
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
        let (naming, creates_only) = (Name::parse as Naming, AtomicBool::new(true));
        let transport = wire::transport(client);
        let was_signed = AtomicBool::new(false);
        Ok(Remote { place, transport, door, naming, creates_only, was_signed, end: Mutex::new(None) })
    }

    /// The same, filled by somebody else with names of their own. It is for reading: wrap it in `store::ReadOnly`.
    pub(super) fn foreign(self) -> Remote {
        Remote { naming: Name::foreign, ..self }
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

    /// Asks once; and once more with a new session where the one in use was refused. Where it ended while the service took its time, that is
    /// no refusal, and may happen again.
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
            let had_ended = |session: &Held| session.has_ended(clock::now());
            let is_good = way.session.as_deref().is_some_and(|session| !had_ended(session));
            let call = Arc::new(Call::new(wants));
            let cause = match ask(call.through(way.operator, &self.transport), Arc::clone(&call)).await {
                Ok(answer) => {
                    self.was_signed.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(cause) => cause,
            };
            let status = call.seen().status;
            if status != 0 {
                self.was_signed.store(true, Ordering::Relaxed);
            }
            if let (Door::Swift(login), Some(session), 401) = (&self.door, &way.session, status)
                && (is_good && had_ended(session) || std::mem::take(&mut again))
                && login.refused(session).await
            {
                continue;
            }
            let was_signed = self.was_signed.load(Ordering::Relaxed);
            return Err(Failed { status, error: failure(doing, &call, was_signed, &cause) });
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
            let (key, range) = (self.place.key(name.as_str()), range.clone());
            async move {
                let options = options::ReadOptions { range: range.into(), ..Default::default() };
                operator.read_options(&key, options).await
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
            let key = self.place.key(name.as_str());
            async move { operator.read_options(&key, options::ReadOptions::default()).await }
        };
        let bytes = self.ask(&doing, wants, read).await?;
        Ok(bytes.to_bytes())
    }

    async fn look(&self, name: &Name) -> Result<Stat> {
        let doing = self.doing("stat", name.as_str());
        let stat = |operator: Operator, _| {
            let key = self.place.key(name.as_str());
            async move { operator.stat(&key).await }
        };
        let metadata = self.ask(&doing, Wants::default(), stat).await?;
        Ok(stat_of(&metadata))
    }

    async fn remove(&self, name: &Name) -> Result<()> {
        let doing = self.doing("delete", name.as_str());
        let delete = |operator: Operator, _| {
            let key = self.place.key(name.as_str());
            async move { operator.delete(&key).await }
        };
        match self.ask(&doing, Wants::default(), delete).await {
            Err(failed) if failed.error.kind() != Kind::Missing => Err(failed.error),
            _ => Ok(()),
        }
    }
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
