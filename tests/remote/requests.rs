//! What reading from a service costs, in requests on the wire.

use crate::common::images::{MIB, file, mixed};
use crate::{BOTH, house};

#[test]
fn opening_a_backup_by_its_id_takes_four_requests_and_reading_4_kib_of_it_one_for_the_map_and_one_for_the_chunk()
 {
    for language in BOTH {
        let (cloud, sand) = house(language);
        let source = file(&sand, "disk", &mixed(4, 4 * MIB));
        let record = sand.backup("web01", &[&source]);
        for _ in 0..5 {
            let _ = sand.backup("web01", &[&source]);
        }
        drop(cloud.take_log());
        let _ = sand.done(&["cat", record.id(), "--offset", "1048576", "--length", "4096"]);
        let log = cloud.take_log();
        let with = |part: &str| log.iter().filter(|line| line.contains(part)).count();
        assert_eq!(with("/packs/"), 2, "{language:?}: {log:#?}");
        assert_eq!(log.len() - with("/packs/") - with("/auth/"), 4, "{language:?}: {log:#?}");
    }
}

#[test]
fn a_check_of_an_imported_backup_asks_once_for_a_pack_that_is_gone_and_not_for_each_of_its_chunks() {
    for language in BOTH {
        let (cloud, sand) = house(language);
        let _ = sand.backup("web01", &[&file(&sand, "disk", &mixed(5, 8 * MIB))]);
        let line = sand.done(&["record", "export", "web01"]).text().to_owned();
        let (line, other) = (file(&sand, "line", line.as_bytes()), sand.at("other"));
        let _ = sand.done(&["-r", &other, "init"]);
        let _ = sand.done(&["-r", &other, "record", "import", &line]);
        cloud.lose_largest("/packs/");
        drop(cloud.take_log());
        let report = sand.run(&["-r", &other, "--json", "check"]).expect_code(3).json();
        let lost: Option<u64> =
            report["damaged"].as_array().map(|all| all.iter().filter_map(|one| one["length"].as_u64()).sum());
        assert!(lost > Some(6 * MIB), "{language:?}: {report}");
        let log = cloud.take_log();
        assert!(log.len() < 20, "{language:?}: {} requests: {log:#?}", log.len());
    }
}
