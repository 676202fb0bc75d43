//! Which metadata contexts a client may list, and which it selected.

use crate::export::Info;
use crate::wire::Name;

/// A context that a client selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// By which replies refer to it: one more than its index.
    pub id: u32,
    /// Its place among [`Info::all_contexts`].
    pub index: usize,
    /// Its name.
    pub name: String,
}

/// What SET_META_CONTEXT agreed on.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// It counts for this export only.
    pub(super) export: Name,
    pub(super) contexts: Vec<Selected>,
}

impl Selection {
    /// Selects by full names. A namespace alone selects nothing; a name given twice counts once.
    pub(super) fn new(export: Name, info: &Info, queries: &[String]) -> Self {
        let named = |context: &str| queries.iter().any(|query| query == context);
        let contexts = (1u32..).zip(info.all_contexts().enumerate());
        let selected = contexts.filter(|(_, (_, name))| named(name)).map(|(id, (index, name))| Selected {
            id,
            index,
            name: name.to_owned(),
        });
        Selection { export, contexts: selected.collect() }
    }
}

/// What LIST_META_CONTEXT shows: everything without queries, else exact names and `namespace:` prefixes.
pub(super) fn listed<'a>(info: &'a Info, queries: &'a [String]) -> impl Iterator<Item = &'a str> {
    info.all_contexts()
        .filter(move |context| queries.is_empty() || queries.iter().any(|query| matches(query, context)))
}

fn matches(query: &str, context: &str) -> bool {
    query == context || (query.ends_with(':') && context.starts_with(query))
}
