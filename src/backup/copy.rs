//! A backup of another repository becomes one of this: same id, same times, all that is said of it; other seals, other places.
//!
//! Its items come as sources, so all of the way in serves it: what is here is not stored again, what an interrupted copy left is used, and
//! nothing is listed before it is durable. Here that means: before it was read back.

use super::pipeline::{ItemPlan, back_up_item};
use super::plan::{map_of, tidy};
use crate::error::{Context, Error, Kind, Result};
use crate::format::limits;
use crate::format::record::{Content, Record, Stats};
use crate::image::Engine;
use crate::progress::{Cancel, Progress};
use crate::repo::writer::Writer;
use crate::seal::LEVEL_DEFAULT;
use crate::source::Source;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// What is copied.
pub struct Copy {
    /// The record there.
    pub record: Record,
    /// Its items' bytes, in its order.
    pub sources: Vec<Box<dyn Source>>,
    /// A backup here that pieces may be called the same as.
    pub parent: Option<Record>,
    /// How many bytes of buffers may be in use.
    pub memory: u64,
}

/// Makes the copy; its record here. Runs on the calling thread and on others, none of which may be a worker of `runtime`.
pub fn copy(
    engine: &Arc<Engine>,
    runtime: &Handle,
    job: Copy,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Record> {
    let started = Instant::now();
    let repository = engine.repository();
    let known = Arc::new(runtime.block_on(repository.known()).context(|| "read what the repository has")?);
    let uploads = (job.memory / 4 / u64::from(limits::PACK_LEN_GOAL)).clamp(1, 4);
    let writer = Writer::new(repository, &known, runtime, usize::try_from(uploads).unwrap_or(1))?;
    let mut writer = writer.that_reads_back();
    let mut record = job.record;
    let mut stats = Stats::default();
    for (item, source) in record.items.iter_mut().zip(job.sources) {
        let Content::Image { root, size, allocated, .. } = &mut item.content else {
            return Err(Error::new(Kind::Unsupported, format!("copy {}: it is a tree", item.name)));
        };
        let parent = job.parent.as_ref().and_then(|parent| map_of(parent, &item.name));
        let plan = ItemPlan {
            engine,
            runtime,
            known: &known,
            parent,
            level: LEVEL_DEFAULT,
            digest: false,
            memory: job.memory,
            progress,
            cancel,
        };
        let done = back_up_item(&plan, &mut writer, source).context(|| format!("copy {}", item.name))?;
        if done.size != *size {
            let words = format!("copy {}: {} bytes came of {size}", item.name, done.size);
            return Err(Error::new(Kind::Source, words));
        }
        (*root, *allocated) = (done.root, done.allocated);
        stats.bytes_read += done.bytes_read;
        stats.bytes_new += done.bytes_new;
    }
    cancel.check()?;
    let named = runtime.block_on(repository.publish_index(writer.finish()?))?;
    stats.bytes_stored = named.stored;
    stats.seconds = started.elapsed().as_secs_f64();
    (record.repository, record.stats) = (repository.id(), stats);
    record.parent = job.parent.map(|parent| parent.id);
    runtime.block_on(repository.publish_backup(&record, &named))?;
    let there = runtime.block_on(repository.record(record.id))?;
    tidy(engine, runtime);
    Ok(there)
}
