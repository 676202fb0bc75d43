//! A store that misbehaves as planned: to show what the rooms above make of it.
//!
//! A rule says of which calls the how-manieth goes wrong, and how. Chance comes from a seed, so that a failure can be had again.
//! What the wrapped store holds stays right; only what is said about it lies, except for calls that the rule keeps from it.

use super::dice::Dice;
use super::retry::ComeBack;
use super::verb::Verb;
use super::{AnyStore, Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The longest object that a lie is made of.
const LIE_LEN_MAX: u64 = 1 << 30;

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    /// It does not get through, this time.
    Transient,
    /// It is turned away with the wish for a pause.
    Throttled(Duration),
    /// It fails in this way.
    Fails(Kind),
    /// It never returns.
    Hang,
    /// It takes so long first.
    Slow(Duration),
    /// `Get`, `GetWhole`: so many bytes are missing at the end.
    Short(u64),
    /// `Get`, `GetWhole`: so many bytes too many come.
    Long(u64),
    /// `Get`, `GetWhole`: bytes of another object come.
    OtherObject,
    /// `Get`, `GetWhole`: words about an error come as if they were the object.
    ErrorText,
    /// `Put`, `Delete`: it is done, but the reply is lost.
    ReplyLost,
    /// `List`: what was put less than this ago is not listed.
    Stale(Duration),
    /// `List`: the last page comes again.
    Repeat,
    /// `List`: the page comes upside down.
    Reorder,
    /// `List`: one name of the page is left out.
    Lose,
    /// `Delete`: it is done, but the object still shows.
    Ghost {
        /// It can still be read.
        readable: bool,
        /// It is still listed.
        listed: bool,
    },
}

/// Which of the calls that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// The one with this number; the first is 1.
    Nth(u64),
    /// All from this number on.
    From(u64),
    /// All up to this number.
    UpTo(u64),
    /// Each with this probability.
    Chance(f64),
}

/// A store that misbehaves.
pub struct Fault {
    inner: AnyStore,
    dice: Dice,
    plan: Mutex<Vec<Rule>>,
    past: Mutex<Past>,
}

struct Rule {
    verb: Verb,
    under: String,
    when: When,
    harm: Harm,
    seen: u64,
    hits: u64,
}

/// What the lies are made of.
#[derive(Default)]
struct Past {
    put_at: BTreeMap<Name, Instant>,
    last_page: Vec<Listed>,
    ghosts: BTreeMap<Name, Ghost>,
}

#[derive(Clone)]
struct Ghost {
    bytes: Bytes,
    stat: Stat,
    readable: bool,
    listed: bool,
}

impl Fault {
    /// `inner`, with no faults planned yet.
    pub fn new(inner: AnyStore, seed: u64) -> Fault {
        Fault { inner, dice: Dice::seeded(seed), plan: Mutex::default(), past: Mutex::default() }
    }

    /// Plans that calls of `verb` go wrong.
    pub fn plan(&self, verb: Verb, when: When, harm: Harm) {
        self.plan_under(verb, "", when, harm);
    }

    /// Plans that calls of `verb` go wrong whose object (or folder) begins with `under`.
    pub fn plan_under(&self, verb: Verb, under: &str, when: When, harm: Harm) {
        assert!(harm.suits(verb), "{verb:?} cannot go wrong as {harm:?}");
        locked(&self.plan).push(Rule { verb, under: under.to_owned(), when, harm, seen: 0, hits: 0 });
    }

    /// How many calls went wrong as planned so far. A sweep over N ends where it stays 0.
    pub fn hits(&self) -> u64 {
        locked(&self.plan).iter().map(|rule| rule.hits).sum()
    }

    /// Behaves from here on, except that ghosts stay.
    pub fn behave(&self) {
        locked(&self.plan).clear();
    }

    /// What goes wrong with this call. Each rule counts the calls it is about; the first whose turn it is decides.
    fn harm(&self, verb: Verb, object: &str) -> Option<Harm> {
        let mut decided = None;
        for rule in locked(&self.plan).iter_mut() {
            if rule.verb != verb || !object.starts_with(&rule.under) {
                continue;
            }
            rule.seen += 1;
            if decided.is_none() && rule.when.is_now(rule.seen, &self.dice) {
                rule.hits += 1;
                decided = Some(rule.harm);
            }
        }
        decided
    }

    /// Lets a call fail or wait, if that is its harm; what has to do with its answer is returned.
    async fn begin(&self, verb: Verb, object: &str) -> Result<Option<Harm>> {
        let harm = self.harm(verb, object);
        let error = |kind| Error::new(kind, format!("{verb:?} {object}: planned fault"));
        match harm {
            Some(Harm::Transient) => Err(error(Kind::Unreachable)),
            Some(Harm::Throttled(after)) => Err(error(Kind::Busy).caused_by(ComeBack { after })),
            Some(Harm::Fails(kind)) => Err(error(kind)),
            Some(Harm::Hang) => std::future::pending().await,
            Some(Harm::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            harm => Ok(harm),
        }
    }

    async fn lie(&self, harm: Harm, name: &Name, truth: Bytes) -> Bytes {
        let len = truth.len();
        match harm {
            Harm::Short(missing) => truth.slice(..len.saturating_sub(missing as usize)),
            Harm::Long(more) => [&truth[..], &vec![0; more as usize]].concat().into(),
            Harm::OtherObject => self.bytes_of_another(name, len).await.unwrap_or_else(|| inverted(&truth)),
            Harm::ErrorText => Bytes::from_static(b"<Error><Code>InternalError</Code></Error>"),
            _ => truth,
        }
    }

    async fn bytes_of_another(&self, name: &Name, len: usize) -> Option<Bytes> {
        let folder =
            name.as_str().rsplit_once('/').map_or("", |(folder, _)| &name.as_str()[..folder.len() + 1]);
        let mut others = self.inner.list(folder, None).await.ok()?;
        others.retain(|other| other.name != *name && other.stat.len > 0);
        let other = others.get(self.dice.below(others.len() as u64) as usize)?;
        let bytes = self.inner.get_whole(&other.name, LIE_LEN_MAX).await.ok()?;
        Some(bytes.iter().copied().cycle().take(len).collect())
    }

    fn ghost(&self, name: &Name) -> Option<Ghost> {
        locked(&self.past).ghosts.get(name).filter(|ghost| ghost.readable).cloned()
    }

    async fn make_ghost(&self, name: &Name, readable: bool, listed: bool) {
        if let (Ok(bytes), Ok(stat)) =
            (self.inner.get_whole(name, LIE_LEN_MAX).await, self.inner.stat(name).await)
        {
            let ghost = Ghost { bytes, stat, readable, listed };
            drop(locked(&self.past).ghosts.insert(name.clone(), ghost));
        }
    }

    /// Adds the ghosts that belong on this page, or behind the last one.
    fn haunt(&self, page: &mut Vec<Listed>, under: &str, after: Option<&Name>) {
        let end = page.last().map(|last| last.name.clone());
        let past = locked(&self.past);
        let seen = past.ghosts.iter().filter(|(name, ghost)| {
            ghost.listed
                && name.as_str().starts_with(under)
                && after.is_none_or(|after| *name > after)
                && end.as_ref().is_none_or(|end| *name < end)
        });
        page.extend(seen.map(|(name, ghost)| Listed { name: name.clone(), stat: ghost.stat.clone() }));
        page.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn twist(&self, harm: Harm, mut page: Vec<Listed>) -> Vec<Listed> {
        match harm {
            Harm::Stale(time) => {
                let past = locked(&self.past);
                page.retain(|listed| past.put_at.get(&listed.name).is_none_or(|at| at.elapsed() >= time));
            }
            Harm::Repeat if !locked(&self.past).last_page.is_empty() => {
                page.clone_from(&locked(&self.past).last_page);
            }
            Harm::Reorder => page.reverse(),
            Harm::Lose if !page.is_empty() => drop(page.remove(self.dice.below(page.len() as u64) as usize)),
            _ => {}
        }
        page
    }
}

impl Harm {
    fn suits(self, verb: Verb) -> bool {
        match self {
            Harm::Transient | Harm::Throttled(_) | Harm::Fails(_) | Harm::Hang | Harm::Slow(_) => true,
            Harm::Short(_) | Harm::Long(_) | Harm::OtherObject | Harm::ErrorText => {
                matches!(verb, Verb::Get | Verb::GetWhole)
            }
            Harm::ReplyLost => matches!(verb, Verb::Put | Verb::Delete),
            Harm::Stale(_) | Harm::Repeat | Harm::Reorder | Harm::Lose => verb == Verb::List,
            Harm::Ghost { .. } => verb == Verb::Delete,
        }
    }
}

impl When {
    fn is_now(self, number: u64, dice: &Dice) -> bool {
        match self {
            When::Nth(nth) => number == nth,
            When::From(first) => number >= first,
            When::UpTo(last) => number <= last,
            When::Chance(probability) => dice.fraction() < probability,
        }
    }
}

fn reply_lost(verb: Verb, name: &Name) -> Error {
    Error::new(Kind::Unreachable, format!("{verb:?} {name}: planned fault, the reply is lost"))
}

fn inverted(bytes: &Bytes) -> Bytes {
    bytes.iter().map(|byte| !byte).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Fault {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn calls_at_once(&self) -> Option<usize> {
        self.inner.calls_at_once()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(async move {
            let harm = self.begin(Verb::Get, name.as_str()).await?;
            let truth = match self.inner.get(name, range.clone()).await {
                Err(error) if error.kind() == Kind::Missing => self
                    .ghost(name)
                    .filter(|ghost| range.start <= range.end && range.end <= ghost.stat.len)
                    .map(|ghost| ghost.bytes.slice(range.start as usize..range.end as usize))
                    .ok_or(error)?,
                result => result?,
            };
            match harm {
                Some(harm) => Ok(self.lie(harm, name, truth).await),
                None => Ok(truth),
            }
        })
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.inner.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(async move {
            let harm = self.begin(Verb::GetWhole, name.as_str()).await?;
            let truth = match self.inner.get_whole(name, len_max).await {
                Err(error) if error.kind() == Kind::Missing => {
                    self.ghost(name).map(|ghost| ghost.bytes).ok_or(error)?
                }
                result => result?,
            };
            match harm {
                Some(harm) => Ok(self.lie(harm, name, truth).await),
                None => Ok(truth),
            }
        })
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(async move {
            let _none_of_these = self.begin(Verb::Stat, name.as_str()).await?;
            match self.inner.stat(name).await {
                Err(error) if error.kind() == Kind::Missing => {
                    self.ghost(name).map(|ghost| ghost.stat).ok_or(error)
                }
                result => result,
            }
        })
    }

    /// Goes wrong as a `Stat` does.
    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move {
            let _none_of_these = self.begin(Verb::Stat, name.as_str()).await?;
            self.inner.settle(name).await
        })
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        Box::pin(async move {
            let harm = self.begin(Verb::Put, name.as_str()).await?;
            self.inner.put(name, body).await?;
            let mut past = locked(&self.past);
            let _first = past.put_at.entry(name.clone()).or_insert_with(Instant::now);
            drop(past.ghosts.remove(name));
            if harm == Some(Harm::ReplyLost) { Err(reply_lost(Verb::Put, name)) } else { Ok(()) }
        })
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        Box::pin(async move {
            let harm = self.begin(Verb::List, under).await?;
            let mut page = self.inner.list(under, after).await?;
            self.haunt(&mut page, under, after);
            if let Some(harm) = harm {
                page = self.twist(harm, page);
            }
            locked(&self.past).last_page.clone_from(&page);
            Ok(page)
        })
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        Box::pin(async move {
            let harm = self.begin(Verb::Delete, name.as_str()).await?;
            if let Some(Harm::Ghost { readable, listed }) = harm {
                self.make_ghost(name, readable, listed).await;
            }
            self.inner.delete(name).await?;
            if harm == Some(Harm::ReplyLost) { Err(reply_lost(Verb::Delete, name)) } else { Ok(()) }
        })
    }
}
