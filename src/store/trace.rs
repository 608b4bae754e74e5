//! One line per operation with its time, and counters for `status`. Changes nothing.

use super::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What was asked of a store, by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpCount {
    /// Operations that ended, well or not (tries of one operation count once).
    pub done: u64,
    /// Those that ended in an error.
    pub failed: u64,
    /// Time over all, in microseconds, tries and waits included.
    pub micros: u64,
}

/// A copy of all counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By operation, such as "stat" or "part".
    pub ops: BTreeMap<&'static str, OpCount>,
    /// Bytes that the store has acknowledged (put, part, tail).
    pub sent_bytes: u64,
    /// Bytes that reads have given.
    pub fetched_bytes: u64,
    /// Tries that failed and were tried again.
    pub retries: u64,
}

/// Counters of one store since it was wrapped.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Counts>);

impl Stats {
    /// The counters now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.with(|c| c.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Counts) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub(super) fn retried(&self) {
        self.with(|c| c.retries += 1);
    }
}

#[derive(Debug)]
pub(super) struct Trace {
    inner: Arc<dyn Store>,
    stats: Arc<Stats>,
}

impl Trace {
    pub(super) fn new(inner: Arc<dyn Store>, stats: Arc<Stats>) -> Self {
        Trace { inner, stats }
    }

    async fn told<T>(
        &self,
        op: &'static str,
        what: impl FnOnce() -> String,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        let done = call.await;
        let took = begin.elapsed();
        self.stats.with(|c| {
            let count = c.ops.entry(op).or_default();
            count.done += 1;
            count.failed += u64::from(done.is_err());
            count.micros += took.as_micros() as u64;
        });
        if log::log_enabled!(log::Level::Trace) {
            let what = what();
            match &done {
                Ok(_) => log::trace!("{op} {what}: ok in {} ms", took.as_millis()),
                Err(e) => log::trace!("{op} {what}: {e}, in {} ms", took.as_millis()),
            }
        }
        done
    }

    fn sent(&self, bytes: u64) {
        self.stats.with(|c| c.sent_bytes += bytes);
    }
}

fn at(place: &Place) -> String {
    format!("{}/{}", place.dir, place.name)
}

struct Counting<'a> {
    inner: &'a mut dyn Sink,
    stats: &'a Stats,
}

impl Sink for Counting<'_> {
    fn put(&mut self, bytes: Bytes) {
        self.stats.with(|c| c.fetched_bytes += bytes.len() as u64);
        self.inner.put(bytes);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Trace {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn check_name(&self, dir: &Addr, name: &str) -> Result<()> {
        self.inner.check_name(dir, name)
    }

    async fn probe(&self) -> Result<Probe> {
        self.told("probe", String::new, self.inner.probe()).await
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        self.told("stat", || at(place), self.inner.stat(place))
            .await
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        self.told("list", || dir.to_string(), self.inner.list(dir))
            .await
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        let mut counting = Counting {
            inner: sink,
            stats: &self.stats,
        };
        self.told(
            "read",
            || format!("{} {range:?}", entry.addr),
            self.inner.read(entry, range.clone(), &mut counting),
        )
        .await
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        let call = self.inner.put(new, source);
        let entry = self.told("put", || at(&new.place), call).await?;
        self.sent(new.size);
        Ok(entry)
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        self.told("start", || at(&new.place), self.inner.start(new))
            .await
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        let what = || format!("{} #{}", at(&new.place), part.index);
        let call = self.inner.part(up, new, part, source);
        let receipt = self.told("part", what, call).await?;
        self.sent(part.range.end - part.range.start);
        Ok(receipt)
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        let call = self.inner.finish(up, new, receipts, tail);
        let entry = self.told("finish", || at(&new.place), call).await?;
        if let Some((part, _)) = tail {
            self.sent(part.range.end - part.range.start);
        }
        Ok(entry)
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        self.told("abort", || at(&new.place), self.inner.abort(up, new))
            .await
    }

    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        self.told("receipts", || at(&new.place), self.inner.receipts(up, new))
            .await
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        self.told(
            "remove",
            || entry.addr.to_string(),
            self.inner.remove(entry),
        )
        .await
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        self.told("mkdir", || at(place), self.inner.mkdir(place))
            .await
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        self.told("rmdir", || entry.addr.to_string(), self.inner.rmdir(entry))
            .await
    }

    async fn rename(&self, entry: &Entry, to: &Place, over: Option<&Entry>) -> Result<Entry> {
        self.told(
            "rename",
            || format!("{} to {}", entry.addr, at(to)),
            self.inner.rename(entry, to, over),
        )
        .await
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        self.told(
            "set attributes",
            || entry.addr.to_string(),
            self.inner.set_attrs(entry, attrs),
        )
        .await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.told("space", String::new, self.inner.space()).await
    }
}
