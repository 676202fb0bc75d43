//! The indexes and objects of a container, opened as they are needed and kept for a while.

use super::document::metadata::Object as Extent;
use super::document::names;
use super::draft::{Draft, load};
use super::stored::{Folder, Object, Yard};
use crate::error::{Context, Error, Kind, Result};
use crate::seal::digest::{self, Block};
use crate::store::{AnyStore, Name};
use lru::LruCache;
use md5::{Digest, Md5};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;

/// How many indexes are kept, as far as they are small.
const LAYERS_KEPT: NonZeroUsize = NonZeroUsize::new(512).expect("512 is not zero");
/// An index with more objects than this is kept only by those who read it.
const LAYER_LEN_KEPT: usize = 1 << 16;
/// How many objects stay open.
const OBJECTS_KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");
/// Of how many objects that have but one digest those of their pieces are kept.
const PROOFS_KEPT: NonZeroUsize = NonZeroUsize::new(128).expect("128 is not zero");
/// How long such a piece is.
pub(super) const PIECE: u64 = 128 << 10;
/// What is read of an object at once to find them out.
const STEP: u64 = 1 << 20;

/// The index of one backup, opened.
pub(super) struct Layer {
    /// All that stands before the suffixes of its objects' names.
    pub(super) path: String,
    pub(super) objects: Vec<Extent>,
}

/// The digests of an object's pieces, once its own was found right.
type Proof = Arc<OnceLock<Result<Arc<[Block]>>>>;

/// What all images of a container read from.
pub(super) struct Layers {
    pub(super) store: AnyStore,
    pub(super) runtime: Handle,
    pub(super) yard: Yard,
    folder: Folder,
    layers: Mutex<LruCache<String, Arc<Layer>>>,
    objects: Mutex<LruCache<(String, u32), Arc<Object>>>,
    proofs: Mutex<LruCache<u64, Proof>>,
}

impl Layers {
    pub(super) fn new(store: AnyStore, runtime: Handle, folder: Folder) -> Layers {
        Layers {
            store,
            runtime,
            yard: Yard::new(),
            folder,
            layers: Mutex::new(LruCache::new(LAYERS_KEPT)),
            objects: Mutex::new(LruCache::new(OBJECTS_KEPT)),
            proofs: Mutex::new(LruCache::new(PROOFS_KEPT)),
        }
    }

    /// The index of a backup, which must still be the one that was listed.
    pub(super) async fn layer(&self, draft: &Draft) -> Result<Arc<Layer>> {
        let path = &draft.found.path;
        if let Some(layer) = locked(&self.layers).get(path) {
            return Ok(Arc::clone(layer));
        }
        let (metadata, digest) = load(&self.store, path).await?;
        if draft.says.as_ref().is_ok_and(|facts| facts.digest != digest) {
            let words = format!("read the index of {path}: it has changed since it was listed");
            return Err(Error::new(Kind::Unreachable, words).hint("try again"));
        }
        let layer = Arc::new(Layer { path: path.clone(), objects: metadata.objects });
        if layer.objects.len() <= LAYER_LEN_KEPT {
            let _least_used = locked(&self.layers).push(path.clone(), Arc::clone(&layer));
        }
        Ok(layer)
    }

    /// An object of a layer, opened. One that is not there is damage of the backup.
    pub(super) async fn object(&self, layer: &Layer, extent: &Extent) -> Result<Arc<Object>> {
        let key = (layer.path.clone(), extent.number);
        if let Some(object) = locked(&self.objects).get(&key) {
            return Ok(Arc::clone(object));
        }
        let name = Name::foreign(&names::data(&layer.path, extent.number))?;
        let stat = self.store.stat(&name).await.map_err(|error| match error.kind() {
            Kind::Missing => error.as_kind(Kind::Corrupt),
            _ => error,
        });
        let stat = stat.context(|| "an object of the backup is not there")?;
        let place = (self.store.clone(), self.runtime.clone());
        let object = Object::new(place, (name, &stat), extent.compression, extent.length, &self.folder);
        let object = Arc::new(object);
        let _least_used = locked(&self.objects).push(key, Arc::clone(&object));
        Ok(object)
    }

    /// The object, if it is open.
    pub(super) fn object_now(&self, layer: &Layer, extent: &Extent) -> Option<Arc<Object>> {
        locked(&self.objects).get(&(layer.path.clone(), extent.number)).cloned()
    }

    /// The digests of an object's pieces: found out by reading all of it, once, and holding it to the one digest that it has.
    pub(super) fn proof(&self, object: &Object, extent: &Extent) -> Result<Arc<[Block]>> {
        let cell = Arc::clone(locked(&self.proofs).get_or_insert(object.number(), Proof::default));
        let proof = cell.get_or_init(|| self.prove(object, extent)).clone();
        if proof.as_ref().is_err_and(|error| error.kind() != Kind::Corrupt) {
            // It says nothing of the object: who comes next asks again.
            let mut proofs = locked(&self.proofs);
            if proofs.peek(&object.number()).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
                drop(proofs.pop(&object.number()));
            }
        }
        proof
    }

    fn prove(&self, object: &Object, extent: &Extent) -> Result<Arc<[Block]>> {
        let (mut md5, mut pieces, mut buffer) = (Md5::new(), Vec::new(), Vec::new());
        let mut at = 0;
        while at < extent.length {
            let len = STEP.min(extent.length - at);
            buffer.resize(len as usize, 0);
            object.read(&self.yard, at, &mut buffer, true)?;
            md5.update(&buffer);
            pieces.extend(buffer.chunks(PIECE as usize).map(digest::of));
            at += len;
        }
        let found: [u8; 16] = md5.finalize().into();
        if extent.md5.is_some_and(|md5| md5 == found) {
            return Ok(pieces.into());
        }
        let words = format!(
            "{}/{}: it does not have the MD5 that Cinder wrote down",
            self.store.place(),
            object.name()
        );
        Err(Error::new(Kind::Corrupt, words))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
