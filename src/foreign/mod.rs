//! Backups that other programs wrote, as images. One folder a format; each says which backups there are and opens their images, and
//! everything above takes those for what they are.
//!
//! **Invariant:** nothing here writes to what it reads. What would write is refused by the store that it is given. What writes new
//! backups for others (`cinder/write`) writes beside what is there, never over it.

pub mod cinder;
