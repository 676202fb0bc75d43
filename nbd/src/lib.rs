#![doc = include_str!("../README.md")]

mod buffers;
pub mod client;
mod connection;
pub mod export;
pub mod file;
pub mod fuzz;
pub mod handshake;
pub mod kernel;
pub mod memory;
pub mod relay;
pub mod server;
mod stop;
pub mod tls;
pub mod transmission;
pub mod uri;
pub mod wire;
