//! The one file that asks what time it is.

use jiff::Timestamp;

/// Now, by this machine's clock: for what people read, never for what is safe to delete.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Now, in whole seconds.
pub fn now_in_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
