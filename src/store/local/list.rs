//! Listing: one page of objects by name, out of folders that the file system shows in no order.
//!
//! Holds: what somebody else left in the store (temps, links, names that are no object names) is passed over, and a folder of any
//! size takes the memory of one page.

use super::Directory;
use super::disk::{Folder, Sort};
use super::words::failed;
use crate::error::{Error, Kind, Result};
use crate::store::{Listed, Name, Stat};
use rustix::io::Errno;
use std::collections::BinaryHeap;

/// How many objects an answer holds.
const PAGE_LEN: usize = 1000;

impl Directory {
    pub(super) fn page(&self, under: &str, after: Option<&Name>) -> Result<Vec<Listed>> {
        let folder = under.strip_suffix('/').unwrap_or(under);
        if !under.is_empty() && (folder.len() == under.len() || Name::parse(folder).is_err()) {
            return Err(Error::new(Kind::Usage, format!("list: {under:?} is not a folder of objects")));
        }
        let mut page = Page { after: after.map_or("", Name::as_str), found: Vec::new() };
        let walked = match self.folder_at(folder) {
            Ok(root) => page.walk(&*root, under),
            Err(errno) => Err(errno),
        };
        match walked {
            Ok(()) | Err(Errno::NOENT) => Ok(page.found),
            Err(errno) => Err(failed("list", &format!("{}/{under}", self.place), errno)),
        }
    }
}

struct Page<'a> {
    after: &'a str,
    found: Vec<Listed>,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.found.len() >= PAGE_LEN
    }

    fn walk(&mut self, folder: &dyn Folder, prefix: &str) -> rustix::io::Result<()> {
        let mut last = String::new();
        while !self.is_full() {
            let keys = self.next_keys(folder, prefix, &last)?;
            let Some(newest) = keys.last() else { return Ok(()) };
            last.clone_from(newest);
            for key in keys {
                // What vanished since it was seen was deleted beside us.
                match self.visit(folder, prefix, &key) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
                if self.is_full() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, folder: &dyn Folder, prefix: &str, key: &str) -> rustix::io::Result<()> {
        if let Some(name) = key.strip_suffix('/') {
            return self.walk(&*folder.folder(name)?, &format!("{prefix}{key}"));
        }
        let facts = folder.stat(key)?;
        if let (Sort::File, Ok(name)) = (facts.sort, Name::parse(&format!("{prefix}{key}"))) {
            self.found.push(Listed { name, stat: Stat { len: facts.len, published: facts.modified } });
        }
        Ok(())
    }

    /// The next page's worth of entries behind `last`. A folder's key ends in `/`: so keys sort as the names under them do.
    fn next_keys(&self, folder: &dyn Folder, prefix: &str, last: &str) -> rustix::io::Result<Vec<String>> {
        let mut smallest = BinaryHeap::with_capacity(PAGE_LEN + 1);
        folder.each(&mut |name, sort| {
            let key = match sort {
                Sort::File => name.to_owned(),
                Sort::Folder => format!("{name}/"),
                Sort::Other => return,
            };
            if key.as_str() > last && self.may_hold_more(&format!("{prefix}{key}"), name) {
                smallest.push(key);
                if smallest.len() > PAGE_LEN {
                    drop(smallest.pop());
                }
            }
        })?;
        Ok(smallest.into_sorted_vec())
    }

    /// Whether the object `path`, or some object in the folder `path`, can be one of those we look for.
    fn may_hold_more(&self, path: &str, last_part: &str) -> bool {
        let is_behind = path > self.after || (path.ends_with('/') && self.after.starts_with(path));
        is_behind && Name::parse(last_part).is_ok()
    }
}
