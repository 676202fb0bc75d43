//! Other people's clients against our server: they judge whether we speak their language.
//!
//! What is not installed is said and skipped.

#[path = "../common/mod.rs"]
mod common;
mod libnbd;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage_nbd::export::{Answer, Export, Extent, Info, Parts};
use afterimage_nbd::file::FileExport;
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::Settings;
use common::*;

const MIB: u64 = 1 << 20;

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    if !found {
        println!("SKIPPED {tool} is not installed");
    }
    found
}

/// Runs a tool to its end, which must come soon.
fn run(tool: &str, args: &[&str]) -> Output {
    run_in(Command::new(tool).args(args))
}

fn run_in(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _count = stream.map(|mut stream| stream.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > Duration::from_secs(60) => {
                let _gone = (child.kill(), child.wait());
                panic!("{command:?} does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Runs a tool that must succeed.
fn succeeds(tool: &str, args: &[&str]) {
    drop(said_by(tool, args));
}

/// Runs a tool that must succeed; gives what it printed.
fn said_by(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {}\n{said}\n{errors}", output.status);
    said
}

/// The system's Python, which has libnbd's module when it is installed; another one first in PATH doesn't.
fn has_nbdsh() -> bool {
    let found = installed("nbdsh") && run("/usr/bin/python3", &["-c", "import nbd"]).status.success();
    if !found {
        println!("SKIPPED libnbd's Python module is not installed");
    }
    found
}

/// Runs a script in libnbd's shell; gives what it printed.
fn nbdsh(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.py");
    std::fs::write(&path, format!("import nbd\nh = nbd.NBD()\n{script}")).unwrap();
    said_by("/usr/bin/python3", &[text(&path)])
}

/// Sparse and odd: data at the start, in the middle and up to an uneven end.
fn sample(dir: &Path) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = dir.join("sample");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(20 * MIB + 777).unwrap();
    let noise: Vec<u8> = (0..3 * MIB).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for at in [0, 8 * MIB, 17 * MIB + 777] {
        file.write_all_at(&noise, at).unwrap();
    }
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

fn file_host(path: &Path, read_only: bool) -> Host {
    Host::start(vec![("", Arc::new(FileExport::open(path, read_only).unwrap()))], Settings::default())
}

fn empty(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn n16_nbdinfo_sees_size_abilities_and_holes() {
    if !installed("nbdinfo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = file_host(&sample(dir.path()), true);
    let info = said_by("nbdinfo", &[&host.uri()]);
    for line in [
        "export-size: 20972297",
        "is_read_only: true",
        "can_multi_conn: true",
        "can_df: true",
        "base:allocation",
    ] {
        assert!(info.contains(line), "{line}:\n{info}");
    }
    let map = said_by("nbdinfo", &["--map", &host.uri()]);
    let types: Vec<_> = map.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(types, ["data", "hole,zero", "data", "hole,zero", "data"], "{map}");
    assert!(said_by("nbdinfo", &["--list", &host.uri()]).contains("export=\"\""));
    host.settles();
}

#[test]
fn n16_nbdcopy_brings_every_byte_both_ways() {
    if !installed("nbdcopy") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = sample(dir.path());
    let size = std::fs::metadata(&source).unwrap().len();
    let host = file_host(&source, true);
    for connections in ["1", "4"] {
        let copy = dir.path().join("copy");
        succeeds("nbdcopy", &["--connections", connections, &host.uri(), text(&copy)]);
        assert!(same(&source, &copy), "{connections} connections");
        std::fs::remove_file(copy).unwrap();

        let target = empty(dir.path(), "target", size);
        std::fs::write(&target, vec![0xaa; size as usize]).unwrap(); // old data must not shine through
        let host = file_host(&target, false);
        succeeds("nbdcopy", &["--flush", "--connections", connections, text(&source), &host.uri()]);
        assert!(same(&source, &target), "{connections} connections");
    }
    let memory = Host::one(Memory::new(size));
    succeeds("nbdcopy", &[&host.uri(), &memory.uri()]);
    let copy = dir.path().join("copy");
    succeeds("nbdcopy", &[&memory.uri(), text(&copy)]);
    assert!(same(&source, &copy), "from one of our servers to another");
}

#[test]
fn n16_empty_and_tiny_exports_are_served() {
    if !installed("nbdcopy") || !installed("nbdinfo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for size in [0, 1, 511, 513] {
        let source = dir.path().join("source");
        std::fs::write(&source, vec![7; size]).unwrap();
        let host = file_host(&source, true);
        assert_eq!(said_by("nbdinfo", &["--size", &host.uri()]).trim(), size.to_string());
        let copy = dir.path().join("copy");
        succeeds("nbdcopy", &[&host.uri(), text(&copy)]);
        assert!(same(&source, &copy), "{size} bytes");
    }
}

#[test]
fn n16_qemu_img_converts_compares_and_maps() {
    if !installed("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = sample(dir.path());
    let size = std::fs::metadata(&source).unwrap().len();
    let host = file_host(&source, true);
    let uri = host.uri();
    assert!(said_by("qemu-img", &["info", "-f", "raw", &uri]).contains("20 MiB"));
    succeeds("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, text(&source)]);
    let map = said_by("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert_eq!(map.matches("\"data\": true").count(), 3, "{map}");

    let copy = dir.path().join("copy");
    succeeds("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&copy)]);
    assert!(std::fs::read(&copy).unwrap()[..size as usize] == std::fs::read(&source).unwrap());

    for extra in [&["-W"][..], &["-m", "4"], &["-W", "-m", "16", "-S", "0"]] {
        let target = empty(dir.path(), "target", size.next_multiple_of(512));
        let host = file_host(&target, false);
        let uri = host.uri();
        let args = [&["convert", "-n", "-f", "raw", "-O", "raw"], extra, &[text(&source), &uri]].concat();
        succeeds("qemu-img", &args);
        assert!(
            std::fs::read(&target).unwrap()[..size as usize] == std::fs::read(&source).unwrap(),
            "{extra:?}"
        );
    }
}

#[test]
fn n16_qemu_img_bench_runs_at_any_depth() {
    if !installed("qemu-img") {
        return;
    }
    let host = Host::one(Memory::new(64 * MIB));
    for (depth, more) in
        [("1", &[][..]), ("64", &[]), ("16", &["-w"]), ("16", &["-w", "--flush-interval", "64"])]
    {
        let uri = host.uri();
        let args = [&["bench", "-f", "raw", "-t", "none", "-c", "2000", "-d", depth], more, &[&uri]].concat();
        succeeds("qemu-img", &args);
    }
}

#[test]
fn n16_qemu_io_patterns_hold() {
    if !installed("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = empty(dir.path(), "target", 16 * MIB);
    let host = file_host(&target, false);
    let commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 -f 1M 64k",
        "write -z 256k 128k",
        "write -z -u 512k 64k",
        "discard 768k 64k",
        "aio_write -P 0x33 8M 4M",
        "aio_flush",
        "flush",
        "read -P 0x11 0 256k",
        "read -P 0 256k 128k",
        "read -P 0x11 384k 128k",
        "read -P 0 512k 64k",
        "read -P 0x22 1M 64k",
        "read -P 0x33 8M 4M",
        "read -P 0 12M 4M",
    ];
    let mut args = vec!["-f", "raw", "-t", "none", "-d", "unmap"];
    for command in commands {
        args.extend(["-c", command]);
    }
    let uri = host.uri();
    args.push(&uri);
    let said = said_by("qemu-io", &args);
    assert!(!said.contains("Pattern verification failed"), "{said}");
}

#[test]
fn n16_fio_verifies_what_it_wrote() {
    if !installed("fio") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = empty(dir.path(), "target", 32 * MIB);
    let host = file_host(&target, false);
    let memory = Host::one(Memory::new(32 * MIB));
    for host in [&host, &memory] {
        let uri = format!("--uri={}", host.uri());
        let said = said_by(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randrw",
                "--bsrange=512-128k",
                "--iodepth=32",
                "--size=32m",
                "--verify=crc32c",
                "--verify_state_save=0",
                "--thread",
                "--minimal",
            ],
        );
        assert!(!said.contains("verify: bad"), "{said}");
    }
}

#[test]
fn n16_nbd_client_lists_what_there_is() {
    if !installed("nbd-client") {
        return;
    }
    let exports: Vec<(&str, Arc<dyn Export>)> =
        vec![("first", Arc::new(Memory::new(MIB))), ("second", Arc::new(Memory::new(MIB)))];
    let host = Host::start(exports, Settings::default());
    let said = said_by("nbd-client", &["-l", "-unix", text(&host.socket)]);
    assert!(said.contains("first") && said.contains("second"), "{said}");
}

/// nbdkit as the other end: its sparse-random plugin makes content, and verifies what is written back to it.
#[test]
fn n16_nbdkit_oracles_accept_our_bytes() {
    if !installed("nbdkit") || !installed("nbdcopy") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let memory = Host::one(Memory::new(64 * MIB));
    let file = file_host(&empty(dir.path(), "target", 64 * MIB), false);
    for ours in [memory.uri(), file.uri()] {
        let script = format!("nbdcopy --flush \"$uri\" '{ours}' && nbdcopy '{ours}' \"$uri\"");
        let args = ["-U", "-", "sparse-random", "size=64M", "seed=42", "percent=30", "--run", &script];
        succeeds("nbdkit", &args);
    }
}

/// Answers with a pattern, in pieces that never match the request, so that every path of a client's assembly is used.
struct Pattern;

fn is_hole(at: u64) -> bool {
    (at / 4096).is_multiple_of(3)
}

fn pattern(at: u64) -> u8 {
    if is_hole(at) { 0 } else { (at % 251) as u8 + 1 }
}

impl Export for Pattern {
    fn info(&self) -> Info {
        Info { contexts: vec!["qemu:dirty-bitmap:last".into()], ..Info::read_only(8 * MIB + 100) }
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        use afterimage_nbd::export::Part;
        let mut parts = Vec::new();
        let (mut at, end) = (offset, offset + u64::from(len));
        while at < end {
            let next = ((at / 4096 + 1) * 4096).min(end);
            parts.push(match is_hole(at) {
                true => Part::Hole((next - at) as u32),
                false => Part::Data((at..next).map(pattern).collect()),
            });
            at = next;
        }
        Answer::later(async move {
            tokio::task::yield_now().await;
            Ok(parts.into())
        })
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, _one: bool) -> Answer<Vec<Extent>> {
        let end = (offset + len).min(8 * MIB + 100);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end {
            let next = ((at / 4096 + 1) * 4096).min(end);
            let flags = if context == 1 { u64::from(!is_hole(at)) } else { u64::from(is_hole(at)) * 3 };
            extents.push(Extent { len: next - at, flags });
            at = next;
        }
        Answer::ok(extents)
    }
}

#[test]
fn n16_reads_in_many_pieces_arrive_whole() {
    if !installed("nbdcopy") || !installed("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = Host::one(Pattern);
    let expected: Vec<u8> = (0..8 * MIB + 100).map(pattern).collect();
    let copy = dir.path().join("copy");
    for args in [&["--connections=1"][..], &["--connections=4", "--request-size=1048576"], &["--synchronous"]]
    {
        let uri = host.uri();
        succeeds("nbdcopy", &[args, &["--allocated", &uri, text(&copy)]].concat());
        assert!(std::fs::read(&copy).unwrap() == expected, "{args:?}");
        std::fs::remove_file(&copy).unwrap();
    }
    succeeds("qemu-img", &["convert", "-f", "raw", "-O", "raw", &host.uri(), text(&copy)]);
    assert!(std::fs::read(&copy).unwrap()[..expected.len()] == expected);
    let map = said_by("nbdinfo", &["--map=qemu:dirty-bitmap:last", &host.uri()]);
    assert!(map.contains("dirty") && map.contains("clean"), "{map}");
}

#[test]
fn n16_nbdsh_finds_every_command_in_order() {
    if !has_nbdsh() {
        return;
    }
    let host = Host::one(Memory::new(16 * MIB));
    let script = r#"
import errno
def fails(code, call):
    try:
        call()
    except nbd.Error as why:
        assert why.errnum == code, (why.errnum, code)
    else:
        raise AssertionError("no error")

h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
assert h.get_size() == 16 << 20
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
h.pwrite(b"x" * 70000, 5, nbd.CMD_FLAG_FUA)
assert h.pread(70002, 4) == b"\0" + b"x" * 70000 + b"\0"
h.zero(100, 5, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.trim(65536, 1 << 20)
h.cache(65536, 0)
h.flush()
assert h.pread(200, 0) == b"\0" * 105 + b"x" * 95
chunks = []
h.pread_structured(3 << 20, 0, lambda buf, at, status, err: chunks.append((at, len(buf), status)))
assert any(status == nbd.READ_HOLE for _, _, status in chunks), chunks
chunks.clear()
h.pread_structured(3 << 20, 0, lambda buf, at, status, err: chunks.append((at, len(buf), status)), nbd.CMD_FLAG_DF)
assert chunks == [(0, 3 << 20, nbd.READ_DATA)], chunks
extents = []
h.block_status(16 << 20, 0, lambda context, at, list, err: extents.append((context, at, list)))
assert extents == [("base:allocation", 0, [131072, 0, (16 << 20) - 131072, 3])], extents
extents.clear()
h.block_status(16 << 20, 0, lambda context, at, list, err: extents.append(list), nbd.CMD_FLAG_REQ_ONE)
assert extents == [[131072, 0]], extents
fails(errno.EINVAL, lambda: h.pread(512, 16 << 20))
fails(errno.ENOSPC, lambda: h.pwrite(b"x", 16 << 20))
fails(errno.ENOSPC, lambda: h.zero(1, 16 << 20))
fails(errno.EINVAL, lambda: h.trim(1, 16 << 20))
h.shutdown()
"#;
    let _nothing = nbdsh(&format!("URI = '{}'\n{script}", host.uri()));
    host.settles();
}

/// The example beside these tests, if this run built it.
fn serve_file() -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap();
    let example = here.parent()?.parent()?.join("examples/serve-file");
    if !example.is_file() {
        println!(
            "SKIPPED the example serve-file was not built (cargo test builds it unless a single test is chosen)"
        );
        return None;
    }
    Some(example)
}

#[test]
fn one_connection_on_standard_input_and_sockets_passed_by_systemd_are_served() {
    let (Some(example), true) = (serve_file(), has_nbdsh()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = sample(dir.path());
    let content = format!(
        "h.connect_command(['{0}', '-', '{1}', 'read-only'])\nassert h.get_size() == 20972297\nfirst = h.pread(4096, 0)\nh.shutdown()\n\
         g = nbd.NBD()\ng.connect_systemd_socket_activation(['{0}', 'passed', '{1}', 'read-only'])\n\
         assert g.pread(4096, 0) == first\ng.shutdown()\n",
        text(&example),
        text(&source)
    );
    let _nothing = nbdsh(&content);
}
