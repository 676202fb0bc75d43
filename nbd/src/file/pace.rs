//! Whether calls that can't say beforehand if they will wait have waited lately.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A call that takes longer has waited for something.
const QUICK: Duration = Duration::from_millis(2);
/// After one that waited, others are presumed to wait for so many times as long: no more than a tenth of a thread's time is lost to finding out.
/// A disk that throttles writers for some milliseconds now and then would otherwise have all of them done the long way.
const CAUTION: u32 = 10;
const CAUTION_MAX: Duration = Duration::from_secs(2);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Remembers the last call that waited.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Milliseconds after `START` until which calls are presumed to wait.
    slow_until: AtomicU64,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Pace {
    pub(super) fn is_slow(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until != 0 && millis(START.elapsed()) < until
    }

    /// Makes the call and remembers how it went.
    pub(super) fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let start = *START;
        let began = start.elapsed();
        let result = call();
        let ended = start.elapsed();
        let took = ended.saturating_sub(began);
        if took > QUICK {
            let caution = took.saturating_mul(CAUTION).min(CAUTION_MAX);
            self.slow_until.store(millis(ended + caution), Ordering::Relaxed);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_call_makes_the_next_ones_careful() {
        let pace = Pace::default();
        let began = Instant::now();
        pace.timed(|| ());
        // Who is not let run for so long in between has waited, too.
        assert!(began.elapsed() > QUICK || !pace.is_slow());
        let began = Instant::now();
        pace.timed(|| std::thread::sleep(QUICK * 3));
        let least = began.duration_since(*START) + QUICK * 3 * CAUTION;
        assert!(pace.slow_until.load(Ordering::Relaxed) >= millis(least));
        std::thread::sleep((began.elapsed() * CAUTION).min(CAUTION_MAX) + Duration::from_millis(1));
        assert!(!pace.is_slow(), "for as long as it was slow, times ten");
    }
}
