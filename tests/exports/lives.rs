//! Live restores: usable at once, whole in the end, and never onto what they were not begun with.

use crate::common::images::{MIB, allocated, assert_same_bytes, digest, file, mixed, overwrite, sparse};
use crate::common::{Sandbox, is_root, skipped, tool};
use crate::servers::{Listening, ours, same_files};
use crate::shell;
use crate::torture::{live_facts, wait_until_done};

fn pins(sand: &Sandbox) -> usize {
    sand.objects().iter().filter(|object| object.starts_with("pins")).count()
}

fn words(sand: &Sandbox, backup: &str, target: &str) -> String {
    format!("x={backup},target={target},state={}", sand.at("x.state"))
}

fn serve(sand: &Sandbox, live: &str) -> Listening {
    ours(sand, &["--control", &sand.at("control"), "--live", live])
}

fn refused(sand: &Sandbox, live: &str, why: &str) {
    let listen = format!("unix:{}", sand.at("refused.sock"));
    let _ = sand.ends(4, &["serve", "--listen", &listen, "--live", live]).saying(why);
}

#[test]
fn d7_a_volume_is_used_while_it_is_restored_and_stands_alone_when_it_is_done() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let size = 48 * MIB + 512;
    let image = sand.at("disk.img");
    sparse(&image, size, &[(0, &mixed(61, 20 * MIB)), (40 * MIB, &mixed(62, 8 * MIB + 512))])
        .expect("sparse");
    let id = sand.backup("vm", &[&image]).id().to_owned();
    // No chunk can be had: whatever is copied has to wait, and the backup is pinned meanwhile.
    let (packs, away) = (sand.at("repo/packs"), sand.at("repo/away"));
    let target = sand.at("new.raw");
    let live = words(&sand, "vm", &target);
    std::fs::rename(&packs, &away).expect("rename");
    let server = serve(&sand, &live);
    let script = "h.pwrite(b'g' * 8192, 4096); h.zero(2 ** 20, 2 ** 23); h.flush()\nprint(h.pread(4, 4096), no(h.pread, 4096, 2 ** 20))";
    let said = shell::on(&server.uri("x", ""), script).expect_code(0);
    assert_eq!(said.text().trim(), "bytearray(b'gggg') EIO", "{said}");
    assert_eq!((live_facts(&sand)["state"].clone(), pins(&sand)), ("copying".into(), 1));
    let _ = server.stop().expect_code(0);
    std::fs::rename(&away, &packs).expect("rename");
    // Another backup of the name is none of its business; the same call goes on.
    overwrite(&image, 0, &[9; 4096]);
    let _ = sand.backup("vm", &[&image]);
    overwrite(&image, 0, &mixed(61, 20 * MIB)[..4096]);
    overwrite(&image, 4096, &[b'g'; 8192]);
    overwrite(&image, 8 * MIB, &vec![0; MIB as usize]);
    let server = serve(&sand, &live);
    wait_until_done(&sand);
    assert_eq!(pins(&sand), 0, "the backup is let go");
    let said = server.stop().expect_code(0);
    assert!(said.stderr.contains("stands alone"), "{said}");
    same_files(&target, &image);
    assert!(allocated(&target) <= 29 * MIB, "holes stay holes: {}", allocated(&target));
    // It needs no backup any more.
    std::fs::remove_dir_all(&packs).expect("remove");
    sand.lose(format!("backups/{id}"));
    let server = serve(&sand, &live);
    let said =
        shell::on(&server.uri("x", ""), "print(h.pread(4, 4096)); h.pwrite(b'late', 0)").expect_code(0);
    assert!(said.text().contains("gggg"), "{said}");
    let _ = server.stop().expect_code(0);
    assert_eq!(&std::fs::read(&target).expect("read")[..4], b"late");
}

#[test]
fn guests_that_write_while_it_is_copied_find_every_byte_of_theirs_and_of_the_backup() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let bytes = mixed(63, 96 * MIB);
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &bytes)]);
    let target = sand.at("new.raw");
    let server = serve(&sand, &words(&sand, "vm", &target));
    let script = format!(
        "import random\nwant = bytearray(open('{}', 'rb').read())\n\
        for n in range(3000):\n    at, size = random.randrange(len(want) - 70000), random.choice((1, 511, 4096, 5000, 65536))\n    \
        what = random.random()\n    \
        if what < 0.5:\n        data = random.randbytes(size); h.pwrite(data, at); want[at:at + size] = data\n    \
        elif what < 0.6:\n        h.zero(size, at); want[at:at + size] = bytes(size)\n    \
        else: assert h.pread(size, at) == want[at:at + size], at\n\
        h.flush()\nopen('{}', 'wb').write(want)",
        sand.at("disk.img"),
        sand.at("want")
    );
    let _ = shell::on(&server.uri("x", ""), &script).expect_code(0);
    wait_until_done(&sand);
    let _ = server.stop().expect_code(0);
    same_files(&target, &sand.at("want"));
    assert_same_bytes(&sand.cat("vm"), &bytes, "the backup");
}

#[test]
fn r3_neither_target_nor_state_of_a_live_restore_lies_inside_the_repository() {
    let sand = Sandbox::with_repo();
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(64, 4 * MIB))]);
    let inside = |name: &str| sand.repo().join(name).display().to_string();
    refused(&sand, &words(&sand, "vm", &inside("inside.raw")), "repository");
    refused(&sand, &format!("x=vm,target={},state={}", sand.at("n.raw"), inside("s")), "repository");
}

#[test]
fn r1_r3_r8_targets_and_states_that_do_not_fit_are_refused_untouched() {
    let sand = Sandbox::with_repo();
    let image = file(&sand, "disk.img", &mixed(64, 4 * MIB));
    let _ = sand.backup("vm", &[&image]);
    let (used, state) = (file(&sand, "used.raw", &mixed(65, 4 * MIB)), sand.at("x.state"));
    let before = digest(&used);
    refused(&sand, &words(&sand, "vm", &used), "holds data");
    assert!(!std::path::Path::new(&state).exists(), "no state is made for a target that is refused");
    let small = sand.at("small.raw");
    sparse(&small, 4 * MIB - 1, &[]).expect("sparse");
    refused(&sand, &words(&sand, "vm", &small), "small");
    refused(&sand, &format!("x=vm,target={},state={used}", sand.at("n2.raw")), "no block map");
    let target = sand.at("new.raw");
    let server = serve(&sand, &words(&sand, "vm", &target));
    wait_until_done(&sand);
    // Both are in use.
    refused(&sand, &words(&sand, "vm", &target), "");
    let _ = server.stop().expect_code(0);
    same_files(&target, &image);
    // The state is of that target and that backup, and of no other.
    refused(&sand, &words(&sand, "vm", &sand.at("gone.raw")), "gone");
    refused(&sand, &words(&sand, "vm", &used), "another target");
    let other = sand.backup("other", &[&file(&sand, "other.img", &mixed(66, 4 * MIB))]).id().to_owned();
    let server = serve(&sand, &words(&sand, "vm@latest", &target));
    let _ = server.stop().expect_code(0);
    std::fs::remove_file(&target).expect("remove");
    sparse(&target, 4 * MIB, &[]).expect("sparse");
    refused(&sand, &words(&sand, "vm", &target), "another target");
    std::fs::remove_file(&state).expect("remove");
    let server = serve(&sand, &words(&sand, &other, &target));
    wait_until_done(&sand);
    let _ = server.stop().expect_code(0);
    same_files(&target, &sand.at("other.img"));
    assert_eq!(digest(&used), before);
}

#[test]
fn r5_a_device_that_is_not_empty_is_refused_and_one_that_only_seems_so_is_made_zero_where_the_backup_is() {
    if !is_root() {
        return skipped("loop devices want root");
    }
    let sand = Sandbox::with_repo();
    let size = 64 * MIB;
    let image = sand.at("disk.img");
    sparse(&image, size, &[(MIB, &mixed(67, 8 * MIB))]).expect("sparse");
    let _ = sand.backup("vm", &[&image]);
    let backing = sand.at("backing");
    // Dirt where no sample is taken.
    sparse(&backing, size, &[(20 * MIB + 200_000, &[7; 9000])]).expect("sparse");
    let device = tool("losetup", &["--find", "--show", &backing]).trim().to_owned();
    let live = words(&sand, "vm", &device);
    let work = std::panic::catch_unwind(|| {
        overwrite(&device, 0, &[1; 4096]);
        refused(&sand, &live, "holds data");
        overwrite(&device, 0, &[0; 4096]);
        let server = serve(&sand, &live);
        wait_until_done(&sand);
        let _ = server.stop().expect_code(0);
        same_files(&device, &image);
    });
    let _ = tool("losetup", &["--detach", &device]);
    work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
