//! What differs between two trees, as people call it: what came, what went, what changed, and what is only somewhere else now.
//!
//! Takes time and memory in proportion to what differs. What went and came again elsewhere with the same content was moved: a directory with
//! everything in it, a file that is not empty. Of several that could be it, the first in order is.

use crate::error::{Error, Kind, Result};
use crate::format::tree::{Content, Entry, FileContent};
use crate::image::tree::{Dir, Member, Pair, Tree, compare, content_key, difference};
use crate::progress::Cancel;
use std::collections::{BTreeMap, HashMap};
use xxhash_rust::xxh3::xxh3_128;

/// How many bytes the paths may take; two trees that differ in more are different.
pub const ROOM: usize = 64 << 20;
/// What a path takes beside itself, about.
const PATH_LEN: usize = 128;
/// Entries of one directory that are looked at together.
const PAGE: usize = 1024;

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path; in the second tree, unless it was removed.
    pub path: Vec<u8>,
    /// What became of it.
    pub how: How,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// Its content differs, and perhaps more.
    Content,
    /// Its mode, owner, times, attributes or links differ.
    Metadata,
    /// It became a thing of another kind.
    Kind,
    /// It lay elsewhere, with the same content.
    Moved(Vec<u8>),
}

impl How {
    /// Its name in `--json`.
    pub fn key(&self) -> &'static str {
        match self {
            How::Added => "added",
            How::Removed => "removed",
            How::Content => "content",
            How::Metadata => "metadata",
            How::Kind => "kind",
            How::Moved(_) => "moved",
        }
    }
}

/// All that differs, in the order of paths; an error, when those take more than `room` bytes.
pub async fn changes(first: &Tree, second: &Tree, room: usize, cancel: &Cancel) -> Result<Vec<Change>> {
    let mut looking =
        Looking { cancel, changes: BTreeMap::new(), gone: BTreeMap::new(), came: Vec::new(), room };
    if first.root().id != second.root().id {
        let (a, b) = (first.top().await?, second.top().await?);
        if difference(a.entry(), b.entry()).metadata {
            let _new = looking.changes.insert(b".".to_vec(), How::Metadata);
        }
        looking.compare(a, b).await?;
        looking.settle().await?;
    }
    Ok(looking.changes.into_iter().map(|(path, how)| Change { path, how }).collect())
}

struct Looking<'a> {
    cancel: &'a Cancel,
    changes: BTreeMap<Vec<u8>, How>,
    /// What only the first tree has, everything below directories included: the key of its content, if it could be told again by it.
    gone: BTreeMap<Vec<u8>, Option<u128>>,
    /// What only the second tree has, without what is below.
    came: Vec<(Vec<u8>, Member)>,
    /// For more paths.
    room: usize,
}

impl Looking<'_> {
    async fn compare(&mut self, a: Member, b: Member) -> Result<()> {
        let mut todo = vec![(a, b, Vec::new())];
        while let Some((a, b, path)) = todo.pop() {
            self.cancel.check()?;
            let (Some(first), Some(second)) = (a.dir()?, b.dir()?) else { continue };
            let mut pairs = Vec::new();
            compare(&first, &second, &mut |pair| {
                pairs.push(pair);
                Ok(())
            })
            .await?;
            for pair in pairs {
                self.judge(&path)?;
                match pair {
                    Pair::First(member) => self.goes(below(&path, member.name()), &member).await?,
                    Pair::Second(member) => self.came.push((below(&path, member.name()), member)),
                    Pair::Both(a, b) => todo.extend(self.both(&path, a, b).await?),
                }
            }
        }
        Ok(())
    }

    /// A name that both have; two directories to look into.
    async fn both(&mut self, path: &[u8], a: Member, b: Member) -> Result<Option<(Member, Member, Vec<u8>)>> {
        let path = below(path, b.name());
        let differs = difference(a.entry(), b.entry());
        let is_directory = b.entry().is_directory() && !differs.kind;
        let how = match differs {
            differs if differs.kind => Some(How::Kind),
            differs if differs.content && !is_directory => Some(How::Content),
            differs => differs.metadata.then_some(How::Metadata),
        };
        if let Some(how) = how {
            let _new = self.changes.insert(path.clone(), how);
        }
        if differs.kind {
            // What lay in a directory that is none any more is gone, and the other way round.
            self.goes_below(&path, &a).await?;
            for (path, member) in self.entries_of(&path, &b).await? {
                self.came.push((path, member));
            }
            return Ok(None);
        }
        Ok((is_directory && differs.content).then_some((a, b, path)))
    }

    async fn goes(&mut self, path: Vec<u8>, member: &Member) -> Result<()> {
        let _new = self.gone.insert(path.clone(), key_of(member.entry()));
        self.goes_below(&path, member).await
    }

    async fn goes_below(&mut self, path: &[u8], member: &Member) -> Result<()> {
        let mut todo = vec![(path.to_owned(), member.clone())];
        while let Some((path, member)) = todo.pop() {
            for (path, member) in self.entries_of(&path, &member).await? {
                self.judge(&path)?;
                let _new = self.gone.insert(path.clone(), key_of(member.entry()));
                if member.entry().is_directory() {
                    todo.push((path, member));
                }
            }
        }
        Ok(())
    }

    /// Tells what came from what was moved, from the top down: what lies in a directory that was moved was moved with it.
    async fn settle(&mut self) -> Result<()> {
        let mut by_key: HashMap<u128, Vec<Vec<u8>>> = HashMap::new();
        for (path, key) in self.gone.iter().rev() {
            if let Some(key) = key {
                by_key.entry(*key).or_default().push(path.clone());
            }
        }
        let mut todo = std::mem::take(&mut self.came);
        todo.sort_by(|(a, _), (b, _)| b.cmp(a));
        while let Some((path, member)) = todo.pop() {
            self.judge(&path)?;
            let candidates = key_of(member.entry()).and_then(|key| by_key.get_mut(&key));
            let from = candidates.and_then(|paths| {
                while let Some(from) = paths.pop() {
                    if self.gone.contains_key(&from) {
                        return Some(from);
                    }
                }
                None
            });
            match from {
                Some(from) => {
                    self.is_moved(&from);
                    let _new = self.changes.insert(path, How::Moved(from));
                }
                None => {
                    let mut inner = self.entries_of(&path, &member).await?;
                    inner.reverse();
                    todo.extend(inner);
                    let _new = self.changes.insert(path, How::Added);
                }
            }
        }
        let gone = std::mem::take(&mut self.gone);
        self.changes.extend(gone.into_keys().map(|path| (path, How::Removed)));
        Ok(())
    }

    /// It and all below it is no longer merely gone.
    fn is_moved(&mut self, from: &[u8]) {
        let _gone = self.gone.remove(from);
        let prefix = [from, b"/"].concat();
        let inside = self.gone.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        let inside: Vec<Vec<u8>> = inside.map(|(path, _)| path.clone()).collect();
        for path in inside {
            let _gone = self.gone.remove(&path);
        }
    }

    async fn entries_of(&self, path: &[u8], member: &Member) -> Result<Vec<(Vec<u8>, Member)>> {
        let Some(dir) = member.dir()? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        while let Some(page) = next_page(&dir, all.len() as u64).await? {
            all.extend(page.into_iter().map(|member| (below(path, member.name()), member)));
            if all.len() > self.room / PATH_LEN {
                return Err(too_many());
            }
        }
        Ok(all)
    }

    /// One more path is told.
    fn judge(&mut self, path: &[u8]) -> Result<()> {
        self.cancel.check()?;
        self.room = self.room.checked_sub(path.len() + PATH_LEN).ok_or_else(too_many)?;
        Ok(())
    }
}

fn too_many() -> Error {
    Error::new(Kind::Unsupported, "they differ in too many paths")
        .hint("afterimage mount shows both side by side")
}

/// By what something would be known elsewhere: its content, where there is enough of it.
fn key_of(entry: &Entry) -> Option<u128> {
    let telling = match &entry.content {
        Content::Directory(below) => below.is_some(),
        Content::File(FileContent::Inline(bytes)) => !bytes.is_empty(),
        Content::File(FileContent::Zeros(_)) => false,
        Content::File(_) => true,
        _ => false,
    };
    telling.then(|| xxh3_128(&content_key(&entry.content)))
}

async fn next_page(dir: &Dir, from: u64) -> Result<Option<Vec<Member>>> {
    let page = dir.page(from, PAGE).await?;
    Ok((!page.is_empty()).then_some(page))
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        [] => name.to_owned(),
        path => [path, b"/", name].concat(),
    }
}
