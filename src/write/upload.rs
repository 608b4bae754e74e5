//! One content on its way to the store: whole, or cut into parts, several in flight in order of offset.
//!
//! Knows the store's trait and capabilities only. Single requests are retried below; what is decided
//! here is the whole: start over under a new id, give up, compare.

use crate::error::{Error, Kind, Result};
use crate::store::{Entry, New, Part, Receipt, Source, Store, Upload};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
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
    abandoned: AtomicBool,
    committing: AtomicBool,
    wake: Notify,
}

impl Progress {
    /// Asks to stop; without effect once the commit has begun, or on a request that is a commit.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Asks to stop at once: also a request that is upload and commit in one is not waited for. What
    /// that has done is unknown then.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.cancel();
    }

    /// Whether a request was sent that stores the content, if it arrives.
    pub(super) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }

    fn commits(&self) {
        self.committing.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Cancelled, "upload"));
        }
        Ok(())
    }

    /// Returns when work is to be stopped that is (`commits`), or is not, a commit by itself.
    pub(super) async fn stopped(&self, commits: bool) {
        let asked = if commits {
            &self.abandoned
        } else {
            &self.cancelled
        };
        loop {
            let wake = self.wake.notified();
            if asked.load(Ordering::Acquire) {
                return;
            }
            wake.await;
        }
    }
}

/// What a request that was a commit by itself ends with when it was abandoned.
fn dropped() -> Error {
    Error::new(Kind::Cancelled, "upload").said("its outcome is unknown")
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
    progress.check()?;
    let whole = if new.size <= store.caps().one_shot_max {
        progress.commits();
        tokio::select! {
            biased;
            () = progress.stopped(true) => return Err(dropped()),
            stored = store.put(new, source) => Some(stored),
        }
    } else {
        None
    };
    let entry = match whole {
        Some(Ok(entry)) => entry,
        Some(Err(error)) if error.kind != Kind::Restart => return Err(error),
        // Too large for one request, or for this server's.
        Some(Err(_)) | None => match in_parts(load, progress).await? {
            Sent::Stored(entry) => entry,
            theirs => return Ok(theirs),
        },
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
    if up.whole {
        progress.commits();
    }
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
            () = progress.stopped(up.whole) => {
                return Err(if up.whole {
                    dropped()
                } else {
                    Error::new(Kind::Cancelled, "upload")
                });
            }
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
    if !up.whole {
        if let Some(theirs) = (load.last_look)().await? {
            return Ok(Sent::Theirs(theirs));
        }
        // From here on it cannot be cancelled: the store may have it whatever we do.
        progress.check()?;
    }
    progress.commits();
    let tail = tail.as_ref().map(|part| (part, source));
    let stored = store.finish(up, new, &receipts, tail).await?;
    Ok(Sent::Stored(stored))
}
