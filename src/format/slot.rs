//! Key slots: the repository's key, wrapped by a password or lying open. One object each, `keys/<id>`.
//!
//! JSON, because it is what people look at when they wonder who can get in. No type here has a `Debug`: a key never reaches a log.

use super::corrupt::{readable, within};
use super::{Corrupt, ObjectId, RepositoryId, config::json, ids, limits};
use serde::{Deserialize, Serialize};

/// The length of a repository's key.
pub const KEY_LEN: usize = 32;
/// The length of a wrapped key: nonce, key, tag.
pub const WRAPPED_LEN: usize = 12 + KEY_LEN + 16;
/// The length of the salt of a password.
pub const SALT_LEN: usize = 16;

/// A key slot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The version of this object.
    pub version: u64,
    /// Whose key it is.
    pub repository: RepositoryId,
    /// When it was added.
    pub created: jiff::Timestamp,
    /// What opens it.
    #[serde(flatten)]
    pub lock: Lock,
}

/// What opens a slot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lock", rename_all = "lowercase")]
pub enum Lock {
    /// Nothing: the key itself, in hexadecimal digits.
    Open {
        /// The key.
        key: String,
    },
    /// A password, through Argon2id.
    Password {
        /// The algorithm; only `argon2id` is known.
        kdf: String,
        /// Memory, in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// Salt, in hexadecimal digits.
        salt: String,
        /// AES-256-GCM of the key under what Argon2id gave: nonce, key, tag.
        wrapped: String,
    },
}

/// A password's parameters after they were judged.
pub struct Password {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Salt.
    pub salt: [u8; SALT_LEN],
    /// Nonce, key, tag.
    pub wrapped: [u8; WRAPPED_LEN],
}

impl Slot {
    /// The bytes of the object.
    pub fn write(&self) -> Result<Vec<u8>, Corrupt> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a slot.
    pub fn parse(bytes: &[u8]) -> Result<Slot, Corrupt> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        within("length of a key slot", len, limits::SMALL_JSON_LEN_MAX.into())?;
        let slot: Slot = serde_json::from_slice(bytes).map_err(json)?;
        readable(slot.version, limits::VERSION.into())?;
        Ok(slot)
    }

    /// What a seal of the key is bound to.
    pub fn bound(repository: RepositoryId, slot: ObjectId) -> Vec<u8> {
        [&b"afterimage key slot"[..], &repository.0, &slot.0].concat()
    }
}

impl Lock {
    /// The judged parameters of a password; `None` for an open slot. Nothing is derived before this was asked.
    pub fn password(&self) -> Result<Option<Password>, Corrupt> {
        let Lock::Password { kdf, memory_kib, passes, lanes, salt, wrapped } = self else { return Ok(None) };
        if kdf != "argon2id" {
            return Err(Corrupt::Field { what: "key derivation", wanted: "argon2id" });
        }
        within("memory of key derivation in KiB", (*memory_kib).into(), limits::KDF_MEMORY_KIB_MAX.into())?;
        within("passes of key derivation", (*passes).into(), limits::KDF_PASSES_MAX.into())?;
        within("lanes of key derivation", (*lanes).into(), limits::KDF_LANES_MAX.into())?;
        let salt = ids::from_hex(salt).ok_or(Corrupt::Field { what: "salt", wanted: "16 bytes" })?;
        if salt == [0; SALT_LEN] {
            return Err(Corrupt::Field { what: "salt", wanted: "random" });
        }
        let wrapped =
            ids::from_hex(wrapped).ok_or(Corrupt::Field { what: "wrapped key", wanted: "60 bytes" })?;
        Ok(Some(Password { memory_kib: *memory_kib, passes: *passes, lanes: *lanes, salt, wrapped }))
    }

    /// The key of an open slot.
    pub fn open_key(&self) -> Result<Option<[u8; KEY_LEN]>, Corrupt> {
        match self {
            Lock::Open { key } => {
                ids::from_hex(key).map(Some).ok_or(Corrupt::Field { what: "key", wanted: "32 bytes" })
            }
            Lock::Password { .. } => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(memory_kib: u32, passes: u32, lanes: u32, salt: &str) -> Lock {
        Lock::Password {
            kdf: "argon2id".into(),
            memory_kib,
            passes,
            lanes,
            salt: salt.into(),
            wrapped: "00".repeat(WRAPPED_LEN),
        }
    }

    #[test]
    fn x3_a_slot_that_asks_for_too_much_is_refused_before_anything_is_derived() {
        let salt = "5a".repeat(SALT_LEN);
        assert!(password(limits::KDF_MEMORY_KIB_MAX, 64, 16, &salt).password().is_ok());
        for (lock, why) in [
            (password(limits::KDF_MEMORY_KIB_MAX + 1, 1, 1, &salt), "memory"),
            (password(u32::MAX, 1, 1, &salt), "memory"),
            (password(64, 65, 1, &salt), "passes"),
            (password(64, 1_000_000_000, 1, &salt), "passes"),
            (password(64, 1, 17, &salt), "lanes"),
            (password(64, 1, 1, &"00".repeat(SALT_LEN)), "salt"),
            (password(64, 1, 1, "5a"), "salt"),
        ] {
            let refused = lock.password().err().unwrap_or_else(|| panic!("{why} was accepted"));
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }

    #[test]
    fn a_slot_comes_back_as_it_went_in() {
        let slot = Slot {
            version: 1,
            repository: RepositoryId([1; 16]),
            created: jiff::Timestamp::UNIX_EPOCH,
            lock: password(64, 1, 1, &"5a".repeat(16)),
        };
        assert!(Slot::parse(&slot.write().unwrap()).unwrap() == slot);
    }
}
