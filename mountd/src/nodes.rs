//! The nodes that the kernel knows: inode number -> the tree's node, and how often the kernel was told of it.
//!
//! Holds: a node stays exactly as long as the kernel may still ask for it; the root stays always. Two different nodes never share a number:
//! the one that comes second gets another, found by stepping through a fixed sequence. Nothing is called and nothing waits under a lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::watch::Watch;

/// The number by which the kernel calls the root, whatever the tree calls it.
pub(crate) const ROOT: u64 = 1;

const SHARDS: usize = 16;

/// One node and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Known<N> {
    /// The tree's.
    pub(crate) node: N,
    /// Where it was found, for `..`.
    pub(crate) parent: u64,
}

struct Slot<N> {
    known: Known<N>,
    lookups: u64,
}

/// The table.
pub(crate) struct Nodes<N> {
    root: N,
    shards: [Mutex<HashMap<u64, Slot<N>>>; SHARDS],
    watch: Arc<Watch>,
}

impl<N: Clone + Eq> Nodes<N> {
    pub(crate) fn new(root: N, watch: Arc<Watch>) -> Self {
        Nodes { root, shards: std::array::from_fn(|_| Mutex::new(HashMap::new())), watch }
    }

    /// The node of a number the kernel knows.
    pub(crate) fn get(&self, number: u64) -> Option<Known<N>> {
        if number == ROOT {
            return Some(Known { node: self.root.clone(), parent: ROOT });
        }
        self.shard(number).get(&number).map(|slot| slot.known.clone())
    }

    /// Counts one lookup of a node, and says the number by which the kernel will call it: `ino` unless that one is taken.
    pub(crate) fn remember(&self, ino: u64, node: N, parent: u64) -> u64 {
        let mut number = ino;
        loop {
            if number > ROOT && self.claim(number, &node, parent) {
                if number != ino {
                    self.watch.collisions.add(1);
                }
                return number;
            }
            number = next_number(number);
        }
    }

    /// Takes or shares a number; false when a different node has it.
    fn claim(&self, number: u64, node: &N, parent: u64) -> bool {
        match self.shard(number).entry(number) {
            Place::Occupied(mut place) => {
                let slot = place.get_mut();
                if slot.known.node != *node {
                    return false;
                }
                slot.lookups = slot.lookups.saturating_add(1);
            }
            Place::Vacant(place) => {
                let known = Known { node: node.clone(), parent };
                let _ = place.insert(Slot { known, lookups: 1 });
                self.watch.nodes.add(1);
            }
        }
        true
    }

    /// The kernel takes back `lookups` of a number. The node itself is dropped after the lock is released.
    pub(crate) fn forget(&self, number: u64, lookups: u64) {
        if number == ROOT {
            return;
        }
        let dropped = {
            let mut shard = self.shard(number);
            let Place::Occupied(mut place) = shard.entry(number) else {
                drop(shard);
                self.watch.forgotten_too_often.add(1);
                return;
            };
            let slot = place.get_mut();
            if slot.lookups > lookups {
                slot.lookups -= lookups;
                return;
            }
            place.remove()
        };
        self.watch.nodes.sub(1);
        if dropped.lookups < lookups {
            self.watch.forgotten_too_often.add(1);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Slot<N>>> {
        // Numbers may be a tree's own count as well as a hash, so every bit gets a say.
        let place = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize % SHARDS;
        // A tree's `eq` or `clone` that panicked cannot have left a map half changed.
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number to try after this one: the same sequence on every machine, visiting every number once.
fn next_number(number: u64) -> u64 {
    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> (Nodes<&'static str>, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        (Nodes::new("root", watch.clone()), watch)
    }

    #[test]
    fn f1_a_node_stays_for_as_many_forgets_as_it_had_lookups() {
        let (nodes, watch) = table();
        for _ in 0..3 {
            assert_eq!(nodes.remember(7, "a", ROOT), 7);
        }
        nodes.forget(7, 2);
        assert_eq!(nodes.get(7).map(|known| known.node), Some("a"));
        nodes.forget(7, 1);
        assert!(nodes.get(7).is_none());
        assert_eq!((nodes.len(), watch.nodes.get(), watch.forgotten_too_often.get()), (0, 0, 0));
    }

    #[test]
    fn f1_forgets_beyond_all_count_do_not_underflow_and_the_root_stays() {
        let (nodes, watch) = table();
        assert_eq!(nodes.remember(7, "a", ROOT), 7);
        nodes.forget(7, u64::MAX);
        nodes.forget(7, 1);
        nodes.forget(ROOT, u64::MAX);
        assert_eq!(nodes.get(ROOT).map(|known| known.node), Some("root"));
        assert_eq!((nodes.len(), watch.nodes.get(), watch.forgotten_too_often.get()), (0, 0, 2));
    }

    #[test]
    fn f1_lookups_and_forgets_from_many_threads_end_where_they_began() {
        let (nodes, watch) = table();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let nodes = &nodes;
                let _ = scope.spawn(move || {
                    for round in 0..5_000_u64 {
                        let ino = 2 + (round * 31 + thread) % 97;
                        let number = nodes.remember(ino, "same", ROOT);
                        assert!(nodes.get(number).is_some());
                        nodes.forget(number, 1);
                    }
                });
            }
        });
        assert_eq!((nodes.len(), watch.nodes.get(), watch.forgotten_too_often.get()), (0, 0, 0));
    }

    #[test]
    fn different_nodes_never_share_a_number() {
        let (nodes, watch) = table();
        let first = nodes.remember(7, "a", ROOT);
        let second = nodes.remember(7, "b", 7);
        assert_ne!(first, second);
        assert_eq!(nodes.remember(7, "b", 7), second, "the second one keeps its number");
        let seen = nodes.get(second).map(|known| (known.node, known.parent));
        assert_eq!(seen, Some(("b", 7)));
        for taken in [0, ROOT] {
            assert!(nodes.remember(taken, "c", ROOT) > ROOT, "0 is nothing and 1 is the root");
        }
        assert_eq!(watch.collisions.get(), 4);
    }

    proptest! {
        /// Any history of lookups and forgets leaves what a plain count says.
        #[test]
        fn f1_the_table_agrees_with_plain_counting(steps in proptest::collection::vec((2..6_u64, 1..5_u64, any::<bool>()), 0..200)) {
            let (nodes, watch) = table();
            let mut model = HashMap::<u64, u64>::new();
            for (ino, count, forget) in steps {
                if forget {
                    nodes.forget(ino, count);
                    let left = model.get(&ino).copied().unwrap_or(0).saturating_sub(count);
                    let _ = model.insert(ino, left);
                } else {
                    prop_assert_eq!(nodes.remember(ino, "x", ROOT), ino);
                    *model.entry(ino).or_default() += 1;
                }
            }
            model.retain(|_, count| *count > 0);
            prop_assert_eq!(nodes.len(), model.len());
            prop_assert_eq!(watch.nodes.get(), model.len() as u64);
            for ino in 2..6 {
                prop_assert_eq!(nodes.get(ino).is_some(), model.contains_key(&ino));
            }
        }
    }
}
