//! The kernel's own NBD client: an export as a block device, `/dev/nbdN`.
//!
//! ```text
//! Handover (sockets, size, flags) -> Kernel::connect -> the kernel sends requests on those sockets -> Kernel::disconnect
//! ```
//!
//! `message` is what is said to the kernel, byte for byte; `socket` says it; [`device`] is what the kernel tells of a device in `/sys`;
//! [`local`] serves an export of this process. With the feature `ioctl` there is `ioctl`, for kernels without netlink for NBD, read-only.
//!
//! Holds: a device is never given more connections than its server promised to keep alike, and is read-only where the export is. Nothing that
//! answers in the kernel's place makes this panic or wait for ever. Root only, as the kernel has it.

pub mod device;
mod error;
#[cfg(feature = "ioctl")]
pub mod ioctl;
pub mod local;
pub(crate) mod message;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::client::Handover;
use crate::wire::flag;
pub use device::Device;
pub use error::{Error, Kind, Result};
use message::{Ask, BACKEND_IDENTIFIER, CONTROL, Heard, Wiring};
use socket::Line;

const FAMILY: &str = "nbd";
/// The kernel shows an identifier in one line of `/sys`.
const IDENTIFIER_MAX: usize = 256;

/// How a device shall be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which one; the first that is free, or a new one, unless given.
    pub device: Option<Device>,
    /// Bytes of a logical block: 512 to 4096, a power of two.
    pub block_size: u32,
    /// Read-only even where the export is not.
    pub read_only: bool,
    /// After which a request counts as lost: with other connections it is sent again on one of them, without it fails. Zero: never.
    pub timeout: Duration,
    /// How long requests wait for new connections when all are lost, before they fail.
    pub dead_time: Duration,
    /// What the kernel shall say is behind the device (Linux 5.14; others aren't told).
    pub identifier: String,
}

impl Wish {
    /// Whether a device of such blocks can be made of this export.
    pub fn judge(&self, handover: &Handover) -> Result<()> {
        let Wish { block_size, .. } = self;
        if !block_size.is_power_of_two() || !(512..=4096).contains(block_size) {
            let words = format!("blocks of {block_size} bytes: the kernel takes 512, 1024, 2048 and 4096");
            return Err(Error::new(Kind::Usage, words));
        }
        if handover.block_min > *block_size {
            let words = format!("the server wants multiples of {} bytes", handover.block_min);
            return Err(Error::new(Kind::Usage, format!("blocks of {block_size} bytes: {words}")));
        }
        if handover.size < u64::from(*block_size) {
            let words = format!("the export has {} bytes, less than one block", handover.size);
            return Err(Error::new(Kind::Usage, words));
        }
        Ok(())
    }

    /// What the kernel makes of a size: whole blocks.
    pub fn size_of(&self, handover: &Handover) -> u64 {
        handover.size - handover.size % u64::from(self.block_size.max(1))
    }
}

/// The kernel's NBD client.
#[derive(Debug)]
pub struct Kernel {
    line: Line,
    family: u16,
    last_attribute: u32,
}

impl Kernel {
    /// Finds it. Without the module, without its netlink, or without the right to use it: an error that says which.
    pub fn open() -> Result<Kernel> {
        let doing = "ask the kernel for its NBD client";
        let line = Line::to_kernel().map_err(|why| Error::of(doing, &why))?;
        let found = Kernel::on(line).map_err(|why| match why.kind() {
            Kind::NoNetlink if !device::module_is_there() => Error::no_module(),
            _ => why,
        });
        // The kernel would say so in the end, after all that is made ready for it.
        let may = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        match found {
            Ok(_) if !may => {
                Err(Error::new(Kind::Denied, "devices are root's to make and to end (CAP_SYS_ADMIN)"))
            }
            found => found,
        }
    }

    fn on(mut line: Line) -> Result<Kernel> {
        let doing = "ask the kernel for its NBD client";
        let heard = line.ask(CONTROL, &Ask::Family(FAMILY)).map_err(|why| match why.raw_os_error() {
            Some(number) if number == rustix::io::Errno::NOENT.raw_os_error() => Error::no_netlink(),
            _ => Error::of(doing, &why),
        })?;
        let family = heard.into_iter().find_map(|said| match said {
            Heard::Family { id, last_attribute } => Some((id, last_attribute)),
            _ => None,
        });
        let (family, last_attribute) =
            family.ok_or_else(|| Error::new(Kind::Failed, format!("{doing}: it did not say")))?;
        Ok(Kernel { line, family, last_attribute })
    }

    /// Makes a device of connections that were agreed on. They are the kernel's from here on.
    pub fn connect(&mut self, handover: &Handover, wish: &Wish) -> Result<Device> {
        wish.judge(handover)?;
        let read_only = if wish.read_only { flag::READ_ONLY } else { 0 };
        let wiring = Wiring {
            index: wish.device.map(|device| device.0),
            size: Some(wish.size_of(handover)),
            block_size: Some(wish.block_size.into()),
            timeout: Some(seconds(wish.timeout)).filter(|seconds| *seconds > 0),
            dead_time: Some(seconds(wish.dead_time)),
            server_flags: Some((handover.flags | read_only).into()),
            client_flags: None,
            sockets: numbers(&handover.sockets),
            identifier: self.identifier(&wish.identifier),
        };
        let doing = match wish.device {
            Some(device) => format!("attach {device}"),
            None => "attach a device".to_owned(),
        };
        let heard =
            self.line.ask(self.family, &Ask::Connect(wiring)).map_err(|why| Error::of(&doing, &why))?;
        let made = heard.into_iter().find_map(|said| match said {
            Heard::Connected(index) => Some(Device(index)),
            _ => None,
        });
        // A kernel that does as it is told need not say which.
        made.or(wish.device)
            .ok_or_else(|| Error::new(Kind::Failed, format!("{doing}: the kernel did not say which")))
    }

    /// Gives a device that lost connections new ones. They have to lead to the same export.
    pub fn reconnect(&mut self, device: Device, handover: &Handover, wish: &Wish) -> Result<()> {
        let wiring = Wiring {
            index: Some(device.0),
            sockets: numbers(&handover.sockets),
            identifier: self.identifier(&wish.identifier),
            ..Wiring::default()
        };
        let asked = self.line.ask(self.family, &Ask::Reconfigure(wiring));
        asked.map(drop).map_err(|why| Error::of(&format!("give {device} new connections"), &why))
    }

    /// Has a device say goodbye to its server and let go of it. Requests under way fail: look whether it is used, and flush it, before.
    pub fn disconnect(&mut self, device: Device) -> Result<()> {
        let asked = self.line.ask(self.family, &Ask::Disconnect(device.0));
        asked.map(drop).map_err(|why| Error::of(&format!("detach {device}"), &why))
    }

    /// Whether a device has a server.
    pub fn is_connected(&mut self, device: Device) -> Result<bool> {
        let asked = self.line.ask(self.family, &Ask::Status(device.0));
        let heard = asked.map_err(|why| Error::of(&format!("ask about {device}"), &why))?;
        let listed = heard.into_iter().filter_map(|said| match said {
            Heard::Devices(devices) => Some(devices),
            _ => None,
        });
        Ok(listed.flatten().any(|(index, connected)| index == device.0 && connected))
    }

    /// Whether this kernel keeps what is said to be behind a device.
    pub fn knows_identifiers(&self) -> bool {
        self.last_attribute >= u32::from(BACKEND_IDENTIFIER)
    }

    fn identifier<'a>(&self, words: &'a str) -> Option<&'a str> {
        let known = self.knows_identifiers() && !words.is_empty();
        let end = (0..=words.len().min(IDENTIFIER_MAX)).rev().find(|end| words.is_char_boundary(*end));
        known.then(|| &words[..end.unwrap_or(0)])
    }
}

/// Parts of a second are rounded up: zero means never.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn numbers(sockets: &[OwnedFd]) -> Vec<u32> {
    sockets.iter().filter_map(|socket| u32::try_from(socket.as_raw_fd()).ok()).collect()
}
