//! Every bound of the format, in one place, related to each other by the compiler.
//!
//! What reads stored bytes refuses what exceeds these, by name, before it allocates. A bound may be raised under a new version, never lowered:
//! what was written stays readable.

#![allow(clippy::as_conversions)] // constants, held against each other at compile time

/// The version that this build writes, and the newest it reads.
pub const VERSION: u16 = 1;

/// One KiB.
pub const KIB: u32 = 1024;
/// One MiB.
pub const MIB: u32 = 1024 * KIB;

/// The smallest chunk size a repository may choose.
pub const CHUNK_SIZE_MIN: u32 = 4 * KIB;
/// The largest chunk size a repository may choose, and the most plain bytes that anything sealed may hold.
pub const CHUNK_LEN_MAX: u32 = 4 * MIB;
/// The chunk size of a repository that was not told another.
pub const CHUNK_SIZE_DEFAULT: u32 = 128 * KIB;

/// What sealing adds: nonce, method, plain length, tag.
pub const SEAL_OVERHEAD: u32 = 12 + 1 + 4 + 16;
/// The longest sealed chunk.
pub const SEALED_LEN_MAX: u32 = CHUNK_LEN_MAX + SEAL_OVERHEAD;

/// Slots of one node of a map of fixed chunks.
pub const NODE_SLOTS: u16 = 256;
/// The most entries of a node of a map of chunks cut by content.
pub const NODE_ENTRIES_MAX: u16 = 4096;
/// The highest level of a node; a leaf is level 0. Seven levels of 4 KiB chunks are more than 2^63 bytes.
pub const LEVEL_MAX: u8 = 6;
/// The largest image or file.
pub const IMAGE_LEN_MAX: u64 = i64::MAX.unsigned_abs();

/// The most rows of one node of a tree.
pub const TREE_ROWS_MAX: u16 = 4096;
/// The highest level of a node of a tree's directory; level 0 holds its entries.
pub const TREE_LEVEL_MAX: u8 = 7;
/// How deep directories may lie in each other: the most names that one path of Linux (4096 bytes) has room for.
pub const TREE_DEPTH_MAX: u16 = 2048;
/// The longest name of a file, and of a user, a group or an extended attribute, in bytes.
pub const FILE_NAME_LEN_MAX: u8 = 255;
/// The longest target of a symbolic link.
pub const LINK_TARGET_LEN_MAX: u16 = 4095;
/// The most bytes of a file that lie in its entry.
pub const INLINE_LEN_MAX: u16 = 4096;
/// The most extended attributes of one file, and of all sets that lie in one node.
pub const ATTRIBUTES_MAX: u16 = 16_384;
/// The longest value of an extended attribute.
pub const ATTRIBUTE_LEN_MAX: u32 = 64 * KIB;

/// When a writer closes a pack.
pub const PACK_LEN_GOAL: u32 = 32 * MIB;
/// The longest pack that is read.
pub const PACK_LEN_MAX: u32 = 128 * MIB;
/// The most chunks in one pack.
pub const PACK_CHUNKS_MAX: u32 = 32_768;

/// The longest object that is not a pack (index, record, catalogue, ...).
pub const OBJECT_LEN_MAX: u32 = 256 * MIB;
/// The most sealed parts of such an object.
pub const OBJECT_PARTS_MAX: u32 = 4096;
/// The most packs one index object speaks of.
pub const INDEX_PACKS_MAX: u32 = 65_536;
/// The most objects one index or catalogue object takes the place of.
pub const SUPERSEDES_MAX: u32 = 65_536;

/// The longest record, as JSON.
pub const RECORD_LEN_MAX: u32 = CHUNK_LEN_MAX;
/// The most items in one backup.
pub const ITEMS_MAX: usize = 4096;
/// The longest name of a backup, tag or item, in bytes.
pub const NAME_LEN_MAX: usize = 200;

/// The longest line of exported records.
pub const CARRIED_LEN_MAX: u32 = 128 * MIB;
/// The most records on one line.
pub const CARRIED_RECORDS_MAX: u32 = 65_536;
/// The longest text that says where a repository lies.
pub const PLACE_LEN_MAX: usize = 4096;

/// The longest `afterimage.json` and the longest key slot.
pub const SMALL_JSON_LEN_MAX: u32 = 64 * KIB;
/// The most memory a key slot may ask of key derivation, in KiB.
pub const KDF_MEMORY_KIB_MAX: u32 = 1024 * KIB;
/// The most passes a key slot may ask for.
pub const KDF_PASSES_MAX: u32 = 64;
/// The most lanes a key slot may ask for.
pub const KDF_LANES_MAX: u32 = 16;
/// The most key slots that are tried.
pub const SLOTS_MAX: usize = 64;

const _: () = assert!(CHUNK_SIZE_MIN.is_power_of_two() && CHUNK_LEN_MAX.is_power_of_two());
const _: () = assert!(SEALED_LEN_MAX < PACK_LEN_MAX - PACK_LEN_GOAL);
const _: () = assert!(crate::format::pack::ROW_LEN as u32 * PACK_CHUNKS_MAX < CHUNK_LEN_MAX);
const _: () = assert!(NODE_ENTRIES_MAX as u32 * 80 < CHUNK_LEN_MAX);
