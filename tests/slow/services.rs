//! Services that no one here made, started on loopback and gone with the test: OpenStack Swift (as Swift, and by its s3api as S3), and moto's S3.

use crate::common::{in_network, skipped};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use tempfile::TempDir;

/// Every service has these to hold backups in.
pub(crate) const BUCKETS: [&str; 2] = ["one", "two"];

const SWIFT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/swift");

/// A service that runs.
pub(crate) struct Service {
    child: Child,
    /// It ends when this does.
    stdin: Option<ChildStdin>,
    url: String,
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
}

impl Service {
    fn start(what: &str, mut command: Command, files: TempDir) -> Option<Service> {
        let _ = command.args(BUCKETS).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take()?).lines().map_while(Result::ok);
        let mut url = None;
        for line in lines {
            url = line.strip_prefix("url ").map(str::to_owned).or(url);
            if line == "ready" {
                return Some(Service { child, stdin, url: url?, _files: files });
            }
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

    /// An S3 that has nothing to do with Swift.
    pub(crate) fn moto() -> Option<Service> {
        let files = tempfile::tempdir().expect("make a folder");
        let command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/moto"));
        Service::start("moto (scripts/lib/setup slow)", command, files)
    }

    pub(crate) fn as_swift(&self) -> Speech {
        let auth = format!("{}/auth/v1.0", self.url);
        let env = [("ST_AUTH", auth.as_str()), ("ST_USER", "test:tester"), ("ST_KEY", "testing")];
        Speech { scheme: "swift", env: owned(&env) }
    }

    pub(crate) fn as_s3(&self) -> Speech {
        let env = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_ACCESS_KEY_ID", "test:tester"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_REGION", "us-east-1"),
        ];
        Speech { scheme: "s3", env: owned(&env) }
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
