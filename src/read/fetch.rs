//! One request: a run of blocks on its way into the cache.
//!
//! Knows the store and the cache; not who waits, nor why.

use super::cache::Cache;
use super::{BLOCK, RUN, Span};
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
            range: range.clone(),
            buffer: BytesMut::new(),
        };
        let stall = self.cache.stall();
        let outcome = {
            let mut read = self.cache.store().read(&self.entry, range, &mut fill);
            loop {
                let last = begun + Duration::from_micros(last_us.load(Ordering::Relaxed));
                match timeout_at(last + stall, &mut read).await {
                    Ok(outcome) => break outcome,
                    Err(_)
                        if begun + Duration::from_micros(last_us.load(Ordering::Relaxed))
                            > last => {}
                    Err(_) => break Err(self.error(Kind::Timeout)),
                }
            }
        };
        fill.deliver();
        outcome?;
        if !fill.range.is_empty() {
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

/// Cuts what arrives into runs.
struct Fill<'a> {
    fetch: &'a Fetch,
    begun: Instant,
    last_us: &'a AtomicU64,
    /// Not yet in the cache.
    range: Range<u64>,
    buffer: BytesMut,
}

impl Sink for Fill<'_> {
    fn put(&mut self, bytes: Bytes) {
        let cache = &self.fetch.cache;
        let elapsed = self.begun.elapsed();
        if self
            .last_us
            .swap(elapsed.as_micros() as u64, Ordering::Relaxed)
            == 0
        {
            cache.lock().answered(elapsed);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() && !self.range.is_empty() {
            let end = (self.range.start + 1)
                .next_multiple_of(RUN)
                .min(self.range.end);
            let length = (end - self.range.start) as usize;
            if self.buffer.capacity() < length {
                self.buffer = match length as u64 {
                    RUN => cache.lock().buffer(),
                    _ => BytesMut::with_capacity(length),
                };
            }
            // Up to the end of the next block.
            let next = (self.buffer.len() + 1).next_multiple_of(BLOCK as usize);
            let (head, tail) = rest.split_at(rest.len().min(next.min(length) - self.buffer.len()));
            self.buffer.extend_from_slice(head);
            cache.moved(head.len() as u64);
            rest = tail;
            let here = self.range.start + self.buffer.len() as u64;
            if here == end
                || here.is_multiple_of(BLOCK)
                    && cache.lock().demand_ends(self.fetch.flight, here / BLOCK)
            {
                self.deliver();
            }
        }
    }
}

impl Fill<'_> {
    /// Gives the cache the blocks that are complete.
    fn deliver(&mut self) {
        let mut length = self.buffer.len() as u64;
        if self.range.start + length < self.range.end {
            length -= length % BLOCK;
        }
        if length > 0 {
            let bytes = if length as usize * 2 > self.buffer.capacity() {
                self.buffer.truncate(length as usize);
                std::mem::take(&mut self.buffer).freeze()
            } else {
                // The buffer is for more: what is given away would hold all of it.
                let bytes = Bytes::copy_from_slice(&self.buffer[..length as usize]);
                self.buffer.clear();
                bytes
            };
            let at = self.range.start;
            self.range.start += length;
            self.fetch
                .cache
                .complete(self.fetch.flight, &Span { at, bytes });
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
