//! Somebody between a client and a service that is not ours: passes on what is said, and gets in the way where a test asks for it.
//!
//! Requests keep the name of the host that they were sent to, which is part of what is signed.

use super::http::{self, Answer, Request};
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// Answers that are longer are no pages of names, and not remembered.
const PAGE_LEN_MAX: usize = 1 << 20;

/// How it gets in the way.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// This status instead, with S3's code for it and a wish for a pause in seconds.
    Refuse(u16, &'static str, Option<u32>),
    /// The connection ends before anything is done.
    Reset,
    /// All is done, and the connection ends instead of an answer.
    ReplyLost,
    /// The connection ends in the middle of the answer.
    Cut,
    /// What was answered to the same question the last time, before this was planned.
    AsBefore,
    /// It is passed on as if it had been signed twenty minutes ago.
    Earlier,
}

/// Every so many-th request of a method (or any, for `*`) with this in its target.
struct Rule {
    method: &'static str,
    part: String,
    every: u64,
    trouble: Trouble,
    count: u64,
}

pub(crate) struct Between {
    port: u16,
    /// The service's host and port.
    service: String,
    rules: Mutex<Vec<Rule>>,
    hits: AtomicU64,
    before: Mutex<HashMap<String, Vec<u8>>>,
}

impl Between {
    /// In front of the service at `url`. It ends with the test's process.
    pub(crate) fn start(url: &str) -> Arc<Between> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("an address").port();
        let service = url.trim_start_matches("http://").to_owned();
        let (rules, before) = (Mutex::default(), Mutex::default());
        let between = Arc::new(Between { port, service, rules, hits: AtomicU64::new(0), before });
        let inner = Arc::clone(&between);
        let _thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let between = Arc::clone(&inner);
                let _thread = std::thread::spawn(move || between.serve(&stream));
            }
        });
        between
    }

    /// The same variables, with it in the place of the service.
    pub(crate) fn env(&self, env: &[(String, String)]) -> Vec<(String, String)> {
        let ours = format!("127.0.0.1:{}", self.port);
        env.iter().map(|(name, value)| (name.clone(), value.replace(&self.service, &ours))).collect()
    }

    pub(crate) fn plan(&self, method: &'static str, part: &str, every: u64, trouble: Trouble) {
        self.rules().push(Rule { method, part: part.to_owned(), every, trouble, count: 0 });
    }

    /// Passes on everything from here on.
    pub(crate) fn behave(&self) {
        self.rules().clear();
    }

    /// How often it got in the way.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(SeqCst)
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().expect("no thread of it panicked")
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut request = Request::read(&mut reader, stream)?;
        let trouble = self.trouble_for(&request);
        let is_usual = trouble.is_none();
        let answer = match trouble {
            Some(Trouble::Reset) => None,
            Some(Trouble::Refuse(status, code, pause)) => {
                let _gone = refusal(status, code, pause).write(stream, request.method == "HEAD", None);
                None
            }
            Some(Trouble::AsBefore) => {
                let known =
                    self.before.lock().expect("no thread of it panicked").get(&request.target).cloned();
                known.or_else(|| self.pass_on(&request))
            }
            Some(Trouble::Earlier) => {
                make_earlier(&mut request);
                self.pass_on(&request)
            }
            Some(Trouble::ReplyLost) => self.pass_on(&request).and(None),
            Some(Trouble::Cut) => {
                self.pass_on(&request).map(|answer| answer[..answer.len() * 2 / 3].to_vec())
            }
            None => self.pass_on(&request),
        };
        if let Some(answer) = answer {
            if request.method == "GET" && is_usual && answer.len() < PAGE_LEN_MAX {
                let mut before = self.before.lock().expect("no thread of it panicked");
                let _earlier = before.insert(request.target, answer.clone());
            }
            stream.write_all(&answer).ok()?;
        }
        http::reset(stream);
        Some(())
    }

    fn trouble_for(&self, request: &Request) -> Option<Trouble> {
        for rule in self.rules().iter_mut() {
            if (rule.method == "*" || rule.method == request.method) && request.target.contains(&rule.part) {
                rule.count += 1;
                if rule.count % rule.every == 0 {
                    let _before = self.hits.fetch_add(1, SeqCst);
                    return Some(rule.trouble.clone());
                }
            }
        }
        None
    }

    /// What the service answers, as it came, but that no more will be said on this connection.
    fn pass_on(&self, request: &Request) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.service).ok()?;
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        let ours = ["connection", "content-length", "expect", "transfer-encoding"];
        for (name, value) in request.headers.iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len());
        // A service may answer before it has heard all, and then it hears no more.
        let _heard = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&request.body));
        let mut answer = Vec::new();
        let _len = stream.read_to_end(&mut answer);
        let first = answer.windows(2).position(|two| two == b"\r\n")?;
        drop(answer.splice(first..first, *b"\r\nconnection: close"));
        Some(answer)
    }
}

fn refusal(status: u16, code: &str, pause: Option<u32>) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>As planned.</Message></Error>");
    let answer = Answer::new(status).header("content-type", "application/xml").header("connection", "close");
    match pause {
        Some(seconds) => answer.header("retry-after", seconds.to_string()).body(body),
        None => answer.body(body),
    }
}

fn make_earlier(request: &mut Request) {
    const FORM: &str = "%Y%m%dT%H%M%SZ";
    if let Some(date) = request.headers.get_mut("x-amz-date") {
        let signed = jiff::civil::DateTime::strptime(FORM, &*date).expect("the date of a signature");
        *date = (signed - jiff::SignedDuration::from_mins(20)).strftime(FORM).to_string();
    }
}
