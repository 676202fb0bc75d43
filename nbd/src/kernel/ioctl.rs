//! The kernel's older interface, by the crate `nbd-async`: for kernels whose NBD client knows no netlink.
//!
//! Read-only exports over one connection, and nothing else: that crate tells the kernel of no FLUSH, so what is written and synced there
//! would be durable nowhere. It also fixes the kernel's patience at 10 s for a request. The device is there as long as the [`Attached`] is,
//! and so is the process that has it.
//!
//! Holds: an export that can be written is refused, unless it is wished read-only; a panic of that crate when it is dropped (it has one for
//! a device that somebody else took meanwhile) is an error in the log and no more.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Device, Error, Kind, Result, Wish};
use crate::client::Handover;

/// Starting takes the kernel no time; a device that isn't there by then was taken by somebody else.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// A device that is attached. Dropped, it is detached.
pub struct Attached {
    held: Option<Box<dyn Any + Send>>,
    device: Device,
}

impl Attached {
    /// Which one it is.
    pub fn device(&self) -> Device {
        self.device
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let held = self.held.take();
        if catch_unwind(AssertUnwindSafe(|| drop(held))).is_err() {
            tracing::warn!("{} did not end as it should", self.device);
        }
    }
}

/// Makes a device of the first of these connections.
pub async fn attach(handover: &Handover, wish: &Wish) -> Result<Attached> {
    wish.judge(handover)?;
    if !handover.is_read_only() && !wish.read_only {
        let words = "this kernel's nbd module knows no netlink, and without it what is written could not be flushed (attach it read-only)";
        return Err(Error::new(Kind::NoNetlink, words));
    }
    let device = match wish.device {
        Some(device) if device.attached_by().is_some() => {
            return Err(Error::new(Kind::Busy, format!("attach {device}: it is attached (detach it first)")));
        }
        Some(device) => device,
        None => free()?,
    };
    let doing = format!("attach {device}");
    let (size, block_size) = (wish.size_of(handover), wish.block_size);
    let socket = handover.sockets.first().map(OwnedFd::try_clone).transpose();
    let socket = socket.map_err(|why| Error::of(&doing, &why))?;
    let socket = socket.ok_or_else(|| Error::new(Kind::Usage, format!("{doing}: no connection")))?;
    let blocks = size / u64::from(block_size);
    let held = nbd_async::attach_device(device.path(), socket, block_size, blocks, true).await;
    let held = held.map_err(|why| Error::of(&doing, &why))?;
    let attached = Attached { held: Some(Box::new(held)), device };
    let began = tokio::task::spawn_blocking(move || device.wait_attached(STARTS_WITHIN)).await;
    if began.unwrap_or(false) {
        return Ok(attached);
    }
    Err(Error::new(Kind::Failed, format!("{doing}: the kernel did not begin (it says more: dmesg)")))
}

/// The first device without a server.
fn free() -> Result<Device> {
    let all = (0..).map(Device).take_while(|device| device.exists());
    let mut free = all.filter(|device| device.attached_by().is_none());
    free.next().ok_or_else(|| {
        Error::new(Kind::Busy, "attach a device: all are attached (more: modprobe nbd nbds_max=64)")
    })
}
