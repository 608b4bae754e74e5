//! One content on its way to the store: whole, or cut into parts, several in flight in order of offset.
//!
//! Knows the store's trait and capabilities only. Single requests are retried below; what is decided
//! here is the whole: start over under a new id, give up, compare.

use crate::error::{Error, Kind, Result};
use crate::store::{Entry, New, Part, Receipt, Source, Store, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How often an upload that the store declared void is begun anew in the same way.
const RESTARTS: u32 = 3;

/// How often at all: a new start in another way (smaller parts, one at a time) does not count above. A
/// store that halves its parts from the largest to the smallest that make sense needs about ten.
const RESTARTS_IN_ALL: u32 = 20;

/// What can be seen of, and told to, an upload from outside.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that the store has acknowledged.
    pub(super) sent: AtomicU64,
    stage: Mutex<Stage>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Stage {
    /// Somebody asked to stop.
    cancelled: bool,
    /// A request is under way that stores the content if it arrives.
    committing: bool,
    /// There was one.
    committed: bool,
}

impl Stage {
    fn check(&self) -> Result<()> {
        if self.cancelled && !self.committing {
            return Err(Error::new(Kind::Cancelled, "upload"));
        }
        Ok(())
    }
}

impl Progress {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to stop; without effect once the commit has begun: what a server has in full it may store at any
    /// time, so that nobody could say what it has after that.
    pub(super) fn cancel(&self) {
        self.stage().cancelled = true;
        self.wake.notify_waiters();
    }

    /// Whether a request was sent that stores the content, if it arrives.
    pub(super) fn may_be_stored(&self) -> bool {
        self.stage().committed
    }

    /// From here on it cannot be cancelled; `Cancelled` if it is.
    fn commits(&self) -> Result<()> {
        let mut stage = self.stage();
        stage.check()?;
        (stage.committing, stage.committed) = (true, true);
        Ok(())
    }

    /// The store asks for the upload to begin anew: it can be cancelled again.
    fn begins_anew(&self) -> Result<()> {
        let mut stage = self.stage();
        stage.committing = false;
        stage.check()
    }

    fn check(&self) -> Result<()> {
        self.stage().check()
    }

    /// Returns when work is to be stopped.
    pub(super) async fn stopped(&self) {
        loop {
            let wake = self.wake.notified();
            if self.check().is_err() {
                return;
            }
            wake.await;
        }
    }
}

/// The content of a request that is upload and commit in one: it commits with its last byte, which is not
/// given away once the upload is cancelled. No server stores what is cut off.
pub(super) struct Whole<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) size: u64,
    pub(super) progress: &'a Progress,
}

#[async_trait]
impl Source for Whole<'_> {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let last = range.end == self.size;
        let bytes = self.source.read(range).await?;
        if last {
            self.progress.commits()?;
        }
        Ok(bytes)
    }
}

/// How an upload ended that did not fail.
#[derive(Debug)]
pub(super) enum Sent {
    /// The store has it.
    Stored(Entry),
    /// Nothing was committed: the last look found this version of somebody else.
    Theirs(Entry),
}

/// The last look before a commit: somebody else's version, if there is one that must not be replaced.
pub(super) type LastLook<'a> = dyn Fn() -> BoxFuture<'a, Result<Option<Entry>>> + Send + Sync + 'a;

/// One content and where it goes.
pub(super) struct Load<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) new: &'a New,
    pub(super) source: &'a dyn Source,
    /// Parts in flight.
    pub(super) uploads: usize,
    pub(super) last_look: &'a LastLook<'a>,
}

/// Sends a content; the entry that the store has then is compared with it, size and digests.
pub(super) async fn send(load: &Load<'_>, progress: &Progress) -> Result<Sent> {
    let Load {
        store, new, source, ..
    } = *load;
    if store.caps().size_max.is_some_and(|max| new.size > max) {
        return Err(Error::new(Kind::TooLarge, "upload"));
    }
    // The one before, if there was one, was refused.
    progress.begins_anew()?;
    let whole = Whole {
        source,
        size: new.size,
        progress,
    };
    let whole = if new.size <= store.caps().one_shot_max {
        if new.size == 0 {
            progress.commits()?;
        }
        tokio::select! {
            biased;
            () = progress.stopped() => return Err(Error::new(Kind::Cancelled, "upload")),
            stored = store.put(new, &whole) => Some(stored),
        }
    } else {
        None
    };
    let entry = match whole {
        Some(Ok(entry)) => entry,
        Some(Err(error)) if error.kind != Kind::Restart => return Err(error),
        // Too large for one request, or for this server's.
        tried => {
            if tried.is_some() {
                progress.begins_anew()?;
            }
            match in_parts(load, progress).await? {
                Sent::Stored(entry) => entry,
                theirs => return Ok(theirs),
            }
        }
    };
    progress.sent.store(new.size, Ordering::Relaxed);
    if entry.size != new.size || new.digests.agree(&entry.digests) == Some(false) {
        return Err(Error::new(Kind::Mismatch, "verify upload").said(&format!(
            "{} bytes were sent, the store reports {}",
            new.size, entry.size
        )));
    }
    Ok(Sent::Stored(entry))
}

async fn in_parts(load: &Load<'_>, progress: &Progress) -> Result<Sent> {
    let (store, new) = (load.store, load.new);
    let (mut tries, mut in_all) = (0, 0);
    let mut void: Option<(Upload, Error)> = None;
    loop {
        progress.sent.store(0, Ordering::Relaxed);
        let up = store.start(new).await?;
        if let Some((before, error)) = void.take() {
            tries += u32::from(!goes_another_way(&before, &up));
            in_all += 1;
            if tries > RESTARTS || in_all > RESTARTS_IN_ALL {
                abort(store, &up, new).await;
                return Err(error);
            }
            log::warn!("upload of {} starts over: {error}", new.place.name);
        }
        match once(load, &up, progress).await {
            Ok(Sent::Theirs(theirs)) => {
                abort(store, &up, new).await;
                return Ok(Sent::Theirs(theirs));
            }
            Ok(stored) => return Ok(stored),
            Err(error) => {
                abort(store, &up, new).await;
                if error.kind != Kind::Restart {
                    return Err(error);
                }
                progress.begins_anew()?;
                void = Some((up, error));
            }
        }
    }
}

async fn abort(store: &dyn Store, up: &Upload, new: &New) {
    if let Err(error) = store.abort(up, new).await {
        log::debug!("abort of upload {}: {error}", up.id);
    }
}

/// Whether the store has learned something from the upload `before` that was void.
fn goes_another_way(before: &Upload, now: &Upload) -> bool {
    now.cut.first < before.cut.first
        || (now.sequential && !before.sequential)
        || (now.whole && !before.whole)
}

async fn once(load: &Load<'_>, up: &Upload, progress: &Progress) -> Result<Sent> {
    let Load {
        store, new, source, ..
    } = *load;
    let caps = store.caps();
    let mut parts = up.cut.parts(new.size);
    if parts.len() > caps.parts_max as usize {
        return Err(Error::new(Kind::TooLarge, "upload").said("more parts than the store takes"));
    }
    let tail: Option<Part> = if caps.tail_in_finish {
        parts.pop()
    } else {
        None
    };
    let alone = !caps.parallel_parts || up.sequential;
    let width = if alone { 1 } else { load.uploads.max(1) };
    if up.whole
        && let Some(theirs) = (load.last_look)().await?
    {
        return Ok(Sent::Theirs(theirs));
    }
    let whole = Whole {
        source,
        size: new.size,
        progress,
    };
    let source: &dyn Source = if up.whole { &whole } else { source };
    let mut receipts: Vec<Receipt> = Vec::with_capacity(parts.len());
    let mut flying = FuturesUnordered::new();
    let mut waiting = parts.iter();
    loop {
        while flying.len() < width
            && let Some(part) = waiting.next()
        {
            flying.push(store.part(up, new, part, source));
        }
        tokio::select! {
            biased;
            () = progress.stopped() => return Err(Error::new(Kind::Cancelled, "upload")),
            done = flying.next() => match done {
                None => break,
                Some(receipt) => {
                    let receipt = receipt?;
                    let range = &receipt.part.range;
                    progress.sent.fetch_add(range.end - range.start, Ordering::Relaxed);
                    receipts.push(receipt);
                }
            },
        }
    }
    drop(flying);
    receipts.sort_by_key(|receipt| receipt.part.index);
    if !up.whole
        && let Some(theirs) = (load.last_look)().await?
    {
        return Ok(Sent::Theirs(theirs));
    }
    // The store may have it whatever we do from here on.
    progress.commits()?;
    let tail = tail.as_ref().map(|part| (part, source));
    let stored = store.finish(up, new, &receipts, tail).await?;
    Ok(Sent::Stored(stored))
}
