//! The keys of a repository, all derived from one: for ids, for nonces, for `afterimage.json`, and one for each pack and object.
//!
//! [`Keys`] never gives a key away: it computes ids and codes, and only this room gets at what seals. Keys of packs are derived when they are
//! first needed and a thousand are kept ready. FORMAT.md, section 4, has the derivations.

use crate::error::{Context, Result};
use crate::format::ids::SealKind;
use crate::format::{ChunkId, ObjectId, PackId, RepositoryId, slot::KEY_LEN};
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// How many packs' keys are kept ready.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// The one key from which all others derive.
pub struct MasterKey(pub(super) Zeroizing<[u8; KEY_LEN]>);

impl MasterKey {
    /// A new one.
    pub fn random() -> Result<MasterKey> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        random(&mut *key)?;
        Ok(MasterKey(key))
    }

    /// As it was written down where only who may have it reads.
    pub fn parse(bytes: &[u8]) -> Option<MasterKey> {
        Some(MasterKey(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Its bytes, to be sealed and written nowhere else.
    pub fn expose(&self) -> &[u8] {
        &*self.0
    }
}

/// Fills a buffer with random bytes. They come from the kernel: a generator of our own would first gather entropy, for as long
/// as it takes to open a repository.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let filled = retry_on_intr(|| getrandom(&mut *rest, GetRandomFlags::empty()))
            .context(|| "ask the kernel for random bytes")?;
        rest = &mut rest[filled..];
    }
    Ok(())
}

/// What a key is for: the object that sealed bytes are part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Under {
    /// Chunks and table of a pack.
    Pack(PackId),
    /// Parts of an object of some kind.
    Object(SealKind, ObjectId),
    /// Chunks kept on this machine.
    Cache(ObjectId),
}

/// The keys of one repository.
///
/// Has no `Debug`: a key never reaches a log.
pub struct Keys {
    repository: RepositoryId,
    seals: Prk,
    data_ids: Hmac<Sha256>,
    node_ids: Hmac<Sha256>,
    tree_ids: Hmac<Sha256>,
    nonces: Hmac<Sha256>,
    config: Hmac<Sha256>,
    cuts: Hmac<Sha256>,
    ready: Mutex<LruCache<Under, Arc<LessSafeKey>>>,
}

/// The length of what HKDF is asked for.
struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(from: &Prk, info: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    // OK: HKDF-SHA256 gives up to 8160 bytes; 32 never fail.
    from.expand(info, Len(KEY_LEN)).and_then(|okm| okm.fill(&mut *key)).expect("32 bytes of HKDF-SHA256");
    key
}

fn mac_key(from: &Prk, use_: &[u8]) -> Hmac<Sha256> {
    // OK: HMAC takes keys of any length.
    Hmac::new_from_slice(&*expand(from, &[use_])).expect("HMAC takes any key")
}

impl Keys {
    /// Derives everything.
    pub fn new(repository: RepositoryId, master: &MasterKey) -> Keys {
        let prk = Salt::new(HKDF_SHA256, &repository.0).extract(&*master.0);
        let seals = Salt::new(HKDF_SHA256, b"afterimage seals").extract(&*expand(&prk, &[b"seal"]));
        Keys {
            repository,
            seals,
            data_ids: mac_key(&prk, b"id data"),
            node_ids: mac_key(&prk, b"id node"),
            tree_ids: mac_key(&prk, b"id tree"),
            nonces: mac_key(&prk, b"nonce"),
            config: mac_key(&prk, b"config"),
            cuts: mac_key(&prk, b"cut"),
            ready: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Whose keys they are.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The id of plain bytes of an image or file.
    pub fn data_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(mac(&self.data_ids, &[plain]))
    }

    /// The id of a map node, from the part of it that its id covers.
    pub fn node_id(&self, canon: &[u8]) -> ChunkId {
        ChunkId(mac(&self.node_ids, &[canon]))
    }

    /// The id of a tree node, from the part of it that its id covers.
    pub fn tree_id(&self, canon: &[u8]) -> ChunkId {
        ChunkId(mac(&self.tree_ids, &[canon]))
    }

    /// The table by which files are cut: a number for each byte.
    pub fn gear(&self) -> Box<[u64; 256]> {
        let number = |byte: u8| {
            let [a, b, c, d, e, f, g, h, ..] = mac(&self.cuts, &[&[byte]]);
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let mut gear = Box::new([0; 256]);
        gear.iter_mut().zip(0..=u8::MAX).for_each(|(entry, byte)| *entry = number(byte));
        gear
    }

    /// Which of the linked files of a tree one is: the same for the same inode of the same file system, whenever it is asked.
    pub fn link_group(&self, file_system: &[u8], inode: u64) -> [u8; 16] {
        let full = mac(&self.tree_ids, &[b"link", &inode.to_le_bytes(), file_system]);
        std::array::from_fn(|at| full[at])
    }

    /// The authentication code of `afterimage.json`.
    pub fn config_mac(&self, authenticated: &str) -> [u8; 32] {
        mac(&self.config, &[authenticated.as_bytes()])
    }

    /// Whether a code is the right one, in constant time.
    pub fn config_holds(&self, authenticated: &str, code: &[u8; 32]) -> bool {
        self.config.clone().chain_update(authenticated).verify_slice(code).is_ok()
    }

    pub(super) fn nonce(&self, parts: &[&[u8]]) -> [u8; 12] {
        let full = mac(&self.nonces, parts);
        std::array::from_fn(|at| full[at])
    }

    pub(super) fn seal_key(&self, under: Under) -> Arc<LessSafeKey> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(ready.get_or_insert(under, || Arc::new(self.derive(under))))
    }

    fn derive(&self, under: Under) -> LessSafeKey {
        let (use_, id): (&[u8], _) = match &under {
            Under::Pack(pack) => (b"pack", pack.0),
            Under::Object(kind, object) => (&[b'o', kind.byte()], object.0),
            Under::Cache(cache) => (b"cache", cache.0),
        };
        let key = expand(&self.seals, &[use_, &id]);
        // OK: the key is 32 bytes, as AES-256 wants.
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("32 bytes are an AES-256 key"))
    }
}

fn mac(state: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(state.clone(), |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}
