//! What the repository's objects are called, and which of the names in a listing are ours.

use crate::error::Result;
use crate::format::{ObjectId, PackId, config, ids::SealKind, ids::from_hex};
use crate::store::Name;

/// Folder of the packs.
pub const PACKS: &str = "packs/";
/// Folder of the records.
pub const BACKUPS: &str = "backups/";
/// Folder of the key slots.
pub const KEYS: &str = "keys/";

/// The folder of one kind of sealed object.
pub fn folder(kind: SealKind) -> &'static str {
    match kind {
        SealKind::Record => BACKUPS,
        SealKind::Index => "index/",
        SealKind::Catalog => "catalog/",
        SealKind::Lease => "leases/",
        SealKind::Mark => "marks/",
        SealKind::Damaged => "damaged/",
        SealKind::Pin => "pins/",
        SealKind::Import => "imports/",
        SealKind::Data | SealKind::Node | SealKind::Table | SealKind::Tree => PACKS,
    }
}

/// The name of a pack.
pub fn pack(id: PackId) -> Result<Name> {
    let id = id.to_string();
    Name::parse(&format!("{PACKS}{}/{id}", &id[..2]))
}

/// The name of an object that is not a pack.
pub fn object(kind: SealKind, id: ObjectId) -> Result<Name> {
    Name::parse(&format!("{}{id}", folder(kind)))
}

/// The name of a key slot.
pub fn slot(id: ObjectId) -> Result<Name> {
    Name::parse(&format!("{KEYS}{id}"))
}

/// The name of the configuration.
pub fn config() -> Result<Name> {
    Name::parse(config::NAME)
}

/// The id that a listed name ends in; `None` for what is not ours.
pub fn id_of(name: &Name) -> Option<ObjectId> {
    from_hex(name.last()).map(ObjectId)
}
