//! What does not come back: counted by aspect, with paths to look at, in bounded memory.

use super::aspect::{Aspect, Aspects};
use std::collections::BTreeMap;

/// So many paths of each aspect are told; the count tells of all.
const PATHS_MAX: usize = 1000;
/// And no more bytes of them.
const PATHS_LEN_MAX: usize = 256 * 1024;

/// What cannot be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<Aspect, Loss>);

/// What cannot be kept of one aspect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Of how many files.
    pub count: u64,
    /// The first of them, as bytes.
    pub paths: Vec<Vec<u8>>,
    /// Why, where it is not the same for all.
    pub why: Option<&'static str>,
    len: usize,
}

impl Losses {
    /// Notes what a file loses, with so many others below it.
    pub fn add(&mut self, aspects: Aspects, path: &[u8], why: Option<&'static str>, files: u64) {
        for aspect in Aspect::ALL.into_iter().filter(|aspect| aspects.has(*aspect)) {
            let loss = self.0.entry(aspect).or_default();
            loss.count = loss.count.saturating_add(files);
            loss.why = loss.why.or(why);
            if loss.paths.len() < PATHS_MAX && loss.len.saturating_add(path.len()) <= PATHS_LEN_MAX {
                loss.len = loss.len.saturating_add(path.len());
                loss.paths.push(path.to_owned());
            }
        }
    }

    /// Those of an aspect.
    pub fn iter(&self) -> impl Iterator<Item = (Aspect, &Loss)> {
        self.0.iter().map(|(aspect, loss)| (*aspect, loss))
    }

    /// Whether everything is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of these aspects.
    pub fn only(&self, aspects: Aspects) -> Losses {
        let some = self.0.iter().filter(|(aspect, _)| aspects.has(**aspect));
        Losses(some.map(|(aspect, loss)| (*aspect, loss.clone())).collect())
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let words = self.iter().map(|(aspect, loss)| {
            let first = loss.paths.first().map(|path| format!(", as {}", path.escape_ascii()));
            let why = loss.why.map(|why| format!(": {why}")).unwrap_or_default();
            format!("{aspect} ({}{}{why})", loss.count, first.unwrap_or_default())
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_count_all_and_name_a_bounded_number() {
        let mut losses = Losses::default();
        let both = Aspects::of(&[Aspect::Owners, Aspect::Acls]);
        for number in 0..5000 {
            losses.add(both, format!("file {number}").as_bytes(), None, 1);
        }
        losses.add(Aspects::of(&[Aspect::Entry]), b"a:b\n", Some("its name is odd"), 1);
        let all: Vec<_> =
            losses.iter().map(|(aspect, loss)| (aspect, loss.count, loss.paths.len())).collect();
        assert_eq!(all, [(Aspect::Entry, 1, 1), (Aspect::Owners, 5000, 1000), (Aspect::Acls, 5000, 1000)]);
        let words = losses.only(Aspects::of(&[Aspect::Entry])).summary();
        assert_eq!(words, "files that it has no place for (1, as a:b\\n: its name is odd)");
        losses.add(Aspects::of(&[Aspect::Links]), &[b'x'; PATHS_LEN_MAX + 1], None, 1);
        assert!(losses.only(Aspects::of(&[Aspect::Links])).iter().all(|(_, loss)| loss.paths.is_empty()));
    }
}
