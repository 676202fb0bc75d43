//! Names of backups and items <-> names of files.
//!
//! A byte that cannot or should not stand in a file name becomes `%` and two hex digits: `/`, NUL and other control characters, `%` itself,
//! characters that change the direction of writing (a name shall not look like another one), and the first dot of `.` and `..`.
//! What is longer than a file name may be ends in `%~` and 32 digits of its digest, which no other name does: the beginning still
//! reads, no two names meet, and the whole name stands in `backup.json`.

use std::fmt::Write;
use xxhash_rust::xxh3::xxh3_128;

/// The longest name of a file, in bytes.
const LEN_MAX: usize = 255;
/// `%~` and the digest.
const DIGEST_LEN: usize = 2 + 32;

/// The file name that stands for `name`. Never empty, `.` or `..`, without `/` and NUL, at most 255 bytes.
pub fn escape(name: &str) -> String {
    let leading_dot = matches!(name, "." | "..").then_some(0);
    escape_also(name, leading_dot)
}

/// The same for an item of a backup, which must not look like what stands beside it: `backup.json`, and `<item>.d` with what is inside.
pub(super) fn escape_item(name: &str) -> String {
    match name {
        "backup.json" => escape_also(name, Some("backup".len())),
        name if name.ends_with(".d") => escape_also(name, Some(name.len() - ".d".len())),
        name => escape(name),
    }
}

/// Escapes what has to be escaped, and the character that begins at `also`.
fn escape_also(name: &str, also: Option<usize>) -> String {
    let mut out = String::with_capacity(name.len());
    // Where the escaped name may be cut without cutting a character or an escape.
    let mut cut = 0;
    for (at, char) in name.char_indices() {
        match is_harmless(char) && also != Some(at) {
            true => out.push(char),
            false => percent(&mut out, char),
        }
        if out.len() <= LEN_MAX - DIGEST_LEN {
            cut = out.len();
        }
    }
    if out.len() > LEN_MAX {
        out.truncate(cut);
        let _fits = write!(out, "%~{:032x}", xxh3_128(name.as_bytes()));
    }
    // No backup has an empty name; a file without one could not be shown.
    if out.is_empty() { "%".to_owned() } else { out }
}

/// The name that a file name stands for; `None` where it is none that [`escape`] gives, or one that was too long.
pub fn unescape(escaped: &str) -> Option<String> {
    if escaped == "%" {
        return Some(String::new());
    }
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        rest = &rest[2..];
    }
    String::from_utf8(out).ok()
}

fn percent(out: &mut String, char: char) {
    let mut buffer = [0; 4];
    for byte in char.encode_utf8(&mut buffer).bytes() {
        let _fits = write!(out, "%{byte:02X}");
    }
}

fn is_harmless(char: char) -> bool {
    let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !turns && !matches!(char, '%' | '/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn f8_plain_names_stay_and_odd_ones_are_escaped() {
        for (name, escaped) in [
            ("web01", "web01"),
            ("Ünï code.d", "Ünï code.d"),
            (".", "%2E"),
            ("..", "%2E."),
            ("...", "..."),
            (".hidden", ".hidden"),
            ("100%", "100%25"),
            ("a/b\n\0", "a%2Fb%0A%00"),
            ("evil\u{202e}gpj", "evil%E2%80%AEgpj"),
            ("", "%"),
        ] {
            assert_eq!(escape(name), escaped);
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
    }

    #[test]
    fn an_item_never_hides_what_stands_beside_it() {
        assert_eq!(escape_item("backup.json"), "backup%2Ejson");
        assert_eq!(escape_item("disk.img.d"), "disk.img%2Ed");
        assert_eq!(escape_item("disk.img"), "disk.img");
        assert_eq!(unescape("disk.img%2Ed").as_deref(), Some("disk.img.d"));
    }

    #[test]
    fn f8_names_of_any_length_fit_and_stay_apart() {
        for len in [200, 254, 255, 256, 1000] {
            let (a, b) = ("n".repeat(len) + "a", "n".repeat(len) + "b");
            assert!(escape(&a).len() <= LEN_MAX && escape(&a) != escape(&b), "{len}");
        }
        let wide = "\u{202e}".repeat(66);
        assert!(escape(&wide).len() <= LEN_MAX && escape(&wide).contains("%~"));
        assert_eq!(unescape(&escape(&wide)), None, "a shortened name is told from an escaped one");
    }

    proptest! {
        #[test]
        fn f8_escaping_is_reversible_and_gives_file_names(name in "\\PC{0,40}|[\\x00-\\x7f]{0,40}|[.]{0,3}") {
            for escaped in [escape(&name), escape_item(&name)] {
                prop_assert!((1..=LEN_MAX).contains(&escaped.len()));
                prop_assert!(!matches!(escaped.as_str(), "." | ".." | "backup.json"));
                prop_assert!(!escaped.contains(['/', '\0']) && !escaped.chars().any(char::is_control));
                if !escaped.contains("%~") {
                    prop_assert_eq!(unescape(&escaped), Some(name.clone()));
                }
            }
        }

        #[test]
        fn unescaping_anything_never_panics(text in "\\PC{0,40}|[%0-9A-Fa-f~+]{0,20}") {
            let _ = unescape(&text);
        }
    }
}
