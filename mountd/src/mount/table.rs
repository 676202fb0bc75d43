//! The kernel's table of mounts: lines of `/proc/self/mountinfo` -> what is mounted where.
//!
//! Reading it asks no file system anything, so a dead or hanging mount does not hold it up.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The number of a mounted file system's device: nobody else's for as long as it is mounted, and perhaps the next one's after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) device: Device,
    pub(crate) at: PathBuf,
    /// The type, as `fuse.sshfs`.
    pub(crate) kind: String,
}

/// What is mounted at a path and not hidden by another mount there.
pub(crate) fn topmost(at: &Path) -> io::Result<Option<Entry>> {
    Ok(stack(at)?.pop())
}

/// What is mounted at a path, each hiding those before it.
pub(crate) fn stack(at: &Path) -> io::Result<Vec<Entry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).filter(|entry| entry.at == at).collect())
}

/// One line: `36 35 98:0 /root /at options [tag:value ...] - type source super-options`.
fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = device(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let at = PathBuf::from(OsString::from_vec(plain(fields.nth(1)?)));
    let mut after = fields.skip_while(|field| *field != b"-");
    let kind = String::from_utf8_lossy(after.nth(1)?).into_owned();
    Some(Entry { device, at, kind })
}

/// For fuzzers: a table of any bytes.
pub(crate) fn fuzz(bytes: &[u8]) {
    for entry in bytes.split(|byte| *byte == b'\n').filter_map(parse) {
        assert!(entry.at.as_os_str().len() <= bytes.len() && !shown(&entry.at).contains(char::is_control));
    }
}

fn device(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits behind a backslash.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match (first, after.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// How messages show a path: what would garble a terminal is escaped.
pub(crate) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_a_line_tells_device_place_and_kind() {
        let line = br"512 29 0:61 / /mnt/a\040b\134 ro,nosuid shared:7 master:1 - fuse.afterimage my\040source ro,user_id=0";
        let device = Device { major: 0, minor: 61 };
        let expected = Entry { device, at: r"/mnt/a b\".into(), kind: "fuse.afterimage".into() };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(device.to_string(), "0:61");
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in ["", "1 2 3", "1 2 x:y / /a o - t s o", "1 2 0:1 / /a o", "1 2 0:1 / /a o -"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_root_is_mounted_and_a_plain_file_is_not() {
        assert!(topmost(Path::new("/")).expect("a table").is_some());
        assert_eq!(topmost(Path::new("/etc/passwd")).expect("a table"), None);
    }
}
