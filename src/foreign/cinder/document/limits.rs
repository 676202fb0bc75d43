//! How large things may be. Far above what Cinder writes for volumes of many terabytes, far below what would hurt.

/// The longest `_metadata`.
pub const METADATA_LEN_MAX: u64 = 320 << 20;
/// The most objects of one backup.
pub const OBJECTS_MAX: usize = 1 << 20;
/// The longest `volume_meta` and the longest export record.
pub const SMALL_JSON_LEN_MAX: usize = 4 << 20;
/// The longest text with export records in it, and the most of them.
pub const LISTED_LEN_MAX: usize = 128 << 20;
/// See [`LISTED_LEN_MAX`].
pub const LISTED_MAX: usize = 1 << 16;
/// The longest `_sha256file` that is read as a whole; longer ones are read by range, as they are laid out by Cinder.
pub const HASHES_LEN_MAX: u64 = 64 << 20;
/// What stands before the digests of a `_sha256file`, at most, and behind them.
pub const HASHES_HEAD_MAX: usize = 64 << 10;
/// The same, behind them.
pub const HASHES_TAIL_MAX: usize = 1 << 10;
/// The smallest and the largest block that has a digest of its own. Cinder's default is 32 KiB.
pub const BLOCK_MIN: u64 = 512;
/// See [`BLOCK_MIN`].
pub const BLOCK_MAX: u64 = 16 << 20;
/// The largest image: what the kernel can address.
pub const IMAGE_LEN_MAX: u64 = i64::MAX.unsigned_abs();
/// The longest name of an object, with its folders.
pub const NAME_LEN_MAX: usize = 1024;
/// The longest text of one field: names, descriptions.
pub const TEXT_LEN_MAX: usize = 64 << 10;

const _: () = assert!(BLOCK_MIN < BLOCK_MAX && HASHES_TAIL_MAX < HASHES_HEAD_MAX);
