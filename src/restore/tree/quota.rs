//! What a user's quota leaves, where there is one and the kernel tells. Root is not held to quotas, so nobody asks for his.

use super::facts::User;
use crate::source::machine::Mount;
use nix::sys::quota::{QuotaType, quotactl_get};

/// What may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// The kernel counts quotas of bytes in units of so many.
const UNIT: u64 = 1024;

/// The least that is left of the quotas that hold for files of this user.
pub(super) fn left(mount: &Mount, user: &User) -> Option<Left> {
    if user.uid == 0 || !mount.from.is_absolute() {
        return None;
    }
    let of_user = one(mount, QuotaType::USRQUOTA, user.uid);
    let of_group = user.groups.first().and_then(|group| one(mount, QuotaType::GRPQUOTA, *group));
    match (of_user, of_group) {
        (Some(a), Some(b)) => Some(Left { bytes: a.bytes.min(b.bytes), files: a.files.min(b.files) }),
        (one, other) => one.or(other),
    }
}

fn one(mount: &Mount, kind: QuotaType, id: u32) -> Option<Left> {
    let quota = quotactl_get(kind, &mount.from, i32::try_from(id).ok()?).ok()?;
    let bytes = quota
        .blocks_hard_limit()
        .filter(|limit| *limit > 0)
        .map(|limit| limit.saturating_mul(UNIT).saturating_sub(quota.occupied_space().unwrap_or(0)));
    let files = quota.inodes_hard_limit().filter(|limit| *limit > 0);
    let files = files.map(|limit| limit.saturating_sub(quota.allocated_inodes().unwrap_or(0)));
    (bytes.is_some() || files.is_some())
        .then_some(Left { bytes: bytes.unwrap_or(u64::MAX), files: files.unwrap_or(u64::MAX) })
}
