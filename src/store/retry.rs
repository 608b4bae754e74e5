//! Tries again what is worth another try: exponential back-off with jitter, the server's own time
//! first, within a budget. The only place where anything is repeated.
//!
//! It knows no protocol: a store says by its error's kind whether another try makes sense, and has
//! settled by looking what an unanswered write has done.

use super::*;
use crate::error::{Error, Kind as ErrorKind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::{Instant, sleep_until};

/// When and how long a request is tried again. Plain data.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// Most tries of one request (a read that moved on counts anew).
    pub tries: u32,
    /// Longest time over all tries, waiting included.
    pub budget: Duration,
    /// The same for a server that asks to come later (429, 503): then only time counts, not tries.
    pub later_budget: Duration,
    /// The first wait; it doubles.
    pub first_wait: Duration,
    /// The longest wait of our own making.
    pub longest_wait: Duration,
    /// The longest `Retry-After` that is believed.
    pub longest_asked: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        RetrySettings {
            tries: 6,
            budget: Duration::from_secs(120),
            later_budget: Duration::from_secs(600),
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(10),
            longest_asked: Duration::from_secs(120),
        }
    }
}

/// The wait before try `tried + 1`; `None`: give up. `random` is in 0..1. Pure.
fn wait_before_next(
    settings: &RetrySettings,
    error: &Error,
    tried: u32,
    elapsed: Duration,
    random: f64,
) -> Option<Duration> {
    if !error.kind.worth_another_try() {
        return None;
    }
    let later = error.kind == ErrorKind::Later;
    let budget = if later {
        settings.later_budget
    } else {
        settings.budget
    };
    if !later && tried >= settings.tries {
        return None;
    }
    let doubled = settings
        .first_wait
        .saturating_mul(1u32 << tried.saturating_sub(1).min(16))
        .min(settings.longest_wait);
    let jittered = doubled.mul_f64(0.5 + random);
    let wait = match error.retry_after {
        // A little more than asked, so that many clients do not come back in the same instant.
        Some(asked) => asked.min(settings.longest_asked) + settings.first_wait.mul_f64(random),
        None => jittered,
    };
    (elapsed + wait < budget).then_some(wait)
}

#[derive(Debug)]
pub(super) struct Retry {
    inner: Arc<dyn Store>,
    settings: RetrySettings,
    stats: Arc<Stats>,
    /// No request before this: the server has asked all of us to wait.
    closed_until: Mutex<Option<Instant>>,
}

/// One request and its tries so far.
struct Tries<'a> {
    retry: &'a Retry,
    op: &'static str,
    what: String,
    begin: Instant,
    tried: u32,
    in_all: u32,
}

impl Tries<'_> {
    /// Waits until the next try is due, or gives the error back with its history.
    async fn after(&mut self, mut error: Error) -> Result<()> {
        self.tried += 1;
        self.in_all += 1;
        let elapsed = self.begin.elapsed();
        let settings = &self.retry.settings;
        match wait_before_next(settings, &error, self.tried, elapsed, random()) {
            Some(wait) => {
                log::warn!(
                    "{} {}: try {} failed ({error}), next in {:.1} s",
                    self.op,
                    self.what,
                    self.in_all,
                    wait.as_secs_f64()
                );
                self.retry.stats.retried();
                let due = Instant::now() + wait;
                if error.kind == ErrorKind::Later {
                    self.retry.close_until(due);
                }
                sleep_until(due).await;
                self.retry.open().await;
                Ok(())
            }
            None => {
                error.tries = error.tries.max(self.in_all);
                error.elapsed = error.elapsed.max(elapsed);
                Err(error)
            }
        }
    }

    /// The request moved on by itself: what failed before is forgiven.
    fn moved_on(&mut self) {
        self.tried = 0;
        self.begin = Instant::now();
    }
}

/// Evenly in 0..1; from the operating system's generator, by way of a random UUID.
fn random() -> f64 {
    (uuid::Uuid::new_v4().as_u128() as u32) as f64 / (f64::from(u32::MAX) + 1.0)
}

impl Retry {
    pub(super) fn new(inner: Arc<dyn Store>, settings: RetrySettings, stats: Arc<Stats>) -> Self {
        Retry {
            inner,
            settings,
            stats,
            closed_until: Mutex::new(None),
        }
    }

    fn close_until(&self, due: Instant) {
        let mut closed = self.closed_until.lock().unwrap_or_else(|e| e.into_inner());
        *closed = Some(closed.map_or(due, |c| c.max(due)));
    }

    async fn open(&self) {
        loop {
            let until = *self.closed_until.lock().unwrap_or_else(|e| e.into_inner());
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    async fn begin(&self, op: &'static str, what: impl Into<String>) -> Tries<'_> {
        self.open().await;
        Tries {
            retry: self,
            op,
            what: what.into(),
            begin: Instant::now(),
            tried: 0,
            in_all: 0,
        }
    }
}

fn at(place: &Place) -> String {
    format!("{}/{}", place.dir, place.name)
}

/// Tries `$call` until it succeeds or is not worth another try.
macro_rules! tried {
    ($self:ident, $op:literal, $what:expr, $call:expr) => {{
        let mut tries = $self.begin($op, $what).await;
        loop {
            match $call.await {
                Ok(done) => return Ok(done),
                Err(error) => tries.after(error).await?,
            }
        }
    }};
}

/// Counts what passes, so that a read can go on where it broke.
struct Counting<'a> {
    inner: &'a mut dyn Sink,
    bytes: u64,
}

impl Sink for Counting<'_> {
    fn put(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.inner.put(bytes);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Retry {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn check_name(&self, dir: &Addr, name: &str) -> Result<()> {
        self.inner.check_name(dir, name)
    }

    async fn probe(&self) -> Result<Probe> {
        tried!(self, "probe", "", self.inner.probe())
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        tried!(self, "stat", at(place), self.inner.stat(place))
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        tried!(self, "list", dir.to_string(), self.inner.list(dir))
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        let mut tries = self.begin("read", entry.addr.to_string()).await;
        let mut left = range;
        loop {
            let mut counting = Counting {
                inner: sink,
                bytes: 0,
            };
            let done = self.inner.read(entry, left.clone(), &mut counting).await;
            let got = counting.bytes;
            left.start += got;
            match done {
                Ok(()) => return Ok(()),
                Err(error) if error.kind.worth_another_try() && left.start >= left.end => {
                    log::debug!("read {}: all came, then {error}", entry.addr);
                    return Ok(());
                }
                Err(error) => {
                    if got > 0 {
                        tries.moved_on();
                    }
                    tries.after(error).await?;
                }
            }
        }
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        let attempts = AtomicU32::new(0);
        let put: Result<Entry> = async {
            tried!(self, "put", at(&new.place), {
                attempts.fetch_add(1, Ordering::Relaxed);
                self.inner.put(new, source)
            })
        }
        .await;
        match put {
            // An earlier try may have stored it, and only its confirmation was lost.
            Err(error)
                if error.kind == ErrorKind::Exists && attempts.load(Ordering::Relaxed) > 1 =>
            {
                let there = self.stat(&new.place).await?;
                let ours = there.kind == new.kind
                    && there.size == new.size
                    && new.digests.agree(&there.digests) == Some(true);
                let keeps = self.caps().keeps;
                match ours {
                    false => Err(error),
                    true if keeps.of(&there.attrs) == keeps.of(&new.attrs) => Ok(there),
                    true => self.set_attrs(&there, &new.attrs).await,
                }
            }
            put => put,
        }
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        tried!(self, "start", at(&new.place), self.inner.start(new))
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        tried!(
            self,
            "part",
            format!("{} #{}", at(&new.place), part.index),
            self.inner.part(up, new, part, source)
        )
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        tried!(
            self,
            "finish",
            at(&new.place),
            self.inner.finish(up, new, receipts, tail)
        )
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        tried!(self, "abort", at(&new.place), self.inner.abort(up, new))
    }

    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        tried!(
            self,
            "receipts",
            at(&new.place),
            self.inner.receipts(up, new)
        )
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        tried!(
            self,
            "remove",
            entry.addr.to_string(),
            self.inner.remove(entry)
        )
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        tried!(self, "mkdir", at(place), self.inner.mkdir(place))
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        tried!(
            self,
            "rmdir",
            entry.addr.to_string(),
            self.inner.rmdir(entry)
        )
    }

    async fn rename(&self, entry: &Entry, to: &Place, over: Option<&Entry>) -> Result<Entry> {
        tried!(
            self,
            "rename",
            entry.addr.to_string(),
            self.inner.rename(entry, to, over)
        )
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        tried!(
            self,
            "set attributes",
            entry.addr.to_string(),
            self.inner.set_attrs(entry, attrs)
        )
    }

    async fn space(&self) -> Result<Option<Space>> {
        tried!(self, "space", "", self.inner.space())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(kind: ErrorKind, after: Option<u64>, tried: u32, elapsed: u64) -> Option<f64> {
        let error = Error::new(kind, "x").after(after.map(Duration::from_secs));
        wait_before_next(
            &RetrySettings::default(),
            &error,
            tried,
            Duration::from_secs(elapsed),
            0.5,
        )
        .map(|d| d.as_secs_f64())
    }

    #[test]
    fn waits_double_up_to_a_bound_and_end_with_tries_or_budget() {
        assert_eq!(wait(ErrorKind::Broken, None, 1, 0), Some(0.5));
        assert_eq!(wait(ErrorKind::Broken, None, 2, 1), Some(1.0));
        assert_eq!(wait(ErrorKind::Broken, None, 5, 1), Some(8.0));
        assert_eq!(wait(ErrorKind::Broken, None, 6, 1), None);
        assert_eq!(wait(ErrorKind::Broken, None, 1, 120), None);
        assert_eq!(wait(ErrorKind::Denied, None, 1, 0), None);
        assert_eq!(wait(ErrorKind::Restart, None, 1, 0), None);
    }

    #[test]
    fn a_server_that_asks_to_wait_is_obeyed_and_not_given_up_by_tries() {
        assert_eq!(wait(ErrorKind::Later, Some(7), 1, 0), Some(7.25));
        assert_eq!(wait(ErrorKind::Later, Some(9999), 1, 0), Some(120.25));
        assert_eq!(wait(ErrorKind::Later, None, 40, 500), Some(10.0));
        assert_eq!(wait(ErrorKind::Later, None, 40, 599), None);
    }

    #[test]
    fn jitter_is_between_zero_and_one_and_varies() {
        let first = random();
        assert!((0.0..1.0).contains(&first));
        assert!((0..100).any(|_| random() != first));
    }
}
