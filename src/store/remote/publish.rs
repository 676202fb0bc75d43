//! New objects: created, and never put in the place of others, as far as the service knows how to.
//!
//! A name that is taken is compared: the same bytes are success, for a reply may have been lost, and others are refused.

use super::wire::Wants;
use super::{Door, Failed, Remote};
use crate::error::{Error, Kind, Result};
use crate::store::{Body, Name};
use opendal::{Buffer, Operator, options};
use std::sync::atomic::Ordering::Relaxed;

/// So many bytes of an object whose name was taken are compared at a time.
const COMPARE_LEN: u64 = 8 << 20;
/// What a service answers when it should create and the name is taken.
const TAKEN: u16 = 412;
/// What a service answers that does not know how to create only.
const NOT_KNOWN: u16 = 501;

impl Remote {
    pub(super) async fn publish(&self, name: &Name, body: Body) -> Result<()> {
        if !self.creates_only.load(Relaxed) {
            return self.publish_unguarded(name, &body).await;
        }
        match self.write(name, &body, true).await {
            Err(failed) if failed.status == TAKEN => match self.is_there(name, &body).await? {
                true => Ok(()),
                // Whoever has it has not shown it yet.
                false => Err(failed.error.as_kind(Kind::Busy)),
            },
            Err(failed) if failed.status == NOT_KNOWN => {
                self.creates_only.store(false, Relaxed);
                self.publish_unguarded(name, &body).await
            }
            written => Ok(written?),
        }
    }

    /// Where the service can't create only: a name that is taken is seen before, unless two writers come at the same moment.
    async fn publish_unguarded(&self, name: &Name, body: &Body) -> Result<()> {
        match self.is_there(name, body).await? {
            true => Ok(()),
            false => Ok(self.write(name, body, false).await?),
        }
    }

    async fn write(&self, name: &Name, body: &Body, create: bool) -> Result<(), Failed> {
        let doing = self.doing("put", name.as_str());
        let buffer = Buffer::from(body.parts.clone());
        let by_library = matches!(self.door, Door::S3(_));
        let wants = Wants { create_only: create && !by_library, ..Wants::default() };
        let write = |operator: Operator, _| {
            let (key, buffer) = (self.place.key(name.as_str()), buffer.clone());
            let options = options::WriteOptions { if_not_exists: create && by_library, ..Default::default() };
            async move { operator.write_options(&key, buffer, options).await }
        };
        self.ask(&doing, wants, write).await.map(drop)
    }

    /// Whether the name is taken by these very bytes; `Refused` if it is by others.
    async fn is_there(&self, name: &Name, body: &Body) -> Result<bool> {
        let stat = match self.look(name).await {
            Err(error) if error.kind() == Kind::Missing => return Ok(false),
            stat => stat?,
        };
        if stat.len == body.len() && self.holds(name, body).await? {
            return Ok(true);
        }
        let words = format!(
            "put {name} in {}: another object of that name is there, {} bytes long and not these {}",
            self.place,
            stat.len,
            body.len()
        );
        Err(Error::new(Kind::Refused, words))
    }

    async fn holds(&self, name: &Name, body: &Body) -> Result<bool> {
        let whole = Buffer::from(body.parts.clone());
        let len = body.len();
        let mut at = 0;
        while at < len {
            let end = (at + COMPARE_LEN).min(len);
            let there = self.read(name, at..end).await?;
            if !whole.slice(at as usize..end as usize).flat_map(|part| part.into_iter()).eq(there) {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }
}
