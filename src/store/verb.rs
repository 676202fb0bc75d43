//! The six things that a store is asked, as values: to count them, and to make them fail.

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A range of an object.
    Get,
    /// A whole object.
    GetWhole,
    /// What is known of an object.
    Stat,
    /// A new object.
    Put,
    /// A page of names.
    List,
    /// To remove an object.
    Delete,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 6] = [Verb::Get, Verb::GetWhole, Verb::Stat, Verb::Put, Verb::List, Verb::Delete];
}
