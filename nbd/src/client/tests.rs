//! Servers from a script.
