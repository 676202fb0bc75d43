//! The way in for shares of another repository: a tree there becomes a tree of ours.
//!
//! walk through that tree -> units of tasks -> workers (read, cut, hash, compress, seal) -> assembler, as for a directory
//!
//! Ids are keyed, so everything gets another one: content first, then the nodes that refer to it. What entries say stays as it is, what was seen
//! of the source too; so the next backup of the share itself recognises what nobody touched. Files are cut anew: where that is depends on the key,
//! and what is cut as ours are is found among them. Where an earlier backup lies on both sides, what is equal there is taken over here, node by
//! node (`earlier`): a copy costs what differs. What comes more than once, as a file with several names, is copied once.

mod earlier;
mod reading;
mod walk;
mod way;

use super::super::plan::tree_of;
use super::pipeline::{TreeDone, TreePlan, cutter, run};
use crate::error::Result;
use crate::format::record::{Item, Root};
use crate::image::Engine;
use crate::image::tree::Tree;
use crate::repo::writer::Writer;
use crate::source::Facts;
use reading::Shop;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use walk::Walk;

/// A share that is copied.
pub struct TreeCopy {
    facts: Facts,
    /// Its tree, and the top of what stands beside it.
    tree: (Tree, Option<Root>),
    /// The same of an earlier backup of which a copy is the parent.
    earlier: Option<(Tree, Option<Root>)>,
}

impl TreeCopy {
    /// The tree with this top, and the top of what stands beside it. `earlier`: the same item of the backup there whose copy will be the parent.
    pub fn new(
        there: &Arc<Engine>,
        (root, sightings): (Root, Option<Root>),
        facts: Facts,
        earlier: Option<&Item>,
    ) -> TreeCopy {
        let earlier = earlier.and_then(|earlier| tree_of(there, &earlier.content));
        TreeCopy { facts, tree: (Tree::new(Arc::clone(there), root), sightings), earlier }
    }

    pub(in crate::backup) fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Copies one tree; the parent of the plan is the copy of the earlier one.
pub(in crate::backup) fn copy_tree(
    plan: &TreePlan<'_>,
    writer: &mut Writer,
    copy: &TreeCopy,
) -> Result<TreeDone> {
    let cutter = cutter(plan);
    let bytes_read = AtomicU64::new(0);
    let shop = Shop { runtime: plan.runtime, cutter: &cutter, bytes_read: &bytes_read };
    let assembled = run(plan, writer, &shop, false, |out| Walk::new(plan, copy, &shop, out).run())?;
    Ok(assembled.done(copy.facts(), bytes_read.into_inner()))
}
