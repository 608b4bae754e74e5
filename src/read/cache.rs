//! The block cache of a mount: one lock, one budget, one bound of requests in flight.
//!
//! Locks: `Reader::window` before `Cache::blocks`, never across an await. A std Mutex, because what is
//! done below it is short and never waits.

use super::blocks::{Answer, Blocks, File, Owner};
use super::fetch::{Fetch, while_moving};
use super::window::{PIECE_MAX, down};
use super::{BLOCK, Span, block_range, blocks_of, join};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Store};
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The block cache of a mount. Memory for blocks, in it and on their way, stays within one budget;
/// blocks that were handed out live as long as their [`Bytes`].
#[derive(Debug)]
pub struct Cache {
    store: Arc<dyn Store>,
    rt: Handle,
    stall: Duration,
    blocks: Mutex<Blocks>,
    permits: Arc<Semaphore>,
    downloads: usize,
    /// Permits that prefetching leaves to reads that wait.
    reserve: usize,
    /// A block became evictable, or its room free.
    room: Notify,
    fetched: AtomicU64,
}

/// A content that somebody reads; leaves the cache's books when dropped.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) cache: Arc<Cache>,
    pub(super) file: File,
    pub(super) owner: Arc<Owner>,
}

/// One block of a read.
#[derive(Debug)]
pub(super) enum Part {
    Here(Span),
    Coming(Answer),
    Missing,
}

/// What a read wants beside its own blocks.
#[derive(Debug)]
pub(super) struct Plan {
    /// Blocks that should be on their way too.
    pub(super) ahead: Range<u64>,
    /// Requests are cut at multiples of so many blocks.
    pub(super) piece: u64,
    /// Blocks that are read to their end may go first.
    pub(super) spend: bool,
}

impl Cache {
    /// A cache over `store` that fetches on `rt`, holds at most `budget` bytes (at least one block), has
    /// at most `downloads` requests in flight (at least 1), and gives up what did not move for `stall`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        rt: Handle,
        budget: u64,
        downloads: usize,
        stall: Duration,
    ) -> Arc<Cache> {
        let downloads = downloads.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Cache {
            store,
            rt,
            stall,
            blocks: Mutex::new(Blocks::new(budget)),
            permits: Arc::new(Semaphore::new(downloads)),
            downloads,
            reserve: downloads.div_ceil(8).min(downloads - 1),
            room: Notify::new(),
            fetched: AtomicU64::new(0),
        })
    }

    /// Bytes of the budget in use: blocks in memory and on their way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().used()
    }

    /// Bytes that came from the store since the mount.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Drops the blocks of a version that nobody will ask for any more. Readers that are pinned to it
    /// go on.
    pub fn forget(&self, entry: &Entry) {
        self.lock().forget(entry);
        self.room.notify_waiters();
    }

    /// Reads without a window: nothing ahead, and what it fetches is the first to be evicted. For
    /// copies out of order (completion of a partly written file); a copy from one end to the other is faster
    /// through a [`super::Reader`]. Clipped at the entry's size; empty at or past the end.
    ///
    /// # Errors
    /// Those of [`Store::read`]; `Timeout` if nothing moved for the cache's `stall`.
    pub async fn read(self: &Arc<Self>, entry: &Entry, range: Range<u64>) -> Result<Bytes> {
        let range = clip(range, entry.size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let pinned = Pinned::new(self.clone(), Arc::new(entry.clone()));
        let end = blocks_of(&range).end;
        let plan = Plan {
            ahead: end..end,
            piece: PIECE_MAX / BLOCK,
            spend: true,
        };
        let parts = pinned.gather_locked(&mut self.lock(), &range, &plan)?;
        Ok(pinned.finish(&range, parts, &plan).await?.0)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Blocks> {
        // Nothing below the lock panics half-way through a change that others could see.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// The widest useful window, in bytes: twice what may be in flight, so that a request that ends
    /// before the one in front of it makes way for another.
    pub(super) fn widest(&self) -> u64 {
        2 * self.downloads as u64 * PIECE_MAX
    }

    /// A permit for one request, in the order of asking.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let late = || Error::new(Kind::Timeout, "read");
        while_moving(self, self.permits.clone().acquire_owned(), late)
            .await?
            .map_err(|_| Error::new(Kind::Cancelled, "read"))
    }

    /// So many bytes came.
    pub(super) fn moved(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The next blocks of a flight are there.
    pub(super) fn complete(&self, flight: u64, span: &Span) {
        let waiters = self.lock().complete(flight, span);
        for waiter in waiters {
            waiter.tell(Ok(span.clone()));
        }
        self.room.notify_waiters();
    }

    /// A flight is over.
    pub(super) fn end(&self, flight: u64, error: Option<Error>) {
        let waiters = self.lock().end(flight, error.as_ref());
        if let Some(error) = error {
            for waiter in waiters {
                waiter.tell(Err(error.clone()));
            }
        }
        self.room.notify_waiters();
    }
}

impl Pinned {
    pub(super) fn new(cache: Arc<Cache>, entry: Arc<Entry>) -> Self {
        let (file, owner) = cache.lock().open(entry);
        Pinned { cache, file, owner }
    }

    /// The first look at the blocks of `range` (not empty, within the file): takes what is in memory, queues
    /// for what is on its way, and sends for what is missing as far as there is room.
    pub(super) fn gather_locked(
        &self,
        blocks: &mut Blocks,
        range: &Range<u64>,
        plan: &Plan,
    ) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = blocks_of(range).map(|_| Part::Missing).collect();
        self.look_locked(blocks, range, plan, &mut parts)?;
        Ok(parts)
    }

    fn look_locked(
        &self,
        blocks: &mut Blocks,
        range: &Range<u64>,
        plan: &Plan,
        parts: &mut [Part],
    ) -> Result<()> {
        let (file, demand) = (self.file.id, blocks_of(range));
        let end = match self.owner.failed.load(Ordering::Relaxed) {
            true => demand.end,
            false => demand.end.max(plan.ahead.end),
        };
        for (block, part) in demand.zip(parts) {
            if !matches!(part, Part::Missing) {
                continue;
            }
            let to = block_range(self.file.entry.size, block).end;
            let spend = plan.spend && range.end >= to;
            if let Some(bytes) = blocks.get(file, block, spend) {
                *part = Part::Here(bytes);
                continue;
            }
            if !blocks.has(file, block) {
                if self.owner.stale.load(Ordering::Relaxed) {
                    return Err(self.error(Kind::Stale));
                }
                let run = self.run_locked(blocks, block..end, plan.piece);
                let run = blocks.room(self.file.entry.size, run);
                if run.is_empty() {
                    return Ok(());
                }
                let permit = self.cache.permits.clone().try_acquire_owned().ok();
                self.send_locked(blocks, run, permit);
            }
            if let Some(answer) = blocks.wait(file, block, &self.owner, spend) {
                *part = Part::Coming(answer);
            }
        }
        Ok(())
    }

    /// Sends for what is missing of `plan.ahead`, as long as nobody goes short for it. Up to which block
    /// everything is on its way now.
    pub(super) fn prefetch_locked(&self, blocks: &mut Blocks, plan: &Plan) -> u64 {
        let mut at = plan.ahead.start;
        while at < plan.ahead.end {
            if blocks.has(self.file.id, at) {
                blocks.join(self.file.id, at, &self.owner);
                at += 1;
                continue;
            }
            if self.owner.failed.load(Ordering::Relaxed)
                || blocks.starving > 0
                || self.cache.permits.available_permits() <= self.cache.reserve
            {
                break;
            }
            let run = self.run_locked(blocks, at..plan.ahead.end, plan.piece);
            if blocks.room(self.file.entry.size, run.clone()) != run {
                break;
            }
            let Ok(permit) = self.cache.permits.clone().try_acquire_owned() else {
                break;
            };
            at = run.end;
            self.send_locked(blocks, run, Some(permit));
        }
        at
    }

    /// The missing blocks at the start of `blocks`, cut at a multiple of `piece`.
    fn run_locked(&self, map: &Blocks, blocks: Range<u64>, piece: u64) -> Range<u64> {
        let limit = (down(blocks.start, piece) + piece).min(blocks.end);
        let end = (blocks.start + 1..limit).find(|block| map.has(self.file.id, *block));
        blocks.start..end.unwrap_or(limit)
    }

    fn send_locked(
        &self,
        map: &mut Blocks,
        blocks: Range<u64>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let flight = map.begin(&self.file, blocks.clone(), &self.owner);
        let cache = self.cache.clone();
        let fetch = Fetch {
            cache,
            flight,
            entry: self.file.entry.clone(),
            blocks,
        };
        map.task(
            flight,
            self.cache.rt.spawn(fetch.run(permit)).abort_handle(),
        );
    }

    /// Waits for all parts; also says whether it had to.
    pub(super) async fn finish(
        &self,
        range: &Range<u64>,
        mut parts: Vec<Part>,
        plan: &Plan,
    ) -> Result<(Bytes, bool)> {
        let mut waited = false;
        loop {
            let mut here = Vec::with_capacity(parts.len());
            for part in &mut parts {
                if let Part::Coming(answer) = part {
                    waited = true;
                    *part = match answer.await {
                        Ok(block) => Part::Here(block?),
                        // Given up in the interest of another: send again.
                        Err(_) => Part::Missing,
                    };
                }
                if let Part::Here(block) = part {
                    here.push(block.clone());
                }
            }
            if here.len() == parts.len() {
                if waited {
                    self.owner.failed.store(false, Ordering::Relaxed);
                }
                return Ok((join(range, &here), waited));
            }
            waited = true;
            // Made before the look, so that no room is missed.
            let room = self.cache.room.notified();
            let hungry = {
                let mut blocks = self.cache.lock();
                self.look_locked(&mut blocks, range, plan, &mut parts)?;
                let any = parts.iter().any(|part| matches!(part, Part::Coming(_)));
                let whole = parts.iter().all(|part| matches!(part, Part::Here(_)));
                (!any && !whole).then(|| Hungry::new(&self.cache, &mut blocks))
            };
            if let Some(_hungry) = hungry {
                while_moving(&self.cache, room, || self.error(Kind::Timeout)).await?;
            }
        }
    }

    fn error(&self, kind: Kind) -> Error {
        Error::new(kind, "read").at(&*self.file.entry.addr.0)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let tasks = self.cache.lock().close(self.file.id, self.owner.id);
        for task in tasks {
            task.abort();
        }
        self.cache.room.notify_waiters();
    }
}

/// A read without room: while there is one, nothing is prefetched.
struct Hungry<'a>(&'a Cache);

impl<'a> Hungry<'a> {
    fn new(cache: &'a Cache, blocks: &mut Blocks) -> Self {
        blocks.starving += 1;
        Hungry(cache)
    }
}

impl Drop for Hungry<'_> {
    fn drop(&mut self) {
        self.0.lock().starving -= 1;
    }
}

/// `range` within a file of `size` bytes.
pub(super) fn clip(range: Range<u64>, size: u64) -> Range<u64> {
    range.start.min(size)..range.end.min(size)
}
