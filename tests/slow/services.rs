//! Services that no one here made, started on loopback and gone with the test: OpenStack Swift (as Swift, and by its s3api as S3), and moto's S3.

use crate::common::{in_network, skipped};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// Every service has these to hold backups in.
pub(crate) const BUCKETS: [&str; 2] = ["one", "two"];

const SWIFT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/swift");

/// A service that runs.
pub(crate) struct Service {
    child: Child,
    /// It ends when this does.
    stdin: Option<ChildStdin>,
    /// What it says after it is ready.
    stdout: Mutex<BufReader<ChildStdout>>,
    /// What it said before, by the first word of the line.
    says: HashMap<String, String>,
    _files: TempDir,
}

/// A way to speak to a service.
pub(crate) struct Speech {
    scheme: &'static str,
    pub(crate) env: Vec<(String, String)>,
}

impl Speech {
    /// A place in the first bucket, which a service's other language does not use.
    pub(crate) fn place(&self, prefix: &str) -> String {
        format!("{}://{}/by-{}/{prefix}", self.scheme, BUCKETS[0], self.scheme)
    }

    /// A place in the second bucket, which may be taken away.
    pub(crate) fn passing_place(&self, prefix: &str) -> String {
        format!("{}://{}/by-{}/{prefix}", self.scheme, BUCKETS[1], self.scheme)
    }
}

impl Service {
    fn start(what: &str, mut command: Command, files: TempDir) -> Option<Service> {
        let _ = command.args(BUCKETS).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let stdin = child.stdin.take();
        let (mut stdout, mut says) = (BufReader::new(child.stdout.take()?), HashMap::new());
        let mut line = String::new();
        while stdout.read_line(&mut line).is_ok_and(|len| len > 0) {
            if let Some((word, rest)) = line.trim_end().split_once(' ') {
                let _none = says.insert(word.to_owned(), rest.to_owned());
            }
            if line.trim_end() == "ready" {
                return Some(Service { child, stdin, stdout: Mutex::new(stdout), says, _files: files });
            }
            line.clear();
        }
        let _ended = child.wait();
        skipped(&format!("{what} does not run here"));
        None
    }

    /// Swift as a whole, if Debian's packages are here.
    pub(crate) fn swift() -> Option<Service> {
        Service::swift_by(Command::new(SWIFT), &[])
    }

    /// The same in a network namespace, at an address that it has there.
    pub(crate) fn swift_in(network: &str, address: &str) -> Option<Service> {
        Service::swift_by(in_network(network, SWIFT), &["--address", address])
    }

    fn swift_by(mut command: Command, flags: &[&str]) -> Option<Service> {
        let files = tempfile::tempdir().expect("make a folder");
        let _ = command.arg(files.path()).args(flags);
        Service::start("OpenStack Swift (scripts/lib/setup slow)", command, files)
    }

    /// Swift behind a Keystone whose tokens last so many seconds.
    pub(crate) fn keystone(seconds: u32) -> Option<Service> {
        let files = tempfile::tempdir().expect("make a folder");
        let mut command = Command::new(SWIFT);
        let _ = command.args(["--keystone", &seconds.to_string()]).arg(files.path());
        Service::start("OpenStack Keystone (scripts/lib/setup slow)", command, files)
    }

    /// An S3 that has nothing to do with Swift.
    pub(crate) fn moto() -> Option<Service> {
        let files = tempfile::tempdir().expect("make a folder");
        let command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/moto"));
        Service::start("moto (scripts/lib/setup slow)", command, files)
    }

    pub(crate) fn as_swift(&self) -> Speech {
        let auth = format!("{}/auth/v1.0", self.url());
        let env = [("ST_AUTH", auth.as_str()), ("ST_USER", "test:tester"), ("ST_KEY", "testing")];
        Speech { scheme: "swift", env: owned(&env) }
    }

    pub(crate) fn as_s3(&self) -> Speech {
        let env = [
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_ACCESS_KEY_ID", "test:tester"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_REGION", "us-east-1"),
        ];
        Speech { scheme: "s3", env: owned(&env) }
    }

    /// As somebody with a password at Keystone.
    pub(crate) fn as_user(&self) -> Speech {
        let env = [
            ("OS_AUTH_URL", self.said("auth")),
            ("OS_USERNAME", "me"),
            ("OS_PASSWORD", "sesame-keystone"),
            ("OS_PROJECT_NAME", "backup"),
            ("OS_REGION_NAME", "here"),
        ];
        Speech { scheme: "swift", env: owned(&env) }
    }

    /// As whoever has an application credential of Keystone's.
    pub(crate) fn as_application(&self) -> Speech {
        let env = [
            ("OS_AUTH_URL", self.said("auth")),
            ("OS_APPLICATION_CREDENTIAL_ID", self.said("credential")),
            ("OS_APPLICATION_CREDENTIAL_SECRET", self.said("secret")),
        ];
        Speech { scheme: "swift", env: owned(&env) }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        self.said("url")
    }

    /// What it said of itself.
    pub(crate) fn said(&self, what: &str) -> &str {
        self.says.get(what).unwrap_or_else(|| panic!("it said nothing of its {what}"))
    }

    /// Every token that Keystone gave is over, whatever it said of its end.
    pub(crate) fn forget_tokens(&self) {
        writeln!(self.stdin.as_ref().expect("it runs"), "forget").expect("speak to it");
        let mut line = String::new();
        let _len = self.stdout.lock().expect("nobody panicked").read_line(&mut line).expect("hear of it");
        assert_eq!(line.trim_end(), "forgotten");
    }

    /// The second bucket is gone with all that is in it, or there again and empty.
    pub(crate) fn has_passing_bucket(&self, is_there: bool) {
        let (account, headers) = self.account();
        let bucket = format!("{account}/{}", BUCKETS[1]);
        if is_there {
            let _made = self.ask("PUT", &bucket, &headers);
            return;
        }
        // Whoever writes into it meanwhile keeps it from going.
        let is_gone = (0..20).any(|_| {
            let listed = self.ask("GET", &bucket, &headers);
            let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let is_s3 = listed.contains("<ListBucketResult");
            let names: Vec<_> = if is_s3 { keys.collect() } else { listed.lines().collect() };
            for name in names {
                let _gone = self.ask("DELETE", &format!("{bucket}/{name}"), &headers);
            }
            self.ask_whole("DELETE", &bucket, &headers).split(' ').nth(1) == Some("204")
        });
        assert!(is_gone, "the bucket does not go");
    }

    /// Where its buckets are, and what a request for them has to show; moto believes everybody.
    fn account(&self) -> (String, String) {
        if !self.is_swift() {
            let signed =
                "authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request\r\n";
            return (String::new(), signed.to_owned());
        }
        let user = "x-auth-user: test:tester\r\nx-auth-key: testing\r\n";
        let answer = self.ask_whole("GET", "/auth/v1.0", user);
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("x-auth-token").then(|| format!("x-auth-token: {value}\r\n"))
        };
        ("/v1/AUTH_test".to_owned(), answer.lines().find_map(header).expect("a token"))
    }

    fn is_swift(&self) -> bool {
        self.ask_whole("GET", "/healthcheck", "").ends_with("OK")
    }

    /// The body of its answer.
    fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        let answer = self.ask_whole(method, path, headers);
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    fn ask_whole(&self, method: &str, path: &str, headers: &str) -> String {
        let host = self.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).expect("it listens");
        let request =
            format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-length: 0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("ask it");
        let mut answer = Vec::new();
        let _len = stream.read_to_end(&mut answer).expect("hear it");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Stops or continues all of its processes, as a machine that hangs would.
    pub(crate) fn hang(&self, hangs: bool) {
        let signal = if hangs { "-STOP" } else { "-CONT" };
        let _ = Command::new("pkill").args([signal, "-P", &self.child.id().to_string()]).status();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.hang(false);
        drop(self.stdin.take());
        let _ended = self.child.wait();
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
