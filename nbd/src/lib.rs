//! The NBD protocol, a server and a client.

pub mod wire;
