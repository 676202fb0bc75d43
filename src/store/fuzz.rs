//! One door for fuzzers per parser of places, of the environment, and of what services say: bytes in, no panic out.

#[cfg(feature = "remote")]
use super::remote::fuzz as remote;
use super::{Name, is_directory};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this build.
pub const TARGETS: &[Target] = &[
    ("place", place),
    ("name", name),
    #[cfg(feature = "remote")]
    ("environment", remote::environment),
    #[cfg(feature = "remote")]
    ("profile", remote::profile),
    #[cfg(feature = "remote")]
    ("keystone", remote::keystone),
    #[cfg(feature = "remote")]
    ("login", remote::login),
    #[cfg(feature = "remote")]
    ("headers", remote::headers),
    #[cfg(feature = "remote")]
    ("answers", remote::answers),
];

fn place(bytes: &[u8]) {
    let _where = is_directory(OsStr::from_bytes(bytes));
    #[cfg(feature = "remote")]
    remote::place(bytes);
}

fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = Name::parse(text) {
        assert!(Name::foreign(text).is_ok_and(|foreign| foreign == name));
    }
    if let Ok(name) = Name::foreign(text) {
        assert!(name.as_str() == text && !text.split('/').any(|part| part.is_empty() || part == ".."));
        assert!(text.ends_with(name.last()));
    }
}
