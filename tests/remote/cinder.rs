//! What Cinder wrote, in a service: listed and read like what lies in a directory, and never written to.

use crate::cloud::{BUCKET, Cloud};
use crate::common::images::{MIB, file, mixed, overwrite};
use crate::common::{Sandbox, files_under};
use crate::{BOTH, Language};

/// A sandbox whose repository is a container with two backups of one volume, beside one of ours that they came from; and the bytes of the second.
fn container(language: Language) -> (std::sync::Arc<Cloud>, Sandbox, Vec<u8>) {
    let ours = Sandbox::with_repo();
    let disk = file(&ours, "disk", &mixed(11, 3 * MIB));
    let _ = ours.backup_with("web01", &[&disk], &["--time", "2026-11-01T00:00:00Z"]);
    overwrite(&disk, MIB, b"changed since");
    let _ = ours.backup_with("web01", &[&disk], &["--time", "2026-11-02T00:00:00Z"]);
    let dir = ours.root().join("container");
    std::fs::create_dir(&dir).expect("make a directory");
    let _ = ours.done(&["export", "--to", &format!("cinder:{}", ours.at("container")), "web01", "--chain"]);
    let cloud = Cloud::start();
    for path in files_under(&dir) {
        let key = path.strip_prefix(&dir).unwrap_or(&path).to_str().expect("names are text").to_owned();
        cloud.put(&key, std::fs::read(dir.join(&path)).expect("read an object"));
    }
    let scheme = if language == Language::S3 { "s3" } else { "swift" };
    let sand = Sandbox::of_service(&format!("cinder:{scheme}://{BUCKET}"), &language.env(&cloud));
    (cloud, sand, std::fs::read(&disk).expect("read the source"))
}

#[test]
fn what_cinder_wrote_to_a_service_is_listed_and_read_and_nothing_is_written_there() {
    for language in BOTH {
        let (cloud, sand, bytes) = container(language);
        let before = cloud.keys();
        assert_eq!(sand.list().len(), 2, "{language:?}");
        let newest = sand.list().pop().expect("two backups");
        assert!(sand.cat(newest.id()) == bytes, "{language:?}: other bytes came back");
        let _ = sand.ends(4, &["init"]).saying("only read from here");
        let _ = sand.ends(4, &["sync", &sand.at("other")]).saying("only read from here");
        assert_eq!(cloud.keys(), before);
        let writes =
            cloud.take_log().into_iter().filter(|line| !line.starts_with("GET") && !line.starts_with("HEAD"));
        let writes: Vec<_> = writes.filter(|line| !line.contains("tokens")).collect();
        assert_eq!(writes, Vec::<String>::new(), "{language:?}");
    }
}
