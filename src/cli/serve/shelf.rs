//! The backups that the mount's view knows, as what can be served. The only file that knows both.

use crate::exports::backup::{Known, KnownImage, Look, Looking, Shelf};
use crate::view::{Contents, Shown, View, unescape};
use std::sync::{Arc, Mutex, PoisonError};

/// A view that is looked at for exports.
pub(in crate::cli) struct Shelves {
    view: View,
    made: Arc<Made>,
}

/// The last shelf, and what it was made from.
#[derive(Default)]
struct Made(Mutex<Option<(Arc<Contents>, Arc<Shelf>)>>);

impl Shelves {
    pub(in crate::cli) fn new(view: View) -> Shelves {
        Shelves { view, made: Arc::default() }
    }
}

impl Look for Shelves {
    fn now(&self) -> Option<Arc<Shelf>> {
        self.view.now().map(|contents| self.made.of(contents))
    }

    fn look(&self) -> Looking {
        let (view, made) = (self.view.clone(), Arc::clone(&self.made));
        Box::pin(async move { view.look().await.map(|contents| made.of(contents)) })
    }
}

impl Made {
    fn of(&self, contents: Arc<Contents>) -> Arc<Shelf> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((from, shelf)) if Arc::ptr_eq(from, &contents) => Arc::clone(shelf),
            _ => {
                let shelf = Arc::new(shelf_of(&contents));
                *made = Some((contents, Arc::clone(&shelf)));
                shelf
            }
        }
    }
}

fn shelf_of(contents: &Contents) -> Shelf {
    let mut shown: Vec<&Arc<Shown>> = contents.ids().values().collect();
    shown.sort_by_key(|shown| (shown.backup.time, shown.backup.written, shown.backup.id));
    Shelf::new(shown.into_iter().map(|shown| known(shown)).collect())
}

fn known(shown: &Shown) -> Known {
    // A name that had to be cut to be a file's can't be had back; the backup is then called by its id.
    let plain = |escaped: &str| unescape(escaped).unwrap_or_else(|| escaped.to_owned());
    let images = shown.backup.images.iter().map(|image| KnownImage {
        name: plain(&image.name),
        size: image.size,
        allocated: image.allocated,
        root: image.root,
        source: image.source.clone(),
    });
    Known {
        id: shown.backup.id,
        name: plain(&shown.group),
        time: shown.backup.time,
        home: shown.backup.home,
        images: images.collect(),
    }
}
