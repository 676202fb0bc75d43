//! Times as Cinder writes them: `2026-01-05 05:00:00+00:00` in a container, `2026-01-05T05:00:00Z` in an export record,
//! `20260105050000` in a prefix. Before Liberty the first had no offset; it may have microseconds.

use super::Refused;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Reads any of the first two; without an offset it is UTC.
pub(super) fn parse(what: &'static str, text: &str) -> Result<Timestamp, Refused> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let civil: DateTime = text.parse().map_err(|_| Refused::Time { what })?;
    Offset::UTC.to_timestamp(civil).map_err(|_| Refused::Time { what })
}

/// As in a container.
pub fn in_container(time: Timestamp) -> String {
    let civil = Offset::UTC.to_datetime(time);
    let micros = civil.subsec_nanosecond().checked_div(1000).unwrap_or(0);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{}{fraction}+00:00", civil.strftime("%Y-%m-%d %H:%M:%S"))
}

/// As in an export record: whole seconds.
pub fn in_record(time: Timestamp) -> String {
    Offset::UTC.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As in a prefix.
pub fn in_prefix(time: Timestamp) -> String {
    Offset::UTC.to_datetime(time).strftime("%Y%m%d%H%M%S").to_string()
}

/// From a prefix.
pub(super) fn of_prefix(text: &str) -> Option<Timestamp> {
    let is_stamp = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    let civil = is_stamp.then(|| DateTime::strptime("%Y%m%d%H%M%S", text).ok()).flatten()?;
    Offset::UTC.to_timestamp(civil).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_that_cinder_ever_wrote() {
        let wanted: Timestamp = "2026-01-05T05:00:00Z".parse().unwrap();
        for text in [
            "2026-01-05 05:00:00+00:00",
            "2026-01-05 05:00:00",
            "2026-01-05T05:00:00Z",
            "2026-01-05T05:00:00",
        ] {
            assert_eq!(parse("created_at", text), Ok(wanted), "{text}");
        }
        let finer: Timestamp = "2026-01-05T05:00:00.001234Z".parse().unwrap();
        assert_eq!(parse("created_at", "2026-01-05 05:00:00.001234+00:00"), Ok(finer));
        assert_eq!(in_container(wanted), "2026-01-05 05:00:00+00:00");
        assert_eq!(in_container(finer), "2026-01-05 05:00:00.001234+00:00");
        assert_eq!(in_record(finer), "2026-01-05T05:00:00Z");
        assert_eq!(of_prefix(&in_prefix(wanted)), Some(wanted));
        for wrong in ["", "yesterday", "2026-13-05 05:00:00", "2026-01-05"] {
            let is_time = parse("created_at", wrong);
            assert!(wrong == "2026-01-05" || is_time == Err(Refused::Time { what: "created_at" }), "{wrong}");
        }
        assert_eq!(of_prefix("2026010505000"), None);
        assert_eq!(of_prefix("20260105250000"), None);
    }
}
