//! Names of things: repositories, objects, packs, backups, chunks; and the place where a sealed chunk lies.

use super::Corrupt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Bytes as lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Exactly `N` bytes from `2 N` lower-case hexadecimal digits.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_hex_any(text)?.try_into().ok()
}

/// Bytes from twice as many lower-case hexadecimal digits.
pub fn from_hex_any(text: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a')?.checked_add(10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// From hexadecimal digits.
            pub fn parse(text: &str) -> Result<$name, Corrupt> {
                from_hex(text).map($name).ok_or(Corrupt::Field { what: stringify!($name), wanted: "hexadecimal digits" })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let text = String::deserialize(from)?;
                $name::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A repository, chosen at random when it is made.
    RepositoryId,
    16
);
id!(
    /// A pack, chosen at random when it is begun; also the salt of its key.
    PackId,
    16
);
id!(
    /// An object that is not a pack: an index, a catalogue, a key slot, ...
    ObjectId,
    16
);
id!(
    /// A backup.
    BackupId,
    16
);
id!(
    /// A chunk: the keyed SHA-256 of its plain bytes (of a map node: of its children and lengths, without their places).
    ChunkId,
    32
);

impl From<BackupId> for ObjectId {
    fn from(id: BackupId) -> ObjectId {
        ObjectId(id.0)
    }
}

impl From<PackId> for ObjectId {
    fn from(id: PackId) -> ObjectId {
        ObjectId(id.0)
    }
}

/// Where a sealed chunk was last known to lie: a hint, the id and the tag are the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// In which pack.
    pub pack: PackId,
    /// From which of its bytes on.
    pub offset: u32,
    /// How many sealed bytes.
    pub len: u32,
}

impl Place {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        u64::from(self.offset).saturating_add(u64::from(self.len))
    }
}

/// What kind of thing was sealed; bound into the seal, so that none passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SealKind {
    /// Plain bytes of an image or file.
    Data = 1,
    /// A node of a map.
    Node = 2,
    /// The table of a pack.
    Table = 3,
    /// A node of a tree of files.
    Tree = 4,
    /// A backup's record.
    Record = 16,
    /// Tables of packs, merged.
    Index = 17,
    /// Records, merged.
    Catalog = 18,
    /// Who writes or prunes.
    Lease = 19,
    /// What a prune intends to delete.
    Mark = 20,
    /// Chunks that a check found damaged.
    Damaged = 21,
    /// Which backup something rests on.
    Pin = 22,
    /// A backup that lies in another repository.
    Import = 23,
}

impl SealKind {
    /// From its byte in a pack's table: only kinds that are chunks.
    pub fn of_chunk(byte: u8) -> Result<SealKind, Corrupt> {
        match byte {
            1 => Ok(SealKind::Data),
            2 => Ok(SealKind::Node),
            4 => Ok(SealKind::Tree),
            found => Err(Corrupt::ChunkKind { found }),
        }
    }

    /// Its byte.
    #[allow(clippy::as_conversions)] // the discriminant of a repr(u8)
    pub fn byte(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_hexadecimal_and_refuse_everything_else() {
        let id = PackId([0xa5; 16]);
        assert_eq!(PackId::parse(&id.to_string()), Ok(id));
        for bad in ["", "a5", &"A5".repeat(16), &"g0".repeat(16), &"a5".repeat(17)] {
            assert!(PackId::parse(bad).is_err(), "{bad}");
        }
    }
}
