//! Sizes and durations, as people write and read them. Units are powers of 1024.

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes, perhaps with K, M, G or T behind it.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let off = || format!("{text:?} is no size: a number of bytes, or one with K, M, G or T behind it");
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (number, shift) = match bare.as_bytes().last() {
        Some(b'K') => (&bare[..bare.len() - 1], 10),
        Some(b'M') => (&bare[..bare.len() - 1], 20),
        Some(b'G') => (&bare[..bare.len() - 1], 30),
        Some(b'T') => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number: u64 = number.parse().map_err(|_| off())?;
    number.checked_mul(1 << shift).ok_or_else(off)
}

/// A number of bytes for people: three digits and a unit.
pub(super) fn size(bytes: u64) -> String {
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    match (unit, number) {
        (0, _) => format!("{bytes} B"),
        (_, ..10.0) => format!("{number:.2} {}", UNITS[unit]),
        (_, ..100.0) => format!("{number:.1} {}", UNITS[unit]),
        _ => format!("{number:.0} {}", UNITS[unit]),
    }
}

/// Text from a record, which somebody else may have written, as a terminal can bear it (X9).
pub(super) fn plain(text: &str) -> String {
    let escaped = |letter: char| letter.is_control().then(|| letter.escape_default().to_string());
    text.chars().map(|letter| escaped(letter).unwrap_or_else(|| letter.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x9_what_a_record_says_cannot_speak_to_the_terminal() {
        assert_eq!(plain("web01 Ünïcode"), "web01 Ünïcode");
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("128K", 131_072),
            ("2m", 2 << 20),
            ("20GiB", 20 << 30),
            ("64T", 64 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for bad in ["", "K", "-1", "1.5G", "1X", "99999999999999999999", "99999999T", "é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            [size(0), size(1023), size(1536), size(10 << 20), size(64 << 40)],
            ["0 B", "1023 B", "1.50 KiB", "10.0 MiB", "64.0 TiB"]
        );
    }
}
