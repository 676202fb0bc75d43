//! Lists in one word: `NAME=PATH,option,option=value`, where a comma that is meant is written `\,`.

use crate::error::{Error, Kind, Result};

/// A name, what it names, and options in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) options: Vec<(String, Option<String>)>,
}

impl Named {
    /// Reads `NAME=VALUE[,option[=value]]...`.
    pub(super) fn read(text: &str) -> Result<Named> {
        let off = || {
            Error::new(Kind::Usage, format!("{text:?} is not of the form NAME=PATH[,option...]"))
                .hint("a comma in a path is written \\,")
        };
        let (name, rest) = text.split_once('=').ok_or_else(off)?;
        let mut words = split(rest).into_iter();
        let value = words.next().filter(|value| !value.is_empty()).ok_or_else(off)?;
        let options = words.map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word, None),
        });
        Ok(Named { name: name.to_owned(), value, options: options.collect() })
    }
}

/// Cuts at commas that have no backslash before them. Any other backslash stands for itself.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ',' => words.push(String::new()),
            '\\' if chars.peek() == Some(&',') => {
                words.last_mut().into_iter().for_each(|word| word.push(','))
            }
            other => words.last_mut().into_iter().for_each(|word| word.push(other)),
        }
        if char == '\\' && chars.peek() == Some(&',') {
            let _comma = chars.next();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_escaped_and_options_follow() {
        let read = |text: &str| Named::read(text).unwrap();
        let named = read(r"web01=/dev/a\,b\c,size=10G,create");
        assert_eq!((named.name.as_str(), named.value.as_str()), ("web01", r"/dev/a,b\c"));
        assert_eq!(named.options, [("size".into(), Some("10G".into())), ("create".into(), None)]);
        assert_eq!(read("=/x").name, "");
        assert_eq!(read("a=b=c").value, "b=c");
        for wrong in ["", "web01", "web01=", "web01=,create"] {
            assert_eq!(Named::read(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
