//! A block device as a source: a fixed size, sectors, a number, and perhaps a model and a serial number.
//!
//! Everything on it is data. What writers had still in memory when it was opened is flushed first, so that sectors written later, which
//! the kernel counts per device, tell whether it `changed` while it was read.

use super::disks::Beneath;
use super::machine::{Machine, identity, stands_for};
use super::span::Span;
use super::{Facts, Piece, Source};
use crate::error::{Context, Result};
use rustix::fs::{SeekFrom, Statx};
use std::fs::File;

/// A block device that is being read.
#[derive(Debug)]
pub struct DeviceSource {
    span: Span,
    facts: Facts,
    machine: Machine,
    kernel_name: Option<String>,
    written_before: Option<Written>,
    changed: bool,
}

impl DeviceSource {
    /// Reads an open device; `stat` is its own.
    pub(super) fn new(name: &str, file: File, stat: &Statx, machine: Machine) -> Result<DeviceSource> {
        let size = size_of(&file).context(|| format!("ask {name} for its size"))?;
        let sector =
            rustix::fs::ioctl_blksszget(&file).context(|| format!("ask {name} for its sector size"))?;
        let kernel_name = machine.name_of(stands_for(stat))?;
        let facts = Facts {
            kind: "block".into(),
            name: name.into(),
            size: Some(size),
            sector: Some(sector),
            identity: Some(identity(stat)),
            disks: Beneath::file(&machine, stat)?.disks.into_iter().collect(),
            model: kernel_name.as_deref().map(|name| model(&machine, name)).transpose()?.flatten(),
        };
        // A device that can't flush will tell when it is read.
        let _ = rustix::fs::fsync(&file);
        let written_before = written(&machine, kernel_name.as_deref())?;
        Ok(DeviceSource {
            span: Span::new(name, file, size),
            facts,
            machine,
            kernel_name,
            written_before,
            changed: false,
        })
    }
}

impl Source for DeviceSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        self.span.next(at, buf)
    }

    fn finish(&mut self) -> Result<()> {
        self.changed = written(&self.machine, self.kernel_name.as_deref())? != self.written_before;
        let now =
            size_of(&self.span.file).context(|| format!("ask {} for its size again", self.facts.name))?;
        self.span.check_size(now)
    }

    fn changed(&self) -> bool {
        self.changed
    }
}

/// The size of an open block device in bytes.
pub fn size_of(file: &File) -> rustix::io::Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0))
}

/// Maker, model and serial number of the disk that this is or is a part of.
fn model(machine: &Machine, name: &str) -> Result<Option<String>> {
    let disk = machine.disk_of_partition(name)?.unwrap_or_else(|| name.to_owned());
    let mut words = Vec::new();
    for attribute in ["device/vendor", "device/model", "device/serial", "serial", "dm/name", "dm/uuid"] {
        // Virtual disks have a vendor that is a number and says nothing.
        let word = machine.attribute(&disk, attribute)?.filter(|word| !word.starts_with("0x"));
        words.extend(word.filter(|word| !words.contains(word)));
    }
    Ok((!words.is_empty()).then(|| words.join(" ")))
}

/// Sectors written and discarded so far.
#[derive(Debug, PartialEq, Eq)]
struct Written([Option<u64>; 2]);

fn written(machine: &Machine, name: Option<&str>) -> Result<Option<Written>> {
    let counters = name.map(|name| machine.attribute(name, "stat")).transpose()?.flatten();
    Ok(counters.map(|counters| {
        let nth = |at| counters.split_whitespace().nth(at).and_then(|word: &str| word.parse().ok());
        Written([nth(6), nth(13)])
    }))
}
