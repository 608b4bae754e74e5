//! One open handle: a version, and the window over it.

use super::blocks::Blocks;
use super::cache::{Cache, Pinned, Plan, clip};
use super::window::Window;
use super::{BLOCK, block_range, blocks_of, join};
use crate::error::Result;
use crate::store::Entry;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// One open handle, pinned to one version: it gets that version's bytes, or `Stale`. Once the store
/// has answered `Stale`, what is in memory is still served (the same version is the same bytes), and the
/// rest is refused without asking again.
///
/// Dropping it stops what it had sent for ahead of the program, unless another reader wants it too;
/// complete blocks stay.
#[derive(Debug)]
pub struct Reader {
    pinned: Pinned,
    window: Mutex<Window>,
}

impl Reader {
    /// A reader of this version of a file.
    #[must_use]
    pub fn new(cache: Arc<Cache>, entry: Arc<Entry>) -> Reader {
        let window = Mutex::new(Window::new(entry.size));
        Reader {
            pinned: Pinned::new(cache, entry),
            window,
        }
    }

    /// The version that it reads.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.pinned.file.entry
    }

    /// The bytes of `range`, clipped at the entry's size, if all are in memory; never waits. Call
    /// [`Reader::read`] after `None`. May send for what lies ahead.
    pub fn read_now(&self, range: Range<u64>) -> Option<Bytes> {
        let range = clip(range, self.entry().size);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let demand = blocks_of(&range);
        let mut here = Vec::with_capacity((demand.end - demand.start) as usize);
        {
            let mut window = self.window();
            let mut blocks = self.pinned.cache.lock();
            if !blocks.has_all(self.pinned.file.id, demand.clone()) {
                return None;
            }
            let plan = self.plan_locked(&mut window, &mut blocks, &range);
            for block in demand {
                let spend = plan.spend && block_range(self.entry().size, block).end <= range.end;
                here.push(blocks.get(self.pinned.file.id, block, spend)?);
            }
            window.sent(self.pinned.prefetch_locked(&mut blocks, &plan) * BLOCK);
        }
        Some(join(&range, &here))
    }

    /// The bytes of `range`, waiting for what is missing. Clipped at the entry's size; empty at or past the
    /// end. Dropping the future is safe at any time.
    ///
    /// # Errors
    /// Those of [`crate::store::Store::read`]; `Stale` if the store has another version by now;
    /// `Timeout` if nothing moved for the cache's `stall`. Nothing that failed is kept: the next read asks
    /// again.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let range = clip(range, self.entry().size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (parts, plan) = {
            let mut window = self.window();
            let mut blocks = self.pinned.cache.lock();
            let plan = self.plan_locked(&mut window, &mut blocks, &range);
            let parts = self.pinned.gather_locked(&mut blocks, &range, &plan)?;
            window.sent(self.pinned.prefetch_locked(&mut blocks, &plan) * BLOCK);
            (parts, plan)
        };
        let (bytes, waited) = self.pinned.finish(&range, parts, &plan).await?;
        if waited {
            self.window().waited();
        }
        Ok(bytes)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan_locked(&self, window: &mut Window, blocks: &mut Blocks, range: &Range<u64>) -> Plan {
        let share = blocks.share(self.pinned.owner.id, window.is_open(), Instant::now());
        let cap = share.min(self.pinned.cache.widest());
        let want = window.want(range, cap);
        Plan {
            // Both ends are at block boundaries, or at the end of the file.
            ahead: want.ahead.start.div_ceil(BLOCK)..want.ahead.end.div_ceil(BLOCK),
            piece: want.piece / BLOCK,
            spend: want.sequential,
        }
    }
}
