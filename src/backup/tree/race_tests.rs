//! Tests of what happens to files between the walk, which looks at them, and the workers, which read them: the stages one after the other.

use super::super::pipeline::Judge;
use super::assembler::Assembler;
use super::out::Out;
use super::pipeline::{TreePlan, cutter};
use super::reading::{Errand, Shop};
use super::task::{Fact, Task};
use super::walk::Walk;
use super::worker::Worker;
use crate::error::Result;
use crate::format::tree::Time;
use crate::image::Engine;
use crate::image::tree::Tree;
use crate::progress::{Cancel, Progress};
use crate::repo::writer::Writer;
use crate::repo::{InitOptions, Repository};
use crate::seal::{LEVEL_DEFAULT, Seal};
use crate::source::directory::{Directory, Options};
use crate::store::{AnyStore, MemStore};
use bytes::Bytes;
use crossbeam_channel::bounded;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::runtime::Runtime;

/// No file is too young to be recognised.
const LATER: Time = Time { secs: i64::MAX, nanos: 0 };

/// Everything that the stages need, for a directory and a repository in memory.
fn staged<T>(
    directory: &Path,
    fresh_from: Time,
    stages: impl FnOnce(&TreePlan<'_>, &Directory, &Shop<'_>, Writer, Arc<Repository>) -> T,
) -> T {
    let runtime = Runtime::new().unwrap();
    let (handle, cache) = (runtime.handle(), tempfile::tempdir().unwrap());
    let store: AnyStore = Arc::new(MemStore::new());
    let options = InitOptions { chunk_size: 4096, separate: false, password: None };
    let _id = runtime.block_on(Repository::init(&store, &options)).unwrap();
    let mut ask = || panic!("nobody set a password");
    let repository = Arc::new(runtime.block_on(Repository::open(store, cache.path(), &mut ask)).unwrap());
    let known = Arc::new(runtime.block_on(repository.known()).unwrap());
    let writer = Writer::new(&repository, &known, handle, 1).unwrap();
    let plan = TreePlan {
        repository: &repository,
        runtime: handle,
        known: &known,
        parent: None,
        level: LEVEL_DEFAULT,
        memory: 32 << 20,
        progress: &Progress::default(),
        cancel: &Cancel::default(),
    };
    let source = Directory::open(directory.to_str().unwrap(), Options::default(), None).unwrap();
    let shop = Shop {
        cutter: &cutter(&plan),
        owners: source.owners(),
        fresh_from,
        device: source.top().look().unwrap().device,
        bytes_read: &AtomicU64::new(0),
    };
    stages(&plan, &source, &shop, writer, Arc::clone(&repository))
}

/// Backs up a directory in which something happens after the walk has looked at everything; what is in some files, and where links point.
/// `None`: it is not there.
fn back_up(directory: &Path, then: impl FnOnce(&Path), names: &[&str]) -> Result<Vec<Option<Bytes>>> {
    staged(directory, LATER, |plan, source, shop, mut writer, repository| {
        let ((work, units), (buffers, free)) = (bounded(64), bounded(64));
        (0..64).for_each(|_| buffers.send(Vec::new()).unwrap());
        let (assigned, expect) = (writer.assigned(), |_: &[Task<Errand>]| {});
        Walk::new(plan, source, shop, Out::new(&assigned, free, work, &expect), 4096).run()?;
        then(directory);
        let judge = Judge { keys: &repository.keys, known: plan.known, seal: Seal::new(LEVEL_DEFAULT)? };
        let mut worker = Worker::new(shop, judge);
        let mut assembler = Assembler::new(plan, &mut writer, false);
        for unit in units {
            let done = worker.unit(unit)?;
            done.facts.into_iter().try_for_each(|fact| assembler.take(done.pack, fact))?;
        }
        let root = assembler.finish()?.root;
        let _named = plan.runtime.block_on(repository.publish_index(writer.finish()?))?;
        let tree = Tree::new(Engine::new(repository, plan.runtime.clone(), 32 << 20)?, root);
        names.iter().map(|name| plan.runtime.block_on(content(&tree, name))).collect()
    })
}

async fn content(tree: &Tree, name: &str) -> Result<Option<Bytes>> {
    let Some(member) = tree.find(name.as_bytes()).await? else { return Ok(None) };
    match (member.target(), member.file()) {
        (None, Some(file)) => file.read_at(0, file.len() as usize).await.map(Some),
        (target, _) => Ok(target.cloned()),
    }
}

/// A directory with a file of two names and another one, both of this length; what is in them.
fn two_names(len: usize) -> (tempfile::TempDir, Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = (vec![b'x'; len], vec![b'y'; len]);
    fs::write(dir.path().join("a"), &x).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    fs::write(dir.path().join("other"), &y).unwrap();
    (dir, x, y)
}

#[test]
fn d9_another_file_that_takes_the_first_name_of_one_does_not_become_the_content_of_its_other_names() {
    for len in [100, 30_000] {
        let (dir, x, y) = two_names(len);
        let then = |dir: &Path| fs::rename(dir.join("other"), dir.join("a")).unwrap();
        let found = back_up(dir.path(), then, &["a", "b"]).unwrap();
        assert!(found[1].as_deref() == Some(&x[..]), "{len}");
        assert!(found[0].as_deref().is_some_and(|bytes| *bytes == x || *bytes == y), "{len}");
    }
}

#[test]
fn d9_a_file_that_loses_its_first_name_is_read_all_the_same() {
    for len in [100, 30_000] {
        let (dir, x, _) = two_names(len);
        let found = back_up(dir.path(), |dir| fs::remove_file(dir.join("a")).unwrap(), &["b"]).unwrap();
        assert!(found[0].as_deref() == Some(&x[..]), "{len}");
    }
}

#[test]
fn d9_a_link_with_two_names_of_which_one_is_replaced_keeps_its_target_under_the_other() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("the target", dir.path().join("a")).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let then = |dir: &Path| {
        fs::remove_file(dir.join("a")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.join("a")).unwrap();
    };
    let found = back_up(dir.path(), then, &["b"]).unwrap();
    assert_eq!(found[0].as_deref(), Some(&b"the target"[..]));
}

#[test]
fn d9_a_large_file_that_changed_while_it_was_first_read_is_as_young_as_that_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    fs::write(&path, vec![b'x'; 5 << 20]).unwrap();
    let ctime =
        || fs::metadata(&path).map(|stat| Time { secs: stat.ctime(), nanos: stat.ctime_nsec() as u32 });
    let before = ctime().unwrap();
    // Old as it is now, too young as soon as it changes.
    let fresh_from = Time { nanos: before.nanos + 1, ..before };
    staged(dir.path(), fresh_from, |plan, source, shop, writer, _| {
        let ((work, units), (buffers, free)) = (bounded(64), bounded(64));
        buffers.send(Vec::new()).unwrap();
        let (assigned, expect) = (writer.assigned(), |_: &[Task<Errand>]| {});
        let out = Out::new(&assigned, free, work, &expect);
        std::thread::scope(|scope| {
            let walked = scope.spawn(|| Walk::new(plan, source, shop, out, 4096).run());
            // The walk stands still in the middle of the file: there is no second buffer.
            let first = units.recv().unwrap();
            while ctime().unwrap() == before {
                fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"y").unwrap();
            }
            let mut ending = None;
            buffers.send(first.buffer).unwrap();
            for unit in units {
                let end = unit.tasks.into_iter().find_map(|task| match task {
                    Task::Fact(Fact::End(end)) => end,
                    _ => None,
                });
                ending = ending.or(end);
                let _ended = buffers.send(unit.buffer);
            }
            walked.join().unwrap().unwrap();
            let ending = ending.expect("the file ends");
            assert!(!ending.changed && ending.look.ctime > before);
            assert_eq!(ending.spot, None);
        });
    });
}
