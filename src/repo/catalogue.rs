//! Which backups there are: the records, read through the merged catalogue and through this machine's copies.
//!
//! A backup is listed if, and only if, its own record is in the store. Catalogue objects and local copies only spare reading
//! each of them; all of them are sealed, the local copies too.

use super::objects::random_id;
use super::state::State;
use super::{Repository, names};
use crate::error::{Context, Error, Kind, Result};
use crate::format::index::{parse_supersedes, write_supersedes};
use crate::format::listing::{RECORD_LEN_HERE_MAX, parse_part, write_parts};
use crate::format::record::Record;
use crate::format::{BackupId, Corrupt, ObjectId, ids::SealKind};
use std::collections::{HashMap, HashSet};

/// With fewer backups than this, the copies on this machine are not worth opening.
const COPIES_FROM: usize = 64;
/// With so many records in no catalogue, a writer merges them into one.
const LOOSE_MAX: usize = 64;
/// How many records are read at once.
const AT_ONCE: usize = 16;

/// All backups, and what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// Records that are damaged: their id and why.
    pub damaged: Vec<(BackupId, Error)>,
}

impl Listing {
    /// What went away meanwhile is passed over, what is damaged is named.
    fn take(&mut self, id: BackupId, read: Result<Record>) -> Result<()> {
        match read {
            Ok(record) => self.records.push(record),
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                self.damaged.push((id, error));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.records.sort_by_key(|record| (record.time, record.written, record.id));
    }
}

impl Repository {
    /// Lists all backups, imported ones too. A record that can't be read is named beside the others. What lies here needs no import.
    pub async fn list(&self) -> Result<Listing> {
        let mut listing = self.list_ours().await?;
        let here: HashSet<BackupId> = listing.records.iter().map(|record| record.id).collect();
        let mut imports = self.import_ids().await?;
        imports.retain(|id| !here.contains(id));
        for some in imports.chunks(AT_ONCE) {
            let futures = some.iter().map(|&id| async move { (id, self.imported(id).await) });
            for (id, read) in crate::repo::together(futures).await {
                listing.take(id, read.map(|(record, _)| record))?;
            }
        }
        listing.sort();
        Ok(listing)
    }

    /// Lists the backups that lie here.
    pub async fn list_ours(&self) -> Result<Listing> {
        let ids: Vec<BackupId> = self.record_ids().await?;
        let copies = (ids.len() >= COPIES_FROM).then(|| State::open(&self.cache));
        let known = match ids.len() {
            0..LOOSE_MAX => HashMap::new(),
            _ => self.catalogued(copies.as_ref()).await?.0,
        };
        self.list_with(ids, known, copies.as_ref()).await
    }

    /// Lists the backups that lie here by their records alone: what a catalogue or this machine knows of a record says nothing about the record.
    pub async fn list_records(&self) -> Result<Listing> {
        self.list_with(self.record_ids().await?, HashMap::new(), None).await
    }

    async fn list_with(
        &self,
        ids: Vec<BackupId>,
        mut known: HashMap<BackupId, Record>,
        copies: Option<&State>,
    ) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut missing = Vec::new();
        for id in ids {
            match known.remove(&id) {
                Some(record) => listing.records.push(record),
                None => missing.push(id),
            }
        }
        for (id, read) in self.read_records(missing, copies).await {
            listing.take(id, read)?;
        }
        listing.sort();
        Ok(listing)
    }

    /// The ids of all backups, imported ones too.
    pub async fn backup_ids(&self) -> Result<Vec<BackupId>> {
        let mut ids = self.record_ids().await?;
        let here: HashSet<BackupId> = ids.iter().copied().collect();
        ids.extend(self.import_ids().await?.into_iter().filter(|id| !here.contains(id)));
        Ok(ids)
    }

    /// The ids of the backups that lie here.
    pub async fn record_ids(&self) -> Result<Vec<BackupId>> {
        let objects = self.list_objects(SealKind::Record).await?;
        Ok(objects.into_iter().map(|(id, _)| BackupId(id.0)).collect())
    }

    /// One record, from the store; an imported one if none lies here.
    pub async fn record(&self, id: BackupId) -> Result<Record> {
        match self.record_bytes(id, None).await {
            Err(missing) if missing.kind() == Kind::Missing => match self.imported(id).await {
                Err(error) if error.kind() == Kind::Missing => Err(missing),
                imported => imported.map(|(record, _)| record),
            },
            read => read,
        }
    }

    async fn record_bytes(&self, id: BackupId, copies: Option<&State>) -> Result<Record> {
        self.record_json(id, copies).await.map(|(record, _)| record)
    }

    /// A record, and its JSON as it is stored, which may say more than this build knows.
    async fn record_json(
        &self,
        id: BackupId,
        copies: Option<&State>,
    ) -> Result<(Record, crate::seal::Verified)> {
        let parts = self.object_here_or_there(SealKind::Record, id.into(), copies).await?;
        let [part] = parts.as_slice() else {
            let count = Error::from(Corrupt::Count { table: parts.len() as u64, trailer: 1 });
            return Err(count).context(|| format!("read the record of backup {id}"));
        };
        let record = Record::parse(part).map_err(Error::from).and_then(|record| {
            let same = record.id == id && record.repository == self.id();
            if same {
                Ok((record, part.clone()))
            } else {
                Err(Corrupt::OtherName { found: record.id.to_string() }.into())
            }
        });
        record.context(|| format!("read the record of backup {id}"))
    }

    async fn read_records(
        &self,
        ids: Vec<BackupId>,
        copies: Option<&State>,
    ) -> Vec<(BackupId, Result<Record>)> {
        let mut read = Vec::with_capacity(ids.len());
        for some in ids.chunks(AT_ONCE) {
            let futures = some.iter().map(|&id| async move { (id, self.record_bytes(id, copies).await) });
            read.extend(crate::repo::together(futures).await);
        }
        read
    }

    /// The parts of an object, from this machine's copy if it has one.
    async fn object_here_or_there(
        &self,
        kind: SealKind,
        id: ObjectId,
        copies: Option<&State>,
    ) -> Result<Vec<crate::seal::Verified>> {
        let Some(copies) = copies else { return self.get_object(kind, id).await };
        let name = names::object(kind, id)?;
        let repository = self.id().to_string();
        let copy = copies.object(&repository, name.as_str());
        if let Some(Ok(parts)) = copy.map(|bytes| self.open_object(kind, id, &bytes)) {
            return Ok(parts);
        }
        let (parts, bytes) = self.get_object_bytes(kind, id).await?;
        copies.put_object(&repository, name.as_str(), &bytes);
        Ok(parts)
    }

    /// What the catalogue objects say, which of them are needed for it, and all that those take the place of.
    async fn catalogued(&self, copies: Option<&State>) -> Result<(HashMap<BackupId, Record>, Catalogues)> {
        let mut objects = self.list_objects(SealKind::Catalog).await?;
        objects.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
        let mut records = HashMap::new();
        let mut catalogues = Catalogues::default();
        for (id, _) in objects {
            if catalogues.superseded.contains(&id) {
                continue;
            }
            let mut take = |record: Record, _: &[u8]| drop(records.insert(record.id, record));
            match self.read_catalogue(id, copies, &mut take).await {
                Ok((replaces, count)) => {
                    catalogues.superseded.extend(replaces);
                    catalogues.needed.push((id, count));
                }
                Err(error) => tracing::warn!("{error}; the records themselves are read instead"),
            }
        }
        Ok((records, catalogues))
    }

    async fn read_catalogue(
        &self,
        id: ObjectId,
        copies: Option<&State>,
        take: &mut (dyn FnMut(Record, &[u8]) + Send),
    ) -> Result<(Vec<ObjectId>, usize)> {
        let parts = self.object_here_or_there(SealKind::Catalog, id, copies).await?;
        let Some((first, rest)) = parts.split_first() else { return Ok((Vec::new(), 0)) };
        let mut count = 0;
        for part in rest {
            for (backup, json) in parse_part(part)? {
                let record = Record::parse(json)?;
                if record.id == backup && record.repository == self.id() {
                    count += 1;
                    take(record, json);
                }
            }
        }
        Ok((parse_supersedes(first)?, count))
    }

    /// Merges records that no catalogue has into one, together with catalogues that are no larger: their number grows with the
    /// logarithm of the number of backups.
    pub async fn merge_catalogue(&self) -> Result<()> {
        let ids = self.record_ids().await?;
        if ids.len() < LOOSE_MAX {
            return Ok(());
        }
        let copies = State::open(&self.cache);
        let (known, catalogues) = self.catalogued(Some(&copies)).await?;
        let loose: Vec<BackupId> = ids.iter().filter(|id| !known.contains_key(id)).copied().collect();
        if loose.len() < LOOSE_MAX {
            return Ok(());
        }
        let live: HashSet<BackupId> = ids.into_iter().collect();
        let mut merged = Merged::new();
        for some in loose.chunks(AT_ONCE) {
            let futures = some.iter().map(|&id| self.record_json(id, Some(&copies)));
            for (record, json) in crate::repo::together(futures).await.into_iter().flatten() {
                let _new = merged.insert(in_order(&record), json.to_vec());
            }
        }
        let mut size = merged.len();
        let mut supersedes: Vec<ObjectId> = catalogues.superseded.iter().copied().collect();
        let mut needed = catalogues.needed;
        needed.sort_by_key(|(_, count)| *count);
        for (id, count) in needed {
            if count > size.saturating_mul(2) {
                break;
            }
            let mut take = |record: Record, json: &[u8]| {
                if live.contains(&record.id) {
                    let _same = merged.insert(in_order(&record), json.to_vec());
                }
            };
            let _read = self.read_catalogue(id, Some(&copies), &mut take).await?;
            supersedes.push(id);
            size += count;
        }
        merged.retain(|_, json| json.len() <= RECORD_LEN_HERE_MAX);
        let mut parts = vec![write_supersedes(&supersedes)];
        parts.extend(write_parts(merged.iter().map(|((_, _, id), json)| (*id, json.as_slice()))));
        let _len = self.put_object(SealKind::Catalog, random_id()?, &parts).await?;
        Ok(())
    }
}

#[derive(Default)]
struct Catalogues {
    needed: Vec<(ObjectId, usize)>,
    superseded: HashSet<ObjectId>,
}

/// What backups are ordered by.
type Order = (jiff::Timestamp, jiff::Timestamp, BackupId);
/// Records as they are stored, in the order in which backups are listed.
type Merged = std::collections::BTreeMap<Order, Vec<u8>>;

fn in_order(record: &Record) -> Order {
    (record.time, record.written, record.id)
}
