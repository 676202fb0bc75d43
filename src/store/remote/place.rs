//! Places of remote stores as people write them: `s3://bucket/prefix`, `swift://container/prefix`.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// The longest bucket name and prefix that make sense, so that ours fit behind them in every service.
const BUCKET_LEN_MAX: usize = 255;
const PREFIX_LEN_MAX: usize = 512;

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Scheme {
    /// What Amazon's S3 speaks.
    S3,
    /// What OpenStack's Swift speaks.
    Swift,
}

/// Where a remote store is. The protocol's library knows nothing of the prefix: it takes it for granted that whatever a service lists begins with
/// it, and panics where that is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Place {
    pub(in crate::store) scheme: Scheme,
    /// Bucket or container.
    pub(in crate::store) bucket: String,
    /// What all names in it begin with; empty, or without a `/` at either end.
    pub(in crate::store) prefix: String,
}

impl Scheme {
    /// The scheme that is called so, if this build knows it.
    pub(in crate::store) fn called(word: &str) -> Option<Scheme> {
        match word {
            "s3" if cfg!(feature = "s3") => Some(Scheme::S3),
            "swift" if cfg!(feature = "swift") => Some(Scheme::Swift),
            _ => None,
        }
    }
}

impl Place {
    /// Takes a place apart. Nothing that could be a credential or an endpoint belongs in one.
    pub(in crate::store) fn parse(scheme: Scheme, text: &str) -> Result<Place> {
        let off = |why: &str| {
            Error::new(Kind::Usage, format!("{text:?} is no place of a store: {why}")).hint(match scheme {
                Scheme::S3 => "write s3://BUCKET or s3://BUCKET/PREFIX",
                Scheme::Swift => "write swift://CONTAINER or swift://CONTAINER/PREFIX",
            })
        };
        let rest = text.split_once("://").map(|(_, rest)| rest).ok_or_else(|| off("no :// stands in it"))?;
        if rest.contains(['?', '#', '@']) || rest.chars().any(char::is_control) {
            return Err(off(
                "? # @ and control characters can't stand in it; credentials come from the environment",
            ));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let part_is_odd = |part: &str| matches!(part, "" | "." | "..");
        match bucket {
            "" => Err(off("no bucket is named")),
            _ if part_is_odd(bucket) || bucket.len() > BUCKET_LEN_MAX => Err(off("no bucket is called so")),
            _ if prefix.len() > PREFIX_LEN_MAX => Err(off("its prefix is longer than 512 bytes")),
            _ if prefix.starts_with(char::is_whitespace) => Err(off("its prefix begins with a space")),
            _ if !prefix.is_empty() && prefix.split('/').any(part_is_odd) => {
                Err(off("a part of its prefix is empty, . or .."))
            }
            _ => Ok(Place { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() }),
        }
    }

    /// What the service calls an object, or the folder of all objects for no name at all.
    pub(super) fn key(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", "") => "/".to_owned(),
            ("", name) => name.to_owned(),
            (prefix, name) => format!("{prefix}/{name}"),
        }
    }

    /// What we call an object of the service; nothing for one that is not ours.
    pub(super) fn name_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(key),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::S3 => "s3",
            Scheme::Swift => "swift",
        };
        write!(out, "{scheme}://{}", self.bucket)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(out, "/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_words_are_a_place_that_reads_as_it_was_written_or_off(text in ".{0,40}", scheme in "s3://|swift://|") {
            let text = format!("{scheme}{text}");
            match Place::parse(Scheme::S3, &text) {
                Ok(place) => assert_eq!(Place::parse(Scheme::S3, &place.to_string()).unwrap(), place),
                Err(error) => assert_eq!(error.kind(), Kind::Usage),
            }
        }
    }

    #[test]
    fn a_name_has_one_key_and_a_key_elsewhere_has_no_name() {
        for (place, key) in [("s3://b", "packs/a"), ("s3://b/x/y", "x/y/packs/a")] {
            let place = Place::parse(Scheme::S3, place).unwrap();
            assert_eq!((place.key("packs/a").as_str(), place.name_of(key)), (key, Some("packs/a")));
        }
        let place = Place::parse(Scheme::S3, "s3://b/x/y").unwrap();
        assert_eq!(place.key(""), "x/y/");
        for key in ["", "/", "x", "x/y", "x/yz/a", "x/ä", "other"] {
            assert_eq!(place.name_of(key), None, "{key}");
        }
    }

    #[test]
    fn a_place_is_a_bucket_and_a_prefix_and_nothing_else() {
        for (text, bucket, prefix) in [
            ("s3://b", "b", ""),
            ("s3://b/", "b", ""),
            ("s3://my.bucket-1/a/b c/", "my.bucket-1", "a/b c"),
            ("s3://b/ä%20", "b", "ä%20"),
        ] {
            let place = Place::parse(Scheme::S3, text).unwrap();
            assert_eq!((place.bucket.as_str(), place.prefix.as_str()), (bucket, prefix), "{text}");
            assert_eq!(Place::parse(Scheme::S3, &place.to_string()).unwrap(), place);
        }
        let long = format!("s3://b/{}", "x".repeat(PREFIX_LEN_MAX + 1));
        for text in [
            "s3:b",
            "s3://",
            "s3:///x",
            "s3://../x",
            "s3://b//x",
            "s3://b/../x",
            "s3://b/a/./x",
            "s3://b/ x",
            "s3://key@b/x",
            "s3://b?x",
            "s3://b/x#y",
            "s3://b/a\nb",
            &long,
        ] {
            assert_eq!(Place::parse(Scheme::S3, text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
