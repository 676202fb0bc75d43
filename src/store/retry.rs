//! Trying again: the only place that does, but for what only a key can judge (`repo` asks for that once more).
//!
//! Tried again is what may pass (`Kind::may_pass`), and once what came broken: a transfer that was cut looks like damage, and
//! damage stays. Pauses grow and are jittered, and are as long as the store asked for (`ComeBack`). The whole has a deadline.
//!
//! A store that answers at the first poll is passed through: no timer is made, no runtime is needed.

use super::deadline::in_time;
use super::dice::Dice;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long and how often to try.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in all.
    pub attempts_max: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause of our own choice.
    pub pause_max: Duration,
    /// What all attempts and pauses may take together.
    pub overall_time: Duration,
}

impl Patience {
    /// For a service across a network.
    pub const NETWORK: Patience = Patience {
        attempts_max: 6,
        first_pause: Duration::from_millis(200),
        pause_max: Duration::from_secs(20),
        overall_time: Duration::from_secs(900),
    };

    /// For a directory, whose disk may take minutes to sync.
    pub const DIRECTORY: Patience = Patience {
        attempts_max: 4,
        first_pause: Duration::from_millis(100),
        pause_max: Duration::from_secs(2),
        overall_time: Duration::from_secs(3600),
    };
}

/// A store's wish for a pause, as the cause of an error: how `Retry-After` travels.
#[derive(Clone, Copy, Debug)]
pub struct ComeBack {
    /// How long to stay away.
    pub after: Duration,
}

impl ComeBack {
    /// The wish that an error carries.
    pub fn asked_for(error: &Error) -> Option<ComeBack> {
        std::error::Error::source(error)?.downcast_ref::<ComeBack>().copied()
    }
}

impl fmt::Display for ComeBack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "it asks to come back in {:.1} s", self.after.as_secs_f64())
    }
}

impl std::error::Error for ComeBack {}

/// A store that is asked again where that may help.
pub struct Retry {
    inner: AnyStore,
    patience: Patience,
    dice: Dice,
}

impl Retry {
    /// `inner`, tried as `patience` says.
    pub fn new(inner: AnyStore, patience: Patience) -> Retry {
        Retry { inner, patience, dice: Dice::new() }
    }

    /// Asks until it goes well, may not be tried again, or took too long.
    async fn persist<'a, T: Sound>(&self, call: Call<'a>, ask: impl Fn() -> Fut<'a, T>) -> Result<T> {
        let last = Mutex::new(None);
        let outcome = in_time(self.patience.overall_time, self.attempts(call, ask, &last)).await;
        outcome.unwrap_or_else(|| {
            let last: Option<Error> = last.lock().unwrap_or_else(PoisonError::into_inner).take();
            let silence = || {
                let words = format!("{call} in {}: no answer", self.inner.place());
                Error::new(Kind::Unreachable, words)
            };
            let time = self.patience.overall_time.as_secs_f64();
            Err(last.unwrap_or_else(silence)).context(|| format!("gave up after {time:.0} s"))
        })
    }

    /// The attempts and the pauses between them; `last` is where the latest failure is left.
    async fn attempts<'a, T: Sound>(
        &self,
        call: Call<'a>,
        ask: impl Fn() -> Fut<'a, T>,
        last: &Mutex<Option<Error>>,
    ) -> Result<T> {
        let mut doubted = false;
        let mut attempt = 1;
        loop {
            let error = match ask().await.and_then(|answer| answer.sound(call)) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let broken_once = error.kind() == Kind::Corrupt && !std::mem::replace(&mut doubted, true);
            if !error.kind().may_pass() && !broken_once {
                return Err(error);
            }
            if attempt >= self.patience.attempts_max {
                return Err(error).context(|| format!("gave up after {attempt} attempts"));
            }
            tracing::debug!(%error, attempt, "asking the store again");
            let pause = self.pause(attempt, &error);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            if !broken_once {
                tokio::time::sleep(pause).await;
            }
            attempt += 1;
        }
    }

    /// How long to stay away after this failure; no store may ask for longer than we would wait at all.
    fn pause(&self, attempt: u32, error: &Error) -> Duration {
        let doubled = self.patience.first_pause.saturating_mul(1 << (attempt - 1).min(20));
        let own = doubled.min(self.patience.pause_max).mul_f64(0.5 + self.dice.fraction() / 2.0);
        let asked_for = ComeBack::asked_for(error).map_or(Duration::ZERO, |come_back| come_back.after);
        own + asked_for.min(self.patience.overall_time)
    }
}

/// A call, for messages and for judging its answer.
#[derive(Clone, Copy)]
struct Call<'a> {
    what: &'static str,
    object: &'a str,
    /// How long the answer has to be at least and at most, where it is bytes.
    len: (u64, u64),
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.what, self.object)
    }
}

/// Answers; of some it can be seen whether they are whole.
trait Sound: Sized {
    fn sound(self, _call: Call<'_>) -> Result<Self> {
        Ok(self)
    }
}

impl Sound for Bytes {
    fn sound(self, call: Call<'_>) -> Result<Bytes> {
        let (min, max) = call.len;
        let len = self.len() as u64;
        if min <= len && len <= max {
            return Ok(self);
        }
        let wanted = if min == max { min.to_string() } else { format!("at most {max}") };
        Err(Error::new(Kind::Corrupt, format!("{call}: {len} bytes came, {wanted} should have")))
    }
}

impl Sound for Stat {}
impl Sound for () {}
impl Sound for Vec<Listed> {}

impl Store for Retry {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        let len = range.end.saturating_sub(range.start);
        let call = Call { what: "get", object: name.as_str(), len: (len, len) };
        Box::pin(self.persist(call, move || self.inner.get(name, range.clone())))
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.inner.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        let call = Call { what: "get", object: name.as_str(), len: (0, len_max) };
        Box::pin(self.persist(call, move || self.inner.get_whole(name, len_max)))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        let call = Call { what: "stat", object: name.as_str(), len: (0, 0) };
        Box::pin(self.persist(call, || self.inner.stat(name)))
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        let call = Call { what: "settle", object: name.as_str(), len: (0, 0) };
        Box::pin(self.persist(call, || self.inner.settle(name)))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        let call = Call { what: "put", object: name.as_str(), len: (0, 0) };
        Box::pin(self.persist(call, move || self.inner.put(name, body.clone())))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        let call = Call { what: "list", object: under, len: (0, 0) };
        Box::pin(self.persist(call, move || self.inner.list(under, after)))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        let call = Call { what: "delete", object: name.as_str(), len: (0, 0) };
        Box::pin(self.persist(call, || self.inner.delete(name)))
    }
}
