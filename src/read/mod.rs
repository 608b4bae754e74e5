//! The read path of one mount: window, blocks, cache.
//!
//! A [`Reader`] is one open handle, pinned to one version of one file; its window says how far ahead of the
//! program bytes should be on their way. The [`Cache`] is shared by all readers of the mount: it holds
//! blocks of [`BLOCK`] bytes within one budget, and brings missing ones in runs, several requests at a
//! time, each block at most once. A block is copied once, from the network's chunks into its own
//! buffer, and handed out as [`Bytes`] of that buffer.
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

/// The bytes of a block of a file of `size` bytes.
fn block_range(size: u64, block: u64) -> Range<u64> {
    let start = block * BLOCK;
    start.min(size)..(start + BLOCK).min(size)
}

/// The blocks that hold `range`.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// `range` out of the blocks that hold it; a copy only if there are several.
fn join(range: &Range<u64>, blocks: &[Bytes]) -> Bytes {
    let skip = (range.start % BLOCK) as usize;
    let length = (range.end - range.start) as usize;
    if let [only] = blocks {
        return only.slice(skip..skip + length);
    }
    let mut joined = BytesMut::with_capacity(length);
    for (index, block) in blocks.iter().enumerate() {
        let from = if index == 0 { skip } else { 0 };
        let to = block.len().min(from + length - joined.len());
        joined.extend_from_slice(&block[from..to]);
    }
    joined.freeze()
}
