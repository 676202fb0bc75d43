//! The view as what `mountd` serves. The only file that knows both.
//!
//! What the view knows is answered at once: names while its list is young, and bytes that are in memory. Everything else waits.
//! What is in a tree is answered for by `inside`; nothing else has extended attributes.

use super::inside::{self, Here};
use crate::error::{Error, Kind};
use crate::image::whole::Whole;
use crate::view::{Contents, Facts, File, Find, Folder, Node, Sort, View, YOUNG};
use afterimage_mountd::Tree;
use afterimage_mountd::error::{Error as MountError, Kind as MountKind};
use afterimage_mountd::tree::{
    Answer, Attr, DirEntry, Entry, FOREVER, NodeKind, OpenDir, OpenFile, Page, Seek, Space, Time,
};
use bytes::Bytes;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

/// The view with an owner: whose its files seem to be.
pub(in crate::cli) struct Mounted {
    pub(in crate::cli) view: View,
    /// Images as plain files, where the kernel may read them by itself.
    pub(in crate::cli) whole: Option<Arc<Whole>>,
    pub(in crate::cli) uid: u32,
    pub(in crate::cli) gid: u32,
    /// Others may come in, as far as modes and access lists let them: the kernel asks for those lists itself.
    pub(in crate::cli) others: bool,
}

/// An open file; the plain one beside it stays for as long as it is open.
pub(in crate::cli) struct Open {
    file: File,
    _plain: Option<Arc<std::fs::File>>,
}

/// An open directory.
pub(in crate::cli) enum Dir {
    /// As it was when it was opened.
    Listed { contents: Arc<Contents>, node: Node },
    /// Of a tree; it never changes.
    Inside(Arc<Folder>),
}

impl Tree for Mounted {
    type Node = Node;
    type File = Open;
    type Dir = Dir;

    fn root(&self) -> Node {
        Node::Root
    }

    fn lookup(&self, dir: &Node, name: &OsStr) -> Answer<Entry<Node>> {
        if let Some(here) = self.inside(dir) {
            return here.lookup(name);
        }
        let Some(name) = name.to_str().map(str::to_owned) else { return missing() };
        let (dir, owner) = (dir.clone(), self.owner());
        self.look().then(move |look| match look.contents.lookup(&dir, &name) {
            Some(node) => owner.shown(&look, &node).then(move |attr| {
                let keeps = keeps(&dir);
                Answer::now(Entry { node, attr, keeps })
            }),
            None => missing(),
        })
    }

    fn attr(&self, node: &Node) -> Answer<Attr> {
        if let Some(here) = self.inside(node) {
            return here.attr();
        }
        let (node, owner) = (node.clone(), self.owner());
        self.look().then(move |look| owner.attr_of(&look, &node))
    }

    fn readlink(&self, node: &Node) -> Answer<Bytes> {
        if let Some(here) = self.inside(node) {
            return here.readlink();
        }
        let node = node.clone();
        self.look().then(move |look| match look.contents.target(&node) {
            Some(target) => Answer::now(target.into()),
            None => missing(),
        })
    }

    fn opendir(&self, node: &Node) -> Answer<OpenDir<Dir>> {
        if let Some(here) = self.inside(node) {
            return here.opendir();
        }
        let node = node.clone();
        self.look().then(move |look| {
            let keep = node.is_unchanging();
            Answer::now(OpenDir { dir: Dir::Listed { contents: look.contents, node }, keep })
        })
    }

    fn readdir(&self, dir: &Arc<Dir>, after: u64, page: Page) -> Answer<Vec<DirEntry<Node>>> {
        let (contents, node) = match &**dir {
            Dir::Listed { contents, node } => (contents, node),
            Dir::Inside(folder) => return inside::readdir(folder, after, page),
        };
        let from = usize::try_from(after).unwrap_or(usize::MAX);
        let entries = contents.entries(node, from).take(page.room).zip(after + 1..);
        let owner = self.owner();
        let entry = |(entry, cursor): (crate::view::Entry, u64)| {
            let facts = contents.facts(&entry.node)?;
            // How long a record is takes reading it, and so does a tree's own mode: both are asked for all of a page at once.
            let known = page.attributes && !matches!(entry.node, Node::Record(_) | Node::Tree(..));
            let attr = known.then(|| owner.attr(&facts, &entry.node));
            let ready = attr.map(|attr| Entry { node: entry.node, attr, keeps: keeps(node) });
            Some(DirEntry {
                name: entry.name.into(),
                ino: facts.number,
                kind: kind_of(facts.sort),
                cursor,
                entry: ready,
            })
        };
        Answer::now(entries.filter_map(entry).collect())
    }

    fn open(&self, node: &Node) -> Answer<OpenFile<Open>> {
        match node {
            Node::Image(shown, number) => match self.view.open_image(shown, *number) {
                Ok(file) => {
                    let plain = self.whole.as_ref().zip(file.as_image());
                    let plain = plain.and_then(|(whole, image)| whole.file(image));
                    opened(file, plain)
                }
                Err(error) => failed(&error),
            },
            Node::Record(shown) => {
                let (view, shown) = (self.view.clone(), Arc::clone(shown));
                Answer::later(
                    async move { view.open_record(&shown).await.map_err(|error| translate(&error)) },
                )
                .then(|file| opened(file, None))
            }
            Node::Inside(inside) => inside::open(inside).then(|file| opened(file, None)),
            _ => Answer::fail(MountKind::IsDirectory, "not a file"),
        }
    }

    fn read(&self, open: &Arc<Open>, offset: u64, len: u32) -> Answer<Bytes> {
        let len = len as usize;
        match open.file.read_now(offset, len) {
            Some(now) => Answer::Now(now.map_err(|error| translate(&error))),
            None => {
                let open = Arc::clone(open);
                Answer::later(
                    async move { open.file.read(offset, len).await.map_err(|error| translate(&error)) },
                )
            }
        }
    }

    fn seek(&self, open: &Arc<Open>, offset: u64, what: Seek) -> Answer<u64> {
        let open = Arc::clone(open);
        let what = match what {
            Seek::Data => Find::Data,
            Seek::Hole => Find::Hole,
        };
        Answer::later(async move {
            let found = open.file.find(offset, what).await.map_err(|error| translate(&error))?;
            found.ok_or_else(|| MountError::new(MountKind::PastEnd, "there is a hole up to the end"))
        })
    }

    fn xattrs(&self, node: &Node) -> Answer<Vec<OsString>> {
        self.inside(node).map_or_else(|| Answer::now(Vec::new()), |here| here.xattrs())
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Answer<Bytes> {
        let kind = match takes_none_like(node, name, self.others) {
            true => MountKind::Unsupported,
            false => MountKind::NoAttribute,
        };
        let none = || Answer::fail(kind, "no extended attributes here");
        self.inside(node).map_or_else(none, |here| here.xattr(name))
    }

    fn space(&self) -> Answer<Space> {
        self.look().then(|look| {
            Answer::now(Space { bytes: look.contents.allocated, files: look.contents.ids().len() as u64 })
        })
    }
}

/// Whether there can be no attribute like this one at the node or below it. Who hears so, as `ls` of labels and access lists, asks for none on
/// this whole file system any more: for a listing of thousands of backups that is thousands of questions less. So nothing says it that a tree's
/// files are listed with; and where others come in never of access lists, for the kernel that asks for them lets nobody in where there can be none.
fn takes_none_like(node: &Node, name: &OsStr, others: bool) -> bool {
    let is_list = name.as_encoded_bytes().starts_with(b"system.posix_acl_");
    match node {
        Node::Backup(shown) | Node::Record(shown) | Node::Image(shown, _) => {
            !(is_list && others) && shown.tree_numbers.is_empty()
        }
        _ => false,
    }
}

/// What people see at one moment.
struct Look {
    view: View,
    contents: Arc<Contents>,
}

/// Whose files they seem to be.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Mounted {
    fn inside(&self, node: &Node) -> Option<Here> {
        Here::of(&self.view, node)
    }

    fn owner(&self) -> Owner {
        Owner { uid: self.uid, gid: self.gid }
    }

    fn look(&self) -> Answer<Look> {
        let view = self.view.clone();
        match view.now() {
            Some(contents) => Answer::now(Look { view, contents }),
            None => Answer::later(async move {
                let contents = view.look().await.map_err(|error| translate(&error))?;
                Ok(Look { view, contents })
            }),
        }
    }
}

impl Owner {
    /// What `stat` shows of any node; what lies in a tree has owners of its own.
    fn shown(self, look: &Look, node: &Node) -> Answer<Attr> {
        match Here::of(&look.view, node) {
            Some(here) => here.attr(),
            None => self.attr_of(look, node),
        }
    }

    fn attr_of(self, look: &Look, node: &Node) -> Answer<Attr> {
        let Some(facts) = look.contents.facts(node) else { return missing() };
        let Node::Record(shown) = node else { return Answer::now(self.attr(&facts, node)) };
        let with_len = {
            let node = node.clone();
            move |json: Bytes| {
                let size = json.len() as u64;
                self.attr(&Facts { size, allocated: size, ..facts }, &node)
            }
        };
        match look.view.record_now(&shown.backup) {
            Some(json) => Answer::now(with_len(json)),
            None => {
                let (view, shown) = (look.view.clone(), Arc::clone(shown));
                Answer::later(async move {
                    view.record(&shown.backup).await.map(with_len).map_err(|error| translate(&error))
                })
            }
        }
    }

    fn attr(self, facts: &Facts, node: &Node) -> Attr {
        let time = time_of(facts.time);
        Attr {
            mode: if facts.sort == Sort::Link { 0o777 } else { Attr::new(0, kind_of(facts.sort), 0).mode },
            nlink: facts.links,
            uid: self.uid,
            gid: self.gid,
            blocks: facts.allocated.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            keeps: if node.is_unchanging() { FOREVER } else { YOUNG },
            ..Attr::new(facts.number, kind_of(facts.sort), facts.size)
        }
    }
}

/// For how long the names of a directory stand for what they stand for.
fn keeps(dir: &Node) -> Duration {
    match dir {
        Node::Root | Node::Backup(_) => FOREVER,
        _ => YOUNG,
    }
}

fn opened(file: File, plain: Option<Arc<std::fs::File>>) -> Answer<OpenFile<Open>> {
    let size = file.size();
    // Without a descriptor for the kernel it is read through here, which is right and slower.
    let for_kernel = plain.as_ref().and_then(|plain| plain.try_clone().ok()).map(Into::into);
    let open = OpenFile::unchanging(Open { file, _plain: plain }, size);
    Answer::now(OpenFile { plain: for_kernel, ..open })
}

fn kind_of(sort: Sort) -> NodeKind {
    match sort {
        Sort::Directory => NodeKind::Directory,
        Sort::File => NodeKind::File,
        Sort::Link => NodeKind::Symlink,
    }
}

fn time_of(time: jiff::Timestamp) -> Time {
    let nanos = time.subsec_nanosecond();
    let secs = time.as_second() - i64::from(nanos < 0);
    Time { secs, nanos: nanos.rem_euclid(1_000_000_000).unsigned_abs() }
}

fn missing<A>() -> Answer<A> {
    Answer::fail(MountKind::Missing, "no such backup or file")
}

fn failed<A>(error: &Error) -> Answer<A> {
    Answer::Now(Err(translate(error)))
}

/// The one table from our errors to those of the mount. What the *store* lacks or denies is a failed read of a file that is there.
pub(super) fn translate(error: &Error) -> MountError {
    let kind = match error.kind() {
        Kind::Corrupt => MountKind::Damaged,
        Kind::Usage => MountKind::Invalid,
        Kind::Refused => MountKind::Denied,
        Kind::Unsupported => MountKind::Unsupported,
        Kind::Interrupted => MountKind::Interrupted,
        Kind::Missing
        | Kind::Full
        | Kind::Busy
        | Kind::Unreachable
        | Kind::Denied
        | Kind::Source
        | Kind::Target
        | Kind::Unsynced => MountKind::Failed,
    };
    MountError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_what_the_store_lacks_is_an_input_error_and_never_a_missing_file() {
        for kind in [Kind::Missing, Kind::Corrupt, Kind::Unreachable, Kind::Denied, Kind::Busy] {
            assert_eq!(translate(&Error::new(kind, "read a chunk")).kind().errno(), 5, "{kind:?}");
        }
    }

    #[test]
    fn times_before_1970_count_their_nanoseconds_forward() {
        let time = |text: &str| time_of(text.parse().unwrap());
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Time { secs: 1, nanos: 500_000_000 });
        assert_eq!(time("1969-12-31T23:59:58.5Z"), Time { secs: -2, nanos: 500_000_000 });
    }
}
