//! A small cloud on loopback, of our own: enough of S3, Swift and Keystone for a store, and every way to misbehave that a test asks for.
//!
//! ```text
//! /BUCKET/KEY                    S3, signed by the key `key`
//! /v1/AUTH_x/CONTAINER/KEY       Swift, with a token that was given and is not over
//! /v3/auth/tokens                Keystone: `me` with the password `secret`, or the application credential `id` with `hush`
//! ```
//!
//! One thread for each connection. What goes wrong is planned with [`Cloud::plan`]; each rule counts the requests that it is about. [`between`]
//! stands in front of a service that is not ours and misbehaves for it.

pub(crate) mod between;
mod http;
mod speech;

use http::Request;
use std::collections::{BTreeMap, HashSet};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub(crate) const BUCKET: &str = "bucket";
/// Where a machine's role gives credentials.
pub(crate) const ROLE: &str = "/role";

/// How an answer goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Harm {
    /// This status instead, with a wish for a pause in seconds.
    Status(u16, Option<u32>),
    /// It is sent elsewhere: to the object of this key, with this status.
    Elsewhere(u16, &'static str),
    /// The connection is reset before anything is done.
    Reset,
    /// All is done, and the connection is reset instead of an answer.
    ReplyLost,
    /// Nothing ever comes.
    Silence,
    /// It takes so long that the token is over by then.
    TooLate(Duration),
    /// One byte of the body for each so long.
    Drip(Duration),
    /// The answer comes so much later.
    Late(Duration),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// A range is answered with the whole object.
    Whole,
    /// A range is answered with its first half, and said to be that.
    Half,
    /// Words about an error come as if they were the object.
    Words,
    /// An object is kept with a byte of it changed.
    Spoil,
    /// A page of names is the one before, again.
    SamePage,
    /// The newest so many names are not listed.
    Lag(usize),
    /// Names are listed that were not asked for.
    Beside,
}

/// Which requests: of this method, with this in their path.
#[derive(Clone, Debug)]
struct Rule {
    method: &'static str,
    part: String,
    from: u64,
    until: u64,
    harm: Harm,
    count: u64,
}

struct Object {
    bytes: Vec<u8>,
    number: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    next: u64,
    rules: Vec<Rule>,
    log: Vec<String>,
    tokens: HashSet<String>,
    token_secs: u64,
    last_page: Option<Vec<u8>>,
    page_len: usize,
    may_delete: bool,
    has_bucket: bool,
    creates_only: bool,
}

/// The cloud. It ends with the test's process; a connection does with its client.
pub(crate) struct Cloud {
    state: Mutex<State>,
    port: u16,
    hits: AtomicU64,
}

impl Cloud {
    pub(crate) fn start() -> Arc<Cloud> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let state = State {
            page_len: 1000,
            token_secs: 3600,
            may_delete: true,
            has_bucket: true,
            creates_only: true,
            ..State::default()
        };
        let port = listener.local_addr().expect("an address").port();
        let cloud = Arc::new(Cloud { state: Mutex::new(state), port, hits: AtomicU64::new(0) });
        let inner = Arc::clone(&cloud);
        let _thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cloud = Arc::clone(&inner);
                let _thread = std::thread::spawn(move || cloud.serve(&stream));
            }
        });
        cloud
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a user of its S3 sets.
    pub(crate) fn s3_env(&self) -> Vec<(String, String)> {
        pairs(&[
            ("AWS_ENDPOINT_URL", &self.url()),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "sesame-s3"),
            ("AWS_REGION", "here"),
        ])
    }

    /// What a machine has that reaches its S3 by the role that it plays.
    pub(crate) fn role_env(&self) -> Vec<(String, String)> {
        pairs(&[
            ("AWS_ENDPOINT_URL", &self.url()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}{ROLE}", self.url())),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_REGION", "here"),
        ])
    }

    /// What a user of its Swift sets, to log in at its Keystone.
    pub(crate) fn swift_env(&self) -> Vec<(String, String)> {
        pairs(&[
            ("OS_AUTH_URL", &self.url()),
            ("OS_USERNAME", "me"),
            ("OS_PASSWORD", "secret"),
            ("OS_PROJECT_NAME", "backup"),
        ])
    }

    /// Requests of `method` (or any, for `*`) whose path has `part` in it go wrong from the `from`-th on, and no more from the `until`-th on.
    pub(crate) fn plan(&self, method: &'static str, part: &str, turns: std::ops::Range<u64>, harm: Harm) {
        let rule =
            Rule { method, part: part.to_owned(), from: turns.start, until: turns.end, harm, count: 0 };
        self.state().rules.push(rule);
    }

    /// How many requests went wrong as planned.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(SeqCst)
    }

    /// Behaves from here on.
    pub(crate) fn behave(&self) {
        self.state().rules.clear();
    }

    /// Requests since this was asked last, as `METHOD path range`.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// All tokens are over.
    pub(crate) fn forget_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Tokens that are given from here on say that they last so long.
    pub(crate) fn token_secs(&self, secs: u64) {
        self.state().token_secs = secs;
    }

    /// So many names make a page.
    pub(crate) fn page_len(&self, names: usize) {
        self.state().page_len = names;
    }

    pub(crate) fn refuse_deletes(&self) {
        self.state().may_delete = false;
    }

    /// The bucket goes, or comes back, with what is in it.
    pub(crate) fn has_bucket(&self, is_there: bool) {
        self.state().has_bucket = is_there;
    }

    /// It does not know how to create and never replace.
    pub(crate) fn never_creates_only(&self) {
        self.state().creates_only = false;
    }

    /// Puts an object there, as somebody else would.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        drop(state.objects.insert(key.to_owned(), Object { bytes, number }));
    }

    /// Loses the largest object whose key has a part in it.
    pub(crate) fn lose_largest(&self, part: &str) {
        let mut state = self.state();
        let fits = state.objects.iter().filter(|(key, _)| key.contains(part));
        let largest = fits.max_by_key(|(_, object)| object.bytes.len()).expect("an object").0.clone();
        drop(state.objects.remove(&largest));
    }

    /// The keys of all objects.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the cloud panicked")
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = std::io::BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader, stream) {
            let harm = self.harm_for(&request);
            if let Some(Harm::Reset) = harm {
                return http::reset(stream);
            }
            if let Some(Harm::Silence) = harm {
                std::thread::sleep(Duration::from_secs(3600));
                return;
            }
            if let Some(Harm::Late(time) | Harm::TooLate(time)) = harm {
                std::thread::sleep(time);
            }
            let mut answer = match harm {
                Some(Harm::Status(status, pause)) => speech::refusal(status, pause),
                Some(Harm::TooLate(_)) => speech::refusal(401, None),
                Some(Harm::Elsewhere(status, key)) => {
                    let before = request.path.split(BUCKET).next().unwrap_or_default();
                    let there = format!("{}{before}{BUCKET}/{key}", self.url());
                    speech::refusal(status, None).header("location", there)
                }
                _ => speech::answer(&mut self.state(), &request, harm.as_ref()),
            };
            if let Some(Harm::ReplyLost) = harm {
                return http::reset(stream);
            }
            if let Some(Harm::Words) = harm {
                answer.body = b"<html>the backend is away for a moment</html>".to_vec();
            }
            if !answer.write(stream, request.method == "HEAD", harm.as_ref()) {
                return;
            }
        }
    }

    fn harm_for(&self, request: &Request) -> Option<Harm> {
        let mut state = self.state();
        state.log.push(request.line());
        for rule in &mut state.rules {
            if (rule.method == "*" || rule.method == request.method) && request.target.contains(&rule.part) {
                rule.count += 1;
                if (rule.from..rule.until).contains(&rule.count) {
                    let _before = self.hits.fetch_add(1, SeqCst);
                    return Some(rule.harm.clone());
                }
            }
        }
        None
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
