//! Export records as people have them, in whatever a client has printed them.
//!
//! ```text
//! { "backup-record": { "backup_service", "backup_url" } }     the service's own answer; the inner object alone; lists of them; one behind the other
//! | backup_service | cinder.backup... |                       the clients' table; a value that was too wide goes on in the lines below
//! backup_url  eyJk...                                         two words a line
//! eyJk...                                                     the URL alone
//! ```

use super::record::ExportRecord;
use super::refused::len_within;
use super::{Refused, limits};
use serde::Deserialize;
use std::fmt::Write;

const SERVICE: &str = "backup_service";
const URL: &str = "backup_url";
/// What any driver's name begins with.
const ANY_SERVICE: &str = "cinder.backup.drivers";

/// All records in a text, in their order.
pub fn parse(text: &[u8]) -> Result<Vec<ExportRecord>, Refused> {
    len_within("length of export records", text.len(), limits::LISTED_LEN_MAX)?;
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let records = match first {
        None => Vec::new(),
        Some(b'{' | b'[') => of_json(text)?,
        Some(_) => of_lines(std::str::from_utf8(text).map_err(|_| Refused::NoRecord)?)?,
    };
    if records.is_empty() { Err(Refused::NoRecord) } else { Ok(records) }
}

/// Records as people get them: two lines each, which is one of the forms that [`parse`] reads.
pub fn write(records: &[ExportRecord]) -> String {
    let mut out = String::new();
    for ExportRecord { backup_service, backup_url } in records {
        let _fits = writeln!(out, "{SERVICE}  {backup_service}\n{URL}  {backup_url}");
    }
    out
}

#[derive(Deserialize)]
#[serde(untagged)]
enum One {
    Whole {
        #[serde(rename = "backup-record")]
        record: ExportRecord,
    },
    Inner(ExportRecord),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Single(One),
    Several(Vec<One>),
}

fn of_json(text: &[u8]) -> Result<Vec<ExportRecord>, Refused> {
    let mut records = Vec::new();
    for document in serde_json::Deserializer::from_slice(text).into_iter::<Document>() {
        let some = match document? {
            Document::Single(one) => vec![one],
            Document::Several(several) => several,
        };
        records.extend(some.into_iter().map(|one| match one {
            One::Whole { record } | One::Inner(record) => record,
        }));
        len_within("export records", records.len(), limits::LISTED_MAX)?;
    }
    Ok(records)
}

/// What was read of a record that has not all its parts yet, and which part may go on in the next line.
#[derive(Default)]
struct Partial {
    service: Option<String>,
    url: Option<String>,
    last: Option<&'static str>,
}

impl Partial {
    fn part(&mut self, key: &str) -> &mut Option<String> {
        if key == SERVICE { &mut self.service } else { &mut self.url }
    }
}

fn of_lines(text: &str) -> Result<Vec<ExportRecord>, Refused> {
    let (mut records, mut partial) = (Vec::new(), Partial::default());
    for line in text.lines() {
        let (key, value) = columns(line);
        let key = [SERVICE, URL].into_iter().find(|known| *known == key);
        match (key, partial.last) {
            (Some(key), _) => {
                if partial.part(key).is_some() {
                    records.push(whole(std::mem::take(&mut partial))?);
                }
                *partial.part(key) = Some(value.to_owned());
                partial.last = Some(key);
            }
            // What did not fit into the line above.
            (None, Some(last))
                if line.trim_start().starts_with('|') && !value.is_empty() && columns(line).0.is_empty() =>
            {
                partial.part(last).get_or_insert_default().push_str(value);
            }
            (None, _) if is_url(line.trim()) => {
                if partial.url.is_some() {
                    records.push(whole(std::mem::take(&mut partial))?);
                }
                partial.url = Some(line.trim().to_owned());
            }
            _ => {}
        }
        len_within("export records", records.len(), limits::LISTED_MAX)?;
    }
    if partial.url.is_some() || partial.service.is_some() {
        records.push(whole(partial)?);
    }
    Ok(records)
}

/// The two columns of a line, of a table or not.
fn columns(line: &str) -> (&str, &str) {
    let line = line.trim();
    match line.strip_prefix('|') {
        Some(row) => {
            let row = row.strip_suffix('|').unwrap_or(row);
            let (key, value) = row.split_once('|').unwrap_or((row, ""));
            (key.trim(), value.trim())
        }
        None => {
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (key.trim_end_matches([':', '=']), value.trim())
        }
    }
}

/// JSON in base64 begins so, whatever is in it.
fn is_url(text: &str) -> bool {
    text.starts_with("ey") && text.len() > 16 && !text.contains(char::is_whitespace)
}

fn whole(partial: Partial) -> Result<ExportRecord, Refused> {
    let backup_url = partial.url.filter(|url| !url.is_empty()).ok_or(Refused::Absent { what: URL })?;
    let backup_service = partial.service.unwrap_or_else(|| ANY_SERVICE.to_owned());
    Ok(ExportRecord { backup_service, backup_url })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::sample;
    use super::*;
    use proptest::prelude::*;

    fn record() -> ExportRecord {
        ExportRecord::of("cinder.backup.drivers.posix.PosixBackupDriver", &sample()).unwrap()
    }

    #[test]
    fn records_are_read_in_every_form_that_clients_print() {
        let one = record();
        let (service, url) = (&one.backup_service, &one.backup_url);
        let inner = serde_json::to_string(&one).unwrap();
        let whole = String::from_utf8(one.write().unwrap()).unwrap();
        let (left, right) = url.split_at(40);
        for text in [
            inner.clone(),
            whole.clone(),
            format!(" [{inner}]\n"),
            write(&[record()]),
            format!(
                "+---+---+\n| Property | Value |\n+---+---+\n| {SERVICE} | {service} |\n| {URL}     | {url} |\n+---+---+\n"
            ),
            format!(
                "| Field | Value |\n| {SERVICE} | {service} |\n| {URL} | {left} |\n|            | {right} |\n"
            ),
            format!("{SERVICE}: {service}\n{URL}: {url}\n"),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|records| records[0].row()), Ok(Ok(sample())), "{text}");
        }
        assert_eq!(parse(url.as_bytes()).unwrap()[0].backup_service, ANY_SERVICE);
        for several in [
            format!("{inner}\n{whole}"),
            format!("[{whole}, {inner}]"),
            write(&[record(), record()]),
            format!("{url}\n\n{url}\n"),
        ] {
            assert_eq!(parse(several.as_bytes()).unwrap().len(), 2, "{several}");
        }
    }

    #[test]
    fn what_holds_no_record_is_refused() {
        for text in ["", "\n", "hello", "| a | b |", "[]", "eyJ"] {
            assert_eq!(parse(text.as_bytes()), Err(Refused::NoRecord), "{text}");
        }
        assert!(matches!(parse(b"{}"), Err(Refused::Json { .. })));
        assert_eq!(parse(format!("{SERVICE} x").as_bytes()), Err(Refused::Absent { what: URL }));
        assert_eq!(parse(b"\xff\xfe"), Err(Refused::NoRecord));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,80}|([|{ \\[\n]|backup_url|backup_service|eyJhYmNkZWZnaGlqa2w=){0,20}") {
            if let Ok(records) = parse(text.as_bytes()) {
                prop_assert!(!records.is_empty());
            }
        }
    }
}
