//! Bits of stored bytes, the highest of each byte first, as bzip2 has them.

use super::feed::Feed;
use crate::error::Result;

/// Bits read ahead of where a feed stands: what is in `hold` was taken from it.
#[derive(Default)]
pub(super) struct Bits {
    hold: u64,
    count: u32,
}

impl Bits {
    /// Stands inside a byte that was taken: the lowest `count` bits of it are still to come.
    pub(super) fn inside(byte: u8, count: u8) -> Bits {
        let count = u32::from(count.min(7));
        Bits { hold: u64::from(byte) & ((1 << count) - 1), count }
    }

    /// The next bits, at most 32 of them; nothing where the bytes end.
    pub(super) fn take(&mut self, feed: &mut Feed, count: u32) -> Result<Option<u32>> {
        let bits = self.look(feed, count)?;
        if self.count < count {
            return Ok(None);
        }
        self.pass(count);
        Ok(Some(bits))
    }

    /// The next bits, at most 32 of them, which stay where they are; zeros where the bytes end.
    pub(super) fn look(&mut self, feed: &mut Feed, count: u32) -> Result<u32> {
        while self.count < count {
            let bytes = feed.bytes()?;
            let some = bytes.len().min(((64 - self.count) / 8) as usize);
            if some == 0 {
                return Ok((self.hold << (count - self.count)) as u32);
            }
            for byte in &bytes[..some] {
                self.hold = self.hold << 8 | u64::from(*byte);
            }
            self.count += 8 * some as u32;
            feed.take(some);
        }
        Ok((self.hold >> (self.count - count)) as u32)
    }

    /// Passes over bits that were looked at.
    pub(super) fn pass(&mut self, count: u32) {
        self.count = self.count.saturating_sub(count);
        self.hold &= low(self.count);
    }

    /// Passes over what is left of a byte.
    pub(super) fn pass_to_byte(&mut self) {
        self.pass(self.count % 8);
    }

    /// Where the next bit is: how many whole bytes of the feed were used, the byte that is used in part, and how many bits of it are to come.
    pub(super) fn place(&self, feed: &Feed) -> (u64, u8, u8) {
        let (whole, part) = (u64::from(self.count / 8), self.count % 8);
        let byte = (self.hold >> (self.count - part)) as u8;
        (feed.at() - whole, byte, part as u8)
    }
}

/// So many bits, all set.
fn low(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
