//! The kernel's own NBD client, attached by the usual tool and by our `attach`, in a guest: the script that anyone can run, run here.

use crate::common::{run, skipped};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn n16_the_kernels_client_attached_by_others_and_by_us_finds_what_it_wrote_and_what_was_backed_up() {
    let mut guest = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/guest"));
    let _ = guest.arg(env!("CARGO_BIN_EXE_afterimage")).stdin(Stdio::null());
    let output = run(guest, Duration::from_secs(420)).expect_code(0);
    match output.text().trim().strip_prefix("SKIPPED ") {
        Some(reason) => skipped(reason),
        None => assert!(output.text().contains("all of it worked"), "{output}"),
    }
}
