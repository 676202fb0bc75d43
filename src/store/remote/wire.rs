//! The wire: how requests travel, and what of the answers a store has to see that the protocol's library keeps to itself.
//!
//! request -> (the headers that a call wants besides) -> client -> is this an answer to what was asked? -> library
//!
//! Holds: no body is longer than the call has use for; an answer to a range is that range. Nothing here remembers a request, so no
//! credential can get from here into a log.

use crate::clock;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use futures_core::Stream;
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a service may be silent before its answer and in the middle of it; not while it is sent something, which may take its time.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Connections that nobody uses are kept for the next burst of reads.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// The longest answer that is no object: a page of names, or words about an error.
const WORDS_LEN_MAX: u64 = 32 << 20;
/// No service gives its names in pages as short as this.
const SHORT_PAGE: usize = 100;
/// No region is called longer.
const REGION_LEN_MAX: usize = 64;
/// What a service that asks for a pause is believed at most.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The client that all stores of a process could share: it keeps connections. `certificates` is a file of further authorities.
pub(super) fn client(certificates: Option<&Path>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIME)
        .pool_idle_timeout(IDLE_TIME)
        .user_agent(concat!("afterimage/", env!("CARGO_PKG_VERSION")))
        .referer(false)
        // One that is followed can turn a put into a get, and its answer into "it is stored"; and it would carry the token elsewhere.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = certificates {
        builder = builder.tls_certs_merge(authorities(path)?);
    }
    let words = "make the client for the network";
    builder.build().map_err(|cause| Error::new(Kind::Unsupported, words).caused_by(cause))
}

fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>> {
    let what = format!("read the certificates in {}", path.display());
    let pem = std::fs::read(path).map_err(|cause| Error::io(what.as_str(), cause))?;
    reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|cause| Error::new(Kind::Usage, what).caused_by(cause))
}

/// How the requests of a client travel.
pub(super) fn transport(client: reqwest::Client) -> HttpTransporter {
    HttpTransporter::new(ReqwestTransport::new(client))
}

/// What a call wants of the wire.
#[derive(Clone, Copy, Default)]
pub(super) struct Wants {
    /// The longest object that it has use for; without one, the answer is words.
    pub(super) object_len_max: Option<u64>,
    /// Whether the service says the end of a listing with a page of its own. A page so short that no service would cut there is the end as well,
    /// and that question is answered here.
    pub(super) ends_with_a_page: bool,
    /// Whether the object may only come to be, never be replaced: for services whose library does not say so by itself.
    pub(super) create_only: bool,
}

/// One call, and what the wire saw of the answer.
pub(super) struct Call {
    wants: Wants,
    /// How many names have come so far, and how many of them before the last page.
    pub(super) names: AtomicUsize,
    names_before: AtomicUsize,
    seen: Mutex<Seen>,
}

/// What the last answer said.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The status; 0 when no answer came.
    pub(super) status: u16,
    /// The wish for a pause.
    pub(super) pause: Option<Duration>,
    /// Where the bucket really is.
    pub(super) region: Option<String>,
    /// How long the whole object is of which a range came.
    pub(super) object_len: Option<u64>,
    /// How the answer was none to what was asked.
    pub(super) odd: Option<&'static str>,
}

impl Call {
    pub(super) fn new(wants: Wants) -> Call {
        Call { wants, names: AtomicUsize::new(0), names_before: AtomicUsize::new(0), seen: Mutex::default() }
    }

    /// The operator whose requests belong to this call.
    pub(super) fn through(self: &Arc<Self>, operator: Operator, transport: &HttpTransporter) -> Operator {
        let wire = Wire { transport: transport.clone(), call: Arc::clone(self) };
        operator.with_context(OperationContext::new().with_http_transport(HttpTransporter::new(wire)))
    }

    /// What the last answer said.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a further page is asked for, and the one before was short.
    fn is_behind_the_end(&self) -> bool {
        let names = self.names.load(Relaxed);
        let of_last_page = names - self.names_before.swap(names, Relaxed);
        self.wants.ends_with_a_page && self.seen().status != 0 && of_last_page < SHORT_PAGE
    }

    fn note(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

struct Wire {
    transport: HttpTransporter,
    call: Arc<Call>,
}

impl HttpTransport for Wire {
    async fn fetch(&self, mut request: http::Request<Buffer>) -> opendal::Result<Answer> {
        // Who signs asks for credentials on the same way: that is no part of this call.
        if request.extensions().get::<opendal::raw::Operation>().is_none() {
            let answer = in_time(self.transport.fetch(request)).await?;
            let (head, body) = answer.into_parts();
            return Ok(Answer::from_parts(head, body.map_inner(|inner| bounded(inner, WORDS_LEN_MAX))));
        }
        if self.call.is_behind_the_end() {
            return Ok(end_of_names());
        }
        self.call.note(Seen::default());
        if self.call.wants.create_only && request.method() == reqwest::Method::PUT {
            let _none = request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        let range = text_of(request.headers(), "range").and_then(range_of);
        let is_upload = request.method() == http::Method::PUT;
        let fetch = self.transport.fetch(request);
        let answer = match is_upload {
            true => fetch.await?,
            false => in_time(fetch).await?,
        };
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        let mut seen = look(status, &head.headers);
        let is_object = head.status.is_success() && self.call.wants.object_len_max.is_some();
        if is_object && let Some((first, last)) = range {
            seen.odd = misfit(status, &head.headers, first, last);
        }
        let len_max = self.call.wants.object_len_max.filter(|_| is_object).unwrap_or(WORDS_LEN_MAX);
        let is_too_long = content_len(&head.headers).is_some_and(|len| len > len_max);
        if is_object && range.is_none() && is_too_long {
            seen.odd = Some(TOO_LONG);
        }
        let odd = seen.odd;
        self.call.note(seen);
        match odd {
            Some(words) => Err(opendal::Error::new(opendal::ErrorKind::Unexpected, words)),
            None => Ok(Answer::from_parts(head, body.map_inner(|inner| bounded(inner, len_max)))),
        }
    }
}

pub(super) type Answer = http::Response<HttpBody>;

/// A page of no names.
fn end_of_names() -> Answer {
    let body = Once(Some(Buffer::from("[]")));
    Answer::new(HttpBody::new(body, None))
}

/// A body in one piece.
pub(super) struct Once(pub(super) Option<Buffer>);

impl Stream for Once {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

/// What is said of an object that is longer than its reader has use for.
pub(super) const TOO_LONG: &str = "it is longer than makes sense";
/// What is said of an object that ends before the range does.
pub(super) const TOO_SHORT: &str = "the object ends before the range does";

pub(super) fn look(status: u16, headers: &HeaderMap) -> Seen {
    let object_len = text_of(headers, "content-range")
        .and_then(|range| range.rsplit_once('/'))
        .and_then(|(_, len)| len.parse().ok());
    Seen {
        status,
        pause: text_of(headers, "retry-after").and_then(pause),
        region: text_of(headers, "x-amz-bucket-region").filter(|text| is_region(text)).map(str::to_owned),
        object_len,
        odd: None,
    }
}

/// Whether a region could be called so: people are told to set a variable to it.
fn is_region(text: &str) -> bool {
    (1..=REGION_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name))?.to_str().ok()
}

pub(super) fn content_len(headers: &HeaderMap) -> Option<u64> {
    text_of(headers, "content-length")?.parse().ok()
}

/// The first and last byte of `bytes=first-last`.
pub(super) fn range_of(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Why an answer is none to a range, if it is not.
pub(super) fn misfit(status: u16, headers: &HeaderMap, first: u64, last: u64) -> Option<&'static str> {
    let (came, len) = match text_of(headers, "content-range").and_then(|range| range.split_once('/')) {
        Some((came, len)) if status == 206 => (came.strip_prefix("bytes ").unwrap_or(came), len),
        _ => return Some("a range was asked for, and something else came"),
    };
    let came = came.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    match came {
        Some((a, b)) if (a, b) == (first, last) => None,
        Some((a, b))
            if a == first
                && b < last
                && len.parse::<u64>().is_ok_and(|len| b.checked_add(1) == Some(len)) =>
        {
            Some(TOO_SHORT)
        }
        _ => Some("another range came than was asked for"),
    }
}

/// A wish for a pause: seconds, or a date.
fn pause(text: &str) -> Option<Duration> {
    let wish = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
            Duration::try_from(until.duration_since(clock::now())).unwrap_or_default()
        }
    };
    Some(wish.min(PAUSE_MAX))
}

type Stretch = Box<dyn Stream<Item = opendal::Result<Buffer>> + Send + Sync + Unpin>;

fn silence() -> opendal::Error {
    let words = format!("nothing came for {} s", SILENCE_MAX.as_secs());
    opendal::Error::new(opendal::ErrorKind::Unexpected, words)
}

/// An answer that begins before the silence is too long.
async fn in_time(answer: impl Future<Output = opendal::Result<Answer>>) -> opendal::Result<Answer> {
    tokio::time::timeout(SILENCE_MAX, answer).await.map_err(|_| silence())?
}

fn bounded(inner: Stretch, len_max: u64) -> Stretch {
    Box::new(Bounded::new(inner, len_max))
}

/// A body that ends with an error when it goes on for longer than it may, or does not go on.
struct Bounded {
    inner: Stretch,
    left: u64,
    silent_until: Pin<Box<tokio::time::Sleep>>,
}

impl Bounded {
    fn new(inner: Stretch, left: u64) -> Bounded {
        Bounded { inner, left, silent_until: Box::pin(tokio::time::sleep(SILENCE_MAX)) }
    }
}

impl Stream for Bounded {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.inner).poll_next(context);
        if next.is_ready() {
            let until = tokio::time::Instant::now() + SILENCE_MAX;
            self.silent_until.as_mut().reset(until);
        } else if self.silent_until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(silence())));
        }
        if let Poll::Ready(Some(Ok(piece))) = &next {
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    let endless = "the answer does not end where it should";
                    return Poll::Ready(Some(Err(opendal::Error::new(
                        opendal::ErrorKind::Unexpected,
                        endless,
                    ))));
                }
            }
        }
        next
    }
}

/// The bytes of a small answer to a request of our own, within `len_max`.
pub(super) async fn small_body(mut answer: reqwest::Response, len_max: usize) -> Result<Bytes> {
    let broken = |cause: reqwest::Error| {
        Error::new(Kind::Unreachable, "the answer broke off").caused_by(cause.without_url())
    };
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(broken)? {
        if bytes.len() + piece.len() > len_max {
            return Err(Error::new(Kind::Unsupported, "the answer is longer than makes sense"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn b4_an_answer_to_a_range_is_that_range() {
        for (status, range, expected) in [
            (206, "bytes 10-19/100", None),
            (206, "bytes 10-19/*", None),
            (206, "bytes 10-14/15", Some(TOO_SHORT)),
            (206, "bytes 10-14/100", Some("another range came than was asked for")),
            (206, "bytes 0-9/100", Some("another range came than was asked for")),
            (206, "bytes 10-19", Some("a range was asked for, and something else came")),
            (206, "nonsense/", Some("another range came than was asked for")),
            (200, "bytes 10-19/100", Some("a range was asked for, and something else came")),
        ] {
            let found = misfit(status, &headers(&[("content-range", range)]), 10, 19);
            assert_eq!(found, expected, "{status} {range}");
        }
        let found = misfit(200, &HeaderMap::new(), 10, 19);
        assert_eq!(found, Some("a range was asked for, and something else came"));
    }

    proptest::proptest! {
        #[test]
        fn x2_whatever_a_service_says_in_its_headers_is_judged_without_a_panic(range in ".{0,30}", wish in ".{0,40}", first: u64, last: u64) {
            if let Ok(value) = HeaderValue::from_str(&range) {
                let headers = [(HeaderName::from_static("content-range"), value)].into_iter().collect();
                let _odd = misfit(206, &headers, first, last);
                let _seen = look(206, &headers);
            }
            assert!(pause(&wish).is_none_or(|pause| pause <= PAUSE_MAX));
        }
    }

    #[test]
    fn x9_a_region_is_a_word_or_is_not_told() {
        let region = |text: &'static str| look(301, &headers(&[("x-amz-bucket-region", text)])).region;
        assert_eq!(region("eu-west-1").as_deref(), Some("eu-west-1"));
        for text in [
            "",
            "a b",
            "$(reboot)",
            "here;there",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(region(text), None, "{text}");
        }
    }

    #[test]
    fn b9_a_wish_for_a_pause_is_understood_and_bounded() {
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause(" 999999999 "), Some(PAUSE_MAX));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(pause("Sat, 06 Nov 2094 08:49:37 GMT").is_some_and(|pause| pause == PAUSE_MAX));
        assert_eq!((pause("soon"), pause("-1"), pause("")), (None, None, None));
    }
}
