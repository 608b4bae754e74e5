//! The read path of one mount: window, blocks, cache.
//!
//! A [`Reader`] is one open handle, pinned to one version of one file; its window says how far ahead of the
//! program bytes should be on their way. The [`Cache`] is shared by all readers of the mount: it holds
//! blocks of [`BLOCK`] bytes within one budget, and brings missing ones in runs, several requests at a
//! time, each block at most once. A byte is copied once, from the network's chunks into the buffer of its
//! block and its neighbours, and handed out as [`Bytes`] of that buffer.
//!
//! It asks the store and nothing else: no FUSE, no inodes, no spool. It never retries (the wrapper
//! below does) and never keeps what failed.

mod blocks;
mod cache;
mod fetch;
mod meter;
mod reader;
mod window;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use reader::Reader;

use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// The unit of reading and of memory, in bytes: what a random read costs at most.
pub const BLOCK: u64 = 128 * 1024;

/// So much is delivered in one buffer at most, in bytes: the largest read of the kernel, and aligned like it.
const RUN: u64 = 1024 * 1024;

/// The bytes of a block of a file of `size` bytes.
fn block_range(size: u64, block: u64) -> Range<u64> {
    let start = block * BLOCK;
    start.min(size)..(start + BLOCK).min(size)
}

/// The blocks that hold `range`.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// Bytes of a file from `at` on: whole neighbouring blocks in one buffer.
#[derive(Clone, Debug)]
struct Span {
    at: u64,
    bytes: Bytes,
}

impl Span {
    fn range(&self) -> Range<u64> {
        self.at..self.at + self.bytes.len() as u64
    }

    /// The bytes of `range`, which begins here, as far as they are here.
    fn slice(&self, range: &Range<u64>) -> Bytes {
        let end = range.end.min(self.range().end);
        let place = |at: u64| (at - self.at) as usize;
        self.bytes.slice(place(range.start)..place(end))
    }
}

/// `range` out of what its blocks lie in, in their order; a copy only if that is several buffers.
fn join(range: &Range<u64>, blocks: &[Span]) -> Bytes {
    let mut joined = BytesMut::new();
    let mut at = range.start;
    for span in blocks {
        if at >= span.range().end {
            continue; // The same buffer once more.
        }
        let piece = span.slice(&(at..range.end));
        if piece.len() as u64 == range.end - range.start {
            return piece;
        }
        if joined.is_empty() {
            joined.reserve((range.end - range.start) as usize);
        }
        at += piece.len() as u64;
        joined.extend_from_slice(&piece);
        if at == range.end {
            break;
        }
    }
    joined.freeze()
}
