//! Which part of a tree is meant: all of it, or what lies at some paths, with the directories that lead there.

use crate::error::{Context, Error, Kind, Result};
use crate::image::tree::Tree;

/// A part of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Paths as their names; none: all of it.
    paths: Vec<Vec<Vec<u8>>>,
}

/// How a path stands to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// It leads to the part.
    Above,
    /// It is of the part.
    Inside,
    /// It is neither.
    Outside,
}

impl Part {
    /// What lies at these paths; all, if there are none.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Part {
        let names = |path: &[u8]| {
            let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
            names.map(<[u8]>::to_owned).collect::<Vec<_>>()
        };
        let paths: Vec<_> = paths.into_iter().map(names).collect();
        // The root directory is all of it.
        if paths.iter().any(Vec::is_empty) { Part::default() } else { Part { paths } }
    }

    /// Fails for a path at which there is nothing.
    pub fn judge(&self, tree: &Tree) -> Result<()> {
        for names in &self.paths {
            let path = names.join(&b'/');
            let looking = || format!("look for {}", path.escape_ascii());
            let found = tree.engine().runtime().block_on(tree.find(&path)).context(looking)?;
            if found.is_none() {
                return Err(Error::new(
                    Kind::Missing,
                    format!("there is no {} in the backup", path.escape_ascii()),
                ));
            }
        }
        Ok(())
    }

    /// One line that says which part it is; nothing for all of it.
    pub fn words(&self) -> Option<String> {
        let paths: Vec<String> =
            self.paths.iter().map(|names| names.join(&b'/').escape_ascii().to_string()).collect();
        (!paths.is_empty()).then(|| paths.join(" "))
    }

    /// How a path stands to it.
    pub(super) fn relation(&self, path: &[u8]) -> Relation {
        if self.paths.is_empty() {
            return Relation::Inside;
        }
        let names = &names_of(path)[..];
        let starts = |long: &[Vec<u8>], short: &[&[u8]]| {
            long.len() >= short.len() && long.iter().zip(short).all(|(a, b)| a == b)
        };
        let is_inside =
            |path: &Vec<Vec<u8>>| names.len() >= path.len() && path.iter().zip(names).all(|(a, b)| a == b);
        if self.paths.iter().any(is_inside) {
            Relation::Inside
        } else if self.paths.iter().any(|path| starts(path, names)) {
            Relation::Above
        } else {
            Relation::Outside
        }
    }

    /// The names in a directory that leads to the part, in order.
    pub(super) fn next(&self, path: &[u8]) -> Vec<&[u8]> {
        let names = names_of(path);
        let of_it = |path: &&Vec<Vec<u8>>| path.iter().zip(&names).all(|(a, b)| a == b);
        let mut next: Vec<&[u8]> = self
            .paths
            .iter()
            .filter(of_it)
            .filter_map(|path| path.get(names.len()).map(Vec::as_slice))
            .collect();
        next.sort_unstable();
        next.dedup();
        next
    }
}

fn names_of(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_knows_what_leads_to_it_and_what_is_in_it() {
        let part = Part::of([&b"etc/nginx"[..], b"/var//log/", b"./etc/hosts"]);
        let table = [
            ("", Relation::Above),
            ("etc", Relation::Above),
            ("etc/nginx", Relation::Inside),
            ("etc/nginx/conf.d", Relation::Inside),
            ("etc/passwd", Relation::Outside),
            ("etcetera", Relation::Outside),
            ("var/log/x", Relation::Inside),
            ("var/lib", Relation::Outside),
        ];
        for (path, relation) in table {
            assert_eq!(part.relation(path.as_bytes()), relation, "{path}");
        }
        assert_eq!(part.next(b""), [&b"etc"[..], b"var"]);
        assert_eq!(part.next(b"etc"), [&b"hosts"[..], b"nginx"]);
        assert_eq!(part.words().as_deref(), Some("etc/nginx var/log etc/hosts"));
        for all in [Part::of([]), Part::of([&b"/"[..], b"etc"]), Part::of([&b"."[..]])] {
            assert_eq!((all.relation(b"x"), all.words()), (Relation::Inside, None));
        }
    }
}
