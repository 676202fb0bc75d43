//! What every store must do, as checks that run on any store: in tests on ours, and by `doctor --store` on a user's own.
//!
//! All happens in one folder that nobody else uses and that is emptied at the end; each check has names of its own. A check
//! says which promise was broken and how; it never panics, for the store may be anybody's.

use super::{Body, Name, Store, list_all};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;

/// No object that is made here is longer.
const LEN_MAX: u64 = 4 << 20;

/// One promise, and whether the store keeps it.
#[derive(Debug)]
pub struct Verdict {
    /// The promise, in words.
    pub promise: &'static str,
    /// What broke it.
    pub outcome: Result<()>,
    /// What stands in for it where a store does not keep it; without that, a store that breaks it can hold no repository.
    pub carried: Option<&'static str>,
}

/// Why no two writers meet at one name.
const NAMES: &str =
    "names are random or say what they name, so no two writers choose one: nothing rests on this";
/// Who deletes.
const DELETES: &str =
    "only key remove and record remove delete for good: backup, mount, restore and check work without";

/// Tries all promises on `store`, in the folder `folder` (one part of a name, which nothing else may use).
pub async fn conformance(store: &dyn Store, folder: &str) -> Vec<Verdict> {
    let at = Scratch { store, folder };
    let mut verdicts = vec![
        verdict("what was put is read back, whole and by range", at.reads_back().await),
        verdict("an empty object is an object", at.keeps_an_empty_object().await),
        verdict("a body of very many pieces arrives whole", at.takes_many_pieces().await),
        verdict("what is not there is missing", at.tells_what_is_missing().await),
        verdict(
            "a range that an object does not have is an error, never short",
            at.refuses_a_range_beyond_the_end().await,
        ),
        verdict("an object longer than makes sense is not read", at.refuses_what_is_too_long().await),
        verdict("the same bytes may be put again, others never replace them", at.never_replaces().await)
            .carried_by(NAMES),
        verdict("of writers that race for a name one wins, and each is told", at.lets_one_writer_win().await)
            .carried_by(NAMES),
        verdict(
            "a listing is in order, of one folder, and goes on behind any name",
            at.lists_in_order().await,
        ),
        verdict("a listing says the length that stat says", at.lists_what_stat_says().await),
        verdict("what was deleted is gone, twice over, and its name is free", at.deletes().await)
            .carried_by(DELETES),
        verdict("the longest name is kept", at.keeps_the_longest_name().await),
        verdict("what shows can be settled, what is not there is missing", at.settles().await),
    ];
    verdicts.push(verdict("a folder can be emptied", at.clean().await).carried_by(DELETES));
    verdicts
}

fn verdict(promise: &'static str, outcome: Result<()>) -> Verdict {
    Verdict { promise, outcome, carried: None }
}

impl Verdict {
    fn carried_by(self, carried: &'static str) -> Verdict {
        Verdict { carried: Some(carried), ..self }
    }
}

struct Scratch<'a> {
    store: &'a dyn Store,
    folder: &'a str,
}

impl Scratch<'_> {
    fn name(&self, rest: &str) -> Result<Name> {
        Name::parse(&format!("{}/{rest}", self.folder))
    }

    async fn settles(&self) -> Result<()> {
        let name = self.put("settled", b"settled").await?;
        self.store.settle(&name).await?;
        match self.store.settle(&self.name("never-put")?).await {
            Err(error) if error.kind() == Kind::Missing => self.expect_whole(&name, b"settled").await,
            Err(error) => Err(error),
            Ok(()) => Err(Error::new(Kind::Corrupt, "what is not there was settled")),
        }
    }

    async fn put(&self, rest: &str, bytes: &'static [u8]) -> Result<Name> {
        let name = self.name(rest)?;
        self.store.put(&name, Body::from(Bytes::from_static(bytes))).await?;
        Ok(name)
    }

    async fn expect_whole(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let there = self.store.get_whole(name, LEN_MAX).await?;
        ensure(there == bytes, || format!("{name} holds {} other bytes than were put", there.len()))
    }

    async fn reads_back(&self) -> Result<()> {
        let name = self.name("read/a")?;
        let parts = ["0123", "", "456", "789"].map(|part| Bytes::from_static(part.as_bytes()));
        self.store.put(&name, Body { parts: parts.to_vec() }).await?;
        self.expect_whole(&name, b"0123456789").await?;
        for (range, expected) in
            [(0..10, "0123456789"), (0..1, "0"), (3..6, "345"), (9..10, "9"), (0..0, ""), (10..10, "")]
        {
            let got = self.store.get(&name, range.clone()).await?;
            ensure(got == expected, || format!("{range:?} of {name} came as {got:?}"))?;
        }
        let stat = self.store.stat(&name).await?;
        ensure(stat.len == 10, || format!("{name} is said to be {} bytes long, not 10", stat.len))
    }

    async fn keeps_an_empty_object(&self) -> Result<()> {
        let name = self.put("empty/a", b"").await?;
        self.expect_whole(&name, b"").await?;
        let stat = self.store.stat(&name).await?;
        ensure(stat.len == 0, || format!("{name} is said to be {} bytes long, not empty", stat.len))
    }

    async fn takes_many_pieces(&self) -> Result<()> {
        let name = self.name("pieces/a")?;
        let whole: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
        let whole = Bytes::from(whole);
        let parts = (0..3000).map(|part| whole.slice(part * 1000..(part + 1) * 1000)).collect();
        self.store.put(&name, Body { parts }).await?;
        self.expect_whole(&name, &whole).await?;
        let got = self.store.get(&name, 999_999..1_000_001).await?;
        ensure(got == whole[999_999..1_000_001], || format!("a range of {name} is wrong"))
    }

    async fn tells_what_is_missing(&self) -> Result<()> {
        drop(self.put("missing/beside", b"x").await?);
        for rest in ["missing/a", "never/made/a"] {
            let name = self.name(rest)?;
            fails_as(Kind::Missing, "get", self.store.get(&name, 0..1).await)?;
            fails_as(Kind::Missing, "get of nothing", self.store.get(&name, 0..0).await)?;
            fails_as(Kind::Missing, "get_whole", self.store.get_whole(&name, 100).await)?;
            fails_as(Kind::Missing, "stat", self.store.stat(&name).await)?;
        }
        let nothing = self.store.list(&format!("{}/never/", self.folder), None).await?;
        ensure(nothing.is_empty(), || "a folder that was never made lists something".to_owned())
    }

    async fn refuses_a_range_beyond_the_end(&self) -> Result<()> {
        let name = self.put("range/a", b"0123456789").await?;
        for range in [0..11, 9..11, 10..11, 11..11, 5..u64::MAX, u64::MAX - 1..u64::MAX] {
            let what = format!("get of {range:?} of 10 bytes");
            fails_as(Kind::Corrupt, &what, self.store.get(&name, range).await)?;
        }
        #[expect(clippy::reversed_empty_ranges, reason = "what comes from elsewhere may be upside down")]
        let upside_down = 5..4;
        fails_as(Kind::Usage, "get of 5..4", self.store.get(&name, upside_down).await)
    }

    async fn refuses_what_is_too_long(&self) -> Result<()> {
        let name = self.put("long/a", b"0123456789").await?;
        fails_as(Kind::Corrupt, "get_whole of at most 9 bytes", self.store.get_whole(&name, 9).await)?;
        let whole = self.store.get_whole(&name, 10).await?;
        ensure(whole.len() == 10, || format!("an object of 10 bytes came as {}", whole.len()))
    }

    async fn never_replaces(&self) -> Result<()> {
        let name = self.put("again/a", b"first").await?;
        drop(self.put("again/a", b"first").await.context(|| "put the same bytes again")?);
        for others in [&b"other"[..], b"firs", b"first and more", b""] {
            fails_as(Kind::Refused, "put of other bytes", self.put("again/a", others).await)?;
            self.expect_whole(&name, b"first").await?;
        }
        Ok(())
    }

    async fn lets_one_writer_win(&self) -> Result<()> {
        let (a, b, again) = tokio::join!(
            self.put("race/a", b"aaaa"),
            self.put("race/a", b"bbbb"),
            self.put("race/a", b"aaaa")
        );
        let name = self.name("race/a")?;
        let there = self.store.get_whole(&name, 100).await?;
        let (winners, loser) =
            if there == b"aaaa"[..] { (vec![a, again], vec![b]) } else { (vec![b], vec![a, again]) };
        for winner in winners {
            drop(winner.context(|| "a writer of what is there was told otherwise")?);
        }
        loser.into_iter().try_for_each(|loser| fails_as(Kind::Refused, "put that lost a race", loser))
    }

    async fn lists_in_order(&self) -> Result<()> {
        // As text, `-` and `.` come before `/`, and digits behind it: folders and files sort as one.
        let rests = [
            "list/00/a",
            "list/00/b",
            "list/01-a",
            "list/01.a",
            "list/01/a/a",
            "list/010",
            "list/ff/a",
            "list/ff/b",
        ];
        for rest in rests.iter().rev().chain(&["list-a/b", "lis/t"]) {
            drop(self.put(rest, b"x").await?);
        }
        let under = format!("{}/list/", self.folder);
        let names = rests.iter().map(|rest| self.name(rest)).collect::<Result<Vec<Name>>>()?;
        let listed: Vec<Name> =
            list_all(self.store, &under).await?.into_iter().map(|listed| listed.name).collect();
        ensure(listed == names, || format!("listed {listed:?}, not {names:?}"))?;
        for (at, name) in names.iter().enumerate() {
            self.expect_behind(&under, name, &names[at + 1..]).await?;
        }
        self.expect_behind(&under, &self.name("list/00/aa")?, &names[1..]).await?;
        self.expect_behind(&under, &self.name("list/01")?, &names[2..]).await?;
        self.expect_behind(&under, &self.name("a")?, &names).await?;
        self.expect_behind(&under, &self.name("z")?, &[]).await
    }

    async fn expect_behind(&self, under: &str, after: &Name, expected: &[Name]) -> Result<()> {
        let page = self.store.list(under, Some(after)).await?;
        let names: Vec<&Name> = page.iter().map(|listed| &listed.name).collect();
        let fits =
            names.iter().zip(expected).all(|(a, b)| *a == b) && names.is_empty() == expected.is_empty();
        ensure(fits && names.len() <= expected.len(), || {
            format!("behind {after} came {names:?}, not {expected:?}")
        })
    }

    async fn lists_what_stat_says(&self) -> Result<()> {
        drop(self.put("facts/a", b"0123456789").await?);
        drop(self.put("facts/b", b"").await?);
        for listed in list_all(self.store, &format!("{}/facts/", self.folder)).await? {
            let stat = self.store.stat(&listed.name).await?;
            ensure(listed.stat.len == stat.len, || {
                format!("{} is listed with {} bytes, but has {}", listed.name, listed.stat.len, stat.len)
            })?;
        }
        Ok(())
    }

    async fn deletes(&self) -> Result<()> {
        let name = self.put("delete/a", b"first").await?;
        let beside = self.put("delete/b", b"stays").await?;
        self.store.delete(&name).await?;
        self.store.delete(&name).await.context(|| "delete what is gone")?;
        self.store.delete(&self.name("never/made/b")?).await.context(|| "delete what never was")?;
        fails_as(Kind::Missing, "stat of what was deleted", self.store.stat(&name).await)?;
        self.expect_whole(&beside, b"stays").await?;
        drop(self.put("delete/a", b"second").await?);
        self.expect_whole(&name, b"second").await
    }

    async fn keeps_the_longest_name(&self) -> Result<()> {
        let room = super::name::NAME_LEN_MAX.saturating_sub(self.folder.len() + 1);
        let name = self.put(&"n".repeat(room), b"x").await?;
        self.expect_whole(&name, b"x").await
    }

    async fn clean(&self) -> Result<()> {
        let under = format!("{}/", self.folder);
        for listed in list_all(self.store, &under).await? {
            self.store.delete(&listed.name).await?;
        }
        let left = list_all(self.store, &under).await?;
        ensure(left.is_empty(), || format!("{} objects are left in {under}", left.len()))
    }
}

fn ensure(holds: bool, words: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(Kind::Unsupported, words())) }
}

fn fails_as<T>(kind: Kind, what: &str, result: Result<T>) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error.as_kind(Kind::Unsupported)).context(|| format!("{what} should be {kind:?}")),
        Ok(_) => ensure(false, || format!("{what} succeeded, but should be {kind:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::{Fault, Harm, When};
    use crate::store::local::sim::SimDisk;
    use crate::store::retry::{Patience, Retry};
    use crate::store::{AnyStore, Deadline, Hedge, Limit, LocalStore, MemStore, Record, Verb, layer_tests};
    use std::sync::Arc;
    use std::time::Duration;

    async fn conforms(store: &dyn Store) {
        let verdicts = conformance(store, "conformance-1").await;
        let broken: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.outcome.is_err()).collect();
        assert!(broken.is_empty(), "{}: {broken:#?}", store.place());
        assert_eq!(verdicts.len(), 14);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        conforms(&LocalStore::open(dir.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn a_simulated_disk_is_a_store_and_so_is_one_that_stutters() {
        for piece_max in [usize::MAX, 1000] {
            let disk = SimDisk::new();
            disk.stutter(piece_max);
            conforms(&LocalStore::on(disk.root(), "simulated").unwrap()).await;
        }
    }

    #[tokio::test]
    async fn memory_is_a_store() {
        conforms(&MemStore::new()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_layer_over_a_store_is_a_store() {
        let mem = || -> AnyStore { Arc::new(MemStore::new()) };
        conforms(&Retry::new(mem(), Patience::NETWORK)).await;
        conforms(&Limit::new(mem(), 1, Some(1 << 20))).await;
        conforms(&Deadline::new(mem(), Duration::from_secs(1), 1 << 20)).await;
        conforms(&Limit::learning(mem(), 1, 4)).await;
        conforms(&Hedge::new(mem())).await;
        conforms(&Record::with_log(mem())).await;
        conforms(&Fault::new(mem(), 1)).await;
        conforms(&*layer_tests::layered(mem())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn b1_layers_make_a_store_of_one_that_often_fails_for_a_while() {
        for seed in 0..20 {
            let fault = Arc::new(Fault::new(Arc::new(MemStore::new()), seed));
            for verb in Verb::ALL {
                fault.plan(verb, When::Chance(0.1), Harm::Transient);
                fault.plan(verb, When::Chance(0.02), Harm::Hang);
            }
            for verb in [Verb::Put, Verb::Delete] {
                fault.plan(verb, When::Chance(0.1), Harm::ReplyLost);
            }
            let patience = Patience { attempts_max: 20, ..Patience::NETWORK };
            let deadline = Arc::new(Deadline::new(fault.clone(), Duration::from_secs(10), 1 << 20));
            println!("seed {seed}");
            conforms(&Retry::new(deadline, patience)).await;
            assert!(fault.hits() > 0);
        }
    }

    #[tokio::test]
    async fn a_store_that_breaks_a_promise_is_told_so() {
        for (verb, harm) in [
            (Verb::Get, Harm::Short(1)),
            (Verb::Get, Harm::OtherObject),
            (Verb::GetWhole, Harm::Long(1)),
            (Verb::List, Harm::Reorder),
            (Verb::List, Harm::Lose),
            (Verb::Stat, Harm::Fails(Kind::Denied)),
            (Verb::Put, Harm::ReplyLost),
            (Verb::Delete, Harm::Fails(Kind::Denied)),
            (Verb::Delete, Harm::Ghost { readable: true, listed: false }),
            (Verb::Delete, Harm::Ghost { readable: false, listed: true }),
        ] {
            let fault = Fault::new(Arc::new(MemStore::new()), 1);
            fault.plan(verb, When::From(1), harm);
            let verdicts = conformance(&fault, "conformance-1").await;
            assert!(verdicts.iter().any(|verdict| verdict.outcome.is_err()), "{verb:?} {harm:?}");
        }
    }
}
