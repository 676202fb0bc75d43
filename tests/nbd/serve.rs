//! `serve`: what it offers to other people's clients, what it says, and what it refuses at start.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Sandbox, tool};
use crate::servers::{have, nbdkit, ours, python_with_libnbd, same_files};
use afterimage_nbd::client::{Client, Kind, Options, WireError};
use std::time::Duration;

#[test]
fn clients_write_a_target_and_find_it_on_the_medium_when_they_left() {
    if !have(&["nbdinfo", "nbdcopy", "qemu-img"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(3, 8 * MIB));
    let (new, used) = (sand.at("new,er.raw"), file(&sand, "used.raw", &vec![0xaa; 8 * MIB as usize]));
    let escaped = new.replace(',', "\\,");
    let server = ours(
        &sand,
        &[
            "--target",
            &format!("new={escaped},size=8M,create"),
            "--target",
            &format!("used={used},exclusive"),
        ],
    );
    let info = tool("nbdinfo", &["--json", &server.uri("new", "")]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(info["exports"][0]["export-size"], 8 * MIB, "{info}");
    assert_eq!(
        (&info["exports"][0]["can_multi_conn"], &info["exports"][0]["is_read_only"]),
        (&true.into(), &false.into())
    );
    let _ = tool("nbdcopy", &[&image, &server.uri("new", "")]);
    let _ = tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, &server.uri("used", "")]);
    let _ = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &server.uri("used", "")]);
    let listed = tool("nbdinfo", &["--list", &server.uri("", "")]);
    assert!(listed.contains("export=\"new\"") && listed.contains("export=\"used\""), "{listed}");
    let output = server.stop().expect_code(0);
    let said: Vec<&str> = output.text().lines().collect();
    assert_eq!(said.len(), 4, "{output}");
    assert!(said[0].starts_with("new nbd+unix:///new?socket=") && said[3] == "ready", "{output}");
    assert!(said[2].starts_with("backups nbd+unix:///BACKUP?socket="), "{output}");
    assert!(output.stderr.contains("attach") && output.stderr.contains("detach"), "{output}");
    same_files(&new, &image);
    same_files(&used, &image);
}

#[test]
fn the_only_target_is_the_default_and_tells_its_name() {
    let Some(python) = python_with_libnbd() else { return };
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let server = ours(&sand, &["--target", &format!("disk 1={target}")]);
    let script = "import nbd, sys; h = nbd.NBD(); h.set_full_info(True); h.connect_uri(sys.argv[1]); \
                  print(h.get_canonical_export_name(), '|', h.get_export_description()); h.shutdown()";
    let said = tool(python, &["-c", script, &server.uri("", "")]);
    assert!(said.starts_with("disk 1 | target /"), "{said}");
    let _ = server.stop().expect_code(0);
}

#[test]
fn an_exclusive_target_has_one_client_at_a_time() {
    if !have(&["qemu-io", "nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let control = sand.at("control");
    let server = ours(&sand, &["--control", &control, "--target", &format!("t={target},exclusive")]);
    let connections = || {
        let stats = sand.done(&["--json", "stats", &control]).json();
        stats["exports"][0]["connections"].as_u64().expect("a number")
    };
    let info = tool("nbdinfo", &["--json", &server.uri("t", "")]);
    assert!(info.contains("\"can_multi_conn\": true"), "one client may have several connections: {info}");
    let repo = Sandbox::with_repo();
    let _ = repo.backup("small", &[&file(&repo, "s.img", &[7; 65_536])]);
    for _ in 0..3 {
        // The one before has left, so the next one may.
        let _ = repo.done(&["restore", "small", &server.uri("t", "")]);
    }
    assert_eq!(std::fs::read(&target).expect("read"), [7; 65_536]);
    let mut holder = std::process::Command::new("qemu-io");
    let _ = holder
        .args(["-f", "raw", &server.uri("t", ""), "-c", "sleep 600000"])
        .stdin(std::process::Stdio::null());
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while connections() > 0 {
        assert!(std::time::Instant::now() < until, "the last one never left");
    }
    let mut holder = crate::common::Running::start(holder);
    while connections() == 0 {
        let ended = holder.has_ended();
        assert!(!ended && std::time::Instant::now() < until, "it does not come in; ended: {ended}");
    }
    let second = repo.run(&["restore", "small", &server.uri("t", "")]);
    assert_ne!(second.code(), Some(0), "a second client came in: {second}");
    assert!(!holder.has_ended(), "the first one has left");
}

#[test]
fn what_must_not_be_served_is_refused_before_anything_is_offered() {
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 4096]);
    let listen = format!("unix:{}", sand.at("s"));
    let serve = |code: i32, args: &[&str], words: &str| {
        let all: Vec<&str> = [&["serve", "--listen", listen.as_str()], args].concat();
        let output = sand.ends(code, &all).saying(words);
        assert_eq!(output.text(), "", "nothing is announced: {output}");
    };
    let named = |path: &str| format!("t={path}");
    serve(2, &["--target", &named(&target), "--target", &named(&target)], "two exports have the name");
    let mut nothing = sand.command(&["serve", "--listen", &listen]);
    let _ = nothing.env_remove("AFTERIMAGE_REPO");
    let _ = crate::common::run(nothing, Duration::from_secs(30)).expect_code(2).saying("--target");
    serve(2, &["--target", "t"], "NAME=PATH");
    serve(2, &["--target", &format!("t={target},colour=red")], "colour");
    serve(1, &["--target", &named(&sand.at("missing"))], "create");
    serve(4, &["--target", &format!("t={target},size=1M,create")], "4096");
    serve(4, &["--target", &named(&file(&sand, "empty", b""))], "empty");
    serve(4, &["--target", &named(sand.root().to_str().expect("text"))], "directory");
    serve(
        4,
        &["--listen", "tcp:0.0.0.0:0", "--target", &format!("n={},size=1M,create", sand.at("new"))],
        "--public",
    );
    assert!(!std::path::Path::new(&sand.at("new")).exists(), "refused, but made");
    serve(2, &["--tls", "require", "--target", &named(&target)], "--tls-cert");
    let _ = sand.ends(2, &["serve", "--target", &named(&target)]).saying("--listen");
}

#[test]
fn a_file_of_the_repository_is_no_target() {
    let sand = Sandbox::with_repo();
    let (listen, target) =
        (format!("unix:{}", sand.at("s")), format!("t={}", sand.repo().join("afterimage.json").display()));
    let _ =
        sand.ends(4, &["serve", "--listen", &listen, "--target", &target]).saying("inside the repository");
}

#[test]
fn n15_a_server_that_is_asked_to_stop_answers_what_it_was_asked_and_leaves() {
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &vec![0; 32 * MIB as usize]);
    let server = ours(&sand, &["--target", &format!("t={target}")]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let uri = server.uri("t", "").parse().expect("a URI");
    let alone = Options { connections: 1, ..Options::default() };
    let connect = || Client::connect(&uri, &alone);
    // One that is idle, one that never gets past the greeting, and one in the middle of its work.
    let _idle = runtime.block_on(connect()).expect("connect");
    let _greeting = std::os::unix::net::UnixStream::connect(server.socket()).expect("connect");
    let busy = runtime.block_on(connect()).expect("connect");
    let block = bytes::Bytes::from(vec![7; 64 * 1024]);
    let begun = std::time::Instant::now();
    let mut answers = Vec::new();
    runtime.block_on(async {
        // Until it is refused: how soon the signal is heard is up to the machine.
        for at in 0u64.. {
            if at == 1024 {
                server.terminate();
            }
            let offset = at % 512 * 65_536;
            // What was written before: of two requests under way for one place either may come first.
            let before = at.saturating_sub(1) % 512 * 65_536;
            let write = busy.start_write(offset, block.clone(), false).expect("a write");
            let read = busy.start_read(before, vec![0; 512]).expect("a read");
            answers.push((write.wait().await, read.wait().await));
            if answers.last().is_some_and(|(write, _)| write.is_err()) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the server went on");
        }
    });
    assert!(answers.len() > 1024, "a client was cut off before anybody asked the server to stop");
    for (write, read) in answers.iter().skip(1) {
        let refused = [write.as_ref().err(), read.as_ref().err()];
        assert!(refused.into_iter().flatten().all(is_about_the_stop), "{refused:?}");
        assert!(read.as_ref().map_or(true, |bytes| bytes.iter().all(|byte| *byte == 7)), "wrong bytes");
    }
    let last = answers.pop().expect("answers").0.expect_err("it ended with a refusal");
    assert_eq!(last.kind(), Kind::Answered(WireError::Shutdown), "who still asks is told why: {last}");
    let written = answers.iter().filter(|(write, _)| write.is_ok()).count();
    let _ = server.running.wait(Duration::from_secs(20)).expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let bytes = std::fs::read(&target).expect("read");
    assert!(
        bytes[..written.min(512) * 65_536].iter().all(|byte| *byte == 7),
        "answered, but not on the medium"
    );
    assert!(!std::path::Path::new(&sand.at("serve.sock")).exists(), "the socket is removed");
    let again = ours(&sand, &["--target", &format!("t={target}")]);
    let _ = again.stop().expect_code(0);
}

/// Refused because the server stops, or hung up on after it had.
fn is_about_the_stop(why: &afterimage_nbd::client::Error) -> bool {
    matches!(why.kind(), Kind::Answered(WireError::Shutdown) | Kind::Unreachable)
}

#[test]
fn n15_a_copy_that_the_server_stops_ends_with_an_error_and_the_server_well() {
    if !have(&["nbdcopy", "nbdkit"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = sand.at("t.raw");
    let server = ours(&sand, &["--target", &format!("t={target},size=64M,create")]);
    // As slow as it takes to be stopped in its midst: 256 reads of 256 KiB, each late.
    let slow = ["--filter=delay", "pattern", "64M", "delay-read=100ms"];
    let Some(source) = nbdkit(&sand, "slow.sock", &slow) else { return };
    let mut copy = std::process::Command::new("nbdcopy");
    let _ = copy.args(["--connections=1", "--requests=4", &source.uri("", ""), &server.uri("t", "")]);
    let mut copy = crate::common::Running::start(copy);
    let some = std::time::Instant::now() + Duration::from_secs(20);
    while crate::common::images::allocated(&target) < MIB && std::time::Instant::now() < some {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!copy.has_ended(), "nbdcopy was to be in its midst");
    let begun = std::time::Instant::now();
    let _ = server.stop().expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_ne!(copy.wait(Duration::from_secs(30)).code(), Some(0), "half a copy is no success");
    // nbdkit's pattern is each place's own offset; what is there is right, the rest was never written.
    let bytes = std::fs::read(&target).expect("read");
    let right = bytes.chunks(8).enumerate().filter(|(at, word)| **word == (*at as u64 * 8).to_be_bytes());
    assert!(right.count() as u64 * 8 >= MIB, "what was answered is on the medium");
    let wrong = |(at, word): &(usize, &[u8])| **word != [0; 8] && **word != (*at as u64 * 8).to_be_bytes();
    assert_eq!(bytes.chunks(8).enumerate().find(wrong), None);
}

#[test]
fn one_client_is_served_on_standard_input_and_output() {
    let Some(python) = python_with_libnbd() else { return };
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[7; 65_536]);
    let script = "import nbd, sys; h = nbd.NBD(); h.connect_command(sys.argv[1:]); print(h.get_size(), h.pread(4, 9)); h.shutdown()";
    let program = env!("CARGO_BIN_EXE_afterimage");
    let said = tool(python, &["-c", script, program, "serve", "--single", "--target", &format!("={target}")]);
    assert!(said.starts_with("65536 ") && said.contains("\\x07\\x07\\x07\\x07"), "{said}");
}

#[test]
fn n15_the_client_on_standard_input_is_told_of_a_stop_and_what_it_wrote_is_kept() {
    let Some(python) = python_with_libnbd() else { return };
    let sand = Sandbox::new();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let script = r#"
import errno, nbd, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
server = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=theirs)
theirs.close()
h = nbd.NBD()
h.connect_socket(ours.detach())
h.pwrite(b"x" * 4096, 0)
server.terminate()
until = time.time() + 20
try:
    while time.time() < until:
        h.pwrite(b"x" * 4096, 4096)
    raise SystemExit("the server went on")
except nbd.Error as why:
    assert why.errnum == errno.ESHUTDOWN, why
print("ended with", server.wait(20))
"#;
    let program = env!("CARGO_BIN_EXE_afterimage");
    let said =
        tool(python, &["-c", script, program, "serve", "--single", "--target", &format!("t={target}")]);
    assert_eq!(said.trim(), "ended with 0");
    assert_eq!(std::fs::read(&target).expect("read")[..4096], [b'x'; 4096]);
}

#[test]
fn sockets_that_a_service_manager_opened_are_served() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    // In square brackets: libnbd opens the socket and starts the command as systemd would.
    let program = env!("CARGO_BIN_EXE_afterimage");
    let said =
        tool("nbdinfo", &["--size", "--", "[", program, "serve", "--target", &format!("={target}"), "]"]);
    assert!(said.lines().any(|line| line == "65536") && said.lines().any(|line| line == "ready"), "{said}");
}
