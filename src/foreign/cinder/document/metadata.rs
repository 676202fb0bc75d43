//! `<prefix>_metadata`: which bytes of the image lie in which object.
//!
//! ```text
//! { "version": "1.0.0", "backup_id", "volume_id", "backup_name", "backup_description", "created_at", "parent_id", "volume_meta",
//!   "objects": [ { "<prefix>-00001": { "offset", "length", "compression", "md5" } }, ... ] }
//! ```
//!
//! There may be a million objects, so they are read one by one into a few bytes each: all are called by the prefix and a number. Holds: they
//! come by offset, none is empty, and no byte lies in two.

use super::refused::{len_within, within};
use super::volume::VolumeMeta;
use super::{Refused, Uuid, json, limits, names, time};
use crate::format::ids::{from_hex, to_hex};
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::ops::Range;

/// The only version there ever was.
pub(super) const VERSION: &str = "1.0.0";

/// One backup's `_metadata`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// Which backup.
    pub backup_id: Uuid,
    /// Of which volume.
    pub volume_id: Uuid,
    /// What its maker called it.
    pub backup_name: Option<String>,
    /// What its maker said of it.
    pub backup_description: Option<String>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// The backup that it adds to; nothing: it is full.
    pub parent_id: Option<Uuid>,
    /// What is known of the volume, as it is written. See [`Metadata::volume`].
    pub volume_meta: Option<String>,
    /// The prefix that all objects share; nothing where there are none.
    pub prefix: Option<String>,
    /// Where its bytes lie, by offset.
    pub objects: Vec<Object>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its number, from which its name follows.
    pub number: u32,
    /// How its bytes are compressed.
    pub compression: Compression,
    /// MD5 of its plain bytes.
    pub md5: Option<[u8; 16]>,
    /// Where they begin in the image.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// How an object is compressed, by the word that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `none`: it is not.
    None,
    /// `zlib`.
    Zlib,
    /// `gzip`, which is zlib all the same.
    Gzip,
    /// `bz2`.
    Bz2,
    /// `bzip2`, which is the same.
    Bzip2,
    /// `zstd`.
    Zstd,
}

impl Compression {
    /// Reads the word, in any case.
    pub fn parse(word: &str) -> Option<Compression> {
        Some(match word.to_ascii_lowercase().as_str() {
            "none" | "off" | "no" => Compression::None,
            "zlib" => Compression::Zlib,
            "gzip" => Compression::Gzip,
            "bz2" => Compression::Bz2,
            "bzip2" => Compression::Bzip2,
            "zstd" => Compression::Zstd,
            _ => return None,
        })
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zlib => "zlib",
            Compression::Gzip => "gzip",
            Compression::Bz2 => "bz2",
            Compression::Bzip2 => "bzip2",
            Compression::Zstd => "zstd",
        }
    }
}

impl Object {
    /// Which bytes of the image it holds.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }

    /// The end of them.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

impl Metadata {
    /// Reads the document and judges what it says.
    pub fn parse(bytes: &[u8]) -> Result<Metadata, Refused> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        within("length of a _metadata", len, limits::METADATA_LEN_MAX)?;
        let mut fields = Fields::default();
        let mut from = serde_json::Deserializer::from_slice(bytes);
        let read = from.deserialize_map(&mut fields).and_then(|()| from.end());
        if let Some(refused) = fields.objects.refused.take() {
            return Err(refused);
        }
        read?;
        fields.judge()
    }

    /// Writes it, with objects called by this prefix.
    pub fn write(&self, prefix: &str) -> Result<Vec<u8>, Refused> {
        json::indented(&Written { metadata: self, prefix })
    }

    /// What is known of the volume.
    pub fn volume(&self) -> Result<Option<VolumeMeta>, Refused> {
        self.volume_meta.as_deref().map(VolumeMeta::parse).transpose()
    }

    /// Where the last of its objects ends.
    pub fn end(&self) -> u64 {
        self.objects.last().map_or(0, Object::end)
    }
}

/// What was read so far.
#[derive(Default)]
struct Fields {
    version: Option<String>,
    backup_id: Option<String>,
    volume_id: Option<String>,
    backup_name: Option<String>,
    backup_description: Option<String>,
    created_at: Option<String>,
    parent_id: Option<String>,
    volume_meta: Option<String>,
    has_objects: bool,
    objects: Objects,
}

#[derive(Default)]
struct Objects {
    prefix: Option<String>,
    list: Vec<Object>,
    refused: Option<Refused>,
}

impl Fields {
    fn judge(self) -> Result<Metadata, Refused> {
        let there = |what: &'static str, field: Option<String>| field.ok_or(Refused::Absent { what });
        is_known(&there("version", self.version)?)?;
        if !self.has_objects {
            return Err(Refused::Absent { what: "objects" });
        }
        for text in [&self.backup_name, &self.backup_description].into_iter().flatten() {
            len_within("length of a name", text.len(), limits::TEXT_LEN_MAX)?;
        }
        let small = limits::SMALL_JSON_LEN_MAX;
        len_within("length of volume_meta", self.volume_meta.as_ref().map_or(0, String::len), small)?;
        let Objects { prefix, mut list, .. } = self.objects;
        list.shrink_to_fit();
        judge_objects(&mut list)?;
        Ok(Metadata {
            backup_id: Uuid::of("backup_id", &there("backup_id", self.backup_id)?)?,
            volume_id: Uuid::of("volume_id", &there("volume_id", self.volume_id)?)?,
            backup_name: self.backup_name,
            backup_description: self.backup_description,
            created_at: time::parse("created_at", &there("created_at", self.created_at)?)?,
            parent_id: self.parent_id.map(|text| Uuid::of("parent_id", &text)).transpose()?,
            volume_meta: self.volume_meta,
            prefix,
            objects: list,
        })
    }
}

/// Refuses another version.
pub(super) fn is_known(version: &str) -> Result<(), Refused> {
    if version == VERSION {
        Ok(())
    } else {
        Err(Refused::Version { found: version.chars().take(20).collect() })
    }
}

/// Puts them in the order of their offsets, and sees to it that no byte lies in two.
fn judge_objects(list: &mut [Object]) -> Result<(), Refused> {
    let mut numbers: Vec<u32> = list.iter().map(|object| object.number).collect();
    numbers.sort_unstable();
    if let Some(number) = numbers.iter().zip(numbers.iter().skip(1)).find(|(a, b)| a == b) {
        return Err(Refused::Twice { number: *number.0 });
    }
    list.sort_unstable_by_key(|object| object.offset);
    let mut before: Option<&Object> = None;
    for object in list.iter() {
        let end = object.offset.checked_add(object.length).filter(|end| *end <= limits::IMAGE_LEN_MAX);
        if end.is_none() {
            return Err(Refused::Behind { number: object.number });
        }
        if let Some(before) = before.filter(|before| before.end() > object.offset) {
            let (first, second, offset) = (before.number, object.number, object.offset);
            return Err(Refused::Overlap { first, second, offset });
        }
        before = Some(object);
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for &mut Fields {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Fields {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the fields of a backup")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let field = match key.as_str() {
                "version" => &mut self.version,
                "backup_id" => &mut self.backup_id,
                "volume_id" => &mut self.volume_id,
                "backup_name" => &mut self.backup_name,
                "backup_description" => &mut self.backup_description,
                "created_at" => &mut self.created_at,
                "parent_id" => &mut self.parent_id,
                "volume_meta" => &mut self.volume_meta,
                "objects" => {
                    self.objects = Objects::default();
                    self.has_objects = true;
                    map.next_value_seed(&mut self.objects)?;
                    continue;
                }
                _ => {
                    let _unknown = map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = map.next_value()?;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Objects {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Objects {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of objects")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        while let Some(Entry(entry, found)) = list.next_element::<Entry>()? {
            let taken =
                entry.ok_or(Refused::Entry { found }).and_then(|(name, body)| self.take(&name, &body));
            if let Err(refused) = taken {
                let words = refused.to_string();
                self.refused = Some(refused);
                return Err(S::Error::custom(words));
            }
        }
        Ok(())
    }
}

/// One object of the list: its only name and what is said of it, and how many names there were.
struct Entry(Option<(String, Body)>, usize);

#[derive(Deserialize)]
struct Body {
    offset: u64,
    length: Option<u64>,
    compression: String,
    md5: Option<String>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Entry, D::Error> {
        struct Only;
        impl<'de> Visitor<'de> for Only {
            type Value = Entry;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object by its name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entry, M::Error> {
                let only = map.next_entry()?;
                let mut found = usize::from(only.is_some());
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    found = found.saturating_add(1);
                }
                Ok(Entry(only.filter(|_| found == 1), found))
            }
        }
        from.deserialize_map(Only)
    }
}

impl Objects {
    fn take(&mut self, name: &str, body: &Body) -> Result<(), Refused> {
        let odd = || Refused::ObjectName { found: name.chars().take(200).collect() };
        let (prefix, number) = names::split_data(name).ok_or_else(odd)?;
        match &self.prefix {
            None => self.prefix = Some(prefix.to_owned()),
            Some(known) if known != prefix => return Err(odd()),
            Some(_) => {}
        }
        len_within("objects of a backup", self.list.len().saturating_add(1), limits::OBJECTS_MAX)?;
        let unknown = || Refused::Compression { number, found: body.compression.chars().take(20).collect() };
        let length = body.length.ok_or(Refused::Absent { what: "length of an object" })?;
        if length == 0 {
            return Err(Refused::Empty { number });
        }
        let md5 =
            |text: &str| from_hex(&text.to_ascii_lowercase()).ok_or(Refused::Digest { what: "an object" });
        self.list.push(Object {
            number,
            compression: Compression::parse(&body.compression).ok_or_else(unknown)?,
            md5: body.md5.as_deref().map(md5).transpose()?,
            offset: body.offset,
            length,
        });
        Ok(())
    }
}

/// The document, to be written.
struct Written<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Written { metadata, prefix } = self;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("backup_description", &metadata.backup_description)?;
        map.serialize_entry("backup_id", &metadata.backup_id)?;
        map.serialize_entry("backup_name", &metadata.backup_name)?;
        map.serialize_entry("created_at", &time::in_container(metadata.created_at))?;
        map.serialize_entry("objects", &WrittenObjects { objects: &metadata.objects, prefix })?;
        map.serialize_entry("parent_id", &metadata.parent_id)?;
        map.serialize_entry("version", VERSION)?;
        map.serialize_entry("volume_id", &metadata.volume_id)?;
        map.serialize_entry("volume_meta", &metadata.volume_meta)?;
        map.end()
    }
}

struct WrittenObjects<'a> {
    objects: &'a [Object],
    prefix: &'a str,
}

impl Serialize for WrittenObjects<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.objects.len()))?;
        for object in self.objects {
            list.serialize_element(&WrittenObject { object, prefix: self.prefix })?;
        }
        list.end()
    }
}

struct WrittenObject<'a> {
    object: &'a Object,
    prefix: &'a str,
}

impl Serialize for WrittenObject<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Body {
            compression: &'static str,
            length: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            md5: Option<String>,
            offset: u64,
        }
        let Object { number, compression, md5, offset, length } = self.object;
        let body = Body {
            compression: compression.word(),
            length: *length,
            md5: md5.map(|md5| to_hex(&md5)),
            offset: *offset,
        };
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry(&names::data(self.prefix, *number), &body)?;
        map.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    pub(crate) const ID: &str = "12d0b1fc-9f7f-523d-a916-e42336c52cdc";
    pub(crate) const VOLUME: &str = "bb2ebea6-c926-5134-be54-6bc123212ee7";

    fn document(objects: &Value) -> Value {
        json!({
            "version": "1.0.0", "backup_id": ID, "volume_id": VOLUME, "backup_name": null, "backup_description": null,
            "created_at": "2026-01-05 05:00:00+00:00", "parent_id": null, "volume_meta": null, "objects": objects,
        })
    }

    fn parse(document: &Value) -> Result<Metadata, Refused> {
        Metadata::parse(&serde_json::to_vec(document).unwrap())
    }

    fn object(number: u32, offset: u64, length: u64) -> Value {
        json!({ format!("backup-{number:05}"): { "offset": offset, "length": length, "compression": "ZLIB" } })
    }

    #[test]
    fn a_document_without_what_came_later_is_full_and_has_no_name() {
        let metadata = parse(&json!({
            "version": "1.0.0", "backup_id": ID, "volume_id": VOLUME, "created_at": "2013-03-01 00:00:00",
            "objects": [], "later": { "unknown": [1] },
        }));
        let metadata = metadata.unwrap();
        assert!(metadata.parent_id.is_none() && metadata.objects.is_empty() && metadata.prefix.is_none());
        assert_eq!(metadata.volume(), Ok(None));
    }

    #[test]
    fn objects_come_by_offset_whatever_their_order() {
        let metadata = parse(&document(&json!([object(2, 100, 50), object(100_000, 0, 100)]))).unwrap();
        let numbers: Vec<u32> = metadata.objects.iter().map(|object| object.number).collect();
        assert_eq!((numbers, metadata.end()), (vec![100_000, 2], 150));
        assert_eq!(metadata.prefix.as_deref(), Some("backup"));
        assert_eq!(metadata.objects[0].compression, Compression::Zlib);
    }

    #[test]
    fn metadata_that_lies_is_refused_by_name() {
        let with = |key: &str, value: Value| {
            let mut document = document(&json!([object(1, 0, 1)]));
            document[key] = value;
            parse(&document).unwrap_err()
        };
        let one = |key: &str, value: Value| {
            let mut entry = object(1, 0, 1);
            entry["backup-00001"][key] = value;
            parse(&document(&json!([entry]))).unwrap_err()
        };
        let of = |objects: Value| parse(&document(&objects)).unwrap_err();
        assert_eq!(with("version", json!("1.0.1")), Refused::Version { found: "1.0.1".into() });
        assert_eq!(with("version", Value::Null), Refused::Absent { what: "version" });
        assert_eq!(with("backup_id", json!("web01")), Refused::Uuid { what: "backup_id" });
        assert_eq!(with("parent_id", json!("")), Refused::Uuid { what: "parent_id" });
        assert_eq!(with("created_at", json!("now")), Refused::Time { what: "created_at" });
        assert!(matches!(with("objects", Value::Null), Refused::Json { .. }));
        assert_eq!(
            one("compression", json!("lzma")),
            Refused::Compression { number: 1, found: "lzma".into() }
        );
        assert_eq!(one("length", json!(0)), Refused::Empty { number: 1 });
        assert_eq!(one("length", Value::Null), Refused::Absent { what: "length of an object" });
        assert_eq!(one("offset", json!(u64::MAX)), Refused::Behind { number: 1 });
        assert_eq!(one("md5", json!("12")), Refused::Digest { what: "an object" });
        assert!(matches!(one("offset", json!(-1)), Refused::Json { .. }));
        assert_eq!(of(json!([{}])), Refused::Entry { found: 0 });
        let two = json!({ "backup-00001": object(1, 0, 1)["backup-00001"], "backup-00002": 7 });
        assert_eq!(of(json!([two])), Refused::Entry { found: 2 });
        assert_eq!(of(json!([object(1, 0, 1), object(1, 1, 1)])), Refused::Twice { number: 1 });
        let overlap = Refused::Overlap { first: 2, second: 1, offset: 9 };
        assert_eq!(of(json!([object(1, 9, 10), object(2, 0, 10)])), overlap);
        for name in ["../x-00001", "other-00001", "backup-1", "backup-000001", "backup_metadata", "backup-"] {
            let body = object(1, 5, 1)["backup-00001"].clone();
            let refused = of(json!([object(9, 0, 1), { name: body }]));
            assert_eq!(refused, Refused::ObjectName { found: name.into() });
        }
    }

    #[test]
    fn x10_one_object_too_many_is_refused_before_it_is_kept() {
        let mut objects = Objects::default();
        let body = Body { offset: 0, length: Some(1), compression: "none".into(), md5: None };
        objects.list = Vec::with_capacity(limits::OBJECTS_MAX);
        while objects.list.len() < limits::OBJECTS_MAX {
            let number = u32::try_from(objects.list.len()).unwrap();
            let md5 = None;
            let offset = u64::from(number);
            objects.list.push(Object { number, compression: Compression::None, md5, offset, length: 1 });
        }
        assert!(matches!(objects.take("backup-00001", &body), Err(Refused::Limit { .. })));
    }

    pub(crate) fn any_object() -> impl Strategy<Value = (u64, u64, u8, bool)> {
        (0u64..1 << 20, 1u64..1 << 30, 0u8..6, any::<bool>())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            parts in prop::collection::vec(any_object(), 0..20), name in prop::option::of("\\PC{0,20}"),
            parent in any::<bool>(), micros in 0i64..1 << 52
        ) {
            let (mut at, mut objects) = (0, Vec::new());
            for (number, (gap, length, compression, has_md5)) in (1u32..).zip(parts) {
                let all = [Compression::None, Compression::Zlib, Compression::Gzip, Compression::Bz2, Compression::Bzip2, Compression::Zstd];
                let compression = all[usize::from(compression)];
                objects.push(Object { number, compression, md5: has_md5.then_some([7; 16]), offset: at + gap, length });
                at += gap + length;
            }
            let metadata = Metadata {
                backup_id: Uuid::parse(ID).unwrap(), volume_id: Uuid::parse(VOLUME).unwrap(),
                backup_name: name.clone(), backup_description: name,
                created_at: Timestamp::from_microsecond(micros).unwrap(),
                parent_id: parent.then_some(Uuid([3; 16])), volume_meta: parent.then(|| "{\"version\": 2}".into()),
                prefix: (!objects.is_empty()).then(|| "volume_x/y".into()), objects,
            };
            prop_assert_eq!(Metadata::parse(&metadata.write("volume_x/y").unwrap()), Ok(metadata));
        }
    }
}
