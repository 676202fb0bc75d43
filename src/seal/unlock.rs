//! From a password, or from nothing, to the repository's key.
//!
//! A slot holds the key wrapped under what Argon2id makes of the password, bound to the repository and to the slot's own name. What a slot may
//! ask for is judged by `format::slot` before anything is derived. The only file that turns a password into a key.

use super::keys::{MasterKey, random};
use crate::error::{Error, Kind, Result};
use crate::format::slot::{KEY_LEN, Lock, SALT_LEN, Slot, WRAPPED_LEN};
use crate::format::{ObjectId, RepositoryId, ids::to_hex};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// What new slots ask of key derivation: 64 MiB, three passes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
const NONCE_LEN: usize = 12;

/// A password; wiped when dropped, and never printed.
pub type Password = Zeroizing<Vec<u8>>;

/// Asks for a password, when one turns out to be needed.
pub type Ask<'a> = &'a mut dyn FnMut() -> Result<Password>;

/// A new lock around the key: a password's, or an open one.
pub fn new_lock(
    master: &MasterKey,
    repository: RepositoryId,
    slot: ObjectId,
    password: Option<&Password>,
) -> Result<Lock> {
    let Some(password) = password else {
        return Ok(Lock::Open { key: to_hex(&*master.0) });
    };
    let mut salt = [0; SALT_LEN];
    let mut nonce = [0; NONCE_LEN];
    random(&mut salt)?;
    random(&mut nonce)?;
    let key = derive(password, &salt, MEMORY_KIB, PASSES, LANES)?;
    let mut wrapped = nonce.to_vec();
    wrapped.extend_from_slice(&*master.0);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(Slot::bound(repository, slot)),
            &mut wrapped[NONCE_LEN..],
        )
        .map_err(|_| Error::new(Kind::Unsupported, "AES-256-GCM refuses to seal"))?;
    wrapped.extend_from_slice(tag.as_ref());
    Ok(Lock::Password {
        kdf: "argon2id".to_owned(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: to_hex(&salt),
        wrapped: to_hex(&wrapped),
    })
}

/// The bytes of a new key slot.
pub fn add_slot(
    master: &MasterKey,
    repository: RepositoryId,
    slot: ObjectId,
    password: Option<&Password>,
    created: jiff::Timestamp,
) -> Result<Vec<u8>> {
    let lock = new_lock(master, repository, slot, password)?;
    Ok(Slot { version: 1, repository, created, lock }.write()?)
}

/// The key that a slot holds; `None` when the password is not this slot's.
pub fn open_slot(slot: &Slot, id: ObjectId, password: Option<&Password>) -> Result<Option<MasterKey>> {
    if let Some(key) = slot.lock.open_key()? {
        return Ok(Some(MasterKey(Zeroizing::new(key))));
    }
    let (Some(lock), Some(password)) = (slot.lock.password()?, password) else { return Ok(None) };
    let key = derive(password, &lock.salt, lock.memory_kib, lock.passes, lock.lanes)?;
    Ok(unwrap_key(&key, &lock.wrapped, Slot::bound(slot.repository, id)).map(MasterKey))
}

fn unwrap_key(
    key: &LessSafeKey,
    wrapped: &[u8; WRAPPED_LEN],
    bound: Vec<u8>,
) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let opened =
        key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), &mut sealed[..]).ok()?;
    Some(Zeroizing::new(<[u8; KEY_LEN]>::try_from(&*opened).ok()?))
}

fn derive(password: &Password, salt: &[u8], memory_kib: u32, passes: u32, lanes: u32) -> Result<LessSafeKey> {
    let bad = |error: argon2::Error| Error::new(Kind::Corrupt, format!("derive a key: {error}"));
    let params = Params::new(memory_kib, passes, lanes, Some(KEY_LEN)).map_err(bad)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut *key)
        .map_err(bad)?;
    UnboundKey::new(&AES_256_GCM, &*key)
        .map(LessSafeKey::new)
        .map_err(|_| Error::new(Kind::Unsupported, "AES-256 takes no key here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: RepositoryId = RepositoryId([1; 16]);
    const ID: ObjectId = ObjectId([2; 16]);

    fn slot(password: Option<&Password>) -> (MasterKey, Slot) {
        let master = MasterKey::random().unwrap();
        let bytes = add_slot(&master, REPO, ID, password, jiff::Timestamp::UNIX_EPOCH).unwrap();
        (master, Slot::parse(&bytes).unwrap())
    }

    #[test]
    fn x4_the_right_password_opens_and_every_other_does_not() {
        let right = Password::new(b"correct horse".to_vec());
        let (master, slot) = slot(Some(&right));
        assert!(*open_slot(&slot, ID, Some(&right)).unwrap().unwrap().0 == *master.0);
        let wrong = Password::new(b"correct horsf".to_vec());
        assert!(open_slot(&slot, ID, Some(&wrong)).unwrap().is_none());
        assert!(open_slot(&slot, ID, None).unwrap().is_none());
        assert!(
            open_slot(&slot, ObjectId([3; 16]), Some(&right)).unwrap().is_none(),
            "bound to its own name"
        );
    }

    #[test]
    fn an_open_slot_opens_without_a_password() {
        let (master, slot) = slot(None);
        assert!(*open_slot(&slot, ID, None).unwrap().unwrap().0 == *master.0);
    }
}
