//! What the objects of a backup are called, and what their names alone tell.
//!
//! ```text
//! posix, NFS, Gluster   <2>/<2>/<backup>/volume_<volume>_<time>_backup_<backup>      or in a container that somebody gave
//! before Pike           <2>/<2>/<backup>/backup
//! Swift, S3, GCS        <container>/volume_<volume>/<time>/az_<zone>_backup_<backup>
//! ```
//!
//! Behind each of these stand `-00001` and so on, `_metadata` and `_sha256file`. A zone is free text: ids are read from the right.

use super::{Uuid, time};
use jiff::Timestamp;

const METADATA: &str = "_metadata";
const HASHES: &str = "_sha256file";

/// Which of a backup's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Data, by its number.
    Data(u32),
    /// The index.
    Metadata,
    /// The digests.
    Hashes,
}

/// How a backup's objects are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the drivers do that keep files, since Pike.
    Files,
    /// As those did before: by the bare word.
    Bare,
    /// As those do that keep objects.
    Objects,
    /// In some other way.
    Other,
}

impl Layout {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Layout::Files => "files",
            Layout::Bare => "bare",
            Layout::Objects => "objects",
            Layout::Other => "other",
        }
    }
}

/// What a prefix tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix<'a> {
    /// The folder or bucket, as Cinder calls it: all that stands before the prefix.
    pub container: &'a str,
    /// The prefix, as Cinder calls it (`service_metadata`).
    pub text: &'a str,
    /// How it is built.
    pub layout: Layout,
    /// The volume.
    pub volume: Option<Uuid>,
    /// When the driver was started.
    pub time: Option<Timestamp>,
    /// The backup.
    pub backup: Option<Uuid>,
}

/// What stands before the suffix of an object, and what the suffix says; nothing, for what is no object of a backup.
pub fn split(name: &str) -> Option<(&str, Part)> {
    let document = |suffix, part| name.strip_suffix(suffix).map(|before: &str| (before, part));
    let (before, part) = document(METADATA, Part::Metadata)
        .or_else(|| document(HASHES, Part::Hashes))
        .or_else(|| split_data(name).map(|(before, number)| (before, Part::Data(number))))?;
    (!before.is_empty() && !before.ends_with('/')).then_some((before, part))
}

/// The prefix and the number of a data object.
pub fn split_data(name: &str) -> Option<(&str, u32)> {
    let (before, digits) = name.rsplit_once('-')?;
    let number: u32 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    (!before.is_empty() && format!("{number:05}") == digits).then_some((before, number))
}

/// The name of a data object.
pub fn data(prefix: &str, number: u32) -> String {
    format!("{prefix}-{number:05}")
}

/// The name of the index.
pub fn metadata(prefix: &str) -> String {
    format!("{prefix}{METADATA}")
}

/// The name of the digests.
pub fn hashes(prefix: &str) -> String {
    format!("{prefix}{HASHES}")
}

/// The prefix that a driver which keeps files would give.
pub fn prefix_of_files(volume: Uuid, time: Timestamp, backup: Uuid) -> String {
    format!("volume_{volume}_{}_backup_{backup}", time::in_prefix(time))
}

/// The container that such a driver takes when nobody gave one.
pub fn container_of_files(backup: Uuid) -> String {
    let id = backup.to_string();
    let part = |range| id.get(range).unwrap_or_default();
    format!("{}/{}/{id}", part(0..2), part(2..4))
}

/// The prefix that a driver which keeps objects would give.
pub fn prefix_of_objects(volume: Uuid, time: Timestamp, zone: &str, backup: Uuid) -> String {
    format!("volume_{volume}/{}/az_{zone}_backup_{backup}", time::in_prefix(time))
}

impl<'a> Prefix<'a> {
    /// Takes apart what stands before the suffix of an object of a store.
    pub fn parse(path: &'a str) -> Prefix<'a> {
        objects(path).or_else(|| files(path)).unwrap_or_else(|| bare(path))
    }

    /// The same, where the metadata says what the prefix is. Nothing, when it does not end the path at a folder.
    pub fn told(path: &'a str, text: &str) -> Option<Prefix<'a>> {
        let container = path.strip_suffix(text)?;
        let at_folder = container.is_empty() || container.ends_with('/');
        let text = at_folder.then(|| path.get(container.len()..)).flatten()?;
        Some(Prefix { container: container.trim_end_matches('/'), text, ..Prefix::parse(path) })
    }
}

/// `.../volume_<volume>/<time>/az_<zone>_backup_<backup>`
fn objects(path: &str) -> Option<Prefix<'_>> {
    let (before, zoned) = path.rsplit_once('/')?;
    let (before, stamp) = before.rsplit_once('/')?;
    let (container, volume) = match before.rsplit_once('/') {
        Some((container, volume)) => (container, volume),
        None => ("", before),
    };
    let backup = backup_behind(zoned.strip_prefix("az_")?)?.1;
    let volume = Uuid::parse(volume.strip_prefix("volume_")?)?;
    let time = time::of_prefix(stamp)?;
    let text = path.get(path.len().checked_sub(before_len(path, container)?)?..)?;
    let (volume, time, backup) = (Some(volume), Some(time), Some(backup));
    Some(Prefix { container, text, layout: Layout::Objects, volume, time, backup })
}

/// How long what stands behind a container is.
fn before_len(path: &str, container: &str) -> Option<usize> {
    let rest = path.strip_prefix(container)?;
    Some(rest.strip_prefix('/').unwrap_or(rest).len())
}

/// `.../volume_<volume>_<time>_backup_<backup>`
fn files(path: &str) -> Option<Prefix<'_>> {
    let (container, text) = path.rsplit_once('/').unwrap_or(("", path));
    let (before, backup) = backup_behind(text)?;
    let (volume, stamp) = before.strip_prefix("volume_")?.rsplit_once('_')?;
    let (volume, time) = (Some(Uuid::parse(volume)?), Some(time::of_prefix(stamp)?));
    Some(Prefix { container, text, layout: Layout::Files, volume, time, backup: Some(backup) })
}

/// What neither of them is: the bare word of old, or somebody's own idea.
fn bare(path: &str) -> Prefix<'_> {
    let (container, text) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = container.rsplit('/').next().unwrap_or_default();
    let (layout, backup) = match text {
        "backup" => (Layout::Bare, Uuid::parse(folder)),
        _ => (Layout::Other, backup_behind(text).map(|(_, backup)| backup)),
    };
    Prefix { container, text, layout, volume: None, time: None, backup }
}

/// `<something>_backup_<backup>`
fn backup_behind(text: &str) -> Option<(&str, Uuid)> {
    let at = text.len().checked_sub(36)?;
    let (before, id) = text.split_at_checked(at)?;
    Some((before.strip_suffix("_backup_")?, Uuid::parse(id)?))
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::{ID, VOLUME};
    use super::*;
    use proptest::prelude::*;

    fn uuids() -> (Uuid, Uuid) {
        (Uuid::parse(VOLUME).unwrap(), Uuid::parse(ID).unwrap())
    }

    fn at() -> Timestamp {
        "2026-01-05T05:00:00Z".parse().unwrap()
    }

    #[test]
    fn every_layout_tells_whose_objects_they_are() {
        let (volume, backup) = uuids();
        for (container, zone) in [("", "nova"), ("volumebackups", "az_with_backup_in_it"), ("a/b c", "")] {
            for (text, layout) in [
                (prefix_of_files(volume, at(), backup), Layout::Files),
                (prefix_of_objects(volume, at(), zone, backup), Layout::Objects),
            ] {
                let path = if container.is_empty() { text.clone() } else { format!("{container}/{text}") };
                let prefix = Prefix::parse(&path);
                let wanted = Prefix {
                    container,
                    text: &text,
                    layout,
                    volume: Some(volume),
                    time: Some(at()),
                    backup: Some(backup),
                };
                assert_eq!(prefix, wanted, "{path}");
                assert_eq!(Prefix::told(&path, &text), Some(wanted));
            }
        }
        let container = container_of_files(backup);
        assert_eq!(container, format!("12/d0/{ID}"));
        let path = format!("{container}/backup");
        let bare = Prefix::parse(&path);
        assert_eq!((bare.layout, bare.backup, bare.container), (Layout::Bare, Some(backup), &*container));
        let other = Prefix::parse("my/own");
        assert_eq!((other.layout, other.backup, other.text), (Layout::Other, None, "own"));
    }

    #[test]
    fn a_prefix_that_is_told_has_to_end_the_path_at_a_folder() {
        assert_eq!(Prefix::told("a/b/c", "b/c").unwrap().container, "a");
        assert_eq!(Prefix::told("b/c", "b/c").unwrap().container, "");
        for text in ["c/d", "/c", "x"] {
            assert_eq!(Prefix::told("a/b/c", text), None, "{text}");
        }
        assert_eq!(Prefix::told("a/bc", "c"), None);
    }

    #[test]
    fn names_are_told_from_others() {
        assert_eq!(split("a/b-00001"), Some(("a/b", Part::Data(1))));
        assert_eq!(split("a/b-100000"), Some(("a/b", Part::Data(100_000))));
        assert_eq!(split("a/b_metadata"), Some(("a/b", Part::Metadata)));
        assert_eq!(split("b_sha256file"), Some(("b", Part::Hashes)));
        for other in
            ["", "-00001", "_metadata", "a/_metadata", "a/-00001", "a-1", "a-0000x", "a-+0001", "lost+found"]
        {
            assert_eq!(split(other), None, "{other}");
        }
        assert_eq!(split_data("a-4294967296"), None);
    }

    proptest! {
        #[test]
        fn any_name_is_taken_apart_without_harm(name in "\\PC{0,60}", prefix in "[a-z_/]{1,20}", number in any::<u32>()) {
            let _parts = (split(&name), Prefix::parse(&name));
            let named = data(&prefix, number);
            prop_assert_eq!(split_data(&named), Some((&*prefix, number)));
        }
    }
}
