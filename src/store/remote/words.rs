//! What went wrong, in our words: the status of the answer decides the kind; of the service's own words only its code and sentence are told.
//!
//! Holds: no header and no address of a request is quoted, so no credential can be.

use super::place::{Place, Scheme};
use super::wire::{Call, Seen, TOO_LONG, TOO_SHORT};
use crate::error::{Error, Kind};
use crate::store::retry::ComeBack;
use std::fmt;

/// How much of a service's own sentence is told.
const SENTENCE_LEN_MAX: usize = 200;

/// What was being done.
pub(super) struct Doing<'a> {
    pub(super) what: &'static str,
    pub(super) object: &'a str,
    pub(super) place: &'a Place,
}

impl fmt::Display for Doing<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} in {}", self.what, self.object, self.place)
    }
}

/// A cause as words: the innermost one, which says most and knows no address.
#[derive(Debug)]
pub(super) struct Cause(String);

impl Cause {
    pub(super) fn of(error: &dyn std::error::Error) -> Cause {
        let mut inner = error;
        while let Some(next) = inner.source() {
            inner = next;
        }
        Cause(short(&inner.to_string()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// The error that a call ended with. `was_signed`: earlier ones could be signed, so that whoever gives credentials is only away for now.
pub(super) fn failure(doing: &Doing<'_>, call: &Call, was_signed: bool, cause: &opendal::Error) -> Error {
    let seen = call.seen();
    if is_of_signing(cause) && was_signed {
        return Error::new(Kind::Unreachable, format!("{doing}: its credentials could not be renewed"))
            .caused_by(Cause::of(cause));
    }
    if is_of_signing(cause) {
        return Error::new(
            Kind::Denied,
            format!("{doing}: no credentials were found that it can be signed with"),
        )
        .hint("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, say who asks");
    }
    if let Some(odd) = seen.odd {
        return odd_answer(doing, &seen, odd);
    }
    let said = Said::of(cause.message());
    match seen.status {
        0 | 200..=299 => broken_off(doing, cause),
        status => refused(doing, status, &seen, &said),
    }
}

fn is_of_signing(cause: &opendal::Error) -> bool {
    let words = cause.message();
    ["signing", "loading credential", "failed to sign"].iter().any(|begin| words.starts_with(begin))
}

fn odd_answer(doing: &Doing<'_>, seen: &Seen, odd: &str) -> Error {
    let words = match seen.object_len {
        Some(len) if odd == TOO_SHORT => format!("{doing}: it ends at {len}, before the range does"),
        _ => format!("{doing}: {odd}"),
    };
    let kind = if matches!(odd, TOO_SHORT | TOO_LONG) { Kind::Corrupt } else { Kind::Unreachable };
    Error::new(kind, words)
}

fn broken_off(doing: &Doing<'_>, cause: &opendal::Error) -> Error {
    match std::error::Error::source(cause) {
        Some(inner) => Error::new(Kind::Unreachable, doing.to_string()).caused_by(Cause::of(inner)),
        None => Error::new(Kind::Unreachable, format!("{doing}: {}", short(cause.message()))),
    }
}

fn refused(doing: &Doing<'_>, status: u16, seen: &Seen, said: &Said) -> Error {
    let kind = kind_of(status, said);
    let error = Error::new(kind, format!("{doing}: {status}{said}"));
    let error = match hint(doing, status, seen, said) {
        Some(hint) => error.hint(hint),
        None => error,
    };
    match seen.pause.filter(|_| kind == Kind::Busy) {
        Some(after) => error.caused_by(ComeBack { after }),
        None => error,
    }
}

fn kind_of(status: u16, said: &Said) -> Kind {
    match said.code.as_str() {
        "SlowDown" | "TooManyRequests" | "ConditionalRequestConflict" | "OperationAborted" => {
            return Kind::Busy;
        }
        "RequestTimeout" => return Kind::Unreachable,
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => return Kind::Full,
        // A bucket that is not there says nothing of what should be in it.
        "ExpiredToken" | "InvalidToken" | "AuthorizationHeaderMalformed" | "NoSuchBucket" => {
            return Kind::Denied;
        }
        _ => {}
    }
    match status {
        401 | 403 => Kind::Denied,
        404 => Kind::Missing,
        408 => Kind::Unreachable,
        409 => Kind::Busy,
        413 | 507 => Kind::Full,
        416 => Kind::Corrupt,
        // 498 is how Swift throttles.
        429 | 498 | 503 => Kind::Busy,
        500..=599 => Kind::Unreachable,
        _ => Kind::Unsupported,
    }
}

fn hint(doing: &Doing<'_>, status: u16, seen: &Seen, said: &Said) -> Option<String> {
    let elsewhere =
        seen.region.as_ref().map(|region| format!("the bucket is in {region}: set AWS_REGION={region}"));
    match said.code.as_str() {
        "NoSuchBucket" => return Some(format!("the bucket {} has to be there first", doing.place.bucket)),
        "RequestTimeTooSkewed" => return Some("this machine's clock is off".to_owned()),
        "ExpiredToken" => return Some("the session that AWS_SESSION_TOKEN belongs to is over".to_owned()),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" => {
            return elsewhere.or_else(|| Some("set AWS_REGION to the bucket's region".to_owned()));
        }
        _ => {}
    }
    match status {
        301 | 307 | 400 => elsewhere,
        404 if matches!(doing.what, "put" | "list") => {
            Some(format!("the container {} has to be there first", doing.place.bucket))
        }
        401 | 403 if doing.place.scheme == Scheme::S3 => {
            Some("look at the AWS_* variables and at what their owner may do here".to_owned())
        }
        401 | 403 => Some("look at the OS_* variables and at what their owner may do here".to_owned()),
        _ => None,
    }
}

/// What a service said about its refusal, as far as it said it in the form of S3.
#[derive(Default)]
struct Said {
    code: String,
    sentence: String,
}

impl Said {
    /// From the library's words, which are S3's error printed for programmers. What has another form may be anything and is not told.
    fn of(words: &str) -> Said {
        let Some(rest) = words.strip_prefix("S3Error {") else { return Said::default() };
        let field = |name: &str| {
            let (_, rest) = rest.split_once(&format!("{name}: \""))?;
            rest.split_once("\", ").map(|(value, _)| short(value))
        };
        Said { code: field("code").unwrap_or_default(), sentence: field("message").unwrap_or_default() }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.sentence.as_str()) {
            ("", _) => Ok(()),
            (code, "") => write!(out, " {code}"),
            (code, sentence) => write!(out, " {code}: {sentence}"),
        }
    }
}

/// What others wrote, without what a terminal would obey, and not much of it.
fn short(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).take(SENTENCE_LEN_MAX).collect();
    plain.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str) -> Said {
        Said::of(&format!(
            "S3Error {{ code: \"{code}\", message: \"Why.\", resource: \"\", request_id: \"1\" }}"
        ))
    }

    #[test]
    fn a_status_and_a_code_have_one_kind() {
        for (status, code, kind) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "", Kind::Missing),
            (404, "NoSuchBucket", Kind::Denied),
            (403, "AccessDenied", Kind::Denied),
            (403, "RequestTimeTooSkewed", Kind::Denied),
            (400, "ExpiredToken", Kind::Denied),
            (401, "", Kind::Denied),
            (503, "SlowDown", Kind::Busy),
            (503, "", Kind::Busy),
            (498, "", Kind::Busy),
            (429, "", Kind::Busy),
            (409, "ConditionalRequestConflict", Kind::Busy),
            (500, "InternalError", Kind::Unreachable),
            (400, "RequestTimeout", Kind::Unreachable),
            (507, "", Kind::Full),
            (403, "QuotaExceeded", Kind::Full),
            (413, "", Kind::Full),
            (416, "InvalidRange", Kind::Corrupt),
            (301, "PermanentRedirect", Kind::Unsupported),
            (400, "", Kind::Unsupported),
        ] {
            assert_eq!(kind_of(status, &said(code)), kind, "{status} {code}");
        }
    }

    #[test]
    fn a_wrong_region_and_a_clock_that_is_off_are_named() {
        let place = Place::parse(Scheme::S3, "s3://b").unwrap();
        let doing = Doing { what: "get", object: "a", place: &place };
        let seen = Seen { region: Some("eu-west-1".to_owned()), ..Seen::default() };
        let error = refused(&doing, 301, &seen, &said("PermanentRedirect"));
        assert_eq!(
            error.to_string(),
            "get a in s3://b: 301 PermanentRedirect: Why (the bucket is in eu-west-1: set AWS_REGION=eu-west-1)"
        );
        let error = refused(&doing, 403, &Seen::default(), &said("RequestTimeTooSkewed"));
        assert!(error.to_string().contains("clock"), "{error}");
    }

    #[test]
    fn x9_what_has_no_form_is_not_told_and_no_terminal_obeys_it() {
        let place = Place::parse(Scheme::Swift, "swift://c").unwrap();
        let doing = Doing { what: "get", object: "a", place: &place };
        let error = refused(&doing, 400, &Seen::default(), &Said::of("<html>t0ken\x1b[2J</html>"));
        assert_eq!(error.to_string(), "get a in swift://c: 400");
        assert_eq!(short("a\x1b[2J\nb."), "a[2Jb");
        assert_eq!(short(&"x".repeat(1000)).len(), SENTENCE_LEN_MAX);
    }
}
