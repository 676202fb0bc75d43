//! What is in a tree, as what `mountd` serves: an entry's attributes are the file's own.
//!
//! Nothing here ever changes, so the kernel may keep all of it for good. What is in memory is answered at once.

use super::tree::{Dir, translate};
use crate::error::Result;
use crate::format::tree::{Attribute, Attributes, Content, Entry as TreeEntry, Value};
use crate::image::tree::Member;
use crate::view::{Folder, Inside, Node, Share, View};
use afterimage_mountd::error::Kind as MountKind;
use afterimage_mountd::tree::{Answer, Attr, DirEntry, Entry, FOREVER, NodeKind, OpenDir, Page, Time};
use bytes::Bytes;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

/// Entries of a page that is read when the kernel did not say how many it has room for.
const PAGE_MAX: usize = 1024;

/// Something in a tree: its root directory, or below.
#[derive(Clone)]
pub(super) enum Here {
    Top(Arc<Share>),
    Inside(Inside),
}

impl Here {
    /// What lies in a tree, if the node does.
    pub(super) fn of(view: &View, node: &Node) -> Option<Here> {
        match node {
            Node::Tree(shown, number) => view.share(shown, *number).ok().map(Here::Top),
            Node::Inside(inside) => Some(Here::Inside(inside.clone())),
            _ => None,
        }
    }

    fn number(&self) -> u64 {
        match self {
            Here::Top(share) => share.number(),
            Here::Inside(inside) => inside.number(),
        }
    }

    /// Its entry.
    fn member(&self) -> Answer<Member> {
        match self {
            Here::Top(share) => {
                let share = Arc::clone(share);
                later(async move { share.top().await })
            }
            Here::Inside(inside) => match inside.member_now() {
                Some(now) => answer(now),
                None => {
                    let inside = inside.clone();
                    later(async move { inside.member().await })
                }
            },
        }
    }

    fn folder(&self, member: &Member) -> Result<Arc<Folder>> {
        match self {
            Here::Top(share) => share.root(member),
            Here::Inside(inside) => inside.folder(member),
        }
    }

    pub(super) fn attr(&self) -> Answer<Attr> {
        let number = self.number();
        self.member().then(move |member| Answer::now(attr(number, member.entry())))
    }

    pub(super) fn lookup(&self, name: &OsStr) -> Answer<Entry<Node>> {
        let (here, name) = (self.clone(), name.as_bytes().to_owned());
        self.member().then(move |member| {
            if !member.entry().is_directory() {
                return Answer::fail(MountKind::NotDirectory, "not a directory");
            }
            let folder = match here.folder(&member) {
                Ok(folder) => folder,
                Err(error) => return answer(Err(error)),
            };
            let found = match folder.lookup_now(&name) {
                Some(now) => answer(now),
                None => later(async move { folder.lookup(&name).await }),
            };
            found.then(|found| match found {
                Some((inside, member)) => Answer::now(entry(inside, &member)),
                None => Answer::fail(MountKind::Missing, "no such file in the backup"),
            })
        })
    }

    pub(super) fn readlink(&self) -> Answer<Bytes> {
        self.member().then(|member| match member.target() {
            Some(target) => Answer::now(target.clone()),
            None => Answer::fail(MountKind::Invalid, "not a symbolic link"),
        })
    }

    pub(super) fn opendir(&self) -> Answer<OpenDir<Dir>> {
        let here = self.clone();
        self.member().then(move |member| match here.folder(&member) {
            Ok(folder) => Answer::now(OpenDir { dir: Dir::Inside(folder), keep: true }),
            Err(error) => answer(Err(error)),
        })
    }

    pub(super) fn xattrs(&self) -> Answer<Vec<OsString>> {
        let names = |set: &[Attribute]| set.iter().map(|one| OsString::from_vec(one.name.to_vec())).collect();
        self.member().then(move |member| match &member.entry().attributes {
            Attributes::None => Answer::now(Vec::new()),
            Attributes::Here(set) => Answer::now(names(set)),
            Attributes::Node(_) => later(async move { Ok(names(&member.attributes().await?)) }),
        })
    }

    pub(super) fn xattr(&self, name: &OsStr) -> Answer<Bytes> {
        let name = name.as_bytes().to_owned();
        let none = || Answer::fail(MountKind::NoAttribute, "no such attribute");
        self.member().then(move |member| {
            let here = match &member.entry().attributes {
                Attributes::None => return none(),
                Attributes::Here(set) => Some(set.iter().find(|one| one.name == name)),
                Attributes::Node(_) => None,
            };
            match here {
                Some(None) => none(),
                Some(Some(Attribute { value: Value::Here(bytes), .. })) => Answer::now(bytes.clone()),
                _ => later(async move { member.attribute(&name).await })
                    .then(move |value| value.map_or_else(none, Answer::now)),
            }
        })
    }
}

/// Some entries of a directory, with their attributes, which cost nothing.
pub(super) fn readdir(folder: &Arc<Folder>, after: u64, page: Page) -> Answer<Vec<DirEntry<Node>>> {
    let max = page.room.clamp(1, PAGE_MAX);
    let rows = match folder.page_now(after, max) {
        Some(now) => answer(now),
        None => {
            let folder = Arc::clone(folder);
            later(async move { folder.page(after, max).await })
        }
    };
    rows.then(|rows| {
        let dir_entry = |(inside, member): (Inside, Member)| DirEntry {
            name: OsString::from_vec(member.name().to_vec()),
            ino: inside.number(),
            kind: kind_of(member.entry()),
            cursor: member.number() + 1,
            entry: Some(entry(inside, &member)),
        };
        Answer::now(rows.into_iter().map(dir_entry).collect())
    })
}

fn entry(inside: Inside, member: &Member) -> Entry<Node> {
    let attr = attr(inside.number(), member.entry());
    Entry { node: Node::Inside(inside), attr, keeps: FOREVER }
}

fn attr(number: u64, entry: &TreeEntry) -> Attr {
    let stored = match &entry.content {
        Content::File(content) => content.data(),
        _ => 0,
    };
    let time = Time { secs: entry.mtime.secs, nanos: entry.mtime.nanos };
    Attr {
        mode: entry.mode,
        // How many directories are in one is not known: a single link says so to who counts on it.
        nlink: entry.link.map_or(1, |link| link.names),
        uid: entry.owner.uid,
        gid: entry.owner.gid,
        blocks: stored.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        ..Attr::new(number, kind_of(entry), entry.size())
    }
}

fn kind_of(entry: &TreeEntry) -> NodeKind {
    match entry.content {
        Content::Directory(_) => NodeKind::Directory,
        Content::File(_) => NodeKind::File,
        Content::Symlink(_) => NodeKind::Symlink,
        Content::Fifo => NodeKind::Fifo,
        Content::Socket => NodeKind::Socket,
        Content::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
        Content::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
    }
}

/// Opens a file.
pub(super) fn open(inside: &Inside) -> Answer<crate::view::File> {
    let here = inside.clone();
    Here::Inside(inside.clone()).member().then(move |member| answer(here.open(&member)))
}

fn answer<T>(result: Result<T>) -> Answer<T> {
    Answer::Now(result.map_err(|error| translate(&error)))
}

fn later<T: Send + 'static>(future: impl Future<Output = Result<T>> + Send + 'static) -> Answer<T> {
    Answer::later(async move { future.await.map_err(|error| translate(&error)) })
}
