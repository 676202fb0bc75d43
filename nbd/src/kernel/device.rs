//! One device, and what the kernel tells of it under `/sys/block`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often we look whether something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The kernel counts devices in 20 bits.
const INDEX_MAX: u32 = 1 << 20;

/// A device by its number: `/dev/nbd7` is `Device(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device(pub u32);

/// What is no name of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotADevice(String);

impl fmt::Display for NotADevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no NBD device (they are /dev/nbd0, /dev/nbd1, ...)", self.0)
    }
}

impl std::error::Error for NotADevice {}

impl FromStr for Device {
    type Err = NotADevice;

    /// Only the kernel's own names are read: what a link leads to may change.
    fn from_str(text: &str) -> Result<Device, NotADevice> {
        let number = text.strip_prefix("/dev/").unwrap_or(text).strip_prefix("nbd");
        let canonical = number.and_then(|text| Some((text, text.parse::<u32>().ok()?)));
        match canonical {
            Some((text, number)) if number < INDEX_MAX && text == number.to_string() => Ok(Device(number)),
            _ => Err(NotADevice(text.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/nbd{}", self.0)
    }
}

impl Device {
    /// Where it is opened.
    pub fn path(self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// The kernel's name for it.
    pub fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    /// Whether the kernel has such a device, with or without a server.
    pub fn exists(self) -> bool {
        self.sys("size").exists()
    }

    /// Bytes that it has now; none while it has no server.
    pub fn size(self) -> u64 {
        self.number("size").unwrap_or(0).saturating_mul(512)
    }

    /// Whether the kernel lets nobody write to it.
    pub fn is_read_only(self) -> bool {
        self.number("ro") == Some(1)
    }

    /// The process that attached it. There as long as the device has a server, also when that process has ended.
    pub fn attached_by(self) -> Option<u32> {
        self.number("pid").and_then(|pid| u32::try_from(pid).ok())
    }

    /// What was said to be behind it.
    pub fn identifier(self) -> Option<String> {
        self.attribute("backend")
    }

    /// Waits until it has that size and can be opened; false when that takes longer.
    pub fn wait_ready(self, size: u64, within: Duration) -> bool {
        wait(within, || self.size() == size && self.path().exists())
    }

    /// Waits until it has a server; false when that takes longer.
    pub fn wait_attached(self, within: Duration) -> bool {
        wait(within, || self.attached_by().is_some())
    }

    /// Waits until it has no server any more; false when that takes longer.
    pub fn wait_gone(self, within: Duration) -> bool {
        wait(within, || self.attached_by().is_none())
    }

    /// Keeps the kernel's requests below what the server takes. Those of most kernels are far below.
    pub fn limit_requests(self, bytes: u32) -> std::io::Result<()> {
        let kib = u64::from(bytes / 1024);
        match self.number("queue/max_sectors_kb") {
            Some(now) if now > kib => fs::write(self.sys("queue/max_sectors_kb"), kib.to_string()),
            _ => Ok(()),
        }
    }

    fn number(self, attribute: &str) -> Option<u64> {
        self.attribute(attribute)?.parse().ok()
    }

    fn attribute(self, name: &str) -> Option<String> {
        fs::read_to_string(self.sys(name)).ok().map(|text| text.trim().to_owned())
    }

    fn sys(self, attribute: &str) -> PathBuf {
        Path::new("/sys/block").join(self.name()).join(attribute)
    }
}

/// Whether the kernel has its NBD client, as a module or built in.
pub(super) fn module_is_there() -> bool {
    Path::new("/sys/module/nbd").exists() || Device(0).exists()
}

fn wait(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if done() {
            return true;
        }
        if began.elapsed() > within {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_the_kernel_names_them() {
        for (text, number) in [("/dev/nbd0", 0), ("nbd15", 15), ("/dev/nbd1048575", 1_048_575)] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device, Device(number));
            assert_eq!(device.to_string(), format!("/dev/nbd{number}"));
        }
        for wrong in [
            "/dev/nbd",
            "/dev/nbd0p1",
            "/dev/nbd01",
            "/dev/nbd+1",
            "/dev/sda",
            "0",
            "",
            "/tmp/nbd0",
            "/dev/nbd1048576",
        ] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_come_is_not_waited_for_longer_than_asked() {
        let never = Device(1_048_575);
        assert!(!never.exists() && never.attached_by().is_none() && never.size() == 0);
        assert!(!never.wait_ready(512, Duration::from_millis(20)));
        assert!(never.wait_gone(Duration::ZERO));
    }
}
