//! A source over a parent that lies in another repository: what is the same there is read from there, because nothing of it can be taken over.

use crate::error::{Context, Error, Kind, Result};
use crate::image::{Image, join};
use crate::source::{Facts, Piece, Source};
use tokio::runtime::Handle;

/// A source that never says "the same".
pub(super) struct Over {
    source: Box<dyn Source>,
    parent: Image,
    runtime: Handle,
}

impl Over {
    pub(super) fn new(source: Box<dyn Source>, parent: Image, runtime: Handle) -> Over {
        Over { source, parent, runtime }
    }

    fn parents(&self, at: u64, len: u64, buf: &mut [u8]) -> Result<Piece> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.parent.len()) else {
            let words = format!("the source calls byte {at} unchanged, but its parent ends before");
            return Err(Error::new(Kind::Source, words));
        };
        let extent = self.runtime.block_on(self.parent.extent(at, end))?;
        let here = extent.range.end - at;
        if !extent.data {
            return Ok(Piece::Hole(here));
        }
        let step = usize::try_from(here).unwrap_or(usize::MAX).min(buf.len());
        let bytes = self.runtime.block_on(self.parent.read_aside(at, step)).map(join)?;
        buf[..step].copy_from_slice(&bytes);
        Ok(Piece::Data(step))
    }
}

impl Source for Over {
    fn facts(&self) -> &Facts {
        self.source.facts()
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        match self.source.next(at, buf)? {
            Piece::Same(len) => {
                self.parents(at, len, buf).context(|| "read unchanged bytes from the parent's home")
            }
            piece => Ok(piece),
        }
    }

    fn judge_parent(&self, before: Option<&Facts>) -> Result<()> {
        self.source.judge_parent(before)
    }

    fn finish(&mut self) -> Result<()> {
        self.source.finish()
    }

    fn changed(&self) -> bool {
        self.source.changed()
    }
}
