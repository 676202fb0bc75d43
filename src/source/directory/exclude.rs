//! What is left out of a backup: patterns as `.gitignore` has them, matched against the path from the source's directory on.
//!
//! A pattern without a slash (but at its end) is about names anywhere; one with a slash about the path from the top. `*` and `?` stop at
//! slashes, `**` does not; `[a-z]` and `[!a-z]` are one byte; a slash at the end means directories only; `!` takes back what an earlier
//! pattern left out. The last pattern that matches decides. What lies in a directory that is left out is never looked at.

use crate::error::{Error, Kind, Result};

/// Patterns, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excludes(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// One for each name of the path.
    parts: Vec<Part>,
    /// It begins at the top.
    anchored: bool,
    only_directories: bool,
    takes_back: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any number of names.
    Any,
    Name(Vec<u8>),
}

impl Excludes {
    /// Adds one pattern.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let bad = |why: &str| Error::new(Kind::Usage, format!("{text:?} is no pattern: {why}"));
        let (takes_back, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (only_directories, rest) = match rest.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (leading, rest) = match rest.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.is_empty() {
            return Err(bad("it names nothing"));
        }
        let part = |name: &str| match name {
            "**" => Ok(Part::Any),
            "" | "." | ".." => Err(bad("a path in it is not plain")),
            name => Ok(Part::Name(name.as_bytes().to_vec())),
        };
        let parts = rest.split('/').map(part).collect::<Result<Vec<_>>>()?;
        let anchored = leading || parts.len() > 1;
        self.0.push(Pattern { parts, anchored, only_directories, takes_back });
        Ok(())
    }

    /// Adds the patterns of a file: one a line; empty ones and those that begin with `#` say nothing.
    pub fn add_lines(&mut self, text: &str) -> Result<()> {
        let lines = text.lines().map(str::trim_end);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).try_for_each(|line| self.add(line))
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something at this path is left out.
    pub fn leaves_out(&self, path: &[u8], is_directory: bool) -> bool {
        let decides = self.0.iter().rev().find(|pattern| pattern.matches(path, is_directory));
        decides.is_some_and(|pattern| !pattern.takes_back)
    }
}

impl Pattern {
    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.only_directories && !is_directory {
            return false;
        }
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let from = if self.anchored { 0 } else { names.len() - 1 };
        let is_any = |part: &Part| *part == Part::Any;
        wild(&self.parts, &names[from..], is_any, |part, name| match part {
            Part::Any => false,
            Part::Name(pattern) => glob(pattern, name),
        })
    }
}

/// Whether a row of patterns matches a row of things, where some patterns match any number of them. Goes back to the last of those
/// only, which is enough, so it takes no more than the product of both lengths.
fn wild<P, T>(
    patterns: &[P],
    things: &[T],
    is_any: impl Fn(&P) -> bool,
    matches: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < things.len() {
        match patterns.get(p) {
            Some(pattern) if is_any(pattern) => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(pattern) if matches(pattern, &things[t]) => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    patterns[p..].iter().all(is_any)
}

/// One position of a name's pattern.
enum One<'a> {
    Star,
    Question,
    Byte(u8),
    /// One of these, or (`not`) none of them.
    Of {
        not: bool,
        set: &'a [u8],
    },
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let ones = positions(pattern);
    wild(
        &ones,
        name,
        |one| matches!(one, One::Star),
        |one, byte| match one {
            One::Star => false,
            One::Question => true,
            One::Byte(wanted) => wanted == byte,
            One::Of { not, set } => in_set(set, *byte) != *not,
        },
    )
}

fn positions(mut pattern: &[u8]) -> Vec<One<'_>> {
    let mut ones = Vec::new();
    while let Some((first, rest)) = pattern.split_first() {
        pattern = rest;
        ones.push(match (first, rest) {
            (b'*', _) => One::Star,
            (b'?', _) => One::Question,
            (b'\\', [literal, behind @ ..]) => {
                pattern = behind;
                One::Byte(*literal)
            }
            (b'[', _) => match set(rest) {
                Some((one, behind)) => {
                    pattern = behind;
                    one
                }
                None => One::Byte(b'['),
            },
            (byte, _) => One::Byte(*byte),
        });
    }
    ones
}

/// What stands between brackets, and what behind them.
fn set(rest: &[u8]) -> Option<(One<'_>, &[u8])> {
    let (not, rest) = match rest {
        [b'!' | b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    // A bracket that comes first means itself.
    let end = 1 + rest.get(1..)?.iter().position(|&byte| byte == b']')?;
    Some((One::Of { not, set: &rest[..end] }, &rest[end + 1..]))
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        set = match set {
            [] => return false,
            [from, b'-', to, rest @ ..] => {
                if (*from..=*to).contains(&byte) {
                    return true;
                }
                rest
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(lines: &str) -> Excludes {
        let mut excludes = Excludes::default();
        excludes.add_lines(lines).unwrap();
        excludes
    }

    #[test]
    fn patterns_mean_what_gitignore_means_by_them() {
        for (pattern, path, is_directory, out) in [
            ("*.o", "main.o", false, true),
            ("*.o", "src/deep/main.o", false, true),
            ("*.o", "main.oo", false, false),
            ("/*.o", "main.o", false, true),
            ("/*.o", "src/main.o", false, false),
            ("tmp/", "tmp", true, true),
            ("tmp/", "tmp", false, false),
            ("tmp/", "a/tmp", true, true),
            ("a/b", "a/b", false, true),
            ("a/b", "x/a/b", false, false),
            ("**/a/b", "x/y/a/b", false, true),
            ("**/a/b", "a/b", false, true),
            ("a/**/z", "a/z", false, true),
            ("a/**/z", "a/b/c/z", false, true),
            ("a/**", "a/b/c", false, true),
            ("a/*", "a/b/c", false, false),
            ("a?c", "abc", false, true),
            ("a?c", "ac", false, false),
            ("[a-c]x", "bx", false, true),
            ("[!a-c]x", "bx", false, false),
            ("[]]x", "]x", false, true),
            ("[x", "[x", false, true),
            (r"\*", "*", false, true),
            (r"\*", "x", false, false),
            ("*a*b*c*", "xxaxxbxxcxx", false, true),
            ("*a*b*c*", "xxaxxcxxbxx", false, false),
        ] {
            assert_eq!(excludes(pattern).leaves_out(path.as_bytes(), is_directory), out, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_decides_and_can_take_back() {
        let excludes = excludes("# logs\n*.log\n\n!keep.log\n/keep.log\n");
        assert!(excludes.leaves_out(b"a.log", false) && excludes.leaves_out(b"keep.log", false));
        assert!(!excludes.leaves_out(b"dir/keep.log", false) && !excludes.leaves_out(b"x", false));
    }

    #[test]
    fn names_made_to_be_matched_slowly_are_not() {
        let excludes = excludes(&"*a".repeat(50));
        assert!(!excludes.leaves_out(&[b'a'; 255].map(|byte| byte + 1), false));
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for bad in ["", "/", "!", "a//b", "../x", "a/./b"] {
            assert_eq!(Excludes::default().add(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
