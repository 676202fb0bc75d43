//! Keystone's words: a login as the body of a request, and its answer as a session. Version 3 of the identity protocol.
//!
//! Pure: nothing here asks anybody. Holds: secrets are in the body and in the session only, and neither has a `Debug`.

use super::env::Env;
use super::login::Session;
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The longest answer: a catalogue of a large cloud is some hundred KiB.
pub(super) const ANSWER_LEN_MAX: usize = 8 << 20;

/// Who logs in where, and which of the endpoints of the catalogue is meant.
pub(super) struct Account {
    /// Where tokens are given.
    pub(super) url: String,
    /// The body of the request.
    pub(super) body: Zeroizing<String>,
    region: Option<String>,
    interface: String,
    /// Where the account lies, if the catalogue is not to be asked.
    endpoint: Option<String>,
}

impl Account {
    /// The account that the environment describes, if it speaks of Keystone.
    pub(super) fn of(env: &Env) -> Result<Option<Account>> {
        let Some(url) = env.get("OS_AUTH_URL") else { return Ok(None) };
        let url = url.trim_end_matches('/');
        let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") };
        let interface = env.first(&["OS_INTERFACE", "OS_ENDPOINT_TYPE"]).unwrap_or("public");
        Ok(Some(Account {
            url: format!("{url}/auth/tokens"),
            body: Zeroizing::new(body(env)?.to_string()),
            region: env.get("OS_REGION_NAME").map(str::to_owned),
            interface: interface.trim_end_matches("URL").to_owned(),
            endpoint: env.get("OS_STORAGE_URL").map(str::to_owned),
        }))
    }

    /// What an answer gives: a token, until when, and where the account lies.
    pub(super) fn session(&self, token: &str, answer: &[u8]) -> Result<Session> {
        // What can't be read is not quoted: it is next to a token.
        let odd = |_| Error::new(Kind::Unsupported, "log in: Keystone's answer can't be understood");
        let answer: Answer = serde_json::from_slice(answer).map_err(odd)?;
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.endpoint_in(&answer.token.catalog)?,
        };
        Ok(Session { token: Zeroizing::new(token.to_owned()), ends: Some(answer.token.expires_at), endpoint })
    }

    fn endpoint_in(&self, catalog: &[Entry]) -> Result<String> {
        let of_region = |endpoint: &&Endpoint| match (
            &self.region,
            endpoint.region_id.as_ref().or(endpoint.region.as_ref()),
        ) {
            (Some(wanted), Some(found)) => wanted == found,
            (wanted, _) => wanted.is_none(),
        };
        let mut endpoints =
            catalog.iter().filter(|entry| entry.kind == "object-store").flat_map(|entry| &entry.endpoints);
        let found = endpoints.find(|endpoint| endpoint.interface == self.interface && of_region(endpoint));
        let region = self.region.as_deref().unwrap_or("any");
        let missing = || {
            let words = format!(
                "log in: the catalogue names no object store with a {} endpoint in region {region}",
                self.interface
            );
            // Not `Missing`: it would say that an object is not there.
            Error::new(Kind::Denied, words)
                .hint("OS_REGION_NAME and OS_INTERFACE choose one, OS_STORAGE_URL sets it")
        };
        Ok(found.ok_or_else(missing)?.url.clone())
    }
}

/// The body of the request.
fn body(env: &Env) -> Result<Value> {
    let identity = match env.get("OS_AUTH_TYPE") {
        Some("v3applicationcredential") => application_credential(env),
        Some("password" | "v3password") => password(env),
        None if env.get("OS_APPLICATION_CREDENTIAL_SECRET").is_some() => application_credential(env),
        None => password(env),
        Some(other) => {
            let words = format!("log in: OS_AUTH_TYPE is {other}, which is not known");
            return Err(Error::new(Kind::Unsupported, words).hint("password and v3applicationcredential are"));
        }
    }?;
    let mut auth = json!({ "identity": identity });
    // An application credential has its scope in it.
    if auth["identity"]["methods"][0] == "password"
        && let Some(scope) = scope(env)
    {
        auth["scope"] = scope;
    }
    Ok(json!({ "auth": auth }))
}

fn application_credential(env: &Env) -> Result<Value> {
    let secret = wanted(env, "OS_APPLICATION_CREDENTIAL_SECRET")?;
    let credential = match env.get("OS_APPLICATION_CREDENTIAL_ID") {
        Some(id) => json!({ "id": id, "secret": secret }),
        None => {
            let name = wanted(env, "OS_APPLICATION_CREDENTIAL_NAME")?;
            json!({ "name": name, "secret": secret, "user": user(env)? })
        }
    };
    Ok(json!({ "methods": ["application_credential"], "application_credential": credential }))
}

fn password(env: &Env) -> Result<Value> {
    let mut user = user(env)?;
    user["password"] = wanted(env, "OS_PASSWORD")?.into();
    Ok(json!({ "methods": ["password"], "password": { "user": user } }))
}

fn user(env: &Env) -> Result<Value> {
    Ok(match env.get("OS_USER_ID") {
        Some(id) => json!({ "id": id }),
        None => json!({ "name": wanted(env, "OS_USERNAME")?, "domain": domain(env, "OS_USER_DOMAIN") }),
    })
}

fn scope(env: &Env) -> Option<Value> {
    if let Some(id) = env.first(&["OS_PROJECT_ID", "OS_TENANT_ID"]) {
        return Some(json!({ "project": { "id": id } }));
    }
    let name = env.first(&["OS_PROJECT_NAME", "OS_TENANT_NAME"])?;
    Some(json!({ "project": { "name": name, "domain": domain(env, "OS_PROJECT_DOMAIN") } }))
}

/// A domain by id or by name; the one that every cloud has, when nobody says.
fn domain(env: &Env, begin: &str) -> Value {
    let (id, name) = (format!("{begin}_ID"), format!("{begin}_NAME"));
    match (env.first(&[&id, "OS_DEFAULT_DOMAIN_ID"]), env.first(&[&name, "OS_DEFAULT_DOMAIN_NAME"])) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({ "name": name }),
        (None, None) => json!({ "id": "default" }),
    }
}

fn wanted<'a>(env: &'a Env, name: &str) -> Result<&'a str> {
    env.get(name).ok_or_else(|| Error::new(Kind::Usage, format!("log in: {name} is not set")))
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: jiff::Timestamp,
    #[serde(default)]
    catalog: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"token": {"expires_at": "2026-11-28T19:00:00.000000Z", "catalog": [
        {"type": "compute", "endpoints": [{"interface": "public", "region_id": "a", "url": "http://compute"}]},
        {"type": "object-store", "endpoints": [
            {"interface": "admin", "region_id": "a", "url": "http://admin"},
            {"interface": "public", "region_id": "a", "url": "http://a"},
            {"interface": "public", "region": "b", "url": "http://b"},
            {"interface": "internal", "region_id": "b", "url": "http://inside"}]}]}}"#;

    fn env(pairs: &[(&str, &str)]) -> Env {
        let usual = [("OS_AUTH_URL", "http://keystone/"), ("OS_USERNAME", "me"), ("OS_PASSWORD", "secret")];
        Env::of(usual.iter().chain(pairs).map(|(name, value)| (*name, *value)))
    }

    fn account(pairs: &[(&str, &str)]) -> Result<Account> {
        Ok(Account::of(&env(pairs))?.expect("it speaks of Keystone"))
    }

    fn said(pairs: &[(&str, &str)]) -> Value {
        serde_json::from_str(&account(pairs).unwrap().body).unwrap()
    }

    #[test]
    fn a_login_says_who_and_for_which_project() {
        let said = said(&[("OS_PROJECT_NAME", "backup"), ("OS_USER_DOMAIN_NAME", "people")]);
        let expected = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user":
                { "name": "me", "domain": { "name": "people" }, "password": "secret" } } },
            "scope": { "project": { "name": "backup", "domain": { "id": "default" } } } } });
        assert_eq!(said, expected);
        assert_eq!(account(&[]).unwrap().url, "http://keystone/v3/auth/tokens");
        assert_eq!(account(&[("OS_AUTH_URL", "http://k/v3")]).unwrap().url, "http://k/v3/auth/tokens");
        assert!(Account::of(&Env::default()).unwrap().is_none());
    }

    #[test]
    fn an_application_credential_has_its_scope_in_it() {
        let by_id = said(&[
            ("OS_APPLICATION_CREDENTIAL_ID", "id"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "hush"),
            ("OS_PROJECT_NAME", "backup"),
        ]);
        let expected = json!({ "auth": { "identity": { "methods": ["application_credential"],
            "application_credential": { "id": "id", "secret": "hush" } } } });
        assert_eq!(by_id, expected);
        let by_name = said(&[
            ("OS_AUTH_TYPE", "v3applicationcredential"),
            ("OS_APPLICATION_CREDENTIAL_NAME", "name"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "hush"),
            ("OS_USER_ID", "u1"),
        ]);
        let credential = &by_name["auth"]["identity"]["application_credential"];
        assert_eq!(*credential, json!({ "name": "name", "secret": "hush", "user": { "id": "u1" } }));
    }

    #[test]
    fn the_catalogue_names_the_account_by_interface_and_region() {
        for (pairs, expected) in [
            (&[][..], Ok("http://a")),
            (&[("OS_REGION_NAME", "b")], Ok("http://b")),
            (&[("OS_REGION_NAME", "b"), ("OS_ENDPOINT_TYPE", "internalURL")], Ok("http://inside")),
            (&[("OS_REGION_NAME", "c")], Err(Kind::Denied)),
            (&[("OS_INTERFACE", "other")], Err(Kind::Denied)),
            (&[("OS_REGION_NAME", "c"), ("OS_STORAGE_URL", "http://set")], Ok("http://set")),
        ] {
            let session = account(pairs).unwrap().session("t", ANSWER.as_bytes());
            let found = session.map(|session| session.endpoint).map_err(|error| error.kind());
            assert_eq!(found, expected.map(str::to_owned), "{pairs:?}");
        }
    }

    #[test]
    fn what_lacks_or_makes_no_sense_is_said_without_a_secret() {
        for (pairs, kind) in [
            (&[("OS_PASSWORD", "")][..], Kind::Usage),
            (&[("OS_USERNAME", "")], Kind::Usage),
            (&[("OS_AUTH_TYPE", "v3kerberos")], Kind::Unsupported),
            (&[("OS_AUTH_TYPE", "v3applicationcredential")], Kind::Usage),
        ] {
            assert_eq!(account(pairs).err().map(|error| error.kind()), Some(kind), "{pairs:?}");
        }
        for answer in ["", "{}", "{\"token\": {\"expires_at\": \"soon\"}}", "{\"token\": {}}"] {
            let error = account(&[]).unwrap().session("t0ken", answer.as_bytes()).err().unwrap();
            assert!(error.kind() == Kind::Unsupported && !error.to_string().contains("t0ken"), "{error}");
        }
    }
}
