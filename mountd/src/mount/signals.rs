//! The signals that ask a daemon to end.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Comes when the process is asked to end: SIGTERM, SIGINT or SIGHUP. From this call on they no longer end it by themselves.
///
/// Call it inside a tokio runtime, before telling anyone that the mount is ready.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
        };
        tracing::info!(signal = name, "asked to end");
    })
}
