//! Beginning in the middle of a byte: empty blocks that fill a byte up to the bit where a block begins.
//!
//! A deflate stream is a row of blocks that begin at any bit, and a decoder is given whole bytes. So the bits before are made up: blocks that hold
//! nothing, as many as are needed to come out at the right bit. An empty block of fixed codes has ten bits, which leaves odd places; one of
//! codes of its own can be made to have ninety-three.

/// Bits, the lowest of each byte first, as deflate has them.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    bits: u32,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (self.bits % 8);
            }
            self.bits += 1;
        }
    }

    /// A block of fixed codes that holds nothing but its end: ten bits.
    fn fixed(&mut self) {
        self.put(0b010, 3);
        self.put(0, 7);
    }

    /// A block with codes of its own for nothing but its end: ninety-three bits.
    fn odd(&mut self) {
        self.put(0b100, 3);
        // 257 codes of literals, 1 of distances, and lengths for all 19 codes of lengths.
        self.put(0, 5);
        self.put(0, 5);
        self.put(15, 4);
        // In the order 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15: only 18 and 1 have a code, of one bit each.
        for place in 0..19 {
            self.put(u32::from(place == 2 || place == 17), 3);
        }
        // 138 and 118 times no code (18), then a code of one bit for the end and for one distance (1).
        for zeros in [138, 118] {
            self.put(1, 1);
            self.put(zeros - 11, 7);
        }
        self.put(0, 2);
        self.put(0, 1);
    }
}

/// Bytes that hold nothing and end in `byte`, of which the highest `unused` bits (1 to 7) are still to come.
pub(super) fn before(byte: u8, unused: u8) -> Vec<u8> {
    let wanted = u32::from(8 - unused.clamp(1, 7));
    let mut writer = Writer::default();
    if wanted % 2 == 1 {
        writer.odd();
    }
    while writer.bits % 8 != wanted {
        writer.fixed();
    }
    if let Some(last) = writer.bytes.last_mut() {
        *last |= byte & !((1u8 << wanted) - 1);
    }
    writer.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use zlib_rs::{Inflate, InflateFlush, Status};

    #[test]
    fn a_block_that_begins_at_any_bit_is_reached() {
        for unused in 1..=7u8 {
            // The final block of fixed codes with one letter in it, from that bit on.
            let mut tail = Writer::default();
            tail.put(0, u32::from(8 - unused));
            tail.put(0b011, 3);
            tail.put(0b1000_1110u32.reverse_bits() >> 24, 8);
            tail.put(0, 7);
            let mut bytes = before(tail.bytes[0], unused);
            bytes.extend(&tail.bytes[1..]);
            let (mut inflate, mut out) = (Inflate::new(false, 15), [0; 8]);
            let status = inflate.decompress(&bytes, &mut out, InflateFlush::NoFlush);
            assert_eq!((status, inflate.total_out()), (Ok(Status::StreamEnd), 1), "{unused}");
            assert_eq!(out[0], 0b1000_1110 - 0x30);
        }
    }
}
