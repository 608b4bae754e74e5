//! Writing: one [`Writer`] per file that is, or was just, being written. It executes what the session
//! decides: bytes into the spool, versions frozen, completed, sent, compared, answered for.
//!
//! Knows the store and the read path (for bytes of the old version), no inodes and no FUSE. The lock here
//! is never held across an await, nor while the owner is called.

mod content;
mod digest;
mod layer;
mod ranges;
mod session;
mod spool;
mod upload;

#[cfg(test)]
mod tests;

pub use session::{Flight, Last, Top};
pub use spool::Spool;
pub use upload::SEQUENTIAL;

use crate::error::{Error, Kind, Result};
use crate::read::Cache;
use crate::store::{Algo, Attrs, Entry, Kind as EntryKind, New, Place, Store};
use bytes::Bytes;
use content::{Content, Lower};
use session::{Action, Event, Session};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Instant, SystemTime};
use tokio::sync::{Notify, oneshot};
use upload::Progress;

/// What all writers of a mount share.
#[derive(Debug)]
pub struct Context {
    /// The store, wrapped.
    pub store: Arc<dyn Store>,
    /// The read path.
    pub cache: Arc<Cache>,
    /// The spool.
    pub spool: Arc<Spool>,
    /// Where background work runs.
    pub rt: tokio::runtime::Handle,
    /// Parts of one file in flight.
    pub uploads: usize,
    /// Who is told what became of a file.
    pub owner: Weak<dyn Owner>,
    /// Bytes acknowledged by the store.
    pub sent_bytes: AtomicU64,
    /// Files committed.
    pub committed_files: AtomicU64,
}

/// Who is told what became of a file. Called without locks held here.
pub trait Owner: Send + Sync + Debug {
    /// The store has this version.
    fn committed(&self, ino: u64, entry: &Entry);
    /// A commit failed.
    fn failed(&self, ino: u64, error: &Error);
    /// Nobody has it open and the store has it: the spool file is only a cache now.
    fn rested(&self, ino: u64);
    /// Nobody has it open and its name is gone.
    fn dropped(&self, ino: u64);
}

/// Where a file's next version goes, and with what.
#[derive(Clone, Debug)]
pub struct Target {
    /// The place in the store.
    pub place: Place,
    /// The path as the mount shows it, for messages.
    pub path: String,
    /// The entry there now, if any.
    pub replaces: Option<Entry>,
    /// The name must be new.
    pub exclusive: bool,
    /// Attributes to keep.
    pub attrs: Attrs,
}

type Waiter = oneshot::Sender<Result<()>>;

/// An answer that may already be there.
pub type Answer = oneshot::Receiver<Result<()>>;

/// One file being written.
#[derive(Debug)]
pub struct Writer {
    ino: u64,
    context: Arc<Context>,
    inner: Mutex<Inner>,
    /// An upload ended, or was sent on elsewhere.
    landed: Notify,
}

#[derive(Debug)]
struct Inner {
    session: Session<Waiter>,
    target: Target,
    /// What the store has of it; the bytes below everything.
    base: Option<Arc<Entry>>,
    /// The version being written.
    top: Option<Content>,
    /// The version sealed last: on its way, committed or failed.
    frozen: Option<Arc<Content>>,
    progress: Option<Arc<Progress>>,
    /// When a program last wrote.
    written: Option<SystemTime>,
    /// Committed under a name that it no longer has.
    strays: Vec<Entry>,
}

impl Writer {
    /// A writer over what the store has (`base`), not yet written.
    #[must_use]
    pub fn new(
        ino: u64,
        context: Arc<Context>,
        target: Target,
        base: Option<Arc<Entry>>,
    ) -> Arc<Self> {
        let inner = Inner {
            session: Session::default(),
            target,
            base,
            top: None,
            frozen: None,
            progress: None,
            written: None,
            strays: Vec::new(),
        };
        Arc::new(Writer {
            ino,
            context,
            inner: Mutex::new(inner),
            landed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A handle that can write was opened.
    pub fn opened(&self) {
        self.lock().session.on(Event::Opened);
    }

    /// Tells, once, the error of a commit that no call was answered with.
    pub fn told(&self) -> Result<()> {
        self.lock().session.tell().map_or(Ok(()), Err)
    }

    /// Brings the store's bytes that are still needed into the spool, so that they outlive their name;
    /// at most `limit` of them.
    pub async fn hold(&self, limit: u64) -> Result<()> {
        let base = {
            let inner = self.lock();
            let needed = inner.newest().is_none_or(Content::needs_entry);
            inner
                .base
                .clone()
                .filter(|base| needed && base.size <= limit)
        };
        let Some(base) = base else { return Ok(()) };
        let over = Content::over(Lower::Entry(base), &self.context.spool, None)?;
        let whole = Arc::new(over.complete(&self.context.cache).await?);
        let mut inner = self.lock();
        if inner.newest().is_none() {
            inner.frozen = Some(whole);
            return Ok(());
        }
        if let Some(top) = &mut inner.top {
            top.rest_on(&whole);
        }
        if let Some(frozen) = &mut inner.frozen {
            Arc::make_mut(frozen).rest_on(&whole);
        }
        Ok(())
    }

    /// The last handle that can write is gone.
    pub fn released(self: &Arc<Self>) {
        self.step(Event::Released);
    }

    /// open(2) created it or cut it to nothing.
    pub fn touched(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.truncate(0, &self.context)?;
        inner.session.on(Event::Touched);
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        inner.top(&self.context)?.write(offset, bytes)?;
        inner.wrote();
        Ok(())
    }

    /// Cuts or grows it, as a program asked.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let mut inner = self.lock();
        inner.truncate(size, &self.context)?;
        inner.wrote();
        Ok(())
    }

    /// Overwrites `range` with zeros; within the size unless `grow`.
    pub fn zero(&self, range: Range<u64>, grow: bool) -> Result<()> {
        const ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut inner = self.lock();
        let end = if grow {
            range.end
        } else {
            range.end.min(inner.size())
        };
        let mut at = range.start;
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            inner
                .top(&self.context)?
                .write(at, &ZEROS[..step as usize])?;
            at += step;
        }
        inner.wrote();
        Ok(())
    }

    /// Size in bytes, of the newest version.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().size()
    }

    /// When a program last wrote.
    #[must_use]
    pub fn written(&self) -> Option<SystemTime> {
        self.lock().written
    }

    /// The attributes that go with the next commit.
    #[must_use]
    pub fn attrs(&self) -> Attrs {
        self.lock().target.attrs.clone()
    }

    /// Sets the attributes that go with the next commit, or after the one under way. `false` if
    /// nothing is written or on its way: then they must be set on the store.
    pub fn set_attrs(&self, attrs: &Attrs) -> bool {
        let mut inner = self.lock();
        inner.target.attrs = attrs.clone();
        let session = &inner.session;
        session.top() != Top::Same || session.flight() != Flight::Idle || inner.base.is_none()
    }

    /// Whether what is here is what the store has.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.lock().session.is_settled()
    }

    /// Whether a handle that can write is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lock().session.is_open()
    }

    /// The session's two sides and its last end, the bytes acknowledged of the upload under way.
    #[must_use]
    pub fn look(&self) -> (Top, Flight, Last, u64) {
        let inner = self.lock();
        let sent = inner
            .progress
            .as_ref()
            .map_or(0, |p| p.sent.load(Ordering::Relaxed));
        (
            inner.session.top(),
            inner.session.flight(),
            inner.session.last().clone(),
            sent,
        )
    }

    /// Whether anything of it is in the spool.
    #[must_use]
    pub fn has_content(&self) -> bool {
        let inner = self.lock();
        inner.top.is_some() || inner.frozen.is_some()
    }

    /// The bytes of `range` of the newest version, clipped at its size, if they are in the spool.
    #[must_use]
    pub fn read_now(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        self.lock().newest()?.read_now(range)
    }

    /// The bytes of `range` of the newest version, clipped at its size.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let (newest, base) = {
            let inner = self.lock();
            (inner.newest().cloned(), inner.base.clone())
        };
        match (newest, base) {
            (Some(content), _) => content.read(range, &self.context.cache).await,
            (None, Some(entry)) => self.context.cache.read(&entry, range).await,
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// A descriptor was closed: the answer says whether the store has what was written.
    pub fn close(self: &Arc<Self>) -> Answer {
        let (waiter, answer) = oneshot::channel();
        self.step(Event::Close(waiter));
        answer
    }

    /// The program wants what was written to be on the store now.
    pub fn sync(self: &Arc<Self>) -> Answer {
        let (waiter, answer) = oneshot::channel();
        self.step(Event::Sync(waiter));
        answer
    }

    /// Sends the content to the target, written or not.
    pub fn force(self: &Arc<Self>) -> Result<Answer> {
        self.lock().top(&self.context)?;
        let (waiter, answer) = oneshot::channel();
        self.step(Event::Force(waiter));
        Ok(answer)
    }

    /// The name was removed: nothing is answered for any more, an upload is given up. Until
    /// [`Writer::landed`] it may still be committed.
    pub fn unlinked(self: &Arc<Self>) {
        self.step(Event::Unlinked);
    }

    /// Whether the name was removed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lock().session.is_gone()
    }

    /// Waits until nothing is on its way; returns what the store has then.
    pub async fn landed(&self) -> Option<Entry> {
        self.until(|inner| inner.session.flight() == Flight::Idle)
            .await;
        let inner = self.lock();
        inner
            .target
            .replaces
            .clone()
            .or(inner.base.as_deref().cloned())
    }

    /// The next version goes elsewhere; an upload under way is sent there. Returns, once that is known,
    /// what was committed under the old name all the same: the caller removes it.
    pub async fn retarget(self: &Arc<Self>, change: impl FnOnce(&mut Target)) -> Vec<Entry> {
        change(&mut self.lock().target);
        self.step(Event::Moved);
        self.until(|inner| !inner.session.is_moving()).await;
        std::mem::take(&mut self.lock().strays)
    }

    async fn until(&self, is: impl Fn(&Inner) -> bool) {
        loop {
            let landed = self.landed.notified();
            if is(&self.lock()) {
                return;
            }
            landed.await;
        }
    }

    /// Where the next version goes.
    #[must_use]
    pub fn target(&self) -> Target {
        self.lock().target.clone()
    }

    fn step(self: &Arc<Self>, event: Event<Waiter>) {
        let later = self.decide(&mut self.lock(), event);
        self.perform(later);
    }

    /// Lets the session decide; does what must happen under the lock, returns the rest.
    fn decide(self: &Arc<Self>, inner: &mut Inner, event: Event<Waiter>) -> Vec<Action<Waiter>> {
        let mut later = Vec::new();
        for action in inner.session.on(event) {
            match action {
                Action::Seal => match inner.freeze(&self.context) {
                    Ok(frozen) => self.spawn_seal(frozen),
                    Err(error) => {
                        let writer = self.clone();
                        self.context.rt.spawn(async move { writer.broke(error) });
                    }
                },
                Action::Send => self.spawn_send(inner),
                Action::Cancel => {
                    if let Some(progress) = &inner.progress {
                        progress.cancel();
                    }
                }
                other => later.push(other),
            }
        }
        later
    }

    fn perform(self: &Arc<Self>, actions: Vec<Action<Waiter>>) {
        self.landed.notify_waiters();
        let owner = self.context.owner.upgrade();
        for action in actions {
            match action {
                Action::Seal | Action::Send | Action::Cancel => {}
                Action::Answer(waiters, answer) => {
                    for waiter in waiters {
                        // Whoever asked may be gone; the state has the answer too.
                        let _ = waiter.send(answer.clone());
                    }
                }
                Action::Keep(error) => self.keep(&error),
                Action::Rest => {
                    if let Some(owner) = &owner {
                        owner.rested(self.ino);
                    }
                }
                Action::Drop => {
                    self.discard();
                    if let Some(owner) = &owner {
                        owner.dropped(self.ino);
                    }
                }
            }
        }
    }

    fn keep(&self, error: &Error) {
        let inner = self.lock();
        if let Some(content) = inner.newest() {
            content.file.keep();
            let (path, kept) = (&inner.target.path, content.file.path().display());
            log::error!("{path}: not sent, kept as {kept}: {error}");
        }
    }

    fn discard(&self) {
        let (top, frozen) = {
            let mut inner = self.lock();
            (inner.top.take(), inner.frozen.take())
        };
        for content in top.iter().chain(frozen.as_deref()) {
            content.file.unkeep();
        }
    }

    /// Lets go of the spool file if it is only a cache; returns whether it did.
    pub fn shed(&self) -> bool {
        let mut inner = self.lock();
        if inner.session.is_settled() && inner.top.is_none() && !inner.session.is_open() {
            inner.frozen = None;
            return true;
        }
        false
    }

    fn spawn_seal(self: &Arc<Self>, frozen: Arc<Content>) {
        let writer = self.clone();
        self.context.rt.spawn(async move {
            match frozen.complete(&writer.context.cache).await {
                Ok(whole) => {
                    let whole = Arc::new(whole);
                    {
                        let mut inner = writer.lock();
                        if let Some(top) = &mut inner.top
                            && let Lower::Content(lower) = &top.lower
                            && Arc::ptr_eq(lower, &frozen)
                        {
                            top.lower = Lower::Content(whole.clone());
                        }
                        inner.frozen = Some(whole);
                    }
                    writer.step(Event::Sealed);
                }
                Err(error) => writer.broke(error),
            }
        });
    }

    fn spawn_send(self: &Arc<Self>, inner: &mut Inner) {
        let progress = Arc::new(Progress::default());
        inner.progress = Some(progress.clone());
        let writer = self.clone();
        self.context.rt.spawn(async move {
            if let Err(error) = writer.send(&progress).await {
                writer.broke(error);
            }
        });
    }

    async fn send(self: &Arc<Self>, progress: &Progress) -> Result<()> {
        let started = Instant::now();
        let (content, target) = {
            let inner = self.lock();
            let content = inner.frozen.clone();
            (
                content.ok_or(Error::new(Kind::Protocol, "send"))?,
                inner.target.clone(),
            )
        };
        let mut new = New {
            place: target.place.clone(),
            kind: EntryKind::File,
            size: content.layer.size(),
            digests: content.digests(),
            attrs: target.attrs.clone(),
            replaces: target.replaces.clone(),
            exclusive: target.exclusive,
        };
        let context = &self.context;
        let store = &*context.store;
        let sent = upload::send(store, &new, &*content.file, context.uploads, progress).await;
        let mut entry = sent.map_err(|error| error.at(target.path.clone()))?;
        while let Some(attrs) = self.sent(&entry, &new, started) {
            entry = store.set_attrs(&entry, &attrs).await?;
            new.attrs = attrs;
        }
        Ok(())
    }

    /// The store has `entry`. Ends the flight, unless attributes were set meanwhile: then these are
    /// returned and have to be set first.
    fn sent(self: &Arc<Self>, entry: &Entry, new: &New, started: Instant) -> Option<Attrs> {
        let (later, here, path) = {
            let mut inner = self.lock();
            let here = inner.target.place == new.place && !inner.session.is_gone();
            let last = inner.session.top() == Top::Same;
            if here && last && inner.target.attrs != new.attrs {
                return Some(inner.target.attrs.clone());
            }
            inner.progress = None;
            inner.base = Some(Arc::new(entry.clone()));
            if here {
                inner.target.replaces = Some(entry.clone());
                inner.target.exclusive = false;
            } else if !inner.session.is_gone() {
                inner.strays.push(entry.clone());
            }
            let path = inner.target.path.clone();
            (self.decide(&mut inner, Event::Sent), here, path)
        };
        let context = &self.context;
        context.sent_bytes.fetch_add(entry.size, Ordering::Relaxed);
        if here {
            context.committed_files.fetch_add(1, Ordering::Relaxed);
            let (size, seconds) = (entry.size, started.elapsed().as_secs_f64());
            let rate = size as f64 / 1e6 / seconds.max(1e-6);
            log::info!("{path}: {size} bytes committed in {seconds:.2} s, {rate:.1} MB/s");
            if let Some(owner) = context.owner.upgrade() {
                owner.committed(self.ino, entry);
            }
        }
        self.perform(later);
        None
    }

    fn broke(self: &Arc<Self>, error: Error) {
        self.lock().progress = None;
        if error.kind != Kind::Cancelled
            && let Some(owner) = self.context.owner.upgrade()
        {
            owner.failed(self.ino, &error);
        }
        self.step(Event::Broke(error));
    }
}

impl Inner {
    fn newest(&self) -> Option<&Content> {
        self.top.as_ref().or(self.frozen.as_deref())
    }

    fn size(&self) -> u64 {
        match self.newest() {
            Some(content) => content.layer.size(),
            None => self.base.as_ref().map_or(0, |entry| entry.size),
        }
    }

    fn wrote(&mut self) {
        self.session.on(Event::Wrote);
        self.written = Some(SystemTime::now());
        self.target.attrs.mtime = None;
    }

    /// The version being written, begun if there is none. In place if the last one is not on its way.
    fn top(&mut self, context: &Context) -> Result<&mut Content> {
        let top = match self.top.take() {
            Some(top) => top,
            None => match self.frozen.take() {
                Some(frozen) if self.session.flight() == Flight::Idle => (*frozen).clone(),
                Some(frozen) => {
                    self.frozen = Some(frozen.clone());
                    Content::over(Lower::Content(frozen), &context.spool, context.algo())?
                }
                None => {
                    let lower = self.base.clone().map_or(Lower::Nothing, Lower::Entry);
                    Content::over(lower, &context.spool, context.algo())?
                }
            },
        };
        Ok(self.top.insert(top))
    }

    fn truncate(&mut self, size: u64, context: &Context) -> Result<()> {
        self.top(context)?.truncate(size)?;
        if size == 0
            && let Some(top) = &mut self.top
        {
            top.lower = Lower::Nothing;
        }
        Ok(())
    }

    fn freeze(&mut self, context: &Context) -> Result<Arc<Content>> {
        self.top(context)?;
        let frozen = Arc::new(self.top.take().ok_or(Error::new(Kind::Protocol, "seal"))?);
        self.frozen = Some(frozen.clone());
        Ok(frozen)
    }
}

impl Context {
    fn algo(&self) -> Option<Algo> {
        self.store.caps().digests.first().copied()
    }
}
