//! What a share has that some targets, or some users, cannot keep: its names, and which file systems keep what.
//!
//! Contents, names and directories are no aspects: what has no place for those is left out whole, and that is an aspect ([`Aspect::Entry`]).

use std::fmt;

/// One thing that may get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// The entry itself: its name or its length has no place on the target.
    Entry,
    /// Symbolic links.
    Links,
    /// Pipes and sockets.
    Pipes,
    /// Character and block devices.
    Devices,
    /// That several names are one file: each becomes a file of its own.
    HardLinks,
    /// Owners and groups.
    Owners,
    /// Permissions.
    Modes,
    /// Set-user-id and set-group-id.
    SetIds,
    /// Access lists.
    Acls,
    /// File capabilities.
    Capabilities,
    /// Extended attributes of users.
    UserAttributes,
    /// Extended attributes of administrators and of security modules.
    SystemAttributes,
    /// That holes take no room.
    Holes,
    /// Times to the nanosecond.
    Times,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Aspect; 14] = [
        Aspect::Entry,
        Aspect::Links,
        Aspect::Pipes,
        Aspect::Devices,
        Aspect::HardLinks,
        Aspect::Owners,
        Aspect::Modes,
        Aspect::SetIds,
        Aspect::Acls,
        Aspect::Capabilities,
        Aspect::UserAttributes,
        Aspect::SystemAttributes,
        Aspect::Holes,
        Aspect::Times,
    ];

    /// Its name in `--json`.
    pub fn key(self) -> &'static str {
        match self {
            Aspect::Entry => "entries",
            Aspect::Links => "symlinks",
            Aspect::Pipes => "pipes",
            Aspect::Devices => "devices",
            Aspect::HardLinks => "hard_links",
            Aspect::Owners => "owners",
            Aspect::Modes => "modes",
            Aspect::SetIds => "set_ids",
            Aspect::Acls => "acls",
            Aspect::Capabilities => "capabilities",
            Aspect::UserAttributes => "user_xattrs",
            Aspect::SystemAttributes => "system_xattrs",
            Aspect::Holes => "holes",
            Aspect::Times => "nanoseconds",
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Aspect::Entry => "files that it has no place for",
            Aspect::Links => "symbolic links",
            Aspect::Pipes => "pipes and sockets",
            Aspect::Devices => "devices",
            Aspect::HardLinks => "hard links",
            Aspect::Owners => "owners",
            Aspect::Modes => "permissions",
            Aspect::SetIds => "set-id bits",
            Aspect::Acls => "access lists",
            Aspect::Capabilities => "file capabilities",
            Aspect::UserAttributes => "extended attributes",
            Aspect::SystemAttributes => "extended attributes of the system",
            Aspect::Holes => "holes",
            Aspect::Times => "nanoseconds of times",
        })
    }
}

/// A set of aspects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects(u16);

impl Aspects {
    /// None.
    pub const NONE: Aspects = Aspects(0);

    /// These.
    pub const fn of(all: &[Aspect]) -> Aspects {
        let (mut bits, mut at) = (0, 0);
        while at < all.len() {
            bits |= 1 << all[at] as u16;
            at += 1;
        }
        Aspects(bits)
    }

    /// Whether it is one of them.
    pub fn has(self, aspect: Aspect) -> bool {
        self.0 & 1 << aspect as u16 != 0
    }

    /// These and those.
    pub const fn and(self, others: Aspects) -> Aspects {
        Aspects(self.0 | others.0)
    }

    /// These without those.
    pub const fn without(self, others: Aspects) -> Aspects {
        Aspects(self.0 & !others.0)
    }
}

/// A kind of file system, as far as it matters to what is restored onto it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// As people call it.
    pub name: &'static str,
    /// What it has no place for.
    pub lacks: Aspects,
    /// Names that differ only in the case of letters are one.
    pub folds_case: bool,
    /// Names of Windows only: no control characters, none of `"*:<>?\|`, no dot or space at the end, at most 255 units of UTF-16.
    pub windows_names: bool,
    /// The longest file.
    pub file_len_max: u64,
    /// It may well have more or less than this table says: what it does not keep shows when it is written.
    pub is_guess: bool,
}

const FAT_LACKS: Aspects = Aspects::of(&[
    Aspect::Links,
    Aspect::Pipes,
    Aspect::Devices,
    Aspect::HardLinks,
    Aspect::Owners,
    Aspect::Modes,
    Aspect::SetIds,
    Aspect::Acls,
    Aspect::Capabilities,
    Aspect::UserAttributes,
    Aspect::SystemAttributes,
    Aspect::Holes,
    Aspect::Times,
]);

const ALL_OF_IT: FileSystem = FileSystem {
    name: "",
    lacks: Aspects::NONE,
    folds_case: false,
    windows_names: false,
    file_len_max: i64::MAX as u64,
    is_guess: false,
};
const WINDOWS: FileSystem = FileSystem { folds_case: true, windows_names: true, ..ALL_OF_IT };

impl FileSystem {
    /// The kind whose magic number this is, as `statfs` tells.
    pub fn of_magic(magic: u64) -> FileSystem {
        // A server decides what these keep.
        let remote = FileSystem { is_guess: true, ..ALL_OF_IT };
        match magic {
            0x4d44 => FileSystem { name: "vfat", lacks: FAT_LACKS, file_len_max: u32::MAX.into(), ..WINDOWS },
            0x2011_BAB0 => FileSystem { name: "exfat", lacks: FAT_LACKS, ..WINDOWS },
            0x7366_746e | 0x5346_544e => {
                FileSystem { name: "ntfs", lacks: Aspects::of(&[Aspect::Times]), is_guess: true, ..WINDOWS }
            }
            0xFF53_4D42 | 0xFE53_4D42 | 0x517B => FileSystem {
                name: "cifs",
                lacks: Aspects::of(&[
                    Aspect::Pipes,
                    Aspect::Devices,
                    Aspect::Owners,
                    Aspect::Modes,
                    Aspect::SetIds,
                    Aspect::Acls,
                    Aspect::Capabilities,
                    Aspect::SystemAttributes,
                    Aspect::Times,
                ]),
                is_guess: true,
                ..WINDOWS
            },
            0x6969 => FileSystem {
                name: "nfs",
                lacks: Aspects::of(&[Aspect::Capabilities, Aspect::SystemAttributes]),
                ..remote
            },
            0x0102_1997 => FileSystem { name: "9p", ..remote },
            0x6573_5546 => FileSystem { name: "fuse", ..remote },
            0xEF53 => FileSystem { name: "ext4", ..ALL_OF_IT },
            0x5846_5342 => FileSystem { name: "xfs", ..ALL_OF_IT },
            0x9123_683E => FileSystem { name: "btrfs", ..ALL_OF_IT },
            0x0102_1994 => FileSystem { name: "tmpfs", ..ALL_OF_IT },
            0x794C_7630 => FileSystem { name: "overlay", ..ALL_OF_IT },
            0x2FC1_2FC1 => FileSystem { name: "zfs", ..ALL_OF_IT },
            0xF2F5_2010 => FileSystem { name: "f2fs", ..ALL_OF_IT },
            0xCA45_1A4E => FileSystem { name: "bcachefs", ..ALL_OF_IT },
            _ => FileSystem { name: "an unknown file system", ..remote },
        }
    }

    /// Why a name has no place here; nothing when it has one.
    pub fn objects_to(&self, name: &[u8], len_max: usize) -> Option<&'static str> {
        if self.windows_names {
            let Ok(text) = std::str::from_utf8(name) else { return Some("its name is not UTF-8") };
            if text.chars().any(|char| char.is_control() || "\"*:<>?\\|".contains(char)) {
                return Some("its name has characters that names there cannot have");
            }
            if text.ends_with(['.', ' ']) {
                return Some("its name ends in a dot or a space");
            }
            return (text.encode_utf16().count() > 255).then_some("its name is too long");
        }
        (name.len() > len_max).then_some("its name is too long")
    }

    /// Under what a name meets others: itself, or the same in small letters.
    pub fn folded(&self, name: &[u8]) -> Vec<u8> {
        match (self.folds_case, std::str::from_utf8(name)) {
            (true, Ok(text)) => text.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes(),
            _ => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let some = Aspects::of(&[Aspect::Entry, Aspect::Times]);
        for aspect in Aspect::ALL {
            assert_eq!(some.has(aspect), matches!(aspect, Aspect::Entry | Aspect::Times), "{aspect:?}");
            assert!(FAT_LACKS.has(aspect) || aspect == Aspect::Entry);
        }
        assert_eq!(some.without(Aspects::of(&[Aspect::Times])), Aspects::of(&[Aspect::Entry]));
    }

    #[test]
    fn r10_names_that_windows_cannot_have_are_known() {
        let (fat, ext4) = (FileSystem::of_magic(0x4d44), FileSystem::of_magic(0xEF53));
        for name in [&b"a:b"[..], b"a\nb", b"what?", b"trailing.", b"trailing ", b"\xff", b"back\\slash"] {
            assert!(fat.objects_to(name, 1530).is_some(), "{name:?}");
            assert_eq!(ext4.objects_to(name, 255), None);
        }
        let wide = "\u{fc}".repeat(200);
        assert_eq!(fat.objects_to(wide.as_bytes(), 1530), None, "400 bytes, 200 letters");
        assert!(ext4.objects_to(wide.as_bytes(), 255).is_some());
    }

    #[test]
    fn r10_names_meet_where_case_does_not_count() {
        let (fat, ext4) = (FileSystem::of_magic(0x4d44), FileSystem::of_magic(0xEF53));
        assert_eq!(fat.folded("ÄB.txt".as_bytes()), fat.folded("äb.TXT".as_bytes()));
        assert_ne!(ext4.folded(b"A"), ext4.folded(b"a"));
        assert_ne!(fat.folded(b"\xffA"), fat.folded(b"\xffa"), "what is not text is left alone");
    }
}
