//! Trying again: the only place that does.
//!
//! Tried again is what may pass (`Kind::may_pass`), and once what came broken: a transfer that was cut looks like damage, and
//! damage stays. Pauses grow and are jittered; a store that names its own pause is obeyed by all callers of this layer at
//! once. Each attempt and the whole call have a deadline, so that a store that says nothing costs an error and no more.
//!
//! A store that answers at the first poll is passed through: no timer is made, no runtime is needed.

use super::dice::Dice;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// How long and how often to try.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in all.
    pub attempts_max: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause of our own choice.
    pub pause_max: Duration,
    /// What an attempt may take, apart from moving bytes.
    pub attempt_time: Duration,
    /// The slowest that bytes may move, per second; what is slower counts as no answer.
    pub bytes_per_sec_min: u64,
    /// What all attempts and pauses may take together.
    pub overall_time: Duration,
}

impl Patience {
    /// For a service across a network.
    pub const NETWORK: Patience = Patience {
        attempts_max: 6,
        first_pause: Duration::from_millis(200),
        pause_max: Duration::from_secs(20),
        attempt_time: Duration::from_secs(30),
        bytes_per_sec_min: 256 * 1024,
        overall_time: Duration::from_secs(600),
    };

    /// For a directory, whose disk may sync for minutes and should not be asked to do that twice at a time.
    pub const DIRECTORY: Patience = Patience {
        attempts_max: 4,
        first_pause: Duration::from_millis(100),
        pause_max: Duration::from_secs(2),
        attempt_time: Duration::from_secs(600),
        bytes_per_sec_min: 64 * 1024,
        overall_time: Duration::from_secs(3600),
    };
}

/// A store's wish for a pause, as the cause of an error: how `Retry-After` travels.
#[derive(Clone, Copy, Debug)]
pub struct ComeBack {
    /// How long to stay away.
    pub after: Duration,
}

impl std::fmt::Display for ComeBack {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "it asks to come back in {:.1} s", self.after.as_secs_f64())
    }
}

impl std::error::Error for ComeBack {}

/// A store that is asked again where that may help.
pub struct Retry {
    inner: AnyStore,
    patience: Patience,
    dice: Dice,
    /// Until when the store wants to be left alone.
    quiet_until: Mutex<Option<Instant>>,
}

impl Retry {
    /// `inner`, tried as `patience` says.
    pub fn new(inner: AnyStore, patience: Patience) -> Retry {
        Retry { inner, patience, dice: Dice::new(), quiet_until: Mutex::new(None) }
    }

    /// Calls until it goes well, may not be tried again, or took too long. `len` is how many bytes may have to move.
    async fn persist<'a, T>(&'a self, call: Call<'a>, len: u64, ask: impl Fn() -> Fut<'a, T>) -> Result<T>
    where
        T: Sound,
    {
        let last = Mutex::new(None);
        let mut attempts = pin!(self.attempts(call, len, ask, &last));
        if let Poll::Ready(result) = first_poll(attempts.as_mut()).await {
            return result;
        }
        match tokio::time::timeout(self.patience.overall_time, attempts).await {
            Ok(result) => result,
            Err(_) => {
                let last = last.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(last.unwrap_or_else(|| self.silence(call, self.patience.overall_time)))
                    .context(|| format!("gave up after {:.0} s", self.patience.overall_time.as_secs_f64()))
            }
        }
    }

    async fn attempts<'a, T: Sound>(
        &'a self,
        call: Call<'a>,
        len: u64,
        ask: impl Fn() -> Fut<'a, T>,
        last: &Mutex<Option<Error>>,
    ) -> Result<T> {
        let mut doubted = false;
        let mut attempt = 1;
        loop {
            self.keep_quiet().await;
            let error = match self.attempt(call, len, ask()).await.and_then(|answer| answer.sound(call)) {
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
            tracing::debug!(%error, attempt, "trying the store again");
            let pause = self.pause(attempt, &error);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            if !broken_once {
                tokio::time::sleep(pause).await;
            }
            attempt += 1;
        }
    }

    async fn attempt<'a, T>(&self, call: Call<'_>, len: u64, mut asked: Fut<'a, T>) -> Result<T> {
        if let Poll::Ready(result) = first_poll(asked.as_mut()).await {
            return result;
        }
        let seconds_for_bytes = len / self.patience.bytes_per_sec_min.max(1);
        let time = self.patience.attempt_time.saturating_add(Duration::from_secs(seconds_for_bytes));
        tokio::time::timeout(time, asked).await.unwrap_or_else(|_| Err(self.silence(call, time)))
    }

    /// How long to stay away after this failure. What the store itself asked for holds for everybody.
    fn pause(&self, attempt: u32, error: &Error) -> Duration {
        let doubled = self.patience.first_pause.saturating_mul(1 << (attempt - 1).min(20));
        let own = doubled.min(self.patience.pause_max).mul_f64(0.5 + self.dice.fraction() / 2.0);
        let Some(come_back) = come_back(error) else { return own };
        // No store may keep us longer than we would wait at all.
        let after = come_back.after.min(self.patience.overall_time);
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = (*quiet).max(Some(Instant::now() + after));
        own.max(after)
    }

    /// Waits while the store wants no calls; then a moment more, so that those who waited do not all come at once.
    async fn keep_quiet(&self) {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until.filter(|until| *until > Instant::now()) {
            let moment = self.patience.first_pause.mul_f64(self.dice.fraction());
            tokio::time::sleep_until(until + moment).await;
        }
    }

    fn silence(&self, call: Call<'_>, time: Duration) -> Error {
        let words = format!("{call} in {}: no answer in {:.0} s", self.inner.place(), time.as_secs_f64());
        Error::new(Kind::Unreachable, words)
    }
}

/// A call, for messages and for judging its answer.
#[derive(Clone, Copy)]
struct Call<'a> {
    verb: &'static str,
    object: &'a str,
    /// How long the answer has to be, and how long it may be.
    answer_len: (u64, u64),
}

impl<'a> Call<'a> {
    fn new(verb: &'static str, object: &'a str) -> Call<'a> {
        Call { verb, object, answer_len: (0, u64::MAX) }
    }
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.verb, self.object)
    }
}

/// Answers of which it can be seen whether they are whole.
trait Sound: Sized {
    fn sound(self, _call: Call<'_>) -> Result<Self> {
        Ok(self)
    }
}

impl Sound for Bytes {
    fn sound(self, call: Call<'_>) -> Result<Bytes> {
        let (min, max) = call.answer_len;
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

fn come_back(error: &Error) -> Option<ComeBack> {
    std::error::Error::source(error)?.downcast_ref::<ComeBack>().copied()
}

/// What the future says right now.
async fn first_poll<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

impl Store for Retry {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        let len = range.end.saturating_sub(range.start);
        let call = Call { answer_len: (len, len), ..Call::new("get", name.as_str()) };
        Box::pin(self.persist(call, len, move || self.inner.get(name, range.clone())))
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        let call = Call { answer_len: (0, len_max), ..Call::new("get", name.as_str()) };
        Box::pin(self.persist(call, len_max, move || self.inner.get_whole(name, len_max)))
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(self.persist(Call::new("stat", name.as_str()), 0, || self.inner.stat(name)))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        let call = Call::new("put", name.as_str());
        Box::pin(self.persist(call, body.len(), move || self.inner.put(name, body.clone())))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(self.persist(Call::new("list", under), 0, move || self.inner.list(under, after)))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(self.persist(Call::new("delete", name.as_str()), 0, || self.inner.delete(name)))
    }
}
