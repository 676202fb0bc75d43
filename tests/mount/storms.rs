//! Load: many readers, at random and in order; while the mount is ended or killed under them; and the kernel's own forgetting.

use crate::common::images::{MIB, file, mixed};
use crate::common::random::Random;
use crate::common::{has_program, skipped, tool};
use crate::readers::{read_until_gone, storm};
use crate::world::{Mounted, eventually, within};
use std::fs;
use std::time::Duration;

const CHUNK: u64 = 128 << 10;

#[test]
fn f9_random_reads_by_64_threads_equal_the_source_and_open_each_chunk_once() {
    within(120, |sand| {
        let mut random = Random::new();
        let bytes = mixed(random.next(), 24 * MIB + 999);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let reads = storm(&mounted.image("web01"), &bytes, 64, Duration::from_secs(4), &mut random);
        let stats = mounted.stats();
        let opened = stats["image"]["chunks_opened"].as_u64().expect("a number");
        assert!(opened <= (bytes.len() as u64).div_ceil(CHUNK), "{opened} chunks for {reads} reads: {stats}");
        assert_eq!(stats["image"]["chunks_failed"], 0);
    });
}

#[test]
fn f9_with_memory_for_a_fraction_of_the_image_reads_by_64_threads_are_right_and_the_budget_holds() {
    within(120, |sand| {
        let mut random = Random::new();
        let bytes = mixed(random.next(), 48 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::with(sand, "mnt", &["--memory", "16M"]);
        let _reads = storm(&mounted.image("web01"), &bytes, 64, Duration::from_secs(4), &mut random);
        let kib = mounted.anonymous_kib();
        assert!(kib < (16 + 64) << 10, "{kib} KiB");
        let stats = mounted.stats();
        assert!(stats["cache"]["evictions"].as_u64() > Some(0), "{stats}");
        assert!(stats["cache"]["bytes"].as_u64() <= stats["cache"]["budget"].as_u64(), "{stats}");
    });
}

#[test]
fn fio_verifies_through_the_mount_what_it_laid_into_the_image() {
    within(120, |sand| {
        if !has_program("fio") {
            return skipped("no fio to verify with");
        }
        let image = sand.at("disk.img");
        let of = |path: &str, how: &[&str]| {
            let common = [
                "--name=v",
                &format!("--filename={path}"),
                "--size=32M",
                "--bs=16k",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--ioengine=psync",
            ];
            tool("fio", &[&common[..], how].concat())
        };
        let _ = of(&image, &["--rw=randwrite", "--do_verify=0", "--randseed=7"]);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        for how in ["read", "randread"] {
            let rw = format!("--rw={how}");
            let said = of(&mounted.image("web01"), &["--readonly", &rw, "--numjobs=4", "--thread"]);
            assert!(said.contains("err= 0") && !said.contains("bad magic"), "{said}");
        }
        let wrong = sand.at("wrong.img");
        let mut bytes = fs::read(&image).expect("read");
        bytes[20 << 20] ^= 1;
        fs::write(&wrong, bytes).expect("write");
        let mut broken = std::process::Command::new("fio");
        let _ =
            broken.args(["--name=v", &format!("--filename={wrong}"), "--size=32M", "--bs=16k", "--rw=read"]);
        let _ = broken.args(["--verify=crc32c", "--verify_fatal=1", "--ioengine=psync", "--readonly"]);
        let output = crate::common::run(broken, Duration::from_secs(30));
        assert_ne!(output.code(), Some(0), "fio would have noticed: {output}");
    });
}

#[test]
fn f2_ending_under_100_readers_takes_seconds_and_no_reader_gets_a_wrong_byte() {
    within(120, |sand| {
        let bytes = mixed(1, 4 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        for signal in [Some("TERM"), None] {
            let mounted = Mounted::new(sand);
            let path = mounted.image("web01");
            read_until_gone(&mounted, &path, &bytes, 100, || match signal {
                Some(signal) => mounted.kill(signal),
                None => drop(sand.done(&["umount", "mnt"])),
            });
            assert!(!mounted.is_there());
        }
    });
}

#[test]
fn f3_a_kill_under_100_readers_gives_them_errors_at_once_and_the_next_mount_takes_its_place() {
    within(120, |sand| {
        let bytes = mixed(2, 4 * MIB);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let first = Mounted::new(sand);
        let path = first.image("web01");
        read_until_gone(&first, &path, &bytes, 100, || first.kill("KILL"));
        let second = Mounted::new(sand);
        assert!(fs::read(second.image("web01")).expect("read") == bytes);
    });
}

#[test]
fn f1_what_the_kernel_forgets_is_forgotten_also_under_lookups() {
    within(120, |sand| {
        let image = file(sand, "disk.img", &mixed(3, 10_000));
        for second in 0..40 {
            let time = format!("2026-11-20T10:32:{second:02}Z");
            let _ = sand.backup_with("web01", &[&image], &["--time", &time]);
        }
        let mounted = Mounted::new(sand);
        let at = mounted.at.to_str().expect("text");
        let forget = || fs::write("/proc/sys/vm/drop_caches", "2").is_ok();
        if !forget() {
            return skipped("this kernel can't be made to forget");
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let _ = scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(tool("find", &["-L", at, "-name", "disk.img"]).lines().count(), 81);
                    }
                });
            }
            for _ in 0..10 {
                let _ = forget();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        eventually("the table is empty but for the root", || {
            forget() && mounted.stats()["mount"]["nodes"] == 0
        });
        assert_eq!(mounted.stats()["mount"]["forgotten_too_often"], 0);
        assert!(fs::metadata(mounted.image("web01")).is_ok());
    });
}
