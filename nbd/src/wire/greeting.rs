//! The first words of each side: 18 bytes from the server, 4 from the client.
//!
//! greeting := "NBDMAGIC" "IHAVEOPT" flags[u16]        answer := flags[u32]

use super::cursor::Cursor;
use super::{Malformed, greet};

/// Bytes in the server's greeting.
pub const GREETING_LEN: usize = 18;
/// Bytes in the client's answer to it.
pub const CLIENT_FLAGS_LEN: usize = 4;

/// The server's greeting.
pub fn encode_greeting(flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(GREETING_LEN);
    out.extend_from_slice(&greet::MAGIC.to_be_bytes());
    out.extend_from_slice(&greet::OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out
}

/// The flags of a server's greeting. Flags nobody knows are the reader's to ignore.
pub fn decode_greeting(bytes: &[u8; GREETING_LEN]) -> Result<u16, Malformed> {
    let mut at = Cursor::new(bytes);
    if at.u64()? != greet::MAGIC {
        return Err(Malformed::Magic);
    }
    match at.u64()? {
        greet::OPTION_MAGIC => at.u16(),
        greet::OLDSTYLE_MAGIC => Err(Malformed::Oldstyle),
        _ => Err(Malformed::Magic),
    }
}

/// The client's flags: only those that the server offered may be set.
pub fn decode_client_flags(bytes: [u8; CLIENT_FLAGS_LEN], offered: u16) -> Result<u32, Malformed> {
    let flags = u32::from_be_bytes(bytes);
    if flags & !u32::from(offered) != 0 {
        return Err(Malformed::Flags { flags });
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_survives_the_wire() {
        for flags in [0, 1, 2, 3, 0xffff] {
            let bytes: [u8; GREETING_LEN] = encode_greeting(flags).try_into().unwrap();
            assert_eq!(decode_greeting(&bytes), Ok(flags));
        }
    }

    #[test]
    fn a_foreign_greeting_is_refused_by_name() {
        let mut bytes: [u8; GREETING_LEN] = encode_greeting(3).try_into().unwrap();
        bytes[8..16].copy_from_slice(&greet::OLDSTYLE_MAGIC.to_be_bytes());
        assert_eq!(decode_greeting(&bytes), Err(Malformed::Oldstyle));
        bytes[0] = b'X';
        assert_eq!(decode_greeting(&bytes), Err(Malformed::Magic));
    }

    #[test]
    fn client_flags_beyond_the_offer_are_refused() {
        assert_eq!(decode_client_flags([0, 0, 0, 3], 3), Ok(3));
        assert_eq!(decode_client_flags([0, 0, 0, 0], 3), Ok(0));
        assert_eq!(decode_client_flags([0, 0, 0, 2], 1), Err(Malformed::Flags { flags: 2 }));
        assert_eq!(decode_client_flags([0x80, 0, 0, 1], 3), Err(Malformed::Flags { flags: 0x8000_0001 }));
    }
}
