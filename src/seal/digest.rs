//! Bytes that nobody sealed, but whose digests somebody wrote down: SHA-256 of each block of them.
//!
//! This is how what other programs wrote is proven. It holds against accidents, and against who can change the data but not the digests.

use super::Verified;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A digest.
pub type Block = [u8; 32];

/// The bytes, if every block of them has its digest; else the number of the first that has not.
pub fn verify(bytes: Bytes, block: usize, digests: &[Block]) -> Result<Verified, usize> {
    match first_wrong(&bytes, block, digests) {
        None => Ok(Verified::proven(bytes)),
        Some(number) => Err(number),
    }
}

/// The number of the first block that has not the digest that it should; the last block may be short.
pub fn first_wrong(bytes: &[u8], block: usize, digests: &[Block]) -> Option<usize> {
    let mut blocks = bytes.chunks(block.max(1));
    let wrong = digests.iter().position(|digest| blocks.next().is_none_or(|bytes| of(bytes) != *digest));
    // Bytes that no digest speaks for are not proven.
    wrong.or_else(|| blocks.next().is_some().then_some(digests.len()))
}

/// The digest of a block.
pub fn of(bytes: &[u8]) -> Block {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_or_a_block_too_many_is_noticed_where_it_is() {
        let bytes: Vec<u8> = (0..250u8).collect();
        let digests: Vec<Block> = bytes.chunks(100).map(of).collect();
        assert_eq!(&verify(bytes.clone().into(), 100, &digests).unwrap()[..], &bytes[..]);
        for at in [0, 99, 100, 249] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(verify(flipped.into(), 100, &digests).unwrap_err(), at / 100);
        }
        assert_eq!(first_wrong(&bytes, 100, &digests[..2]), Some(2), "no digest speaks for the third");
        assert_eq!(first_wrong(&bytes[..200], 100, &digests), Some(2), "the third is not there");
        assert_eq!(first_wrong(&bytes[..249], 100, &digests), Some(2), "the third is too short");
        assert_eq!(first_wrong(&[], 100, &[]), None);
    }
}
