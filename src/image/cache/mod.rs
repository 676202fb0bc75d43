//! The chunk cache that everyone in this process shares: opened chunks by id, within one budget of bytes.
//!
//! What is touched once must not push out what is touched often: a restore of a terabyte passes through here beside somebody who browses.
//! So there are two lists. New entries come into *probation*, a fifth of the budget; one that is asked for again moves into
//! *protected*, whose least recently used go back to probation when it outgrows its four fifths. Victims are taken from
//! probation first, and [`Hint::Scan`] takes them from nowhere else, nor moves anything up.
//!
//! Invariant: whenever no call is under way, the bytes held are within the budget, which may change at any time.
//! Chunks are spread over shards so that threads rarely meet, yet the budget is one: a chunk may be larger than a shard's share.
//! Knows nothing of images or stores. [`Flights`] sees to it that what is missing is fetched once.

mod flights;

pub use flights::{Flight, Flights, Lead, Wait};

use lru::{DefaultHasher, LruCache};
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;
/// What an entry costs beside itself: links of the list and its share of the table.
const ENTRY_COST: usize = 64;

/// Why an entry is asked for or put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Somebody wants just this; it may be wanted again.
    Demand,
    /// It is one of a long run, read once from end to end.
    Scan,
}

/// What happened since the cache was made, and what is in it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries asked for that were there.
    pub hits: u64,
    /// Entries asked for that were not.
    pub misses: u64,
    /// Entries that had to make room.
    pub evictions: u64,
    /// Entries held.
    pub entries: usize,
    /// Bytes held, with what the entries cost themselves.
    pub bytes: usize,
}

/// Values by key, within a budget. Values are cloned out: they should be cheap to clone, as `Bytes` are.
pub struct ChunkCache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: DefaultHasher,
    budget: AtomicUsize,
    /// All that is held, and what is about to be put in: room is taken before it is used.
    bytes: AtomicUsize,
    protected_bytes: AtomicUsize,
    /// The shard that gives back to probation next.
    hand: AtomicUsize,
}

#[repr(align(128))] // two threads in neighbouring shards share no cache line
struct Shard<K, V> {
    probation: LruCache<K, Entry<V>>,
    protected: LruCache<K, Entry<V>>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

struct Entry<V> {
    value: V,
    bytes: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> ChunkCache<K, V> {
    /// An empty cache for so many bytes.
    pub fn new(budget: usize) -> Self {
        ChunkCache {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new())),
            hasher: DefaultHasher::default(),
            budget: AtomicUsize::new(budget),
            bytes: AtomicUsize::new(0),
            protected_bytes: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
        }
    }

    /// The value, if it is here.
    pub fn get(&self, key: &K, hint: Hint) -> Option<V> {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.protected.get(key) {
            let value = entry.value.clone();
            shard.hits += 1;
            return Some(value);
        }
        let Some(entry) = shard.probation.get(key) else {
            shard.misses += 1;
            return None;
        };
        let value = entry.value.clone();
        shard.hits += 1;
        if hint == Hint::Demand {
            self.promote(&mut shard, key);
            drop(shard);
            self.rebalance();
        }
        Some(value)
    }

    /// Puts a value of so many bytes in, in place of one of the same key. One that finds no room is not kept.
    pub fn insert(&self, key: K, value: V, bytes: usize, hint: Hint) {
        let bytes = bytes.saturating_add(ENTRY_COST + size_of::<(K, V)>());
        let home = self.home(&key);
        if !self.take_room(bytes, home, hint) {
            return;
        }
        let mut shard = self.lock(home);
        let was_protected = shard.protected.contains(&key);
        let list = if was_protected { &mut shard.protected } else { &mut shard.probation };
        let old = list.put(key, Entry { value, bytes });
        if was_protected {
            let _ = self.protected_bytes.fetch_add(bytes, SeqCst);
        }
        self.account_gone(old.as_ref(), was_protected);
        drop(shard);
        drop(old); // freeing a chunk is no work for under the lock
        self.rebalance();
        self.shrink(); // the budget may have changed since we took room
    }

    /// Changes the budget; what is too much goes at once.
    pub fn set_budget(&self, budget: usize) {
        self.budget.store(budget, SeqCst);
        self.rebalance();
        self.shrink();
    }

    /// The budget.
    pub fn budget(&self) -> usize {
        self.budget.load(SeqCst)
    }

    /// What entries that are touched once may take: all that is not kept for those that are touched often.
    pub fn room_for_scans(&self) -> usize {
        self.budget().saturating_sub(self.protected_bytes.load(SeqCst))
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { bytes: self.bytes.load(SeqCst), ..Counts::default() };
        for n in 0..SHARDS {
            let shard = self.lock(n);
            counts.hits += shard.hits;
            counts.misses += shard.misses;
            counts.evictions += shard.evictions;
            counts.entries += shard.probation.len() + shard.protected.len();
        }
        counts
    }

    /// Takes room for `bytes` out of the budget, from others if need be.
    fn take_room(&self, bytes: usize, home: usize, hint: Hint) -> bool {
        loop {
            let budget = self.budget();
            if bytes > budget {
                return false;
            }
            let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= budget);
            if self.bytes.fetch_update(SeqCst, SeqCst, fits).is_ok() {
                return true;
            }
            if !self.evict(home, hint) {
                return false;
            }
        }
    }

    /// Drops one entry, of the shard `home` if it can be; returns whether there was one.
    fn evict(&self, home: usize, hint: Hint) -> bool {
        let round = |protected: bool| (0..SHARDS).any(|n| self.evict_from((home + n) % SHARDS, protected));
        round(false) || (hint == Hint::Demand && round(true))
    }

    fn evict_from(&self, shard: usize, protected: bool) -> bool {
        let mut shard = self.lock(shard);
        let list = if protected { &mut shard.protected } else { &mut shard.probation };
        let victim = list.pop_lru();
        shard.evictions += u64::from(victim.is_some());
        self.account_gone(victim.as_ref().map(|(_, entry)| entry), protected);
        drop(shard);
        victim.is_some()
    }

    fn account_gone(&self, entry: Option<&Entry<V>>, was_protected: bool) {
        let Some(entry) = entry else { return };
        let _ = self.bytes.fetch_sub(entry.bytes, SeqCst);
        if was_protected {
            let _ = self.protected_bytes.fetch_sub(entry.bytes, SeqCst);
        }
    }

    fn promote(&self, shard: &mut Shard<K, V>, key: &K) {
        if let Some((key, entry)) = shard.probation.pop_entry(key) {
            let _ = self.protected_bytes.fetch_add(entry.bytes, SeqCst);
            let _none = shard.protected.put(key, entry);
        }
    }

    /// Gives back to probation what protected has beyond its share, one shard after the other.
    fn rebalance(&self) {
        let mut barren = 0;
        while barren < SHARDS && self.protected_bytes.load(SeqCst) > self.budget() / 5 * 4 {
            let shard = &mut *self.lock(self.hand.fetch_add(1, SeqCst) % SHARDS);
            match shard.protected.pop_lru() {
                Some((key, entry)) => {
                    let _ = self.protected_bytes.fetch_sub(entry.bytes, SeqCst);
                    let _none = shard.probation.put(key, entry);
                    barren = 0;
                }
                None => barren += 1,
            }
        }
    }

    fn shrink(&self) {
        let next = || self.hand.fetch_add(1, SeqCst) % SHARDS;
        while self.bytes.load(SeqCst) > self.budget() && self.evict(next(), Hint::Demand) {}
    }

    fn home(&self, key: &K) -> usize {
        // The table inside the shard uses the low bits, and the top seven for its tags.
        (self.hasher.hash_one(key) >> 40) as usize % SHARDS
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        self.lock(self.home(key))
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<K, V>> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Shard<K, V> {
    fn new() -> Self {
        Shard {
            probation: LruCache::unbounded(),
            protected: LruCache::unbounded(),
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    const SLOT: usize = 1000;

    /// What one entry of `SLOT` bytes costs in all.
    const fn cost() -> usize {
        SLOT + ENTRY_COST + size_of::<(u64, u64)>()
    }

    fn cache(slots: usize) -> ChunkCache<u64, u64> {
        ChunkCache::new(slots * cost())
    }

    /// As a reader does: asks, and puts in what was not there. Returns whether it was.
    fn read(cache: &ChunkCache<u64, u64>, key: u64, hint: Hint) -> bool {
        match cache.get(&key, hint) {
            Some(value) => value == key,
            None => {
                cache.insert(key, key, SLOT, hint);
                false
            }
        }
    }

    fn read_all(cache: &ChunkCache<u64, u64>, keys: impl Iterator<Item = u64>, hint: Hint) {
        keys.for_each(|key| {
            let _ = read(cache, key, hint);
        });
    }

    /// Share of hot reads that hit while `chunks` cold ones pass, one hot read for each eight of them, and after them.
    fn hot_hits_beside_a_scan(hint: Hint, reads_of_each: usize) -> (f64, f64) {
        const HOT: u64 = 1500;
        let cache = cache(4096);
        for _ in 0..3 {
            read_all(&cache, 0..HOT, Hint::Demand);
        }
        let mut hits = 0;
        for cold in 0..45_000 {
            read_all(&cache, std::iter::repeat_n(1_000_000 + cold, reads_of_each), hint);
            if cold % 8 == 0 {
                hits += u32::from(read(&cache, (cold / 8 * 7919) % HOT, Hint::Demand));
            }
        }
        read_all(&cache, 2_000_000..2_040_000, hint);
        let left = (0..HOT).filter(|key| cache.get(key, Hint::Scan).is_some()).count();
        (f64::from(hits) / (45_000.0 / 8.0), left as f64 / HOT as f64)
    }

    #[test]
    fn a_scan_evicts_no_hot_chunk() {
        for (hint, reads_of_each) in [(Hint::Scan, 1), (Hint::Scan, 32), (Hint::Demand, 1)] {
            let (beside, after) = hot_hits_beside_a_scan(hint, reads_of_each);
            println!("{hint:?} x {reads_of_each}: {beside:.3} beside the scan, {after:.3} after it");
            assert!(beside > 0.95 && after > 0.95, "{hint:?} x {reads_of_each}: {beside} {after}");
        }
    }

    #[test]
    fn the_whole_budget_is_of_use_and_no_more() {
        let cache = cache(100);
        (0..100).for_each(|key| cache.insert(key, key, SLOT, Hint::Scan));
        assert_eq!(cache.counts().entries, 100);
        cache.insert(100, 100, SLOT, Hint::Scan);
        let counts = cache.counts();
        assert_eq!((counts.entries, counts.bytes, counts.evictions), (100, 100 * cost(), 1));
    }

    #[test]
    fn a_chunk_of_half_the_budget_is_kept_and_one_beyond_it_is_not() {
        let cache = cache(100);
        (0..100).for_each(|key| cache.insert(key, key, SLOT, Hint::Demand));
        cache.insert(1000, 1, SLOT * 50, Hint::Demand);
        assert_eq!(cache.get(&1000, Hint::Demand), Some(1));
        cache.insert(1001, 1, SLOT * 200, Hint::Demand);
        assert_eq!(cache.get(&1001, Hint::Demand), None);
        assert!(cache.counts().entries > 40, "what does not fit pushes nothing out");
    }

    #[test]
    fn a_scan_that_would_need_protected_room_is_not_kept() {
        let cache = cache(10);
        for _ in 0..2 {
            read_all(&cache, 0..8, Hint::Demand);
        }
        cache.insert(100, 100, SLOT * 4, Hint::Scan);
        assert_eq!(cache.get(&100, Hint::Scan), None);
        (0..8).for_each(|key| assert_eq!(cache.get(&key, Hint::Scan), Some(key)));
        cache.insert(100, 100, SLOT * 4, Hint::Demand);
        assert_eq!(cache.get(&100, Hint::Scan), Some(100));
    }

    #[test]
    fn a_smaller_budget_holds_at_once() {
        let cache = cache(1000);
        (0..1000).for_each(|key| cache.insert(key, key, SLOT, Hint::Demand));
        (0..700).for_each(|key| assert_eq!(cache.get(&key, Hint::Demand), Some(key)));
        cache.set_budget(100 * cost());
        assert_eq!((cache.counts().bytes, cache.counts().entries), (100 * cost(), 100));
        cache.set_budget(0);
        assert_eq!((cache.counts().bytes, cache.counts().entries), (0, 0));
        cache.insert(1, 1, SLOT, Hint::Demand);
        assert_eq!(cache.get(&1, Hint::Demand), None);
    }

    #[test]
    fn threads_that_fill_read_and_shrink_at_once_leave_true_sums() {
        let cache = cache(200);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                let _ = scope.spawn(move || {
                    for n in 0..20_000u64 {
                        let key = n.wrapping_mul(thread * 2 + 1) % 700;
                        assert!(cache.get(&key, Hint::Demand).is_none_or(|value| value == key));
                        cache.insert(key, key, SLOT + (n % 50) as usize, Hint::Demand);
                        if n % 1000 == 0 {
                            cache.set_budget((50 + n as usize % 7 * 30) * cost());
                        }
                    }
                });
            }
        });
        cache.set_budget(77 * cost());
        check_sums(&cache);
    }

    fn check_sums(cache: &ChunkCache<u64, u64>) {
        let (mut probation, mut protected) = (0, 0);
        for n in 0..SHARDS {
            let shard = cache.lock(n);
            probation += shard.probation.iter().map(|(_, entry)| entry.bytes).sum::<usize>();
            protected += shard.protected.iter().map(|(_, entry)| entry.bytes).sum::<usize>();
        }
        assert_eq!(cache.counts().bytes, probation + protected);
        assert_eq!(cache.protected_bytes.load(SeqCst), protected);
        assert!(probation + protected <= cache.budget());
        assert!(protected <= cache.budget() / 5 * 4);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Get(u64, bool),
        Insert(u64, usize, bool),
        Budget(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u64..40, any::<bool>()).prop_map(|(key, scan)| Step::Get(key, scan)),
            8 => (0u64..40, 0usize..5000, any::<bool>()).prop_map(|(key, bytes, scan)| Step::Insert(key, bytes, scan)),
            1 => (0usize..30_000).prop_map(Step::Budget),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_budget_is_never_exceeded_and_no_value_is_another_keys(steps in prop::collection::vec(step(), 1..400)) {
            let cache = ChunkCache::new(20_000);
            let hint = |scan| if scan { Hint::Scan } else { Hint::Demand };
            for step in steps {
                match step {
                    Step::Get(key, scan) => prop_assert!(cache.get(&key, hint(scan)).is_none_or(|value| value == key)),
                    Step::Insert(key, bytes, scan) => cache.insert(key, key, bytes, hint(scan)),
                    Step::Budget(budget) => cache.set_budget(budget),
                }
                check_sums(&cache);
            }
        }
    }

    /// Prints what a hit costs; what is asserted is that all of them hit.
    #[test]
    fn hot_chunks_always_hit_however_many_threads_ask() {
        const HITS: u64 = 1_000_000;
        let cache = ChunkCache::new(4096 * 200);
        let key = |n: u64| [n.wrapping_mul(0x9e37_79b9_7f4a_7c15); 4];
        (0..1500).for_each(|n| cache.insert(key(n), bytes::Bytes::from(vec![1; 5]), 5, Hint::Demand));
        (0..1500).for_each(|n| drop(cache.get(&key(n), Hint::Demand)));
        for threads in [1, 2] {
            let began = Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let cache = &cache;
                    let _ = scope.spawn(move || {
                        for n in 0..HITS {
                            assert!(cache.get(&key((n * 7 + thread * 733) % 1500), Hint::Demand).is_some());
                        }
                    });
                }
            });
            println!("{:?} for a hit, {threads} threads", began.elapsed() / HITS as u32);
        }
        assert_eq!(cache.counts().hits, 3 * HITS + 1500);
    }
}
