//! What one entry of a tree loses on a target: a pure question, asked when its needs are counted and again when it is written, with
//! the same answer.

use super::aspect::{Aspect, Aspects, FileSystem};
use super::facts::{Facts, User};
use crate::format::tree::{Attribute, Content, Entry};

const SET_IDS: u16 = 0o6000;

/// A target, as far as it matters to single entries.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    pub(super) system: FileSystem,
    pub(super) user: User,
    name_len_max: usize,
}

/// What an entry loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) aspects: Aspects,
    pub(super) why: Option<&'static str>,
}

impl Lost {
    /// Whether there is no place for it at all.
    pub(super) fn is_left_out(&self) -> bool {
        [Aspect::Entry, Aspect::Links, Aspect::Pipes, Aspect::Devices]
            .into_iter()
            .any(|it| self.aspects.has(it))
    }

    pub(super) fn whole(why: &'static str) -> Lost {
        Lost { aspects: Aspects::of(&[Aspect::Entry]), why: Some(why) }
    }
}

/// Which aspect an extended attribute is.
pub(super) fn aspect_of(attribute: &[u8]) -> Aspect {
    match attribute {
        b"system.posix_acl_access" | b"system.posix_acl_default" => Aspect::Acls,
        b"security.capability" => Aspect::Capabilities,
        name if name.starts_with(b"user.") => Aspect::UserAttributes,
        _ => Aspect::SystemAttributes,
    }
}

impl Fit {
    pub(super) fn new(facts: &Facts) -> Fit {
        Fit { system: facts.system, user: facts.user.clone(), name_len_max: facts.name_len_max }
    }

    /// What cannot be kept there by this user.
    pub(super) fn without(&self) -> Aspects {
        self.system.lacks.and(self.user.may_not)
    }

    /// What this entry loses. The root directory has no name, and that of the target is its own.
    pub(super) fn lost(&self, entry: &Entry, attributes: &[Attribute]) -> Lost {
        if !entry.name.is_empty()
            && let Some(why) = self.system.objects_to(&entry.name, self.name_len_max)
        {
            return Lost::whole(why);
        }
        if entry.size() > self.system.file_len_max && matches!(entry.content, Content::File(_)) {
            return Lost::whole("it is longer than files may be there");
        }
        let without = self.without();
        if let Some(kind) = kind_of(entry).filter(|kind| without.has(*kind)) {
            return Lost { aspects: Aspects::of(&[kind]), why: None };
        }
        let is_link = matches!(entry.content, Content::Symlink(_));
        let mut lost = Aspects::NONE;
        let mut lose = |aspect, if_so: bool| {
            if if_so {
                lost = lost.and(Aspects::of(&[aspect]));
            }
        };
        let owner_is_lost = self.loses_owner(entry);
        lose(Aspect::Owners, owner_is_lost);
        lose(
            Aspect::SetIds,
            !is_link && entry.mode & SET_IDS != 0 && (owner_is_lost || without.has(Aspect::SetIds)),
        );
        lose(Aspect::Modes, !is_link && without.has(Aspect::Modes));
        lose(
            Aspect::HardLinks,
            without.has(Aspect::HardLinks) && entry.link.is_some_and(|link| link.names > 1),
        );
        lose(Aspect::Times, without.has(Aspect::Times) && entry.mtime.nanos != 0);
        lose(Aspect::Holes, without.has(Aspect::Holes) && has_holes(entry));
        for attribute in attributes {
            let aspect = aspect_of(&attribute.name);
            lose(aspect, without.has(aspect));
        }
        Lost { aspects: lost, why: None }
    }

    /// A user keeps what is his: his own files, in groups that he is in.
    fn loses_owner(&self, entry: &Entry) -> bool {
        let is_his = entry.owner.uid == self.user.uid && self.user.groups.contains(&entry.owner.gid);
        self.system.lacks.has(Aspect::Owners) || self.user.may_not.has(Aspect::Owners) && !is_his
    }
}

/// The aspect that is the entry's own kind.
fn kind_of(entry: &Entry) -> Option<Aspect> {
    match entry.content {
        Content::Directory(_) | Content::File(_) => None,
        Content::Symlink(_) => Some(Aspect::Links),
        Content::Fifo | Content::Socket => Some(Aspect::Pipes),
        Content::CharDevice { .. } | Content::BlockDevice { .. } => Some(Aspect::Devices),
    }
}

fn has_holes(entry: &Entry) -> bool {
    matches!(&entry.content, Content::File(content) if content.data() < content.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{FileContent, Link, Owner, Time, Value};
    use std::sync::Arc;

    fn fit(magic: u64, may_not: &[Aspect]) -> Fit {
        let user = User { uid: 1000, groups: vec![1000, 27], may_not: Aspects::of(may_not) };
        Fit { system: FileSystem::of_magic(magic), user, name_len_max: 255 }
    }

    fn entry(uid: u32, gid: u32, mode: u16, content: Content) -> Entry {
        Entry {
            name: "n".into(),
            mode,
            owner: Arc::new(Owner { uid, gid, ..Owner::default() }),
            mtime: Time { secs: 1, nanos: 5 },
            link: None,
            changed: false,
            attributes: Default::default(),
            content,
        }
    }

    fn file() -> Content {
        Content::File(FileContent::Inline("x".into()))
    }

    fn attribute(name: &'static str) -> Attribute {
        Attribute { name: name.into(), value: Value::Here("x".into()) }
    }

    #[test]
    fn r12_root_on_a_good_file_system_loses_nothing() {
        let root = fit(0xEF53, &[]);
        let all = ["security.capability", "system.posix_acl_access", "trusted.x", "user.x"].map(attribute);
        for content in [
            file(),
            Content::Socket,
            Content::CharDevice { major: 1, minor: 3 },
            Content::Symlink("x".into()),
        ] {
            assert_eq!(root.lost(&entry(7, 8, 0o6755, content), &all), Lost::default());
        }
    }

    #[test]
    fn r12_a_user_keeps_what_is_his_and_loses_set_ids_with_the_owner() {
        let mere_user =
            fit(0xEF53, &[Aspect::Owners, Aspect::Devices, Aspect::Capabilities, Aspect::SystemAttributes]);
        let lost = |uid, gid, mode| mere_user.lost(&entry(uid, gid, mode, file()), &[]).aspects;
        assert_eq!(lost(1000, 27, 0o6755), Aspects::NONE);
        assert_eq!(lost(0, 0, 0o755), Aspects::of(&[Aspect::Owners]));
        assert_eq!(
            lost(0, 0, 0o4755),
            Aspects::of(&[Aspect::Owners, Aspect::SetIds]),
            "a set-id bit is never the user's own"
        );
        assert_eq!(lost(1000, 5, 0o2755), Aspects::of(&[Aspect::Owners, Aspect::SetIds]));
        let device = mere_user.lost(&entry(0, 6, 0o660, Content::BlockDevice { major: 8, minor: 0 }), &[]);
        assert!(
            device.is_left_out() && !mere_user.lost(&entry(0, 0, 0o600, Content::Fifo), &[]).is_left_out()
        );
        let attributes = ["security.capability", "system.posix_acl_access", "user.x"].map(attribute);
        let lost = mere_user.lost(&entry(1000, 1000, 0o644, file()), &attributes);
        assert_eq!(lost.aspects, Aspects::of(&[Aspect::Capabilities]));
    }

    #[test]
    fn r12_what_vfat_loses_is_counted_one_by_one() {
        let fat = fit(0x4d44, &[]);
        let lost = fat.lost(&entry(0, 0, 0o644, file()), &[attribute("user.x")]);
        let wanted = [Aspect::Owners, Aspect::Modes, Aspect::UserAttributes, Aspect::Times];
        assert_eq!(lost.aspects, Aspects::of(&wanted));
        let linked = Entry { link: Some(Link { group: [1; 16], names: 2 }), ..entry(0, 0, 0o644, file()) };
        assert!(fat.lost(&linked, &[]).aspects.has(Aspect::HardLinks));
        let long = entry(0, 0, 0o644, Content::File(FileContent::Zeros(1 << 32)));
        assert_eq!(fat.lost(&long, &[]), Lost::whole("it is longer than files may be there"));
        let odd = Entry { name: "a:b".into(), ..entry(0, 0, 0o644, file()) };
        assert!(fat.lost(&odd, &[]).is_left_out());
        assert!(fat.lost(&entry(0, 0, 0o777, Content::Symlink("x".into())), &[]).is_left_out());
    }
}
