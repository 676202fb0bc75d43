//! Where an export is, as text to paste: `nbd://host:port/export`, `nbd+unix:///export?socket=path`, with an `s` behind
//! `nbd` for TLS.
//!
//! text <-> [`Uri`]
//!
//! Holds: what is printed reads back as the same. Export names and paths may hold any bytes their kind may hold; what
//! a URI can't carry stands in percent signs. Nothing is guessed: a word out of place is refused by name.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::export::Name;

/// The port that IANA gave to NBD.
pub const PORT: u16 = 10809;

/// Where an export is and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where its server listens.
    pub place: Place,
    /// Its name there; empty for the default export.
    pub export: Name,
    /// Whether the connection has to be encrypted.
    pub tls: bool,
    /// `tls-certificates`: a directory with `ca-cert.pem`, and with `client-cert.pem` and `client-key.pem` if the server asks
    /// who we are.
    pub certificates: Option<PathBuf>,
    /// `tls-hostname`: the name that the server's certificate has to carry, where it isn't the host's.
    pub hostname: Option<String>,
    /// Parameters that are not the protocol's own, in order. Whoever takes a URI decides which of them it knows.
    pub parameters: Vec<(String, String)>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host (name or address, IPv6 without brackets) and port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// What does not read as the URI of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAUri {
    text: String,
    why: String,
}

impl fmt::Display for NotAUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not the URI of an export: {} (try nbd://host/export or nbd+unix:///export?socket=PATH)",
            self.text.escape_debug(),
            self.why
        )
    }
}

impl std::error::Error for NotAUri {}

impl Uri {
    /// Whether a text is meant as a URI of this kind, well formed or not.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme.starts_with("nbd"))
    }

    /// A parameter that is not the protocol's own.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The same export without anything that says how to get there safely or what to do with it: equal for two URIs
    /// of one export.
    pub fn bare(&self) -> Uri {
        Uri {
            place: self.place.clone(),
            export: self.export.clone(),
            tls: false,
            certificates: None,
            hostname: None,
            parameters: Vec::new(),
        }
    }
}

impl FromStr for Uri {
    type Err = NotAUri;

    fn from_str(text: &str) -> Result<Uri, NotAUri> {
        parse(text).map_err(|why| NotAUri { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Uri, String> {
    if text.contains(|c: char| c.is_control() || c == '#') {
        return Err("control characters and # have to be written in percent signs".into());
    }
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
    let (tls, unix) = match scheme {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        other => return Err(format!("the scheme {other} is unknown or not supported")),
    };
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let export =
        Name::decode(&unescaped(path)?).map_err(|why| format!("the name of the export is wrong: {why}"))?;
    let mut asked = Parameters::read(query)?;
    if tls && authority.contains('@') {
        return Err("a user means a pre-shared key, which is not supported; use certificates".into());
    }
    let place = match (unix, asked.socket.take()) {
        (true, Some(path)) if authority.is_empty() => Place::Unix(path),
        (true, Some(_)) => return Err("no host belongs before a unix socket's export (three slashes)".into()),
        (true, None) => return Err("the socket is missing: ?socket=PATH".into()),
        (false, Some(_)) => return Err("a socket needs the scheme nbd+unix".into()),
        (false, None) => tcp(authority)?,
    };
    if !tls && (asked.certificates.is_some() || asked.hostname.is_some()) {
        return Err("TLS parameters need the scheme nbds or nbds+unix".into());
    }
    let Parameters { certificates, hostname, others, .. } = asked;
    Ok(Uri { place, export, tls, certificates, hostname, parameters: others })
}

fn tcp(authority: &str) -> Result<Place, String> {
    if authority.contains('@') {
        return Err("a user has no meaning here".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("a bracket is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets is not an IPv6 address".into());
            }
            let port =
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or("the port is wrong")?) };
            (host.to_owned(), port)
        }
        None => {
            let (host, port) =
                authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            (text_of(unescaped(host)?)?, port)
        }
    };
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if host.contains(|c: char| c.is_control() || c.is_whitespace() || "/[]@?".contains(c)) {
        return Err("the host is not a name".into());
    }
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None | Some("") => PORT,
        Some(text) => {
            text.parse().ok().filter(|port| *port != 0 && digits(&text)).ok_or("the port is wrong")?
        }
    };
    Ok(Place::Tcp { host, port })
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    hostname: Option<String>,
    others: Vec<(String, String)>,
}

impl Parameters {
    fn read(query: &str) -> Result<Parameters, String> {
        let mut read = Parameters::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("parameter {pair} has no value"))?;
            let (key, value) = (text_of(unescaped(key)?)?, unescaped(value)?);
            let again = match key.as_str() {
                "socket" => read.socket.replace(path_of(value, "socket")?).is_some(),
                "tls-certificates" => read.certificates.replace(path_of(value, "directory")?).is_some(),
                "tls-hostname" => read.hostname.replace(text_of(value)?).is_some(),
                _ => {
                    let again = read.others.iter().any(|(known, _)| *known == key);
                    read.others.push((key.clone(), text_of(value)?));
                    again
                }
            };
            if again {
                return Err(format!("parameter {key} stands there twice"));
            }
        }
        Ok(read)
    }
}

fn path_of(bytes: Vec<u8>, what: &str) -> Result<PathBuf, String> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(format!("the {what}'s path is empty or holds a NUL"));
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "a parameter or host is not UTF-8".into())
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from((high << 4) | low).ok());
        out.push(value.ok_or("a percent sign needs two hexadecimal digits behind it")?);
    }
    Ok(out)
}

/// What a URI can't carry as it is, in percent signs.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/@:".contains(&byte);
    let show = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(show).collect()
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        let mut parameters: Vec<(String, String)> = Vec::new();
        match &self.place {
            Place::Tcp { host, port } => {
                match host.contains(':') {
                    true => write!(f, "://[{host}]")?,
                    false => write!(f, "://{}", escaped(host.as_bytes()))?,
                }
                if *port != PORT {
                    write!(f, ":{port}")?;
                }
            }
            Place::Unix(path) => {
                f.write_str("+unix://")?;
                parameters.push(("socket".into(), escaped(path.as_os_str().as_bytes())));
            }
        }
        write!(f, "/{}", escaped(self.export.as_bytes()))?;
        let directory = self.certificates.as_ref().map(|path| escaped(path.as_os_str().as_bytes()));
        parameters.extend(directory.map(|value| ("tls-certificates".into(), value)));
        let hostname = self.hostname.as_ref().map(|name| escaped(name.as_bytes()));
        parameters.extend(hostname.map(|value| ("tls-hostname".into(), value)));
        let others = self.parameters.iter();
        parameters.extend(others.map(|(key, value)| (escaped(key.as_bytes()), escaped(value.as_bytes()))));
        for (number, (key, value)) in parameters.iter().enumerate() {
            write!(f, "{}{key}={value}", if number == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Uri {
        text.parse().unwrap_or_else(|why| panic!("{why}"))
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp { host: host.into(), port }
    }

    #[test]
    fn uris_say_where_an_export_is() {
        for (text, place, export) in [
            ("nbd://host", tcp("host", PORT), ""),
            ("nbd://host/", tcp("host", PORT), ""),
            ("nbd://host:10810/disk", tcp("host", 10810), "disk"),
            ("nbd://[2001:db8::1]:7/a/b", tcp("2001:db8::1", 7), "a/b"),
            ("nbd://192.0.2.1//x", tcp("192.0.2.1", PORT), "/x"),
            ("nbd+unix:///?socket=/run/s", Place::Unix("/run/s".into()), ""),
            ("nbd+unix:///web01@latest?socket=a%20b", Place::Unix("a b".into()), "web01@latest"),
            ("nbd+unix://?socket=s", Place::Unix("s".into()), ""),
            ("nbd://h/%C3%BC%3f", tcp("h", PORT), "ü?"),
        ] {
            let uri = read(text);
            assert_eq!((&uri.place, uri.export.as_str(), uri.tls), (&place, export, false), "{text}");
        }
    }

    #[test]
    fn tls_and_foreign_parameters_are_kept() {
        let uri = read("nbds://h/x?tls-certificates=/etc/pki&tls-hostname=web&bitmap=b%260");
        assert_eq!((uri.tls, uri.hostname.as_deref()), (true, Some("web")));
        assert_eq!(uri.certificates, Some("/etc/pki".into()));
        assert_eq!((uri.parameter("bitmap"), uri.parameter("x")), (Some("b&0"), None));
        assert_eq!(uri.bare().to_string(), "nbd://h/x");
        assert!(read("nbds+unix:///?socket=s").tls);
    }

    #[test]
    fn what_is_wrong_with_a_uri_is_said() {
        for (text, why) in [
            ("host/x", "no scheme"),
            ("http://host/x", "scheme http"),
            ("nbd+vsock://2/x", "scheme nbd+vsock"),
            ("nbd:///x", "host is missing"),
            ("nbd://h:0/", "port is wrong"),
            ("nbd://h:65536/", "port is wrong"),
            ("nbd://h:+1/", "port is wrong"),
            ("nbd://[::1/", "not closed"),
            ("nbd://[host]/", "not an IPv6"),
            ("nbd://[::1]7/", "port is wrong"),
            ("nbd://user@h/", "user has no meaning"),
            ("nbds://user@h/", "pre-shared"),
            ("nbd://h/%", "two hexadecimal"),
            ("nbd://h/%4", "two hexadecimal"),
            ("nbd://h/%zz", "two hexadecimal"),
            ("nbd://h/%00", "NUL"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/x#y", "percent signs"),
            ("nbd://h/x\n", "percent signs"),
            ("nbd://h/?socket=s", "needs the scheme nbd+unix"),
            ("nbd+unix:///x", "socket is missing"),
            ("nbd+unix:///x?socket=", "path is empty"),
            ("nbd+unix://h/x?socket=s", "three slashes"),
            ("nbd+unix:///x?socket=a&socket=b", "twice"),
            ("nbd://h/?a=1&a=2", "twice"),
            ("nbd://h/?a", "no value"),
            ("nbd://h/?tls-hostname=x", "need the scheme nbds"),
        ] {
            let error = text.parse::<Uri>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(format!("nbd://h/{}", "x".repeat(4097)).parse::<Uri>().is_err());
    }

    fn any_place() -> impl Strategy<Value = Place> {
        let host = prop_oneof!["[a-z0-9.-]{1,20}", Just("::1".to_owned()), Just("2001:db8::7".to_owned())];
        let path = prop::collection::vec(1u8.., 1..40);
        prop_oneof![
            (host, 1u16..).prop_map(|(host, port)| Place::Tcp { host, port }),
            path.prop_map(|bytes| Place::Unix(OsString::from_vec(bytes).into())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same(
            place in any_place(), export in "[^\0]{0,40}", tls: bool, hostname in prop::option::of("\\PC{1,20}"),
            directory in prop::option::of(prop::collection::vec(1u8.., 1..20)), value in prop::option::of("\\PC{0,20}"),
        ) {
            let uri = Uri {
                place, export: Name::new(&export).unwrap(), tls,
                certificates: directory.filter(|_| tls).map(|bytes| OsString::from_vec(bytes).into()),
                hostname: hostname.filter(|_| tls),
                parameters: value.map(|value| ("bitmap".to_owned(), value)).into_iter().collect(),
            };
            prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
        }

        #[test]
        fn any_text_is_refused_or_prints_as_something_equal(text in "nbds?(\\+unix)?://[ -~]{0,40}(\\?socket=[ -~]{0,20})?") {
            if let Ok(uri) = text.parse::<Uri>() {
                prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
            }
        }
    }
}
