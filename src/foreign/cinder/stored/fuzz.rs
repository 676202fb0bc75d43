//! The door for fuzzers: an object of any stored bytes. What it gives in one go it gives from the middle, too.

use super::{Folder, Object, Yard};
use crate::error::Result;
use crate::foreign::cinder::document::metadata::Compression;
use crate::store::{AnyStore, MemStore, Name, Stat};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;
use tokio::runtime::{Builder, Runtime};

/// How many plain bytes an object holds, as its index would say.
const LEN: usize = 3000;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
});
/// Places to begin at are kept in memory: nothing can be below a device.
static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder::open(Path::new("/dev/null")));

/// The first byte chooses how the others are compressed.
pub(in crate::foreign::cinder) fn stored(bytes: &[u8]) {
    let [choice, stored @ ..] = bytes else { return };
    let compression = match choice % 4 {
        0 => Compression::Zlib,
        1 => Compression::Bz2,
        2 => Compression::Zstd,
        _ => Compression::None,
    };
    let name = Name::parse("a-00001").expect("a name");
    let store: AnyStore = Arc::new(MemStore::new());
    RUNTIME.block_on(store.put(&name, stored.to_vec().into())).expect("room in memory");
    let stat = Stat { len: stored.len() as u64, published: UNIX_EPOCH };
    let read = |parts: &[usize]| -> Result<Vec<u8>> {
        let of = (Arc::clone(&store), RUNTIME.handle().clone());
        let object = Object::new(of, (name.clone(), &stat), compression, LEN as u64, &FOLDER);
        let (yard, mut all) = (Yard::new(), Vec::new());
        for two in parts.windows(2) {
            let mut into = vec![0; two[1] - two[0]];
            object.read(&yard, two[0] as u64, &mut into, false)?;
            all.extend(into);
        }
        let _ends = object.ends_as_it_should(&yard).is_ok();
        Ok(all)
    };
    if let Ok(whole) = read(&[0, LEN]) {
        for parts in [&[0, 1, 100, LEN][..], &[LEN / 2, LEN]] {
            assert!(read(parts).is_ok_and(|found| found == whole[parts[0]..]));
        }
    }
}
