//! The house keeps its floors: who may import whom, who touches the machine's files, who asks what time it is.
//!
//! Reads the source, without comments, texts and (where it says so) tests, and names file and line of whatever breaks the table.
//! A new room gets its floor here, and its paragraph in `src/ARCHITECTURE.md`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Highest first. A room imports rooms of lower floors only; rooms of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    &["view", "exports", "sync"],
    &["restore", "backup", "upkeep"],
    &["foreign", "inside"],
    &["image", "source"],
    &["repo"],
    &["store", "seal"],
    &["format"],
    &["progress"],
    &["error", "clock"],
];

/// Packages, and who in `src/` may import them.
const DOORS: &[(&str, &[&str])] = &[
    ("fuser", &[]),
    ("afterimage_mountd", &["cli", "view"]),
    ("afterimage_nbd", &["cli", "exports", "restore", "source"]),
    ("memmap2", &["repo/segments/map.rs"]),
    ("sled", &["repo/state"]),
    ("aws_lc_rs::aead", &["seal"]),
    ("zstd", &["seal", "foreign/cinder/stored", "foreign/cinder/write"]),
    ("zlib_rs", &["foreign/cinder/stored", "foreign/cinder/write"]),
    ("md5", &["foreign/cinder/layers.rs", "foreign/cinder/write"]),
    ("base64", &["foreign/cinder/document/record.rs"]),
    ("argon2", &["seal"]),
    ("clap", &["cli"]),
    ("opendal", &["store/remote"]),
    ("reqwest", &["store/remote"]),
];

/// Who touches the machine's files, and what for.
const TOUCH_FILES: &[(&str, &str)] = &[
    ("store/local", "a store in a directory"),
    ("store/remote/profile.rs", "the file that says where AWS's services are"),
    ("store/remote/wire.rs", "certificates of a service's own authority"),
    ("source", "what is backed up"),
    ("restore", "what is restored to"),
    ("foreign/cinder/write", "containers for Cinder"),
    ("exports", "targets, and the files of overlays"),
    ("repo/segments", "this machine's copy of the index"),
    ("image/disk", "the disk tier of the chunk cache"),
    ("image/whole.rs", "whole images as plain files beside it"),
    ("repo/state", "this machine's copies of small objects"),
    ("foreign/cinder/index.rs", "this machine's copy of what others' documents say"),
    ("foreign/cinder/stored/points.rs", "places to begin at in what others compressed"),
    ("upkeep/check.rs", "a folder for what outgrows memory, gone with the check"),
    ("cli", "password files, metadata, the control socket"),
];
const FILE_WORDS: &[&str] = &[
    "std::fs",
    "rustix::fs",
    "tokio::fs",
    "File::open",
    "OpenOptions",
    ".exists()",
    ".try_exists()",
    ".canonicalize()",
    ".symlink_metadata()",
];

const CLOCK: &[&str] = &["clock.rs"];
const CLOCK_WORDS: &[&str] = &["SystemTime::now", "Timestamp::now", "Zoned::now", "UNIX_EPOCH.elapsed"];

const UNSAFE: &[&str] = &["repo/segments/map.rs"];

#[test]
fn imports_go_down_and_never_sideways() {
    let mut wrong = String::new();
    for file in sources("src") {
        let Some(room) = file.room() else { continue };
        let Some(floor) = floor_of(room) else {
            let _ = writeln!(wrong, "{}: room {room} stands on no floor of tests/floors.rs", file.shown);
            continue;
        };
        for (line, other) in imports(&file.code, file.depth()) {
            let Some(below) = floor_of(&other) else { continue };
            if other != room && below <= floor {
                let _ =
                    writeln!(wrong, "{}:{line}: {room} imports {other}, which is not below it", file.shown);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn each_package_is_let_in_by_its_own_door() {
    let mut wrong = String::new();
    for file in sources("src") {
        for (package, doors) in DOORS {
            for line in lines_with(&file.tested, &format!("{package}::")) {
                if !file.is_in(doors) {
                    let _ = writeln!(wrong, "{}:{line}: {package} is for {doors:?}", file.shown);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn only_the_named_rooms_touch_the_machines_files() {
    let allowed: Vec<&str> = TOUCH_FILES.iter().map(|(room, _)| *room).collect();
    complain("touches the machine's files", &sources("src"), FILE_WORDS, &allowed);
}

#[test]
fn one_file_asks_what_time_it_is() {
    complain("asks the clock", &sources("src"), CLOCK_WORDS, CLOCK);
    for package in ["mountd/src", "nbd/src"] {
        complain("asks the clock", &sources(package), CLOCK_WORDS, &[]);
    }
}

#[test]
fn one_file_has_the_word_unsafe() {
    complain("is unsafe", &sources("src"), &["unsafe"], UNSAFE);
    for package in ["mountd/src", "nbd/src"] {
        complain("is unsafe", &sources(package), &["unsafe"], &[]);
    }
}

#[test]
fn every_file_that_a_table_excepts_needs_it() {
    let files = sources("src");
    let excepted = TOUCH_FILES.iter().map(|(place, _)| (*place, FILE_WORDS));
    let excepted = excepted.chain(CLOCK.iter().map(|place| (*place, CLOCK_WORDS)));
    let excepted = excepted.chain(UNSAFE.iter().map(|place| (*place, &["unsafe"][..])));
    for (place, words) in excepted.filter(|(place, _)| place.ends_with(".rs")) {
        let file =
            files.iter().find(|file| file.path == place).unwrap_or_else(|| panic!("there is no {place}"));
        let needed = words.iter().any(|word| !lines_with(&file.tested, word).is_empty());
        assert!(needed, "{place} has an exception in tests/floors.rs that it no longer needs");
    }
}

#[test]
fn the_eye_that_reads_the_source_sees_what_it_should() {
    let source = r##"
        use crate::{store::{Name, Store}, error::Result}; // crate::cli
        const TEXT: &str = "crate::view //"; fn f() { crate::repo::g('"', b'\'', "\"crate::image"); }
        /* crate::backup /* crate::restore */ crate::source */ fn life<'a>(x: &'a str) -> &'a str { super::super::seal::x }
        const RAW: &str = r#"crate::upkeep "quoted" "#; const B: &[u8] = br"crate::cli";
        #[cfg(test)]
        mod tests { use crate::exports::{A}; fn g() { unsafe {} } }
        fn after() { crate::format::h() }
    "##;
    let code = blank_words(source);
    let seen = |code: &str| {
        imports(code, 2).into_iter().map(|(line, room)| format!("{line} {room}")).collect::<Vec<_>>()
    };
    assert_eq!(seen(&code), ["2 store", "2 error", "3 repo", "4 seal", "7 exports", "8 format"]);
    let tested = blank_tests(&code);
    assert_eq!(seen(&tested), ["2 store", "2 error", "3 repo", "4 seal", "8 format"]);
    assert_eq!((lines_with(&code, "unsafe"), lines_with(&tested, "unsafe")), (vec![7], vec![]));
    assert!(
        lines_with("deny(unsafe_code)", "unsafe").is_empty() && lines_with("my_sled::x", "sled::").is_empty()
    );
}

/// A file of the source.
struct Source {
    /// Its path in the package's `src/`, as the tables write it.
    path: String,
    /// Its path as people see it.
    shown: String,
    /// What it says, without comments and texts.
    code: String,
    /// The same without tests; nothing, when all of it is one.
    tested: String,
}

impl Source {
    /// The folder or file right below `src/`; none for the roots, which know all.
    fn room(&self) -> Option<&str> {
        let room = self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        (!matches!(room, "lib" | "main")).then_some(room)
    }

    /// How many `super::` lead from here to the root.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || self.path.starts_with(&format!("{place}/")))
    }
}

/// Names every line outside of tests that has one of the words, unless its file is in one of the places.
fn complain(what: &str, files: &[Source], words: &[&str], places: &[&str]) {
    let mut wrong = String::new();
    for file in files.iter().filter(|file| !file.is_in(places)) {
        for word in words {
            for line in lines_with(&file.tested, word) {
                let _ = writeln!(wrong, "{}:{line}: {what} ({word})", file.shown);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// Every Rust file below a folder of the workspace.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut left = vec![root.clone()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("read a folder of the source") {
            let path: PathBuf = entry.expect("read a folder of the source").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(&root, folder, &path));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no source");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn source(root: &Path, folder: &str, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("read a source file");
    let path = path
        .strip_prefix(root)
        .expect("below its root")
        .to_str()
        .expect("source files have plain names")
        .to_owned();
    let is_test =
        path.split(['/', '.']).any(|part| part == "testing" || part == "tests" || part.ends_with("_tests"));
    let code = blank_words(&text);
    let tested = if is_test { String::new() } else { blank_tests(&code) };
    Source { shown: format!("{folder}/{path}"), path, code, tested }
}

/// The source with everything that is no code turned into spaces: comments, texts, single characters. Lines stay where they are.
fn blank_words(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let len = match &bytes[at..] {
            [b'/', b'/', ..] => {
                bytes[at..].iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len() - at)
            }
            [b'/', b'*', ..] => comment_len(&bytes[at..]),
            [b'r', b'"' | b'#', ..] if !is_word(bytes, at) => raw_len(&bytes[at..]),
            [b'"', ..] => quoted_len(&bytes[at..], b'"'),
            [b'\'', b'\\', ..] => quoted_len(&bytes[at..], b'\''),
            [b'\'', rest @ ..] => character_len(rest),
            _ => 0,
        };
        for byte in &mut out[at..at + len] {
            *byte = if *byte == b'\n' { b'\n' } else { b' ' };
        }
        at += len.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a word goes on here; behind a `b` that stands alone, as in `br"`, none does.
fn is_word(bytes: &[u8], at: usize) -> bool {
    let is_part = |at: usize| bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_';
    match at.checked_sub(1) {
        Some(before) if bytes[before] == b'b' => before > 0 && is_part(before - 1),
        before => before.is_some_and(is_part),
    }
}

fn comment_len(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_len(bytes: &[u8]) -> usize {
    let hashes = bytes[1..].iter().take_while(|&&byte| byte == b'#').count();
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    if bytes.get(1 + hashes) != Some(&b'"') {
        return 0; // a raw identifier
    }
    let body = &bytes[2 + hashes..];
    body.windows(end.len())
        .position(|window| window == end)
        .map_or(bytes.len(), |at| 2 + hashes + at + end.len())
}

fn quoted_len(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// A character between quotes; a lifetime has no second one.
fn character_len(rest: &[u8]) -> usize {
    let end = rest.iter().take(5).skip(1).position(|&byte| byte == b'\'');
    end.filter(|&end| std::str::from_utf8(&rest[..end + 1]).is_ok_and(|text| text.chars().count() == 1))
        .map_or(0, |end| end + 3)
}

/// The code without what is compiled for tests only.
fn blank_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|at| from + at) {
        let end = item_end(code.as_bytes(), at + "#[cfg(test)]".len());
        out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        from = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the item that begins here ends: at its `;`, or with its braces.
fn item_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Lines on which a word stands by itself.
fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let is_part = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let bytes = code.as_bytes();
    let ends_open = word.ends_with(|last: char| !last.is_alphanumeric());
    code.match_indices(word)
        .filter(|(at, _)| word.starts_with('.') || !is_part(at.checked_sub(1).map(|before| bytes[before])))
        .filter(|(at, _)| ends_open || !is_part(bytes.get(at + word.len()).copied()))
        .map(|(at, _)| line_of(code, at))
        .collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The rooms that paths lead to, by `crate::` and by as many `super::` as lead to the root, with their lines.
fn imports(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    for root in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let first = firsts(&code[at + root.len()..]);
            found.extend(first.into_iter().map(|room| (line_of(code, at), room)));
        }
    }
    found.retain(|(_, room)| floor_of(room).is_some());
    found.sort_by_key(|(line, _)| *line);
    found
}

/// The first name of a path, or of each path in braces.
fn firsts(path: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut begins) = (0, Vec::new(), true);
    for (at, byte) in group.bytes().enumerate() {
        if begins {
            names.push(name(&group[at..]));
            begins = false;
        }
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => break,
            b'}' => depth -= 1,
            b',' if depth == 0 => begins = true,
            _ => {}
        }
    }
    names
}
