//! What was written to a layer, as the source of a backup whose parent is what it lies on: only what was written is read.

use crate::error::{Error, Kind, Result};
use crate::exports::blockmap::State;
use crate::exports::layer::Layer;
use crate::source::{Facts, Piece, Source};
use afterimage_nbd::export::Part;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes of one read.
const READ_LEN: usize = 1 << 20;

/// A layer that nobody writes to while it is read.
pub(in crate::exports) struct LayerSource {
    layer: Arc<Layer>,
    runtime: Handle,
    facts: Facts,
    size: u64,
    /// So many bytes at the beginning are the parent's where they were not written.
    parent: u64,
}

impl LayerSource {
    pub(in crate::exports) fn new(layer: Arc<Layer>, runtime: Handle, name: &str, size: u64) -> LayerSource {
        let parent = layer.below().image().map_or(0, |image| image.image().len()).min(size);
        let facts = Facts { kind: "capture".into(), name: name.into(), size: Some(size), ..Facts::default() };
        LayerSource { layer, runtime, facts, size, parent }
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let parts = self.runtime.block_on(self.layer.side().read(at, len).wait());
        let parts = parts.map_err(|why| {
            Error::new(
                Kind::Source,
                format!("read what was written to {} at byte {at}: {why}", self.facts.name),
            )
        })?;
        let mut filled = 0;
        for part in parts.as_slice() {
            let into = &mut buf[filled..filled + part.len()];
            match part {
                Part::Data(bytes) => into.copy_from_slice(bytes),
                Part::Hole(_) => into.fill(0),
            }
            filled += part.len();
        }
        Ok(())
    }
}

impl Source for LayerSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at >= self.size {
            return Ok(Piece::End);
        }
        let (state, until) = self.layer.side().map().run(at, self.size);
        Ok(match state {
            State::Zero => Piece::Hole(until - at),
            State::Base if at < self.parent => Piece::Same(until.min(self.parent) - at),
            State::Base => Piece::Hole(until - at),
            State::Present => {
                let len = usize::try_from(until - at).unwrap_or(READ_LEN).min(READ_LEN).min(buf.len());
                self.read(at, &mut buf[..len])?;
                Piece::Data(len)
            }
        })
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
