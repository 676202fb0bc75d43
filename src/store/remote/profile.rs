//! The part of AWS's profile file that says where a service is: region, endpoint, how buckets are addressed. Credentials in it are the
//! business of the protocol's library.
//!
//! A file that is not there or makes no sense says nothing.

use super::env::Env;
use std::path::PathBuf;

/// No profile file is longer.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What a profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) addressing_style: Option<String>,
}

/// The profile that the environment names.
pub(super) fn of_the_environment(env: &Env) -> Profile {
    let named = env.get("AWS_CONFIG_FILE").map(PathBuf::from);
    let usual = || Some(PathBuf::from(env.get("HOME")?).join(".aws/config"));
    let Some(path) = named.or_else(usual) else { return Profile::default() };
    let fits = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_LEN_MAX);
    let text = if fits { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
    parse(&text, env.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]).unwrap_or("default"))
}

/// The section of one profile. A line that is indented belongs to the key before it, as `addressing_style` does to `s3`.
pub(super) fn parse(text: &str, name: &str) -> Profile {
    let mut profile = Profile::default();
    let (mut here, mut within) = (false, "");
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) =
            bare.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(title, _)| title)
        {
            let title = title.trim();
            here = title == name || title.strip_prefix("profile").is_some_and(|title| title.trim() == name);
            within = "";
            continue;
        }
        let Some((key, value)) = bare.split_once('=').filter(|_| here) else { continue };
        let (key, value) = (key.trim(), value.trim());
        let parent = if line.starts_with([' ', '\t']) { within } else { "" };
        match (parent, key) {
            ("", "region") => profile.region = Some(value.to_owned()),
            ("", "endpoint_url") => profile.endpoint = Some(value.to_owned()),
            ("s3", "addressing_style") => profile.addressing_style = Some(value.to_owned()),
            ("s3", "endpoint_url") => profile.endpoint = Some(value.to_owned()),
            _ => {}
        }
        if parent.is_empty() {
            within = key;
        }
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
# mine
[default]
region = eu-west-1
s3 =
    addressing_style = virtual
output = json

[profile far]
endpoint_url=https://rgw.example.org
region=far-1
[profile farther]
nonsense
s3 =
  endpoint_url = http://127.0.0.1:1
";

    proptest::proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(text in "(\\[?[a-z ]{0,8}\\]?[=#;\n\t ]?.{0,6}\n){0,12}", name in ".{0,6}") {
            let _profile = parse(&text, &name);
        }
    }

    #[test]
    fn a_profile_says_where_its_service_is() {
        let some = |text: &str| Some(text.to_owned());
        let default =
            Profile { region: some("eu-west-1"), endpoint: None, addressing_style: some("virtual") };
        assert_eq!(parse(FILE, "default"), default);
        let far = parse(FILE, "far");
        assert_eq!((far.region, far.endpoint), (some("far-1"), some("https://rgw.example.org")));
        assert_eq!(parse(FILE, "farther").endpoint, some("http://127.0.0.1:1"));
        assert_eq!(parse(FILE, "nobody"), Profile::default());
    }
}
