//! The NBD protocol, a server and a client.

pub mod export;
pub mod handshake;
pub mod transmission;
pub mod wire;
