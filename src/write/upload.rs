//! One content on its way to the store: whole, or cut into parts, several in flight in order of offset.
//!
//! Knows the store's trait and capabilities only. Single requests are retried below; what is decided
//! here is the whole: start over under a new id, give up, compare.

use crate::error::{Error, Kind, Result};
use crate::store::{Entry, New, Part, Receipt, Source, Store, Upload};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    cancelled: AtomicBool,
    wake: Notify,
}

impl Progress {
    /// Asks to stop; without effect once the commit has begun.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Cancelled, "upload"));
        }
        Ok(())
    }

    async fn cancelled(&self) {
        loop {
            let wake = self.wake.notified();
            if self.cancelled.load(Ordering::Acquire) {
                return;
            }
            wake.await;
        }
    }
}

/// Sends `source` as `new` and returns the entry that the store has then, size and digests compared.
pub(super) async fn send(
    store: &dyn Store,
    new: &New,
    source: &dyn Source,
    uploads: usize,
    progress: &Progress,
) -> Result<Entry> {
    if store.caps().size_max.is_some_and(|max| new.size > max) {
        return Err(Error::new(Kind::TooLarge, "upload"));
    }
    progress.check()?;
    let entry = if new.size <= store.caps().one_shot_max {
        store.put(new, source).await?
    } else {
        in_parts(store, new, source, uploads, progress).await?
    };
    progress.sent.store(new.size, Ordering::Relaxed);
    if entry.size != new.size || new.digests.agree(&entry.digests) == Some(false) {
        return Err(Error::new(Kind::Mismatch, "verify upload").said(&format!(
            "{} bytes were sent, the store reports {}",
            new.size, entry.size
        )));
    }
    Ok(entry)
}

async fn in_parts(
    store: &dyn Store,
    new: &New,
    source: &dyn Source,
    uploads: usize,
    progress: &Progress,
) -> Result<Entry> {
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
        match once(store, &up, new, source, uploads, progress).await {
            Ok(entry) => return Ok(entry),
            Err(error) => {
                abort(store, &up, new).await;
                if error.kind != Kind::Restart {
                    return Err(error);
                }
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

async fn once(
    store: &dyn Store,
    up: &Upload,
    new: &New,
    source: &dyn Source,
    uploads: usize,
    progress: &Progress,
) -> Result<Entry> {
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
    let width = if alone { 1 } else { uploads.max(1) };
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
            () = progress.cancelled() => progress.check()?,
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
    // From here on it cannot be cancelled: the store may have it whatever we do.
    progress.check()?;
    store
        .finish(up, new, &receipts, tail.as_ref().map(|part| (part, source)))
        .await
}
