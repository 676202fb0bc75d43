//! How far long work is, and how to stop it: two values that are passed in.

use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far some work is. Whoever works adds; whoever shows it reads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes (or things) that are done.
    pub done: AtomicU64,
    /// How many there are in all; 0: not known.
    pub total: AtomicU64,
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
