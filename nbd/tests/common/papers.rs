//! Certificates of an authority that lives as long as a test.
#![allow(dead_code, unreachable_pub, missing_docs)] // each test binary uses its part of this

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with its key, both PEM.
pub struct Papers {
    pub certificate: String,
    pub key: String,
}

pub fn papers(issuer: &Authority, name: &str, expired: bool) -> Papers {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().pem();
    Papers { certificate, key: key.serialize_pem() }
}

/// Puts a certificate for that name, its key and its authority where NBD programs look for them; `role` is `server` or `client`.
pub fn issue(dir: &Path, by: &Authority, name: &str, role: &str) {
    let papers = papers(by, name, false);
    std::fs::write(dir.join("ca-cert.pem"), by.pem()).unwrap();
    std::fs::write(dir.join(format!("{role}-cert.pem")), papers.certificate).unwrap();
    std::fs::write(dir.join(format!("{role}-key.pem")), papers.key).unwrap();
}
