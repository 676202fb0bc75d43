//! What this machine has for mounting, serving and attaching. Looks at files and limits only; runs and changes nothing.

use super::Finding;
use crate::cli::{locations, units};
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};

/// Fewer open files than this are too few for a busy server.
const FILES_WANTED: u64 = 1024;
/// Linux from here on lets root's mounts read from files without asking us.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![fuse(), helper(), kernel(), nbd()];
    findings.extend(PROGRAMS.iter().map(|(program, package, what)| match in_path(program) {
        Some(path) => Finding::well(program, path.display().to_string()),
        None => Finding::lacking(program, "not installed", &format!("{what}: apt-get install {package}")),
    }));
    findings.extend([files(), cores(), cache()]);
    findings
}

/// Programs of others that go well with backups, and what they are for. None of them is needed.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("qemu-img", "qemu-utils", "converts and compares what is served"),
    ("qemu-nbd", "qemu-utils", "serves other formats of images, as sources of backups"),
    ("nbdcopy", "libnbd-bin", "copies from and to what is served"),
    ("nbd-client", "nbd-client", "another client of the kernel's"),
];

fn fuse() -> Finding {
    let advice = "without it nothing can be mounted: modprobe fuse; in a container, pass /dev/fuse in";
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::well("FUSE", "/dev/fuse"),
        Err(error) => Finding::lacking("FUSE", format!("/dev/fuse: {error}"), advice),
    }
}

fn helper() -> Finding {
    let is_root = rustix::process::geteuid().is_root();
    match in_path("fusermount3") {
        Some(path) => Finding::well("fusermount3", path.display().to_string()),
        None if is_root => Finding::well("fusermount3", "not installed, and root needs none"),
        None => Finding::lacking(
            "fusermount3",
            "not installed",
            "without it only root can mount: apt-get install fuse3",
        ),
    }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= PASSTHROUGH_SINCE {
        true => Finding::well("kernel", release),
        false => Finding::lacking("kernel", release, "mount --passthrough wants Linux 6.9 or newer"),
    }
}

fn nbd() -> Finding {
    let is_there = Path::new("/sys/module/nbd").is_dir() || Path::new("/dev/nbd0").exists();
    match is_there {
        true => Finding::well("kernel's NBD client", "there"),
        false => Finding::lacking("kernel's NBD client", "not loaded", "attach wants it: modprobe nbd"),
    }
}

fn files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let said = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let found = format!("{} open at once, {} if asked for", said(limit.current), said(limit.maximum));
    match limit.current {
        Some(current) if current < FILES_WANTED => {
            Finding::lacking("open files", found, "many clients of a server may need more: ulimit -n 4096")
        }
        _ => Finding::well("open files", found),
    }
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Finding::well("cores", cores.to_string())
}

/// Where this machine keeps its copies of small objects, and what it fetched from afar.
fn cache() -> Finding {
    let folder = locations::cache();
    let there = folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let room = rustix::fs::statvfs(there).map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize));
    let may_write = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    let found = folder.display().to_string();
    match room {
        Ok(room) if may_write => Finding::well("cache", format!("{found}, {} free", units::size(room))),
        _ => Finding::lacking(
            "cache",
            format!("{found} can't be written"),
            "all works without it, but slower: set XDG_CACHE_HOME to a folder that can be",
        ),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|path| path.is_file())
}
