//! Overlays in this process against a plain vector: random changes, flushes and new beginnings, and writers side by side.

use crate::common::Sandbox;
use crate::common::images::{assert_same_bytes, file, mixed};
use crate::common::random::Random;
use afterimage::exports::backup::{Known, KnownImage, Look, Looking, Shelf};
use afterimage::exports::house::Backups;
use afterimage::exports::overlay::{Offer, OverlayExport};
use afterimage::format::record::{Content, Record};
use afterimage::image::Engine;
use afterimage::image::library::Ours;
use afterimage::repo::Repository;
use afterimage_nbd::export::{Export, Part, Parts, Zeroing};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;

const LEN: u64 = 640 * 1024 + 700;

/// A shelf that never changes.
struct Fixed(Arc<Shelf>);

impl Look for Fixed {
    fn now(&self) -> Option<Arc<Shelf>> {
        Some(Arc::clone(&self.0))
    }

    fn look(&self) -> Looking {
        let shelf = Arc::clone(&self.0);
        Box::pin(async move { Ok(shelf) })
    }
}

fn known(record: &Record) -> Known {
    let images = record.items.iter().filter_map(|item| match item.content {
        Content::Image { size, allocated, root, .. } => {
            Some(KnownImage { name: item.name.clone(), size, allocated, root, source: None })
        }
        Content::Tree { .. } => None,
    });
    Known {
        id: record.id,
        name: record.name.clone(),
        time: record.time,
        home: record.repository,
        images: images.collect(),
    }
}

/// A repository with a backup of `vm`, opened in this process.
struct World {
    runtime: Runtime,
    sand: Sandbox,
    backups: Backups,
    base: Vec<u8>,
}

impl World {
    fn new(seed: u64) -> World {
        let sand = Sandbox::with_repo();
        let base = mixed(seed, LEN);
        let _ = sand.backup("vm", &[&file(&sand, "disk.img", &base)]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let store = afterimage::store::open(sand.place()).expect("a store").store;
        let cache = sand.root().join("cache");
        let mut ask = || panic!("no password is needed");
        let repository = runtime.block_on(Repository::open(store, &cache, &mut ask)).expect("a repository");
        let engine =
            Engine::new(Arc::new(repository), runtime.handle().clone(), 32 << 20).expect("an engine");
        let records = runtime.block_on(engine.repository().expect("ours").list()).expect("a list").records;
        let shelf = Shelf::new(records.iter().map(known).collect());
        World {
            runtime,
            sand,
            backups: Backups::new(Arc::new(Ours::new(engine)), Arc::new(Fixed(Arc::new(shelf)))),
            base,
        }
    }

    fn open(&self, keep: Option<&str>) -> OverlayExport {
        let keep = keep.map(|name| PathBuf::from(self.sand.at(name)));
        let offer = Offer { backup: "vm".into(), keep };
        self.runtime.block_on(OverlayExport::open(&offer, &self.backups, None)).expect("an overlay")
    }
}

fn flat(parts: Parts) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts.as_slice() {
        match part {
            Part::Data(bytes) => all.extend_from_slice(bytes),
            Part::Hole(len) => all.resize(all.len() + *len as usize, 0),
        }
    }
    all
}

/// One change at random, made to both.
async fn change(overlay: &OverlayExport, model: &mut [u8], random: &mut Random) {
    let offset = random.below(LEN);
    let most = [512, 5000, 40_000, 300_000][random.below(4) as usize];
    let len = (1 + random.below(most)).min(LEN - offset);
    let here = &mut model[offset as usize..(offset + len) as usize];
    match random.below(8) {
        0 => {
            here.fill(0);
            let how = Zeroing { no_hole: random.below(2) == 0, fast: false, fua: random.below(4) == 0 };
            overlay.zero(offset, len, how).wait().await.expect("zero");
        }
        1 => {
            here.fill(0);
            overlay.trim(offset, len, false).wait().await.expect("trim");
        }
        _ => {
            random.fill(here);
            let data = Bytes::copy_from_slice(here);
            overlay.write(offset, data, random.below(8) == 0).wait().await.expect("write");
        }
    }
}

async fn check(overlay: &OverlayExport, model: &[u8], base: &[u8]) {
    let read = overlay.read(0, LEN as u32).wait().await.expect("read");
    assert_same_bytes(&flat(read), model, "the overlay");
    let mut at = 0;
    while at < LEN {
        for extent in overlay.block_status(2, at, LEN - at, false).wait().await.expect("status") {
            let range = at as usize..(at + extent.len).min(LEN) as usize;
            assert!(extent.flags == 1 || model[range.clone()] == base[range], "not called written at {at}");
            at += extent.len;
        }
    }
    let mut at = 0;
    while at < LEN {
        for extent in overlay.block_status(0, at, LEN - at, false).wait().await.expect("status") {
            let range = at as usize..(at + extent.len).min(LEN) as usize;
            assert!(
                extent.flags & 2 == 0 || model[range].iter().all(|byte| *byte == 0),
                "called zero at {at}"
            );
            at += extent.len;
        }
    }
}

#[test]
fn an_overlay_reads_as_a_plain_vector_does_after_any_changes() {
    let world = World::new(51);
    let mut random = Random::new();
    for keep in [None, Some("kept")] {
        let mut overlay = world.open(keep);
        let mut model = world.base.clone();
        for round in 0..240 {
            world.runtime.block_on(change(&overlay, &mut model, &mut random));
            if round % 12 == 0 {
                world.runtime.block_on(check(&overlay, &model, &world.base));
            }
            if keep.is_some() && round % 30 == 29 {
                world.runtime.block_on(async { overlay.flush().wait().await }).expect("flush");
                drop(overlay);
                overlay = world.open(keep);
                world.runtime.block_on(check(&overlay, &model, &world.base));
            }
        }
    }
}

#[test]
fn writers_side_by_side_in_one_block_lose_nothing_of_each_other() {
    let world = World::new(52);
    let overlay = Arc::new(world.open(None));
    let mut model = world.base.clone();
    world.runtime.block_on(async {
        let mut writers = Vec::new();
        // Eight parts of each block, at once, on blocks of which nothing was written.
        for part in 0..LEN / 512 {
            let range = part * 512..part * 512 + 300;
            let data = Bytes::from(vec![part as u8; 300]);
            model[range.start as usize..range.end as usize].fill(part as u8);
            let overlay = Arc::clone(&overlay);
            writers.push(tokio::spawn(async move { overlay.write(range.start, data, false).wait().await }));
        }
        for writer in writers {
            writer.await.expect("a writer").expect("write");
        }
        check(&overlay, &model, &world.base).await;
    });
}
