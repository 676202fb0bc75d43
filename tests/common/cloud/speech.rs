//! What the three services answer.

use super::http::{Answer, Request};
use super::{BUCKET, Harm, Object, ROLE, State};

const ACCOUNT: &str = "/v1/AUTH_x/";
/// The day that the clock of this cloud stands at; objects are a second apart.
const BEGAN: i64 = 1_750_000_000;

pub(super) fn refusal(status: u16, pause: Option<u32>) -> Answer {
    let answer = Answer::new(status).body("not now");
    match pause {
        Some(secs) => answer.header("retry-after", secs.to_string()),
        None => answer,
    }
}

/// What a machine's role gives: credentials for so short a while that they are asked for anew before each request.
fn role() -> Answer {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
    let (until, rest) = (until.strftime("%Y-%m-%dT%H:%M:%SZ"), "x".repeat(800));
    Answer::new(200).body(format!(
        r#"{{"AccessKeyId":"key","SecretAccessKey":"sesame-s3","Token":"t0ken{rest}","Expiration":"{until}"}}"#
    ))
}

pub(super) fn answer(state: &mut State, request: &Request, harm: Option<&Harm>) -> Answer {
    if request.path == "/v3/auth/tokens" {
        return keystone(state, request);
    }
    if request.path == ROLE {
        return role();
    }
    match request.path.strip_prefix(ACCOUNT) {
        Some(rest) => {
            let token = request.headers.get("x-auth-token");
            if !token.is_some_and(|token| state.tokens.contains(token)) {
                return Answer::new(401).body("<html><h1>Unauthorized</h1></html>");
            }
            let rest = rest.to_owned();
            objects(state, request, &rest, harm, Dialect::Swift)
        }
        None => {
            let signed = request.headers.get("authorization");
            if !signed.is_some_and(|signed| signed.starts_with("AWS4-HMAC-SHA256 Credential=key/")) {
                return s3_error(403, "AccessDenied");
            }
            let rest = request.path.trim_start_matches('/').to_owned();
            objects(state, request, &rest, harm, Dialect::S3)
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    S3,
    Swift,
}

impl Dialect {
    fn error(self, status: u16, code: &str) -> Answer {
        match self {
            Dialect::S3 => s3_error(status, code),
            Dialect::Swift => Answer::new(status).body(format!("<html><h1>{code}</h1></html>")),
        }
    }
}

fn s3_error(status: u16, code: &str) -> Answer {
    let words =
        format!("<Error><Code>{code}</Code><Message>As planned.</Message><RequestId>1</RequestId></Error>");
    Answer::new(status).header("content-type", "application/xml").body(words)
}

fn keystone(state: &mut State, request: &Request) -> Answer {
    let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let identity = &asked["auth"]["identity"];
    let by_password = identity["password"]["user"]["password"] == "secret"
        && identity["password"]["user"]["name"] == "me"
        && asked["auth"]["scope"]["project"]["name"] == "backup";
    let by_credential = identity["application_credential"]["secret"] == "hush"
        && identity["application_credential"]["id"] == "id";
    if !by_password && !by_credential {
        return Answer::new(401).body(r#"{"error": {"code": 401, "message": "no"}}"#);
    }
    state.next += 1;
    let token = format!("t0ken-{}", state.next);
    let _new = state.tokens.insert(token.clone());
    let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(state.token_secs.cast_signed());
    let host = request.headers.get("host").cloned().unwrap_or_default();
    let endpoint = |interface: &str, url: String| serde_json::json!({ "interface": interface, "region": "here", "region_id": "here", "url": url });
    let catalog = serde_json::json!([{ "type": "object-store", "name": "swift", "endpoints": [
        endpoint("admin", "http://127.0.0.1:1/".to_owned()),
        endpoint("public", format!("http://{host}/v1/AUTH_x")),
    ] }]);
    let body = serde_json::json!({ "token": { "expires_at": ends.to_string(), "catalog": catalog } });
    Answer::new(201).header("x-subject-token", token).body(body.to_string())
}

fn objects(
    state: &mut State,
    request: &Request,
    rest: &str,
    harm: Option<&Harm>,
    dialect: Dialect,
) -> Answer {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket != BUCKET || !state.has_bucket {
        return dialect.error(404, "NoSuchBucket");
    }
    match (request.method.as_str(), key) {
        ("GET", "") => list(state, request, harm, dialect),
        ("GET" | "HEAD", _) => get(state, request, key, harm, dialect),
        ("PUT", _) => put(state, request, key, harm, dialect),
        ("DELETE", _) if !state.may_delete => dialect.error(403, "AccessDenied"),
        ("DELETE", _) => match (state.objects.remove(key), dialect) {
            (None, Dialect::Swift) => dialect.error(404, "NoSuchKey"),
            _ => Answer::new(204),
        },
        _ => dialect.error(405, "MethodNotAllowed"),
    }
}

fn get(state: &State, request: &Request, key: &str, harm: Option<&Harm>, dialect: Dialect) -> Answer {
    let Some(object) = state.objects.get(key) else { return dialect.error(404, "NoSuchKey") };
    let len = object.bytes.len();
    let time = time_of(object).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let facts = |answer: Answer| answer.header("last-modified", time.clone()).header("etag", "\"e\"");
    let range = request.range().filter(|_| !matches!(harm, Some(Harm::Whole)));
    match range {
        _ if request.method == "HEAD" => facts(Answer::new(200)).header("content-length", len.to_string()),
        None => facts(Answer::new(200)).body(object.bytes.clone()),
        Some((first, _)) if first >= len => {
            dialect.error(416, "InvalidRange").header("content-range", format!("bytes */{len}"))
        }
        Some((first, last)) => {
            let mut last = last.min(len - 1);
            if matches!(harm, Some(Harm::Half)) {
                last = first + (last - first) / 2;
            }
            facts(Answer::new(206))
                .header("content-range", format!("bytes {first}-{last}/{len}"))
                .body(&object.bytes[first..=last])
        }
    }
}

fn put(state: &mut State, request: &Request, key: &str, harm: Option<&Harm>, dialect: Dialect) -> Answer {
    if request.headers.get("if-none-match").is_some_and(|what| what == "*") {
        if !state.creates_only {
            return dialect.error(501, "NotImplemented");
        }
        if state.objects.contains_key(key) {
            return dialect.error(412, "PreconditionFailed");
        }
    }
    state.next += 1;
    let mut object = Object { bytes: request.body.clone(), number: state.next };
    if matches!(harm, Some(Harm::Spoil)) {
        let middle = object.bytes.len() / 2;
        object.bytes[middle] ^= 1;
    }
    drop(state.objects.insert(key.to_owned(), object));
    Answer::new(if dialect == Dialect::S3 { 200 } else { 201 }).header("etag", "\"e\"")
}

fn time_of(object: &Object) -> jiff::Timestamp {
    jiff::Timestamp::from_second(BEGAN + object.number.cast_signed()).expect("a time")
}

fn list(state: &mut State, request: &Request, harm: Option<&Harm>, dialect: Dialect) -> Answer {
    if let (Some(Harm::SamePage), Some(page)) = (harm, &state.last_page) {
        return Answer::new(200).header("content-type", kind_of_page(dialect)).body(page.clone());
    }
    let asked = |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
    let after =
        ["continuation-token", "start-after", "marker"].map(asked).into_iter().find(|name| !name.is_empty());
    let lag = match harm {
        Some(Harm::Lag(newest)) => *newest as u64,
        _ => 0,
    };
    let newest = state.objects.values().map(|object| object.number).max().unwrap_or(0);
    let shown = |object: &Object| object.number + lag <= newest;
    let is_asked_for = |key: &str| key.starts_with(asked("prefix")) || matches!(harm, Some(Harm::Beside));
    let behind = |key: &str| is_asked_for(key) && after.is_none_or(|after| key > after);
    let mut found = state.objects.iter().filter(|(key, object)| behind(key) && shown(object));
    let page: Vec<_> = found.by_ref().take(state.page_len).collect();
    let is_truncated = found.next().is_some();
    let body = match dialect {
        Dialect::S3 => s3_page(&page, is_truncated),
        Dialect::Swift => swift_page(&page),
    };
    state.last_page = Some(body.clone().into_bytes());
    Answer::new(200).header("content-type", kind_of_page(dialect)).body(body)
}

fn kind_of_page(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::S3 => "application/xml",
        Dialect::Swift => "application/json",
    }
}

fn s3_page(page: &[(&String, &Object)], is_truncated: bool) -> String {
    let mut body = format!("<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>");
    if let Some((last, _)) = page.last().filter(|_| is_truncated) {
        body += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    for (key, object) in page {
        let (time, len) = (time_of(object), object.bytes.len());
        body += &format!(
            "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>\"e\"</ETag><Size>{len}</Size></Contents>"
        );
    }
    body + "</ListBucketResult>"
}

fn swift_page(page: &[(&String, &Object)]) -> String {
    let line = |(key, object): &(&String, &Object)| {
        let time = time_of(object).strftime("%Y-%m-%dT%H:%M:%S.000000").to_string();
        serde_json::json!({ "name": key, "bytes": object.bytes.len(), "hash": "e", "last_modified": time })
    };
    serde_json::Value::Array(page.iter().map(line).collect()).to_string()
}
