//! Every number the protocol assigns, grouped by where it appears. Names follow the protocol text.

/// What we accept and offer, in one place.
pub mod limits {
    /// Longest string (name, description, context, error text) on the wire, in bytes.
    pub const STRING_LEN_MAX: usize = 4096;
    /// Longest option data we collect. What is longer is skipped or refused unread.
    pub const OPTION_DATA_MAX: u32 = 64 * 1024;
    /// Longest option data we skip politely; beyond it the connection is closed.
    pub const OPTION_SKIP_MAX: u32 = 32 * 1024 * 1024;
    /// Options one session may send before it agrees on an export.
    pub const OPTIONS_MAX: u32 = 32;
    /// Longest READ or WRITE we serve; advertised as the maximum payload.
    pub const PAYLOAD_MAX: u32 = 32 * 1024 * 1024;
    /// Longest payload of a refused request we read and throw away to stay in step.
    pub const PAYLOAD_DRAIN_MAX: u32 = 64 * 1024 * 1024;
    /// Largest export: offsets are signed in most clients and in the kernel.
    pub const EXPORT_SIZE_MAX: u64 = 0x7fff_ffff_ffff_ffff;
    /// Most extents in one block status reply.
    pub const EXTENTS_MAX: usize = 64 * 1024;
    /// Longest 32-bit extent: the largest multiple of 64 KiB, so that a clamped one stays aligned.
    pub const EXTENT32_LEN_MAX: u64 = 0xffff_0000;
    /// Most contexts one session may select.
    pub const CONTEXTS_MAX: usize = 64;

    const _: () = assert!(PAYLOAD_MAX <= PAYLOAD_DRAIN_MAX);
    const _: () = assert!(OPTION_DATA_MAX <= OPTION_SKIP_MAX);
}

/// Flags of the greeting (16 bits, server) and of the answer to it (32 bits, client).
pub mod greet {
    /// `NBDMAGIC`.
    pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
    /// `IHAVEOPT`: follows the magic, and starts each option.
    pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
    /// The magic of the protocol before options existed; recognised only to refuse it by name.
    pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
    /// Starts each option reply.
    pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
    /// Fixed newstyle: options get replies.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No padding after the answer to EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
    /// The client's half of [`FIXED_NEWSTYLE`].
    pub const C_FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client's half of [`NO_ZEROES`].
    pub const C_NO_ZEROES: u32 = 1 << 1;
}

/// Options.
#[allow(missing_docs)] // they are the protocol's own names
pub mod opt {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const PEEK_EXPORT: u32 = 4;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;

    /// The option's name for messages, or none for a number nobody assigned.
    pub fn name(option: u32) -> Option<&'static str> {
        Some(match option {
            EXPORT_NAME => "EXPORT_NAME",
            ABORT => "ABORT",
            LIST => "LIST",
            PEEK_EXPORT => "PEEK_EXPORT",
            STARTTLS => "STARTTLS",
            INFO => "INFO",
            GO => "GO",
            STRUCTURED_REPLY => "STRUCTURED_REPLY",
            LIST_META_CONTEXT => "LIST_META_CONTEXT",
            SET_META_CONTEXT => "SET_META_CONTEXT",
            EXTENDED_HEADERS => "EXTENDED_HEADERS",
            _ => return None,
        })
    }
}

/// Kinds of option replies. Errors have bit 31 set.
#[allow(missing_docs)]
pub mod rep {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR_BIT: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    pub const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Kinds of information in a reply to INFO and GO.
#[allow(missing_docs)]
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
#[allow(missing_docs)]
pub mod flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_RESIZE: u16 = 1 << 9;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Commands.
#[allow(missing_docs)]
pub mod cmd {
    pub const REQUEST_MAGIC: u32 = 0x2560_9513;
    pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    pub const RESIZE: u16 = 8;
}

/// Flags of commands.
#[allow(missing_docs)]
pub mod cmd_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Replies and their chunks.
#[allow(missing_docs)]
pub mod chunk {
    pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
    pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
    pub const EXTENDED_MAGIC: u32 = 0x6e8a_278c;
    /// Flag: the last chunk of its reply.
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Status bits of the contexts everyone knows.
pub mod state {
    /// The context every export has.
    pub const BASE_ALLOCATION: &str = "base:allocation";
    /// base:allocation: not allocated; a write may meet a full store.
    pub const HOLE: u64 = 1 << 0;
    /// base:allocation: reads as zeroes.
    pub const ZERO: u64 = 1 << 1;
    /// qemu:dirty-bitmap:*: changed.
    pub const DIRTY: u64 = 1 << 0;
}
