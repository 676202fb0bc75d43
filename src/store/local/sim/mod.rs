//! A simulated disk, which loses what was not synced: as much or as little of it as a test wants to see lost.
//!
//! What a crash may leave is any choice among the changes since the last sync that covers them: each is there or not, in whatever
//! order they were made, and a write may be there in part or as zeros. File bytes and directory names are synced apart, and the
//! two halves of a rename are two changes. Faults it makes besides: any call fails; a failed sync forgets what it was to keep and
//! succeeds when asked again; calls are interrupted or short; the disk is full; nothing may be changed.
//! Faults it does not make: damage to what was synced, time that runs by itself.

mod media;

use super::disk::{Facts, File, Folder, Sort};
use media::{Change, Media, Node, ROOT};
use rustix::io::{Errno, Result};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Machine>>);

struct Machine {
    media: Media,
    now: SystemTime,
    calls: u64,
    syncs: u64,
    trouble: Trouble,
    /// What stood before each change since `watch`.
    moments: Option<Vec<Media>>,
}

/// What the disk does to its callers.
#[derive(Default)]
struct Trouble {
    fail_at: Option<(u64, Errno)>,
    failed_sync: bool,
    room: Option<u64>,
    refuse_changes: Option<Errno>,
    piece_max: Option<usize>,
    interrupted: bool,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::with(Media::new())
    }

    fn with(media: Media) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Machine {
            media,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000),
            calls: 0,
            syncs: 0,
            trouble: Trouble::default(),
            moments: None,
        })))
    }

    /// Its root folder.
    pub fn root(&self) -> Arc<dyn Folder> {
        Arc::new(SimNode { disk: self.clone(), node: ROOT })
    }

    /// Puts its clock forward.
    pub fn advance(&self, by: Duration) {
        self.machine().now += by;
    }

    /// How many calls it has had.
    pub fn calls(&self) -> u64 {
        self.machine().calls
    }

    /// How many syncs it was asked for.
    pub fn syncs(&self) -> u64 {
        self.machine().syncs
    }

    /// Removes an entry of the root for good, with all that is in it, as another program would.
    pub fn take_away(&self, name: &str) {
        let mut machine = self.machine();
        machine.media.make(Change::Leave { node: ROOT, name: name.to_owned() });
        machine.media.sync(ROOT);
    }

    /// Makes the call fail that is the `nth` from now on; the first is 1. A sync that fails loses what it was to keep.
    pub fn fail_at(&self, nth: u64, errno: Errno) {
        let mut machine = self.machine();
        machine.trouble.fail_at = Some((machine.calls + nth, errno));
        machine.trouble.failed_sync = false;
    }

    /// Whether the planned failure has not happened; and it will not any more.
    pub fn disarm(&self) -> bool {
        self.machine().trouble.fail_at.take().is_some()
    }

    /// Whether the call that failed as planned was a sync.
    pub fn failed_a_sync(&self) -> bool {
        self.machine().trouble.failed_sync
    }

    /// Lets files grow by no more than `bytes` in all from now on; `None` is no bound.
    pub fn leave_room(&self, bytes: Option<u64>) {
        self.machine().trouble.room = bytes;
    }

    /// Makes all changes fail from now on, as on a disk that was mounted read-only or taken from us.
    pub fn refuse_changes(&self, errno: Option<Errno>) {
        self.machine().trouble.refuse_changes = errno;
    }

    /// Moves at most so many bytes per read or write, and interrupts every second one.
    pub fn stutter(&self, piece_max: usize) {
        self.machine().trouble.piece_max = Some(piece_max);
    }

    /// Remembers every moment from now on.
    pub fn watch(&self) {
        self.machine().moments = Some(Vec::new());
    }

    /// What a crash could have left at any moment since `watch`, now not included.
    pub fn crashes_before_now(&self) -> Vec<SimDisk> {
        let moments = self.machine().moments.take().unwrap_or_default();
        moments.iter().flat_map(Media::crashes).map(SimDisk::with).collect()
    }

    /// What a crash could leave now.
    pub fn crashes(&self) -> Vec<SimDisk> {
        let media = self.machine().media.clone();
        media.crashes().into_iter().map(SimDisk::with).collect()
    }

    /// The paths of all files, in order.
    pub fn files(&self) -> Vec<String> {
        let media = self.machine().media.clone();
        let mut found = Vec::new();
        media.paths(ROOT, "", &mut found);
        found
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call that asks, and lets it fail if it is its turn.
    fn ask(&self) -> Result<MutexGuard<'_, Machine>> {
        let mut machine = self.machine();
        machine.calls += 1;
        match machine.trouble.fail_at {
            Some((call, errno)) if call == machine.calls => {
                machine.trouble.fail_at = None;
                Err(errno)
            }
            _ => Ok(machine),
        }
    }

    /// The same for a call that makes a difference to a crash.
    fn step(&self) -> Result<MutexGuard<'_, Machine>> {
        let mut machine = self.ask()?;
        if machine.moments.is_some() {
            let before = machine.media.clone();
            machine.moments.get_or_insert_default().push(before);
        }
        Ok(machine)
    }

    /// The same for a call that changes something.
    fn change(&self) -> Result<MutexGuard<'_, Machine>> {
        let machine = self.step()?;
        machine.trouble.refuse_changes.map_or(Ok(machine), Err)
    }

    fn sync(&self, node: u64) -> Result<()> {
        self.machine().syncs += 1;
        match self.step() {
            Ok(mut machine) => {
                machine.media.sync(node);
                Ok(())
            }
            Err(errno) => {
                let mut machine = self.machine();
                machine.trouble.failed_sync = true;
                machine.media.lose(node);
                Err(errno)
            }
        }
    }
}

/// An open file or folder.
struct SimNode {
    disk: SimDisk,
    node: u64,
}

impl SimNode {
    fn beside(&self, node: u64) -> SimNode {
        SimNode { disk: self.disk.clone(), node }
    }

    /// How much of `len` bytes a read or write moves this time.
    fn piece(&self, machine: &mut Machine, len: usize) -> Result<usize> {
        let Some(piece_max) = machine.trouble.piece_max else { return Ok(len) };
        machine.trouble.interrupted = !machine.trouble.interrupted;
        if machine.trouble.interrupted { Err(Errno::INTR) } else { Ok(len.min(piece_max)) }
    }
}

impl File for SimNode {
    fn facts(&self) -> Result<Facts> {
        self.disk.ask()?.media.facts(self.node)
    }

    fn read(&self, into: &mut Vec<u8>, at: u64) -> Result<usize> {
        let mut machine = self.disk.ask()?;
        let bytes = machine.media.file(self.node)?.clone();
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let len = self.piece(&mut machine, rest.len().min(into.capacity() - into.len()))?;
        into.extend_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> Result<usize> {
        let mut machine = self.disk.change()?;
        let whole = parts.iter().map(|part| part.len()).sum();
        let mut len = self.piece(&mut machine, whole)?;
        if let Some(room) = &mut machine.trouble.room {
            len = len.min(*room as usize);
            *room -= len as u64;
            if len == 0 {
                return Err(Errno::NOSPC);
            }
        }
        let mut bytes = Vec::with_capacity(len);
        for part in parts {
            bytes.extend_from_slice(&part[..part.len().min(len - bytes.len())]);
        }
        let modified = machine.now;
        machine.media.make(Change::Write {
            node: self.node,
            at: at as usize,
            bytes: Arc::new(bytes),
            modified,
        });
        Ok(len)
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync(self.node)
    }

    fn expect(&self, _: std::ops::Range<u64>) {}

    fn let_go(&self) {}
}

impl Folder for SimNode {
    fn facts(&self) -> Result<Facts> {
        self.disk.ask()?.media.facts(self.node)
    }

    fn folder(&self, name: &str) -> Result<Arc<dyn Folder>> {
        let machine = self.disk.ask()?;
        let node = machine.media.find(self.node, name)?;
        machine.media.names(node).map(|_| Arc::new(self.beside(node)) as Arc<dyn Folder>)
    }

    fn make_folder(&self, name: &str) -> Result<()> {
        let mut machine = self.disk.change()?;
        machine.media.must_be_free(self.node, name)?;
        let what = machine.media.new_node(Node::Folder { names: BTreeMap::new() });
        machine.media.make(Change::Enter { node: self.node, name: name.to_owned(), what });
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Box<dyn File>> {
        let machine = self.disk.ask()?;
        let node = machine.media.find(self.node, name)?;
        machine.media.file(node).map(|_| Box::new(self.beside(node)) as Box<dyn File>)
    }

    fn create(&self, name: &str) -> Result<Box<dyn File>> {
        let mut machine = self.disk.change()?;
        machine.media.must_be_free(self.node, name)?;
        let modified = machine.now;
        let what = machine.media.new_node(Node::File { bytes: Arc::default(), modified });
        machine.media.make(Change::Enter { node: self.node, name: name.to_owned(), what });
        Ok(Box::new(self.beside(what)))
    }

    fn publish(&self, from: &str, to: &str) -> Result<()> {
        let mut machine = self.disk.change()?;
        let what = machine.media.find(self.node, from)?;
        machine.media.must_be_free(self.node, to)?;
        machine.media.make(Change::Enter { node: self.node, name: to.to_owned(), what });
        machine.media.make(Change::Leave { node: self.node, name: from.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut machine = self.disk.change()?;
        let what = machine.media.find(self.node, name)?;
        let _file = machine.media.file(what)?;
        machine.media.make(Change::Leave { node: self.node, name: name.to_owned() });
        Ok(())
    }

    fn remove_folder(&self, name: &str) -> Result<()> {
        let mut machine = self.disk.change()?;
        let what = machine.media.find(self.node, name)?;
        if !machine.media.names(what)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        machine.media.make(Change::Leave { node: self.node, name: name.to_owned() });
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Facts> {
        let machine = self.disk.ask()?;
        machine.media.facts(machine.media.find(self.node, name)?)
    }

    fn each(&self, visit: &mut dyn FnMut(&str, Sort)) -> Result<()> {
        let media = self.disk.ask()?.media.clone();
        for (name, node) in media.names(self.node)? {
            visit(name, media.facts(*node)?.sort);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Body, LocalStore, Name, Store};
    use std::sync::mpsc;

    fn write(folder: &dyn Folder, name: &str, bytes: &[u8], sync: bool) {
        let file = folder.create(name).unwrap();
        assert_eq!(file.write(&[IoSlice::new(bytes)], 0).unwrap(), bytes.len());
        if sync {
            file.sync().unwrap();
        }
    }

    /// What a file is in each crash state; `None` is absent.
    fn outcomes(disk: &SimDisk, name: &str) -> Vec<Option<Vec<u8>>> {
        let read = |disk: SimDisk| {
            let mut bytes = Vec::with_capacity(100);
            disk.root().open(name).ok()?.read(&mut bytes, 0).is_ok().then_some(bytes)
        };
        let mut outcomes: Vec<_> = disk.crashes().into_iter().map(read).collect();
        outcomes.sort();
        outcomes.dedup();
        outcomes
    }

    #[test]
    fn what_was_not_synced_is_lost_in_every_way() {
        let disk = SimDisk::new();
        write(&*disk.root(), "a", b"abcd", false);
        let ways: [Option<&[u8]>; 6] =
            [None, Some(b""), Some(b"\0\0\0\0"), Some(b"ab"), Some(b"ab\0\0"), Some(b"abcd")];
        assert_eq!(outcomes(&disk, "a"), ways.map(|way| way.map(<[u8]>::to_vec)));
        disk.root().sync().unwrap();
        assert_eq!(outcomes(&disk, "a").len(), 5, "the name is safe, its bytes are not");
    }

    #[test]
    fn what_was_synced_stays_and_names_need_a_sync_of_their_own() {
        let disk = SimDisk::new();
        write(&*disk.root(), "a", b"abcd", true);
        assert_eq!(outcomes(&disk, "a"), [None, Some(b"abcd".to_vec())]);
        disk.root().sync().unwrap();
        assert_eq!(outcomes(&disk, "a"), [Some(b"abcd".to_vec())]);
    }

    #[test]
    fn a_rename_that_was_not_synced_leaves_either_name_or_both_or_none() {
        let disk = SimDisk::new();
        write(&*disk.root(), "a", b"abcd", true);
        disk.root().sync().unwrap();
        disk.root().publish("a", "b").unwrap();
        let mut left: Vec<Vec<String>> = disk.crashes().iter().map(SimDisk::files).collect();
        left.sort();
        assert_eq!(left, [vec![], vec!["a".to_owned()], vec!["a".into(), "b".into()], vec!["b".into()]]);
    }

    #[test]
    fn a_sync_that_failed_loses_its_bytes_and_lies_when_asked_again() {
        let disk = SimDisk::new();
        let file = disk.root().create("a").unwrap();
        disk.root().sync().unwrap();
        assert_eq!(file.write(&[IoSlice::new(b"abcd")], 0), Ok(4));
        disk.fail_at(1, Errno::IO);
        assert_eq!(file.sync(), Err(Errno::IO));
        assert!(disk.failed_a_sync() && !disk.disarm());
        assert_eq!(file.sync(), Ok(()));
        assert_eq!(outcomes(&disk, "a"), [Some(vec![])]);
    }

    /// The disk is held by a thread that lets go when it is told, or after a while; told it is by the worker that the put must
    /// not keep.
    #[test]
    fn a_put_that_waits_for_its_disk_leaves_the_worker_to_others() {
        let disk = SimDisk::new();
        let store = LocalStore::on(disk.root(), "simulated").unwrap();
        let (held, is_held) = mpsc::channel();
        let (let_go, told) = mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _machine = disk.machine();
            held.send(()).unwrap();
            told.recv_timeout(Duration::from_secs(10)).is_ok()
        });
        is_held.recv().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let name = Name::parse("a").unwrap();
            let tell = async { let_go.send(()).unwrap() };
            let (put, ()) = tokio::join!(store.put(&name, Body::default()), tell);
            put.unwrap();
        });
        assert!(holder.join().unwrap(), "the put kept the only worker until the disk was free");
    }
}
