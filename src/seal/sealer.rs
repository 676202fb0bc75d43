//! Sealing and opening one run of plain bytes.
//!
//! plain -> zstd, if it gains -> nonce from what is sealed -> AES-256-GCM -> open again, compare -> sealed
//! sealed -> tag -> lengths judged -> inflate into room for what was announced, which has to fit -> [`Verified`]
//!
//! Holds: what was not proven is never inflated, and what a frame inflates to never exceeds what it announced, nor 4 MiB. Everything is bound to
//! repository, kind and id; see [`Sealed`].

use super::keys::{Keys, Under};
use crate::error::{Error, Kind, Result};
use crate::format::ids::SealKind;
use crate::format::{ChunkId, Corrupt, ObjectId, limits};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::WriteBuf;

const NONCE_LEN: usize = 12;
const HEAD_LEN: usize = 5;
const TAG_LEN: usize = 16;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

const _: () = assert!(NONCE_LEN + HEAD_LEN + TAG_LEN == limits::SEAL_OVERHEAD as usize);

/// What is sealed, and what it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A chunk of a pack.
    Chunk(SealKind, ChunkId),
    /// A pack's table.
    Table(ObjectId),
    /// Part `number` of `count` of an object.
    Part {
        /// What the object is.
        kind: SealKind,
        /// Its id.
        object: ObjectId,
        /// Which part.
        number: u32,
        /// Of how many.
        count: u32,
    },
}

impl Sealed {
    fn kind(&self) -> SealKind {
        match self {
            Sealed::Chunk(kind, _) | Sealed::Part { kind, .. } => *kind,
            Sealed::Table(_) => SealKind::Table,
        }
    }

    /// kind[u8] id[32] number[u32] count[u32]
    fn bound(&self) -> [u8; 41] {
        let mut out = [0; 41];
        out[0] = self.kind().byte();
        match self {
            Sealed::Chunk(_, id) => out[1..33].copy_from_slice(&id.0),
            Sealed::Table(object) => out[1..17].copy_from_slice(&object.0),
            Sealed::Part { object, number, count, .. } => {
                out[1..17].copy_from_slice(&object.0);
                out[33..37].copy_from_slice(&number.to_le_bytes());
                out[37..41].copy_from_slice(&count.to_le_bytes());
            }
        }
        out
    }
}

/// Plain bytes that were opened: their seal held. Only this file can make one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Verified(Bytes);

impl Verified {
    /// For [`super::digest`], which has just held them to their digests.
    pub(super) fn proven(bytes: Bytes) -> Verified {
        Verified(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes, given away.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl std::ops::Deref for Verified {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Verified {
    /// A part of the bytes; within bounds, as a slice's.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Verified {
        Verified(self.0.slice(range))
    }

    /// The same for a part that a parser found in the bytes; nothing, when it is no part of them.
    pub fn part(&self, found: &[u8]) -> Option<Verified> {
        let start = found.as_ptr().addr().checked_sub(self.0.as_ptr().addr())?;
        let inside = start.checked_add(found.len()).is_some_and(|end| end <= self.0.len());
        inside.then(|| self.slice(start..start + found.len()))
    }
}

/// Content is not for logs.
impl std::fmt::Debug for Verified {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} verified bytes", self.0.len())
    }
}

/// Seals; keeps its compressor and its buffers. One for each thread that seals.
pub struct Seal {
    level: i32,
    compressor: Compressor<'static>,
    buffer: Vec<u8>,
    proof: Vec<u8>,
}

impl Seal {
    /// A sealer that compresses at `level`.
    pub fn new(level: i32) -> Result<Seal> {
        let mut compressor = Compressor::new(level)
            .map_err(|error| Error::new(Kind::Unsupported, "start zstd").caused_by(error))?;
        // The lengths are ours, and the tag is a better checksum.
        let plain = compressor.include_contentsize(false).and_then(|()| compressor.include_checksum(false));
        plain.map_err(|error| Error::new(Kind::Unsupported, "set up zstd").caused_by(error))?;
        Ok(Seal { level, compressor, buffer: Vec::new(), proof: Vec::new() })
    }

    /// Seals `plain`, opens the result again and compares, so that no fault of memory or processor is ever published (C5).
    pub fn seal(&mut self, keys: &Keys, under: Under, what: Sealed, plain: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.seal_unproven(keys, under, what, plain)?;
        self.prove(keys, under, what, plain, &sealed)?;
        Ok(sealed)
    }

    fn prove(&mut self, keys: &Keys, under: Under, what: Sealed, plain: &[u8], sealed: &[u8]) -> Result<()> {
        let proof = &mut self.proof;
        proof.clear();
        match open_into(keys, under, what, sealed, proof) {
            Ok(()) if proof == plain => Ok(()),
            _ => Err(Error::new(Kind::Corrupt, "sealed bytes do not open to what was sealed")
                .hint("the memory or processor of this machine is faulty; nothing was published")),
        }
    }

    fn seal_unproven(&mut self, keys: &Keys, under: Under, what: Sealed, plain: &[u8]) -> Result<Vec<u8>> {
        let limit = u64::from(limits::CHUNK_LEN_MAX);
        let plain_len = u32::try_from(plain.len()).ok().filter(|&len| len <= limits::CHUNK_LEN_MAX);
        let found = plain.len() as u64;
        let plain_len = plain_len.ok_or(Corrupt::Limit { what: "length of a chunk", found, limit })?;
        let body_at = NONCE_LEN + HEAD_LEN;
        // Compression that gains nothing is not worth undoing: give it no more room than the plain bytes take.
        self.buffer.resize(body_at + plain.len(), 0);
        let (method, len) = match self.compressor.compress_to_buffer(plain, &mut self.buffer[body_at..]) {
            Ok(len) if len < plain.len() => (ZSTD, len),
            _ => {
                self.buffer[body_at..].copy_from_slice(plain);
                (PLAIN, plain.len())
            }
        };
        self.buffer[NONCE_LEN] = method;
        self.buffer[NONCE_LEN + 1..body_at].copy_from_slice(&plain_len.to_le_bytes());
        let nonce = self.nonce(keys, what, method, plain);
        let mut sealed = Vec::with_capacity(body_at + len + TAG_LEN);
        sealed.extend_from_slice(&self.buffer[..body_at + len]);
        sealed[..NONCE_LEN].copy_from_slice(&nonce);
        let aad = aad(keys, what);
        let tag = keys
            .seal_key(under)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed[NONCE_LEN..])
            .map_err(|_| Error::new(Kind::Unsupported, "AES-256-GCM refuses to seal"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Equal only for equal sealed bytes: the id of a chunk stands for its bytes, everything else is hashed; the method, the level
    /// and the version of zstd decide the rest.
    fn nonce(&self, keys: &Keys, what: Sealed, method: u8, plain: &[u8]) -> [u8; NONCE_LEN] {
        let codec = [self.level.to_le_bytes(), zstd::zstd_safe::version_number().to_le_bytes()].concat();
        let len = (plain.len() as u64).to_le_bytes();
        let content: &[u8] = match what {
            Sealed::Chunk(SealKind::Data, _) => &[],
            _ => &Sha256::digest(plain),
        };
        keys.nonce(&[&what.bound(), &[method], &len, &codec, content])
    }
}

fn aad(keys: &Keys, what: Sealed) -> Aad<[u8; 57]> {
    let mut out = [0; 57];
    out[..16].copy_from_slice(&keys.repository().0);
    out[16..].copy_from_slice(&what.bound());
    Aad::from(out)
}

thread_local! {
    /// One decompressor and one buffer for what was decrypted, on each thread that opens.
    static OPENER: RefCell<Option<Opener>> = const { RefCell::new(None) };
}

struct Opener {
    decompressor: Decompressor<'static>,
    /// Grows only: filling it anew for each chunk would cost as much as copying.
    buffer: Vec<u8>,
    /// How many bytes of it were decrypted last.
    len: usize,
}

/// Opens sealed bytes.
pub fn open(keys: &Keys, under: Under, what: Sealed, sealed: &[u8]) -> Result<Verified> {
    let mut plain = Vec::new();
    open_into(keys, under, what, sealed, &mut plain)?;
    Ok(Verified(Bytes::from(plain)))
}

/// Opens sealed bytes into a buffer whose memory is used again; what was in it is gone.
pub fn open_into(keys: &Keys, under: Under, what: Sealed, sealed: &[u8], plain: &mut Vec<u8>) -> Result<()> {
    plain.clear();
    with_opener(|opener| {
        let (method, len) = opener.decrypt(&keys.seal_key(under), aad(keys, what), sealed)?;
        // Only now is anything allocated for it; the room bounds what a frame may inflate to. It is not filled twice.
        plain.reserve_exact(len);
        opener.inflate(method, len, plain).inspect_err(|_| plain.clear())
    })
}

/// Opens sealed bytes to where they belong: exactly as many as `plain` has.
pub fn open_exact(keys: &Keys, under: Under, what: Sealed, sealed: &[u8], plain: &mut [u8]) -> Result<()> {
    with_opener(|opener| {
        let (method, len) = opener.decrypt(&keys.seal_key(under), aad(keys, what), sealed)?;
        if len != plain.len() {
            return Err(Corrupt::Length { found: len as u64, wanted: plain.len() as u64 });
        }
        opener.inflate(method, len, plain)
    })
}

fn with_opener(work: impl FnOnce(&mut Opener) -> Result<(), Corrupt>) -> Result<()> {
    OPENER.with_borrow_mut(|opener| {
        let opener = match opener {
            Some(opener) => opener,
            none => none.insert(Opener::new()?),
        };
        Ok(work(opener)?)
    })
}

impl Opener {
    fn new() -> Result<Opener> {
        let decompressor = Decompressor::new()
            .map_err(|error| Error::new(Kind::Unsupported, "start zstd").caused_by(error))?;
        Ok(Opener { decompressor, buffer: Vec::new(), len: 0 })
    }

    /// Proves and decrypts; what follows is bounded by the length that was announced, and that by its limit.
    fn decrypt(
        &mut self,
        key: &LessSafeKey,
        aad: Aad<[u8; 57]>,
        sealed: &[u8],
    ) -> Result<(u8, usize), Corrupt> {
        if sealed.len() < limits::SEAL_OVERHEAD as usize || sealed.len() > limits::SEALED_LEN_MAX as usize {
            return Err(Corrupt::Short);
        }
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Corrupt::Short)?;
        let (body, tag) = rest.split_at(rest.len() - TAG_LEN);
        if self.buffer.len() < body.len() {
            self.buffer.resize(body.len(), 0);
        }
        self.len = body.len();
        let decrypted = &mut self.buffer[..body.len()];
        key.open_separate_gather(Nonce::assume_unique_for_key(*nonce), aad, body, tag, decrypted)
            .map_err(|_| Corrupt::Tag)?;
        let [method, a, b, c, d] = *decrypted.first_chunk::<HEAD_LEN>().ok_or(Corrupt::Short)?;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > limits::CHUNK_LEN_MAX {
            let (found, limit) = (len.into(), limits::CHUNK_LEN_MAX.into());
            return Err(Corrupt::Limit { what: "length of a chunk", found, limit });
        }
        Ok((method, len as usize))
    }

    fn inflate<R: Room + ?Sized>(&mut self, method: u8, len: usize, plain: &mut R) -> Result<(), Corrupt> {
        let body = &self.buffer[HEAD_LEN..self.len];
        match method {
            PLAIN if body.len() == len => plain.take(body),
            PLAIN => return Err(Corrupt::Length { found: body.len() as u64, wanted: len as u64 }),
            ZSTD => {
                let done = self.decompressor.decompress_to_buffer(body, plain);
                if done.ok() != Some(len) {
                    return Err(Corrupt::Inflate { wanted: len as u64 });
                }
            }
            found => return Err(Corrupt::Method { found }),
        }
        Ok(())
    }
}

/// Where opened bytes go: exactly where they belong, or into an empty buffer.
trait Room: WriteBuf {
    fn take(&mut self, bytes: &[u8]);
}

impl Room for [u8] {
    fn take(&mut self, bytes: &[u8]) {
        self.copy_from_slice(bytes);
    }
}

impl Room for Vec<u8> {
    fn take(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::MasterKey;
    use super::*;
    use crate::format::{PackId, RepositoryId};
    use proptest::prelude::*;

    fn keys(repository: u8) -> Keys {
        let master = MasterKey(zeroize::Zeroizing::new([7; 32]));
        Keys::new(RepositoryId([repository; 16]), &master)
    }

    const UNDER: Under = Under::Pack(PackId([1; 16]));

    fn chunk(keys: &Keys, plain: &[u8]) -> Sealed {
        Sealed::Chunk(SealKind::Data, keys.data_id(plain))
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_to_itself(seed in any::<u64>(), len in 0usize..300_000, flat in any::<bool>()) {
            let mut state = seed | 1;
            let plain: Vec<u8> = (0..len).map(|at| {
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;
                if flat { (at / 999) as u8 } else { state as u8 }
            }).collect();
            let keys = keys(1);
            let sealed = Seal::new(1).unwrap().seal(&keys, UNDER, chunk(&keys, &plain), &plain).unwrap();
            prop_assert!(sealed.len() <= plain.len() + limits::SEAL_OVERHEAD as usize);
            let opened = open(&keys, UNDER, chunk(&keys, &plain), &sealed).unwrap();
            prop_assert_eq!(&opened[..], &plain[..]);
        }
    }

    #[test]
    fn c1_every_flipped_bit_and_every_cut_is_an_error() {
        let keys = keys(1);
        let plain = b"a few bytes that are worth keeping, keeping, keeping, keeping".repeat(3);
        let what = chunk(&keys, &plain);
        let sealed = Seal::new(1).unwrap().seal(&keys, UNDER, what, &plain).unwrap();
        for at in 0..sealed.len() {
            assert!(open(&keys, UNDER, what, &sealed[..at]).is_err());
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[at] ^= 1 << bit;
                assert!(open(&keys, UNDER, what, &bad).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn c9_kind_id_pack_and_repository_are_bound() {
        let ours = keys(1);
        let plain = b"bytes";
        let what = chunk(&ours, plain);
        let sealed = Seal::new(1).unwrap().seal(&ours, UNDER, what, plain).unwrap();
        assert!(open(&ours, UNDER, what, &sealed).is_ok());
        let Sealed::Chunk(_, id) = what else { unreachable!() };
        assert!(open(&ours, UNDER, Sealed::Chunk(SealKind::Node, id), &sealed).is_err());
        assert!(open(&ours, UNDER, Sealed::Chunk(SealKind::Data, ChunkId([0; 32])), &sealed).is_err());
        assert!(open(&ours, Under::Pack(PackId([2; 16])), what, &sealed).is_err());
        assert!(open(&keys(2), UNDER, what, &sealed).is_err());
    }

    #[test]
    fn x1_a_frame_that_inflates_beyond_what_it_announced_is_refused_in_bounded_memory() {
        let keys = keys(1);
        let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 19).unwrap();
        for announced in [0u32, 100, limits::CHUNK_LEN_MAX, limits::CHUNK_LEN_MAX + 1, u32::MAX] {
            let what = chunk(&keys, b"");
            let mut sealed = vec![9u8; NONCE_LEN];
            sealed.push(ZSTD);
            sealed.extend_from_slice(&announced.to_le_bytes());
            sealed.extend_from_slice(&bomb);
            let nonce = Nonce::assume_unique_for_key([9; NONCE_LEN]);
            let tag = keys
                .seal_key(UNDER)
                .seal_in_place_separate_tag(nonce, aad(&keys, what), &mut sealed[NONCE_LEN..])
                .unwrap();
            sealed.extend_from_slice(tag.as_ref());
            let mut plain = Vec::new();
            let refused = open_into(&keys, UNDER, what, &sealed, &mut plain).unwrap_err();
            assert_eq!(refused.kind(), Kind::Corrupt, "{refused}");
            assert!(plain.is_empty() && plain.capacity() <= limits::CHUNK_LEN_MAX as usize);
        }
    }

    #[test]
    fn c5_a_bit_that_flips_between_seal_and_publication_is_never_published() {
        let keys = keys(1);
        let plain = vec![3u8; 5000];
        let what = chunk(&keys, &plain);
        let mut seal = Seal::new(1).unwrap();
        let mut sealed = seal.seal_unproven(&keys, UNDER, what, &plain).unwrap();
        assert!(seal.prove(&keys, UNDER, what, &plain, &sealed).is_ok());
        sealed[40] ^= 4;
        let refused = seal.prove(&keys, UNDER, what, &plain, &sealed).unwrap_err();
        assert!(refused.to_string().contains("memory or processor"), "{refused}");
        let sealed = seal.seal_unproven(&keys, UNDER, what, &plain).unwrap();
        let mut flipped = plain.clone();
        flipped[4999] ^= 1;
        assert!(seal.prove(&keys, UNDER, what, &flipped, &sealed).is_err());
    }

    #[test]
    fn x6_clones_that_share_a_pack_never_use_a_nonce_for_different_bytes() {
        let keys = keys(1);
        let node = Sealed::Chunk(SealKind::Node, ChunkId([5; 32]));
        let nonce = |level, plain: &[u8]| {
            Seal::new(level).unwrap().seal_unproven(&keys, UNDER, node, plain).unwrap()[..NONCE_LEN].to_vec()
        };
        assert_eq!(nonce(1, b"places a"), nonce(1, b"places a"));
        assert_ne!(nonce(1, b"places a"), nonce(1, b"places b"), "one id, other places");
        assert_ne!(nonce(1, b"places a"), nonce(3, b"places a"), "one content, other level");
    }
}
