//! Where decoders stand between two reads. Whoever reads in order finds the one that stands where he goes on; who reads elsewhere begins at the
//! nearest place there is, or waits for one that is on its way there, whichever is nearer.
//!
//! Holds: at most [`PARKED_MAX`] decoders stand here, whatever is read. Of several who wait for one decoder the one who wants the nearest gets it.

use super::bunzip::Bunzip;
use super::feed::{Feed, Source};
use super::inflate::Inflater;
use super::points::{Point, Points};
use super::unzstd::Unzstd;
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many decoders stand here, each with some megabytes at most.
const PARKED_MAX: usize = 8;
/// How many of them keep the stored bytes that they have in hand.
const AWAKE_MAX: usize = 4;
/// After so long things are looked at again, whether or not something changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How an object is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Zlib,
    Bzip2,
    Zstd,
}

/// A decoder of any method.
enum Decoder {
    Zlib(Box<Inflater>),
    Bzip2(Box<Bunzip>),
    Zstd(Unzstd),
}

/// A decoder and the stored bytes that it reads.
pub(super) struct Standing {
    decoder: Decoder,
    feed: Feed,
    /// Whether it began at a place that another process saved, which may be a wrong one.
    pub(super) resumed: bool,
}

/// Where decoders stand.
pub(in crate::foreign::cinder) struct Yard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    parked: VecDeque<(u64, Standing)>,
    /// Those that are used.
    running: HashMap<u64, Running>,
    /// Who waits for one: of which object, for which place, and how many.
    waiting: BTreeMap<(u64, u64), usize>,
    tickets: u64,
}

/// A decoder that is used: of which object, where it stood, and where it will stand.
struct Running {
    object: u64,
    from: u64,
    to: u64,
}

/// What is wanted of an object.
pub(super) struct Wanted<'a> {
    pub(super) object: u64,
    pub(super) source: &'a Source,
    pub(super) method: Method,
    pub(super) points: &'a Points,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Whether to begin at the start, and at no saved place.
    pub(super) fresh: bool,
}

/// A decoder in use. Dropped without being parked, it is gone.
pub(super) struct Taken<'a> {
    yard: &'a Yard,
    ticket: u64,
    object: u64,
    standing: Option<Standing>,
}

impl Standing {
    fn begin(wanted: &Wanted<'_>, from: Option<&(Point, bool)>) -> Result<Standing> {
        let point = from.map(|(point, _)| point);
        let decoder = match (wanted.method, point) {
            (Method::Zlib, None) => Decoder::Zlib(Box::new(Inflater::new())),
            (Method::Zlib, Some(point)) => Decoder::Zlib(Box::new(Inflater::resume(point)?)),
            (Method::Bzip2, None) => Decoder::Bzip2(Box::new(Bunzip::new())),
            (Method::Bzip2, Some(point)) => Decoder::Bzip2(Box::new(Bunzip::resume(point))),
            (Method::Zstd, _) => Decoder::Zstd(Unzstd::new()?),
        };
        let at = point.map_or(0, |point| point.at);
        Ok(Standing {
            decoder,
            feed: Feed::new(wanted.source.clone(), at),
            resumed: from.is_some_and(|(_, own)| !own),
        })
    }

    /// How many plain bytes it has given.
    pub(super) fn at(&self) -> u64 {
        match &self.decoder {
            Decoder::Zlib(decoder) => decoder.at(),
            Decoder::Bzip2(decoder) => decoder.at(),
            Decoder::Zstd(decoder) => decoder.at(),
        }
    }

    /// Fills `into` as far as there is something.
    pub(super) fn read(&mut self, into: &mut [u8], points: &Points) -> Result<usize> {
        let mut save = |point| points.put(point);
        match &mut self.decoder {
            Decoder::Zlib(decoder) => decoder.read(&mut self.feed, into, &mut save),
            Decoder::Bzip2(decoder) => decoder.read(&mut self.feed, into, &mut save),
            Decoder::Zstd(decoder) => decoder.read(&mut self.feed, into),
        }
    }

    /// Whether there is nothing more.
    pub(super) fn is_at_end(&mut self) -> Result<bool> {
        match &mut self.decoder {
            Decoder::Zlib(decoder) => decoder.is_at_end(&mut self.feed),
            Decoder::Bzip2(decoder) => decoder.is_at_end(&mut self.feed),
            Decoder::Zstd(decoder) => decoder.is_at_end(&mut self.feed),
        }
    }
}

impl Yard {
    pub(in crate::foreign::cinder) fn new() -> Yard {
        Yard { state: Mutex::default(), changed: Condvar::new() }
    }

    /// A decoder that stands at or before the place that is wanted. May wait for one.
    pub(super) fn take(&self, wanted: &Wanted<'_>) -> Result<Taken<'_>> {
        loop {
            let saved = if wanted.fresh { 0 } else { wanted.points.before(wanted.start).unwrap_or(0) };
            let way = wanted.start - saved;
            let mut state = self.state();
            if let Some((place, at)) = state.nearest(wanted).filter(|(_, at)| wanted.start - at <= way) {
                if state.somebody_between(wanted, at) {
                    self.wait(state, wanted);
                    continue;
                }
                let standing = state.parked.remove(place).map(|(_, standing)| standing);
                return Ok(self.taken(state, wanted, at, standing));
            }
            // What it still has to do, and what is to be done from there, against going all the way oneself.
            if state.comes(wanted).is_some_and(|work| work <= way) {
                self.wait(state, wanted);
                continue;
            }
            let mut taken = self.taken(state, wanted, saved, None);
            let point = if saved == 0 { None } else { wanted.points.get(saved) };
            if saved > 0 && point.is_none() {
                // It could not be had; it is not offered again.
                continue;
            }
            taken.standing = Some(Standing::begin(wanted, point.as_ref())?);
            return Ok(taken);
        }
    }

    fn taken(
        &self,
        mut state: MutexGuard<'_, State>,
        wanted: &Wanted<'_>,
        from: u64,
        standing: Option<Standing>,
    ) -> Taken<'_> {
        state.tickets += 1;
        let ticket = state.tickets;
        let running = Running { object: wanted.object, from, to: wanted.end };
        let _none = state.running.insert(ticket, running);
        drop(state);
        Taken { yard: self, ticket, object: wanted.object, standing }
    }

    /// Waits until something changes, seen by others as one who does.
    fn wait(&self, mut state: MutexGuard<'_, State>, wanted: &Wanted<'_>) {
        let key = (wanted.object, wanted.start);
        *state.waiting.entry(key).or_default() += 1;
        let waited = self.changed.wait_timeout(state, LOOK_EVERY);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.waiting.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                let _zero = state.waiting.remove(&key);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The parked decoder of the object that stands nearest before the place, and where that is.
    fn nearest(&self, wanted: &Wanted<'_>) -> Option<(usize, u64)> {
        let fits = |object: u64, standing: &Standing| {
            object == wanted.object && standing.at() <= wanted.start && !(wanted.fresh && standing.resumed)
        };
        let standing =
            self.parked.iter().enumerate().filter(|(_, (object, standing))| fits(*object, standing));
        standing.map(|(place, (_, standing))| (place, standing.at())).max_by_key(|(_, at)| *at)
    }

    /// How much a decoder that is used has to decode at most until what is wanted is reached, counting what it is used for now.
    fn comes(&self, wanted: &Wanted<'_>) -> Option<u64> {
        let fits = |one: &&Running| one.object == wanted.object && one.to <= wanted.start;
        self.running.values().filter(fits).map(|one| wanted.start - one.from.min(one.to)).min()
    }

    /// Whether somebody waits for a place on the way from `at` to the one that is wanted.
    fn somebody_between(&self, wanted: &Wanted<'_>, at: u64) -> bool {
        let (from, to) = ((wanted.object, at), (wanted.object, wanted.start));
        self.waiting.range(from..to).next().is_some()
    }
}

impl Taken<'_> {
    pub(super) fn standing(&mut self) -> Option<&mut Standing> {
        self.standing.as_mut()
    }

    /// Leaves the decoder where it stands, for whoever goes on.
    pub(super) fn park(mut self) {
        let Some(standing) = self.standing.take() else { return };
        let mut state = self.yard.state();
        state.parked.push_back((self.object, standing));
        if state.parked.len() > PARKED_MAX {
            drop(state.parked.pop_front());
        }
        let asleep = state.parked.len().saturating_sub(AWAKE_MAX);
        for (_, standing) in state.parked.iter_mut().take(asleep) {
            standing.feed.rest();
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let _was = self.yard.state().running.remove(&self.ticket);
        self.yard.changed.notify_all();
    }
}
