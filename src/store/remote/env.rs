//! The environment as a value: what the services' own tools read, and nothing else of it.
//!
//! Holds secrets, so it has no `Debug`.

use std::collections::HashMap;
use zeroize::Zeroizing;

/// What variables of interest begin with; `HOME` is where profiles lie.
const OURS: &[&str] = &["AWS_", "OS_", "ST_"];

/// Variables and their values.
#[derive(Clone, Default)]
pub(in crate::store) struct Env(HashMap<String, Zeroizing<String>>);

impl Env {
    /// What this process was started with.
    pub(in crate::store) fn of_this_process() -> Env {
        let ours = |name: &String| name == "HOME" || OURS.iter().any(|begin| name.starts_with(begin));
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Env::of(std::env::vars_os().filter_map(text).filter(|(name, _)| ours(name)))
    }

    /// These variables.
    pub(in crate::store) fn of<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Env {
        Env(variables.into_iter().map(|(name, value)| (name.into(), Zeroizing::new(value.into()))).collect())
    }

    /// A variable's value; an empty one counts as none.
    pub(in crate::store) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The first of several that is there.
    pub(in crate::store) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Whether a variable says yes.
    pub(in crate::store) fn says_yes(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_none_and_the_first_of_several_counts() {
        let env = Env::of([("AWS_A", ""), ("AWS_B", "b"), ("AWS_C", "c"), ("AWS_YES", "True")]);
        assert_eq!((env.get("AWS_A"), env.first(&["AWS_A", "AWS_B", "AWS_C"])), (None, Some("b")));
        assert!(env.says_yes("AWS_YES") && !env.says_yes("AWS_B") && !env.says_yes("AWS_A"));
    }
}
