//! What this process knows of its writes: whose turn it is on a key, and which answers were lost.

use super::*;
use std::collections::HashSet;
use std::sync::atomic::AtomicI64;
use tokio::sync::Notify;

/// How long an upload waits for another one of its key.
const TURN: Duration = Duration::from_secs(20);

/// An upload of ours that was not touched for so long is not under way any more.
const ABANDONED: Duration = Duration::from_secs(300);

/// What this process knows of its uploads.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Keys with an upload under way: its id, and when it was last touched.
    under_way: Mutex<HashMap<String, (String, Instant)>>,
    freed: Notify,
    /// Requests whose outcome is unknown, by operation and key.
    doubts: Mutex<HashSet<(&'static str, String)>>,
    /// Timestamps of writes whose outcome is unknown, by key.
    writes: Mutex<HashMap<String, Vec<i64>>>,
    /// The last timestamp of our own making.
    last: AtomicI64,
}

impl Memory {
    pub(super) fn doubtful(&self, op: &'static str, key: &str) -> bool {
        lock(&self.doubts).contains(&(op, key.to_owned()))
    }

    pub(super) fn doubt(&self, op: &'static str, key: &str) {
        lock(&self.doubts).insert((op, key.to_owned()));
    }

    pub(super) fn settled(&self, op: &'static str, key: &str) {
        lock(&self.doubts).remove(&(op, key.to_owned()));
    }

    /// A write with this timestamp is on its way.
    pub(super) fn sends(&self, key: &str, stamp: i64) {
        let mut writes = lock(&self.writes);
        let stamps = writes.entry(key.to_owned()).or_default();
        if !stamps.contains(&stamp) {
            stamps.push(stamp);
        }
    }

    /// Whether a write of ours with this timestamp may have been carried out.
    pub(super) fn may_be_ours(&self, key: &str, stamp: Option<i64>) -> bool {
        let writes = lock(&self.writes);
        (writes.get(key)).is_some_and(|all| stamp.is_some_and(|stamp| all.contains(&stamp)))
    }

    /// What is under the key is known.
    pub(super) fn known(&self, key: &str) {
        lock(&self.writes).remove(key);
    }

    /// The time now, in milliseconds since 1970; never the same twice.
    pub(super) fn moment(&self) -> i64 {
        let now = row::millis(SystemTime::now());
        let next = |last: i64| Some(now.max(last + 1));
        let before = (self.last).fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.map_or(now, |before| now.max(before + 1))
    }

    /// Waits until no other upload of the key is under way.
    pub(super) async fn take(&self, key: &str, id: &str, op: &'static str) -> Result<()> {
        let until = Instant::now() + TURN;
        loop {
            let freed = self.freed.notified();
            {
                let mut all = lock(&self.under_way);
                let busy = all
                    .get(key)
                    .is_some_and(|(holder, touched)| holder != id && touched.elapsed() < ABANDONED);
                if !busy {
                    all.insert(key.to_owned(), (id.to_owned(), Instant::now()));
                    return Ok(());
                }
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(Error::new(ErrorKind::Busy, op)
                    .at(key)
                    .said("another upload of this file is under way"));
            }
        }
    }

    pub(super) fn turn<'a>(&'a self, key: &'a str, id: &'a str) -> Turn<'a> {
        Turn {
            memory: self,
            key,
            id,
            goes_on: false,
        }
    }

    pub(super) fn touch(&self, key: &str, id: &str) {
        if let Some((holder, touched)) = lock(&self.under_way).get_mut(key)
            && holder == id
        {
            *touched = Instant::now();
        }
    }

    pub(super) fn free(&self, key: &str, id: &str) {
        let mut all = lock(&self.under_way);
        if all.get(key).is_some_and(|(holder, _)| holder == id) {
            all.remove(key);
            drop(all);
            self.freed.notify_waiters();
        }
    }
}

/// A key that is held while this lives, or until its upload ends if that was said.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    memory: &'a Memory,
    key: &'a str,
    id: &'a str,
    pub(super) goes_on: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.goes_on {
            self.memory.free(self.key, self.id);
        }
    }
}
