//! TLS: whom the client trusts, and what it shows of itself.

use std::path::Path;
use std::sync::Arc;

use afterimage_nbd::client::{Client, Kind, Uri};
use afterimage_nbd::export::{Name, Table};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::{Listener, Server, Settings, Tls};
use afterimage_nbd::tls::{Acceptor, Files};

use crate::common::Host;
use crate::common::papers::{Authority, authority, issue};
use crate::ours::{MIB, quick, uri};

struct Secure {
    host: Host,
    dir: tempfile::TempDir,
    authority: Authority,
}

/// A server that wants TLS and a certificate of `web01`.
fn secure() -> Secure {
    let (dir, authority) = (tempfile::tempdir().unwrap(), authority("authority"));
    issue(dir.path(), &authority, "localhost", "server");
    let (certificate, key) = (dir.path().join("server-cert.pem"), dir.path().join("server-key.pem"));
    let ca = dir.path().join("ca-cert.pem");
    let allow = ["web01".to_owned()];
    let files = Files { certificate: &certificate, key: &key, client_ca: Some(&ca), allow: &allow };
    let settings =
        Settings { tls: Tls::Require(Acceptor::from_files(files).unwrap()), ..Settings::default() };
    let host = Host::start(vec![("disk", Arc::new(Memory::new(8 * MIB)))], settings);
    Secure { host, dir, authority }
}

impl Secure {
    fn uri(&self, certificates: &Path, more: &str) -> Uri {
        let (socket, certificates) = (self.host.socket.display(), certificates.display());
        uri(&format!("nbds+unix:///disk?socket={socket}&tls-certificates={certificates}{more}"))
    }

    fn connect(&self, uri: &Uri) -> Result<Client, afterimage_nbd::client::Error> {
        self.host.runtime.block_on(Client::connect(uri, &quick()))
    }
}

#[test]
fn n9_with_the_right_certificates_bytes_travel_by_tls() {
    let this = secure();
    issue(this.dir.path(), &this.authority, "web01", "client");
    let client = this.connect(&this.uri(this.dir.path(), "")).unwrap();
    this.host.runtime.block_on(async {
        let bytes = bytes::Bytes::from(vec![5; 3 * MIB as usize]);
        client.write(MIB, bytes.clone(), true).await.unwrap();
        assert_eq!(client.read(MIB, bytes.len()).await.unwrap(), bytes);
        assert_eq!(client.connections(), 4);
        client.close().await;
    });
    this.host.settles();
}

#[test]
fn n9_a_server_of_another_name_or_authority_hears_nothing() {
    let this = secure();
    issue(this.dir.path(), &this.authority, "web01", "client");
    let why = this.connect(&this.uri(this.dir.path(), "&tls-hostname=other")).err().unwrap();
    assert_eq!(why.kind(), Kind::Denied, "{why}");
    let (elsewhere, other) = (tempfile::tempdir().unwrap(), authority("authority"));
    issue(elsewhere.path(), &other, "web01", "client");
    let why = this.connect(&this.uri(elsewhere.path(), "")).err().unwrap();
    assert_eq!(why.kind(), Kind::Denied, "{why}");
    let why = this.connect(&this.uri(Path::new("/nowhere"), "")).err().unwrap();
    assert!(why.to_string().contains("ca-cert.pem"), "{why}");
}

#[test]
fn n9_clients_without_a_listed_certificate_and_clients_in_the_clear_are_sent_away() {
    let this = secure();
    assert!(this.connect(&this.uri(this.dir.path(), "")).is_err(), "no certificate at all");
    issue(this.dir.path(), &this.authority, "web02", "client");
    assert!(this.connect(&this.uri(this.dir.path(), "")).is_err(), "not on the list");
    let clear = uri(&format!("nbd+unix:///disk?socket={}", this.host.socket.display()));
    let why = this.connect(&clear).err().unwrap();
    assert_eq!(why.kind(), Kind::Denied, "{why}");
    assert!(why.to_string().contains("nbds"), "{why}");
}

#[test]
fn n9_tls_that_the_uri_asks_for_is_never_given_up() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path(), &authority("authority"), "web01", "client");
    let host = Host::one(Memory::new(MIB));
    let (socket, certificates) = (host.socket.display(), dir.path().display());
    let place = uri(&format!("nbds+unix:///?socket={socket}&tls-certificates={certificates}"));
    let why = host.runtime.block_on(Client::connect(&place, &quick())).err().unwrap();
    assert_eq!(why.kind(), Kind::Denied, "{why}");
}

#[test]
fn n9_a_host_is_known_by_its_name_over_tcp() {
    let (dir, by) = (tempfile::tempdir().unwrap(), authority("authority"));
    issue(dir.path(), &by, "localhost", "server");
    let (certificate, key) = (dir.path().join("server-cert.pem"), dir.path().join("server-key.pem"));
    let files = Files { certificate: &certificate, key: &key, client_ca: None, allow: &[] };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut table = Table::new();
        table.add(Name::default(), Arc::new(Memory::new(MIB))).unwrap();
        let settings =
            Settings { tls: Tls::Allow(Acceptor::from_files(files).unwrap()), ..Settings::default() };
        let mut server = Server::new(Arc::new(table), settings);
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let port = listener.tcp_address().unwrap().port();
        server.listen(listener).unwrap();
        let place =
            |host: &str| uri(&format!("nbds://{host}:{port}/?tls-certificates={}", dir.path().display()));
        let client = Client::connect(&place("localhost"), &quick()).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), vec![0; 512]);
        client.close().await;
        assert_eq!(Client::connect(&place("127.0.0.1"), &quick()).await.err().unwrap().kind(), Kind::Denied);
        let _stopped = server.stop(std::time::Duration::from_secs(5)).await;
    });
}
