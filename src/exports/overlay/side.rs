//! The file beside a backup: a header, the map of what was written, and the data at the same distance from each other as in the image.
//!
//! ```text
//! file := header ( page page )* gap data          as `blockmap::page` has it; the data begins at a multiple of 64 KiB
//! ```
//!
//! A file that is kept is crash-safe once flushed: data, sync, pages, sync, answer. One that is not has no name from the moment it is there,
//! and its pages are never written.

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

/// The file and its map.
pub(super) struct Side {
    file: FileExport,
    durable: Durable,
    data_at: u64,
    kept: bool,
}

/// A file that is kept, before it is known whether it fits.
pub(super) enum Found {
    /// A new one, or one that nothing was ever written to.
    Blank(File),
    /// One with this header.
    Used(File, Header),
}

impl Side {
    /// A file without a name, gone with this process.
    pub(super) fn temporary(size: u64) -> Result<Side> {
        let dir = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let how = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let open = rustix::fs::open(&dir, how, Mode::RUSR | Mode::WUSR);
        let file: File = open.context(|| format!("make a file for an overlay in {}", dir.display()))?.into();
        let header = header_for(size, Vec::new())?;
        file.set_len(header.data_at + size).context(|| "make a file for an overlay")?;
        Side::over(file, BlockMap::new(header), false)
    }

    /// Begins a file that is kept.
    pub(super) fn begin(file: File, path: &Path, size: u64, note: Vec<u8>) -> Result<Side> {
        let what = || format!("begin the overlay {}", path.display());
        let header = header_for(size, note)?;
        file.set_len(header.data_at + size).context(what)?;
        file.write_all_at(&header.write(), 0).context(what)?;
        file.sync_all().context(what)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).context(what)?;
        Side::over(file, BlockMap::new(header), true)
    }

    /// Goes on with one.
    pub(super) fn resume(file: File, path: &Path, header: Header) -> Result<Side> {
        let what = || format!("read the overlay {}", path.display());
        let len = file.metadata().context(what)?.len();
        if header.data_at == 0 || len < header.data_at + header.size {
            let words = format!("{}: it has {len} bytes, too few for what its header says", what());
            return Err(Error::new(Kind::Corrupt, words));
        }
        // What a failed sync before us may have left in the page cache has to go first.
        file.sync_all().context(what)?;
        let _hint = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let map = BlockMap::load(header, |at, bytes| file.read_exact_at(bytes, at).context(what));
        Side::over(file, map.context(what)?, true)
    }

    fn over(file: File, map: BlockMap, kept: bool) -> Result<Side> {
        let data_at = map.header().data_at;
        let file = FileExport::new(file, false).context(|| "serve the file of an overlay")?;
        Ok(Side { file, durable: Durable::new(map), data_at, kept })
    }

    /// Whether what is flushed survives this process.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn map(&self) -> RwLockReadGuard<'_, BlockMap> {
        self.durable.map()
    }

    /// What the file holds of a range that is present.
    pub(super) fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.file.read(self.data_at + offset, len)
    }

    /// Writes whole blocks (the last one of the image may be short), or parts of blocks that are present.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Served<()> {
        let end = offset + data.len() as u64;
        self.file.write(self.data_at + offset, data, false).wait().await?;
        self.durable.set(offset..end, State::Present);
        Ok(())
    }

    /// Makes whole blocks zero.
    pub(super) async fn zero(&self, range: Range<u64>, provisioned: bool) -> Served<()> {
        let (at, len) = (self.data_at + range.start, range.end - range.start);
        if provisioned {
            let how = Zeroing { no_hole: true, ..Zeroing::default() };
            self.file.zero(at, len, how).wait().await?;
            self.durable.set(range, State::Present);
            return Ok(());
        }
        self.durable.set(range, State::Zero);
        // Only to give room back: the map says that it is zero.
        let how = Zeroing { fast: true, ..Zeroing::default() };
        drop(self.file.zero(at, len, how).wait().await);
        Ok(())
    }

    /// All that was written before is durable, if the file is kept. Has to be polled to its end.
    pub(super) async fn flush(&self) -> Served<()> {
        if self.kept { self.durable.flush(&self.file, &self.file).await } else { Ok(()) }
    }
}

/// Opens the file at `path`, or makes it, as a restore would open its target.
pub(super) fn find(path: &Path, size: u64, repository: Option<&Path>) -> Result<Found> {
    let what = || format!("open the overlay {}", path.display());
    let exists = path.try_exists().context(what)?;
    let header = header_for(size, Vec::new())?;
    let size = if exists { 0 } else { header.data_at + size };
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
            .hint("name a file that does not exist yet, or the one of an overlay")),
    }
}

fn header_for(size: u64, note: Vec<u8>) -> Result<Header> {
    let mut id = [0; 16];
    random(&mut id)?;
    let too_large = || {
        Error::new(
            Kind::Unsupported,
            format!("{size} bytes are too many for an overlay: 256 TiB is the limit"),
        )
    };
    let block = block_for(size).ok_or_else(too_large)?;
    let data_at = place_of(pages_of(size, block), 0).next_multiple_of(DATA_ALIGN);
    Ok(Header { id, size, block, data_at, note })
}
