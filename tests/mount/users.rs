//! As an ordinary user, through `fusermount3`; and who else gets in.

use crate::common::images::{file, mixed};
use crate::common::tool;
use crate::ordinary::{NOBODY, Nobodys, as_nobody, let_all_in};
use crate::world::{Mounted, within};

#[test]
fn f7_others_get_in_only_when_asked_for() {
    within(60, |sand| {
        let bytes = mixed(1, 100_000);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let_all_in(sand.root());
        let closed = Mounted::with(sand, "closed", &[]);
        let open = Mounted::with(sand, "open", &["--allow-other"]);
        let line = "cat \"$0\"/volumes/web01/latest/disk.img | wc -c";
        let refused = as_nobody(std::process::id(), "ls \"$0\"", &closed.at);
        assert!(refused.code() != Some(0) && refused.stderr.contains("Permission denied"), "{refused}");
        assert_eq!(as_nobody(std::process::id(), line, &open.at).text().trim(), "100000");
    });
}

#[test]
fn f7_attributes_that_are_roots_are_not_even_listed_to_others() {
    within(60, |sand| {
        let share = sand.at("share");
        std::fs::create_dir(&share).expect("make a directory");
        let file = format!("{share}/file");
        std::fs::write(&file, b"marked").expect("write");
        for name in ["trusted.mark", "user.mark"] {
            let _ = tool("setfattr", &["-n", name, "-v", "1", &file]);
        }
        let _ = sand.backup("home", &[&share]);
        let_all_in(sand.root());
        let open = Mounted::with(sand, "open", &["--allow-other"]);
        let line = "getfattr --absolute-names -m - \"$0\"/shares/home/latest/tree/file";
        let seen = as_nobody(std::process::id(), line, &open.at);
        let seen = seen.text();
        assert!(seen.contains("user.mark") && !seen.contains("trusted.mark"), "{seen}");
        let path = open.path("shares/home/latest/tree/file");
        let of_root = tool("getfattr", &["--absolute-names", "-m", "-", path.to_str().expect("text")]);
        assert!(of_root.contains("user.mark") && of_root.contains("trusted.mark"), "{of_root}");
    });
}

#[test]
fn f7_an_ordinary_user_mounts_reads_and_unmounts_through_fusermount3() {
    within(60, |sand| {
        let image = file(sand, "disk.img", &mixed(2, 200_000));
        let _ = sand.backup("web01", &[&image]);
        let Some(mounted) = Nobodys::new(sand) else { return };
        let read = mounted.line(
            "stat -c %u \"$0\"/volumes/web01/latest/disk.img && wc -c < \"$0\"/volumes/web01/latest/disk.img",
        );
        assert_eq!(read.expect_code(0).text(), format!("{NOBODY}\n200000\n"));
        mounted.unmount();
    });
}
