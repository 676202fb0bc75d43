//! The same client for threads that may block. None of these may be called on a worker of a runtime.
//!
//! The last one who lets go of it says goodbye to the server, and waits until that was heard.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{Client, Extent, Options, Pending, Result, Uri, Zeroing};

/// A [`Client`] with the runtime that its connections live on. Cheap to clone; threads share its connections.
#[derive(Clone)]
pub struct Blocking {
    /// There until it is dropped.
    client: Option<Arc<Client>>,
    runtime: Handle,
}

impl Blocking {
    /// Connects and agrees on the export.
    pub fn connect(runtime: &Handle, uri: &Uri, options: &Options) -> Result<Blocking> {
        let client = Some(Arc::new(runtime.block_on(Client::connect(uri, options))?));
        Ok(Blocking { client, runtime: runtime.clone() })
    }

    /// What was agreed on.
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until this is dropped")
    }

    /// Starts a read, as [`Client::start_read`]; wait for it with [`Pending::wait_blocking`].
    pub fn start_read(&self, offset: u64, buffer: Vec<u8>) -> Result<Pending> {
        self.client().start_read(offset, buffer)
    }

    /// Fills a buffer from `offset` on.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.runtime.block_on(self.client().read(offset, buffer.len()))?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// Starts a write, as [`Client::start_write`].
    pub fn start_write(&self, offset: u64, bytes: Bytes) -> Result<Pending> {
        self.client().start_write(offset, bytes, false)
    }

    /// Writes all of it.
    pub fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.runtime.block_on(self.client().write(offset, bytes, false))
    }

    /// Makes a range read as zeroes.
    pub fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.runtime.block_on(self.client().zero(offset, len, how))
    }

    /// Returns when everything that was answered before is durable.
    pub fn flush(&self) -> Result<()> {
        self.runtime.block_on(self.client().flush())
    }

    /// As [`Client::block_status`].
    pub fn block_status(&self, offset: u64, len: u64) -> Result<Vec<Vec<Extent>>> {
        self.runtime.block_on(self.client().block_status(offset, len))
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        // On a worker of a runtime nobody may wait; then the connections' own tasks say goodbye when they notice.
        if let Some(client) = self.client.take().and_then(Arc::into_inner)
            && Handle::try_current().is_err()
        {
            self.runtime.block_on(client.close());
        }
    }
}
