//! What people do with a repository, done to one in a service.

use crate::common::images::{MIB, file, mixed, overwrite};
use crate::{BOTH, Language, house};

#[test]
fn a_backup_in_a_service_is_made_listed_read_checked_and_restored() {
    for language in BOTH {
        let (cloud, sand) = house(language);
        let source = file(&sand, "disk", &mixed(1, 6 * MIB));
        let first = sand.backup("web01", &[&source]);
        overwrite(&source, 3 * MIB, b"changed since");
        let second = sand.backup("web01", &[&source]);
        assert!(second.stat("bytes_new") < 300_000, "{second:?}");
        assert_eq!(sand.list().len(), 2);
        let now = std::fs::read(&source).expect("read the source");
        assert!(sand.cat("web01") == now, "{language:?}: other bytes came back");
        assert_eq!(sand.cat(first.id()).len(), now.len());
        sand.assert_sound();
        let target = sand.at("target");
        let _ = sand.done(&["restore", "web01", &target, "--verify"]);
        assert!(std::fs::read(&target).expect("read the target") == now);
        let other = sand.other_host();
        assert_eq!(other.list().len(), 2, "another machine sees them");
        assert!(cloud.keys().iter().all(|key| key.starts_with("backups/")), "{:?}", cloud.keys());
    }
}

#[test]
fn a_second_init_is_refused_and_so_is_one_where_other_things_lie() {
    for language in BOTH {
        let (_cloud, sand) = house(language);
        let _ = sand.ends(4, &["init"]).saying("is a repository already");
        let above = language.place("");
        let _ = sand.ends(4, &["-r", &above, "init"]).saying("holds other objects");
    }
}

#[test]
fn b10_credentials_that_may_not_delete_are_enough() {
    for language in BOTH {
        let (cloud, sand) = house(language);
        cloud.refuse_deletes();
        let source = file(&sand, "disk", &mixed(2, 2 * MIB));
        let record = sand.backup("web01", &[&source]);
        assert!(sand.cat(record.id()) == std::fs::read(&source).expect("read the source"));
        sand.assert_sound();
        let deletes = cloud.take_log().into_iter().filter(|line| line.starts_with("DELETE"));
        assert_eq!(deletes.collect::<Vec<_>>(), Vec::<String>::new());
    }
}

#[test]
fn a_doctor_tells_what_a_store_keeps_to() {
    for language in BOTH {
        let (cloud, sand) = house(language);
        let before = cloud.keys();
        let report = sand.done(&["--json", "doctor", "--store"]).json();
        let store = report["store"].as_array().expect("what was found of the store");
        assert!(store.len() > 14 && store.iter().all(|one| one["state"] != "WRONG"), "{report}");
        assert!(report["machine"].as_array().is_some_and(|found| found.len() > 5), "{report}");
        assert_eq!(cloud.keys(), before, "nothing is left");
        cloud.refuse_deletes();
        let text = sand.done(&["doctor", "--store"]);
        assert!(
            text.text().contains("may be left under doctor-") || text.text().contains("only key remove"),
            "{text}"
        );
    }
}

#[test]
fn a_doctor_leaves_nothing_in_a_directory() {
    let sand = crate::common::Sandbox::with_repo();
    let entries = || {
        let listed = std::fs::read_dir(sand.repo()).expect("read the repository");
        let mut names: Vec<_> = listed.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = entries();
    let _ = sand.done(&["doctor", "--store"]);
    assert_eq!(entries(), before);
}

#[test]
fn a_doctor_without_a_repository_looks_at_the_machine() {
    let sand = crate::common::Sandbox::new();
    let mut command = sand.command(&["doctor"]);
    let _ = command.env_remove("AFTERIMAGE_REPO");
    let output = crate::common::run(command, std::time::Duration::from_secs(60)).expect_code(0);
    assert!(output.text().contains("FUSE") && output.text().contains("cores"), "{output}");
}

#[test]
fn a_password_protects_a_repository_in_a_service() {
    let (_cloud, sand) = house(Language::S3);
    let place = Language::S3.place("sealed");
    let password = file(&sand, "password", b"correct horse\n");
    let _ = sand.done(&["-r", &place, "--password-file", &password, "init"]);
    let source = file(&sand, "disk", &mixed(3, MIB));
    let _ = sand.done(&["-r", &place, "--password-file", &password, "backup", &source, "--name", "a"]);
    let wrong = file(&sand, "wrong", b"battery staple\n");
    let _ = sand.ends(1, &["-r", &place, "--password-file", &wrong, "list"]).saying("password");
}
