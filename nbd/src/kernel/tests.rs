//! Messages byte for byte, and a kernel that is played by the other end of a socket pair.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::message::{Ask, Garbled, Heard, Wiring, replies, request};
use super::socket::Line;
use super::{Device, Error, Kernel, Kind, Wish};
use crate::client::Handover;
use crate::wire::flag;

/// Bytes as they are written down: hexadecimal digits with spaces between.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// NBD's number in these tests, as kernels give it.
const NBD: u16 = 0x1d;

const GET_FAMILY: &str = "1c000000 1000 0500 01000000 00000000  03 01 0000  0800 0200 6e626400";
const CONNECT: &str = "7c000000 1d00 0500 02000000 00000000  01 01 0000
    0800 0100 03000000
    0c00 0200 0000000400000000
    0c00 0300 0002000000000000
    0c00 0400 5802000000000000
    0c00 0500 2d01000000000000
    0c00 0800 1e00000000000000
    1c00 0780  0c00 0180 0800 0100 05000000  0c00 0180 0800 0100 07000000
    0800 0a00 61623000";
const STATUS: &str = "1c000000 1d00 0500 09000000 00000000  05 01 0000  0800 0100 02000000";

/// What a kernel of ours answers: the reply, then the word that it is done.
const FAMILY: &str = "3c000000 1000 0000 01000000 39300000  01 02 0000
    0800 0200 6e626400  0600 0100 1d00 0000  0800 0300 01000000  0800 0400 00000000  0800 0500 0a000000";
const CONNECTED: &str = "1c000000 1d00 0000 02000000 39300000  01 01 0000  0800 0100 0b000000";
const DEVICES: &str = "40000000 1d00 0000 09000000 39300000  05 01 0000
    2c00 0900  1400 0100 0800 0100 02000000 0500 0200 01000000  1400 0100 0800 0100 03000000 0500 0200 00000000";

fn done(sequence: u32) -> Vec<u8> {
    failed(sequence, 0)
}

fn failed(sequence: u32, errno: i32) -> Vec<u8> {
    let of_request = [0; 16];
    [&36u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &0u16.to_ne_bytes(), &sequence.to_ne_bytes(), &[0; 4]]
        .concat()
        .into_iter()
        .chain((-errno).to_ne_bytes())
        .chain(of_request)
        .collect()
}

fn wiring() -> Wiring<'static> {
    Wiring {
        index: Some(3),
        size: Some(64 << 20),
        block_size: Some(512),
        timeout: Some(600),
        dead_time: Some(30),
        server_flags: Some(0x12d),
        sockets: vec![5, 7],
        identifier: Some("ab0"),
        client_flags: None,
    }
}

#[cfg(target_endian = "little")]
#[test]
fn what_the_kernel_is_asked_is_right_to_the_byte() {
    assert_eq!(request(16, 1, &Ask::Family("nbd")), hex(GET_FAMILY));
    assert_eq!(request(NBD, 2, &Ask::Connect(wiring())), hex(CONNECT));
    assert_eq!(request(NBD, 9, &Ask::Status(2)), hex(STATUS));
    let disconnect = hex(&STATUS.replace(" 05 01 ", " 02 01 "));
    assert_eq!(request(NBD, 9, &Ask::Disconnect(2)), disconnect);
    let again = Wiring { index: Some(3), sockets: vec![5], ..Wiring::default() };
    let reconfigure = "30000000 1d00 0500 04000000 00000000  03 01 0000
        0800 0100 03000000  1000 0780 0c00 0180 0800 0100 05000000";
    let reconfigure = reconfigure.replace("30000000", "2c000000");
    assert_eq!(request(NBD, 4, &Ask::Reconfigure(again)), hex(&reconfigure));
    let flags = Wiring { client_flags: Some(2), ..Wiring::default() };
    let connect = "20000000 1d00 0500 05000000 00000000  01 01 0000  0c00 0600 0200000000000000";
    assert_eq!(request(NBD, 5, &Ask::Connect(flags)), hex(connect));
}

#[cfg(target_endian = "little")]
#[test]
fn what_the_kernel_answers_is_understood() {
    let read = |text: &str| replies(&hex(text), Some(NBD)).unwrap();
    assert_eq!(read(FAMILY), [(1, Heard::Family { id: NBD, last_attribute: 10 })]);
    assert_eq!(read(CONNECTED), [(2, Heard::Connected(11))]);
    assert_eq!(read(DEVICES), [(9, Heard::Devices(vec![(2, true), (3, false)]))]);
    assert_eq!(replies(&done(7), None).unwrap(), [(7, Heard::Done)]);
    assert_eq!(replies(&failed(8, 16), None).unwrap(), [(8, Heard::Failed(16))]);
    let both = [hex(CONNECTED), done(2)].concat();
    assert_eq!(replies(&both, Some(NBD)).unwrap(), [(2, Heard::Connected(11)), (2, Heard::Done)]);
    // Of other families nothing is known, whatever their commands are.
    assert_eq!(replies(&hex(CONNECTED), Some(NBD + 1)).unwrap(), [(2, Heard::Other)]);
    assert_eq!(replies(&hex(CONNECTED), None).unwrap(), [(2, Heard::Other)]);
}

#[cfg(target_endian = "little")]
#[test]
fn garbled_answers_are_named() {
    let read = |text: &str| replies(&hex(text), Some(NBD)).unwrap_err();
    assert_eq!(read("10000000"), Garbled::Message(0));
    for (len, claimed) in [(0, 0), (15, 15), (29, 29), (u32::MAX, u32::MAX)] {
        let mut bytes = hex(CONNECTED);
        bytes[..4].copy_from_slice(&u32::to_ne_bytes(len));
        assert_eq!(replies(&bytes, Some(NBD)).unwrap_err(), Garbled::Message(claimed));
    }
    assert_eq!(read("12000000 0200 0000 01000000 00000000 0000"), Garbled::Body(2));
    assert_eq!(read("12000000 1d00 0000 01000000 00000000 0101"), Garbled::Body(NBD));
    let connected = |attribute: &str| {
        let bytes = hex(attribute);
        let len = (20 + bytes.len() as u32).to_ne_bytes();
        [&len[..], &hex("1d00 0000 02000000 00000000 01 01 0000"), &bytes].concat()
    };
    for (attribute, why) in [
        ("0300 0100", Garbled::Attribute(3)),
        ("0900 0100 00000000", Garbled::Attribute(9)),
        ("0000", Garbled::Attribute(0)),
        ("0600 0100 0000 0000", Garbled::Value(1)),
        ("0c00 0100 0000000000000000", Garbled::Value(1)),
    ] {
        assert_eq!(replies(&connected(attribute), Some(NBD)).unwrap_err(), why, "{attribute}");
    }
    assert_eq!(replies(&connected("0400 0700"), Some(NBD)).unwrap(), [(2, Heard::Other)]);
}

#[test]
fn names_end_at_a_nul_and_never_break_the_message() {
    let bytes = request(16, 1, &Ask::Family("nb\0d"));
    assert_eq!(bytes.len(), 28);
    assert!(bytes.ends_with(b"nb\0\0"));
}

/// A kernel that answers the family, then each request with the next of these.
fn played(answers: Vec<Vec<u8>>) -> (Line, std::thread::JoinHandle<Vec<Vec<u8>>>) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let kernel = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let mut buffer = vec![0; 4096];
            let len = theirs.recv(&mut buffer).unwrap();
            buffer.truncate(len);
            asked.push(buffer);
            // Old news first: what answers an earlier request is passed over.
            let _ = theirs.send(&failed(0, 5)).unwrap();
            let _ = theirs.send(&answer).unwrap();
        }
        asked
    });
    (Line::on(OwnedFd::from(ours)).unwrap(), kernel)
}

fn handover(sockets: usize) -> Handover {
    let sockets = (0..sockets).map(|_| OwnedFd::from(UnixDatagram::unbound().unwrap()));
    Handover {
        sockets: sockets.collect(),
        size: (64 << 20) + 100,
        flags: flag::HAS_FLAGS | flag::SEND_FLUSH | flag::CAN_MULTI_CONN,
        block_min: 1,
        payload_max: 32 << 20,
    }
}

fn wish() -> Wish {
    Wish {
        device: None,
        block_size: 512,
        read_only: false,
        timeout: Duration::from_millis(1500),
        dead_time: Duration::ZERO,
        identifier: "nbd://host/ö".into(),
    }
}

#[cfg(target_endian = "little")]
#[test]
fn a_device_is_attached_looked_at_and_detached() {
    let renumbered = |text: &str, sequence: u8| {
        let mut bytes = hex(text);
        bytes[8] = sequence;
        bytes
    };
    let (line, kernel) = played(vec![
        [hex(FAMILY), done(1)].concat(),
        [renumbered(CONNECTED, 2), done(2)].concat(),
        [renumbered(DEVICES, 3), done(3)].concat(),
        [renumbered(DEVICES, 4), done(4)].concat(),
        done(5),
    ]);
    let mut nbd = Kernel::on(line).unwrap();
    let handover = handover(2);
    assert_eq!(nbd.connect(&handover, &wish()).unwrap(), Device(11));
    assert!(nbd.is_connected(Device(2)).unwrap());
    assert!(!nbd.is_connected(Device(3)).unwrap());
    nbd.disconnect(Device(2)).unwrap();
    let asked = kernel.join().unwrap();
    // Half a second is a second, the last 100 bytes are no block, and without an index the kernel chooses.
    let wiring = Wiring {
        size: Some(64 << 20),
        block_size: Some(512),
        timeout: Some(2),
        dead_time: Some(0),
        server_flags: Some(0x105),
        sockets: super::numbers(&handover.sockets),
        identifier: Some("nbd://host/ö"),
        ..Wiring::default()
    };
    assert_eq!(asked[1], request(NBD, 2, &Ask::Connect(wiring)));
    assert_eq!(asked[4], request(NBD, 5, &Ask::Disconnect(2)));
}

#[cfg(target_endian = "little")]
#[test]
fn a_read_only_wish_is_told_and_old_kernels_get_no_identifier() {
    let older = FAMILY.replace("0a000000", "09000000");
    let (line, kernel) = played(vec![[hex(&older), done(1)].concat(), done(2)]);
    let mut nbd = Kernel::on(line).unwrap();
    let wish = Wish { read_only: true, device: Some(Device(4)), timeout: Duration::ZERO, ..wish() };
    // This kernel does not say which device it made; it was told which.
    assert_eq!(nbd.connect(&handover(1), &wish).unwrap(), Device(4));
    let asked = kernel.join().unwrap().remove(1);
    let has = |kind: u16, value: u64| {
        let attribute = [&12u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat();
        asked.windows(attribute.len()).any(|window| window == attribute)
    };
    assert!(has(5, 0x107), "the flags say that it is read-only");
    assert!(!asked.windows(4).any(|window| window == b"host"), "nothing that it does not know");
}

#[cfg(target_endian = "little")]
#[test]
fn what_the_kernel_refuses_says_what_to_try() {
    for (errno, kind, words) in [
        (1, Kind::Denied, "it takes root"),
        (16, Kind::Busy, "detach it first"),
        (22, Kind::Failed, "dmesg"),
        (12, Kind::Failed, "attach a device"),
    ] {
        let (line, kernel) = played(vec![[hex(FAMILY), done(1)].concat(), failed(2, errno)]);
        let error = Kernel::on(line).unwrap().connect(&handover(1), &wish()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        drop(kernel.join().unwrap());
    }
    let (line, kernel) = played(vec![failed(1, 2)]);
    assert_eq!(Kernel::on(line).unwrap_err(), Error::no_netlink());
    drop(kernel.join().unwrap());
    let (line, kernel) = played(vec![done(1)]);
    assert_eq!(Kernel::on(line).unwrap_err().kind(), Kind::Failed);
    drop(kernel.join().unwrap());
}

#[test]
fn a_kernel_that_hangs_up_is_no_kernel() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    drop(theirs);
    assert_eq!(Kernel::on(Line::on(ours.into()).unwrap()).unwrap_err().kind(), Kind::Failed);
}

#[test]
fn blocks_that_no_device_can_have_are_refused() {
    for block_size in [0, 1, 256, 513, 8192, u32::MAX] {
        let error = Wish { block_size, ..wish() }.judge(&handover(1)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    }
    let picky = Handover { block_min: 4096, ..handover(1) };
    assert_eq!(wish().judge(&picky).unwrap_err().kind(), Kind::Usage);
    assert_eq!(Wish { block_size: 4096, ..wish() }.judge(&picky), Ok(()));
    let tiny = Handover { size: 511, ..handover(1) };
    assert_eq!(wish().judge(&tiny).unwrap_err().kind(), Kind::Usage);
    assert_eq!(wish().size_of(&handover(1)), 64 << 20);
}
