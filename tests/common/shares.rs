//! Directories to back up, with what shares have in them.

use super::Sandbox;
use super::images::{MIB, file, mixed, sparse};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A directory with files of all sizes, links of both kinds, holes, a pipe, and names that are no text. Gives its path.
pub(crate) fn made_share(sand: &Sandbox, name: &str) -> String {
    let root = sand.at(name);
    let at = |below: &str| Path::new(&root).join(below);
    for folder in ["docs/old", "empty", "many"] {
        std::fs::create_dir_all(at(folder)).expect("make a directory");
    }
    for (below, len) in
        [("none", 0), ("docs/small", 100), ("docs/chunk", 5000), ("docs/old/large", 3 * MIB + 7)]
    {
        let _ = file(sand, &format!("{name}/{below}"), &mixed(len, len));
    }
    for number in 0..300 {
        let _ = file(sand, &format!("{name}/many/file-{number}"), &mixed(number, number * 11));
    }
    let odd = at("docs").join(OsStr::from_bytes(b"new\nline \xff"));
    std::fs::write(odd, b"odd").expect("write");
    symlink("../docs/small", at("many/link")).expect("make a link");
    std::fs::hard_link(at("docs/chunk"), at("many/other name")).expect("make a link");
    let noise = mixed(5, 50_000);
    sparse(at("holes").to_str().expect("text"), 30 * MIB, &[(7 * MIB, &noise)]).expect("make a file");
    let fifo = rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0);
    fifo.expect("make a fifo");
    std::fs::set_permissions(at("docs/small"), std::fs::Permissions::from_mode(0o4750)).expect("chmod");
    root
}
