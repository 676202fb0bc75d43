//! How a directory is reached, for errors: names that are kept once for all that lies below.

use crate::format::shown::path_text;
use bytes::Bytes;
use std::sync::Arc;

/// The way from the top of a tree to a directory; no longer than directories may lie in each other.
#[derive(Clone, Default)]
pub(super) struct Way(Option<Arc<Step>>);

struct Step {
    above: Way,
    name: Bytes,
}

impl Way {
    /// To what has this name in it.
    pub(super) fn to(&self, name: &Bytes) -> Way {
        Way(Some(Arc::new(Step { above: self.clone(), name: name.clone() })))
    }

    /// As people read it.
    pub(super) fn text(&self) -> String {
        let (mut names, mut here) = (Vec::new(), self);
        while let Some(step) = &here.0 {
            names.push(&step.name[..]);
            here = &step.above;
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        path_text(&names.join(&b'/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_way_are_read_from_the_top() {
        let name = |name: &'static [u8]| Bytes::from_static(name);
        let top = Way::default().to(&name(b""));
        assert_eq!(top.text(), ".");
        let below = top.to(&name(b"docs")).to(&name(b"a \xff"));
        assert_eq!(below.text(), "docs/a \\xff");
        assert_eq!(top.to(&name(b"other")).text(), "other");
    }
}
