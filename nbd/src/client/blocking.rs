//! The same client for threads that may block. None of these may be called on a worker of a runtime.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{Client, Extent, Options, Pending, Result, Uri, Zeroing};

/// A [`Client`] with the runtime that its connections live on. Cheap to clone; threads share its connections.
#[derive(Clone)]
pub struct Blocking {
    client: Arc<Client>,
    runtime: Handle,
}

impl Blocking {
    /// Connects and agrees on the export.
    pub fn connect(runtime: &Handle, uri: &Uri, options: &Options) -> Result<Blocking> {
        let client = Arc::new(runtime.block_on(Client::connect(uri, options))?);
        Ok(Blocking { client, runtime: runtime.clone() })
    }

    /// What was agreed on.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Starts a read, as [`Client::start_read`]; wait for it with [`Pending::wait_blocking`].
    pub fn start_read(&self, offset: u64, buffer: Vec<u8>) -> Result<Pending> {
        self.client.start_read(offset, buffer)
    }

    /// Fills a buffer from `offset` on.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.runtime.block_on(self.client.read(offset, buffer.len()))?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// Writes all of it.
    pub fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.runtime.block_on(self.client.write(offset, bytes, false))
    }

    /// Makes a range read as zeroes.
    pub fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.runtime.block_on(self.client.zero(offset, len, how))
    }

    /// Returns when everything that was answered before is durable.
    pub fn flush(&self) -> Result<()> {
        self.runtime.block_on(self.client.flush())
    }

    /// As [`Client::block_status`].
    pub fn block_status(&self, offset: u64, len: u64) -> Result<Vec<Vec<Extent>>> {
        self.runtime.block_on(self.client.block_status(offset, len))
    }

    /// Says goodbye, if this is the last one who holds it.
    pub fn close(self) {
        if let Some(client) = Arc::into_inner(self.client) {
            self.runtime.block_on(client.close());
        }
    }
}
