//! Serves any read-only tree over FUSE.
