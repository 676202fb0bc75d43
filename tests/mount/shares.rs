//! Shares in the mount: what ordinary tools bring back of them is what was backed up, to the last attribute.

use crate::common::faithful::{assert_same_trees, made_odd};
use crate::common::random::Random;
use crate::common::{has_program, is_root, run, skipped};
use crate::world::{Mounted, eventually, run_tool, within};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

#[test]
fn r12_f8_rsync_and_cp_bring_everything_back() {
    within(120, |sand| {
        if !has_program("setfacl") || !has_program("rsync") {
            return skipped("no setfacl or rsync");
        }
        let share = sand.root().join("share");
        made_odd(&share);
        let _ = sand.backup("share", &[share.to_str().expect("text")]);
        // Only with other users let in does the kernel ask for access lists as such.
        for (number, flags) in [&[][..], &["--allow-other"]].iter().enumerate() {
            let mounted = Mounted::with(sand, &format!("mnt{number}"), flags);
            let tree = mounted.path("shares/share/latest/tree");
            assert_same_trees(&share, &tree);
            let from = format!("{}/", tree.display());
            let (synced, copied) = (sand.at(&format!("synced{number}")), sand.at(&format!("copied{number}")));
            let _ = run_tool("rsync", &["-aHAX", "--numeric-ids", "--sparse", &from, &synced]).expect_code(0);
            assert_same_trees(&share, Path::new(&synced));
            let said = run_tool(
                "rsync",
                &["-naHAX", "--numeric-ids", "--itemize-changes", "--checksum", &from, &format!("{synced}/")],
            );
            assert_eq!(said.text(), "", "{said}");
            let said = run_tool(
                "rsync",
                &[
                    "-naHAX",
                    "--numeric-ids",
                    "--itemize-changes",
                    "--delete",
                    &from,
                    &format!("{}/", share.display()),
                ],
            );
            assert_eq!(said.text(), "", "{said}");
            let _ = run_tool("cp", &["-a", "--sparse=always", tree.to_str().expect("text"), &copied])
                .expect_code(0);
            assert_same_trees(&share, Path::new(&copied));
        }
    });
}

#[test]
fn f8_a_directory_of_a_hundred_thousand_entries_is_listed_whole_and_looked_up_at_once() {
    within(180, |sand| {
        let share = sand.root().join("share");
        fs::create_dir(&share).expect("make a directory");
        for number in 0..100_000 {
            let _made = fs::File::create(share.join(format!("a file with the number {number:06}")))
                .expect("make a file");
        }
        // So many files take a while without optimisation; the whole test has its bound.
        let backup = sand.command(&["backup", "--name", "share", share.to_str().expect("text")]);
        let _ = run(backup, Duration::from_secs(180)).expect_code(0);
        let mounted = Mounted::new(sand);
        let tree = mounted.path("shares/share/latest/tree");
        let one = tree.join("a file with the number 077777");
        assert_eq!(fs::metadata(&one).expect("it is there").len(), 0);
        let mut names: Vec<_> =
            fs::read_dir(&tree).expect("list").map(|entry| entry.expect("list").file_name()).collect();
        assert_eq!(names.len(), 100_000);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 100_000, "no name came twice");
        let memory = mounted.anonymous_kib();
        assert!(memory < 320 * 1024, "{memory} KiB");
    });
}

#[test]
fn f8_who_reads_all_files_finds_those_of_a_directory_fetched_that_he_has_only_listed() {
    within(60, |sand| {
        let share = sand.root().join("share");
        for (folder, files) in [("first", 60u64), ("then", 5)] {
            fs::create_dir_all(share.join(folder)).expect("make a directory");
            for number in 0..files {
                let mut bytes = vec![0; 30_000];
                Random::seeded(files * 100 + number).fill(&mut bytes);
                fs::write(share.join(folder).join(format!("{number:02}")), bytes).expect("make a file");
            }
        }
        let _ = sand.backup("share", &[share.to_str().expect("text")]);
        let mounted = Mounted::new(sand);
        let opened = || mounted.stats()["image"]["chunks_opened"].as_u64().expect("a number");
        let list = |folder: &str| {
            let tree = mounted.path("shares/share/latest/tree").join(folder);
            let mut files: Vec<_> =
                fs::read_dir(tree).expect("list").map(|entry| entry.expect("list").path()).collect();
            files.sort();
            files
        };
        let first = list("first");
        assert_eq!(opened(), 0, "who only lists has nothing fetched");
        for file in first {
            assert_eq!(fs::read(file).expect("read").len(), 30_000);
        }
        let before = opened();
        assert_eq!(list("then").len(), 5);
        eventually("they are fetched", || opened() == before + 5);
    });
}

#[test]
fn inode_numbers_are_shared_by_links_and_the_same_after_a_remount() {
    within(60, |sand| {
        let share = sand.root().join("share");
        fs::create_dir_all(share.join("dir")).expect("make a directory");
        fs::write(share.join("one"), "x").expect("write");
        fs::write(share.join("alone"), "x").expect("write");
        fs::hard_link(share.join("one"), share.join("dir/two")).expect("link");
        let _ = sand.backup("share", &[share.to_str().expect("text")]);
        let inodes = || {
            let mounted = Mounted::new(sand);
            let number = |below: &str| {
                let stat = fs::symlink_metadata(mounted.path(&format!("shares/share/latest/tree{below}")));
                stat.map(|stat| (stat.ino(), stat.nlink())).expect("it is there")
            };
            ["", "/dir", "/one", "/dir/two", "/alone"].map(number)
        };
        let first = inodes();
        assert_eq!(first[2], first[3]);
        assert_eq!((first[2].1, first[4].1), (2, 1));
        assert_ne!(first[2].0, first[4].0);
        assert_eq!(inodes(), first);
    });
}

#[test]
fn f7_a_user_sees_of_a_share_what_its_modes_let_him() {
    within(60, |sand| {
        let share = sand.root().join("share");
        fs::create_dir_all(&share).expect("make a directory");
        fs::write(share.join("secret"), "x").expect("write");
        fs::write(share.join("public"), "x").expect("write");
        let _ = run_tool("chmod", &["600", share.join("secret").to_str().expect("text")]);
        let _ = run_tool("chmod", &["644", share.join("public").to_str().expect("text")]);
        let _ = run_tool("chmod", &["755", share.to_str().expect("text"), sand.at("").as_str()]);
        let _ = sand.backup("share", &[share.to_str().expect("text")]);
        let mounted = Mounted::with(sand, "mnt", &["--allow-other"]);
        let tree = mounted.path("shares/share/latest/tree");
        let read = |name: &str| {
            let path = tree.join(name);
            let path = path.to_str().expect("text").to_owned();
            let mut command = std::process::Command::new("setpriv");
            let _ = command.args(["--reuid=12345", "--regid=12345", "--clear-groups", "cat", &path]);
            command.output().expect("setpriv").status.success()
        };
        assert!(read("public"), "everybody may read it");
        assert!(!read("secret"), "nobody else may");
        let owner = fs::metadata(tree.join("secret")).expect("stat").uid();
        assert_eq!(owner, rustix::process::geteuid().as_raw());
    });
}

#[test]
fn sets_show_images_and_trees_side_by_side() {
    within(60, |sand| {
        let share = sand.root().join("share");
        fs::create_dir_all(&share).expect("make a directory");
        fs::write(share.join("file"), "in a share").expect("write");
        let disk = sand.at("disk");
        fs::write(&disk, vec![7; 100_000]).expect("write");
        let _ = sand.backup("both", &[&format!("disk={disk}"), &format!("files={}", share.display())]);
        let mounted = Mounted::new(sand);
        let at = mounted.path("sets/both/latest");
        assert_eq!(fs::read_to_string(at.join("files/file")).expect("read"), "in a share");
        assert_eq!(fs::read(at.join("disk")).expect("read"), vec![7; 100_000]);
        assert!(fs::read_to_string(at.join("backup.json")).expect("read").contains("\"set\""));
        assert!(is_root() && !at.join("nothing").exists());
        let said = run_tool("ls", &["-la", &format!("{}/", at.display())]);
        assert!(said.text().contains("disk") && said.text().contains("files"), "{said}");
    });
}
