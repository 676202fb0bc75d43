//! Patterns of names, as shells have them: `*` and `?` stand for anything but `/`, `[a-z]` and `[!a-z]` for one byte, `**` for anything, and
//! `\` takes the meaning from what follows it. One without a `/` is held against the last name of a path, one with a `/` against all of it.
//!
//! Costs the length of the path times that of the pattern, whatever either looks like.

use crate::error::{Error, Kind, Result};

/// The longest pattern.
const LEN_MAX: usize = 4096;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    steps: Vec<Step>,
    whole_path: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Byte(u8),
    /// Any but `/`.
    One,
    /// Any number of any but `/`.
    Some,
    /// Any number of any.
    All,
    /// One of these ranges, or none of them; never `/`.
    Class {
        ranges: Vec<(u8, u8)>,
        is_not: bool,
    },
}

/// How far a path has come in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    here: Vec<bool>,
    is_begin: bool,
}

impl Pattern {
    /// Takes a pattern apart.
    pub fn parse(text: &[u8]) -> Result<Pattern> {
        if text.is_empty() || text.len() > LEN_MAX {
            return Err(off(text, "it is empty or longer than 4096 bytes"));
        }
        let whole_path = text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text);
        let (mut steps, mut rest) = (Vec::new(), text);
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            steps.push(match first {
                b'*' if rest.first() == Some(&b'*') => {
                    rest = &rest[1..];
                    // `**/` stands for no directory at all, too.
                    if rest.first() == Some(&b'/') && ends_a_name(&steps) {
                        steps.push(Step::All);
                        rest = &rest[1..];
                        steps.push(Step::Byte(b'/'));
                        continue;
                    }
                    Step::All
                }
                b'*' => Step::Some,
                b'?' => Step::One,
                b'[' => {
                    let (class, len) = class(rest).ok_or_else(|| off(text, "a [ has no ]"))?;
                    rest = &rest[len..];
                    class
                }
                b'\\' => {
                    let (next, behind) = rest.split_first().ok_or_else(|| off(text, "it ends in a \\"))?;
                    rest = behind;
                    Step::Byte(*next)
                }
                byte => Step::Byte(*byte),
            });
        }
        Ok(Pattern { steps, whole_path })
    }

    /// Before the first name of a path.
    pub fn begin(&self) -> Reached {
        Reached { here: self.start(), is_begin: true }
    }

    /// Behind one more name.
    pub fn step(&self, before: &Reached, name: &[u8]) -> Reached {
        let here = match self.whole_path {
            true if before.is_begin => self.run(self.start(), name),
            true => self.run(self.run(before.here.clone(), b"/"), name),
            false => self.run(self.start(), name),
        };
        Reached { here, is_begin: false }
    }

    /// Whether the path that led there is meant.
    pub fn is_meant(&self, reached: &Reached) -> bool {
        !reached.is_begin && reached.here[self.steps.len()]
    }

    /// Whether something below may be meant.
    pub fn may_go_on(&self, reached: &Reached) -> bool {
        !self.whole_path || reached.here.contains(&true)
    }

    /// On what it depends which paths are meant below: equal for equal answers.
    pub fn below(&self, reached: &Reached) -> Vec<bool> {
        if self.whole_path { reached.here.clone() } else { Vec::new() }
    }

    fn start(&self) -> Vec<bool> {
        let mut here = vec![false; self.steps.len() + 1];
        here[0] = true;
        self.pass_empty(&mut here, true);
        here
    }

    /// All places of the pattern that can be reached, byte by byte.
    fn run(&self, mut here: Vec<bool>, text: &[u8]) -> Vec<bool> {
        for byte in text {
            let mut next = vec![false; self.steps.len() + 1];
            for (number, step) in self.steps.iter().enumerate().filter(|(number, _)| here[*number]) {
                match step {
                    Step::Some | Step::All if step.takes(*byte) => next[number] = true,
                    step if step.takes(*byte) => next[number + 1] = true,
                    _ => {}
                }
            }
            self.pass_empty(&mut next, *byte == b'/');
            here = next;
        }
        here
    }

    /// Passes over what may stand for nothing. `begins_a_name`: behind a `/` or at the beginning, where `**/` may stand for nothing.
    fn pass_empty(&self, here: &mut [bool], begins_a_name: bool) {
        for (number, step) in self.steps.iter().enumerate() {
            if here[number] && matches!(step, Step::Some | Step::All) {
                here[number + 1] = true;
                let slash = self.steps.get(number + 1) == Some(&Step::Byte(b'/'));
                if begins_a_name && *step == Step::All && slash {
                    here[number + 2] = true;
                }
            }
        }
    }
}

impl Step {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Step::Byte(wanted) => *wanted == byte,
            Step::One | Step::Some => byte != b'/',
            Step::All => true,
            Step::Class { ranges, is_not } => {
                byte != b'/' && ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) != *is_not
            }
        }
    }
}

fn ends_a_name(steps: &[Step]) -> bool {
    matches!(steps.last(), None | Some(Step::Byte(b'/')))
}

/// What stands between brackets, and how long it is with the closing one.
fn class(text: &[u8]) -> Option<(Step, usize)> {
    let is_not = matches!(text.first(), Some(b'!' | b'^'));
    let mut at = usize::from(is_not);
    let mut ranges = Vec::new();
    loop {
        let byte = *text.get(at)?;
        // One that comes first is meant as itself.
        if byte == b']' && !ranges.is_empty() {
            return Some((Step::Class { ranges, is_not }, at + 1));
        }
        match (text.get(at + 1), text.get(at + 2)) {
            (Some(b'-'), Some(to)) if *to != b']' => {
                ranges.push((byte, *to));
                at += 3;
            }
            _ => {
                ranges.push((byte, byte));
                at += 1;
            }
        }
    }
}

fn off(text: &[u8], why: &str) -> Error {
    Error::new(Kind::Usage, format!("{} is no pattern: {why}", text.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meant(pattern: &Pattern, path: &[u8]) -> bool {
        let names = path.split(|byte| *byte == b'/');
        let reached = names.fold(pattern.begin(), |reached, name| {
            assert!(pattern.may_go_on(&reached) || !pattern.is_meant(&pattern.step(&reached, name)));
            pattern.step(&reached, name)
        });
        pattern.is_meant(&reached)
    }

    fn matches(pattern: &str, path: &str) -> bool {
        meant(&Pattern::parse(pattern.as_bytes()).unwrap(), path.as_bytes())
    }

    #[test]
    fn patterns_mean_what_they_mean_to_shells() {
        for (pattern, path, is_meant) in [
            ("*.tex", "docs/thesis.tex", true),
            ("*.tex", "docs/thesis.tex.bak", false),
            ("thesis.*", "docs/thesis.tex", true),
            ("docs", "docs", true),
            ("docs", "docs/thesis.tex", false),
            ("docs/*", "docs/thesis.tex", true),
            ("docs/*", "docs/old/thesis.tex", false),
            ("/docs/*.tex", "docs/thesis.tex", true),
            ("docs/**", "docs/old/thesis.tex", true),
            ("**/thesis.tex", "thesis.tex", true),
            ("**/thesis.tex", "a/b/thesis.tex", true),
            ("**/thesis.tex", "a/b/my-thesis.tex", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/bz", false),
            ("?.c", "src/x.c", true),
            ("?.c", "src/xy.c", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("a*b*c", "aXbXc", true),
            ("*", "any/name", true),
        ] {
            assert_eq!(matches(pattern, path), is_meant, "{pattern} against {path}");
        }
        for bad in ["", "[abc", "x\\", "[]"] {
            assert_eq!(Pattern::parse(bad.as_bytes()).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn x2_a_pattern_that_would_be_tried_in_every_way_costs_its_length() {
        let pattern = "*a".repeat(1000) + "b";
        assert!(!matches(&pattern, &"a".repeat(4000)));
    }

    proptest! {
        #[test]
        fn a_name_is_meant_by_itself_and_nothing_panics(text in "[a-z*?\\[\\]!/\\\\-]{1,20}", path in "[a-z*?\\[\\]!/-]{0,20}") {
            if let Ok(pattern) = Pattern::parse(text.as_bytes()) {
                let _ = meant(&pattern, path.as_bytes());
            }
            let quoted: String = path.chars().flat_map(|char| ['\\', char]).collect();
            if !path.is_empty() && !path.starts_with('/') {
                let quoted = if path.contains('/') { quoted.replace("\\/", "/") } else { quoted };
                prop_assert!(meant(&Pattern::parse(quoted.as_bytes()).unwrap(), path.as_bytes()), "{}", quoted);
            }
        }
    }
}
