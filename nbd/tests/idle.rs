//! What a thousand clients cost that do nothing. Alone in its process, so that memory can be measured.

mod common;

use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::Settings;
use afterimage_nbd::wire::Framing;
use common::*;
use std::sync::Arc;
use std::time::Duration;

/// Anonymous memory of this process, in KiB: the clients' share of it included.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("the kernel says it");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn n4_a_thousand_idle_connections_cost_less_than_64_mib_and_the_next_1000_nothing() {
    let settings = Settings { idle_time: Duration::from_millis(200), ..Settings::default() };
    let export: Arc<Memory> = Arc::new(Memory::new(1 << 30));
    let host = Host::start(vec![("", export)], settings);
    host.still_serves();
    let before = anonymous();
    let mut clients: Vec<_> = (0..1000).map(|_| host.client(Framing::Structured)).collect();
    for client in &mut clients {
        // busy once: buffers grow, and must shrink again
        for _ in 0..40 {
            let _cookie = client.send(afterimage_nbd::wire::cmd::WRITE, 0, 0, 500, &[1; 500]);
        }
        for _ in 0..40 {
            assert_eq!(client.reply(0).unwrap().error, None);
        }
    }
    let more = || anonymous().saturating_sub(before);
    eventually("all have shrunk", || more() < 64 * 1024);
    println!("1000 idle connections: {} KiB", more());

    let refused = (0..1000).filter(|_| is_closed(&mut skip_greeting(host.raw()))).count();
    assert!(refused >= 900, "{refused} of the next 1000 are turned away");
    eventually("those cost nothing", || more() < 64 * 1024);
    for client in &mut clients {
        assert!(client.read(0, 512).is_ok());
    }
}

/// Reads the greeting, if there is one, and hangs up one's own half, so that a server that did let us in lets go.
fn skip_greeting(mut stream: std::os::unix::net::UnixStream) -> std::os::unix::net::UnixStream {
    use std::io::Read;
    half_close(&stream);
    let _greeting = stream.read(&mut [0; 64]);
    stream
}
