//! Options: what a client asks during the handshake.
//!
//! option := "IHAVEOPT" option[u32] len[u32] data
//! INFO, GO := len[u32] name count[u16] info[u16]*count
//! LIST/SET_META_CONTEXT := len[u32] name count[u32] (len[u32] query)*count
//! EXPORT_NAME := name, as long as the data · all others carry none

use super::cursor::{Cursor, len32, put_string, usize_of};
use super::{Malformed, Name, greet};

/// What starts an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Its number, one of [`opt`](super::opt) or any other.
    pub option: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes in a header.
    pub const LEN: usize = 16;

    /// Reads a header; a wrong magic means that the peer is out of step for good.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(bytes);
        if at.u64()? != greet::OPTION_MAGIC {
            return Err(Malformed::Magic);
        }
        Ok(OptionHeader { option: at.u32()?, len: at.u32()? })
    }

    /// Appends an option with its data.
    pub fn encode(option: u32, data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&greet::OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&len32(data.len()).to_be_bytes());
        out.extend_from_slice(data);
    }
}

/// The data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export asked for.
    pub name: Name,
    /// Kinds of information wanted, [`info`](super::info); unknown ones are to be ignored.
    pub wants: Vec<u16>,
}

impl InfoRequest {
    /// Reads the data of INFO or GO.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(data);
        let name = at.name()?;
        let count = usize::from(at.u16()?);
        let list = at.take(count.saturating_mul(2))?;
        at.end()?;
        let (pairs, _) = list.as_chunks::<2>();
        Ok(InfoRequest { name, wants: pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect() })
    }

    /// The data of INFO or GO. More than 65535 wants are cut off.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.name);
        let count = u16::try_from(self.wants.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for want in self.wants.iter().take(usize::from(count)) {
            out.extend_from_slice(&want.to_be_bytes());
        }
        out
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQuery {
    /// The export asked about.
    pub name: Name,
    /// Contexts, or for LIST also namespaces such as `base:`.
    pub queries: Vec<String>,
}

impl ContextQuery {
    /// Reads the data of LIST_META_CONTEXT or SET_META_CONTEXT.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut at = Cursor::new(data);
        let name = at.name()?;
        let count = usize_of(at.u32()?);
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(at.string()?.to_owned()); // each takes at least its 4 bytes of length from the data
        }
        at.end()?;
        Ok(ContextQuery { name, queries })
    }

    /// The data of LIST_META_CONTEXT or SET_META_CONTEXT.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.name);
        out.extend_from_slice(&len32(self.queries.len()).to_be_bytes());
        for query in &self.queries {
            put_string(&mut out, query);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::opt;
    use proptest::prelude::*;

    fn query(name: &str, queries: &[&str]) -> ContextQuery {
        ContextQuery {
            name: Name::new(name).unwrap(),
            queries: queries.iter().map(|q| (*q).to_owned()).collect(),
        }
    }

    #[test]
    fn an_option_survives_the_wire() {
        let mut out = Vec::new();
        OptionHeader::encode(opt::GO, b"data", &mut out);
        let header = OptionHeader::decode(out.first_chunk().unwrap()).unwrap();
        assert_eq!(header, OptionHeader { option: opt::GO, len: 4 });
        assert_eq!(&out[OptionHeader::LEN..], b"data");
        out[0] = 0;
        assert_eq!(OptionHeader::decode(out.first_chunk().unwrap()), Err(Malformed::Magic));
    }

    #[test]
    fn n2_a_name_longer_than_its_option_is_refused_at_once() {
        let mut data = 0xffff_ffffu32.to_be_bytes().to_vec();
        data.extend_from_slice(b"name\0\0");
        assert_eq!(InfoRequest::decode(&data), Err(Malformed::Short));
        assert_eq!(ContextQuery::decode(&data), Err(Malformed::Short));
    }

    #[test]
    fn counts_must_match_what_follows() {
        let asked = InfoRequest { name: Name::new("x").unwrap(), wants: vec![0, 3] }.encode();
        assert_eq!(InfoRequest::decode(&asked[..asked.len() - 1]), Err(Malformed::Short));
        assert_eq!(InfoRequest::decode(&[asked.clone(), vec![0]].concat()), Err(Malformed::Trailing));
        let asked = query("x", &["base:allocation"]).encode();
        assert_eq!(ContextQuery::decode(&asked[..asked.len() - 1]), Err(Malformed::Short));
        assert_eq!(ContextQuery::decode(&[asked.clone(), vec![0]].concat()), Err(Malformed::Trailing));
    }

    #[test]
    fn a_count_of_queries_costs_no_memory_by_itself() {
        let mut data = query("", &[]).encode();
        let at = data.len() - 4;
        data[at..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(ContextQuery::decode(&data), Err(Malformed::Short));
    }

    proptest! {
        #[test]
        fn what_we_encode_we_decode(name in "[^\0]{0,60}", wants in prop::collection::vec(any::<u16>(), 0..9), queries in prop::collection::vec("[^\0]{0,30}", 0..9)) {
            let name = Name::new(&name).unwrap();
            let asked = InfoRequest { name: name.clone(), wants };
            prop_assert_eq!(InfoRequest::decode(&asked.encode()), Ok(asked));
            let asked = ContextQuery { name, queries };
            prop_assert_eq!(ContextQuery::decode(&asked.encode()), Ok(asked));
        }
    }
}
