//! How bytes flow between the rooms: a source that can be read again, a sink that takes them as they come.
//!
//! Knows nothing of stores, files or HTTP.

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;

/// Bytes that can be read again, as often as a request must be tried.
#[async_trait]
pub trait Source: Send + Sync {
    /// The bytes of `range`, all of them. Callers ask for pieces of at most [`PIECE`] bytes.
    async fn read(&self, range: Range<u64>) -> Result<Bytes>;
}

/// The size of the pieces in which a [`Source`] is read for a request body, in bytes.
pub const PIECE: u64 = 256 * 1024;

/// Where the bytes of a read go, in order, as they arrive.
pub trait Sink: Send {
    /// Takes the next bytes.
    fn put(&mut self, bytes: Bytes);
}
