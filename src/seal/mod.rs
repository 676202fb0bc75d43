//! Sealing: plain bytes ↔ the bytes we store. The only room that compresses, encrypts or knows a key.
//!
//! ```text
//! sealed := nonce[12] AES-256-GCM( method[u8] plain_len[u32] body ) tag[16]
//! method := 0 body is the plain bytes | 1 body is one zstd frame
//! ```
//!
//! Holds: `open(seal(x)) == x`. What an open gives is [`Verified`]: nobody else can make one (but [`digest`], for what others wrote), and no switch skips it. The seal
//! binds repository, kind and id, so that no sealed bytes pass for others. `open` allocates once, after judging the length.
//!
//! Every pack and object has a key of its own, derived from the repository's and its random id. The nonce derives from
//! what is sealed, so that even two clones of one machine, who share a pack's id, use one only for equal bytes.
//!
//! Entered from `repo` (seal) and from whoever fetched sealed bytes (open). Leaves to `format`.

pub mod digest;
mod keys;
mod sealer;
mod unlock;

pub(crate) use keys::random;
pub use keys::{Keys, MasterKey, Under};
pub use sealer::{Seal, Sealed, Verified, open, open_exact, open_into};
pub use unlock::{Ask, Password, add_slot, new_lock, open_slot};

/// The level of compression of a repository that was not told another.
pub const LEVEL_DEFAULT: i32 = 1;
