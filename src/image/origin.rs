//! What an image needs of whoever knows how to read what another program wrote.
//!
//! Such an image is cut at fixed offsets into chunks, as ours are. Each has an id, which stands for its content, and is all that the cache and
//! those who compare know of it; a chunk of zeros has none. Everything that is handed over was proven: that is what [`Verified`] says.

use crate::error::Result;
use crate::format::ChunkId;
use crate::seal::Verified;
use crate::store::Fut;
use std::ops::Range;

/// An image that another program wrote.
pub trait Origin: Send + Sync + 'static {
    /// Its size in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands for its content: equal only for equal content.
    fn id(&self) -> ChunkId;

    /// The length of its chunks; the last one may be shorter. Never 0.
    fn chunk_len(&self) -> u64;

    /// The ids of some chunks, by their numbers, if they are in memory; none for zeros. Never waits.
    fn chunks_now(&self, numbers: Range<u64>) -> Option<Vec<Option<ChunkId>>>;

    /// The ids of some chunks.
    fn chunks<'a>(&'a self, numbers: Range<u64>) -> Fut<'a, Vec<Option<ChunkId>>>;

    /// What stands at an offset, no further than `limit`: zeros as far as they go, or data that is read in one go.
    fn run<'a>(&'a self, offset: u64, limit: u64) -> Fut<'a, Run>;

    /// Reads neighbouring chunks, of which none is zeros, and answers for each. Takes its time: for threads that may wait.
    fn fetch(&self, numbers: Range<u64>) -> Vec<Result<Verified>>;

    /// Fills a buffer with what stands at an offset, proven; calls `free` as soon as whoever comes next in the stream can go on. The same.
    fn fill(&self, offset: u64, into: &mut [u8], free: &dyn Fn()) -> Result<()>;

    /// Whether these bytes are those of a chunk with this id, as far as ids tell.
    fn is_chunk(&self, id: ChunkId, bytes: &[u8]) -> bool;

    /// Ranges outside of which this image holds what the image with that id holds, if that is known without comparing.
    fn changed_since<'a>(&'a self, other: ChunkId) -> Fut<'a, Option<Vec<Range<u64>>>>;

    /// In which stream a chunk is read after others of it, if it is: streams side by side keep several cores busy.
    fn stream_of(&self, offset: u64) -> Option<u64>;
}

/// A run of such an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which bytes.
    pub range: Range<u64>,
    /// Whether anything is stored of it.
    pub data: bool,
    /// The stream in which it can be read only when what stands before it was: two runs of one stream have to wait for each other.
    pub stream: Option<u64>,
}
