//! A folder of objects that others made and we only read: the directory itself, or its copy where repositories are in a service.
//!
//! What is put into the service goes there by a Swift client as small as can be, whichever language we read it in.

use super::images::digest_of;
use super::{Sandbox, files_under};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

/// A folder of objects, and where we are to read them.
pub(crate) struct Theirs {
    dir: PathBuf,
    place: String,
    copy: Option<Copy>,
}

/// Where the copy of a folder is.
struct Copy {
    client: Client,
    /// The container and what the names in it begin with.
    path: String,
}

impl Theirs {
    /// What lies in a directory.
    pub(crate) fn of(sand: &Sandbox, dir: &str) -> Theirs {
        let dir = PathBuf::from(dir);
        let Some(far) = &sand.far else {
            return Theirs { place: dir.display().to_string(), dir, copy: None };
        };
        let name = dir.file_name().and_then(|name| name.to_str()).expect("a folder has a name");
        let place = format!("{}.{name}", far.place);
        let copy = Some(Copy { client: Client::log_in(&far.env), path: path_of(&place).to_owned() });
        let theirs = Theirs { dir, place, copy };
        for name in theirs.names() {
            theirs.put(&name, &theirs.read(&name));
        }
        theirs
    }

    /// Where we read them.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// What they are called.
    pub(crate) fn names(&self) -> Vec<String> {
        let below = |path: PathBuf| path.strip_prefix(&self.dir).expect("below").display().to_string();
        files_under(&self.dir).into_iter().map(below).collect()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(name)).expect("read an object")
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.join(name), bytes).expect("write an object");
        if let Some(copy) = &self.copy {
            let _ = copy.client.ask("PUT", &format!("{}/{name}", copy.path), bytes);
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.join(name)).expect("remove an object");
        if let Some(copy) = &self.copy {
            let _ = copy.client.ask("DELETE", &format!("{}/{name}", copy.path), b"");
        }
    }

    pub(crate) fn remove_all(&self) {
        self.names().iter().for_each(|name| self.remove(name));
    }

    /// Every name, and what tells whether its bytes are still the same.
    pub(crate) fn fingerprint(&self) -> Vec<(String, String)> {
        let mut found: Vec<_> = match &self.copy {
            Some(copy) => {
                copy.client.list(&copy.path).into_iter().map(|one| (one.name, one.digest)).collect()
            }
            None => {
                let digest = |name: String| (name.clone(), digest_of(&self.read(&name)));
                self.names().into_iter().map(digest).collect()
            }
        };
        found.sort();
        found
    }
}

/// The container of a place and what the names in it begin with.
pub(crate) fn path_of(place: &str) -> &str {
    place.split_once("://").expect("a place in a service").1
}

/// Somebody who is logged in at a Swift.
pub(crate) struct Client {
    host: String,
    account: String,
    token: String,
}

impl Client {
    /// Logs in as the variables of Swift's own client say.
    pub(crate) fn log_in(env: &[(String, String)]) -> Client {
        let value = |name: &str| {
            let found = env.iter().find(|(known, _)| known == name);
            found.unwrap_or_else(|| panic!("no {name}")).1.as_str()
        };
        let (host, path) = split_url(value("ST_AUTH"));
        let who = format!("X-Auth-User: {}\r\nX-Auth-Key: {}\r\n", value("ST_USER"), value("ST_KEY"));
        let (head, _) = exchange(&host, &format!("GET /{path}"), &who, b"");
        let header = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
        };
        let (host, account) = split_url(&header("X-Storage-Url:"));
        Client { host, account, token: header("X-Auth-Token:") }
    }

    /// One request, which must be answered as wished; the body of the answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let token = format!("X-Auth-Token: {}\r\n", self.token);
        exchange(&self.host, &format!("{method} /{}/{path}", self.account), &token, body).1
    }

    /// All that lies below a path, called by the rest of its name.
    pub(crate) fn list(&self, path: &str) -> Vec<Listed> {
        let (container, prefix) = path.split_once('/').expect("a place below a container");
        let mut found: Vec<Listed> = Vec::new();
        loop {
            let after = found.last().map_or(String::new(), |last| format!("{prefix}/{}", last.name));
            let asked = format!("{container}?format=json&prefix={prefix}/&marker={after}");
            let page: Vec<Value> =
                serde_json::from_slice(&self.ask("GET", &asked, b"")).expect("a page of names");
            if page.is_empty() {
                return found;
            }
            let text = |one: &Value, key: &str| one[key].as_str().expect("text").to_owned();
            found.extend(page.iter().map(|one| Listed {
                name: text(one, "name").split_off(prefix.len() + 1),
                len: one["bytes"].as_u64().expect("a length"),
                digest: text(one, "hash"),
            }));
        }
    }
}

/// An object as a service lists it.
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) digest: String,
}

/// The host and the path of a URL.
fn split_url(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").expect("a service that runs here");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (host.to_owned(), path.to_owned())
}

/// Asks and takes what is answered, on a connection of its own: the head and the body.
fn exchange(host: &str, line: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).expect("connect to the service");
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("ask the service");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).expect("hear the service");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an end of the headers") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.1 2"), "{line}: {head}");
    (head, answer.split_off(end))
}
