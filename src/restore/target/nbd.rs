//! An NBD export as a target: written deep, zeroed by its server, flushed before anything is called done.
//!
//! Writes are begun and not waited for, up to a budget; whatever fails is told to the next who writes, and at the latest by
//! the sync. No journal is kept: nobody can tell whether the same URI leads to the same bytes the next time, so a restore that
//! was interrupted begins again (`--differential` spares what is already there).

use super::facts::{Facts, Guarded, What};
use super::judge::{Verdict, Wish, judge};
use super::{Run, Target};
use crate::error::{Error, Kind, Result};
use crate::source::nbd::{error_of, identity, parse};
use afterimage_nbd::client::{self, Blocking, Extent, Options, Pending, Zeroing};
use afterimage_nbd::wire::state;
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;

/// Bytes of writes that are not answered yet.
const UNDER_WAY_MAX: usize = 32 << 20;
/// How far ahead the server is asked what is zero.
const STATUS_LEN: u64 = 1 << 30;
/// Zeroes are sent by so many at a time, where the server can't make them.
const ZEROES_LEN: usize = 1 << 20;

static ZEROES: [u8; ZEROES_LEN] = [0; ZEROES_LEN];

/// An export that may be written up to `size`.
pub struct NbdTarget {
    export: Blocking,
    uri: String,
    size: u64,
    /// Offsets and lengths of requests are multiples of this.
    block: u64,
    under_way: Mutex<UnderWay>,
    /// One of the writes under way was answered.
    answered: Condvar,
    /// What the server said of a stretch. True of what was not written since; what was, nobody asks about before a sync forgets it.
    known: Mutex<Option<(u64, Vec<Extent>)>>,
    /// Blocks of which only a part is written are read and written by one thread at a time.
    edges: Mutex<()>,
    /// The first failure: what the export holds is unknown from then on.
    failed: OnceLock<Error>,
}

#[derive(Default)]
struct UnderWay {
    writes: VecDeque<(usize, Pending)>,
    bytes: usize,
}

/// Connects to the export that the user named and judges it. Nothing is written before that. Not to be called on a worker of
/// the runtime.
pub fn open(runtime: &Handle, text: &str, wish: &Wish, guarded: Guarded<'_>) -> Result<(NbdTarget, Verdict)> {
    let uri = parse(text, &[])?;
    let opened = Blocking::connect(runtime, &uri, &Options::default());
    let export = opened.map_err(|why| Error::new(error_of(&why).kind(), format!("open the target {why}")))?;
    let client = export.client();
    if client.is_read_only() {
        let words = format!("restore onto {uri}: the export is read-only");
        return Err(Error::new(Kind::Refused, words).hint("have its server offer it writable"));
    }
    let facts = Facts {
        path: text.into(),
        real: text.into(),
        what: What::Block,
        size: client.size(),
        is_source: guarded.source == Some(&identity(&uri)),
        ..Facts::default()
    };
    let mut verdict = judge(&facts, wish).map_err(|refusal| refusal.into_error(Path::new(text)))?;
    if !client.can_flush() {
        verdict.notes.push("its server can't flush: when the bytes are on the medium is up to it".into());
    }
    let (size, block, uri) = (wish.size, u64::from(client.block_min()), uri.to_string());
    let (under_way, answered, known, edges, failed) = Default::default();
    Ok((NbdTarget { export, uri, size, block, under_way, answered, known, edges, failed }, verdict))
}

/// A thread that panicked with the lock left whole entries behind.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NbdTarget {
    /// Notes a failure for all who come, and gives it to this one.
    fn fail(&self, doing: &str, why: &client::Error) -> Error {
        let error = Error::new(Kind::Target, format!("{doing} {why}"));
        self.failed.get_or_init(|| error).clone()
    }

    fn check(&self) -> Result<()> {
        let Some(first) = self.failed.get() else { return Ok(()) };
        Err(first.clone())
    }

    /// Nothing outside of what was judged is ever written.
    fn within(&self, doing: &str, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => {
                let words = format!(
                    "{doing} {} at offset {offset}: {len} bytes reach past the image's end, {}",
                    self.uri, self.size
                );
                Err(Error::new(Kind::Target, words))
            }
        }
    }

    /// Begins a write of whole blocks, once there is room among those under way.
    fn begin(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let len = bytes.len();
        self.settle(UNDER_WAY_MAX.saturating_sub(len))?;
        let write = self.export.start_write(offset, bytes).map_err(|why| self.fail("write", &why))?;
        let mut under_way = locked(&self.under_way);
        under_way.bytes += len;
        under_way.writes.push_back((len, write));
        Ok(())
    }

    /// Waits until no more than so many bytes are under way.
    fn settle(&self, allowed: usize) -> Result<()> {
        let mut under_way = locked(&self.under_way);
        while under_way.bytes > allowed {
            let Some((len, write)) = under_way.writes.pop_front() else {
                // Other threads wait for the rest; it counts until they have heard.
                under_way = self.answered.wait(under_way).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(under_way);
            let heard = write.wait_blocking().map_err(|why| self.fail("write", &why));
            under_way = locked(&self.under_way);
            under_way.bytes -= len;
            self.answered.notify_all();
            let _nothing = heard?;
        }
        self.check()
    }

    /// Writes any range: whole blocks as they are, parts of blocks by reading the rest of the block first.
    fn write_any(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        let first = offset.next_multiple_of(self.block).min(end);
        let last = (end - end % self.block).max(first);
        let part = |from: u64, to: u64| &bytes[(from - offset) as usize..(to - offset) as usize];
        if offset < first {
            self.patch(offset, part(offset, first))?;
        }
        let step = self.export.client().request_max() as u64;
        let mut at = first;
        while at < last {
            let next = last.min(at + step);
            self.begin(at, Bytes::copy_from_slice(part(at, next)))?;
            at = next;
        }
        if last < end {
            self.patch(last, part(last, end))?;
        }
        Ok(())
    }

    /// Writes a part of one block.
    fn patch(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _turn = locked(&self.edges);
        let start = offset - offset % self.block;
        let end = (start + self.block).min(self.export.client().size());
        let mut whole = vec![0; (end - start) as usize];
        self.export.read_at(start, &mut whole).map_err(|why| self.fail("read", &why))?;
        let at = (offset - start) as usize;
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        self.export.write(start, whole.into()).map_err(|why| self.fail("write", &why))
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let mut at = 0;
        while at < len {
            let step = (len - at).min(ZEROES_LEN as u64);
            self.write_any(offset + at, &ZEROES[..step as usize])?;
            at += step;
        }
        Ok(())
    }
}

impl Target for NbdTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check()?;
        self.within("write", offset, bytes.len() as u64)?;
        self.write_any(offset, bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.check()?;
        self.within("zero", offset, len)?;
        let end = offset + len;
        let (first, last) = (offset.next_multiple_of(self.block), end - end % self.block);
        if !self.export.client().can_zero() || first >= last {
            return self.write_zeroes(offset, len);
        }
        self.write_zeroes(offset, first - offset)?;
        // A hole is as good: the next restore, and whoever reads, has less to do.
        self.export.zero(first, last - first, Zeroing::default()).map_err(|why| self.fail("zero", &why))?;
        self.write_zeroes(last, end - last)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.within("read", offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        let first = offset - offset % self.block;
        let last = end.next_multiple_of(self.block).min(self.export.client().size());
        let failed = |why: client::Error| Error::new(Kind::Target, format!("read back {why}"));
        if (first, last) == (offset, end) {
            return self.export.read_at(offset, buf).map_err(failed);
        }
        let mut whole = vec![0; (last - first) as usize];
        self.export.read_at(first, &mut whole).map_err(failed)?;
        let at = (offset - first) as usize;
        buf.copy_from_slice(&whole[at..at + buf.len()]);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        self.within("find holes of", offset, 1)?;
        let rest = self.size - offset;
        if self.export.client().context(state::BASE_ALLOCATION).is_none() {
            return Ok(Run::Data(rest));
        }
        let mut known = locked(&self.known);
        if let Some(run) = known.as_ref().and_then(|(from, extents)| run_in(*from, extents, offset)) {
            return Ok(limited(run, rest));
        }
        let from = offset - offset % self.block;
        let len = (self.export.client().size() - from).min(STATUS_LEN);
        let answer = self.export.block_status(from, len);
        let answer = answer.map_err(|why| Error::new(Kind::Target, format!("find holes of {why}")))?;
        let extents = answer.into_iter().next().unwrap_or_default();
        let run = run_in(from, &extents, offset).unwrap_or(Run::Data(1));
        *known = Some((from, extents));
        Ok(limited(run, rest))
    }

    fn sync(&self) -> Result<()> {
        self.check()?;
        self.settle(0)?;
        *locked(&self.known) = None;
        self.export.flush().map_err(|why| self.fail("sync", &why))
    }

    /// What the server keeps in its own memory only it can drop.
    fn drop_cache(&self) -> Result<()> {
        self.sync()
    }

    fn finish(&self) -> Result<()> {
        self.sync()
    }
}

/// What extents that begin at `from` say of the bytes from `offset` on, neighbours of the same kind taken together.
fn run_in(from: u64, extents: &[Extent], offset: u64) -> Option<Run> {
    let (mut at, mut run) = (from, None);
    for extent in extents {
        let end = at + extent.len;
        if end > offset && at.max(offset) < end {
            let zero = extent.flags & state::ZERO != 0;
            let len = end - at.max(offset);
            run = match run {
                None if offset < at => return None,
                None if zero => Some(Run::Zero(len)),
                None => Some(Run::Data(len)),
                Some(Run::Zero(so_far)) if zero => Some(Run::Zero(so_far + len)),
                Some(Run::Data(so_far)) if !zero => Some(Run::Data(so_far + len)),
                ended => return ended,
            };
        }
        at = end;
    }
    run
}

fn limited(run: Run, rest: u64) -> Run {
    match run {
        Run::Data(len) => Run::Data(len.min(rest)),
        Run::Zero(len) => Run::Zero(len.min(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_only_what_the_server_calls_zero_is_zero() {
        let extent = |len, flags| Extent { len, flags };
        let extents = [
            extent(10, 0),
            extent(5, state::ZERO),
            extent(5, state::ZERO | state::HOLE),
            extent(9, state::HOLE),
        ];
        assert_eq!(run_in(100, &extents, 99), None);
        assert_eq!(run_in(100, &extents, 103), Some(Run::Data(7)));
        assert_eq!(run_in(100, &extents, 112), Some(Run::Zero(8)));
        assert_eq!(run_in(100, &extents, 120), Some(Run::Data(9)));
        assert_eq!(run_in(100, &extents, 129), None);
        assert_eq!(limited(Run::Zero(8), 3), Run::Zero(3));
    }
}
