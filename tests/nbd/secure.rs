//! `serve` by TLS, and who gets in: other people's clients with the right certificate, with another authority's, with none.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Sandbox, run, tool};
use crate::papers::{Authority, authority, issue};
use crate::servers::{Listening, have, ours, same_files};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A target that only `web01` may write, and directories of certificates for several who come.
struct Town {
    sand: Sandbox,
    target: String,
    server: Listening,
}

impl Town {
    fn new() -> Town {
        let sand = Sandbox::with_repo();
        let by = authority("town");
        issue(&made(&sand, "server"), &by, "localhost", "server");
        issue(&made(&sand, "web01"), &by, "web01", "client");
        issue(&made(&sand, "web02"), &by, "web02", "client");
        std::fs::write(made(&sand, "nobody").join("ca-cert.pem"), by.pem()).expect("write a certificate");
        let other: Authority = authority("elsewhere");
        issue(&made(&sand, "stranger"), &other, "web01", "client");
        // It trusts our server all the same: what is refused is the stranger.
        std::fs::write(sand.at("stranger/ca-cert.pem"), by.pem()).expect("write a certificate");
        let target = file(&sand, "t.raw", &vec![0; 4 * MIB as usize]);
        let at = |name: &str| sand.at(&format!("server/{name}.pem"));
        let server = ours(
            &sand,
            &[
                "--target",
                &format!("t={target}"),
                "--tls",
                "require",
                "--tls-cert",
                &at("server-cert"),
                "--tls-key",
                &at("server-key"),
                "--tls-client-ca",
                &at("ca-cert"),
                "--tls-allow",
                "web01",
            ],
        );
        Town { sand, target, server }
    }

    fn uri(&self, who: &str) -> String {
        let more = format!("&tls-certificates={}", self.sand.at(who));
        self.server.uri("t", &more).replacen("nbd", "nbds", 1)
    }

    /// The same for qemu, which takes no certificates in a URI.
    fn qemu(&self, who: &str) -> (String, String) {
        let object = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", self.sand.at(who));
        let socket = self.server.socket();
        let image = format!(
            "driver=nbd,server.type=unix,server.path={socket},export=t,tls-creds=tls0,tls-hostname=localhost"
        );
        (object, image)
    }
}

fn made(sand: &Sandbox, name: &str) -> PathBuf {
    let dir = Path::new(&sand.at(name)).to_owned();
    std::fs::create_dir(&dir).expect("make a directory");
    dir
}

/// Runs a client that must be turned away, soon.
fn is_refused(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    let _ = command.args(args).stdin(Stdio::null());
    let output = run(command, Duration::from_secs(30));
    assert!(output.code().is_some_and(|code| code != 0) && !output.stderr.is_empty(), "{output}");
}

#[test]
fn n9_clients_with_the_right_certificate_copy_both_ways_by_tls() {
    if !have(&["nbdinfo", "nbdcopy", "qemu-img"]) {
        return;
    }
    let town = Town::new();
    let (sand, uri) = (&town.sand, town.uri("web01"));
    assert_eq!(tool("nbdinfo", &["--size", &uri]).trim(), (4 * MIB).to_string());
    assert!(tool("nbdinfo", &[&uri]).contains("with TLS"), "nbdinfo sees no TLS");
    let image = file(sand, "image", &mixed(3, 4 * MIB));
    let _ = tool("nbdcopy", &["--flush", &image, &uri]);
    let _ = tool("nbdcopy", &[&uri, &sand.at("copy")]);
    same_files(&sand.at("copy"), &image);
    let (object, by_qemu) = town.qemu("web01");
    let compare = [
        "compare",
        "--object",
        &object,
        "--image-opts",
        &by_qemu,
        &format!("driver=raw,file.filename={image}"),
    ];
    let _ = tool("qemu-img", &compare);
    let other = file(sand, "other", &mixed(4, 4 * MIB));
    let convert =
        ["convert", "-n", "--object", &object, "-f", "raw", "--target-image-opts", &other, &by_qemu];
    let _ = tool("qemu-img", &convert);
    // And our own client, in both directions.
    let _ = sand.backup("by-tls", &[&uri]);
    assert!(sand.cat("by-tls") == std::fs::read(&other).expect("read"), "what was backed up by TLS differs");
    let _ = sand.done(&["restore", "by-tls", &uri, "--force"]);
    let said = town.server.stop().expect_code(0);
    assert!(said.text().contains("nbds+unix:///t?socket="), "{said}");
    assert!(said.stderr.contains("web01"), "the log says who came: {said}");
    same_files(&town.target, &other);
}

#[test]
fn n9_clients_without_the_right_certificate_and_in_the_clear_are_refused() {
    if !have(&["nbdinfo", "nbdcopy", "qemu-img"]) {
        return;
    }
    let town = Town::new();
    let (sand, clear) = (&town.sand, town.server.uri("t", ""));
    let image = file(sand, "image", &mixed(3, 4 * MIB));
    for who in ["nobody", "stranger", "web02"] {
        let uri = town.uri(who);
        is_refused("nbdinfo", &["--size", &uri]);
        is_refused("nbdcopy", &[&image, &uri]);
        let (object, by_qemu) = town.qemu(who);
        is_refused("qemu-img", &["info", "--object", &object, "--image-opts", &by_qemu]);
        let _ = sand.ends(1, &["backup", &uri, "--name", "refused"]);
    }
    is_refused("nbdinfo", &["--size", &clear]);
    is_refused("nbdinfo", &["--list", &town.server.uri("", "")]);
    is_refused("qemu-img", &["info", "-f", "raw", &clear]);
    let _ = sand.ends(1, &["backup", &clear, "--name", "refused"]).saying("nbds");
    // It still serves who may come, and nobody wrote a byte.
    let _ = tool("nbdinfo", &["--size", &town.uri("web01")]);
    let _ = town.server.stop().expect_code(0);
    assert!(std::fs::read(&town.target).expect("read").iter().all(|byte| *byte == 0), "somebody wrote");
    assert!(sand.list().is_empty());
}

#[test]
fn n9_over_tcp_the_servers_name_is_checked() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    issue(&made(&sand, "server"), &authority("town"), "localhost", "server");
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let at = |name: &str| sand.at(&format!("server/{name}.pem"));
    let server = ours(
        &sand,
        &[
            "--listen",
            "tcp:127.0.0.1:0",
            "--target",
            &format!("t={target}"),
            "--tls",
            "require",
            "--tls-cert",
            &at("server-cert"),
            "--tls-key",
            &at("server-key"),
        ],
    );
    let said = server.running.said();
    let port = said.split_once("nbds://127.0.0.1:").and_then(|(_, port)| port.split_once('/'));
    let port = port.unwrap_or_else(|| panic!("names no port: {said}")).0;
    let uri = |host: &str| format!("nbds://{host}:{port}/t?tls-certificates={}", sand.at("server"));
    assert_eq!(tool("nbdinfo", &["--size", &uri("localhost")]).trim(), "65536");
    is_refused("nbdinfo", &["--size", &uri("127.0.0.1")]);
    let repo = Sandbox::with_repo();
    let _ = repo.ends(1, &["backup", &uri("127.0.0.1"), "--name", "x"]).saying("TLS");
    let _ = repo.backup("x", &[&uri("localhost")]);
    let _ = server.stop().expect_code(0);
}
