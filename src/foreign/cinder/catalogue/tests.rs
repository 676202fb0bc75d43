//! Chains, sizes, names, and what becomes of those who need something broken.

use super::*;
use crate::foreign::cinder::scan::{Found, Seen, Stamp};
use proptest::prelude::*;

const HOME: RepositoryId = RepositoryId([7; 16]);

fn facts(id: u8, parent: Option<u8>) -> Facts {
    let mut named = Seen::default();
    named.add(1);
    Facts {
        backup_id: [id; 16],
        volume_id: [99; 16],
        backup_name: None,
        backup_description: None,
        created_at: Timestamp::from_second(i64::from(id) * 1000).unwrap(),
        parent_id: parent.map(|parent| [parent; 16]),
        volume_meta: Some(r#"{"version": 2, "volume-base-metadata": {"display_name": "web/01"}}"#.to_owned()),
        prefix: "p".to_owned(),
        digest: [id; 32],
        named,
        end: 1 << 20,
        covered: 1 << 20,
        compressions: vec!["zlib".to_owned()],
        has_md5s: true,
        digests: Some(Ok((32, 32_768))),
    }
}

fn draft(facts: Facts) -> Arc<Draft> {
    let stamp = Some(Stamp { len: 1, age: 1 });
    let path = format!("{}/{}", facts.id(), facts.prefix);
    let data = facts.named;
    Arc::new(Draft {
        found: Found { path, metadata: stamp, hashes: stamp, data },
        says: Ok(facts),
        shut: None,
    })
}

fn catalogue(all: impl IntoIterator<Item = Facts>) -> Catalogue {
    Catalogue::new(all.into_iter().map(draft).collect(), HOME)
}

fn why(catalogue: &Catalogue, id: u8) -> String {
    let known = catalogue.get(BackupId([id; 16])).unwrap();
    assert_eq!(known.image.is_none(), known.record.items.is_empty());
    known.record.unread.join("; ")
}

#[test]
fn what_is_broken_breaks_only_what_needs_it() {
    let all = catalogue([
        facts(1, None),
        facts(2, Some(1)),
        facts(3, Some(50)),
        facts(4, Some(3)),
        facts(5, Some(6)),
        facts(6, Some(7)),
        facts(7, Some(6)),
        facts(8, Some(8)),
        Facts { digests: Some(Err("it is torn".into())), ..facts(9, None) },
        Facts { digests: None, has_md5s: false, ..facts(10, None) },
        Facts { digests: None, ..facts(11, None) },
        Facts { end: 2 << 20, ..facts(12, None) },
    ]);
    for whole in [1, 2, 11] {
        assert_eq!(why(&all, whole), "", "{whole}");
    }
    for (id, words) in [
        (3, "its parent 32323232-3232-3232-3232-323232323232 is not here"),
        (4, "its parent 03030303-0303-0303-0303-030303030303 can't be used: its parent"),
        (5, "its parent 06060606-0606-0606-0606-060606060606 can't be used: its parents lead back"),
        (6, "its parents lead back to itself"),
        (7, "its parents lead back to itself"),
        (8, "its parents lead back to itself"),
        (9, "it is torn"),
        (10, "nothing tells what its bytes should be"),
        (12, "behind its last digest"),
    ] {
        assert!(why(&all, id).contains(words), "{id}: {}", why(&all, id));
    }
}

#[test]
fn a_chain_of_any_length_ends_somewhere() {
    let long = |length: u32| {
        let id = |number: u32| [&number.to_be_bytes()[..], &[0; 12]].concat().try_into().unwrap();
        let one = |number| Facts {
            backup_id: id(number),
            parent_id: number.checked_sub(1).map(id),
            ..facts(0, None)
        };
        let all = catalogue((0..length).map(one));
        all.get(BackupId(id(length - 1))).unwrap().image.is_some()
    };
    assert!(long(LAYERS_MAX as u32));
    assert!(!long(LAYERS_MAX as u32 + 1));
}

#[test]
fn backups_are_called_by_their_volumes_newest_name_and_told_apart() {
    let named = |id: u8, volume: u8, name: &str| Facts {
        volume_id: [volume; 16],
        volume_meta: Some(
            json!({ "version": 2, "volume-base-metadata": { "display_name": name } }).to_string(),
        ),
        ..facts(id, None)
    };
    let all = catalogue([
        named(1, 1, "old"),
        named(2, 1, "new"),
        named(3, 2, "data"),
        named(4, 3, "data"),
        Facts { volume_id: [4; 16], volume_meta: None, ..facts(5, None) },
        named(6, 5, "a/b@c,d=e%\n"),
        named(7, 6, "deadbeef"),
        named(8, 7, &"n".repeat(255)),
    ]);
    let names: Vec<&str> = all.backups.iter().map(|known| known.record.name.as_str()).collect();
    assert_eq!(names[..4], ["new", "new", "data.02020202", "data.03030303"]);
    assert_eq!(
        names[4..7],
        ["04040404-0404-0404-0404-040404040404", "a%2Fb%40c%2Cd%3De%25%0A", "%64eadbeef"]
    );
    assert!(names.iter().all(|name| is_name(name)) && names[7].starts_with("nnn"));
}

#[test]
fn the_same_backup_twice_is_one_image_and_a_word_about_the_other() {
    let other = draft(Facts { prefix: "q".into(), ..facts(1, None) });
    let all = Catalogue::new(vec![draft(facts(1, None)), other, draft(facts(2, Some(1)))], HOME);
    assert_eq!((why(&all, 1).as_str(), why(&all, 2).as_str()), ("", ""));
    assert_eq!(all.backups.iter().filter(|known| known.image.is_none()).count(), 1);
}

#[test]
fn what_was_not_finished_is_listed_by_what_its_names_tell() {
    let id = "12d0b1fc-9f7f-523d-a916-e42336c52cdc";
    let path = format!("c/volume_bb2ebea6-c926-5134-be54-6bc123212ee7_20260105050000_backup_{id}");
    let found = Found { path, ..Found::default() };
    let all = Catalogue::new(vec![Arc::new(Draft { found, says: Err("no index".into()), shut: None })], HOME);
    let record = &all.backups[0].record;
    assert_eq!(
        (record.id, record.name.as_str()),
        (BackupId(Uuid::parse(id).unwrap().0), "bb2ebea6-c926-5134-be54-6bc123212ee7")
    );
    assert_eq!(record.time.to_string(), "2026-01-05T05:00:00Z");
    assert!(record.items.is_empty() && record.unread[0].contains("not finished"));
}

#[test]
fn missing_objects_are_said_and_the_rest_is_still_an_image() {
    let mut known = draft(facts(1, None));
    Arc::get_mut(&mut known).unwrap().found.data = Seen::default();
    let all = Catalogue::new(vec![known], HOME);
    assert!(why(&all, 1).contains("1 of the 1 objects"));
    assert!(all.backups[0].image.is_some());
}

proptest! {
    #[test]
    fn any_name_becomes_one_of_ours_and_two_stay_two(a in "\\PC{0,300}|[0-9a-f]{0,40}", b in "\\PC{0,20}|[0-9a-f%]{0,40}") {
        prop_assert!(is_name(&escaped(&a)), "{}", escaped(&a));
        prop_assert_eq!(a == b, escaped(&a) == escaped(&b));
    }
}
