//! Answers for NBD clients: at once where nothing has to be waited for, within a deadline where something has. The one table from our errors to
//! those of `nbd`.

use crate::error::{Error, Kind};
use afterimage_nbd::export::{Answer, Error as Refusal, Kind as RefusalKind};
use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long a client waits for a repository before it hears that there is no answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a future that asks a repository comes to: now if it does not have to wait, else an error at the deadline.
pub(super) fn from_repository<T: 'static>(
    future: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Answer<T> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Answer::Now(result),
        // It is asked again by whoever waits for it, who is then woken.
        Poll::Pending => Answer::later(async move {
            tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| Err(too_late()))
        }),
    }
}

/// What a change comes to: now if it does not have to wait. It goes on to its end also when its client vanishes, so that nothing is left half done.
pub(super) fn to_the_end<T: Send + 'static>(
    future: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Answer<T> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Answer::Now(result),
        Poll::Pending => beside(future),
    }
}

/// The same for what takes long enough to let another core do it.
pub(super) fn beside<T: Send + 'static>(
    future: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Answer<T> {
    let task = tokio::spawn(future);
    Answer::later(async move {
        let words = "the change failed unexpectedly; see the server's log";
        task.await.unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Io, words)))
    })
}

fn too_late() -> Refusal {
    let words = format!("the repository gave no answer within {} s", DEADLINE.as_secs());
    Refusal::new(RefusalKind::Unreachable, words)
}

/// Why something that is there can't be read or written. What the *store* lacks or denies is a failed read.
pub(super) fn failed(error: &Error) -> Refusal {
    let kind = match error.kind() {
        Kind::Corrupt => RefusalKind::Corrupt,
        Kind::Unreachable | Kind::Busy => RefusalKind::Unreachable,
        Kind::Full => RefusalKind::Full,
        Kind::Usage => RefusalKind::Invalid,
        Kind::Interrupted => RefusalKind::Leaving,
        Kind::Missing
        | Kind::Denied
        | Kind::Refused
        | Kind::Unsupported
        | Kind::Unsynced
        | Kind::Source
        | Kind::Target => RefusalKind::Io,
    };
    Refusal::new(kind, error.to_string())
}

/// Why a client can't have the export that it named.
pub(super) fn not_found(error: &Error) -> Refusal {
    match error.kind() {
        Kind::Missing => Refusal::new(RefusalKind::Missing, error.to_string()),
        _ => failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n14_what_the_store_lacks_or_denies_is_an_input_error() {
        for kind in [Kind::Missing, Kind::Denied, Kind::Corrupt, Kind::Unreachable, Kind::Busy] {
            let refusal = failed(&Error::new(kind, "read a chunk"));
            assert_eq!(refusal.kind().on_the_wire(), RefusalKind::Io.on_the_wire(), "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn n14_a_repository_that_says_nothing_is_an_error_at_the_deadline() {
        let Answer::Later(never) = from_repository::<()>(std::future::pending()) else { panic!("an answer") };
        assert_eq!(never.await.unwrap_err().kind(), RefusalKind::Unreachable);
        assert!(matches!(from_repository(std::future::ready(Ok(7))), Answer::Now(Ok(7))));
    }
}
