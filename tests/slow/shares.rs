//! `/usr` of this system, in and out again three ways: with everything that real files have, and nothing that differs.

use crate::common::faithful::assert_same_trees;
use crate::common::{Output, Sandbox, has_program, is_root, run, skipped};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn tool(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    let _ = command.args(args).stdin(Stdio::null());
    run(command, Duration::from_secs(1800))
}

#[test]
fn r12_usr_comes_back_by_the_mount_with_rsync_and_cp_and_by_restore() {
    if !is_root() || !has_program("rsync") || std::fs::File::open("/dev/fuse").is_err() {
        return skipped("not root, no rsync or no /dev/fuse");
    }
    let sand = Sandbox::with_repo();
    let backup = sand.command(&["backup", "/usr", "--name", "usr", "--json"]);
    let _ = run(backup, Duration::from_secs(1800)).expect_code(0);
    let (synced, copied, restored) = (sand.at("synced"), sand.at("copied"), sand.at("restored"));
    let restore = sand.command(&["restore", "usr", &restored, "--verify"]);
    let _ = run(restore, Duration::from_secs(1800)).expect_code(0);
    assert_same_trees(Path::new("/usr"), Path::new(&restored));
    std::fs::remove_dir_all(&restored).expect("remove it");

    let at = sand.at("mnt");
    std::fs::create_dir(&at).expect("make a mountpoint");
    let _ = sand.done(&["mount", &at, "--allow-other"]);
    let tree = format!("{at}/shares/usr/latest/tree");
    let done = std::panic::catch_unwind(|| {
        let from = format!("{tree}/");
        // Without `--sparse`, which makes holes of what was written as zeros; /usr has no sparse files of its own.
        let _ = tool("rsync", &["-aHAX", "--numeric-ids", &from, &synced]).expect_code(0);
        assert_same_trees(Path::new("/usr"), Path::new(&synced));
        let said = tool(
            "rsync",
            &["-naHAX", "--numeric-ids", "--itemize-changes", "--delete", &from, &format!("{synced}/")],
        );
        assert_eq!(said.text(), "", "{said}");
        std::fs::remove_dir_all(&synced).expect("remove it");
        let _ = tool("cp", &["-a", &tree, &copied]).expect_code(0);
        assert_same_trees(Path::new("/usr"), Path::new(&copied));
    });
    let _ = sand.run(&["umount", &at]);
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}
