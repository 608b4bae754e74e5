//! The block map: what is in memory, what is on its way, who waits for it, and the budget of both.
//!
//! Bookkeeping without I/O: it lives below the one lock of [`super::Cache`] and decides everything that
//! must be decided at once. It knows no store and spawns nothing.
//!
//! Neighbours that arrive together lie in one buffer, a *run*, and leave together: a large read is then
//! answered without copying, and no block holds memory that is not accounted for.
//!
//! Every block in the map is paid from the budget from the moment its flight begins until it is
//! evicted, or until its flight ends without it. Runs that a sequential reader has passed (*spent*) leave
//! first, the others (*kept*) by age; but some of the budget is left to spent ones, so that readers
//! some way apart share them. It is little: the kernel keeps what was read as well, and memory that
//! is used again soon is still in the processor's cache.

use super::meter::Meter;
use super::{BLOCK, RUN, Span, block_range};
use crate::error::{Error, Result};
use crate::store::{Addr, Entry, Version};
use bytes::BytesMut;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The least that a block costs, in bytes: pays its place in the map, so that a million tiny files do
/// not outgrow the budget.
const CHARGE_MIN: u64 = 4096;

/// A stream that was not read for so long leaves its share of the budget to the others.
const STREAM_IDLE: Duration = Duration::from_secs(5);

/// The windows of all streams together may be this small on the slowest link, in bytes; else they hold
/// what the link brings in a second.
const WIRE_MIN: u64 = 1024 * 1024;

/// Spent runs beyond this leave at once, in bytes: some steps of a reader that is a little behind.
const SPENT_MAX: u64 = 16 * 1024 * 1024;

/// What one block costs, in bytes.
pub(super) fn charge(size: u64, block: u64) -> u64 {
    let range = block_range(size, block);
    (range.end - range.start).max(CHARGE_MIN)
}

/// Somebody in whose interest blocks are fetched: an open handle, or one windowless read.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) id: u64,
    /// The store has another version by now.
    pub(super) stale: AtomicBool,
    /// The last fetch failed: nothing is prefetched until one succeeds.
    pub(super) failed: AtomicBool,
}

/// One content, known by a short number.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) id: u64,
    pub(super) entry: Arc<Entry>,
}

/// Somebody waiting for one block.
#[derive(Debug)]
pub(super) struct Waiter {
    answer: oneshot::Sender<Result<Span>>,
    spend: bool,
}

/// What a waiter gets; nothing at all if the fetch was given up.
pub(super) type Answer = oneshot::Receiver<Result<Span>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Spent,
    Kept,
}

enum Slot {
    Ready { run: u64 },
    Flying { flight: u64, waiters: Vec<Waiter> },
}

/// Neighbouring blocks in one buffer.
struct Run {
    file: u64,
    blocks: Range<u64>,
    span: Span,
    rank: (Class, u64),
    cost: u64,
}

/// Blocks in a row that one request brings.
struct Flight {
    file: File,
    /// Not yet there.
    left: Range<u64>,
    owners: Vec<Arc<Owner>>,
    task: Option<AbortHandle>,
}

/// Who holds a file's number. Once forgotten it is no longer in `ids`.
struct Known {
    key: (Addr, Version),
    readers: usize,
    blocks: usize,
}

/// See the module.
pub(super) struct Blocks {
    budget: u64,
    used: u64,
    /// Of `used`, in memory.
    ready: u64,
    /// Of `ready`, [`Class::Kept`].
    kept: u64,
    last_id: u64,
    slots: HashMap<(u64, u64), Slot>,
    runs: HashMap<u64, Run>,
    /// The runs, those first that leave first.
    order: BTreeMap<(Class, u64), u64>,
    flights: HashMap<u64, Flight>,
    ids: HashMap<(Addr, Version), u64>,
    known: HashMap<u64, Known>,
    /// Owners with an open window, and when they last read.
    streams: HashMap<u64, Instant>,
    meter: Meter,
    /// Buffers of evicted runs for those that are on their way, and never more than these: they are
    /// paid already. Memory from the system costs a page fault every 4 KiB.
    spare: Vec<BytesMut>,
    /// Reads that wait for room: nothing is prefetched meanwhile.
    pub(super) starving: usize,
}

impl Blocks {
    /// An empty map with a budget in bytes, at least one block.
    pub(super) fn new(budget: u64) -> Self {
        Blocks {
            budget: budget.max(BLOCK),
            used: 0,
            ready: 0,
            kept: 0,
            last_id: 0,
            slots: HashMap::new(),
            runs: HashMap::new(),
            order: BTreeMap::new(),
            flights: HashMap::new(),
            ids: HashMap::new(),
            known: HashMap::new(),
            streams: HashMap::new(),
            meter: Meter::new(Instant::now()),
            spare: Vec::new(),
            starving: 0,
        }
    }

    /// Bytes paid for, in memory and on their way.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The number of a content, held until [`Blocks::close`].
    pub(super) fn open(&mut self, entry: Arc<Entry>) -> (File, Arc<Owner>) {
        let key = (entry.addr.clone(), entry.version.clone());
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.next_id();
                self.ids.insert(key.clone(), id);
                id
            }
        };
        self.known
            .entry(id)
            .or_insert(Known {
                key,
                readers: 0,
                blocks: 0,
            })
            .readers += 1;
        let owner = Owner {
            id: self.next_id(),
            stale: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        (File { id, entry }, Arc::new(owner))
    }

    /// An owner leaves: what is on its way for nobody else is given up. The tasks are to be aborted.
    pub(super) fn close(&mut self, file: u64, owner: u64) -> Vec<AbortHandle> {
        self.streams.remove(&owner);
        let mut idle = Vec::new();
        for (id, flight) in &mut self.flights {
            let before = flight.owners.len();
            flight.owners.retain(|o| o.id != owner);
            if flight.owners.len() < before && flight.owners.is_empty() {
                idle.push(*id);
            }
        }
        let mut tasks = Vec::new();
        for id in idle {
            tasks.extend(self.flights.get_mut(&id).and_then(|f| f.task.take()));
            // Whoever waits is an owner: nobody is left to be told.
            drop(self.end(id, None));
        }
        let known = self.known.get_mut(&file).map(|known| {
            known.readers -= 1;
            (known.readers, self.ids.get(&known.key) == Some(&file))
        });
        if known == Some((0, false)) {
            // Forgotten: nobody can come to its blocks any more.
            self.drop_ready(file);
        }
        self.release(file, 0);
        tasks
    }

    /// So many blocks of a file leave the map.
    fn release(&mut self, file: u64, blocks: usize) {
        if let Some(known) = self.known.get_mut(&file) {
            known.blocks -= blocks;
            if known.blocks == 0 && known.readers == 0 {
                if self.ids.get(&known.key) == Some(&file) {
                    self.ids.remove(&known.key);
                }
                self.known.remove(&file);
            }
        }
    }

    /// Drops what is in memory of a version; who opens it again starts afresh.
    pub(super) fn forget(&mut self, entry: &Entry) {
        let key = (entry.addr.clone(), entry.version.clone());
        if let Some(file) = self.ids.remove(&key) {
            self.drop_ready(file);
        }
    }

    fn drop_ready(&mut self, file: u64) {
        let of_file = self.runs.iter().filter(|(_, run)| run.file == file);
        for id in of_file.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.evict(id);
        }
    }

    /// How wide the window of an owner may be, in bytes: a quarter of the budget; those of all streams
    /// together half of it, and what the link brings in a second; none wider than keeps the link busy. An open window is a stream.
    pub(super) fn share(&mut self, owner: u64, open: bool, now: Instant) -> u64 {
        if open {
            self.streams.insert(owner, now);
        }
        if self.streams.len() > 1 {
            self.streams
                .retain(|_, seen| now.duration_since(*seen) < STREAM_IDLE);
        }
        let others = self.streams.len() - usize::from(self.streams.contains_key(&owner));
        let wire = self
            .meter
            .rate()
            .map_or(u64::MAX, |rate| rate.max(WIRE_MIN));
        (self.budget / 4)
            .min(self.meter.reach())
            .min((self.budget / 2).min(wire) / (others as u64 + 1))
    }

    /// Whether all these blocks are in memory.
    pub(super) fn has_all(&self, file: u64, blocks: Range<u64>) -> bool {
        blocks
            .into_iter()
            .all(|b| matches!(self.slots.get(&(file, b)), Some(Slot::Ready { .. })))
    }

    /// Whether a block is in memory or on its way.
    pub(super) fn has(&self, file: u64, block: u64) -> bool {
        self.slots.contains_key(&(file, block))
    }

    /// A block in memory, and what lies beside it in its buffer. `spend`: a sequential reader reads its end.
    pub(super) fn get(&mut self, file: u64, block: u64, spend: bool) -> Option<Span> {
        let stamp = self.next_id();
        let Some(Slot::Ready { run: id }) = self.slots.get(&(file, block)) else {
            return None;
        };
        let run = self.runs.get_mut(id)?;
        let spent = spend && block + 1 == run.blocks.end;
        let new = (if spent { Class::Spent } else { Class::Kept }, stamp);
        let old = std::mem::replace(&mut run.rank, new);
        let (span, cost) = (run.span.clone(), run.cost);
        if let Some(id) = self.order.remove(&old) {
            self.order.insert(new, id);
            self.kept -= if old.0 == Class::Kept { cost } else { 0 };
            self.kept += if new.0 == Class::Kept { cost } else { 0 };
        }
        Some(span)
    }

    /// Waits for a block that is on its way, in the interest of `owner`.
    pub(super) fn wait(
        &mut self,
        file: u64,
        block: u64,
        owner: &Arc<Owner>,
        spend: bool,
    ) -> Option<Answer> {
        let Some(Slot::Flying { flight, waiters }) = self.slots.get_mut(&(file, block)) else {
            return None;
        };
        let (answer, receiver) = oneshot::channel();
        waiters.push(Waiter { answer, spend });
        if let Some(flight) = self.flights.get_mut(flight) {
            join(flight, owner);
        }
        Some(receiver)
    }

    /// Marks that a block that may be on its way is wanted by `owner` too.
    pub(super) fn join(&mut self, file: u64, block: u64, owner: &Arc<Owner>) {
        if let Some(Slot::Flying { flight, .. }) = self.slots.get(&(file, block))
            && let Some(flight) = self.flights.get_mut(flight)
        {
            join(flight, owner);
        }
    }

    /// How many of `blocks`, from the first, have room beside what is on its way.
    pub(super) fn room(&self, size: u64, blocks: Range<u64>) -> Range<u64> {
        let mut free = self.budget - (self.used - self.ready);
        let end = blocks
            .clone()
            .find(|block| match free.checked_sub(charge(size, *block)) {
                Some(rest) => {
                    free = rest;
                    false
                }
                None => true,
            });
        blocks.start..end.unwrap_or(blocks.end)
    }

    fn evict_one(&mut self) {
        let spent = self.ready - self.kept;
        let from = if spent < SPENT_MAX.min(self.budget / 4) {
            Class::Kept
        } else {
            Class::Spent
        };
        let first = self.order.range((from, 0)..).next();
        if let Some(id) = first.or(self.order.iter().next()).map(|(_, id)| *id) {
            self.evict(id);
        }
    }

    fn evict(&mut self, id: u64) {
        let Some(run) = self.runs.remove(&id) else {
            return;
        };
        self.order.remove(&run.rank);
        for block in run.blocks.clone() {
            self.slots.remove(&(run.file, block));
        }
        self.used -= run.cost;
        self.ready -= run.cost;
        self.kept -= if run.rank.0 == Class::Kept {
            run.cost
        } else {
            0
        };
        self.release(run.file, (run.blocks.end - run.blocks.start) as usize);
        if run.span.bytes.len() as u64 == RUN
            && self.spare.len() < self.spare_max()
            && let Ok(mut buffer) = run.span.bytes.try_into_mut()
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn spare_max(&self) -> usize {
        ((self.used - self.ready) / RUN) as usize
    }

    /// An empty buffer for a run of [`RUN`].
    pub(super) fn buffer(&mut self) -> BytesMut {
        self.spare
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(RUN as usize))
    }

    /// A flight begins: of blocks that are not in the map and have room, which is made now.
    pub(super) fn begin(&mut self, file: &File, blocks: Range<u64>, owner: &Arc<Owner>) -> u64 {
        if self.flights.is_empty() {
            self.meter.busy(Instant::now());
        }
        let id = self.next_id();
        let need: u64 = blocks
            .clone()
            .map(|block| charge(file.entry.size, block))
            .sum();
        self.used += need;
        while (self.used > self.budget || self.ready - self.kept > SPENT_MAX)
            && !self.order.is_empty()
        {
            self.evict_one();
        }
        for block in blocks.clone() {
            let slot = Slot::Flying {
                flight: id,
                waiters: Vec::new(),
            };
            let old = self.slots.insert((file.id, block), slot);
            debug_assert!(old.is_none(), "block {block} is fetched twice");
        }
        if let Some(known) = self.known.get_mut(&file.id) {
            known.blocks += (blocks.end - blocks.start) as usize;
        }
        let (file, owners) = (file.clone(), vec![owner.clone()]);
        self.flights.insert(
            id,
            Flight {
                file,
                left: blocks,
                owners,
                task: None,
            },
        );
        id
    }

    /// The task of a flight, to be aborted when nobody wants it any more.
    pub(super) fn task(&mut self, flight: u64, task: AbortHandle) {
        if let Some(flight) = self.flights.get_mut(&flight) {
            flight.task = Some(task);
        }
    }

    /// A request was answered after so long: its first bytes are there.
    pub(super) fn answered(&mut self, after: Duration) {
        self.meter.answered(after);
    }

    /// Whether more wait for the block before `block` than for this one: somebody's read ends here.
    pub(super) fn demand_ends(&self, flight: u64, block: u64) -> bool {
        let waiting = |run: &Flight, block| match self.slots.get(&(run.file.id, block)) {
            Some(Slot::Flying {
                flight: of,
                waiters,
            }) if *of == flight => waiters.len(),
            _ => 0,
        };
        let run = self.flights.get(&flight);
        run.is_some_and(|run| waiting(run, block - 1) > waiting(run, block))
    }

    /// The next blocks of a flight are there; whom to give them to. Nobody and nothing if it was given up.
    pub(super) fn complete(&mut self, flight: u64, span: &Span) -> Vec<Waiter> {
        let id = self.next_id();
        let Some(run) = self.flights.get_mut(&flight) else {
            return Vec::new();
        };
        let (file, size) = (run.file.id, run.file.entry.size);
        let blocks = run.left.start..super::blocks_of(&span.range()).end;
        debug_assert!(blocks.start * BLOCK == span.at && blocks.end <= run.left.end);
        run.left.start = blocks.end;
        self.meter.arrived(span.bytes.len() as u64, Instant::now());
        if run.left.is_empty() {
            // Its task only has to end well: its connection is good for another.
            self.flights.remove(&flight);
        }
        let (mut all, mut spent) = (Vec::new(), false);
        for block in blocks.clone() {
            let ready = Slot::Ready { run: id };
            if let Some(Slot::Flying { waiters, .. }) = self.slots.insert((file, block), ready) {
                // The last one decides.
                spent = !waiters.is_empty() && waiters.iter().all(|w| w.spend);
                all.extend(waiters);
            }
        }
        let cost = blocks.clone().map(|block| charge(size, block)).sum();
        let rank = (if spent { Class::Spent } else { Class::Kept }, id);
        self.ready += cost;
        self.kept += if spent { 0 } else { cost };
        self.order.insert(rank, id);
        let span = span.clone();
        let run = Run {
            file,
            blocks,
            span,
            rank,
            cost,
        };
        self.runs.insert(id, run);
        self.spare.truncate(self.spare_max());
        all
    }

    /// A flight is over. What it did not bring is gone from the map and paid back; whom to tell.
    pub(super) fn end(&mut self, flight: u64, error: Option<&Error>) -> Vec<Waiter> {
        let Some(flight) = self.flights.remove(&flight) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for block in flight.left {
            if let Some(Slot::Flying { waiters, .. }) = self.slots.remove(&(flight.file.id, block))
            {
                self.used -= charge(flight.file.entry.size, block);
                all.extend(waiters);
                self.release(flight.file.id, 1);
            }
        }
        self.spare.truncate(self.spare_max());
        if let Some(error) = error {
            for owner in &flight.owners {
                owner.failed.store(true, Ordering::Relaxed);
                if error.kind == crate::error::Kind::Stale {
                    owner.stale.store(true, Ordering::Relaxed);
                }
            }
        }
        all
    }

    /// Counts everything again; what it finds must be what was kept up to date.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (mut used, mut kept, mut ready) = (0, 0, 0);
        let mut blocks: HashMap<u64, usize> = HashMap::new();
        for ((file, block), slot) in &self.slots {
            *blocks.entry(*file).or_default() += 1;
            match slot {
                Slot::Ready { run } => {
                    let run = &self.runs[run];
                    assert!(run.file == *file && run.blocks.contains(block));
                }
                Slot::Flying { flight, .. } => {
                    let flight = &self.flights[flight];
                    assert!(flight.left.contains(block));
                    used += charge(flight.file.entry.size, *block);
                }
            }
        }
        for (id, run) in &self.runs {
            assert_eq!(self.order[&run.rank], *id);
            let before = (run.blocks.end - run.blocks.start - 1) * BLOCK;
            let last = run.span.bytes.len() as u64 - before;
            assert_eq!(run.cost, before + last.max(CHARGE_MIN));
            used += run.cost;
            ready += run.cost;
            kept += if run.rank.0 == Class::Kept {
                run.cost
            } else {
                0
            };
            for block in run.blocks.clone() {
                let slot = &self.slots[&(run.file, block)];
                assert!(matches!(slot, Slot::Ready { run } if run == id));
            }
        }
        assert_eq!((used, kept, ready), (self.used, self.kept, self.ready));
        assert_eq!(self.runs.len(), self.order.len());
        assert!(self.used <= self.budget, "{} of {}", self.used, self.budget);
        assert!(self.spare.len() <= self.spare_max());
        for (file, known) in &self.known {
            assert_eq!(known.blocks, blocks.remove(file).unwrap_or(0));
            assert!(known.blocks + known.readers > 0);
        }
        assert!(blocks.is_empty(), "blocks of files that nobody knows");
        assert!(self.ids.values().all(|id| self.known.contains_key(id)));
    }

    /// How many flights and files there are.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.flights.len(), self.known.len())
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks")
            .field("budget", &self.budget)
            .field("used", &self.used)
            .field("flights", &self.flights.len())
            .finish_non_exhaustive()
    }
}

impl Waiter {
    /// Tells it; it may have gone.
    pub(super) fn tell(self, answer: Result<Span>) {
        drop(self.answer.send(answer));
    }
}

fn join(flight: &mut Flight, owner: &Arc<Owner>) {
    if !flight.owners.iter().any(|o| o.id == owner.id) {
        flight.owners.push(owner.clone());
    }
}
