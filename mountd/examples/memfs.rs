//! One file of 4 GiB, answered from memory: what FUSE costs when the tree costs nothing. The ceiling to measure others against.
//!
//! `memfs MOUNTPOINT` serves `MOUNTPOINT/pattern` until it is stopped or unmounted. Every 8 bytes of it hold their own offset, little-endian,
//! modulo 64 MiB.

use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use afterimage_mountd::error::Kind;
use afterimage_mountd::mount::stop_signal;
use afterimage_mountd::tree::{Answer, Attr, DirEntry, Entry, FOREVER, NodeKind, OpenDir, OpenFile, Page};
use afterimage_mountd::{Mount, Options, Tree};
use bytes::Bytes;

const SIZE: u64 = 4 << 30;
const PERIOD: u64 = 64 << 20;
const READ_MAX: u64 = 1 << 20;
const NAME: &str = "pattern";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Root,
    Pattern,
}

struct Memory {
    /// One period and the longest read more, so that every read is one slice.
    bytes: Bytes,
}

impl Memory {
    fn new() -> Memory {
        let words = (PERIOD + READ_MAX) / 8;
        let bytes: Vec<u8> = (0..words).flat_map(|word| (word * 8 % PERIOD).to_le_bytes()).collect();
        Memory { bytes: bytes.into() }
    }

    fn attr_of(node: Node) -> Attr {
        match node {
            Node::Root => Attr::new(2, NodeKind::Directory, 0),
            Node::Pattern => Attr::new(3, NodeKind::File, SIZE),
        }
    }
}

impl Tree for Memory {
    type Node = Node;
    type File = ();
    type Dir = ();

    fn root(&self) -> Node {
        Node::Root
    }

    fn lookup(&self, _: &Node, name: &OsStr) -> Answer<Entry<Node>> {
        match name == NAME {
            true => Answer::now(Entry {
                node: Node::Pattern,
                attr: Memory::attr_of(Node::Pattern),
                keeps: FOREVER,
            }),
            false => Answer::fail(Kind::Missing, "there is one file only"),
        }
    }

    fn attr(&self, node: &Node) -> Answer<Attr> {
        Answer::now(Memory::attr_of(*node))
    }

    fn opendir(&self, _: &Node) -> Answer<OpenDir<()>> {
        Answer::now(OpenDir { dir: (), keep: true })
    }

    fn readdir(&self, _: &Arc<()>, after: u64, _: Page) -> Answer<Vec<DirEntry<Node>>> {
        let only = DirEntry { name: NAME.into(), ino: 3, kind: NodeKind::File, cursor: 1, entry: None };
        Answer::now(if after == 0 { vec![only] } else { Vec::new() })
    }

    fn open(&self, _: &Node) -> Answer<OpenFile<()>> {
        Answer::now(OpenFile::unchanging((), SIZE))
    }

    fn read(&self, _: &Arc<()>, offset: u64, len: u32) -> Answer<Bytes> {
        let start = (offset % PERIOD) as usize;
        Answer::now(self.bytes.slice(start..start + len as usize))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: memfs MOUNTPOINT")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut options = Options::new("memfs", runtime.handle().clone());
    if let Ok(loops) = std::env::var("MEMFS_LOOPS") {
        options.loops = loops.parse()?;
    }
    if let Ok(kib) = std::env::var("MEMFS_READ_AHEAD_KIB") {
        options.read_ahead = kib.parse::<u32>()? * 1024;
    }
    let mount = Mount::start(Arc::new(Memory::new()), Path::new(&mountpoint), options)?;
    println!("{}", mount.mountpoint().display());
    let ended =
        runtime.block_on(async { mount.run(stop_signal()?).await.map_err(Box::<dyn Error>::from) })?;
    eprintln!("ended: {ended:?}");
    Ok(())
}
