//! What was written: the bytes, the map of which blocks they are, and where both lie.
//!
//! ```text
//! file of an overlay := header ( page page )* gap data      as `blockmap::page` has it; the data begins at a multiple of 64 KiB
//! state of a target  := header ( page page )*               the data is the target itself
//! ```
//!
//! What is kept is crash-safe once flushed: data, sync, pages, sync, answer. What is not has no name from the moment it is there, and its pages
//! are never written. A target has to stand alone in the end: what is zero is made zero in it, where an overlay's map just says so.

use crate::error::{Context, Error, Kind, Result};
use crate::exports::blockmap::page::{Header, PAGE_LEN, Unfit, block_for, pages_of, place_of};
use crate::exports::blockmap::{BlockMap, Durable, State};
use crate::restore::target::{Guarded, Wish, hold};
use crate::seal::random;
use afterimage_nbd::export::{Answer, Export, Parts, Result as Served, Zeroing};
use afterimage_nbd::file::FileExport;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::RwLockReadGuard;

const DATA_ALIGN: u64 = 64 * 1024;

/// The bytes and their map.
pub(in crate::exports) struct Side {
    data: FileExport,
    data_at: u64,
    durable: Durable,
    kept: Kept,
}

/// Where the map outlives this process.
enum Kept {
    Nowhere,
    /// In the file of the data.
    Beside,
    /// In a file of its own.
    Apart(Apart),
}

/// A target's state.
struct Apart {
    pages: FileExport,
    /// The target was new, so what nobody has written is zero.
    fresh: bool,
}

/// A file that is kept, before it is known whether it fits.
pub(in crate::exports) enum Found {
    /// A new one, or one that nothing was ever written to.
    Blank(File),
    /// One with this header.
    Used(File, Header),
}

impl Side {
    /// A file without a name, gone with this process.
    pub(in crate::exports) fn temporary(size: u64, what: &str) -> Result<Side> {
        let dir = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let how = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let making = || format!("make a file for {what} in {}", dir.display());
        let open = rustix::fs::open(&dir, how, Mode::RUSR | Mode::WUSR);
        let file: File = open.context(making)?.into();
        let header = header_for(size, Vec::new())?;
        file.set_len(header.data_at + size).context(making)?;
        Side::over(file, BlockMap::new(header), Kept::Nowhere)
    }

    /// Begins the file of an overlay that is kept.
    pub(in crate::exports) fn begin(file: File, path: &Path, size: u64, note: Vec<u8>) -> Result<Side> {
        let header = header_for(size, note)?;
        begin(&file, path, &header, header.data_at + size)?;
        Side::over(file, BlockMap::new(header), Kept::Beside)
    }

    /// Goes on with one.
    pub(in crate::exports) fn resume(file: File, path: &Path, header: Header) -> Result<Side> {
        let what = || format!("read the overlay {}", path.display());
        let len = file.metadata().context(what)?.len();
        if header.data_at == 0 || len < header.data_at + header.size {
            let words = format!("{}: it has {len} bytes, too few for what its header says", what());
            return Err(Error::new(Kind::Corrupt, words));
        }
        let map = load(&file, path, header)?;
        Side::over(file, map, Kept::Beside)
    }

    /// Begins to fill a target, `fresh` if all of it is known to be zero, with its state in a file of its own.
    pub(in crate::exports) fn begin_target(
        target: File,
        fresh: bool,
        state: (File, &Path),
        header: Header,
    ) -> Result<Side> {
        let (file, path) = state;
        begin(&file, path, &header, place_of(pages_of(header.size, header.block), 0))?;
        let pages = FileExport::new(file, false).context(|| format!("use the state {}", path.display()))?;
        Side::over(target, BlockMap::new(header), Kept::Apart(Apart { pages, fresh }))
    }

    /// Goes on with one.
    pub(in crate::exports) fn resume_target(
        target: File,
        state: (File, &Path),
        header: Header,
    ) -> Result<Side> {
        let (file, path) = state;
        target.sync_all().context(|| "see what is on the target")?;
        let _hint = rustix::fs::fadvise(&target, 0, None, rustix::fs::Advice::DontNeed);
        let map = load(&file, path, header)?;
        let pages = FileExport::new(file, false).context(|| format!("use the state {}", path.display()))?;
        // What was written and not flushed before us may lie where the map knows of nothing.
        Side::over(target, map, Kept::Apart(Apart { pages, fresh: false }))
    }

    fn over(data: File, map: BlockMap, kept: Kept) -> Result<Side> {
        let data_at = map.header().data_at;
        let data = FileExport::new(data, false).context(|| "serve what was written")?;
        Ok(Side { data, durable: Durable::new(map), data_at, kept })
    }

    /// Whether what is flushed survives this process.
    pub(in crate::exports) fn is_kept(&self) -> bool {
        !matches!(self.kept, Kept::Nowhere)
    }

    pub(in crate::exports) fn map(&self) -> RwLockReadGuard<'_, BlockMap> {
        self.durable.map()
    }

    /// What is here of a range that is present.
    pub(in crate::exports) fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.data.read(self.data_at + offset, len)
    }

    /// Writes whole blocks (the last one of the image may be short), or parts of blocks that are present.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Served<()> {
        let end = offset + data.len() as u64;
        self.put(offset, data).await?;
        self.durable.set(offset..end, State::Present);
        Ok(())
    }

    /// Makes whole blocks zero. Durable is only what is flushed.
    pub(super) async fn zero(&self, range: Range<u64>, how: Zeroing) -> Served<()> {
        let (at, len) = (self.data_at + range.start, range.end - range.start);
        if how.no_hole || matches!(self.kept, Kept::Apart(_)) {
            self.data.zero(at, len, Zeroing { fua: false, ..how }).wait().await?;
            self.durable.set(range, State::Present);
            return Ok(());
        }
        self.durable.set(range, State::Zero);
        // Only to give room back: the map says that it is zero.
        let how = Zeroing { fast: true, ..Zeroing::default() };
        drop(self.data.zero(at, len, how).wait().await);
        Ok(())
    }

    /// Writes bytes of which the map learns later.
    pub(super) async fn put(&self, offset: u64, data: Bytes) -> Served<()> {
        self.data.write(self.data_at + offset, data, false).wait().await
    }

    /// Makes blocks zero that nobody has written, and of which the map learns later.
    pub(super) async fn put_zeroes(&self, range: Range<u64>) -> Served<()> {
        if matches!(&self.kept, Kept::Apart(apart) if apart.fresh) {
            return Ok(());
        }
        let (at, len) = (self.data_at + range.start, range.end - range.start);
        self.data.zero(at, len, Zeroing::default()).wait().await
    }

    /// All of these blocks are here.
    pub(super) fn settled(&self, range: Range<u64>) {
        self.durable.set(range, State::Present);
    }

    /// All that was written before is durable, if it is kept. Has to be polled to its end.
    pub(super) async fn flush(&self) -> Served<()> {
        match &self.kept {
            Kept::Nowhere => Ok(()),
            Kept::Beside => self.durable.flush(&self.data, &self.data).await,
            Kept::Apart(apart) => self.durable.flush(&self.data, &apart.pages).await,
        }
    }
}

/// Writes a header to a new file, so that it is there after a crash.
fn begin(file: &File, path: &Path, header: &Header, len: u64) -> Result<()> {
    let what = || format!("begin {}", path.display());
    file.set_len(len).context(what)?;
    file.write_all_at(&header.write(), 0).context(what)?;
    file.sync_all().context(what)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).context(what)
}

/// Reads the map in a file.
fn load(file: &File, path: &Path, header: Header) -> Result<BlockMap> {
    let what = || format!("read {}", path.display());
    // What a failed sync before us may have left in the page cache has to go first.
    file.sync_all().context(what)?;
    let _hint = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let map = BlockMap::load(header, |at, bytes| file.read_exact_at(bytes, at).context(what));
    map.context(what)
}

/// Opens the file at `path`, or makes it `len` bytes long, as a restore would open its target; `what` it is, for words.
pub(in crate::exports) fn find(
    path: &Path,
    what: &str,
    len: u64,
    repository: Option<&Path>,
) -> Result<Found> {
    let what = || format!("open the {what} {}", path.display());
    let exists = path.try_exists().context(what)?;
    let size = if exists { 0 } else { len };
    let held = hold(path, &Wish { size, sector: None, force: false }, Guarded { source: None, repository })?;
    let file = held.file;
    if !file.metadata().context(what)?.is_file() {
        return Err(Error::new(Kind::Refused, format!("{}: it is no regular file", what())));
    }
    if matches!(rustix::fs::seek(&file, SeekFrom::Data(0)), Err(rustix::io::Errno::NXIO)) {
        return Ok(Found::Blank(file));
    }
    let mut bytes = vec![0; PAGE_LEN];
    let read = file.read_exact_at(&mut bytes, 0).map_err(|_| Unfit::Other);
    match read.and_then(|()| Header::parse(&bytes)) {
        Ok(header) => Ok(Found::Used(file, header)),
        Err(why) => Err(Error::new(Kind::Refused, format!("{}: {why}", what()))
            .hint("name a file that does not exist yet, or the one that was begun for this")),
    }
}

/// How long the file of an overlay on so many bytes is.
pub(in crate::exports) fn len_of_overlay(size: u64) -> Result<u64> {
    Ok(header_for(size, Vec::new())?.data_at + size)
}

fn header_for(size: u64, note: Vec<u8>) -> Result<Header> {
    let header = header_apart(size, note)?;
    let data_at = place_of(pages_of(size, header.block), 0).next_multiple_of(DATA_ALIGN);
    Ok(Header { data_at, ..header })
}

/// The header of a map whose data lies elsewhere, with a new id.
pub(in crate::exports) fn header_apart(size: u64, note: Vec<u8>) -> Result<Header> {
    let mut id = [0; 16];
    random(&mut id)?;
    let too_large = || {
        Error::new(
            Kind::Unsupported,
            format!("{size} bytes are too many to be written to: 256 TiB is the limit"),
        )
    };
    let block = block_for(size).ok_or_else(too_large)?;
    Ok(Header { id, size, block, data_at: 0, note })
}
