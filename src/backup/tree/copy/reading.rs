//! What workers read of a tree in another repository: extended attributes, and files that are small. All of it is proven by the engine.

use super::super::cutter::Cutter;
use super::super::reading::INLINE_MAX;
use super::super::task::{Body, Draft, Fact, Memory, Task};
use super::super::worker::{Hands, Trade};
use super::way::Way;
use crate::backup::pipeline::Outcome;
use crate::error::{Context, Result};
use crate::format::tree::{Content, FileContent, Sighting};
use crate::image::Part;
use crate::image::tree::{File, Member, Seen, expect_all};
use crate::source::directory::Attributes;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// What all workers know.
pub(super) struct Shop<'a> {
    pub(super) runtime: &'a Handle,
    pub(super) cutter: &'a Cutter,
    pub(super) bytes_read: &'a AtomicU64,
}

/// What the walk leaves to the workers.
pub(super) struct Errand {
    pub(super) seen: Seen,
    /// To the directory that it lies in.
    pub(super) way: Way,
    pub(super) what: What,
    pub(super) memory: Memory,
}

/// What is to be done beside reading extended attributes.
pub(super) enum What {
    /// A directory begins.
    Enter,
    /// A large file begins.
    Begin,
    /// The file is to be read, all of it.
    Read,
    /// Nothing: this is what is in it.
    Nothing(Body),
}

impl Trade for Shop<'_> {
    type Errand = Errand;

    fn cutter(&self) -> &Cutter {
        self.cutter
    }

    fn expect(&self, tasks: &[Task<Errand>]) {
        let mut files = Vec::new();
        for task in tasks {
            let Task::Errand(Errand { seen, what, .. }) = task else { continue };
            files.extend(seen.member.values_elsewhere());
            if let (What::Read, Some(file)) = (what, seen.member.file()) {
                file.expect(0..file.len());
                files.push(file);
            }
        }
        expect_all(&files);
    }

    fn run(
        &self,
        errand: Errand,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
        facts: &mut Vec<Fact>,
    ) -> Result<()> {
        let Errand { seen, way, what, memory } = errand;
        let name = seen.member.name().clone();
        let found = self.find_out(&seen, what, memory, hands, buffer);
        facts.push(found.context(|| format!("copy {}", way.to(&name).text()))?);
        Ok(())
    }
}

impl Shop<'_> {
    fn find_out(
        &self,
        seen: &Seen,
        what: What,
        memory: Memory,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Fact> {
        let attributes = self.runtime.block_on(attributes(&seen.member))?;
        let sighting = Sighting { spot: seen.sighting.spot, below: None };
        let draft = Box::new(Draft { entry: seen.member.entry().clone(), sighting, attributes, memory });
        Ok(match (what, seen.member.file()) {
            (What::Enter, _) => Fact::Enter(draft),
            (What::Begin, _) => Fact::Begin(draft),
            (What::Nothing(body), _) => Fact::Made(draft, body),
            (What::Read, Some(file)) => Fact::Made(draft, self.read(&file, hands, buffer)?),
            (What::Read, None) => Fact::Made(draft, Body::Whole(seen.member.entry().content.clone())),
        })
    }

    fn read(&self, file: &File, hands: &mut Hands<'_>, buffer: &mut Vec<u8>) -> Result<Body> {
        let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
        let parts = self.runtime.block_on(file.read_aside(0, len))?;
        if len <= INLINE_MAX {
            return Ok(Body::Whole(Content::File(FileContent::Inline(crate::image::join(parts)))));
        }
        let mut chunks = Vec::new();
        buffer.clear();
        for part in parts {
            match part {
                Part::Bytes(bytes) => buffer.extend_from_slice(&bytes),
                // Nothing that is cut reaches over a hole, so that it stays one.
                Part::Zeros(len) => {
                    chunks.extend(self.cut(hands, buffer)?);
                    chunks.push((len as u32, Outcome::Zero));
                }
            }
        }
        chunks.extend(self.cut(hands, buffer)?);
        Ok(Body::Chunks(chunks))
    }

    fn cut(&self, hands: &mut Hands<'_>, buffer: &mut Vec<u8>) -> Result<Vec<(u32, Outcome)>> {
        let _sum = self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let chunks = hands.chunks(buffer, self.cutter.cuts(buffer));
        buffer.clear();
        chunks
    }
}

async fn attributes(member: &Member) -> Result<Attributes> {
    let set = member.attributes().await?;
    let mut all: Vec<(Bytes, Bytes)> = Vec::with_capacity(set.len());
    for one in set.iter() {
        all.push((one.name.clone(), member.value(one).await?));
    }
    Ok(all)
}
