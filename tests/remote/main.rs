//! Repositories in a service across a network, through the built command: a small cloud of our own, in S3's language and in Swift's.
//!
//! The same against the real ones is in the slow tier.

#[path = "../common/mod.rs"]
mod common;

#[path = "../common/cloud/mod.rs"]
#[allow(dead_code)] // made for several tests
mod cloud;

#[path = "../mount/world.rs"]
mod world;

mod cinder;
mod flows;
mod mounted;
mod requests;
mod sync;
mod trouble;

use cloud::{BUCKET, Cloud};
use common::Sandbox;
use std::sync::Arc;

/// What is spoken to the cloud.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Language {
    S3,
    Swift,
}

pub(crate) const BOTH: [Language; 2] = [Language::S3, Language::Swift];

impl Language {
    pub(crate) fn place(self, prefix: &str) -> String {
        match self {
            Language::S3 => format!("s3://{BUCKET}/{prefix}"),
            Language::Swift => format!("swift://{BUCKET}/{prefix}"),
        }
    }

    pub(crate) fn env(self, cloud: &Cloud) -> Vec<(String, String)> {
        match self {
            Language::S3 => cloud.s3_env(),
            Language::Swift => cloud.swift_env(),
        }
    }
}

/// A cloud and a sandbox whose repository is in it.
pub(crate) fn house(language: Language) -> (Arc<Cloud>, Sandbox) {
    let cloud = Cloud::start();
    let sand = Sandbox::of_service(&language.place("backups"), &language.env(&cloud));
    let _made = sand.done(&["init"]);
    (cloud, sand)
}
