//! The embedded ProGet server, through a plain HTTP client: each rule of the spec at least once.

#![allow(clippy::unwrap_used)]

mod bench;
mod faults;
mod reading;
mod running;
mod strictness;
mod uploads;
