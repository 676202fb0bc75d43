//! JSON as Python's `json.dumps` writes it, so that what we write is what Cinder would have written.

use super::Refused;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};

/// As `json.dumps(value, sort_keys=True, indent=2)`, if its keys come sorted.
pub(super) fn indented(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    written(value, Ascii { inner: PrettyFormatter::new(), spaced: false })
}

/// As `json.dumps(value)`: on one line, with a space behind each comma and colon.
pub(super) fn on_one_line(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    written(value, Ascii { inner: CompactFormatter, spaced: true })
}

fn written<F: Formatter>(value: &impl Serialize, formatter: F) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
    Ok(out)
}

/// What is not ASCII is escaped, in pairs of surrogates if need be.
struct Ascii<F> {
    inner: F,
    spaced: bool,
}

impl<F: Formatter> Formatter for Ascii<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut units = [0; 2];
        for char in text.chars() {
            // What has to be escaped in JSON anyway does not come here.
            if matches!(char, ' '..='~') {
                out.write_all(char.encode_utf8(&mut [0; 4]).as_bytes())?;
                continue;
            }
            for unit in char.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.inner.begin_array_value(out, first)?;
        self.space(out, !first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.inner.begin_object_key(out, first)?;
        self.space(out, !first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.begin_object_value(out)?;
        self.space(out, true)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.inner.end_object_value(out)
    }
}

impl<F> Ascii<F> {
    fn space<W: ?Sized + Write>(&self, out: &mut W, here: bool) -> io::Result<()> {
        if self.spaced && here { out.write_all(b" ") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_written_as_python_does() {
        let value = json!({ "a": "ä\n\u{1f4be}", "b": [1, 2], "c": {}, "d": [], "e": null });
        let line = r#"{"a": "\u00e4\n\ud83d\udcbe", "b": [1, 2], "c": {}, "d": [], "e": null}"#;
        assert_eq!(String::from_utf8(on_one_line(&value).unwrap()).unwrap(), line);
        let indented = String::from_utf8(indented(&json!({ "a": [], "b": [1] })).unwrap()).unwrap();
        assert_eq!(indented, "{\n  \"a\": [],\n  \"b\": [\n    1\n  ]\n}");
    }
}
