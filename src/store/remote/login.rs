//! Logins to Swift: a session is a token, where the account lies, and until when. It is renewed before it ends, and when it is refused.
//!
//! The protocol's library can't change a token in place, so each session has an operator of its own; calls under way go on with theirs.
//!
//! Holds: one login at a time, however many wait for it. A session that was refused is given up once, not by everyone who heard of it.

use super::env::Env;
use super::keystone::{ANSWER_LEN_MAX, Account};
use super::place::Place;
use super::wire;
use super::words::Cause;
use crate::clock;
use crate::error::{Error, Kind, Result};
use opendal::Operator;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use std::sync::Arc;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// How long a login may take.
const LOGIN_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// What a login gives.
pub(super) struct Session {
    /// What every request shows.
    pub(super) token: Zeroizing<String>,
    /// When it ends, if that is known.
    pub(super) ends: Option<jiff::Timestamp>,
    /// Where the account lies.
    pub(super) endpoint: String,
}

/// How sessions are had.
enum Way {
    Keystone(Account),
    /// Swift's own login, version 1, that small installations have.
    Own {
        url: String,
        user: String,
        key: Zeroizing<String>,
    },
    /// A token that somebody else cares for.
    Given {
        endpoint: String,
        token: Zeroizing<String>,
    },
}

/// The login to one container.
pub(super) struct Login {
    way: Way,
    place: Place,
    client: reqwest::Client,
    current: Mutex<Option<Arc<Held>>>,
}

/// A session in use.
pub(super) struct Held {
    pub(super) operator: Operator,
    renew_at: Option<jiff::Timestamp>,
    ends: Option<jiff::Timestamp>,
}

impl Login {
    /// As the environment says; nobody is asked yet.
    pub(super) fn new(place: &Place, env: &Env, client: reqwest::Client) -> Result<Login> {
        Ok(Login { way: Way::of(env)?, place: place.clone(), client, current: Mutex::new(None) })
    }

    /// The session in use, or a new one when there is none or it is about to end.
    pub(super) async fn session(&self) -> Result<Arc<Held>> {
        let mut current = self.current.lock().await;
        if let Some(held) = current.as_ref().filter(|held| held.is_fresh(clock::now())) {
            return Ok(Arc::clone(held));
        }
        let held = Arc::new(self.log_in().await?);
        *current = Some(Arc::clone(&held));
        Ok(held)
    }

    /// A session that was refused is not used again. Whether another one may be had.
    pub(super) async fn refused(&self, session: &Arc<Held>) -> bool {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|held| Arc::ptr_eq(held, session)) {
            *current = None;
        }
        !matches!(self.way, Way::Given { .. })
    }

    async fn log_in(&self) -> Result<Held> {
        let session = match &self.way {
            Way::Given { endpoint, token } => {
                Session { token: token.clone(), ends: None, endpoint: endpoint.clone() }
            }
            Way::Own { url, user, key } => {
                let headers = [("x-auth-user", user.as_str()), ("x-auth-key", key)];
                let answer = self.send(url, self.client.get(url).headers(secret(&headers)?)).await?;
                own_session(answer.headers())?
            }
            Way::Keystone(account) => {
                let request = self.client.post(&account.url).header(CONTENT_TYPE, "application/json");
                let answer = self.send(&account.url, request.body(account.body.as_bytes().to_vec())).await?;
                let token = text(answer.headers(), "x-subject-token")?.to_owned();
                account.session(&token, &wire::small_body(answer, ANSWER_LEN_MAX).await?)?
            }
        };
        Held::new(&self.place, session)
    }

    async fn send(&self, url: &str, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let url = without_password(url);
        let answer = request.timeout(LOGIN_TIME).send().await.map_err(|cause| {
            Error::new(Kind::Unreachable, format!("log in at {url}")).caused_by(Cause::of(&cause))
        })?;
        let status = answer.status().as_u16();
        let failed = |kind, why: &str| Error::new(kind, format!("log in at {url}: {why} ({status})"));
        match status {
            200..=299 => Ok(answer),
            401 | 403 => {
                Err(failed(Kind::Denied, "it was refused").hint("look at the OS_* or ST_* variables"))
            }
            // Not `Missing`: it would say that an object is not there.
            404 | 405 => Err(failed(Kind::Denied, "nobody gives tokens there").hint("is OS_AUTH_URL right?")),
            429 | 498 | 503 => Err(failed(Kind::Busy, "it asks to come later")),
            500..=599 => Err(failed(Kind::Unreachable, "it failed")),
            _ => Err(failed(Kind::Unsupported, "it answered otherwise than expected")
                .hint("is OS_AUTH_URL or ST_AUTH right?")),
        }
    }
}

/// An address as people may see it: who logs in at a proxy before it stays untold.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.find('@')) {
        (Some((scheme, rest)), Some(_)) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        _ => url.to_owned(),
    }
}

impl Held {
    pub(super) fn new(place: &Place, session: Session) -> Result<Held> {
        let operator = operator(place, &session)?;
        let now = clock::now();
        // A fifth of its time is left for calls that are under way, and for a login that fails at first.
        let renew_at =
            session.ends.map(|ends| now + ends.duration_since(now).checked_mul(4).unwrap_or_default() / 5);
        Ok(Held { operator, renew_at, ends: session.ends })
    }

    /// Whether its time is over.
    pub(super) fn has_ended(&self, now: jiff::Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    pub(super) fn is_fresh(&self, now: jiff::Timestamp) -> bool {
        self.renew_at.is_none_or(|at| now < at)
    }
}

#[cfg(feature = "swift")]
fn operator(place: &Place, session: &Session) -> Result<Operator> {
    let builder = opendal::services::Swift::default()
        .endpoint(&session.endpoint)
        .container(&place.bucket)
        .token(&session.token);
    Operator::new(builder)
        .map_err(|cause| Error::new(Kind::Usage, format!("open {place}: {}", cause.message())))
}

/// This build has no Swift, and its places are not known by name either.
#[cfg(not(feature = "swift"))]
fn operator(place: &Place, _session: &Session) -> Result<Operator> {
    Err(Error::new(Kind::Unsupported, format!("open {place}: this build has no Swift")))
}

impl Way {
    fn of(env: &Env) -> Result<Way> {
        if let Some(token) = env.get("OS_AUTH_TOKEN") {
            let missing = || {
                Error::new(Kind::Usage, "log in: OS_AUTH_TOKEN is set, but OS_STORAGE_URL is not")
                    .hint("a token alone does not say where the account is")
            };
            let endpoint = env.get("OS_STORAGE_URL").ok_or_else(missing)?.to_owned();
            return Ok(Way::Given { endpoint, token: Zeroizing::new(token.to_owned()) });
        }
        if let Some(account) = Account::of(env)? {
            return Ok(Way::Keystone(account));
        }
        match (env.get("ST_AUTH"), env.get("ST_USER"), env.get("ST_KEY")) {
            (Some(url), Some(user), Some(key)) => Ok(Way::Own {
                url: url.to_owned(),
                user: user.to_owned(),
                key: Zeroizing::new(key.to_owned()),
            }),
            _ => Err(Error::new(Kind::Usage, "log in: nothing says where and as whom").hint(
                "set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME (or OS_APPLICATION_CREDENTIAL_*), or ST_AUTH, ST_USER \
                 and ST_KEY",
            )),
        }
    }
}

/// Headers that no log may show.
fn secret(pairs: &[(&'static str, &str)]) -> Result<reqwest::header::HeaderMap> {
    let header = |(name, value): &(&'static str, &str)| {
        let odd = |_| Error::new(Kind::Usage, format!("log in: what is given as {name} can't be sent"));
        let mut value = HeaderValue::from_str(value).map_err(odd)?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static(name), value))
    };
    pairs.iter().map(header).collect()
}

/// What Swift's own login gives.
pub(super) fn own_session(headers: &reqwest::header::HeaderMap) -> Result<Session> {
    let token = Zeroizing::new(text(headers, "x-auth-token")?.to_owned());
    let endpoint = text(headers, "x-storage-url")?.to_owned();
    let seconds = text(headers, "x-auth-token-expires").ok().and_then(|text| text.parse::<i64>().ok());
    let ends =
        seconds.map(|seconds| clock::now() + jiff::SignedDuration::from_secs(seconds.clamp(0, 1 << 32)));
    Ok(Session { token, ends, endpoint })
}

fn text<'a>(headers: &'a reqwest::header::HeaderMap, name: &'static str) -> Result<&'a str> {
    let value = headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| Error::new(Kind::Unsupported, format!("log in: the answer has no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_whoever_logs_in_before_the_service_is_not_told() {
        for (url, shown) in [
            ("https://me:sesame@keystone:5000/v3", "https://keystone:5000/v3"),
            ("https://me@sesame@keystone", "https://keystone"),
            ("https://keystone/v3/a@b", "https://keystone/v3/a@b"),
            ("http://me:sesame@[::1]:80?a@b", "http://[::1]:80?a@b"),
            ("keystone", "keystone"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
