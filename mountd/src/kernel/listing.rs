//! Directory pages: the tree's entries -> a reply as full as the kernel has room for.
//!
//! With attributes (`readdirplus`) every entry the kernel takes counts as a lookup of its node. Entries that come without theirs are looked up
//! here. One whose lookup fails or hangs is still listed, under a number that makes the kernel look it up when somebody wants it: a damaged
//! inode spoils nobody else's listing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fuser::{FileHandle, INodeNo};
use tokio::task::JoinSet;

use super::attr::{file_attr, file_type};
use super::{Daemon, Dir, GENERATION, Shared, stale};
use crate::cursor::{self, Start};
use crate::nodes::ROOT;
use crate::serve::Reply;
use crate::tree::{Answer, Attr, DirEntry, Entry, NodeKind, Page, Tree};
use crate::watch::Op;

/// Entries asked of the tree at once: what fits into the 32 KiB that `getdents` asks for, with short names. A longer reply takes another page.
const ROOM_PLAIN: usize = 32 * 1024 / 32;
const ROOM_WITH_ATTRIBUTES: usize = 32 * 1024 / 168;

/// A page being filled.
pub(super) trait Sheet: Reply {
    /// One entry without attributes; true when it did not fit.
    fn plain(&mut self, ino: u64, offset: u64, kind: NodeKind, name: &OsStr) -> bool;
    /// One entry with attributes under a number; true when it did not fit.
    fn full(&mut self, number: u64, offset: u64, keeps: Duration, attr: &Attr, name: &OsStr) -> bool;
    /// That was all.
    fn done(self);
}

impl Sheet for fuser::ReplyDirectory {
    fn plain(&mut self, ino: u64, offset: u64, kind: NodeKind, name: &OsStr) -> bool {
        self.add(INodeNo(ino), offset, file_type(kind), name)
    }

    fn full(&mut self, number: u64, offset: u64, _: Duration, attr: &Attr, name: &OsStr) -> bool {
        self.plain(number, offset, attr.kind, name)
    }

    fn done(self) {
        self.ok();
    }
}

impl Sheet for fuser::ReplyDirectoryPlus {
    fn plain(&mut self, ino: u64, offset: u64, kind: NodeKind, name: &OsStr) -> bool {
        // The kernel lists an entry that claims to be the root, with the inode that it is given, does not believe it, and forgets it again.
        let attr = file_attr(&Attr::new(ino, kind, 0), ino);
        self.add(INodeNo(ROOT), offset, name, &Duration::ZERO, &attr, GENERATION)
    }

    fn full(&mut self, number: u64, offset: u64, keeps: Duration, attr: &Attr, name: &OsStr) -> bool {
        self.add(INodeNo(number), offset, name, &keeps, &file_attr(attr, number), GENERATION)
    }

    fn done(self) {
        self.ok();
    }
}

impl<T: Tree> Daemon<T> {
    pub(super) fn list<R: Sheet>(
        &self,
        request: &fuser::Request,
        handle: FileHandle,
        offset: u64,
        attributes: bool,
        reply: R,
    ) {
        let Some(dir) = self.shared.dirs.get(handle.0) else {
            return self.answer(Op::Readdir, request, reply, |_| stale::<()>(), |_, _, ()| Ok(()));
        };
        let asked = dir.clone();
        let ask = move |shared: &Arc<Shared<T>>| shared.page(&dir, offset, attributes);
        self.answer(Op::Readdir, request, reply, ask, move |shared, reply, entries| {
            shared.write_page(&asked, offset, reply, entries, attributes);
            Ok(())
        });
    }
}

impl<T: Tree> Shared<T> {
    fn page(
        self: &Arc<Self>,
        dir: &Arc<Dir<T>>,
        offset: u64,
        attributes: bool,
    ) -> Answer<Vec<DirEntry<T::Node>>> {
        let after = match cursor::start(offset) {
            Start::After(after) => after,
            Start::Dot | Start::DotDot => 0,
        };
        let room = if attributes { ROOM_WITH_ATTRIBUTES } else { ROOM_PLAIN };
        let page = Page { room, attributes };
        let entries = if offset == 0 && dir.read_before.swap(true, Relaxed) {
            let (shared, dir) = (self.clone(), dir.clone());
            self.tree.opendir(&dir.known.node.clone()).then(move |opened| {
                dir.becomes(Arc::new(opened.dir));
                shared.tree.readdir(&dir.now(), after, page)
            })
        } else {
            self.tree.readdir(&dir.now(), after, page)
        };
        if !attributes {
            return entries;
        }
        let (shared, node) = (self.clone(), dir.known.node.clone());
        entries.then(move |entries| shared.complete(&node, entries))
    }

    /// Looks up what came without attributes. All that has to be waited for is waited for at once, for half of the deadline: what has not
    /// come by then is listed without.
    fn complete(&self, dir: &T::Node, mut entries: Vec<DirEntry<T::Node>>) -> Answer<Vec<DirEntry<T::Node>>> {
        let mut waiting = Vec::new();
        for (at, entry) in entries.iter_mut().enumerate() {
            if entry.entry.is_some() || !cursor::name_is_fit(entry.name.as_bytes()) {
                continue;
            }
            match self.tree.lookup(dir, &entry.name) {
                Answer::Now(found) => entry.entry = found.ok(),
                Answer::Later(found) => waiting.push((at, found)),
            }
        }
        if waiting.is_empty() {
            return Answer::now(entries);
        }
        let patience = self.server.deadline / 2;
        Answer::later(async move {
            let mut lookups = JoinSet::new();
            for (at, found) in waiting {
                let _ = lookups.spawn(async move { (at, found.await) });
            }
            let gathering = async {
                while let Some(lookup) = lookups.join_next().await {
                    if let Ok((at, Ok(found))) = lookup {
                        entries[at].entry = Some(found);
                    }
                }
            };
            // Those that are late are dropped with their tasks.
            drop(tokio::time::timeout(patience, gathering).await);
            Ok(entries)
        })
    }

    fn write_page<R: Sheet>(
        &self,
        dir: &Dir<T>,
        offset: u64,
        mut sheet: R,
        entries: Vec<DirEntry<T::Node>>,
        attributes: bool,
    ) {
        let start = cursor::start(offset);
        let own = |number: u64| if number == ROOT { self.root_ino.load(Relaxed) } else { number };
        if start == Start::Dot {
            let _ = sheet.plain(own(dir.number), cursor::BEHIND_DOT, NodeKind::Directory, OsStr::new("."));
        }
        if matches!(start, Start::Dot | Start::DotDot) {
            let _ = sheet.plain(
                own(dir.known.parent),
                cursor::BEHIND_DOT_DOT,
                NodeKind::Directory,
                OsStr::new(".."),
            );
        }
        for entry in entries {
            let Some(behind) = cursor::offset(entry.cursor) else {
                tracing::error!(cursor = entry.cursor, "the tree gave a directory cursor that cannot be one");
                break;
            };
            if self.write_entry(dir, &mut sheet, entry, behind, attributes) {
                break;
            }
        }
        sheet.done();
    }

    fn write_entry<R: Sheet>(
        &self,
        dir: &Dir<T>,
        sheet: &mut R,
        entry: DirEntry<T::Node>,
        behind: u64,
        attributes: bool,
    ) -> bool {
        if !cursor::name_is_fit(entry.name.as_bytes()) {
            self.watch().bad_names.add(1);
            tracing::error!(name = ?entry.name, "the tree gave a name that cannot be one; it is shown with question marks");
            return sheet.plain(entry.ino, behind, entry.kind, &presentable(entry.name));
        }
        match entry.entry {
            Some(found) if attributes => self.write_full(dir, sheet, &found, behind, &entry.name),
            _ => sheet.plain(entry.ino, behind, entry.kind, &entry.name),
        }
    }

    /// An entry that the kernel takes is one it will forget; one that did not fit it never saw.
    fn write_full<R: Sheet>(
        &self,
        dir: &Dir<T>,
        sheet: &mut R,
        found: &Entry<T::Node>,
        behind: u64,
        name: &OsStr,
    ) -> bool {
        let number = self.remember(found, dir.number);
        let full = sheet.full(number, behind, found.keeps.min(found.attr.keeps), &found.attr, name);
        if full {
            self.nodes.forget(number, 1);
        }
        full
    }
}

/// Something to list in place of a name that cannot be one: nothing is left out silently, and one bad name spoils no listing.
fn presentable(name: OsString) -> OsString {
    let mut bytes = name.into_vec();
    bytes.truncate(255);
    for byte in &mut bytes {
        if matches!(byte, b'/' | 0) {
            *byte = b'?';
        }
    }
    if bytes.is_empty() || bytes == b"." || bytes == b".." {
        bytes = vec![b'?'; bytes.len().max(1)];
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_impossible_names_become_possible_ones() {
        let long = "x".repeat(300);
        for (name, shown) in [("a/b\0c", "a?b?c"), ("", "?"), (".", "?"), ("..", "??"), (&long, &long[..255])]
        {
            assert_eq!(presentable(name.into()), OsString::from(shown));
            assert!(cursor::name_is_fit(shown.as_bytes()));
        }
    }
}
