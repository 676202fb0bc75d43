//! How far long work is, and how to stop it: two values that are passed in.

use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How far some work is. Whoever works adds; whoever shows it reads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes (or things) that are done.
    pub done: AtomicU64,
    /// How many there are in all; 0: not known.
    pub total: AtomicU64,
    /// What is being done, where work has several states.
    state: Mutex<Option<&'static str>>,
}

impl Progress {
    /// So much more is done.
    pub fn add(&self, amount: u64) {
        let _before = self.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// So much more is to be done.
    pub fn expect(&self, amount: u64) {
        let _before = self.total.fetch_add(amount, Ordering::Relaxed);
    }

    /// Says what is being done from now on.
    pub fn enter(&self, state: &'static str) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// What is being done, if that was said.
    pub fn state(&self) -> Option<&'static str> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Done and total.
    pub fn now(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// A wish to stop, asked about once for every run of chunks.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Wishes to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails with `Interrupted` once stopping was wished for.
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Interrupted, "interrupted").hint("it is safe to run it again")),
            false => Ok(()),
        }
    }
}
