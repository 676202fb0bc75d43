//! libnbd drives our server through what its own tools never use: options switched off one by one, replies chunk by chunk, and many
//! requests whose answers overtake each other.

use std::sync::Arc;

use afterimage_nbd::export::{Answer, Error, Export, Info, Kind, Parts, Zeroing};
use afterimage_nbd::memory::Memory;
use tokio::sync::Semaphore;

use crate::common::Host;
use crate::{MIB, Pattern, has_nbdsh, nbdsh};

/// Runs a script against an export; what it prints as `SKIPPED` is what this libnbd is too old for.
fn judged(export: impl Export, script: &str) {
    if !has_nbdsh() {
        return;
    }
    let host = Host::one(export);
    let said = nbdsh(&format!("import errno\nURI = '{}'\n{script}", host.uri()));
    said.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| println!("{line}"));
    host.settles();
    host.still_serves();
}

#[test]
fn n16_every_way_of_talking_gives_the_same_bytes() {
    judged(
        Pattern,
        r#"
def content(at, len):
    return bytes(0 if n // 4096 % 3 == 0 else n % 251 + 1 for n in range(at, at + len))

ways = [("structured", lambda h: None), ("simple", lambda h: h.set_request_structured_replies(False))]
if hasattr(h, "set_request_extended_headers"):
    ways.append(("extended", lambda h: h.set_request_extended_headers(True)))
else:
    print("SKIPPED this libnbd has no extended headers")
for name, choose in ways:
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.add_meta_context("qemu:dirty-bitmap:last")
    choose(h)
    h.connect_uri(URI)
    assert h.get_structured_replies_negotiated() == (name != "simple"), name
    assert h.can_meta_context("base:allocation") == (name != "simple"), name
    for at, len in [(0, 1), (4095, 3), (5000, 40000), ((8 << 20) + 100 - 777, 777)]:
        assert h.pread(len, at) == content(at, len), (name, at, len)
    if name == "simple":
        continue
    seen = {}
    def look(context, at, list, err):
        seen[context] = list
    h.block_status(6 * 4096, 4096, look)
    assert seen["base:allocation"] == [8192, 0, 4096, 3, 8192, 0, 4096, 3], seen
    assert seen["qemu:dirty-bitmap:last"] == [8192, 1, 4096, 0, 8192, 1, 4096, 0], seen
    if hasattr(h, "block_status_64"):
        wide = {}
        def look64(context, at, list, err):
            wide[context] = [part for extent in list for part in extent]
        h.block_status_64(6 * 4096, 4096, look64)
        assert wide == seen, (wide, seen)
    h.shutdown()
"#,
    );
}

#[test]
fn n16_a_structured_read_covers_its_range_once_and_df_keeps_it_whole() {
    judged(
        Pattern,
        r#"
h.connect_uri(URI)
assert h.can_df()
for at, len in [(0, 65536), (1, 65536), (4096 * 3 - 1, 2), (100, 1 << 20)]:
    chunks = []
    def see(buf, offset, status, err):
        chunks.append((offset, len_of(buf), status))
    def len_of(buf):
        return buf.__len__()
    h.pread_structured(len, at, see)
    chunks.sort()
    place = at
    for offset, size, status in chunks:
        assert offset == place and size > 0 and status in (nbd.READ_DATA, nbd.READ_HOLE), (at, len, chunks)
        place += size
    assert place == at + len, (at, len, chunks)
    chunks.clear()
    try:
        h.pread_structured(len, at, see, nbd.CMD_FLAG_DF)
        assert len_of(chunks) == 1 and chunks[0][:2] == (at, len), (at, len, chunks)
    except nbd.Error as why:
        assert len > 65536 and why.errnum == errno.EOVERFLOW, (at, len, why)
h.shutdown()
"#,
    );
}

/// Every fourth read is kept until the last block was asked for, so that those behind it are answered first.
struct Overtaken(Arc<Semaphore>);

impl Overtaken {
    const LAST: u64 = 64;
}

impl Export for Overtaken {
    fn info(&self) -> Info {
        Info::read_only(MIB)
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let block = offset / 4096;
        let gate = Arc::clone(&self.0);
        Answer::later(async move {
            if block == Overtaken::LAST {
                gate.close();
            } else if block.is_multiple_of(4) {
                let _closed = gate.acquire().await;
            }
            Ok(bytes::Bytes::from(vec![block as u8 + 1; len as usize]).into())
        })
    }
}

#[test]
fn n16_sixty_four_requests_in_flight_are_answered_out_of_order_each_with_its_own_bytes() {
    judged(
        Overtaken(Arc::new(Semaphore::new(0))),
        r#"
h.connect_uri(URI)
order, buffers = [], []
for block in range(64):
    buffer = nbd.Buffer(4096)
    def done(err, block=block):
        assert err.value == 0 if hasattr(err, "value") else err == 0
        order.append(block)
        return 1
    buffers.append(buffer)
    h.aio_pread(buffer, block * 4096, done)
assert h.aio_in_flight() > 16, h.aio_in_flight()
def until(count):
    while len(order) < count:
        assert h.poll(20000) == 1, "no answer in 20 seconds"
until(48)
assert all(block % 4 for block in order), order
assert h.pread(4096, 64 * 4096) == bytes([65]) * 4096
until(64)
for block, buffer in enumerate(buffers):
    assert buffer.to_bytearray() == bytes([block + 1]) * 4096, block
assert sorted(order) == list(range(64)), order
h.shutdown()
"#,
    );
}

/// Memory that has no quick way to zero.
struct Slow(Memory);

impl Export for Slow {
    fn info(&self) -> Info {
        self.0.info()
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.0.read(offset, len)
    }

    fn write(&self, offset: u64, data: bytes::Bytes, fua: bool) -> Answer<()> {
        self.0.write(offset, data, fua)
    }

    fn flush(&self) -> Answer<()> {
        self.0.flush()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.0.trim(offset, len, fua)
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        self.0.cache(offset, len)
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        match how.fast {
            true => Answer::err(Error::new(Kind::NotFast, "zeroes would be written")),
            false => self.0.zero(offset, len, how),
        }
    }
}

#[test]
fn n16_zeroes_trims_and_hints_do_what_their_flags_say() {
    let script = r#"
h.connect_uri(URI)
assert h.can_zero() and h.can_fast_zero() and h.can_fua() and h.can_flush() and not h.is_read_only()
h.pwrite(b"x" * 65536, 0)
for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE):
    h.pwrite(b"x" * 4096, 8192)
    h.zero(4000, 8200, flags)
    assert h.pread(4096, 8192) == b"x" * 8 + bytes(4000) + b"x" * 88, flags
h.pwrite(b"x" * 4096, 8192)
try:
    h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
    fast = True
except nbd.Error as why:
    assert why.errnum == errno.ENOTSUP, why
    fast = False
assert fast == FAST
assert h.pread(4096, 8192) == (bytes(4096) if fast else b"x" * 4096), "a zero that is not fast changes nothing"
if h.can_trim():
    h.trim(4096, 16384, nbd.CMD_FLAG_FUA)
    assert h.pread(4096, 16384) in (bytes(4096), b"x" * 4096)
if h.can_cache():
    h.cache(1 << 20, 0)
h.flush()
h.shutdown()
"#;
    judged(Memory::new(4 * MIB), &format!("FAST = True\n{script}"));
    judged(Slow(Memory::new(4 * MIB)), &format!("FAST = False\n{script}"));
}

#[test]
fn n2_names_that_libnbd_can_ask_for_are_found_or_refused_and_never_a_path() {
    if !has_nbdsh() {
        return;
    }
    let names = ["", "plain", "with space", "../../etc/passwd", "ü", "a/b", "%41", "\u{1b}[31m"];
    let exports = names.iter().map(|name| (*name, Arc::new(Memory::new(MIB)) as Arc<dyn Export>)).collect();
    let host = Host::start(exports, Default::default());
    let script = format!(
        r#"
NAMES = ["", "plain", "with space", "../../etc/passwd", "\u00fc", "a/b", "%41", "\x1b[31m"]
for name in NAMES + ["missing", "plain ", "A", "x" * 4096]:
    h = nbd.NBD()
    h.set_export_name(name)
    try:
        h.connect_unix("{}")
        assert name in NAMES and h.get_size() == 1 << 20, name
        h.shutdown()
    except nbd.Error:
        assert name not in NAMES, name
"#,
        host.socket.display()
    );
    let _nothing = nbdsh(&script);
    host.settles();
}
