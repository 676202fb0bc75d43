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
