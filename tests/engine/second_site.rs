//! Copies to a second site that is damaged, that others write to as well, and where what is sent does not arrive.

use crate::copying_trees::{Sites, copy};
use crate::fixture::{noise, read_whole, wait};
use afterimage::error::Kind;
use afterimage::format::record::Content;
use afterimage::format::{PackId, ids::SealKind};
use afterimage::image::Library;
use afterimage::image::library::Ours;
use afterimage::repo::{Repository, names};
use afterimage::source::fake::Fake;
use afterimage::store::fault::{Fault, Harm, When};
use afterimage::store::{Body, Fut, Listed, MemStore, Name, Stat, Store, Verb};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn c1_a_damaged_record_at_the_second_site_is_named_and_the_others_are_copied() {
    let sites = Sites::new();
    let back_up = |seed| sites.from.backup("disk", Fake::of(noise(seed, 50_000))).unwrap();
    let oldest = back_up(1);
    assert_eq!(sites.copied().id, oldest.id);
    let name = names::object(SealKind::Record, oldest.id.into()).unwrap();
    sites.here.harm(&name, |bytes| bytes[100] ^= 1).unwrap();
    let newer = [back_up(2).id, back_up(3).id];
    let report = sites.sync();
    assert_eq!(report.copied.iter().map(|record| record.id).collect::<Vec<_>>(), newer);
    let [(left, error)] = report.left.as_slice() else { panic!("{report:?}") };
    assert_eq!((*left, error.kind()), (oldest.id, Kind::Corrupt));
    assert!(error.what_to_try().is_some_and(|hint| hint.contains(name.as_str())), "{error}");
    wait(sites.to.store.delete(&name)).unwrap();
    assert_eq!(sites.copied().id, oldest.id);
    sites.to.is_sound();
}

#[test]
fn a_backup_that_somebody_else_copies_meanwhile_is_there() {
    let sites = Sites::new();
    let first = sites.from.backup("disk", Fake::of(noise(1, 50_000))).unwrap();
    assert_eq!(sites.copied().id, first.id);
    let second = sites.from.backup("disk", Fake::of(noise(2, 50_000))).unwrap();
    let fault = Arc::new(Fault::new(Arc::clone(&sites.to.store), 1));
    fault.plan_under(Verb::List, "backups/", When::Nth(1), Harm::Lose);
    let report = copy(&sites.from, &sites.to.through(fault.clone())).unwrap();
    assert_eq!(fault.hits(), 1);
    assert_eq!((report.present, report.left.len()), (1, 0), "{report:?}");
    assert_eq!(report.copied.iter().map(|record| record.id).collect::<Vec<_>>(), [second.id]);
}

#[test]
fn a_copy_whose_import_can_not_be_forgotten_is_listed_once_and_read_from_here() {
    let sites = Sites::new();
    let bytes = noise(1, 50_000);
    let first = sites.from.backup("disk", Fake::of(bytes.clone())).unwrap();
    let (from, to) = (sites.from.repository().unwrap(), sites.to.engine().unwrap());
    let ours = to.repository().unwrap();
    let carried = wait(from.carry(&[first.id], "/nowhere".into())).unwrap();
    for (record, json) in from.open_carried(&carried).unwrap() {
        assert!(wait(ours.import(&from, "/nowhere", record.id, &json)).unwrap());
    }
    let _imported = wait(ours.imported(first.id)).unwrap();
    // Credentials that may not delete.
    let fault = Arc::new(Fault::new(Arc::clone(&sites.to.store), 1));
    fault.plan(Verb::Delete, When::From(1), Harm::Fails(Kind::Denied));
    let report = copy(&sites.from, &sites.to.through(fault)).unwrap();
    assert_eq!(report.copied.iter().map(|record| record.id).collect::<Vec<_>>(), [first.id]);
    assert_eq!(wait(ours.import_ids()).unwrap(), [first.id]);
    let library = Ours::new(Arc::clone(&to));
    let listed = wait(library.list()).unwrap().records;
    assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), [first.id]);
    assert_eq!(wait(library.ids()).unwrap(), [first.id]);
    let Content::Image { root, size, .. } = &listed[0].items[0].content else { panic!("no image") };
    let image = library.open(listed[0].repository, first.id, root, *size);
    assert!(read_whole(&image).unwrap() == bytes, "its home is away");
    sites.to.is_sound();
}

/// A store that spoils the first pack that is asked for, while another run looks for what was left behind.
struct Meddler {
    store: Arc<MemStore>,
    other: Arc<Repository>,
    is_done: AtomicBool,
}

impl Store for Meddler {
    fn place(&self) -> String {
        self.store.place()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(async move {
            if name.as_str().starts_with("packs/") && !self.is_done.swap(true, Ordering::Relaxed) {
                let _ = self.store.harm(name, |bytes| bytes[100] ^= 1);
                let _known = self.other.known().await?;
            }
            self.store.get(name, range).await
        })
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        self.store.get_whole(name, len_max)
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        self.store.stat(name)
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.store.settle(name)
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        self.store.put(name, body)
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        self.store.list(under, after)
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        self.store.delete(name)
    }
}

#[test]
fn a_pack_that_arrived_wrong_stays_where_another_run_took_it_up_and_is_noted() {
    let sites = Sites::new();
    let original = sites.from.backup("disk", Fake::of(noise(1, 50_000))).unwrap();
    let other = sites.to.elsewhere().repository().unwrap();
    let meddler = Meddler { store: Arc::clone(&sites.here), other, is_done: AtomicBool::new(false) };
    let report = copy(&sites.from, &sites.to.through(Arc::new(meddler))).unwrap();
    assert!(report.copied.is_empty() && report.left.len() == 1, "{report:?}");
    let noted = wait(sites.to.repository().unwrap().damaged()).unwrap();
    assert!(!noted.is_empty());
    let (packs, indexed) = (sites.to.names("packs/"), wait(sites.to.repository().unwrap().index()).unwrap());
    let taken_up = indexed.packs();
    assert!(!taken_up.is_empty());
    for pack in taken_up {
        assert!(packs.contains(&names::pack(PackId(pack)).unwrap()), "what an index names is there");
    }
    let copied = sites.copied();
    assert_eq!(copied.id, original.id);
    assert!(sites.to.read(&copied).unwrap() == noise(1, 50_000));
}
