//! S3: from the environment that AWS's own tools read to an operator that signs its requests.
//!
//! Credentials are found by the library, in the order of AWS's tools: variables, profiles, roles of the machine. They are asked for anew
//! before they end.

use super::env::Env;
use super::place::Place;
use super::profile;
use crate::error::{Error, Kind, Result};
use opendal::{Operator, services};
use std::path::PathBuf;

/// Where AWS's own buckets are looked for when nobody says.
const REGION_USUAL: &str = "us-east-1";

/// An operator for the bucket, and the file of further certificates that its client needs.
#[cfg(feature = "s3")]
pub(super) fn operator(place: &Place, env: &Env) -> Result<(Operator, Option<PathBuf>)> {
    let profile = profile::of_the_environment(env);
    let endpoint =
        env.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]).map(str::to_owned).or(profile.endpoint);
    let endpoint = endpoint.filter(|_| !env.says_yes("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"));
    let region = env.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).map(str::to_owned).or(profile.region);
    let style = env.get("AWS_S3_ADDRESSING_STYLE").map(str::to_owned).or(profile.addressing_style);
    let mut builder = services::S3::default()
        .bucket(&place.bucket)
        .endpoint(endpoint.as_deref().unwrap_or("https://s3.amazonaws.com"))
        .region(region.as_deref().unwrap_or(REGION_USUAL));
    if is_virtual(style.as_deref(), endpoint.is_some(), &place.bucket) {
        builder = builder.enable_virtual_host_style();
    }
    if let (Some(id), Some(secret)) = (env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")) {
        builder = builder.access_key_id(id).secret_access_key(secret);
        builder = builder.session_token(env.get("AWS_SESSION_TOKEN").unwrap_or_default());
        builder = builder.disable_config_load();
    }
    if env.says_yes("AWS_EC2_METADATA_DISABLED") {
        builder = builder.disable_ec2_metadata();
    }
    let operator = Operator::new(builder).map_err(|cause| {
        Error::new(Kind::Usage, format!("open {place}: {}", cause.message()))
            .hint("AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say where it is and who asks")
    })?;
    Ok((operator, env.get("AWS_CA_BUNDLE").map(PathBuf::from)))
}

/// This build has no S3, and its places are not known by name either.
#[cfg(not(feature = "s3"))]
pub(super) fn operator(place: &Place, _env: &Env) -> Result<(Operator, Option<PathBuf>)> {
    Err(Error::new(Kind::Unsupported, format!("open {place}: this build has no S3")))
}

/// Whether the bucket is part of the host's name: so at AWS itself, if its name can be one; elsewhere only when asked for.
fn is_virtual(style: Option<&str>, has_endpoint: bool, bucket: &str) -> bool {
    match style {
        Some("virtual") => !bucket.contains('.'),
        Some("path") => false,
        _ => !has_endpoint && !bucket.contains('.'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_part_of_the_host_at_aws_only_unless_asked_for() {
        assert!(is_virtual(None, false, "mine") && !is_virtual(None, false, "my.own"));
        assert!(!is_virtual(None, true, "mine") && is_virtual(Some("virtual"), true, "mine"));
        assert!(!is_virtual(Some("path"), false, "mine") && !is_virtual(Some("virtual"), true, "my.own"));
    }
}
