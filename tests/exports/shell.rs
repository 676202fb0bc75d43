//! libnbd's Python module, for requests that no other client makes.

use crate::common::{Output, run, skipped};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The system's, which has the module where that is installed.
const PYTHON: &str = "/usr/bin/python3";

/// Whether there is such a client here; says when not.
pub(crate) fn is_there() -> bool {
    let asked = Command::new(PYTHON).args(["-c", "import nbd"]).output();
    let there = asked.is_ok_and(|output| output.status.success());
    if !there {
        skipped("python3-libnbd is not installed");
    }
    there
}

/// Runs a script with `h` connected to a URI.
pub(crate) fn on(uri: &str, script: &str) -> Output {
    run(command(uri, script), Duration::from_secs(60))
}

/// The command for that.
pub(crate) fn command(uri: &str, script: &str) -> Command {
    let mut command = Command::new(PYTHON);
    let connect = "import nbd, sys, time, errno\nh = nbd.NBD()\nh.set_strict_mode(0)\nh.add_meta_context('base:allocation')\n\
        for c in sys.argv[2:]: h.add_meta_context(c)\nh.connect_uri(sys.argv[1])\n\
        def no(f, *args):\n    try:\n        f(*args)\n        return 'done'\n    except nbd.Error as e:\n        return e.errno\n";
    let _ = command.args(["-c", &format!("{connect}{script}"), uri]).stdin(Stdio::null());
    command
}
