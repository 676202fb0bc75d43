//! TLS, with clients who have the right papers and with clients who don't.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use afterimage_nbd::export::{Export, Info};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::{Settings, Tls};
use afterimage_nbd::tls::{Acceptor, Files};
use afterimage_nbd::wire::{Framing, OptionHeader, OptionReply, WireError, cmd, opt, rep};
use common::papers::{Authority, Papers, authority, issue, papers};
use common::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Everyone's papers, and a server that asks for them.
struct Town {
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Town {
    fn new() -> Town {
        let town = Town { authority: authority("town"), dir: tempfile::tempdir().unwrap() };
        issue(town.dir.path(), &town.authority, "localhost", "server");
        town
    }

    fn put(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn acceptor(&self, clients: bool, allow: &[&str]) -> Acceptor {
        let allow: Vec<String> = allow.iter().map(|name| (*name).to_owned()).collect();
        let client_ca = self.path("ca-cert.pem");
        let files = Files {
            certificate: &self.path("server-cert.pem"),
            key: &self.path("server-key.pem"),
            client_ca: clients.then_some(client_ca.as_path()),
            allow: &allow,
        };
        Acceptor::from_files(files).unwrap()
    }

    fn host(&self, tls: Tls) -> Host {
        let exports: Vec<(&str, Arc<dyn Export>)> =
            vec![("", Arc::new(Memory::new(1 << 20))), ("vault", Arc::new(Vault(Memory::new(1 << 20))))];
        Host::start(exports, Settings { tls, ..Settings::default() })
    }

    /// A client's view of TLS: whom it trusts, and what it shows.
    fn client(&self, shows: Option<&Papers>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some(papers) => {
                use rustls::pki_types::pem::PemObject;
                let chain = vec![CertificateDer::from_pem_slice(papers.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(papers.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

/// Only for those who came by TLS.
struct Vault(Memory);

impl Export for Vault {
    fn info(&self) -> Info {
        Info { tls_only: true, ..Info::read_only(1 << 20) }
    }

    fn read(&self, offset: u64, len: u32) -> afterimage_nbd::export::Answer<afterimage_nbd::export::Parts> {
        self.0.read(offset, len)
    }
}

type Secure = StreamOwned<ClientConnection, UnixStream>;

fn secured(mut client: Client<UnixStream>, config: Arc<ClientConfig>) -> Client<Secure> {
    assert_eq!(client.option(opt::STARTTLS, b"").unwrap(), [OptionReply::Ack]);
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    Client::after_greeting(StreamOwned::new(connection, client.stream))
}

/// Whether a client with these papers gets to see anything.
fn gets_in(host: &Host, config: Arc<ClientConfig>) -> bool {
    let mut client = secured(host.greet(), config);
    let answered = client.send_option(opt::LIST, b"").and_then(|()| client.option_replies(opt::LIST));
    answered.is_ok()
}

#[test]
fn a_session_over_tls_is_like_any_other() {
    let town = Town::new();
    let host = town.host(Tls::Require(town.acceptor(false, &[])));
    for framing in FRAMINGS {
        let mut client = secured(host.greet(), town.client(None));
        client.enter("", framing).unwrap();
        let noise: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        assert_eq!(client.write(5, &noise, 0), None);
        assert!(client.read(5, noise.len()).unwrap() == noise);
        assert_eq!(client.error(cmd::READ, 0, 1 << 20, 1, b""), Some(WireError::Inval));
        client.leave();
    }
    host.settles();
}

#[test]
fn n11_refused_payloads_are_drained_through_tls_too() {
    let town = Town::new();
    let host = town.host(Tls::Allow(town.acceptor(false, &[])));
    let mut client = secured(host.greet(), town.client(None));
    client.enter("vault", Framing::Structured).unwrap();
    for len in [1, 512, 300_000] {
        assert_eq!(client.write(0, &vec![1; len], 0), Some(WireError::Perm));
    }
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
    client.leave();
}

#[test]
fn n9_nothing_is_said_before_tls_where_it_is_required() {
    let town = Town::new();
    let host = town.host(Tls::Require(town.acceptor(false, &[])));
    let mut client = host.greet();
    for (option, data) in
        [(opt::LIST, vec![]), (opt::GO, ask_info("")), (opt::STRUCTURED_REPLY, vec![]), (99, vec![1])]
    {
        assert_eq!(client.option_error(option, &data), rep::ERR_TLS_REQD);
    }
    client.send_option(opt::EXPORT_NAME, b"").unwrap();
    assert!(client.is_closed());
    let mut old = host.raw();
    old.read_exact(&mut [0; 18]).unwrap();
    old.write_all(&[0; 4]).unwrap();
    let mut option = Vec::new();
    OptionHeader::encode(opt::EXPORT_NAME, b"", &mut option);
    old.write_all(&option).unwrap();
    assert!(is_closed(&mut old), "an old client");
}

#[test]
fn n9_only_clients_with_the_right_papers_get_in() {
    let town = Town::new();
    let good = papers(&town.authority, "backup.example", false);
    let host = town.host(Tls::Require(town.acceptor(true, &[])));
    assert!(gets_in(&host, town.client(Some(&good))));
    assert!(!gets_in(&host, town.client(None)), "without a certificate");
    assert!(!gets_in(&host, town.client(Some(&papers(&town.authority, "old.example", true)))), "expired");
    assert!(
        !gets_in(&host, town.client(Some(&papers(&authority("elsewhere"), "backup.example", false)))),
        "wrong CA"
    );

    let listed = town.host(Tls::Require(town.acceptor(true, &["Backup.Example"])));
    assert!(gets_in(&listed, town.client(Some(&good))));
    assert!(
        !gets_in(&listed, town.client(Some(&papers(&town.authority, "other.example", false)))),
        "wrong name"
    );
    host.settles();
    listed.settles();
}

#[test]
fn n9_where_there_is_no_tls_starttls_is_refused_and_the_session_goes_on() {
    let host = Town::new().host(Tls::Off);
    let mut client = host.greet();
    assert_eq!(client.option_error(opt::STARTTLS, b""), rep::ERR_POLICY);
    assert_eq!(client.option_error(opt::GO, &ask_info("vault")), rep::ERR_UNKNOWN, "not even by name");
    client.enter("", Framing::Structured).unwrap();
    client.leave();
}

#[test]
fn n9_exports_for_tls_only_are_hidden_in_the_clear() {
    let town = Town::new();
    let host = town.host(Tls::Allow(town.acceptor(false, &[])));
    let mut client = host.greet();
    assert_eq!(client.option(opt::LIST, b"").unwrap().len(), 2, "one export and the ack");
    assert_eq!(client.option_error(opt::GO, &ask_info("vault")), rep::ERR_TLS_REQD);
    client.enter("", Framing::Structured).unwrap();
    client.leave();
    let mut client = secured(host.greet(), town.client(None));
    assert_eq!(client.option(opt::LIST, b"").unwrap().len(), 3);
    client.enter("vault", Framing::Structured).unwrap();
    client.leave();
}

#[test]
fn n10_what_was_said_before_tls_is_forgotten_and_what_was_slipped_in_ends_the_connection() {
    let town = Town::new();
    let host = town.host(Tls::Allow(town.acceptor(false, &[])));
    let mut client = host.greet();
    assert_eq!(client.option(opt::STRUCTURED_REPLY, b"").unwrap(), [OptionReply::Ack]);
    let mut client = secured(client, town.client(None));
    assert_eq!(client.option_error(opt::STARTTLS, b""), rep::ERR_INVALID);
    assert_eq!(
        client.option_error(opt::SET_META_CONTEXT, &[0; 8]),
        rep::ERR_INVALID,
        "structured is forgotten"
    );
    client.enter("", Framing::Simple).unwrap();
    client.leave();

    let mut slipped = Vec::new();
    OptionHeader::encode(opt::STARTTLS, b"", &mut slipped);
    OptionHeader::encode(opt::STRUCTURED_REPLY, b"", &mut slipped);
    let mut client = host.greet();
    client.stream.write_all(&slipped).unwrap();
    assert!(client.is_closed());

    // The same, but after the reply: it must be taken for TLS, and isn't any.
    let mut client = host.greet();
    assert_eq!(client.option(opt::STARTTLS, b"").unwrap(), [OptionReply::Ack]);
    client.stream.write_all(&slipped).unwrap();
    let mut said = Vec::new();
    let _end = client.stream.read_to_end(&mut said);
    assert!(
        !said.windows(8).any(|bytes| bytes == 0x0003_e889_0455_65a9u64.to_be_bytes()),
        "no reply in the clear"
    );
    host.settles();
}

#[test]
fn n8_leaving_in_the_middle_of_tls_leaves_nothing_behind() {
    let town = Town::new();
    let host = town.host(Tls::Require(town.acceptor(false, &[])));
    for said in [&b""[..], &[0x16], &[0x16, 3, 1, 0xff, 0xff], &[0xff; 600]] {
        let mut client = host.greet();
        assert_eq!(client.option(opt::STARTTLS, b"").unwrap(), [OptionReply::Ack]);
        client.stream.write_all(said).unwrap();
    }
    host.settles();
    assert!(gets_in(&host, town.client(None)));
}

#[test]
fn unusable_files_are_named() {
    let town = Town::new();
    town.put("empty.pem", "");
    let allow = ["someone".to_owned()];
    let (certificate, key, empty) =
        (town.path("server-cert.pem"), town.path("server-key.pem"), town.path("empty.pem"));
    let files = |certificate, key, client_ca, allow| Files { certificate, key, client_ca, allow };
    for (files, word) in [
        (files(&empty, &key, None, &[]), "empty.pem"),
        (files(&certificate, &empty, None, &[]), "empty.pem"),
        (files(&certificate, &key, Some(empty.as_path()), &[]), "empty.pem"),
        (files(Path::new("/nowhere"), &key, None, &[]), "/nowhere"),
        (files(&certificate, &key, None, &allow), "CA"),
    ] {
        let error = Acceptor::from_files(files).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn n16_libnbd_comes_by_tls_with_and_without_a_certificate() {
    let nbdinfo = Path::new("/usr/bin/nbdinfo");
    if !nbdinfo.is_file() {
        println!("SKIPPED nbdinfo is not installed");
        return;
    }
    let town = Town::new();
    let ask = |host: &Host| {
        let uri = format!(
            "nbds+unix://localhost/?socket={}&tls-certificates={}",
            host.socket.display(),
            town.dir.path().display()
        );
        std::process::Command::new(nbdinfo).args(["--size", &uri]).output().unwrap()
    };
    let open = town.host(Tls::Require(town.acceptor(false, &[])));
    let strict = town.host(Tls::Require(town.acceptor(true, &["libnbd.example"])));
    assert!(!ask(&strict).status.success(), "without a certificate");
    let client = papers(&town.authority, "libnbd.example", false);
    town.put("client-cert.pem", &client.certificate);
    town.put("client-key.pem", &client.key);
    for host in [&open, &strict] {
        let output = ask(host);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1048576", "{output:?}");
    }
}
