//! What is known of an export before anyone uses it.

use std::fmt;
use std::sync::Arc;

use super::Name;
use crate::wire::{Framing, flag, limits, state};

/// How requests should be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Every offset and length is a multiple of this: a power of two up to 64 KiB.
    pub minimum: u32,
    /// Multiples of this are efficient: a power of two from 512 bytes up to 32 MiB. Clients align to it and raise their requests to it.
    pub preferred: u32,
}

/// Names by which a client may ask for a context and that stand in no list: gives the place among [`Info::contexts`].
#[derive(Clone)]
pub struct Aliases(Arc<Find>);

type Find = dyn Fn(&str) -> Option<usize> + Send + Sync;

impl Aliases {
    /// Aliases that a function knows. It must not wait.
    pub fn new(find: impl Fn(&str) -> Option<usize> + Send + Sync + 'static) -> Self {
        Aliases(Arc::new(find))
    }
}

impl fmt::Debug for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aliases")
    }
}

impl PartialEq for Aliases {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Aliases {}

/// Size and abilities of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes.
    pub size: u64,
    /// Nothing can be written.
    pub read_only: bool,
    /// How requests should be cut.
    pub block_sizes: BlockSizes,
    /// The name to show, where it differs from the one asked for (`web01@latest` has a time).
    pub name: Option<Name>,
    /// For people.
    pub description: String,
    /// A FLUSH on one connection covers what was answered on all.
    pub multi_conn: bool,
    /// Seeks are slow.
    pub rotational: bool,
    /// TRIM does something (only if writable).
    pub trim: bool,
    /// WRITE_ZEROES may be fast, and says so if not (only if writable).
    pub fast_zero: bool,
    /// CACHE does something.
    pub cache: bool,
    /// Contexts beyond `base:allocation`, which every export has.
    pub contexts: Vec<String>,
    /// Other names for these contexts.
    pub aliases: Option<Aliases>,
    /// Only for clients that came by TLS.
    pub tls_only: bool,
}

impl Info {
    /// A read-only export that never changes: any number of connections may share it.
    pub fn read_only(size: u64) -> Self {
        Info {
            size,
            read_only: true,
            block_sizes: BlockSizes { minimum: 1, preferred: 4096 },
            name: None,
            description: String::new(),
            multi_conn: true,
            rotational: false,
            trim: false,
            fast_zero: false,
            cache: false,
            contexts: Vec::new(),
            aliases: None,
            tls_only: false,
        }
    }

    /// A writable export for one connection at a time, without trim and fast zeroes.
    pub fn writable(size: u64) -> Self {
        Info { read_only: false, multi_conn: false, ..Info::read_only(size) }
    }

    /// Whether this can be told to a client at all. The server refuses to serve what can't.
    pub fn check(&self) -> Result<(), UnfitInfo> {
        let BlockSizes { minimum, preferred } = self.block_sizes;
        if self.size > limits::EXPORT_SIZE_MAX {
            return Err(UnfitInfo::Size { size: self.size });
        }
        if !minimum.is_power_of_two() || minimum > 64 * 1024 {
            return Err(UnfitInfo::Minimum { minimum });
        }
        if !preferred.is_power_of_two() || preferred < minimum.max(512) || preferred > limits::PAYLOAD_MAX {
            return Err(UnfitInfo::Preferred { preferred });
        }
        if !self.size.is_multiple_of(u64::from(minimum)) {
            return Err(UnfitInfo::Odd { size: self.size, minimum });
        }
        self.check_contexts()
    }

    fn check_contexts(&self) -> Result<(), UnfitInfo> {
        for (index, context) in self.contexts.iter().enumerate() {
            let fits = Name::new(context).is_ok() && context.contains(':') && !context.starts_with("base:");
            if !fits || self.contexts.iter().take(index).any(|earlier| earlier == context) {
                return Err(UnfitInfo::Context { name: context.clone() });
            }
        }
        if self.contexts.len() >= limits::CONTEXTS_MAX {
            return Err(UnfitInfo::Contexts { count: self.contexts.len() });
        }
        Ok(())
    }

    /// All contexts; the index of each is the one that [`block_status`](super::Export::block_status) gets.
    pub fn all_contexts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(state::BASE_ALLOCATION).chain(self.contexts.iter().map(String::as_str))
    }

    /// The place among all contexts of one that this is another name for.
    pub fn alias(&self, name: &str) -> Option<usize> {
        let place = self.aliases.as_ref().and_then(|aliases| (aliases.0)(name))?;
        (place < self.contexts.len()).then_some(place.saturating_add(1))
    }

    /// The transmission flags, which also depend on what the session agreed on.
    pub fn flags(&self, framing: Framing, any_context: bool) -> u16 {
        let writable = !self.read_only;
        let structured = framing != Framing::Simple;
        [
            (flag::HAS_FLAGS | flag::SEND_FLUSH, true),
            (flag::READ_ONLY, self.read_only),
            (flag::SEND_FUA | flag::SEND_WRITE_ZEROES, writable),
            (flag::SEND_TRIM, writable && self.trim),
            (flag::SEND_FAST_ZERO, writable && self.fast_zero),
            (flag::ROTATIONAL, self.rotational),
            (flag::CAN_MULTI_CONN, self.multi_conn),
            (flag::SEND_CACHE, self.cache),
            (flag::SEND_DF, structured),
            (flag::BLOCK_STATUS_PAYLOAD, framing == Framing::Extended && any_context),
        ]
        .into_iter()
        .filter(|(_, on)| *on)
        .fold(0, |flags, (bit, _)| flags | bit)
    }
}

/// Why an [`Info`] can't be told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnfitInfo {
    /// Larger than offsets can be.
    Size {
        /// The size.
        size: u64,
    },
    /// Minimum block size out of range.
    Minimum {
        /// The size.
        minimum: u32,
    },
    /// Preferred block size out of range.
    Preferred {
        /// The size.
        preferred: u32,
    },
    /// The size is not a multiple of the minimum block size.
    Odd {
        /// The size.
        size: u64,
        /// The minimum block size.
        minimum: u32,
    },
    /// A context's name is malformed, reserved or repeated.
    Context {
        /// The name.
        name: String,
    },
    /// Too many contexts.
    Contexts {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for UnfitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnfitInfo::Size { size } => write!(f, "size {size} is beyond 2^63 - 1"),
            UnfitInfo::Minimum { minimum } => {
                write!(f, "minimum block size {minimum} is not a power of two up to 64 KiB")
            }
            UnfitInfo::Preferred { preferred } => {
                write!(
                    f,
                    "preferred block size {preferred} is not a power of two from the minimum or 512 up to 32 MiB"
                )
            }
            UnfitInfo::Odd { size, minimum } => {
                write!(f, "size {size} is not a multiple of the minimum block size {minimum}")
            }
            UnfitInfo::Context { name } => write!(f, "context {name:?} is malformed, reserved or repeated"),
            UnfitInfo::Contexts { count } => {
                write!(f, "{count} contexts, limit is {}", limits::CONTEXTS_MAX - 1)
            }
        }
    }
}

impl std::error::Error for UnfitInfo {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n16_infos_that_break_the_protocol_are_refused() {
        let good = || Info::read_only(1 << 20);
        let sized = |minimum, preferred| Info { block_sizes: BlockSizes { minimum, preferred }, ..good() };
        assert_eq!(good().check(), Ok(()));
        assert_eq!(Info::read_only(0).check(), Ok(()));
        assert_eq!(Info::read_only(limits::EXPORT_SIZE_MAX).check(), Ok(()));
        assert_eq!(Info::read_only(1 << 63).check(), Err(UnfitInfo::Size { size: 1 << 63 }));
        assert_eq!(sized(4096, 4096).check(), Ok(()));
        assert_eq!(sized(3, 4096).check(), Err(UnfitInfo::Minimum { minimum: 3 }));
        assert_eq!(sized(0, 4096).check(), Err(UnfitInfo::Minimum { minimum: 0 }));
        assert_eq!(sized(1, 256).check(), Err(UnfitInfo::Preferred { preferred: 256 }));
        assert_eq!(sized(4096, 1024).check(), Err(UnfitInfo::Preferred { preferred: 1024 }));
        assert_eq!(
            Info { size: 513, ..sized(512, 512) }.check(),
            Err(UnfitInfo::Odd { size: 513, minimum: 512 })
        );
        for context in ["nocolon", "base:allocation", "x:\0"] {
            let info = Info { contexts: vec![context.into()], ..good() };
            assert_eq!(info.check(), Err(UnfitInfo::Context { name: context.into() }));
        }
        let twice = Info { contexts: vec!["x-a:b".into(), "x-a:b".into()], ..good() };
        assert_eq!(twice.check(), Err(UnfitInfo::Context { name: "x-a:b".into() }));
    }

    #[test]
    fn flags_follow_abilities_and_the_session() {
        let backup = Info::read_only(1);
        assert_eq!(
            backup.flags(Framing::Simple, false),
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::READ_ONLY | flag::CAN_MULTI_CONN
        );
        assert_eq!(
            backup.flags(Framing::Extended, true) & flag::BLOCK_STATUS_PAYLOAD,
            flag::BLOCK_STATUS_PAYLOAD
        );
        assert_eq!(backup.flags(Framing::Structured, true) & flag::BLOCK_STATUS_PAYLOAD, 0);
        assert_eq!(backup.flags(Framing::Structured, true) & flag::SEND_DF, flag::SEND_DF);
        let claims = Info { trim: true, fast_zero: true, ..Info::read_only(1) };
        assert_eq!(claims.flags(Framing::Simple, false) & (flag::SEND_TRIM | flag::SEND_FAST_ZERO), 0);
        let target = Info { trim: true, fast_zero: true, ..Info::writable(1) };
        let all = flag::SEND_TRIM | flag::SEND_FAST_ZERO | flag::SEND_WRITE_ZEROES | flag::SEND_FUA;
        assert_eq!(target.flags(Framing::Simple, false) & all, all);
    }
}
