//! Many backups in little time: `many REPOSITORY BACKUPS` copies the only record of a repository without a password until it holds that many.
//!
//! Each copy has an id and a time of its own, ten minutes after the one before. The catalogue is merged as a writer would have it.

use afterimage::error::Result;
use afterimage::format::BackupId;
use afterimage::repo::Repository;
use afterimage::repo::writer::Writer;
use afterimage::store;
use std::sync::Arc;

/// Records that are on their way at once.
const AT_ONCE: u128 = 64;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [place, backups] = words.as_slice() else { return Err("usage: many REPOSITORY BACKUPS".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    fill(&runtime, place, backups.parse()?)?;
    Ok(())
}

pub(crate) fn fill(runtime: &tokio::runtime::Runtime, place: &str, backups: u128) -> Result<()> {
    let cache = std::env::temp_dir().join(format!("afterimage-many-{}", std::process::id()));
    let mut ask = || Err(afterimage::error::Error::new(afterimage::error::Kind::Denied, "it has a password"));
    let store = store::open(place)?.store;
    let repository = Arc::new(runtime.block_on(Repository::open(store, &cache, &mut ask))?);
    let first = runtime.block_on(repository.list())?.records.remove(0);
    // No chunk is new: the order of publication is kept all the same.
    let known = Arc::new(runtime.block_on(repository.known())?);
    let writer = Writer::new(&repository, &known, runtime.handle(), 1)?;
    let named = Arc::new(runtime.block_on(repository.publish_index(writer.finish()?))?);
    for begin in (1..backups).step_by(AT_ONCE as usize) {
        let copies: Vec<_> = (begin..backups.min(begin + AT_ONCE))
            .map(|number| {
                let mut record = first.clone();
                record.id = BackupId((u128::from_be_bytes(first.id.0) ^ number).to_be_bytes());
                record.time = first.time + jiff::SignedDuration::from_mins(10 * number as i64);
                let (repository, named) = (Arc::clone(&repository), Arc::clone(&named));
                runtime.spawn(async move { repository.publish_backup(&record, &named).await })
            })
            .collect();
        for copy in copies {
            runtime.block_on(copy).expect("no copy panics")?;
        }
    }
    runtime.block_on(repository.merge_catalogue())?;
    drop(std::fs::remove_dir_all(&cache));
    Ok(())
}
