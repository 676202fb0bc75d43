//! Who is fuzzed: the doors that each package opens for it.

use super::seeds;

/// What takes a target's bytes.
type Door = fn(&[u8]);

/// A parser, and the name its corpus lies under.
#[derive(Clone)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Takes any bytes; a panic is a finding.
    pub(crate) run: fn(&[u8]),
    /// What its writer makes.
    pub(crate) seeds: Vec<Vec<u8>>,
}

/// All of them.
pub(crate) fn all() -> Vec<Target> {
    seeds::assert_valid();
    let of = |room: &str, seeds: fn(&str) -> Vec<Vec<u8>>, targets: &[(&str, Door)]| {
        let target = |(name, run): &(&str, fn(&[u8]))| Target {
            name: format!("{room}-{name}"),
            run: *run,
            seeds: seeds(name),
        };
        targets.iter().map(target).collect::<Vec<_>>()
    };
    let format = of("format", seeds::of_format, afterimage::format::fuzz::TARGETS);
    let nbd = of("nbd", seeds::of_nbd, &afterimage_nbd::fuzz::TARGETS);
    let blockmap: &[(&str, Door)] = &[("blockmap", afterimage::exports::blockmap::page::fuzz)];
    let exports = of("exports", seeds::of_exports, blockmap);
    let disk: &[(&str, Door)] = &[("disk", afterimage::image::disk::fuzz)];
    let image = of("image", seeds::of_image, disk);
    let progress: &[(&str, Door)] = &[("progress", afterimage::restore::target::progress::fuzz)];
    let restore = of("restore", seeds::of_restore, progress);
    let repo = of("repo", seeds::of_repo, afterimage::repo::fuzz::TARGETS);
    let source = of("source", seeds::of_machine, afterimage::source::fuzz::TARGETS);
    let view = of("view", seeds::of_view, afterimage::view::fuzz::TARGETS);
    let mountd = of("mountd", seeds::of_machine, afterimage_mountd::fuzz::TARGETS);
    let store = of("store", seeds::of_store, afterimage::store::fuzz::TARGETS);
    let documents = of("cinder", seeds::of_cinder, afterimage::foreign::cinder::document::fuzz::TARGETS);
    let cinder = of("cinder", seeds::of_cinder, afterimage::foreign::cinder::fuzz::TARGETS);
    [format, nbd, exports, image, restore, repo, source, view, mountd, store, documents, cinder].concat()
}
