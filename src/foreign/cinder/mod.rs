//! Backups that OpenStack Cinder's chunked drivers wrote (posix, NFS, Gluster, Swift, S3, GCS), from Grizzly on.

pub mod document;
pub mod rows;
pub mod write;
