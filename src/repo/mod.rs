//! The repository: objects with meaning, in a store that knows none.
//!
//! `open` turns a store and perhaps a password into a [`Repository`]; from there on chunks, maps and records go in through
//! [`writer`] and come out through [`chunks`] and [`catalogue`]. What is written becomes visible in one order only, which
//! the types of [`writer`] enforce: packs, then the index, then the record.
//!
//! **Invariant:** nothing here modifies an object. Reading writes nothing to the repository.

pub mod catalogue;
pub mod chunks;
pub mod damaged;
pub mod fuzz;
pub mod imports;
pub mod known;
mod merging;
pub mod names;
mod objects;
mod open;
pub mod packs;
pub mod pins;
pub mod refs;
pub mod segments;
pub mod state;
pub mod writer;

pub use open::{InitOptions, Repository, SlotLine};

use crate::error::{Kind, Result};
use std::future::Future;

/// Asks once more for what did not come as it should: bytes that were cut or mixed up on their way look like damage, and damage stays.
/// The store tries again by itself where it can tell (`store::retry`); a seal can be judged only here.
pub(crate) async fn once_more<T, F>(ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    match ask().await {
        Err(error) if error.kind() == Kind::Corrupt => ask().await,
        answer => answer,
    }
}

/// Runs a few futures side by side on this task; the answers in their order.
pub(crate) async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, answer) in &mut running {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *answer = Some(ready),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, answer)| answer).collect()
}
