//! Removing what a tree has not: everything under a name, without following links and without leaving the directory that was named.

use super::folder::Folder;
use crate::progress::Cancel;
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

/// Removes what is there under a name, whatever it is; how many names that were.
pub(super) fn remove_all(folder: &Folder, name: &[u8], cancel: &Cancel) -> Result<u64> {
    match folder.remove(name) {
        Ok(()) => return Ok(1),
        Err(Errno::NOENT) => return Ok(0),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let mut removed = 0;
    // Down to a directory with no directory in it, again and again: no more is held than the way down.
    let mut levels = vec![(folder.enter(name)?, name.to_owned())];
    while let Some((here, _)) = levels.last() {
        if cancel.check().is_err() {
            return Err(Errno::INTR);
        }
        let inner = empty_of_files(here, &mut removed)?;
        match inner {
            Some(inner) => levels.push((here.enter(&inner)?, inner)),
            None => {
                let Some((_, name)) = levels.pop() else { break };
                let outer = levels.last().map_or(folder, |(outer, _)| outer);
                outer.remove_empty(&name)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Removes all but the directories in a directory; the name of one of those.
fn empty_of_files(folder: &Folder, removed: &mut u64) -> Result<Option<Vec<u8>>> {
    let mut inner = None;
    folder.list(|name, kind| {
        let name = name.to_bytes();
        let is_directory = match kind {
            FileType::Directory => true,
            FileType::Unknown => folder.hold(name)?.kind() == FileType::Directory,
            _ => false,
        };
        if is_directory {
            let _first = inner.get_or_insert_with(|| name.to_owned());
        } else {
            folder.remove(name)?;
            *removed += 1;
        }
        Ok(())
    })?;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::os::unix::fs::symlink;

    #[test]
    fn r11_removing_follows_no_link_and_leaves_what_lies_beside() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("old/a/b/c")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "precious").unwrap();
        for number in 0..100 {
            std::fs::write(inside.join(format!("old/a/{number}")), "x").unwrap();
            std::fs::create_dir(inside.join(format!("old/a/b/{number}"))).unwrap();
        }
        symlink(&outside, inside.join("old/a/link")).unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        let folder = Folder::new(rustix::fs::open(&inside, OFlags::DIRECTORY, Mode::empty()).unwrap());
        assert_eq!(remove_all(&folder, b"old", &Cancel::default()).unwrap(), 100 + 100 + 5);
        assert_eq!(remove_all(&folder, b"link", &Cancel::default()).unwrap(), 1);
        assert_eq!(remove_all(&folder, b"none", &Cancel::default()).unwrap(), 0);
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0);
    }
}
