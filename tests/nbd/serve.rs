//! `serve`: what it offers to other people's clients, what it says, and what it refuses at start.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Sandbox, tool};
use crate::servers::{have, ours, same_files};
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
fn an_exclusive_target_has_one_client_at_a_time() {
    if !have(&["qemu-io", "nbdinfo"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[0; 65_536]);
    let server = ours(&sand, &["--target", &format!("t={target},exclusive")]);
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
        .args(["-f", "raw", &server.uri("t", ""), "-c", "sleep 20000"])
        .stdin(std::process::Stdio::null());
    let holder = crate::common::Running::start(holder);
    let refused = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        repo.run(&["restore", "small", &server.uri("t", "")]).code() != Some(0)
    });
    assert!(refused, "a second client came in");
    drop(holder);
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
    let inside = sand.repo().join("afterimage.json");
    serve(4, &["--target", &named(inside.to_str().expect("text"))], "inside the repository");
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
fn n15_a_server_that_is_asked_to_stop_lets_its_clients_finish_and_cleans_up() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let target = sand.at("t.raw");
    let server = ours(&sand, &["--target", &format!("t={target},size=64M,create")]);
    let uri = server.uri("t", "");
    let image = file(&sand, "image", &mixed(9, 16 * MIB));
    let writing = std::thread::spawn(move || tool("nbdcopy", &[&image, &uri]));
    let _ = writing.join().expect("nbdcopy ends");
    let _ = server.stop().expect_code(0);
    assert!(!std::path::Path::new(&sand.at("serve.sock")).exists(), "the socket is removed");
    let again = ours(&sand, &["--target", &format!("t={target}")]);
    let _ = again.stop().expect_code(0);
}

#[test]
fn one_client_is_served_on_standard_input_and_output() {
    let python = "/usr/bin/python3"; // the system's, which has libnbd's module where that is installed
    let has_module = std::process::Command::new(python).args(["-c", "import nbd"]).output();
    if !has_module.is_ok_and(|output| output.status.success()) {
        crate::common::skipped("python3-libnbd is not installed");
        return;
    }
    let sand = Sandbox::with_repo();
    let target = file(&sand, "t.raw", &[7; 65_536]);
    let script = "import nbd, sys; h = nbd.NBD(); h.connect_command(sys.argv[1:]); print(h.get_size(), h.pread(4, 9)); h.shutdown()";
    let program = env!("CARGO_BIN_EXE_afterimage");
    let said = tool(python, &["-c", script, program, "serve", "--single", "--target", &format!("={target}")]);
    assert!(said.starts_with("65536 ") && said.contains("\\x07\\x07\\x07\\x07"), "{said}");
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
