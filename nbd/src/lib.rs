//! The NBD protocol, a server and a client.
