//! Remote stores against a small cloud of our own, in both of its languages: what they promise, and the cases B1 to B10 on a real wire.

#[path = "../../../tests/common/cloud/mod.rs"]
#[allow(dead_code)] // made for several tests
mod cloud;

use super::Remote;
use super::env::Env;
use super::place::{Place, Scheme};
use crate::error::{Error, Kind, Result};
use crate::store::conformance::conformance;
use crate::store::retry::{Patience, Retry};
use crate::store::{AnyStore, Body, Deadline, Limit, Name, Store, list_all};
use cloud::{BUCKET, Cloud, Harm};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BOTH: [Scheme; 2] = [Scheme::S3, Scheme::Swift];
const ALWAYS: std::ops::Range<u64> = 1..u64::MAX;
const SECRETS: [&str; 4] = ["sesame-s3", "secret", "t0ken", "hush"];

/// A cloud and a store in it: bare, and with the layers that stores wear, but for pauses that a test has time for.
struct House {
    cloud: Arc<Cloud>,
    bare: Arc<Remote>,
    store: AnyStore,
}

impl House {
    fn of(scheme: Scheme) -> House {
        House::with(scheme, |_| {})
    }

    fn with(scheme: Scheme, change: impl FnOnce(&mut Vec<(String, String)>)) -> House {
        let cloud = Cloud::start();
        let mut variables = match scheme {
            Scheme::S3 => cloud.s3_env(),
            Scheme::Swift => cloud.swift_env(),
        };
        change(&mut variables);
        let place = match scheme {
            Scheme::S3 => format!("s3://{BUCKET}/some/prefix"),
            Scheme::Swift => format!("swift://{BUCKET}/some/prefix"),
        };
        let place = Place::parse(scheme, &place).unwrap();
        let bare = Arc::new(Remote::open(place, &Env::of(variables)).unwrap());
        House { store: layered(bare.clone()), cloud, bare }
    }

    async fn put(&self, text: &str, len: usize) -> (Name, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
        let name = name(text);
        self.bare.put(&name, bytes.clone().into()).await.unwrap();
        (name, bytes)
    }
}

fn layered(bare: AnyStore) -> AnyStore {
    let deadline = Arc::new(Deadline::new(bare, Duration::from_secs(2), 1 << 20));
    let limit = Arc::new(Limit::new(deadline, 4, None));
    let patience = Patience { first_pause: Duration::from_millis(1), attempts_max: 4, ..Patience::NETWORK };
    Arc::new(Retry::new(limit, patience))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn kind<T>(result: Result<T>) -> Result<(), Kind> {
    result.map(drop).map_err(|error| error.kind())
}

/// No secret is in what an error says in any way.
fn keeps_secrets(error: &Error) {
    for text in [error.to_string(), format!("{error:?}"), format!("{:?}", std::error::Error::source(error))] {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_a_store() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.cloud.page_len(if scheme == Scheme::S3 { 3 } else { 1000 });
        for store in [&house.store, &(house.bare.clone() as AnyStore)] {
            let verdicts = conformance(&**store, "conformance-1").await;
            let broken: Vec<_> = verdicts.iter().filter(|verdict| verdict.outcome.is_err()).collect();
            assert!(broken.is_empty(), "{}: {broken:#?}", store.place());
        }
        assert_eq!(house.cloud.keys(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_request() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, bytes) = house.put("packs/a", 10_000).await;
        drop(house.cloud.take_log());
        assert_eq!(house.store.get(&name, 5000..9096).await.unwrap(), bytes[5000..9096]);
        assert_eq!(house.store.get_whole(&name, 10_000).await.unwrap(), bytes);
        assert_eq!(house.store.stat(&name).await.unwrap().len, 10_000);
        let log = house.cloud.take_log();
        assert_eq!(log.len(), 3, "{log:?}");
        assert!(log[0].ends_with("some/prefix/packs/a bytes=5000-9095"), "{log:?}");
        house.store.put(&self::name("packs/b"), bytes.into()).await.unwrap();
        house.store.delete(&name).await.unwrap();
        assert_eq!(house.cloud.take_log().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_asks_for_each_page_once_and_for_its_end_at_most_once() {
    // A page of 150 names might be cut there; one of 50 is the end.
    for (scheme, names, requests) in
        [(Scheme::S3, 450, 3), (Scheme::Swift, 450, 3), (Scheme::Swift, 550, 4), (Scheme::Swift, 50, 1)]
    {
        let house = House::of(scheme);
        house.cloud.page_len(200);
        for number in 0..names {
            house.cloud.put(&format!("some/prefix/backups/{number:03}"), vec![1]);
        }
        drop(house.cloud.take_log());
        let listed = list_all(&*house.store, "backups/").await.unwrap();
        let log = house.cloud.take_log().into_iter().filter(|line| !line.contains("/auth/"));
        assert_eq!((listed.len(), log.count()), (names, requests), "{scheme:?}");
        let again = list_all(&*house.store, "backups/").await.unwrap();
        assert_eq!((again, house.cloud.take_log().len()), (listed, requests), "{scheme:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_what_fails_for_a_while_is_done_in_the_end() {
    for scheme in BOTH {
        for harm in [Harm::Reset, Harm::Status(500, None), Harm::Status(503, None), Harm::ReplyLost] {
            let house = House::of(scheme);
            let (name, bytes) = house.put("packs/a", 10_000).await;
            for method in ["GET", "PUT", "HEAD", "DELETE"] {
                house.cloud.plan(method, BUCKET, 1..3, harm.clone());
            }
            let what = format!("{scheme:?} {harm:?}");
            assert_eq!(house.store.get(&name, 0..10_000).await.expect(&what), bytes);
            assert_eq!(house.store.stat(&name).await.expect(&what).len, 10_000);
            assert_eq!(list_all(&*house.store, "packs/").await.expect(&what).len(), 1);
            house.store.put(&self::name("packs/b"), bytes.clone().into()).await.expect(&what);
            house.store.delete(&name).await.expect(&what);
            assert_eq!(house.cloud.keys(), ["some/prefix/packs/b"], "{what}");
            assert!(house.cloud.hits() >= 6, "{what}: {}", house.cloud.hits());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_what_is_denied_or_missing_is_asked_for_once_and_named() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, _) = house.put("packs/a", 10).await;
        for (status, expected) in
            [(403, Kind::Denied), (404, Kind::Missing), (400, Kind::Unsupported), (507, Kind::Full)]
        {
            house.cloud.plan("*", "packs/a", ALWAYS, Harm::Status(status, None));
            drop(house.cloud.take_log());
            let error = house.store.get(&name, 0..10).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{error}");
            assert!(error.to_string().contains("packs/a") && error.to_string().contains(BUCKET), "{error}");
            assert_eq!(house.cloud.take_log().len(), 1, "{scheme:?} {status}");
            keeps_secrets(&error);
            house.cloud.behave();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_silence_and_a_trickle_end_within_the_deadline_and_harm_nobody_else() {
    for scheme in BOTH {
        for harm in [Harm::Silence, Harm::Drip(Duration::from_secs(1))] {
            let house = House::of(scheme);
            let (name, bytes) = house.put("packs/a", 1000).await;
            let (beside, _) = house.put("packs/b", 1000).await;
            house.cloud.plan("GET", "packs/a", ALWAYS, harm);
            let began = Instant::now();
            let slow: AnyStore =
                Arc::new(Deadline::new(house.bare.clone(), Duration::from_millis(300), 1 << 20));
            let honest: AnyStore =
                Arc::new(Deadline::new(house.bare.clone(), Duration::from_secs(20), 1 << 20));
            let (stuck, other) = tokio::join!(slow.get(&name, 0..1000), honest.get(&beside, 0..1000));
            assert_eq!((kind(stuck), kind(other)), (Err(Kind::Unreachable), Ok(())));
            assert!(began.elapsed() < Duration::from_secs(30));
            house.cloud.behave();
            assert_eq!(honest.get(&name, 0..1000).await.unwrap(), bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_what_came_otherwise_than_asked_is_asked_for_again_and_never_handed_on() {
    for scheme in BOTH {
        for harm in [Harm::Cut(0), Harm::Cut(500), Harm::Whole, Harm::Half, Harm::Words] {
            let what = format!("{scheme:?} {harm:?}");
            let house = House::of(scheme);
            let (name, bytes) = house.put("packs/a", 4000).await;
            house.cloud.plan("GET", "packs/a", 1..2, harm.clone());
            assert_eq!(house.store.get(&name, 1000..3000).await.expect(&what), bytes[1000..3000]);
            assert_eq!(house.cloud.hits(), 1, "{what}");
            house.cloud.plan("GET", "packs/a", ALWAYS, harm);
            let error = house.store.get(&name, 1000..3000).await.expect_err(&what);
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unreachable), "{what}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_an_object_that_is_longer_than_it_may_be_is_not_read() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, _) = house.put("keys/a", 100_000).await;
        assert_eq!(kind(house.store.get_whole(&name, 99_999).await), Err(Kind::Corrupt));
        assert_eq!(kind(house.store.get_whole(&name, 100_000).await), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_an_upload_whose_reply_is_lost_is_one_object() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.cloud.plan("PUT", "packs/a", 1..2, Harm::ReplyLost);
        let body = Body::from(vec![7; 5000]);
        house.store.put(&name("packs/a"), body.clone()).await.unwrap();
        assert_eq!(house.cloud.keys(), ["some/prefix/packs/a"]);
        assert_eq!(kind(house.store.put(&name("packs/a"), vec![8; 5000].into()).await), Err(Kind::Refused));
        assert_eq!(house.store.get_whole(&name("packs/a"), 5000).await.unwrap(), body.parts[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_create_only_is_asked_before() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.cloud.never_creates_only();
        house.store.put(&name("packs/a"), vec![7; 50].into()).await.unwrap();
        house.store.put(&name("packs/a"), vec![7; 50].into()).await.unwrap();
        for other in [vec![8; 50], vec![7; 51]] {
            assert_eq!(kind(house.store.put(&name("packs/a"), other.into()).await), Err(Kind::Refused));
        }
        assert_eq!(house.store.get_whole(&name("packs/a"), 100).await.unwrap(), vec![7; 50]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_b7_pages_that_lag_or_repeat_make_no_name_twice() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.cloud.page_len(100);
        for number in 0..250 {
            house.cloud.put(&format!("some/prefix/backups/{number:03}"), vec![1]);
        }
        house.cloud.plan("GET", "prefix=", 2..3, Harm::SamePage);
        let listed = list_all(&*house.store, "backups/").await.unwrap();
        assert_eq!((listed.len(), house.cloud.hits()), (250, 1), "{scheme:?}");
        house.cloud.behave();
        house.cloud.plan("GET", "prefix=", ALWAYS, Harm::Lag(2));
        assert_eq!(list_all(&*house.store, "backups/").await.unwrap().len(), 248, "{scheme:?}");
        assert_eq!(house.store.stat(&name("backups/249")).await.unwrap().len, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_wish_for_a_pause_is_kept_to() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, bytes) = house.put("packs/a", 100).await;
        house.cloud.plan("GET", "packs/a", 1..2, Harm::Status(503, Some(1)));
        let began = Instant::now();
        assert_eq!(house.store.get(&name, 0..100).await.unwrap(), bytes);
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        house.cloud.plan("GET", "packs/a", ALWAYS, Harm::Status(429, None));
        assert_eq!(kind(house.store.get(&name, 0..100).await), Err(Kind::Busy));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b10_without_the_right_to_delete_nothing_is_deleted_and_all_else_works() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.cloud.refuse_deletes();
        house.store.put(&name("packs/a"), vec![1].into()).await.unwrap();
        let error = house.store.delete(&name("packs/a")).await.unwrap_err();
        assert_eq!((error.kind(), house.cloud.hits()), (Kind::Denied, 0), "{error}");
        assert_eq!(house.store.get(&name("packs/a"), 0..1).await.unwrap(), vec![1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_who_is_sent_elsewhere_does_not_go_there() {
    // A gateway before a service sends whoever it does not know to a page where people log in.
    for scheme in BOTH {
        for status in [301, 302, 303, 307, 308] {
            let house = House::of(scheme);
            let (there, _) = house.put("packs/a", 10).await;
            house.cloud.put("login", b"<html>who are you?</html>".to_vec());
            house.cloud.plan("*", "some/prefix", ALWAYS, Harm::Elsewhere(status, "login"));
            let put = house.bare.put(&name("packs/b"), vec![1].into()).await;
            let error = put.expect_err("nothing was stored");
            keeps_secrets(&error);
            assert!(house.bare.stat(&there).await.is_err() && house.bare.settle(&there).await.is_err());
            assert!(house.bare.get_whole(&there, 100).await.is_err());
            assert!(house.bare.get(&there, 0..5).await.is_err());
            house.cloud.behave();
            assert_eq!(kind(house.bare.stat(&name("packs/b")).await), Err(Kind::Missing));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_long_listing_in_a_while_is_an_answer() {
    let house = House::of(Scheme::S3);
    for number in 0..9 {
        let _object = house.put(&format!("packs/{number}"), 1).await;
    }
    house.cloud.page_len(2);
    let part = house.bare.page_within("packs/", None, Duration::ZERO).await.unwrap();
    assert!((1..9).contains(&part.len()), "{}", part.len());
    let rest = house.bare.page("packs/", Some(&part[part.len() - 1].name)).await.unwrap();
    assert_eq!(part.len() + rest.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_named_and_one_that_comes_back_is_used_again() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, _) = house.put("packs/a", 10).await;
        house.cloud.has_bucket(false);
        let error = house.store.put(&self::name("packs/b"), vec![1].into()).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Denied | Kind::Missing), "{error}");
        assert!(error.to_string().contains("has to be there first"), "{error}");
        assert!(house.store.get(&name, 0..10).await.is_err());
        house.cloud.has_bucket(true);
        assert_eq!(kind(house.store.get(&name, 0..10).await), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_unreachable() {
    for scheme in BOTH {
        let house = House::with(scheme, |variables| {
            let url = if scheme == Scheme::S3 { "AWS_ENDPOINT_URL" } else { "OS_AUTH_URL" };
            variables.retain(|(name, _)| name != url);
            variables.push((url.to_owned(), "http://127.0.0.1:1".to_owned()));
        });
        let error = house.bare.get(&name("a"), 0..1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        keeps_secrets(&error);
    }
}

fn logins(cloud: &Cloud) -> usize {
    cloud.take_log().iter().filter(|line| line.contains("/v3/auth/tokens")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_in_the_middle_is_renewed_once_for_everyone() {
    let house = House::of(Scheme::Swift);
    let (name, bytes) = house.put("packs/a", 1000).await;
    assert_eq!(logins(&house.cloud), 1);
    house.cloud.forget_tokens();
    let gets = (0..8).map(|_| {
        let (store, name) = (house.store.clone(), name.clone());
        tokio::spawn(async move { store.get(&name, 0..1000).await })
    });
    for get in gets.collect::<Vec<_>>() {
        assert_eq!(get.await.unwrap().unwrap(), bytes);
    }
    assert_eq!(logins(&house.cloud), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends_and_kept_until_then() {
    let house = House::of(Scheme::Swift);
    let (name, _) = house.put("packs/a", 10).await;
    for _ in 0..5 {
        drop(house.store.get(&name, 0..10).await.unwrap());
    }
    assert_eq!(logins(&house.cloud), 1);
    house.cloud.token_secs(0);
    house.cloud.forget_tokens();
    for _ in 0..3 {
        drop(house.store.get(&name, 0..10).await.unwrap());
    }
    assert_eq!(logins(&house.cloud), 3, "each is about to end when it is given");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_credential_logs_in_and_a_wrong_one_is_denied_without_being_quoted() {
    let credential = |secret: &str| {
        let secret = secret.to_owned();
        House::with(Scheme::Swift, move |variables| {
            variables.retain(|(name, _)| name == "OS_AUTH_URL");
            variables.push(("OS_APPLICATION_CREDENTIAL_ID".to_owned(), "id".to_owned()));
            variables.push(("OS_APPLICATION_CREDENTIAL_SECRET".to_owned(), secret));
        })
    };
    drop(credential("hush").put("packs/a", 10).await);
    let house = credential("secret");
    let error = house.store.get(&name("packs/a"), 0..1).await.unwrap_err();
    assert_eq!((error.kind(), logins(&house.cloud)), (Kind::Denied, 1), "{error}");
    keeps_secrets(&error);
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_tokens_that_end_while_a_service_takes_its_time_are_renewed_each_time_and_refused_ones_once() {
    let house = House::of(Scheme::Swift);
    let (name, bytes) = house.put("packs/a", 1000).await;
    house.cloud.plan("GET", "packs/a", 1..4, Harm::TooLate(Duration::from_millis(1100)));
    house.cloud.token_secs(1);
    house.cloud.forget_tokens();
    assert_eq!(house.bare.get(&name, 0..1000).await.unwrap(), bytes);
    assert_eq!(house.cloud.hits(), 3);
    // Neither tokens that last nor those that are over when they are given are asked for again and again.
    for secs in [3600, 0] {
        house.cloud.behave();
        house.cloud.plan("GET", "packs/a", ALWAYS, Harm::Status(401, None));
        house.cloud.token_secs(secs);
        house.cloud.forget_tokens();
        let before = house.cloud.hits();
        assert_eq!(kind(house.bare.get(&name, 0..1).await), Err(Kind::Denied));
        assert_eq!(house.cloud.hits() - before, 2, "{secs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_where_nobody_can_log_in_nothing_is_said_of_objects() {
    for (variable, value) in
        [("OS_REGION_NAME", "elsewhere"), ("OS_INTERFACE", "internal"), ("OS_AUTH_URL", "/nowhere")]
    {
        let house = House::with(Scheme::Swift, |variables| {
            let url = variables[0].1.clone();
            variables.retain(|(name, _)| name != variable);
            let value = if value.starts_with('/') { url + value } else { value.to_owned() };
            variables.push((variable.to_owned(), value));
        });
        let name = name("packs/a");
        assert_eq!(kind(house.store.get(&name, 0..1).await), Err(Kind::Denied), "{variable}");
        assert_eq!(kind(house.store.stat(&name).await), Err(Kind::Denied), "{variable}");
        assert_eq!(kind(house.store.delete(&name).await), Err(Kind::Denied), "{variable}");
        assert_eq!(kind(house.store.put(&name, vec![1].into()).await), Err(Kind::Denied), "{variable}");
        assert_eq!(kind(list_all(&*house.store, "packs/").await), Err(Kind::Denied), "{variable}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_given_is_used_as_it_is_and_denied_when_it_is_over() {
    let house = House::with(Scheme::Swift, |variables| {
        let url = variables[0].1.clone();
        *variables = vec![
            ("OS_STORAGE_URL".to_owned(), format!("{url}/v1/AUTH_x")),
            ("OS_AUTH_TOKEN".to_owned(), "t0ken-given".to_owned()),
        ];
    });
    let error = house.store.get(&name("packs/a"), 0..1).await.unwrap_err();
    assert_eq!((error.kind(), house.cloud.take_log().len()), (Kind::Denied, 1), "{error}");
    keeps_secrets(&error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_holds_other_things_is_no_place_for_a_new_store() {
    for scheme in BOTH {
        let house = House::of(scheme);
        house.bare.judge_empty(&["keys"]).await.unwrap();
        drop(house.put("keys/a", 1).await);
        house.bare.judge_empty(&["keys"]).await.unwrap();
        drop(house.put("packs/a", 1).await);
        assert_eq!(kind(house.bare.judge_empty(&["keys"]).await), Err(Kind::Refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x2_names_that_a_service_lists_beside_what_was_asked_for_are_passed_over() {
    for scheme in BOTH {
        let house = House::of(scheme);
        let (name, _) = house.put("packs/a", 10).await;
        for odd in ["x", "ä", "some/prefi", "some/prefix", "some/prefixes/packs/b", "/packs/c", "//"] {
            house.cloud.put(odd, vec![1]);
        }
        house.cloud.plan("GET", "prefix=", ALWAYS, Harm::Beside);
        let listed = list_all(&*house.store, "packs/").await.unwrap();
        let names: Vec<_> = listed.into_iter().map(|listed| listed.name).collect();
        assert_eq!(names, [name], "{scheme:?}");
        assert!(house.cloud.hits() > 0);
        house.bare.judge_empty(&["packs"]).await.unwrap();
    }
}
