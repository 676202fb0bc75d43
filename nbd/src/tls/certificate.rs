//! The names in a client's certificate: its subject's common name and its DNS names.
//!
//! Only asked once a certificate's signature was verified, and still careful: what isn't plain DER gives no names.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use crate::export::Identity;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
/// `[3]` around the extensions of a certificate.
const EXTENSIONS: u8 = 0xa3;
/// `[2]` in a subject alternative name: a DNS name.
const DNS_NAME: u8 = 0x82;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// A certificate with more names than this is not asked for the rest.
const NAMES_MAX: usize = 64;

/// Who a verified certificate says its holder is.
pub(crate) fn identity(der: &[u8]) -> Identity {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Identity { names: names(der).unwrap_or_default(), fingerprint }
}

/// The front of some DER, moving forward.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first & 0x7f);
        if first & 0x80 != 0 {
            let digits;
            (digits, rest) = rest.split_at_checked(len).filter(|_| len <= 4)?;
            len = digits.iter().fold(0usize, |len, digit| (len << 8) | usize::from(*digit));
        }
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    fn each(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self;
        std::iter::from_fn(move || rest.next())
    }
}

fn names(der: &[u8]) -> Option<Vec<String>> {
    let mut body = Der(Der(Der(der).take(SEQUENCE)?).take(SEQUENCE)?);
    // version [0] where there is one, serial, algorithm, issuer, validity, subject
    let (tag, _) = body.next()?;
    let before_subject = if tag == 0xa0 { 4 } else { 3 };
    for _ in 0..before_subject {
        let _skipped = body.next()?;
    }
    let subject = body.take(SEQUENCE)?;
    let extensions = body.each().find(|(tag, _)| *tag == EXTENSIONS).map(|(_, content)| content);
    let alternative = extensions.and_then(alternative_names).unwrap_or_default();
    let common = common_names(subject);
    let all = alternative.into_iter().chain(common);
    Some(all.take(NAMES_MAX).collect())
}

fn common_names(subject: &[u8]) -> Vec<String> {
    let parts = Der(subject).each().filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| Der(set).each());
    let value = |(_, part)| {
        let mut pair = Der(part);
        let is_common_name = pair.take(OID)? == COMMON_NAME;
        let (_, text) = pair.next().filter(|_| is_common_name)?;
        text_of(text)
    };
    parts.filter_map(value).collect()
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let list = Der(extensions).take(SEQUENCE)?;
    let names = Der(list).each().find_map(|(_, extension)| {
        let mut fields = Der(extension);
        let wanted = fields.take(OID)? == SUBJECT_ALT_NAME;
        // `critical` may stand between
        let content = fields.each().find(|(tag, _)| *tag == OCTETS).filter(|_| wanted)?.1;
        Der(content).take(SEQUENCE)
    })?;
    let dns = Der(names).each().filter(|(tag, _)| *tag == DNS_NAME);
    Some(dns.filter_map(|(_, text)| text_of(text)).collect())
}

fn text_of(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common: &str, dns: &[&str]) -> Vec<u8> {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Org");
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_fingerprint_are_read_from_a_certificate() {
        let der = certificate("Backup Client", &["web01.example", "web02.example"]);
        let identity = identity(&der);
        assert_eq!(identity.names, ["web01.example", "web02.example", "backup client"]);
        assert_eq!(identity.fingerprint.len(), 64);
        assert_eq!(super::identity(&certificate("alone", &[])).names, ["alone"]);
    }

    #[test]
    fn damaged_certificates_give_names_or_none_and_never_panic() {
        let der = certificate("Backup Client", &["web01.example"]);
        for len in 0..der.len() {
            drop(identity(&der[..len]));
        }
        for at in 0..der.len() {
            for value in [0, 0x80, 0x84, 0xff] {
                let mut damaged = der.clone();
                damaged[at] = value;
                drop(identity(&damaged));
            }
        }
    }
}
