//! Directories in and out again: what capture and restore make of files with holes, whatever their extents.

use crate::fixture::{Bench, noise, share_job};
use crate::seen::look;
use afterimage::backup::{Input, Parent};
use afterimage::image::tree::Tree;
use afterimage::progress::{Cancel, Progress};
use afterimage::restore::target::Guarded;
use afterimage::restore::tree::{Part, Request, Wish, restore_tree};
use afterimage::source::directory::{Directory, Options};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn back_up(bench: &Bench, share: &Path) -> Tree {
    let source =
        Directory::open(share.to_str().expect("a plain path"), Options::default(), None).expect("open");
    let record = bench.run(share_job(Input::Tree(Box::new(source)), Parent::Latest));
    let record = record.expect("back up");
    Tree::of(&bench.engine().expect("open"), &record.items[0]).expect("a tree")
}

/// A file of so many blocks of 4 KiB and some bytes, with data in these ranges of blocks.
fn make(path: &Path, blocks: u64, odd: u64, data: &[(u64, u64)]) {
    let file = File::create(path).expect("make a file");
    let len = blocks * 4096 + odd;
    file.set_len(len).expect("make it long");
    for (number, (from, count)) in data.iter().enumerate() {
        let (start, end) = ((from * 4096).min(len), ((from + count) * 4096).min(len));
        file.write_all_at(&noise(number as u64 + 1, (end - start) as usize), start).expect("write");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn p3_files_with_holes_come_back_whatever_their_extents(
        files in prop::collection::vec(
            (0u64..3000, 0u64..4096, prop::collection::vec((0u64..3000, 1u64..400), 0..5), any::<bool>()), 1..4)
    ) {
        let (bench, _) = Bench::in_memory();
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (share, target) = (dir.path().join("share"), dir.path().join("target"));
        std::fs::create_dir(&share).unwrap();
        for (number, (blocks, odd, data, ends_in_data)) in files.iter().enumerate() {
            let mut data = data.clone();
            if *ends_in_data {
                data.push((blocks.saturating_sub(2), 4));
            }
            make(&share.join(format!("{number}")), *blocks, *odd, &data);
        }
        let tree = back_up(&bench, &share);
        let request = Request {
            tree: &tree,
            part: Part::default(),
            target: &target,
            guarded: Guarded::default(),
            source: None,
            wish: Wish::default(),
            differential: false,
            verify: true,
        };
        let _done = restore_tree(&request, &Progress::default(), &Cancel::default()).unwrap();
        prop_assert!(look(&share) == look(&target));
    }
}
