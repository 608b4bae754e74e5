//! One request: a run of blocks on its way into the cache.
//!
//! Knows the store and the cache; not who waits, nor why.

use super::cache::Cache;
use super::{BLOCK, block_range};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Sink};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

/// What a request is to bring.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) cache: Arc<Cache>,
    pub(super) flight: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) blocks: Range<u64>,
}

impl Fetch {
    /// Brings it. Whatever happens, also when the task is dropped, the flight is ended in the cache.
    pub(super) async fn run(mut self, permit: Option<OwnedSemaphorePermit>) {
        let outcome = match permit {
            Some(permit) => Ok(permit),
            None => self.cache.permit().await,
        };
        let outcome = match outcome {
            Ok(_permit) => self.transfer().await,
            Err(error) => Err(error),
        };
        self.cache.end(self.flight, outcome.err());
        self.flight = 0;
    }

    async fn transfer(&self) -> Result<()> {
        let size = self.entry.size;
        let range = self.blocks.start * BLOCK..(self.blocks.end * BLOCK).min(size);
        let begun = Instant::now();
        let last_us = AtomicU64::new(0);
        let mut fill = Fill {
            fetch: self,
            begun,
            last_us: &last_us,
            block: self.blocks.start,
            buffer: BytesMut::new(),
        };
        let stall = self.cache.stall();
        {
            let mut read = self.cache.store().read(&self.entry, range, &mut fill);
            loop {
                let last = begun + Duration::from_micros(last_us.load(Ordering::Relaxed));
                match timeout_at(last + stall, &mut read).await {
                    Ok(outcome) => break outcome?,
                    Err(_)
                        if begun + Duration::from_micros(last_us.load(Ordering::Relaxed))
                            > last => {}
                    Err(_) => return Err(self.error(Kind::Timeout)),
                }
            }
        }
        if fill.block < self.blocks.end {
            return Err(self.error(Kind::Broken));
        }
        Ok(())
    }

    fn error(&self, kind: Kind) -> Error {
        Error::new(kind, "read").at(&*self.entry.addr.0)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if self.flight != 0 {
            self.cache.end(self.flight, Some(self.error(Kind::Broken)));
        }
    }
}

/// Cuts what arrives into blocks.
struct Fill<'a> {
    fetch: &'a Fetch,
    begun: Instant,
    last_us: &'a AtomicU64,
    block: u64,
    buffer: BytesMut,
}

impl Sink for Fill<'_> {
    fn put(&mut self, bytes: Bytes) {
        self.last_us
            .store(self.begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if self.block == self.fetch.blocks.end {
                return; // More than was asked for.
            }
            let range = block_range(self.fetch.entry.size, self.block);
            let length = (range.end - range.start) as usize;
            if self.buffer.capacity() < length {
                self.buffer = match length as u64 {
                    BLOCK => self.fetch.cache.lock().buffer(),
                    _ => BytesMut::with_capacity(length),
                };
            }
            let (head, tail) = rest.split_at(rest.len().min(length - self.buffer.len()));
            self.buffer.extend_from_slice(head);
            rest = tail;
            if self.buffer.len() == length {
                let block = std::mem::take(&mut self.buffer).freeze();
                self.block += 1;
                self.fetch.cache.complete(self.fetch.flight, block);
            }
        }
    }
}

/// Waits for `event` while anything at all arrives from the store.
pub(super) async fn while_moving<T>(
    cache: &Cache,
    event: impl Future<Output = T>,
    late: impl FnOnce() -> Error,
) -> Result<T> {
    let mut event = std::pin::pin!(event);
    loop {
        let before = cache.fetched();
        match timeout(cache.stall(), &mut event).await {
            Ok(value) => return Ok(value),
            Err(_) if cache.fetched() != before => {}
            Err(_) => return Err(late()),
        }
    }
}
