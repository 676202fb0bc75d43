//! Sealed objects that are not packs: parts in, one object out, and back. Written once, read whole.
//!
//! Every part is bound to its object, its number and how many there are; see `format::object`. Entered from the files beside this one, which
//! know what the parts of a record, an index or a catalogue mean.

use super::{Repository, names, once_more};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{ObjectId, ids::SealKind, limits, object};
use crate::seal::{LEVEL_DEFAULT, Seal, Sealed, Under, Verified, open, random};
use crate::store::list_all;
use bytes::Bytes;

/// The first part of most objects ends before.
const HEAD_LEN: u64 = 16 * 1024;

/// A new random id.
pub(super) fn random_id() -> Result<ObjectId> {
    let mut id = [0; 16];
    random(&mut id)?;
    Ok(ObjectId(id))
}

impl Repository {
    /// Seals the parts and publishes them as one object.
    pub(super) async fn put_object(&self, kind: SealKind, id: ObjectId, parts: &[Vec<u8>]) -> Result<u64> {
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let mut seal = Seal::new(LEVEL_DEFAULT)?;
        let under = Under::Object(kind, id);
        let sealed = (0..count).zip(parts).map(|(number, part)| {
            seal.seal(&self.keys, under, Sealed::Part { kind, object: id, number, count }, part)
        });
        let sealed = sealed.collect::<Result<Vec<_>>>()?;
        let bytes = object::write(self.id(), kind, id, &sealed);
        let len = bytes.len() as u64;
        let name = names::object(kind, id)?;
        self.store.put(&name, bytes.into()).await.context(|| format!("write {name}"))?;
        Ok(len)
    }

    /// The parts of an object.
    pub(super) async fn get_object(&self, kind: SealKind, id: ObjectId) -> Result<Vec<Verified>> {
        self.get_object_bytes(kind, id).await.map(|(parts, _)| parts)
    }

    /// The same, and the bytes as they are stored.
    pub(super) async fn get_object_bytes(
        &self,
        kind: SealKind,
        id: ObjectId,
    ) -> Result<(Vec<Verified>, Bytes)> {
        let name = names::object(kind, id)?;
        let get = || async {
            let bytes = self.store.get_whole(&name, limits::OBJECT_LEN_MAX.into()).await?;
            Ok((self.open_object(kind, id, &bytes)?, bytes))
        };
        once_more(get).await.context(|| format!("read {name}"))
    }

    /// The parts of an object whose bytes are here.
    pub(super) fn open_object(&self, kind: SealKind, id: ObjectId, bytes: &[u8]) -> Result<Vec<Verified>> {
        let parts = object::parse(bytes, self.id(), kind, id)?;
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let open_part = |(number, part)| {
            let what = Sealed::Part { kind, object: id, number, count };
            open(&self.keys, Under::Object(kind, id), what, part)
        };
        (0..count).zip(parts).map(open_part).collect()
    }

    /// The first part of an object that has so many bytes, from those that it begins with. Nothing: it has none.
    pub(super) async fn first_part(
        &self,
        kind: SealKind,
        id: ObjectId,
        len: u64,
    ) -> Result<Option<Verified>> {
        let name = names::object(kind, id)?;
        let get = || async {
            let head = self.store.get(&name, 0..len.min(HEAD_LEN)).await?;
            match object::parse_first(&head, self.id(), kind, id)? {
                object::First::None => Ok(Some(None)),
                object::First::Longer => Ok(None),
                object::First::Here { part, count } => {
                    let what = Sealed::Part { kind, object: id, number: 0, count };
                    open(&self.keys, Under::Object(kind, id), what, part).map(|part| Some(Some(part)))
                }
            }
        };
        match once_more(get).await.context(|| format!("read {name}"))? {
            Some(first) => Ok(first),
            None => Ok(self.get_object(kind, id).await?.into_iter().next()),
        }
    }

    /// The index objects.
    pub async fn index_objects(&self) -> Result<Vec<ObjectId>> {
        Ok(self.list_objects(SealKind::Index).await?.into_iter().map(|(id, _)| id).collect())
    }

    /// Those objects that only help to find others, and can't be read: name and why.
    pub async fn damaged_helpers(&self) -> Result<Vec<(String, Error)>> {
        let mut damaged = Vec::new();
        for kind in [SealKind::Catalog, SealKind::Damaged] {
            for (id, _) in self.list_objects(kind).await? {
                match self.get_object(kind, id).await {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                        damaged.push((names::object(kind, id)?.to_string(), error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(damaged)
    }

    /// The objects of a kind, with their lengths.
    pub(super) async fn list_objects(&self, kind: SealKind) -> Result<Vec<(ObjectId, u64)>> {
        let folder = names::folder(kind);
        let listed = list_all(&*self.store, folder).await.context(|| format!("list {folder}"))?;
        Ok(listed.iter().filter_map(|listed| Some((names::id_of(&listed.name)?, listed.stat.len))).collect())
    }
}
