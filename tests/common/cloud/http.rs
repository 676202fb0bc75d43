//! HTTP as far as a client of ours speaks it: requests with a length or in chunks, answers with a length.

use super::Harm;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

pub(super) struct Request {
    pub(super) method: String,
    /// As it came, percent signs and all.
    pub(super) target: String,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn read(reader: &mut BufReader<&TcpStream>, mut stream: &TcpStream) -> Option<Request> {
        let mut line = String::new();
        let _len = reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            let _len = reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let _none = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        if headers.get("expect").is_some_and(|wish| wish == "100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let body = match headers.get("content-length").and_then(|len| len.parse().ok()) {
            Some(len) => {
                let mut body = vec![0; len];
                reader.read_exact(&mut body).ok()?;
                body
            }
            None if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") => chunks(reader)?,
            None => Vec::new(),
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unquoted(name), unquoted(value))
        };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        let path = unquoted(path);
        Some(Request { method, path, query, headers, body, target })
    }

    pub(super) fn line(&self) -> String {
        let range = self.headers.get("range").map(String::as_str).unwrap_or_default();
        format!("{} {} {range}", self.method, self.target).trim_end().to_owned()
    }

    /// The range that is asked for, as first and last.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
    }
}

fn chunks(reader: &mut BufReader<&TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        let _len = reader.read_line(&mut line).ok()?;
        let len = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; len + 2];
        reader.read_exact(&mut chunk).ok()?;
        if len == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..len]);
    }
}

fn unquoted(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let coded = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match coded.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = body.into();
        self
    }

    /// Whether the connection goes on.
    pub(super) fn write(&self, mut stream: &TcpStream, is_head: bool, harm: Option<&Harm>) -> bool {
        let mut head = format!("HTTP/1.1 {} said\r\n", self.status);
        let has_len = self.headers.iter().any(|(name, _)| *name == "content-length");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !has_len && self.status != 204 {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        if stream.write_all(head.as_bytes()).is_err() || is_head {
            return is_head;
        }
        match harm {
            Some(Harm::Drip(pause)) => self.body.iter().all(|byte| {
                std::thread::sleep(*pause);
                stream.write_all(&[*byte]).is_ok()
            }),
            Some(Harm::Cut(len)) => {
                let _gone = stream.write_all(&self.body[..*len.min(&self.body.len())]);
                let _gone = stream.shutdown(Shutdown::Both);
                false
            }
            _ => stream.write_all(&self.body).is_ok(),
        }
    }
}

/// Ends a connection with what was sent on it unread, which resets it.
pub(super) fn reset(stream: &TcpStream) {
    let _gone = stream.shutdown(Shutdown::Both);
}
