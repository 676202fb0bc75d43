//! The signals that ask a daemon to end.

use std::future::Future;
use std::io;
use std::sync::OnceLock;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that ask to end, and what they are called.
const ENDING: [(i32, &str); 3] = [(15, "SIGTERM"), (2, "SIGINT"), (SIGHUP, "SIGHUP")];
const SIGHUP: i32 = 1;

/// Comes when the process is asked to end: SIGTERM, SIGINT or SIGHUP. From this call on they no longer end it by themselves. A SIGHUP that was
/// ignored when the process began stays ignored: that is `nohup`.
///
/// Call it inside a tokio runtime, before telling anyone that the mount is ready.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut signals = stop_signals()?;
    Ok(async move {
        let name = next_of(&mut signals).await;
        tracing::info!(signal = name, "asked to end");
    })
}

/// The signals that ask to end, each with its name; SIGHUP, unless whoever started this process has it ignored.
pub fn stop_signals() -> io::Result<Vec<(Signal, &'static str)>> {
    let stays_ignored = ignored_at_start() & (1 << (SIGHUP - 1)) != 0;
    let heard = ENDING.into_iter().filter(|(number, _)| *number != SIGHUP || !stays_ignored);
    heard.map(|(number, name)| Ok((signal(SignalKind::from_raw(number))?, name))).collect()
}

/// Waits for the next of these; its name.
pub async fn next_of(signals: &mut [(Signal, &'static str)]) -> &'static str {
    std::future::poll_fn(|context| {
        let came = signals
            .iter_mut()
            .find_map(|(signal, name)| signal.poll_recv(context).is_ready().then_some(*name));
        came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

/// What was ignored when this was asked first, which has to be before anything is heard.
fn ignored_at_start() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED
        .get_or_init(|| std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status)))
}

fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_is_ignored() {
        assert_eq!(
            ignored_in("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"),
            0x1001
        );
        assert_eq!(ignored_in("Name:\tx\n"), 0);
    }
}
