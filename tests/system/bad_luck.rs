//! Bad luck: what is no repository, what is full, what changes under our hands, who works beside us.

use crate::common::images::{MIB, assert_same_bytes, digest, file, mixed, sparse};
use crate::common::loops::Loop;
use crate::common::random::Random;
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use crate::common::{Running, Sandbox, has_program, is_root, run, skipped};
use nix::libc;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a3_init_never_touches_a_folder_that_holds_something_else() {
    let sand = Sandbox::new();
    std::fs::create_dir(sand.repo()).expect("make a folder");
    std::fs::write(sand.repo().join("letter.txt"), b"dear").expect("write");
    let _ = sand.ends(4, &["init"]);
    assert_eq!(sand.objects(), [std::path::PathBuf::from("letter.txt")]);
    let _ = sand.ends(1, &["list"]);
    std::fs::remove_file(sand.repo().join("letter.txt")).expect("drop");
    let _ = sand.done(&["init"]);
    let before = sand.objects();
    let _ = sand.ends(4, &["init"]);
    assert_eq!(sand.objects(), before, "a second init changed something");
}

#[test]
fn x11_a_repository_of_a_newer_version_is_refused_with_the_version_it_needs() {
    let sand = Sandbox::with_repo();
    let mut version = 0;
    sand.change("afterimage.json", |stored| {
        let mut config: serde_json::Value = serde_json::from_slice(stored).expect("JSON");
        version = config["version"].as_u64().expect("a version");
        config["version"] = (version + 41).into();
        *stored = config.to_string().into_bytes();
    });
    for verb in [&["list"][..], &["check"], &["cat", "web01"]] {
        let _ = sand.ends(1, verb).saying(&(version + 41).to_string());
    }
}

#[test]
fn p5_reading_verbs_write_nothing_to_the_repository() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(80, MIB));
    let _ = sand.backup("web01", &[&image]);
    let look = || {
        let stamp =
            |path: &std::path::PathBuf| path.metadata().and_then(|meta| meta.modified()).expect("look");
        crate::common::files_under(&sand.repo())
            .iter()
            .map(|path| (path.clone(), stamp(path)))
            .collect::<Vec<_>>()
    };
    let before = look();
    let host = sand.other_host();
    for call in [
        &["list"][..],
        &["show", "web01"],
        &["cat", "web01"],
        &["restore", "web01", "out.img"],
        &["check", "--read-data"],
    ] {
        let _ = host.done(call);
    }
    assert_eq!(look(), before);
}

#[test]
fn a12_a_read_only_repository_reads_and_says_why_it_does_not_write() {
    let sand = Sandbox::with_repo();
    let bytes = mixed(81, MIB);
    let image = file(&sand, "disk.img", &bytes);
    let _ = sand.backup("web01", &[&image]);
    if is_root() && !has_program("setpriv") {
        return skipped("root may write anywhere, and there is no setpriv to become somebody else");
    }
    open_to_read(sand.root());
    let ours = sand.ours_for_all();
    let as_nobody = |args: &[&str]| {
        let command = sand.command(args);
        if !is_root() {
            return command;
        }
        let mut other = Command::new("setpriv");
        let _ = other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&ours).args(args);
        for (key, value) in command.get_envs() {
            let _ = other.env(key, value.unwrap_or_default());
        }
        let _ = other.current_dir(sand.root()).stdin(std::process::Stdio::null()).env("HOME", "/nonexistent");
        for variable in ["XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"] {
            let _ = other.env(variable, "/nonexistent");
        }
        other
    };
    let output = run(as_nobody(&["cat", "web01"]), Duration::from_secs(20)).expect_code(0);
    assert_same_bytes(&output.stdout, &bytes, "read without write permission");
    let _ = run(as_nobody(&["backup", &image, "--name", "web01"]), Duration::from_secs(20))
        .expect_code(1)
        .saying("repo");
    assert_eq!(sand.list().len(), 1);
}

/// Everybody may read, nobody but root may write.
fn open_to_read(root: &std::path::Path) {
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let mode = if path.is_dir() { 0o555 } else { 0o444 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o200)).expect("open to read");
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("list").flatten().map(|entry| entry.path()));
        }
    }
}

#[test]
fn a7_a_store_without_room_is_named_full_and_keeps_what_it_had() {
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let small = file(&sand, "small.img", &mixed(82, MIB));
    let _ = sand.backup("web01", &[&small]);
    let mut noise = vec![0; 8 << 20];
    Random::seeded(83).fill(&mut noise);
    let large = file(&sand, "large.img", &noise);
    let command = sand.command(&["backup", &large, "--name", "web02"]);
    let mut limited = Command::new("sh");
    // The signal of the limit is ignored, so that the call that writes sees the error.
    let _ = limited
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let _ = limited.env_clear().stdin(std::process::Stdio::null()).current_dir(sand.root());
    for (key, value) in command.get_envs() {
        let _ = limited.env(key, value.unwrap_or_default());
    }
    let output = run(limited, Duration::from_secs(30));
    assert_eq!(output.code(), Some(1), "{output}");
    assert_eq!(sand.list().len(), 1);
    sand.assert_sound();
    let record = sand.backup("web02", &[&large]);
    assert_same_bytes(&sand.cat(record.id()), &noise, "after there was room again");
}

#[test]
fn a7_on_a_full_disk_the_error_says_full_and_temporary_files_do_not_stay() {
    if !is_root() {
        return skipped("mounting a small tmpfs wants root");
    }
    let sand = Sandbox::new();
    let at = sand.at("tmpfs");
    std::fs::create_dir(&at).expect("make a mount point");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none", &at]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped("this machine does not let root mount a tmpfs");
    }
    let repo = format!("{at}/repo");
    let init = sand.run(&["-r", &repo, "init"]);
    let small = file(&sand, "small.img", &mixed(84, MIB));
    let mut noise = vec![0; 8 << 20];
    Random::seeded(85).fill(&mut noise);
    let large = file(&sand, "large.img", &noise);
    let first = sand.run(&["-r", &repo, "backup", &small, "--name", "web01"]);
    let full = sand.run(&["-r", &repo, "backup", &large, "--name", "web02"]);
    let listed = sand.run(&["-r", &repo, "--json", "list"]);
    let check = sand.run(&["-r", &repo, "check", "--read-data"]);
    let cat = sand.run(&["-r", &repo, "cat", "web01"]);
    let again = sand.run(&["-r", &repo, "backup", &small, "--name", "web01"]);
    let _ = Command::new("umount").arg(&at).status();
    let _ = (init.expect_code(0), first.expect_code(0), check.expect_code(0));
    let full = full.expect_code(1);
    assert!(
        ["full", "no space", "no room"].iter().any(|words| full.stderr.to_lowercase().contains(words)),
        "{full}"
    );
    assert!(!full.stderr.contains("large.img:"), "a full store looks like an unreadable source: {full}");
    assert_eq!(listed.expect_code(0).json().as_array().map(Vec::len), Some(1));
    assert!(cat.expect_code(0).stdout == std::fs::read(&small).expect("read"));
    let _ = again.expect_code(0);
}

#[test]
fn d1_two_backups_of_the_same_data_at_once_both_complete() {
    let sand = Sandbox::with_repo();
    let other = sand.other_host();
    let mut noise = vec![0; 24 << 20];
    Random::seeded(86).fill(&mut noise);
    let image = file(&sand, "disk.img", &noise);
    let running = [
        Running::start(sand.command(&["backup", &image, "--name", "web01"])),
        Running::start(other.command(&["backup", &image, "--name", "web01"])),
        Running::start(sand.command(&["backup", &image, "--name", "web02"])),
    ];
    for one in running {
        let _ = one.wait(Duration::from_secs(60)).expect_code(0);
    }
    let listed = sand.list();
    assert_eq!(listed.len(), 3);
    for record in &listed {
        assert_same_bytes(&other.cat(record.id()), &noise, "made beside others");
    }
    let roots: Vec<_> = listed.iter().map(|record| record.item(0, "root")).collect();
    assert!(roots.iter().all(|root| *root == roots[0]), "equal content, equal roots: {roots:?}");
    sand.assert_sound();
}

#[test]
fn a_repository_is_read_while_another_backup_runs_beside_it() {
    let sand = Sandbox::with_repo();
    let bytes = mixed(87, 2 * MIB);
    let first = file(&sand, "first.img", &bytes);
    let record = sand.backup("web01", &[&first]);
    let mut noise = vec![0; 64 << 20];
    Random::seeded(88).fill(&mut noise);
    let second = file(&sand, "second.img", &noise);
    let mut running = Running::start(sand.command(&["backup", &second, "--name", "web02"]));
    let mut rounds = 0;
    while !running.has_ended() || rounds == 0 {
        assert_same_bytes(&sand.cat(record.id()), &bytes, "beside a running backup");
        assert!(sand.list().len() <= 2);
        let _ = sand.done(&["check", "--read-data"]);
        rounds += 1;
    }
    let _ = running.wait(Duration::from_secs(60)).expect_code(0);
    sand.assert_sound();
}

/// The first write of a pack, which means that the source is being read.
fn at_pack(touch: &Touch) -> bool {
    touch.call == "write" && touch.path.to_string_lossy().contains("/repo/packs/")
}

#[test]
fn d9_a_source_that_shrinks_fails_the_backup_and_nothing_is_listed() {
    need_tracer!();
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let mut noise = vec![0; 160 << 20];
    Random::seeded(89).fill(&mut noise);
    let image = file(&sand, "disk.img", &noise);
    drop(noise);
    let mut shrink = || {
        std::fs::File::options()
            .write(true)
            .open(&image)
            .and_then(|file| file.set_len(100_000))
            .expect("shrink");
    };
    let traced =
        trace(sand.command(&["backup", &image, "--name", "web01"]), &at_pack, 1, Act::Call(&mut shrink));
    assert!(traced.reached(1), "no pack was written: {}", traced.output);
    assert_eq!(traced.output.code(), Some(1), "{}", traced.output);
    assert!(traced.output.stderr.contains("disk.img"), "names no source: {}", traced.output);
    assert_eq!(sand.list(), []);
    let record = sand.backup("web01", &[&image]);
    assert_eq!(record.item(0, "size"), 100_000);
    sand.assert_sound();
}

#[test]
fn d9_a_source_that_is_not_there_or_no_image_fails_with_its_name() {
    let sand = Sandbox::with_repo();
    let good = file(&sand, "good.img", b"bytes");
    for source in [sand.at("no-such.img"), "/dev/tty".to_string(), "/dev/null".to_string()] {
        let output = sand.run(&["backup", &good, &source, "--name", "web01"]);
        assert!(matches!(output.code(), Some(1 | 2 | 4)), "{source}: {output}");
        assert!(output.stderr.contains(&source), "{source} is not named: {output}");
    }
    assert_eq!(sand.list(), []);
}

#[test]
fn d9_a_read_error_fails_the_backup_with_its_offset() {
    if !is_root() || !has_program("dmsetup") || !std::path::Path::new("/dev/mapper/control").exists() {
        return skipped("no device mapper to make a bad sector with");
    }
    let sand = Sandbox::with_repo();
    let name = format!("afterimage-bad-{}", std::process::id());
    let table = "0 2048 zero\n2048 8 error\n2056 2048 zero\n";
    let made = Command::new("sh").args(["-c", &format!("printf '{table}' | dmsetup create {name}")]).status();
    if !made.is_ok_and(|status| status.success()) {
        return skipped("no device mapper to make a bad sector with");
    }
    let output = sand.run(&["backup", &format!("/dev/mapper/{name}"), "--name", "bad"]);
    let _ = Command::new("dmsetup").args(["remove", &name]).status();
    let _ = output.expect_code(1).saying("1048576");
    assert_eq!(sand.list(), []);
}

#[test]
fn d10_the_repository_itself_is_no_source() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(90, MIB));
    let _ = sand.backup("web01", &[&image]);
    for object in sand.objects() {
        let path = sand.repo().join(object);
        let _ = sand.ends(4, &["backup", path.to_str().expect("text"), "--name", "self"]);
        let link = sand.at("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        let _ = sand.ends(4, &["backup", &link, "--name", "self"]);
        std::fs::remove_file(&link).expect("drop");
    }
    assert_eq!(sand.list().len(), 1);
}

#[test]
fn a_block_device_is_a_source() {
    let sand = Sandbox::with_repo();
    let image = sand.at("disk.img");
    sparse(&image, 8 * MIB, &[(0, &mixed(91, MIB)), (5 * MIB, &mixed(92, MIB))]).expect("make an image");
    let Some(device) = Loop::over(&image, &["--read-only"]) else { return };
    let record = sand.done(&["--json", "backup", &device.0, "--name", "vol"]).json();
    assert_eq!(record["items"][0]["size"], 8 * MIB);
    let out = sand.at("out.img");
    let _ = sand.done(&["restore", "vol", &out]);
    assert_eq!(digest(&out), digest(&image));
}

#[test]
fn p7_a_wall_of_memory_is_never_met() {
    if !has_program("prlimit") {
        return skipped("no prlimit to bound memory with");
    }
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let image = sand.at("disk.img");
    let mut noise = vec![0; 96 << 20];
    Random::seeded(93).fill(&mut noise);
    sparse(&image, 2 << 40, &[(0, &noise), (1 << 40, &noise)]).expect("make an image");
    for args in [
        &["backup", &image, "--name", "big"][..],
        &["cat", "big", "--length", "200M"],
        &["check", "--read-data"],
    ] {
        let command = sand.command(args);
        let mut limited = Command::new("prlimit");
        // The budget of 256 MiB and 64 MiB more, plus a gigabyte for stacks and code that are mapped but never touched.
        let _ = limited.arg("--data=1409286144").arg(command.get_program()).args(args).env_clear();
        let _ = limited.stdin(std::process::Stdio::null()).current_dir(sand.root());
        for (key, value) in command.get_envs() {
            let _ = limited.env(key, value.unwrap_or_default());
        }
        let _ = run(limited, Duration::from_secs(60)).expect_code(0);
    }
}

#[test]
fn d8_an_interrupt_ends_a_backup_in_seconds_and_it_is_safe_to_run_again() {
    let sand = Sandbox::in_memory();
    let _ = sand.done(&["init"]);
    let mut noise = vec![0; 96 << 20];
    Random::seeded(94).fill(&mut noise);
    let image = file(&sand, "disk.img", &noise);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut running = Running::start(sand.command(&["backup", &image, "--name", "web01"]));
        until_it_hears(&mut running, signal);
        std::thread::sleep(Duration::from_millis(60));
        let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.pid() as i32), signal);
        let output = running.wait(Duration::from_secs(10));
        assert!(matches!(output.code(), Some(0 | 130)), "{output}");
    }
    let record = sand.backup("web01", &[&image]);
    assert_same_bytes(&sand.cat(record.id()), &noise, "after interrupts");
    sand.assert_sound();
}

/// Waits until a process has a handler of its own for a signal, or has ended.
fn until_it_hears(running: &mut Running, signal: i32) {
    let until = Instant::now() + Duration::from_secs(20);
    let path = format!("/proc/{}/status", running.pid());
    let caught = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
        u64::from_str_radix(line.trim(), 16).expect("a mask of signals")
    };
    while caught() & 1 << (signal - 1) == 0 && !running.has_ended() {
        assert!(Instant::now() < until, "it does not hear signal {signal}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
