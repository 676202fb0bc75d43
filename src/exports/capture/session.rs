//! A connection of the client who has a capture: what it writes, and what that covers.

use super::cover::Cover;
use super::{Capture, lock};
use crate::exports::answer::{from_repository, to_the_end};
use crate::exports::layer::{Flags, Layer};
use afterimage_nbd::export::{Answer, Export, Extent, Info, Parts, Peer, Result as Served, Zeroing};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// One connection of the client who has the capture.
pub(super) struct Session {
    pub(super) capture: Arc<Capture>,
    pub(super) layer: Arc<Layer>,
    pub(super) cover: Arc<Mutex<Cover>>,
}

impl Session {
    /// A change, and what it covers once it is made.
    fn change(
        &self,
        range: Range<u64>,
        change: impl Future<Output = Served<()>> + Send + 'static,
    ) -> Answer<()> {
        self.capture.now().written = true;
        let (cover, under_way) = (Arc::clone(&self.cover), Arc::clone(&self.capture.changes));
        to_the_end(async move {
            change.await?;
            if !range.is_empty() {
                lock(&cover).add(range);
            }
            drop(under_way);
            Ok(())
        })
    }
}

impl Export for Session {
    fn info(&self) -> Info {
        self.capture.info.clone()
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        self.capture.leave(clean, &self.cover);
        Answer::ok(())
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.capture.traffic.read(len.into());
        self.layer.read(offset, len)
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Answer<()> {
        self.capture.traffic.wrote(data.len() as u64);
        let layer = Arc::clone(&self.layer);
        self.change(offset..offset + data.len() as u64, async move { layer.write(offset, data).await })
    }

    fn flush(&self) -> Answer<()> {
        // What is captured outlives nothing before it is a backup.
        self.capture.traffic.synced();
        Answer::ok(())
    }

    fn trim(&self, offset: u64, len: u64, _fua: bool) -> Answer<()> {
        self.zero(offset, len, Zeroing::default())
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        self.capture.traffic.zeroed(len);
        let layer = Arc::clone(&self.layer);
        self.change(offset..offset + len, async move { layer.zero(offset, len, how).await })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        let layer = Arc::clone(&self.layer);
        from_repository(async move { layer.status(offset..offset + len, one, Flags::of(context)).await })
    }
}
