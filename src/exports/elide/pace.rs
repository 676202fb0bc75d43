//! Whether it pays to read what is there before writing: it does for as long as a good part of it need not be written.

/// So many bytes are compared before the result is looked at.
const WINDOW: u64 = 32 << 20;
/// Comparing goes on where at least one byte in so many was spared.
const WORTH: u64 = 8;
/// Once it was given up, one write in so many is compared all the same.
const PROBE: u32 = 32;

/// What comparing has brought lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    given_up: bool,
    passed: u32,
    compared: u64,
    spared: u64,
}

impl Pace {
    /// Whether the next write should be compared.
    pub(super) fn wants(&mut self) -> bool {
        if !self.given_up {
            return true;
        }
        self.passed += 1;
        self.passed.is_multiple_of(PROBE)
    }

    /// So many bytes were compared, and so many of them need not be written.
    pub(super) fn learn(&mut self, compared: u64, spared: u64) {
        if self.given_up {
            if spared * 2 > compared {
                *self = Pace::default();
            }
            return;
        }
        self.compared += compared;
        self.spared += spared;
        if self.compared >= WINDOW {
            *self = Pace { given_up: self.spared * WORTH < self.compared, ..Pace::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: u64 = 256 << 10;

    #[test]
    fn comparing_stops_where_it_brings_nothing_and_begins_again_where_it_does() {
        let mut pace = Pace::default();
        let (mut compared, mut spared) = (0, 0);
        for _ in 0..10_000 {
            if pace.wants() {
                pace.learn(WRITE, 0);
                compared += WRITE;
            }
        }
        assert!(compared < WINDOW + 10_000 * WRITE / u64::from(PROBE) + WRITE, "{compared}");
        for _ in 0..1000 {
            if pace.wants() {
                pace.learn(WRITE, WRITE);
                spared += WRITE;
            }
        }
        assert!(spared > (1000 - u64::from(PROBE)) * WRITE - WRITE, "{spared}");
    }

    #[test]
    fn one_percent_that_differs_does_not_stop_it() {
        let mut pace = Pace::default();
        for number in 0..10_000u64 {
            assert!(pace.wants());
            pace.learn(WRITE, if number.is_multiple_of(100) { 0 } else { WRITE });
        }
    }
}
