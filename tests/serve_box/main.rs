//! The embedded Box server, through a plain HTTP client: each rule of the spec at least once.

#![allow(clippy::unwrap_used)]

mod bench;
mod contents;
mod items;
mod sessions;
mod tokens;
