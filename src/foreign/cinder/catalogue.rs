//! Drafts -> backups: who is whose parent, how large each image is, what each is called, and what is wrong with those that are not whole.
//!
//! Pure. What is wrong with one backup is said of it, and of those that need it, and of nobody else.

use super::chain::{LAYERS_MAX, OBJECTS_MAX, Sizes, size_of};
use super::document::names::Prefix;
use super::document::volume::VolumeMeta;
use super::document::{Uuid, time};
use super::draft::{Draft, Facts};
use crate::format::ids::{ChunkId, PackId, Place};
use crate::format::record::{Content, Item, Record, Root, Stats, Writer, is_name};
use crate::format::{BackupId, RepositoryId};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Chunks have about this length: a whole number of blocks.
const CHUNK_LEN: u64 = 128 << 10;

/// A backup.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) draft: Arc<Draft>,
    pub(super) record: Record,
    /// What its image is made of, if it is one.
    pub(super) image: Option<Image>,
}

/// What an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) size: u64,
    pub(super) id: ChunkId,
    pub(super) chunk: u64,
    pub(super) parent: Option<Uuid>,
    /// How many bytes of it some object holds, at most.
    allocated: u64,
    layers: usize,
    objects: u64,
}

/// A draft, and what it says of the volume.
type Drafted = (Arc<Draft>, Option<VolumeMeta>);

/// All backups of a container.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// Oldest first.
    pub(super) backups: Vec<Known>,
    places: HashMap<BackupId, usize>,
}

impl Catalogue {
    /// Makes sense of the drafts of a container, which stands for this home.
    pub(super) fn new(drafts: Vec<Arc<Draft>>, home: RepositoryId) -> Catalogue {
        let mut of_id: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (place, draft) in drafts.iter().enumerate() {
            if let Ok(facts) = &draft.says {
                let _first = of_id.entry(facts.id()).or_insert(place);
            }
        }
        let images = Images::new(&drafts, &of_id).all();
        let metas: Vec<Option<VolumeMeta>> = drafts.iter().map(|draft| volume_meta(draft)).collect();
        let names = names(&drafts, &metas);
        let known = |(place, ((draft, meta), image)): (usize, (Drafted, _))| {
            let is_copy = draft.says.as_ref().is_ok_and(|facts| of_id.get(&facts.id()) != Some(&place));
            let image = if is_copy { Err("the same backup lies elsewhere, too".to_owned()) } else { image };
            known((draft, meta), image, is_copy, &names, home)
        };
        let mut backups: Vec<Known> =
            drafts.into_iter().zip(metas).zip(images).enumerate().map(known).collect();
        backups.sort_by_key(|known| (known.record.time, known.record.written, known.record.id));
        let places = backups.iter().enumerate().map(|(place, known)| (known.record.id, place)).collect();
        Catalogue { backups, places }
    }

    pub(super) fn get(&self, id: BackupId) -> Option<&Known> {
        self.places.get(&id).and_then(|place| self.backups.get(*place))
    }
}

/// Finds out what each image is made of, parents before children.
struct Images<'a> {
    drafts: &'a [Arc<Draft>],
    of_id: &'a BTreeMap<Uuid, usize>,
    done: Vec<Option<Result<Image, String>>>,
}

impl<'a> Images<'a> {
    fn new(drafts: &'a [Arc<Draft>], of_id: &'a BTreeMap<Uuid, usize>) -> Images<'a> {
        Images { drafts, of_id, done: vec![None; drafts.len()] }
    }

    fn all(mut self) -> Vec<Result<Image, String>> {
        for place in 0..self.drafts.len() {
            self.settle(place);
        }
        self.done
            .into_iter()
            .map(|image| image.unwrap_or_else(|| Err("it was not looked at".into())))
            .collect()
    }

    /// Goes up to where something is known already, and back down.
    fn settle(&mut self, place: usize) {
        let (mut way, mut on_the_way, mut next) = (Vec::new(), BTreeSet::new(), Some(place));
        while let Some(here) = next.filter(|here| self.done.get(*here).is_some_and(Option::is_none)) {
            if !on_the_way.insert(here) {
                let leads_back = || Some(Err("its parents lead back to itself".to_owned()));
                let from = way.iter().position(|place| *place == here).unwrap_or(0);
                way.drain(from..).for_each(|place: usize| self.done[place] = leads_back());
                break;
            }
            way.push(here);
            next =
                self.facts(here).and_then(Facts::parent).and_then(|parent| self.of_id.get(&parent)).copied();
        }
        while let Some(here) = way.pop() {
            self.done[here] = Some(self.image(here));
        }
    }

    fn facts(&self, place: usize) -> Option<&'a Facts> {
        self.drafts.get(place).and_then(|draft| draft.says.as_ref().ok())
    }

    /// All parents are settled.
    fn image(&self, place: usize) -> Result<Image, String> {
        let facts = self.drafts[place].says.as_ref().map_err(Clone::clone)?;
        let parent = match facts.parent() {
            None => None,
            Some(id) => {
                let found = self.of_id.get(&id).ok_or_else(|| format!("its parent {id} is not here"))?;
                let image = self.done.get(*found).and_then(Option::as_ref);
                let why = |why: &String| format!("its parent {id} can't be used: {why}");
                Some(image.ok_or_else(|| format!("its parent {id} is not known"))?.as_ref().map_err(why)?)
            }
        };
        let digests = facts.digests.clone().transpose()?;
        if digests.is_none() && !facts.has_md5s {
            return Err("nothing tells what its bytes should be: it has no digests".to_owned());
        }
        let sizes = Sizes { digests, end: facts.end, parent: parent.map(|parent| parent.size) };
        let size = size_of(&sizes)?;
        let layers = parent.map_or(0, |parent| parent.layers) + 1;
        let objects = parent.map_or(0, |parent| parent.objects) + facts.named.count;
        if layers > LAYERS_MAX || objects > OBJECTS_MAX as u64 {
            return Err(format!(
                "its chain has {layers} layers and {objects} objects, the limits are {LAYERS_MAX} and {OBJECTS_MAX}"
            ));
        }
        let block = digests.map_or(CHUNK_LEN, |(_, block)| block);
        let mut id = Sha256::new();
        id.update(b"cinder");
        id.update(facts.digest);
        id.update(parent.map_or([0; 32], |parent| parent.id.0));
        Ok(Image {
            size,
            id: ChunkId(id.finalize().into()),
            chunk: block * CHUNK_LEN.div_ceil(block),
            parent: facts.parent(),
            allocated: parent.map_or(0, |parent| parent.allocated).saturating_add(facts.covered).min(size),
            layers,
            objects,
        })
    }
}

/// What each volume is called: as its newest backup has it, and told from others that are called the same.
fn names(drafts: &[Arc<Draft>], metas: &[Option<VolumeMeta>]) -> HashMap<Uuid, String> {
    let mut newest: BTreeMap<Uuid, (Timestamp, Option<&str>)> = BTreeMap::new();
    for (draft, meta) in drafts.iter().zip(metas) {
        let Ok(facts) = &draft.says else { continue };
        let name = meta.as_ref().and_then(VolumeMeta::display_name);
        let known = newest.entry(facts.volume()).or_insert((facts.created_at, None));
        if name.is_some() && (known.1.is_none() || facts.created_at >= known.0) {
            *known = (facts.created_at, name);
        }
    }
    let mut called: HashMap<&str, usize> = HashMap::new();
    for name in newest.values().filter_map(|(_, name)| *name) {
        *called.entry(name).or_default() += 1;
    }
    let name_of = |(volume, (_, name)): (Uuid, (Timestamp, Option<&str>))| {
        let id = volume.to_string();
        let name = match name {
            None => id,
            Some(name) if called.get(name).is_some_and(|count| *count > 1) => {
                escaped(&format!("{name}.{}", id.get(..8).unwrap_or_default()))
            }
            Some(name) => escaped(name),
        };
        (volume, name)
    };
    newest.into_iter().map(name_of).collect()
}

fn volume_meta(draft: &Draft) -> Option<VolumeMeta> {
    let text = draft.says.as_ref().ok()?.volume_meta.as_deref()?;
    VolumeMeta::parse(text).ok()
}

/// A name that somebody else gave, as one of ours: what can't stand in one is `%` and two digits; what is too long ends in its digest.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for char in name.chars() {
        if matches!(char, '/' | '@' | ',' | '=' | '%') || char.is_control() {
            percent(&mut out, char);
        } else {
            out.push(char);
        }
    }
    let is_short = |out: &str| out.len() <= crate::format::limits::NAME_LEN_MAX;
    if !is_short(&out) {
        let mut cut = crate::format::limits::NAME_LEN_MAX - 34;
        // Neither a character nor an escape is cut in two.
        let in_escape = |cut: usize| out.as_bytes()[cut - 2..cut].contains(&b'%');
        while !out.is_char_boundary(cut) || in_escape(cut) {
            cut -= 1;
        }
        out.truncate(cut);
        let _fits = write!(out, "%~{:032x}", xxh3_128(name.as_bytes()));
    }
    if is_name(&out) {
        return out;
    }
    // It looks like an id, or is nothing at all.
    let mut rest = out.chars();
    let mut other = String::new();
    match rest.next() {
        Some(first) => percent(&mut other, first),
        None => other.push('%'),
    }
    other + rest.as_str()
}

fn percent(out: &mut String, char: char) {
    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
        let _fits = write!(out, "%{byte:02X}");
    }
}

fn known(
    (draft, meta): Drafted,
    image: Result<Image, String>,
    is_copy: bool,
    names: &HashMap<Uuid, String>,
    home: RepositoryId,
) -> Known {
    let path = draft.found.path.as_str();
    let facts = draft.says.as_ref().ok();
    let prefix = facts.map_or_else(
        || Prefix::parse(path),
        |facts| Prefix::told(path, &facts.prefix).unwrap_or_else(|| Prefix::parse(path)),
    );
    let volume = facts.map(Facts::volume).or(prefix.volume);
    let own_id =
        facts.map(Facts::id).or(prefix.backup).filter(|_| !is_copy && (facts.is_some() || image.is_err()));
    // What has no id, or one that another has, is still listed.
    let id = own_id.map_or_else(|| BackupId(xxh3_128(path.as_bytes()).to_be_bytes()), BackupId::from);
    let missing =
        facts.is_some_and(|facts| !facts.named.same(&draft.found.data)).then(|| absent(&draft)).flatten();
    let why: Vec<String> = match &image {
        Err(why) if draft.found.metadata.is_none() => {
            let _same = why;
            vec!["it has no index: it was not finished, or its index was removed".to_owned()]
        }
        Err(why) => vec![why.clone()],
        Ok(_) => missing.into_iter().collect(),
    };
    let latest = i64::try_from(draft.found.data.latest).unwrap_or(0);
    let time = facts.map(|facts| facts.created_at).or(prefix.time);
    let time = time.or_else(|| Timestamp::from_second(latest).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    let name = volume
        .and_then(|volume| names.get(&volume).cloned())
        .or_else(|| volume.map(|volume| volume.to_string()));
    let text = |column: &str| meta.as_ref().and_then(|meta| meta.text(column).map(str::to_owned));
    let [project, user, group] = ["project_id", "user_id", "group_id"].map(text);
    let record = Record {
        version: 1,
        repository: home,
        id,
        name: name.unwrap_or_else(|| escaped(prefix.text)),
        time,
        written: time,
        parent: facts.and_then(Facts::parent).map(BackupId::from),
        items: image.as_ref().ok().map(|image| item(image, volume)).into_iter().collect(),
        tags: BTreeMap::new(),
        metadata: metadata(&draft, &prefix, volume, meta),
        project,
        user,
        group,
        consistency: None,
        protocol: None,
        writer: Writer { program: "cinder".to_owned(), host: String::new() },
        stats: Stats {
            bytes_read: facts.map_or(0, |facts| facts.covered),
            bytes_new: facts.map_or(0, |facts| facts.covered),
            bytes_stored: draft.found.data.stored,
            seconds: 0.0,
        },
        unread: why,
    };
    Known { draft, record, image: image.ok() }
}

/// How many of the objects that an index names are not there; nothing, when there are only some too many.
fn absent(draft: &Draft) -> Option<String> {
    let facts = draft.says.as_ref().ok()?;
    let (named, seen) = (facts.named.count, draft.found.data.count);
    match named.checked_sub(seen) {
        Some(0) => Some("an object that its index names is missing".to_owned()),
        Some(missing) => Some(format!("{missing} of the {named} objects that its index names are missing")),
        None => None,
    }
}

fn item(image: &Image, volume: Option<Uuid>) -> Item {
    let root = Root {
        id: image.id,
        place: Place { pack: PackId([0; 16]), offset: 0, len: 0 },
        level: 0,
        chunk_size: u32::try_from(image.chunk).unwrap_or(u32::MAX),
    };
    let source = volume.map(|volume| format!("Cinder volume {volume}"));
    Item {
        name: "disk.img".to_owned(),
        content: Content::Image { size: image.size, allocated: image.allocated, root, sha256: None },
        source: json!({ "name": source }),
        changed_while_read: false,
    }
}

/// All that Cinder knows of a backup, by Cinder's names.
fn metadata(
    draft: &Draft,
    prefix: &Prefix<'_>,
    volume: Option<Uuid>,
    meta: Option<VolumeMeta>,
) -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    add("container", json!(prefix.container));
    add("service_metadata", json!(prefix.text));
    add("layout", json!(prefix.layout.word()));
    add("volume_id", json!(volume));
    if let Ok(facts) = &draft.says {
        add("backup_id", json!(facts.id()));
        add("backup_name", json!(facts.backup_name));
        add("backup_description", json!(facts.backup_description));
        add("created_at", json!(time::in_container(facts.created_at)));
        add("parent_id", json!(facts.parent()));
        add("object_count", json!(facts.named.count));
        add("compressions", json!(facts.compressions));
        add(
            "sha256_block",
            json!(facts.digests.as_ref().and_then(|digests| digests.as_ref().ok()).map(|(_, block)| block)),
        );
    }
    if let Some(meta) = meta {
        add("encryption_key_id", json!(meta.encryption_key_id()));
        add("volume", meta.base.into());
        add("volume_metadata", meta.metadata.into());
        add("image_properties", meta.image.into());
    }
    all
}

#[cfg(test)]
mod tests;
