//! Doors for fuzzers: what a service and the environment say. Answers go the whole way that those of a network go, but for the network.
//!
//! Headers are given one a line, as `name: value`, and the body behind the first empty line.

use super::env::Env;
use super::keystone::Account;
use super::list::NAMES_MAX;
use super::login::{Held, Login, own_session};
use super::place::{Place, Scheme};
use super::profile::Profile;
use super::wire::{self, Answer, Once};
use super::{Remote, profile};
use crate::clock;
use crate::error::Error;
use crate::store::{Name, Store};
use bytes::Bytes;
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// What must be in no error: it stands for every secret there is.
const SECRET: &str = "sesame-of-the-fuzzer";
/// What variables hold secrets, and what names files.
const SECRETS: [&str; 7] = [
    "OS_PASSWORD",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_AUTH_TOKEN",
    "ST_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];
const FILES: [&str; 3] = ["HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"];
/// What an error says at most: a service's sentence, and ours around it.
const WORDS_LEN_MAX: usize = 2000;
const STATUSES: [u16; 18] =
    [200, 201, 204, 206, 301, 307, 400, 401, 403, 404, 408, 409, 412, 416, 429, 498, 501, 503];

/// A place reads as it is written, and what it calls an object is called so again.
pub(in crate::store) fn place(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for scheme in [Scheme::S3, Scheme::Swift] {
        let Ok(place) = Place::parse(scheme, text) else { continue };
        assert!(Place::parse(scheme, &place.to_string()).is_ok_and(|again| again == place));
        assert_eq!(place.name_of(&place.key("packs/a")), Some("packs/a"));
        let _anything = place.name_of(text);
    }
}

/// `NAME=value`, one a line.
pub(in crate::store) fn environment(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pair = |line: &'_ str| {
        let (name, value) = line.split_once('=')?;
        let value = if SECRETS.contains(&name) { SECRET } else { value };
        (!FILES.contains(&name)).then(|| (name.to_owned(), value.to_owned()))
    };
    let env = Env::of(text.lines().filter_map(pair));
    for house in HOUSES.iter() {
        let opened = match house.store.place.scheme {
            Scheme::S3 => super::s3::operator(&house.store.place, &env).map(drop),
            Scheme::Swift => Login::new(&house.store.place, &env, house.client.clone()).map(drop),
        };
        // What they quote besides is the environment itself.
        opened.err().iter().for_each(keeps_secrets);
    }
}

/// A profile reads as it is written.
pub(in crate::store) fn profile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for name in ["default", "far"] {
        let found = profile::parse(&text, name);
        let Profile { region, endpoint, addressing_style } = &found;
        let line = |key: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{key} = {value}\n")).unwrap_or_default()
        };
        let (region, endpoint) = (line("region", region), line("endpoint_url", endpoint));
        let style = line(" addressing_style", addressing_style);
        let again = format!("[profile {name}]\n{region}{endpoint}s3 =\n{style}");
        assert_eq!(profile::parse(&again, name), found);
    }
}

/// Keystone's answer to a login: the account lies where the catalogue says, or where the environment does.
pub(in crate::store) fn keystone(bytes: &[u8]) {
    for pairs in [
        &[][..],
        &[("OS_REGION_NAME", "b"), ("OS_INTERFACE", "internal")],
        &[("OS_STORAGE_URL", "http://set/v1/AUTH_x")],
    ] {
        let usual = [("OS_AUTH_URL", "http://keystone"), ("OS_USERNAME", "me"), ("OS_PASSWORD", SECRET)];
        let env = Env::of(usual.iter().chain(pairs).copied());
        let account = Account::of(&env).ok().flatten().expect("an account");
        match account.session(SECRET, bytes) {
            Ok(session) => {
                let told = serde_json::from_slice::<serde_json::Value>(bytes).map(|told| told.to_string());
                let endpoint = serde_json::json!(session.endpoint).to_string();
                // What is passed over may be no JSON.
                assert!(pairs.len() == 1 || told.map_or(true, |told| told.contains(&endpoint)));
                hold(session);
            }
            Err(error) => says_little(&error),
        }
    }
}

/// Swift's own answer to a login.
pub(in crate::store) fn login(bytes: &[u8]) {
    match own_session(&head_and_body(bytes).0) {
        Ok(session) => hold(session),
        Err(error) => says_little(&error),
    }
}

fn hold(session: super::login::Session) {
    match Held::new(&HOUSES[1].store.place, session) {
        Ok(held) => drop(held.is_fresh(clock::now())),
        Err(error) => keeps_secrets(&error),
    }
}

/// Headers of an answer; what was asked for stands among them, as `range`.
pub(in crate::store) fn headers(bytes: &[u8]) {
    let (headers, _) = head_and_body(bytes);
    let asked = wire::text_of(&headers, "range").and_then(wire::range_of);
    for status in [200, 206] {
        let seen = wire::look(status, &headers);
        assert!(seen.pause.is_none_or(|pause| pause <= Duration::from_secs(3600)));
        let (first, last) = asked.unwrap_or((10, 19));
        assert!(wire::misfit(status, &headers, first, last).is_some() || status == 206);
    }
    let _len = wire::content_len(&headers);
}

/// A whole answer. The first byte says who gives it to what question, the second one is its status.
pub(in crate::store) fn answers(bytes: &[u8]) {
    let [choice, status, rest @ ..] = bytes else { return };
    let house = &HOUSES[usize::from(choice % 2)];
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let (headers, body) = head_and_body(rest);
    *house.answer.next() = Some((status, headers, Bytes::copy_from_slice(body)));
    // What an earlier answer taught it would make this one come out otherwise when it is replayed.
    house.store.creates_only.store(true, Relaxed);
    let (store, name) = (&house.store, Name::parse("packs/a").expect("a name"));
    let outcome = house.runtime.block_on(async {
        match choice / 2 % 6 {
            0 => store.list("packs/", None).await.map(|listed| {
                assert!(listed.len() <= NAMES_MAX);
                assert!(listed.iter().all(|listed| listed.name.as_str().starts_with("packs/")));
            }),
            1 => store.judge_empty(&["keys"]).await,
            2 => store.get(&name, 10..20).await.map(|bytes| assert_eq!(bytes.len(), 10)),
            3 => store.get_whole(&name, 50).await.map(|bytes| assert!(bytes.len() <= 50)),
            4 => store.stat(&name).await.map(drop),
            _ => store.put(&name, b"some bytes".to_vec().into()).await,
        }
    });
    outcome.err().iter().for_each(says_little);
}

/// What others said is told in few words, and in none that a terminal obeys.
fn says_little(error: &Error) {
    keeps_secrets(error);
    let words = error.to_string();
    assert!(words.len() <= WORDS_LEN_MAX && !words.contains(char::is_control), "{words:?}");
}

fn keeps_secrets(error: &Error) {
    let words = format!("{error} {error:?} {:?}", std::error::Error::source(error));
    assert!(!words.contains(SECRET), "{words}");
}

fn head_and_body(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?))
    };
    let headers = head.split(|byte| *byte == b'\n').filter_map(header);
    (headers.collect(), body.get(2..).unwrap_or_default())
}

/// A store whose service says what the fuzzer wants.
struct House {
    runtime: Runtime,
    client: reqwest::Client,
    store: Remote,
    answer: Canned,
}

static HOUSES: LazyLock<[House; 2]> = LazyLock::new(|| {
    let keys = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "here")];
    let token = [("OS_AUTH_TOKEN", SECRET), ("OS_STORAGE_URL", "http://swift/v1/AUTH_x")];
    [
        House::at(Scheme::S3, "s3://bucket/some/prefix", &Env::of(keys)),
        House::at(Scheme::Swift, "swift://bucket/some/prefix", &Env::of(token)),
    ]
});

impl House {
    fn at(scheme: Scheme, place: &str, env: &Env) -> House {
        let answer = Canned::default();
        let place = Place::parse(scheme, place).expect("a place");
        let store = Remote::open(place, env).expect("a store");
        let store = Remote { transport: HttpTransporter::new(answer.clone()), ..store };
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        House { runtime, client: reqwest::Client::new(), store, answer }
    }
}

/// One answer, and behind it the end of a listing, or nothing there.
#[derive(Clone, Default)]
struct Canned(Arc<Mutex<Option<(u16, HeaderMap, Bytes)>>>);

impl Canned {
    fn next(&self) -> MutexGuard<'_, Option<(u16, HeaderMap, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpTransport for Canned {
    async fn fetch(&self, request: http::Request<Buffer>) -> opendal::Result<Answer> {
        let query = request.uri().query().unwrap_or_default();
        let (status, headers, body) = self.next().take().unwrap_or_else(|| {
            let (status, body) = match query {
                query if query.contains("list-type") => (200, "<ListBucketResult></ListBucketResult>"),
                query if query.contains("format=json") => (200, "[]"),
                _ => (404, ""),
            };
            (status, HeaderMap::new(), Bytes::from(body))
        });
        let len = wire::content_len(&headers);
        let mut answer = Answer::new(HttpBody::new(Once(Some(Buffer::from(body))), len));
        *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}
