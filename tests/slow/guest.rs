//! Guests: the kernel's own NBD client, attached by the usual tool and by our `attach`; and a Debian that boots from backups. The scripts that
//! anyone can run, run here.

use crate::common::{run, skipped};
use crate::disks::debian_disk;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn n16_the_kernels_client_attached_by_others_and_by_us_finds_what_it_wrote_and_what_was_backed_up() {
    works("guest", Duration::from_secs(420));
}

#[test]
fn n13_a_debian_boots_from_an_overlay_from_its_commit_and_from_a_live_restore_whose_server_is_killed() {
    let Some(disk) = debian_disk() else { return };
    drop(disk);
    works("boot", Duration::from_secs(2400));
}

/// Runs a script of ours with the built command to its last line.
pub(crate) fn works(script: &str, within: Duration) {
    let mut command = Command::new(format!("{}/scripts/{script}", env!("CARGO_MANIFEST_DIR")));
    let _ = command.arg(env!("CARGO_BIN_EXE_afterimage")).stdin(Stdio::null());
    let output = run(command, within).expect_code(0);
    match output.text().trim().strip_prefix("SKIPPED ") {
        Some(reason) => skipped(reason),
        None => assert!(output.text().contains("all of it worked"), "{output}"),
    }
}
