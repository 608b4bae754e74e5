//! assetfs: remote asset stores as Linux directories.
//!
//! The rooms, from top to bottom: `cli` and `config`, `fuse`, `vfs`, `write` and `read`, `store`,
//! `http`; beside them `serve`, the embedded servers. README.md draws them and a byte's way through.

pub mod cli;
pub mod config;
pub mod error;
mod failpoint;
pub mod flow;
pub mod fuse;
pub mod http;
pub mod read;
pub mod serve;
pub mod store;
pub mod vfs;
pub mod write;
