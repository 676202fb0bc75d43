//! Which metadata contexts a client may list, and which it selected.

use crate::export::Info;
use crate::wire::Name;

/// A context that a client selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// By which replies refer to it: one more than its index, or more than there are for another name of one.
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
    /// Selects by full names, in the order of the list, and behind them by other names. A namespace alone selects nothing; a name given twice
    /// counts once.
    pub(super) fn new(export: Name, info: &Info, queries: &[String]) -> Self {
        let named = |context: &str| queries.iter().any(|query| query == context);
        let listed = info.all_contexts().enumerate().filter(|(_, name)| named(name));
        let count = info.all_contexts().count();
        let others = queries.iter().enumerate().filter(|(number, query)| {
            !info.all_contexts().any(|name| name == *query)
                && !queries.iter().take(*number).any(|earlier| earlier == *query)
        });
        let others = others.filter_map(|(_, query)| Some((info.alias(query)?, query.as_str())));
        let listed = listed.map(|(index, name)| (index, index, name));
        let others = (count..).zip(others).map(|(number, (index, name))| (number, index, name));
        let contexts = listed.chain(others).map(|(number, index, name)| Selected {
            id: u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1),
            index,
            name: name.to_owned(),
        });
        Selection { export, contexts: contexts.collect() }
    }
}

/// What LIST_META_CONTEXT shows: everything without queries, else exact names and `namespace:` prefixes.
pub(super) fn listed<'a>(info: &'a Info, queries: &'a [String]) -> impl Iterator<Item = &'a str> {
    let shown = info
        .all_contexts()
        .filter(move |context| queries.is_empty() || queries.iter().any(|query| matches(query, context)));
    shown.chain(queries.iter().map(String::as_str).filter(|query| info.alias(query).is_some()))
}

fn matches(query: &str, context: &str) -> bool {
    query == context || (query.ends_with(':') && context.starts_with(query))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Aliases;

    #[test]
    fn other_names_are_selected_behind_the_listed_ones_each_with_an_id_of_its_own() {
        let aliases = Aliases::new(|name| match name {
            "x-a:last" => Some(1),
            "x-a:astray" => Some(7),
            _ => None,
        });
        let contexts = vec!["x-a:1".to_owned(), "x-a:2".to_owned()];
        let info = Info { contexts, aliases: Some(aliases), ..Info::read_only(4096) };
        let queries =
            ["x-a:last", "x-a:2", "x-a:astray", "x-a:last", "x-a:", "base:allocation"].map(str::to_owned);
        let name = Name::new("x").unwrap();
        let found: Vec<(u32, usize, String)> = Selection::new(name, &info, &queries)
            .contexts
            .into_iter()
            .map(|one| (one.id, one.index, one.name))
            .collect();
        let wanted = [(1, 0, "base:allocation"), (3, 2, "x-a:2"), (4, 2, "x-a:last")];
        assert_eq!(found, wanted.map(|(id, index, name)| (id, index, name.to_owned())));
        assert_eq!(listed(&info, &queries[..1]).collect::<Vec<_>>(), ["x-a:last"]);
        assert_eq!(listed(&info, &[]).count(), 3);
    }
}
