//! Telling the kernel what is no longer as it remembers it.
//!
//! The calls return at once and never block: a thread of its own talks to the kernel, which takes directory locks that a lookup in
//! progress may hold. When the queue is full a notice is dropped and counted; the kernel then notices the change when what it
//! remembers runs out ([`Attr::keeps`](crate::tree::Attr::keeps), [`Entry::keeps`](crate::tree::Entry::keeps)).

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::watch::Watch;

/// Notices that may wait.
const QUEUE: usize = 4096;

/// One thing that changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Entry {
        dir: u64,
        name: OsString,
    },
    Node {
        ino: u64,
    },
    /// The mount is gone.
    End,
}

/// Tells one mount's kernel side about changes. Cheap to clone; harmless after the mount has ended.
#[derive(Clone, Debug)]
pub struct Notify {
    to: SyncSender<Notice>,
    watch: Arc<Watch>,
    root_ino: Arc<AtomicU64>,
}

impl Notify {
    pub(crate) fn new(watch: Arc<Watch>, root_ino: Arc<AtomicU64>) -> (Notify, Receiver<Notice>) {
        let (to, from) = sync_channel(QUEUE);
        (Notify { to, watch, root_ino }, from)
    }

    /// A name in the directory with inode number `dir` came, went or now stands for another node; the directory itself changed with it.
    pub fn entry(&self, dir: u64, name: impl Into<OsString>) {
        let dir = self.number(dir);
        self.send(Notice::Entry { dir, name: name.into() });
        self.send(Notice::Node { ino: dir });
    }

    /// A node's attributes, bytes or entries changed.
    pub fn node(&self, ino: u64) {
        self.send(Notice::Node { ino: self.number(ino) });
    }

    /// There is nobody to be told any more.
    pub(crate) fn end(&self) {
        // In a full queue there is a notice that will fail and so say the same.
        drop(self.to.try_send(Notice::End));
    }

    /// The kernel calls the root by its own number.
    fn number(&self, ino: u64) -> u64 {
        if ino == self.root_ino.load(Relaxed) { crate::nodes::ROOT } else { ino }
    }

    fn send(&self, notice: Notice) {
        match self.to.try_send(notice) {
            Ok(()) => self.watch.notices.add(1),
            Err(_) => self.watch.notices_lost.add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_never_block_and_lost_ones_are_counted() {
        let watch = Arc::new(Watch::default());
        let (notify, from) = Notify::new(watch.clone(), Arc::new(AtomicU64::new(99)));
        for _ in 0..QUEUE {
            notify.entry(99, "a");
        }
        assert_eq!((watch.notices.get(), watch.notices_lost.get()), (QUEUE as u64, QUEUE as u64));
        assert_eq!(from.recv().ok(), Some(Notice::Entry { dir: 1, name: "a".into() }));
        assert_eq!(from.recv().ok(), Some(Notice::Node { ino: 1 }));
        drop(from);
        notify.node(5);
        assert_eq!(watch.notices_lost.get(), QUEUE as u64 + 1);
    }
}
