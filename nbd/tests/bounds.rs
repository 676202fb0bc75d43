//! What is waited for, and how much of it there may be: changes of clients that vanished, exports that let nobody in yet,
//! answers that nobody takes.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use afterimage_nbd::export::{
    Answer, Error, Export, Exports, Extent, Info, Kind, Listed, Name, Parts, Peer, Result,
};
use afterimage_nbd::server::Settings;
use afterimage_nbd::wire::{ContextQuery, Framing, OptionHeader, OptionReply, cmd, opt};
use bytes::Bytes;
use common::*;
use tokio::sync::watch;

const SIZE: u64 = 1 << 20;

fn quick() -> Settings {
    Settings { handshake_time: Duration::from_millis(400), ..Settings::default() }
}

fn zeroes(len: u32) -> Answer<Parts> {
    Answer::ok(Bytes::from(vec![0; len as usize]).into())
}

type Notes = Arc<Mutex<Vec<&'static str>>>;

/// Writes once it may, on a thread that nobody can call back, and never reads; notes what becomes of both.
#[derive(Default)]
struct Slow {
    notes: Notes,
    may: Arc<(Mutex<bool>, Condvar)>,
}

impl Slow {
    fn let_it_write(&self) {
        *self.may.0.lock().unwrap() = true;
        self.may.1.notify_all();
    }

    fn noted(&self, what: &str) -> bool {
        self.notes.lock().unwrap().contains(&what)
    }
}

/// Notes that it is gone.
struct Given(Notes);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("read given up");
    }
}

impl Export for Slow {
    fn info(&self) -> Info {
        Info::writable(SIZE)
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        self.notes.lock().unwrap().push("attached");
        Answer::ok(None)
    }

    fn read(&self, _offset: u64, _len: u32) -> Answer<Parts> {
        let given = Given(Arc::clone(&self.notes));
        Answer::later(async move {
            let _given = given;
            std::future::pending().await
        })
    }

    fn write(&self, _offset: u64, _data: Bytes, _fua: bool) -> Answer<()> {
        let (notes, may) = (Arc::clone(&self.notes), Arc::clone(&self.may));
        let write = move || {
            notes.lock().unwrap().push("began");
            drop(may.1.wait_while(may.0.lock().unwrap(), |may| !*may).unwrap());
            notes.lock().unwrap().push("written");
        };
        Answer::later(async move {
            tokio::task::spawn_blocking(write).await.unwrap();
            Ok(())
        })
    }

    fn detach(&self, _peer: &Peer, _clean: bool) -> Answer<()> {
        self.notes.lock().unwrap().push("detached");
        Answer::ok(())
    }
}

/// A client that vanishes in the midst of a write, which the server has seen.
fn vanishes(slow: &Slow, host: &Host) {
    let mut client = host.client(Framing::Structured);
    let _cookie = client.send(cmd::READ, 0, 0, 512, b"");
    let _cookie = client.send(cmd::WRITE, 0, 0, 512, &[1; 512]);
    eventually("the write began", || slow.noted("began"));
    drop(client);
    eventually("the server has noticed", || slow.noted("read given up"));
}

#[test]
fn n8_a_change_of_a_client_that_vanished_is_over_before_that_client_counts_as_gone() {
    let slow = Arc::new(Slow::default());
    let host = Host::start(vec![("", Arc::clone(&slow) as Arc<dyn Export>)], Settings::default());
    vanishes(&slow, &host);
    let connections = host.connections();
    slow.let_it_write(); // whatever comes: its thread would hold up the end of this test
    assert_eq!(connections, (1, 0));
    host.settles();
    assert_eq!(*slow.notes.lock().unwrap(), ["attached", "began", "read given up", "written", "detached"]);
}

#[test]
fn n8_nobody_is_let_in_over_a_change_of_a_client_that_vanished() {
    let slow = Arc::new(Slow::default());
    let host = Host::start(vec![("", Arc::clone(&slow) as Arc<dyn Export>)], Settings::default());
    vanishes(&slow, &host);
    let mut next = host.greet();
    next.send_option(opt::GO, &ask_info("")).unwrap();
    std::thread::sleep(Duration::from_millis(100)); // to come in, if it may
    slow.let_it_write();
    assert_eq!(next.option_replies(opt::GO).unwrap().last(), Some(&OptionReply::Ack));
    assert_eq!(next.write(0, &[2; 512], 0), None);
    next.leave();
    host.settles();
    let notes: Vec<_> =
        slow.notes.lock().unwrap().iter().filter(|note| **note != "detached").copied().collect();
    assert_eq!(notes, ["attached", "began", "read given up", "written", "attached", "began", "written"]);
}

#[test]
fn n15_a_stop_does_not_wait_for_ever_for_the_changes_of_a_client_that_vanished() {
    let slow = Arc::new(Slow::default());
    let mut host = Host::start(vec![("", Arc::clone(&slow) as Arc<dyn Export>)], Settings::default());
    vanishes(&slow, &host);
    let stopped = host.stop(Duration::from_millis(100));
    let (detached, written) = (slow.noted("detached"), slow.noted("written"));
    slow.let_it_write();
    assert_eq!((stopped.cut_off, detached, written), (1, true, false));
}

/// Lets a client in once it is open.
struct Door {
    came: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Export for Door {
    fn info(&self) -> Info {
        Info::read_only(SIZE)
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        let mut open = self.open.subscribe();
        let _before = self.came.fetch_add(1, Ordering::Relaxed);
        Answer::later(async move {
            let _open = open.wait_for(|open| *open).await;
            Ok(None)
        })
    }

    fn read(&self, _offset: u64, len: u32) -> Answer<Parts> {
        zeroes(len)
    }
}

#[test]
fn n5_what_an_export_takes_to_let_a_client_in_is_not_the_clients_time() {
    let door = Arc::new(Door { came: AtomicUsize::new(0), open: watch::Sender::new(false) });
    let host = Host::start(vec![("", Arc::clone(&door) as Arc<dyn Export>)], quick());
    let mut client = host.greet();
    client.send_option(opt::GO, &ask_info("")).unwrap();
    eventually("it is at the door", || door.came.load(Ordering::Relaxed) == 1);
    // Who comes later and says nothing has its time, and is gone.
    let mut said = Vec::new();
    let _end = host.raw().read_to_end(&mut said);
    assert_eq!(said.len(), 18, "nothing but the greeting");
    let _before = door.open.send_replace(true);
    assert_eq!(client.option_replies(opt::GO).unwrap().last(), Some(&OptionReply::Ack));
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
    client.leave();
}

/// A long list; counts how often it is asked for.
struct Long(Arc<AtomicUsize>);

impl Exports for Long {
    fn list(&self, _peer: &Peer) -> Answer<Vec<Listed>> {
        let _before = self.0.fetch_add(1, Ordering::Relaxed);
        let listed = |number| Listed {
            name: name(&format!("{number:0>400}")),
            description: String::new(),
            tls_only: false,
        };
        Answer::ok((0..1000).map(listed).collect())
    }

    fn find(&self, _name: &Name, _peer: &Peer) -> Answer<Arc<dyn Export>> {
        Answer::err(Error::new(Kind::Missing, "no such export"))
    }
}

#[test]
fn n1_who_does_not_take_a_list_is_not_given_more_of_them() {
    let calls = Arc::new(AtomicUsize::new(0));
    let host = Host::with(Arc::new(Long(Arc::clone(&calls))), quick());
    let mut said = 3u32.to_be_bytes().to_vec();
    (0..60).for_each(|_| OptionHeader::encode(opt::LIST, b"", &mut said));
    let mut greedy = host.raw();
    greedy.write_all(&said).unwrap();
    eventually("it is given one", || calls.load(Ordering::Relaxed) > 0);
    host.settles();
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 4, "{calls} lists of 400 KiB for somebody who took none");
}

/// Tells the status of its blocks once it may; counts who asked.
struct Told {
    contexts: Vec<String>,
    asked: AtomicUsize,
    may: watch::Sender<bool>,
}

impl Told {
    fn with(contexts: usize) -> Arc<Told> {
        let contexts = (1..contexts).map(|number| format!("test:{number}")).collect();
        Arc::new(Told { contexts, asked: AtomicUsize::new(0), may: watch::Sender::new(false) })
    }
}

impl Export for Told {
    fn info(&self) -> Info {
        Info { contexts: self.contexts.clone(), ..Info::read_only(SIZE) }
    }

    fn read(&self, _offset: u64, len: u32) -> Answer<Parts> {
        zeroes(len)
    }

    fn block_status(&self, context: usize, _offset: u64, len: u64, _one: bool) -> Answer<Vec<Extent>> {
        if context == 0 {
            let _before = self.asked.fetch_add(1, Ordering::Relaxed);
        }
        let mut may = self.may.subscribe();
        Answer::later(async move {
            let _may = may.wait_for(|may| *may).await;
            Result::Ok(vec![Extent { len, flags: 0 }])
        })
    }
}

#[test]
fn n3_answers_about_blocks_are_charged_by_their_contexts() {
    const REQUESTS: usize = 64;
    // For each context as many extents as exports give at a time, up to what one connection may hold.
    for (contexts, at_once) in [(60, (64 << 20) / (60 * 64 * 1024)), (1, REQUESTS)] {
        let told = Told::with(contexts);
        let host = Host::start(vec![("", Arc::clone(&told) as Arc<dyn Export>)], Settings::default());
        let mut client = host.greet();
        drop(client.option(opt::STRUCTURED_REPLY, b"").unwrap());
        let queries = [vec!["base:allocation".to_owned()], told.contexts.clone()].concat();
        let asked = ContextQuery { name: name(""), queries };
        assert_eq!(client.option(opt::SET_META_CONTEXT, &asked.encode()).unwrap().len(), contexts + 1);
        drop(client.option(opt::GO, &ask_info("")).unwrap());
        client.framing = Framing::Structured;
        for _ in 0..REQUESTS {
            let _cookie = client.send(cmd::BLOCK_STATUS, 0, 0, SIZE, b"");
        }
        eventually("as many as may have begun", || told.asked.load(Ordering::Relaxed) >= at_once);
        std::thread::sleep(Duration::from_millis(100)); // for those that may not
        assert_eq!(told.asked.load(Ordering::Relaxed), at_once, "{contexts} contexts");
        let _before = told.may.send_replace(true);
        for _ in 0..REQUESTS {
            let reply = client.reply(0).unwrap();
            assert_eq!((reply.error, reply.status.len()), (None, contexts));
        }
        client.leave();
    }
}
