//! Listing: pages of objects by name, out of folders that the file system shows in no order.
//!
//! A folder is read once for many pages: what did not fit into one is kept for the next, which must ask for just what comes
//! then; whoever begins anew, or has changed something since, sees the folder as it is.
//!
//! Holds: what somebody else left in the store (temps, links, names that are no object names) is passed over, and a folder of any
//! size takes bounded memory.

use super::disk::{Folder, Sort};
use super::words::failed;
use super::{Directory, Naming, locked};
use crate::error::{Error, Kind, Result};
use crate::store::{Listed, Name, Stat};
use rustix::io::Errno;
use std::collections::BinaryHeap;

/// An answer with so many objects is long enough.
const PAGE_LEN: usize = 1000;

/// So many folders are looked into at once, since a disk answers several as fast as one; the page is longer then, by what all of them hold.
const AT_ONCE: usize = 8;

/// How many entries of a folder are sorted at a time.
pub(super) const KEYS_MAX: usize = 1 << 16;

/// A folder's entries in the order in which the objects in them sort: a folder's key ends in `/`.
#[derive(Default)]
struct Keys {
    /// The next ones, the first of them last.
    reversed: Vec<String>,
    /// Whether the folder holds more behind them.
    more: bool,
}

/// What a page left over: the entries of the folder `prefix` behind the key `behind`.
pub(super) struct LeftOver {
    prefix: String,
    behind: String,
    keys: Keys,
}

impl Directory {
    pub(super) fn page(&self, under: &str, after: Option<&Name>) -> Result<Vec<Listed>> {
        let folder = under.strip_suffix('/').unwrap_or(under);
        if !under.is_empty() && (folder.len() == under.len() || (self.naming)(folder).is_err()) {
            return Err(Error::new(Kind::Usage, format!("list: {under:?} is not a folder of objects")));
        }
        let left_over = locked(&self.left_over).take();
        let after = after.map_or("", Name::as_str);
        let mut page = Page { naming: self.naming, after, found: Vec::new(), left_over, may_spread: true };
        let walked = match self.folder_at(folder) {
            Ok(root) => page.walk(&*root, under),
            Err(errno) => Err(errno),
        };
        match walked {
            Ok(()) | Err(Errno::NOENT) => {
                *locked(&self.left_over) = page.left_over;
                Ok(page.found)
            }
            Err(errno) => Err(failed("list", &format!("{}/{under}", self.place), errno)),
        }
    }
}

struct Page<'a> {
    naming: Naming,
    after: &'a str,
    found: Vec<Listed>,
    left_over: Option<LeftOver>,
    /// Whether folders may be looked into at once: not within one that is.
    may_spread: bool,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.found.len() >= PAGE_LEN
    }

    fn walk(&mut self, folder: &dyn Folder, prefix: &str) -> rustix::io::Result<()> {
        let mut keys = self.keys_left_over(prefix);
        let mut last = String::new();
        loop {
            let Some(key) = keys.reversed.pop() else {
                if !keys.more {
                    return Ok(());
                }
                keys = self.keys(folder, prefix, &last)?;
                continue;
            };
            if let Some(first) = self.spread_from(&keys, &key) {
                let mut folders = keys.reversed.split_off(first);
                folders.push(key);
                last = self.spread(folder, prefix, folders)?;
                if self.is_full() {
                    return Ok(());
                }
                continue;
            }
            match self.visit(folder, prefix, &key) {
                // What vanished since it was seen was deleted beside us.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            if self.is_full() {
                // A page that was filled inside a folder has left over the rest of that one.
                if !key.ends_with('/') {
                    self.left_over = Some(LeftOver { prefix: prefix.to_owned(), behind: key, keys });
                }
                return Ok(());
            }
            last = key;
        }
    }

    /// Where the folders begin, among the keys to come, that are looked into together with this one.
    fn spread_from(&self, keys: &Keys, key: &str) -> Option<usize> {
        let is_folder = |key: &&String| key.ends_with('/');
        let others = keys.reversed.iter().rev().take(AT_ONCE - 1).take_while(is_folder).count();
        let pays = self.may_spread && key.ends_with('/') && others + 1 == AT_ONCE;
        // What was left over lies in one of them: the page begins there, and in no other.
        (pays && self.left_over.is_none()).then(|| keys.reversed.len() - others)
    }

    /// Looks into folders at once; the last of them that was listed to its end, or up to which the page is full.
    fn spread(
        &mut self,
        folder: &dyn Folder,
        prefix: &str,
        mut reversed: Vec<String>,
    ) -> rustix::io::Result<String> {
        let (naming, after) = (self.naming, self.after);
        let look = |key: &str| {
            let mut page = Page { naming, after, found: Vec::new(), left_over: None, may_spread: false };
            match page.visit(folder, prefix, key) {
                Ok(()) | Err(Errno::NOENT) => Ok(page),
                Err(errno) => Err(errno),
            }
        };
        let mut pages: Vec<rustix::io::Result<Page<'_>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = reversed.iter().map(|key| scope.spawn(|| look(key))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Errno::IO))).collect()
        });
        loop {
            let (Some(key), Some(page)) = (reversed.pop(), pages.pop()) else { return Ok(String::new()) };
            let page = page?;
            let is_full = page.is_full();
            self.found.extend(page.found);
            // Behind a folder that filled a page there may be more in it: what comes after it is not its turn.
            if is_full {
                self.left_over = page.left_over;
            }
            if is_full || reversed.is_empty() {
                return Ok(key);
            }
        }
    }

    fn visit(&mut self, folder: &dyn Folder, prefix: &str, key: &str) -> rustix::io::Result<()> {
        if let Some(name) = key.strip_suffix('/') {
            return self.walk(&*folder.folder(name)?, &format!("{prefix}{key}"));
        }
        let facts = folder.stat(key)?;
        if let (Sort::File, Ok(name)) = (facts.sort, (self.naming)(&format!("{prefix}{key}"))) {
            self.found.push(Listed { name, stat: Stat { len: facts.len, published: facts.modified } });
        }
        Ok(())
    }

    /// What the last page left over of this folder, if this one goes on just there; otherwise all is still to be read.
    fn keys_left_over(&mut self, prefix: &str) -> Keys {
        let goes_on = |left: &mut LeftOver| {
            left.prefix == prefix && self.after.strip_prefix(prefix) == Some(left.behind.as_str())
        };
        match self.left_over.take_if(goes_on) {
            Some(left) => left.keys,
            None => Keys { reversed: Vec::new(), more: true },
        }
    }

    /// The next entries behind `last` that may hold what we look for.
    fn keys(&self, folder: &dyn Folder, prefix: &str, last: &str) -> rustix::io::Result<Keys> {
        let mut smallest = BinaryHeap::new();
        let mut more = false;
        folder.each(&mut |name, sort| {
            let key = match sort {
                Sort::File => name.to_owned(),
                Sort::Folder => format!("{name}/"),
                Sort::Other => return,
            };
            if key.as_str() > last && self.may_hold_more(prefix, &key) && (self.naming)(name).is_ok() {
                smallest.push(key);
                if smallest.len() > KEYS_MAX {
                    drop(smallest.pop());
                    more = true;
                }
            }
        })?;
        let mut reversed = smallest.into_sorted_vec();
        reversed.reverse();
        Ok(Keys { reversed, more })
    }

    /// Whether the object with this key, or some object in the folder with this key, comes behind `after`.
    fn may_hold_more(&self, prefix: &str, key: &str) -> bool {
        match self.after.strip_prefix(prefix) {
            Some(after) => key > after || (key.ends_with('/') && after.starts_with(key)),
            None => prefix > self.after,
        }
    }
}
