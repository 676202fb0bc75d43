//! The names behind the numbers of users and groups, as this machine's own tables have them.
//!
//! Directory services are not asked: the numbers are what counts, and a name that is not known here is left empty.

use crate::format::limits;
use crate::format::tree::Owner;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The tables, and the owners that were met so far: files of one owner share it.
pub struct Owners {
    users: HashMap<u32, Bytes>,
    groups: HashMap<u32, Bytes>,
    met: Mutex<HashMap<(u32, u32), Arc<Owner>>>,
}

/// So many different owners are kept; more are made anew each time.
const MET_MAX: usize = 4096;

impl Owners {
    /// From `/etc/passwd` and `/etc/group`.
    pub fn of_this_machine() -> Owners {
        let read = |path| std::fs::read(path).unwrap_or_default();
        Owners::of(&read("/etc/passwd"), &read("/etc/group"))
    }

    pub(in crate::source) fn of(users: &[u8], groups: &[u8]) -> Owners {
        Owners { users: table(users), groups: table(groups), met: Mutex::default() }
    }

    /// Whose a file with these numbers is.
    pub fn owner(&self, uid: u32, gid: u32) -> Arc<Owner> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = met.get(&(uid, gid)) {
            return Arc::clone(owner);
        }
        let name = |table: &HashMap<u32, Bytes>, id| table.get(&id).cloned().unwrap_or_default();
        let owner =
            Arc::new(Owner { uid, gid, user: name(&self.users, uid), group: name(&self.groups, gid) });
        if met.len() < MET_MAX {
            let _none = met.insert((uid, gid), Arc::clone(&owner));
        }
        owner
    }
}

/// `name:password:number:...`, one a line; the first name of a number counts.
fn table(text: &[u8]) -> HashMap<u32, Bytes> {
    let mut table = HashMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        let is_name = (1..=usize::from(limits::FILE_NAME_LEN_MAX)).contains(&name.len());
        if let (Some(number), true) = (number, is_name) {
            let _first = table.entry(number).or_insert_with(|| Bytes::copy_from_slice(name));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_tables_and_are_empty_where_they_have_none() {
        let owners =
            Owners::of(b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbad\nx:y:z\n", b"adm:x:4:\n");
        let owner = owners.owner(0, 4);
        assert_eq!((&owner.user[..], &owner.group[..]), (&b"root"[..], &b"adm"[..]));
        assert!(Arc::ptr_eq(&owner, &owners.owner(0, 4)));
        assert!(owners.owner(77, 0).user.is_empty());
    }
}
