//! The kernel's FUSE protocol <-> the tree: the only room that knows the crate `fuser`.
//!
//! A thin shell. Each handler finds the node or handle, asks the tree through [`crate::serve`] and turns what it says into a reply. Everything
//! that would write is refused before it gets here, as the mount is read-only, and once more by what stands at the end.
//!
//! Entered from [`crate::mount`] with an open `/dev/fuse`. Invariant: nothing here waits, except in tasks that `serve` made.

mod attr;
mod backing;
mod listing;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, Session, SessionACL,
    TimeOrNow, WriteFlags,
};

use self::attr::file_attr;
use self::backing::Backings;
use crate::cursor;
use crate::error::{Error, Kind};
use crate::handles::Handles;
use crate::nodes::{Known, Nodes, ROOT};
use crate::notify::Notice;
use crate::serve::{Log, Reply, Server};
use crate::tree::{Answer, Entry, OpenDir, OpenFile, Seek, Tree};
use crate::watch::{Op, Watch};

/// Requests the kernel may have under way without anybody waiting in a system call (read-ahead, mostly). Many, so that the readers of a file
/// that hangs cannot use them all up and hold up those of another.
const BACKGROUND_MAX: u16 = 2048;
/// Longest path of a symbolic link that the kernel takes.
const LINK_LEN_MAX: usize = 4095;
/// The generation of every node: inode numbers are not used again for something else.
const GENERATION: Generation = Generation(0);

/// What a session is started with.
pub(crate) struct Settings {
    /// Event loops.
    pub(crate) loops: usize,
    /// Other users may come; the kernel checks permissions.
    pub(crate) allow_other: bool,
    /// Files that the tree has as plain ones are handed to the kernel.
    pub(crate) passthrough: bool,
    /// Every operation's.
    pub(crate) deadline: Duration,
    /// Where what waits is polled.
    pub(crate) runtime: tokio::runtime::Handle,
    /// What is counted.
    pub(crate) watch: Arc<Watch>,
    /// The tree's own number of its root, as soon as it is known.
    pub(crate) root_ino: Arc<AtomicU64>,
}

/// A mount that is up: the kernel said hello and got its answer.
pub(crate) struct Running<T: Tree>(Session<Daemon<T>>);

/// Greets the kernel on a descriptor that is mounted.
pub(crate) fn greet<T: Tree>(tree: Arc<T>, device: OwnedFd, settings: &Settings) -> io::Result<Running<T>> {
    let mut config = Config::default();
    config.n_threads = Some(settings.loops);
    config.clone_fd = true;
    config.acl = if settings.allow_other { SessionACL::All } else { SessionACL::Owner };
    let acl = config.acl;
    Session::from_fd(Daemon::new(tree, settings), device, acl, config).map(Running)
}

impl<T: Tree> Running<T> {
    /// Serves until the kernel is done with the mount.
    pub(crate) fn run(self) -> io::Result<()> {
        self.0.run()
    }

    /// Passes notices on until the mount is gone.
    pub(crate) fn herald(&self) -> impl FnOnce(Receiver<Notice>) + Send + 'static {
        let notifier = self.0.notifier();
        move |notices| while notices.recv().is_ok_and(|notice| tell(&notifier, &notice)) {}
    }
}

/// Whether there is still somebody to tell.
fn tell(notifier: &Notifier, notice: &Notice) -> bool {
    let told = match notice {
        Notice::Entry { dir, name } => notifier.inval_entry(INodeNo(*dir), name),
        Notice::Node { ino } => notifier.inval_inode(INodeNo(*ino), 0, 0),
        Notice::End => return false,
    };
    // Other errors say that the kernel does not remember the node or name: nothing to invalidate.
    !told.is_err_and(|error| rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NODEV))
}

struct Daemon<T: Tree> {
    shared: Arc<Shared<T>>,
}

struct Shared<T: Tree> {
    tree: Arc<T>,
    server: Arc<Server>,
    nodes: Nodes<T::Node>,
    files: Handles<File<T>>,
    dirs: Handles<Dir<T>>,
    backings: Option<Backings>,
    acls: bool,
    root_ino: Arc<AtomicU64>,
}

struct File<T: Tree> {
    file: Arc<T::File>,
    size: u64,
    number: u64,
}

struct Dir<T: Tree> {
    known: Known<T::Node>,
    number: u64,
    dir: Mutex<Arc<T::Dir>>,
    /// A reader that comes back to the start wants to see what is new.
    read_before: AtomicBool,
}

impl<T: Tree> Dir<T> {
    fn now(&self) -> Arc<T::Dir> {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn becomes(&self, dir: Arc<T::Dir>) {
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = dir;
    }
}

impl<T: Tree> Daemon<T> {
    fn new(tree: Arc<T>, settings: &Settings) -> Self {
        let watch = settings.watch.clone();
        let runtime = settings.runtime.clone();
        let server =
            Arc::new(Server { watch: watch.clone(), runtime, deadline: settings.deadline, log: Log::new() });
        let nodes = Nodes::new(tree.root(), watch);
        let backings = settings.passthrough.then(Backings::default);
        let (files, dirs) = (Handles::new(), Handles::new());
        let (acls, root_ino) = (settings.allow_other, settings.root_ino.clone());
        Daemon { shared: Arc::new(Shared { tree, server, nodes, files, dirs, backings, acls, root_ino }) }
    }

    /// One operation: `ask` what the tree says, `send` it.
    fn answer<A, R>(
        &self,
        op: Op,
        request: &fuser::Request,
        reply: R,
        ask: impl FnOnce(&Arc<Shared<T>>) -> Answer<A>,
        send: impl FnOnce(&Shared<T>, R, A) -> Sent<R> + Send + 'static,
    ) where
        A: Send + 'static,
        R: Reply,
    {
        let shared = self.shared.clone();
        let ask = || ask(&self.shared);
        self.shared
            .server
            .run(op, request.pid(), reply, ask, move |reply, answer| send(&shared, reply, answer));
    }

    /// The same, about a node.
    fn about<A, R>(
        &self,
        op: Op,
        request: &fuser::Request,
        number: INodeNo,
        reply: R,
        ask: impl FnOnce(&Arc<Shared<T>>, Known<T::Node>) -> Answer<A>,
        send: impl FnOnce(&Shared<T>, R, A) -> Sent<R> + Send + 'static,
    ) where
        A: Send + 'static,
        R: Reply,
    {
        self.answer(
            op,
            request,
            reply,
            |shared| match shared.nodes.get(number.0) {
                Some(known) => ask(shared, known),
                None => Answer::fail(Kind::Stale, "the kernel asks for a node that it has forgotten"),
            },
            send,
        );
    }

    fn refuse<R: Reply>(&self, request: &fuser::Request, reply: R) {
        self.answer(
            Op::Refused,
            request,
            reply,
            |_| Answer::<()>::fail(Kind::ReadOnly, "read-only"),
            |_, _, ()| Ok(()),
        );
    }

    /// The kernel may stop asking this at all.
    fn never<R: Reply>(&self, request: &fuser::Request, reply: R) {
        self.answer(
            Op::Refused,
            request,
            reply,
            |_| Answer::<()>::fail(Kind::Never, "not here"),
            |_, _, ()| Ok(()),
        );
    }
}

/// A reply is gone, or comes back with what is wrong.
type Sent<R> = Result<(), (R, Error)>;

impl<T: Tree> Shared<T> {
    /// The number by which the kernel will call an entry's node.
    fn remember(&self, entry: &Entry<T::Node>, parent: u64) -> u64 {
        self.nodes.remember(entry.attr.ino, entry.node.clone(), parent)
    }

    fn watch(&self) -> &Watch {
        &self.server.watch
    }

    fn opened(&self, number: u64, reply: fuser::ReplyOpen, opened: OpenFile<T::File>) {
        let backing = self.backings.as_ref().and_then(|all| all.join(number, opened.plain.as_ref(), &reply));
        let flags = if opened.keep { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        let file = File { file: Arc::new(opened.file), size: opened.size, number };
        let handle = FileHandle(self.files.insert(file));
        self.watch().open_files.add(1);
        match backing {
            Some(backing) => {
                self.watch().passthrough_opens.add(1);
                reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
            }
            None => reply.opened(handle, flags),
        }
    }

    /// Exactly `wanted` bytes, or an error: the kernel would fill up with zeroes.
    fn exactly(&self, bytes: Bytes, wanted: usize) -> Result<Bytes, Error> {
        if bytes.len() < wanted {
            self.watch().short_answers.add(1);
            let words = format!("the tree gave {} bytes of {wanted}", bytes.len());
            return Err(Error::new(Kind::Failed, words));
        }
        Ok(if bytes.len() > wanted { bytes.slice(..wanted) } else { bytes })
    }
}

/// Operations whose answer does not depend on what is asked.
macro_rules! by_reply {
    ($answer:ident: $($operation:ident($($argument:ty),*) -> $reply:ident;)*) => {
        $(fn $operation(&self, request: &fuser::Request, $(_: $argument,)* reply: fuser::$reply) {
            self.$answer(request, reply);
        })*
    };
}

impl<T: Tree> Filesystem for Daemon<T> {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS;
        if self.shared.acls {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if self.shared.backings.is_some() {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
            // One file system below this one: the one that holds the plain files.
            let _ = config.set_max_stack_depth(1);
        }
        // What this kernel does not have it does without.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        self.about(
            Op::Lookup,
            request,
            parent,
            reply,
            |shared, known| match name.len() {
                0..=cursor::NAME_LEN_MAX => shared.tree.lookup(&known.node, name),
                _ => Answer::fail(Kind::TooLong, "a name of more than 255 bytes"),
            },
            move |shared, reply, entry| {
                let number = shared.remember(&entry, parent.0);
                let attr = file_attr(&entry.attr, number);
                reply.entry_with_ttls(&entry.attr.keeps, &entry.keeps, &attr, GENERATION);
                Ok(())
            },
        );
    }

    fn forget(&self, _request: &fuser::Request, number: INodeNo, lookups: u64) {
        // Forgetting is dropping, which is the tree's code.
        self.shared.server.quietly(Op::Forget, || self.shared.nodes.forget(number.0, lookups));
    }

    fn getattr(
        &self,
        request: &fuser::Request,
        number: INodeNo,
        _: Option<FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        self.about(
            Op::Attr,
            request,
            number,
            reply,
            |shared, known| shared.tree.attr(&known.node),
            move |_, reply, attr| {
                let shown = if number.0 == ROOT { attr.ino } else { number.0 };
                reply.attr(&attr.keeps, &file_attr(&attr, shown));
                Ok(())
            },
        );
    }

    fn readlink(&self, request: &fuser::Request, number: INodeNo, reply: fuser::ReplyData) {
        self.about(
            Op::Readlink,
            request,
            number,
            reply,
            |shared, known| shared.tree.readlink(&known.node),
            |_, reply, target| {
                if target.len() > LINK_LEN_MAX {
                    return Err((
                        reply,
                        Error::new(Kind::TooLong, "a symbolic link of more than 4095 bytes"),
                    ));
                }
                reply.data(&target);
                Ok(())
            },
        );
    }

    fn open(&self, request: &fuser::Request, number: INodeNo, flags: OpenFlags, reply: fuser::ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return self.refuse(request, reply);
        }
        self.about(
            Op::Open,
            request,
            number,
            reply,
            |shared, known| shared.tree.open(&known.node),
            move |shared, reply, opened| {
                shared.opened(number.0, reply, opened);
                Ok(())
            },
        );
    }

    fn read(
        &self,
        request: &fuser::Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: fuser::ReplyData,
    ) {
        let Some(file) = self.shared.files.get(handle.0) else {
            return self.answer(Op::Read, request, reply, |_| stale::<()>(), |_, _, ()| Ok(()));
        };
        let len = u32::try_from(file.size.saturating_sub(offset)).unwrap_or(u32::MAX).min(len);
        // The file goes with the question, so that closing it last happens inside the net for panics, too.
        self.answer(
            Op::Read,
            request,
            reply,
            move |shared| match len {
                0 => Answer::now(Bytes::new()),
                _ => shared.tree.read(&file.file, offset, len),
            },
            move |shared, reply, bytes| match shared.exactly(bytes, len as usize) {
                Ok(bytes) => {
                    shared.watch().read_bytes.add(u64::from(len));
                    reply.data(&bytes);
                    Ok(())
                }
                Err(error) => Err((reply, error)),
            },
        );
    }

    fn release(
        &self,
        request: &fuser::Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: fuser::ReplyEmpty,
    ) {
        // Closing is dropping, which is the tree's code.
        let close = |shared: &Arc<Shared<T>>| {
            if let Some(file) = shared.files.remove(handle.0) {
                shared.watch().open_files.sub(1);
                if let Some(backings) = &shared.backings {
                    backings.leave(file.number);
                }
            }
            Answer::now(())
        };
        self.answer(Op::Release, request, reply, close, |_, reply, ()| {
            reply.ok();
            Ok(())
        });
    }

    fn lseek(
        &self,
        request: &fuser::Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        let ask = |shared: &Arc<Shared<T>>| {
            let Some(file) = shared.files.get(handle.0) else { return stale() };
            let Some(what) = seek_kind(whence) else {
                return Answer::fail(Kind::Invalid, "an unknown way to seek");
            };
            match u64::try_from(offset) {
                Ok(offset) if offset < file.size => shared.tree.seek(&file.file, offset, what),
                _ => Answer::fail(Kind::PastEnd, "there is nothing at or after that offset"),
            }
        };
        self.answer(Op::Seek, request, reply, ask, |_, reply, found| match i64::try_from(found) {
            Ok(found) => {
                reply.offset(found);
                Ok(())
            }
            Err(_) => Err((reply, Error::new(Kind::Failed, "the tree gave an offset beyond all files"))),
        });
    }

    fn opendir(&self, request: &fuser::Request, number: INodeNo, _flags: OpenFlags, reply: fuser::ReplyOpen) {
        self.about(
            Op::Opendir,
            request,
            number,
            reply,
            |shared, known| shared.tree.opendir(&known.node).then(|opened| Answer::now((known, opened))),
            move |shared, reply, (known, OpenDir { dir, keep })| {
                let (dir, read_before) = (Mutex::new(Arc::new(dir)), AtomicBool::new(false));
                let handle = shared.dirs.insert(Dir { known, number: number.0, dir, read_before });
                shared.watch().open_dirs.add(1);
                let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(handle), if keep { cached } else { FopenFlags::empty() });
                Ok(())
            },
        );
    }

    fn readdir(
        &self,
        request: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectory,
    ) {
        self.list(request, handle, offset, false, reply);
    }

    fn readdirplus(
        &self,
        request: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectoryPlus,
    ) {
        self.list(request, handle, offset, true, reply);
    }

    fn releasedir(
        &self,
        request: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: fuser::ReplyEmpty,
    ) {
        let close = |shared: &Arc<Shared<T>>| {
            if shared.dirs.remove(handle.0).is_some() {
                shared.watch().open_dirs.sub(1);
            }
            Answer::now(())
        };
        self.answer(Op::Release, request, reply, close, |_, reply, ()| {
            reply.ok();
            Ok(())
        });
    }

    fn statfs(&self, request: &fuser::Request, _: INodeNo, reply: fuser::ReplyStatfs) {
        const BLOCK: u32 = 4096;
        self.answer(
            Op::Statfs,
            request,
            reply,
            |shared| shared.tree.space(),
            |_, reply, space| {
                let blocks = space.bytes.div_ceil(u64::from(BLOCK));
                reply.statfs(blocks, 0, 0, space.files, 0, BLOCK, 255, BLOCK);
                Ok(())
            },
        );
    }

    fn getxattr(
        &self,
        request: &fuser::Request,
        number: INodeNo,
        name: &OsStr,
        room: u32,
        reply: fuser::ReplyXattr,
    ) {
        let ask = |shared: &Arc<Shared<T>>, known: Known<T::Node>| shared.tree.xattr(&known.node, name);
        self.about(Op::Xattr, request, number, reply, ask, move |_, reply, value| {
            send_xattr(reply, &value, room)
        });
    }

    fn listxattr(&self, request: &fuser::Request, number: INodeNo, room: u32, reply: fuser::ReplyXattr) {
        let ask = |shared: &Arc<Shared<T>>, known: Known<T::Node>| shared.tree.xattrs(&known.node);
        // As on other file systems, only root sees that there are any of these; the kernel lets nobody else read them.
        let is_root = request.uid() == 0;
        self.about(Op::Xattr, request, number, reply, ask, move |_, reply, mut names| {
            names.retain(|name| is_root || !name.as_encoded_bytes().starts_with(b"trusted."));
            send_xattr(reply, &attr::name_list(&names), room)
        });
    }

    // A mount is read-only, so the kernel sends these only after somebody has remounted it.
    by_reply! { refuse:
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>, Option<SystemTime>,
            Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }

    // Nothing to do when a file is closed or synced. Whoever asks for access has it: the kernel has checked, or only the owner got in.
    by_reply! { never:
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
        fsync(INodeNo, FileHandle, bool) -> ReplyEmpty;
        fsyncdir(INodeNo, FileHandle, bool) -> ReplyEmpty;
        access(INodeNo, AccessFlags) -> ReplyEmpty;
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

fn stale<A>() -> Answer<A> {
    Answer::fail(Kind::Stale, "the kernel asks for a handle that it has closed")
}

fn seek_kind(whence: i32) -> Option<Seek> {
    // SEEK_DATA and SEEK_HOLE of Linux.
    match whence {
        3 => Some(Seek::Data),
        4 => Some(Seek::Hole),
        _ => None,
    }
}

/// Without room the size is asked for.
fn send_xattr(reply: fuser::ReplyXattr, value: &[u8], room: u32) -> Sent<fuser::ReplyXattr> {
    match u32::try_from(value.len()) {
        Ok(size) if room == 0 => reply.size(size),
        Ok(size) if size <= room => reply.data(value),
        _ => {
            return Err((
                reply,
                Error::new(Kind::TooSmall, "the buffer is too small for the extended attribute"),
            ));
        }
    }
    Ok(())
}

macro_rules! replies {
    ($($reply:ident)*) => {
        $(impl Reply for fuser::$reply {
            fn refuse(self, errno: i32) {
                self.error(Errno::from_i32(errno));
            }
        })*
    };
}

replies! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyLseek ReplyOpen ReplyStatfs
    ReplyWrite ReplyXattr
}
