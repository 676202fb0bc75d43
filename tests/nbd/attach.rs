//! `attach` and `detach` as far as they come without the kernel's module; with it they are tried in a guest (`scripts/guest`).

use crate::common::{Sandbox, skipped};

/// Whether a device could be made here, which no test shall.
fn has_module() -> bool {
    let here = std::path::Path::new("/sys/module/nbd").exists();
    if here {
        skipped("this machine has the nbd module; what is said without it can't be seen");
    }
    here
}

#[test]
fn without_the_module_it_is_said_how_to_get_it_before_anything_is_asked() {
    if has_module() {
        return;
    }
    let sand = Sandbox::with_repo();
    for what in ["nbd://192.0.2.1/nobody-answers-there", "nbds://192.0.2.1/x", "no-such-backup"] {
        let _ = sand.ends(1, &["attach", what]).saying("modprobe nbd");
        let _ = sand.ends(1, &["attach", what, "--foreground"]).saying("modprobe nbd");
    }
    let _ = sand.ends(1, &["detach", "/dev/nbd0"]).saying("modprobe nbd");
}

#[test]
fn words_that_make_no_device_are_refused_whatever_the_kernel_has() {
    let sand = Sandbox::with_repo();
    for (words, why) in [
        (&["web01", "/dev/sda"][..], "no NBD device"),
        (&["web01", "/dev/nbd0p1"], "no NBD device"),
        (&["nbd:///x"], "host is missing"),
        (&["nbd://host/x?bitmap=b"], "bitmap is unknown here"),
        (&["web01", "--block-size", "8K"], "512, 1K, 2K or 4K"),
        (&["web01", "--block-size", "700"], "512, 1K, 2K or 4K"),
        (&["web01", "--connections", "0"], "connections"),
        (&["web01", "--connections", "17"], "connections"),
        (&["nbd://host/x", "--reconnect"], "/dev/nbdN"),
        (&["nbd://host/x", "/dev/nbd0", "--reconnect", "--foreground"], "--foreground"),
    ] {
        let call = [&["attach"], words].concat();
        let _ = sand.ends(2, &call).saying(why);
    }
    let _ = sand.ends(2, &["detach", "/dev/loop0"]).saying("no NBD device");
    let _ = sand.ends(2, &["detach"]);
}
