//! The embedded IoT File Service, through a plain HTTP client: each rule of the spec at least once.

#![allow(clippy::unwrap_used)]

mod bench;
mod search;
mod tokens;
mod uploads;
mod whole;
