//! Writing: one [`Writer`] per file that is, or was just, being written: bytes into the spool here,
//! what the session decides carried out in `commit.rs`.
//!
//! Knows the store and the read path (for bytes of the old version), no inodes and no FUSE. The lock here
//! is never held across an await, nor while the owner is called.

mod commit;
mod content;
mod digest;
mod handles;
mod layer;
mod ranges;
mod record;
mod room;
mod session;
mod spool;
mod sums;
pub mod unsent;
mod upload;

#[cfg(test)]
mod tests;

pub use commit::{Conflict, left_elsewhere, remove_stray};
pub use digest::digests_of;
pub use record::{Class, Record};
pub use room::Room;
pub use session::{Flight, Last, Promise, Top};
pub use spool::{Found, Noted, Spool, SpoolFile};

use crate::error::{Error, Kind, Result};
use crate::read::Cache;
use crate::store::{Algo, Attrs, Digests, Entry, Keeps, Place, Store};
use bytes::Bytes;
use content::{Content, Lower};
use serde::{Deserialize, Serialize};
use session::{Event, Session};
use spool::next_ms;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
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
    /// What is done when somebody else changed a file meanwhile.
    pub conflict: Conflict,
    /// A file under a temporary name that is larger is sent all the same, in bytes.
    pub defer_max: u64,
    /// Who is told what became of a file.
    pub owner: Weak<dyn Owner>,
    /// Bytes acknowledged by the store.
    pub sent_bytes: AtomicU64,
    /// Files committed.
    pub committed_files: AtomicU64,
}

/// Who is told what became of a file. Called without locks held here.
pub trait Owner: Send + Sync + Debug {
    /// The store has this version, at `place`; the file may have left that by now.
    fn committed(&self, ino: u64, entry: &Entry, place: &Place);
    /// What was written went to `other` beside it, because somebody else's version, `theirs`, has the
    /// name at `was`. The owner decides what the file is from now on, and says it to `settle`, once, while
    /// nobody can open it: so a tree's lock may be held during that call.
    fn diverted(
        &self,
        ino: u64,
        was: &Place,
        theirs: &Entry,
        other: &Entry,
        settle: &mut dyn FnMut(After),
    );
    /// Something about what is on its way changed.
    fn moved(&self);
    /// A commit failed.
    fn failed(&self, ino: u64, error: &Error);
    /// Nobody has it open and the store has it: the spool file is only a cache now.
    fn rested(&self, ino: u64);
    /// Nobody has it open and its name is gone.
    fn dropped(&self, ino: u64);
}

/// What a file is after somebody else's version was found under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Theirs: nobody has it open here.
    Theirs,
    /// Ours still, and what is written to it goes on: it is the one beside theirs now, at this path.
    Ours(String),
    /// Something with another name, or none, by now.
    Elsewhere,
}

/// Where a file's next version goes, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The place in the store.
    pub place: Place,
    /// The path as the mount shows it, for messages.
    pub path: String,
    /// The entry there now, if any.
    pub replaces: Option<Entry>,
    /// When that was looked at; an older look is taken again before the commit.
    #[serde(skip)]
    pub looked: Option<Instant>,
    /// What lies under names that the file had before: removed as part of the commit.
    pub removes: Vec<(Place, Entry)>,
    /// The name must be new.
    pub exclusive: bool,
    /// Attributes to keep.
    pub attrs: Attrs,
    /// Versions whose commit ended without an answer, or in an earlier process: the store may have one of them.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// A version that a store may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Where.
    pub place: Place,
    /// Its size in bytes.
    pub size: u64,
    /// Its digests.
    pub digests: Digests,
}

impl Attempt {
    /// Whether `entry` is it; without a common digest it is not.
    fn is(&self, entry: &Entry) -> bool {
        self.size == entry.size && self.digests.agree(&entry.digests) == Some(true)
    }
}

/// What a file that has another name by now has left at a place.
#[derive(Debug, Default)]
pub struct Left {
    /// What the store has there.
    pub entry: Option<Entry>,
    /// What it may have there.
    pub attempts: Vec<Attempt>,
}

/// What is sent so long after the last write gets the time of that write; else the store's own will do, which
/// costs no request.
const LATE: Duration = Duration::from_secs(10);

/// So many versions in doubt are remembered of a file, the latest.
const ATTEMPTS_MAX: usize = 8;

impl Target {
    /// Whether a record of the one says what one of the other does.
    fn is_recorded_as(&self, other: &Target) -> bool {
        let (looked, attempts) = (self.looked, self.attempts.clone());
        *self
            == Target {
                looked,
                attempts,
                ..other.clone()
            }
    }

    fn attempt(&mut self, attempt: Attempt) {
        self.attempts.retain(|other| *other != attempt);
        self.attempts.push(attempt);
        if self.attempts.len() > ATTEMPTS_MAX {
            self.attempts.remove(0);
        }
    }

    /// Whether the place may have a version of ours that is not known.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.attempts.iter().any(|one| one.place == self.place)
    }

    /// Whether `entry` at the place is a version of ours whose answer was lost.
    pub fn attempted(&self, entry: &Entry) -> bool {
        let here = |attempt: &&Attempt| attempt.place == self.place;
        self.attempts.iter().filter(here).any(|one| one.is(entry))
    }
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
    /// Something about what is on its way changed.
    landed: Notify,
}

/// A version that is durable in the spool and not on the store.
#[derive(Clone, Debug)]
struct Owed {
    content: Arc<Content>,
    /// As [`Record::at_ms`].
    number: u64,
}

#[derive(Debug)]
struct Inner {
    session: Session<Waiter>,
    target: Target,
    /// What the store has of it; the bytes below everything.
    base: Option<Arc<Entry>>,
    /// The version being written.
    top: Option<Content>,
    /// The version sealed last: on its way, parked, committed or failed.
    frozen: Option<Arc<Content>>,
    /// The [`Record::at_ms`] of that version.
    sealed: u64,
    /// The version that is owed, until a newer one is or the store has it.
    owed: Option<Owed>,
    progress: Option<Arc<Progress>>,
    /// When a program last wrote.
    written: Option<SystemTime>,
    /// Since when it is parked, and how many tries failed in a row.
    parked: Option<Instant>,
    failures: u32,
    /// Which kind of error the record of what is owed tells.
    noted: Option<Kind>,
    /// What is on its way.
    sending: Option<Attempt>,
    /// An old name that is being removed from the store.
    removing: Option<Place>,
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
        Writer::with(ino, context, target, base, None)
    }

    /// A writer of what an earlier process promised; [`Writer::go`] sends it. Where the record has a
    /// digest, all bytes are read and compared with their checksums and with it: `Mismatch` if they rotted. Else they
    /// are compared with their checksums when they are sent.
    pub async fn adopt(
        ino: u64,
        context: Arc<Context>,
        file: Arc<SpoolFile>,
        record: &Record,
    ) -> Result<Arc<Self>> {
        let content = Content::adopted(file, record.size, context.algo());
        let whole = content.complete(&context.cache, &record.target).await?;
        if whole.digests().agree(&record.digests) == Some(false) {
            return Err(Error::new(Kind::Mismatch, "read spool").at(record.target.path.clone()));
        }
        let writer = Writer::with(ino, context, record.target.clone(), None, Some(whole));
        {
            let mut inner = writer.lock();
            let number = record.at_ms;
            inner.owed = inner.frozen.clone().map(|content| Owed { content, number });
            inner.sealed = number;
            let written = Duration::from_millis(record.written_ms.unwrap_or(number));
            inner.written = Some(SystemTime::UNIX_EPOCH + written);
            // The earlier process may have sent it.
            let earlier = Attempt {
                place: record.target.place.clone(),
                size: record.size,
                digests: record.digests.clone(),
            };
            inner.target.attempt(earlier);
            inner.session.on(Event::Adopted);
        }
        Ok(writer)
    }

    /// A writer of what an earlier process was refused, as if that had just happened here:
    /// [`Writer::sync`] sends it. Compared as in [`Writer::adopt`].
    pub async fn readmit(
        ino: u64,
        context: Arc<Context>,
        file: Arc<SpoolFile>,
        record: &Record,
    ) -> Result<Arc<Self>> {
        let writer = Writer::adopt(ino, context, file, record).await?;
        {
            let mut inner = writer.lock();
            inner.owed = None;
            // Somebody may have taken these names since: what is refused has no part in that.
            let here = inner.target.place.clone();
            inner.target.removes.clear();
            inner.target.attempts.retain(|one| one.place == here);
            inner.session = Session::default();
            // Nothing is to be kept that is not kept already.
            inner
                .session
                .on(Event::Broke(Error::new(Kind::Cancelled, "commit")));
            inner.session.tell();
        }
        Ok(writer)
    }

    /// The files in the spool that its bytes lie in, and whether they are owed; `None` for those in use:
    /// being written, or on their way for the first time.
    #[must_use]
    pub fn spooled(&self) -> Vec<(std::path::PathBuf, Option<bool>)> {
        let inner = self.lock();
        let rests = !inner.session.is_open()
            && inner.session.flight() == Flight::Idle
            && matches!(inner.session.last(), Last::Failed { .. });
        let newest = inner.newest().map(|content| content.file.path());
        let owed = inner.owed.as_ref().map(|owed| owed.content.file.path());
        let files = inner.top.iter().chain(inner.frozen.as_deref());
        let mut spooled: Vec<_> = files
            .map(|content| content.file.path())
            .filter(|path| Some(path) != owed.as_ref())
            .map(|path| {
                let kept = rests && Some(&path) == newest.as_ref();
                (path, kept.then_some(false))
            })
            .collect();
        // Of what is open more is to come, unless it failed.
        let failed = matches!(inner.session.last(), Last::Failed { .. });
        let shown = failed || !inner.session.is_open();
        spooled.extend(owed.map(|owed| (owed, shown.then_some(true))));
        spooled
    }

    /// Waits until nothing is on its way.
    pub async fn at_rest(&self) {
        self.until(|inner| !inner.session.flight().is_moving())
            .await;
    }

    fn with(
        ino: u64,
        context: Arc<Context>,
        target: Target,
        base: Option<Arc<Entry>>,
        frozen: Option<Content>,
    ) -> Arc<Self> {
        let inner = Inner {
            session: Session::default(),
            target,
            base,
            top: None,
            frozen: frozen.map(Arc::new),
            sealed: 0,
            owed: None,
            progress: None,
            written: None,
            parked: None,
            failures: 0,
            noted: None,
            sending: None,
            removing: None,
        };
        Arc::new(Writer {
            ino,
            context,
            inner: Mutex::new(inner),
            landed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode that it is the writer of.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// What closes are answered for from now on.
    pub fn set_promise(&self, promise: Promise) {
        self.lock().session.promise = promise;
    }

    /// Whether the name is a temporary one. When it no longer is, what is parked is sent.
    pub fn set_deferred(self: &Arc<Self>, deferred: bool) {
        self.lock().session.deferred = deferred;
        if !deferred {
            self.go();
        }
    }

    /// The name is a final one; whoever asks for a commit next sends what is parked.
    pub fn clear_deferred(&self) {
        self.lock().session.deferred = false;
    }

    /// Sends what is parked and owed, unless its name is a temporary one.
    pub fn go(self: &Arc<Self>) {
        if !self.lock().session.deferred {
            self.step(Event::Go);
        }
    }

    /// Since when it is parked, if it is; and whether that is for its temporary name.
    #[must_use]
    pub fn parked(&self) -> Option<(Instant, bool)> {
        let inner = self.lock();
        let parked = inner.session.flight() == Flight::Parked;
        inner
            .parked
            .filter(|_| parked)
            .map(|since| (since, inner.session.deferred))
    }

    /// Whether something was promised that the store does not have yet.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.lock().session.owes()
    }

    /// Whether what is here would survive a crash, as the store has it or it is owed, or its name is gone
    /// for good.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.lock().is_safe()
    }

    /// Waits until [`Writer::is_safe`].
    pub async fn safe(&self) {
        self.until(Inner::is_safe).await;
    }

    /// Makes ready for [`Writer::force`] what of it can fail for want of room.
    pub fn ready(&self) -> Result<()> {
        self.lock().top(&self.context).map(|_| ())
    }

    /// A handle that can write was opened.
    pub fn opened(&self) {
        self.lock().session.on(Event::Opened);
    }

    /// Tells, once, the error of a commit that no call was answered with.
    pub fn told(&self) -> Result<()> {
        self.lock().session.tell().map_or(Ok(()), Err)
    }

    /// Who asked for what ended in `error` no longer waits: [`Writer::told`] tells it, unless it is the error of
    /// a commit and a later one succeeds.
    pub fn untold(&self, error: &Error) {
        self.lock().session.untell(error);
    }

    /// Brings the store's bytes that are still needed into the spool, so that they outlive their name;
    /// at most `limit` of them.
    pub async fn hold(&self, limit: u64) -> Result<()> {
        let (base, target) = {
            let inner = self.lock();
            let needed = inner.newest().is_none_or(Content::needs_entry);
            let base = inner
                .base
                .clone()
                .filter(|base| needed && base.size <= limit);
            (base, inner.target.clone())
        };
        let Some(base) = base else { return Ok(()) };
        let (lower, algo) = (Lower::Entry(base), self.context.algo());
        let over = Content::over(lower, &self.context.spool, algo, &target)?;
        let whole = Arc::new(over.complete(&self.context.cache, &target).await?);
        let mut inner = self.lock();
        whole.file.set_open(false);
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
        inner.stamp();
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        let top = inner.top(&self.context)?;
        top.write(offset, bytes)?;
        inner.wrote();
        Ok(())
    }

    /// Whether a write of `len` bytes at `offset` finds room in the spool. Asking keeps its turn.
    #[must_use]
    pub fn room(&self, offset: u64, len: u64) -> Room {
        let (own, more) = {
            let inner = self.lock();
            inner.takes(offset..offset.saturating_add(len))
        };
        self.context.spool.ask(self.ino, own, more)
    }

    /// A write failed and its program was told: what is there is not what it meant.
    pub fn spoilt(&self, error: &Error) {
        self.context.spool.end_turn(self.ino);
        self.lock().session.on(Event::Spoilt(error.clone()));
    }

    /// Cuts or grows it, as a program asked.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let mut inner = self.lock();
        inner.truncate(size, &self.context)?;
        if size == 0 {
            // Whatever failed before is gone with the bytes.
            inner.session.on(Event::Touched);
        }
        inner.wrote();
        Ok(())
    }

    /// Makes zeros of `range`: a hole, for which nothing is written; within the size unless `grow`.
    pub fn zero(&self, range: Range<u64>, grow: bool) -> Result<()> {
        let mut inner = self.lock();
        let top = inner.top(&self.context)?;
        let mut done = top.punch(range.clone());
        if grow && range.end > top.layer.size() {
            done = done.and_then(|()| top.truncate(range.end));
        }
        // Some of it may be done after an error as well.
        inner.wrote();
        done
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

    /// The [`Record::at_ms`] of the version that the store has; 0 if something newer is written or on its way.
    #[must_use]
    pub fn committed_number(&self) -> u64 {
        let inner = self.lock();
        if inner.session.is_settled() {
            inner.sealed
        } else {
            0
        }
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

    /// The name is being removed: nothing is answered for any more, an upload is given up. Until
    /// [`Writer::landed`] it may still be committed.
    pub fn unlinked(self: &Arc<Self>) {
        self.step(Event::Unlinked);
    }

    /// Another file has the name now: no close is answered for any more. What is owed stays until
    /// [`Writer::removed`].
    pub fn parted(self: &Arc<Self>) {
        self.step(Event::Parted);
    }

    /// The name is gone for good: the bytes go with the last handle, and are owed no more.
    pub fn removed(self: &Arc<Self>) {
        // A crash while somebody still has it open must not bring it back: its files lose their names.
        self.discard(&self.files());
        self.step(Event::Removed);
    }

    /// The name could not be removed after all: what is written is answered for again, what is owed is
    /// sent.
    pub fn revived(self: &Arc<Self>) {
        self.step(Event::Revived);
    }

    /// Whether the name was removed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lock().session.is_gone()
    }

    /// Lets go of the spool file if it is only a cache; returns whether nothing is left here then, not even an
    /// error that is to be told; and the file, to be dropped without locks: to remove a large one takes time.
    pub fn shed(&self) -> (bool, Option<Arc<SpoolFile>>) {
        let mut inner = self.lock();
        if inner.session.is_settled() && inner.top.is_none() && !inner.session.is_open() {
            let cached = inner.frozen.take().map(|frozen| frozen.file.clone());
            return (!inner.session.has_untold(), cached);
        }
        (false, None)
    }

    /// Somebody else's version, seen at `looked`, takes the place of what the store had and is here as a cache.
    /// Returns whether nothing is left here then, as [`Writer::shed`] does.
    pub fn give_way(&self, entry: &Arc<Entry>, looked: Instant) -> bool {
        let mut inner = self.lock();
        (inner.top, inner.frozen, inner.written) = (None, None, None);
        inner.base = Some(entry.clone());
        inner.target.attrs = entry.attrs.clone();
        inner.target.replaces = Some((**entry).clone());
        inner.target.looked = Some(looked);
        !inner.session.has_untold()
    }

    /// Waits until nothing is on its way; returns what the store has then, and where. Looks, if that
    /// is not known.
    pub async fn landed(&self) -> Result<Vec<(Place, Entry)>> {
        self.until(|inner| !inner.session.flight().is_moving())
            .await;
        let mut target = self.target();
        let elsewhere = commit::left_elsewhere(&*self.context.store, &target).await?;
        target.removes.extend(elsewhere);
        let here = match target.in_doubt() {
            false => target.replaces,
            true => match self.context.store.stat(&target.place).await {
                Ok(entry) => Some(entry),
                Err(error) if error.kind == Kind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        let here = here.map(|entry| (target.place, entry));
        Ok(here.into_iter().chain(target.removes).collect())
    }

    /// The next version goes elsewhere; an upload under way is sent there, and what was committed under
    /// the old name all the same is added to [`Target::removes`]. Returns when that is known, and the
    /// change is durable if anything is owed.
    pub fn retarget(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Target),
    ) -> futures_util::future::BoxFuture<'static, Result<()>> {
        let (later, on_its_way) = {
            // One step: a commit must find both places or the new one.
            let mut inner = self.lock();
            let was = inner.target.place.clone();
            change(&mut inner.target);
            let moved = inner.target.place != was;
            if moved {
                inner.renumber();
            }
            let later = self.decide(&mut inner, Event::Moved);
            // What is cancelled by now, and was not given away in full, never arrives.
            let given = |progress: &Arc<Progress>| progress.may_be_stored();
            let given = moved && inner.progress.as_ref().is_some_and(given);
            let on_its_way = inner.sending.clone().filter(|_| given);
            if let Some(attempt) = &on_its_way {
                inner.target.attempt(attempt.clone());
            }
            (later, on_its_way)
        };
        self.perform(later);
        let writer = self.clone();
        Box::pin(async move {
            if on_its_way.is_some() {
                // The answer may take long: after a crash meanwhile it is looked for under both names.
                writer.note_owed().await?;
            }
            // What is made durable now is so with the place that it has then.
            writer
                .until(|inner| !inner.session.is_moving() && !inner.session.is_kept_soon())
                .await;
            writer.note_owed().await
        })
    }

    /// The store itself has given the file another name: it is `entry` at `place` now. What was written
    /// meanwhile goes there.
    pub async fn renamed(self: &Arc<Self>, place: Place, path: String, entry: Entry) -> Result<()> {
        let change = |target: &mut Target| {
            (target.place, target.path) = (place, path);
            (target.replaces, target.looked) = (Some(entry.clone()), Some(Instant::now()));
        };
        {
            let mut inner = self.lock();
            if inner.session.is_settled() {
                change(&mut inner.target);
                inner.renumber();
                inner.base = Some(Arc::new(entry));
                return Ok(());
            }
        }
        self.retarget(change).await
    }

    /// Another file has `place` from now on: the commit no longer removes what is there, nor what may be. That
    /// is durable, and known to all commits, only after [`Writer::struck`].
    pub fn strike(&self, place: &Place) -> Left {
        let target = &mut self.lock().target;
        let there = |one: &mut Attempt| one.place == *place;
        let attempts = target.attempts.extract_if(.., there).collect();
        let entries = target.removes.extract_if(.., |(at, _)| *at == *place);
        Left {
            entry: entries.last().map(|(_, entry)| entry),
            attempts,
        }
    }

    /// Returns when [`Writer::strike`] is durable, no commit is under way that does not know it, and no removal
    /// of `place`; with what a commit has left there meanwhile.
    ///
    /// # Errors
    /// Those of the spool.
    pub async fn struck(&self, place: &Place) -> Result<Left> {
        self.departed(place).await;
        let left = self.strike(place);
        self.note_owed().await?;
        Ok(left)
    }

    /// Returns when nothing of it is under way to or at `place` any more, where it was before.
    pub async fn departed(&self, place: &Place) {
        let is_free = |inner: &Inner| inner.removing.as_ref() != Some(place);
        self.until(|inner| !inner.session.is_moving() && is_free(inner))
            .await;
    }

    /// Whether the store has, or may have, something at the present place: what is known of it.
    #[must_use]
    pub fn may_have(&self) -> Option<Option<Entry>> {
        let inner = self.lock();
        let (target, flight) = (&inner.target, inner.session.flight());
        let may = target.replaces.is_some() || target.in_doubt() || flight.is_moving();
        may.then(|| target.replaces.clone())
    }

    /// Takes over what another file of ours has left, or may have left, at the place: it is replaced.
    pub fn inherit(&self, left: Left) {
        let target = &mut self.lock().target;
        left.attempts
            .into_iter()
            .for_each(|attempt| target.attempt(attempt));
        if let Some(entry) = left.entry {
            target.replaces = Some(entry);
            target.exclusive = false;
        }
    }

    /// Nobody takes `place` after all: what was left there goes with the next commit again; `false` if
    /// none is to come.
    pub fn relist(&self, place: &Place, left: Left) -> bool {
        let mut inner = self.lock();
        if inner.session.is_settled() {
            return false;
        }
        let target = &mut inner.target;
        left.attempts
            .into_iter()
            .for_each(|attempt| target.attempt(attempt));
        target
            .removes
            .extend(left.entry.map(|entry| (place.clone(), entry)));
        true
    }

    /// Makes a change of the target durable, if anything is owed.
    pub async fn note_owed(&self) -> Result<()> {
        let owed = {
            let inner = self.lock();
            inner.owed.clone().map(|owed| {
                let error = match inner.session.last() {
                    Last::Failed { error, .. } => Some(error.to_string()),
                    Last::None | Last::Committed => None,
                };
                let record = Record {
                    size: owed.content.layer.size(),
                    digests: owed.content.digests(),
                    at_ms: owed.number,
                    written_ms: inner.written_ms(),
                    error,
                    ..Record::new(Class::Acknowledged, inner.target.clone())
                };
                let file = owed.content.file.clone();
                let stamp = file.stamp();
                (file, record, stamp)
            })
        };
        let Some((file, record, stamp)) = owed else {
            return Ok(());
        };
        match self
            .blocking("note", move || file.note(&record, stamp))
            .await?
        {
            // The store has it by now, or nobody wants it any more.
            Noted::Durable | Noted::Void => Ok(()),
        }
    }

    /// Waits until the store has what was written, or it is known that it will not; `Busy` if a program
    /// still writes it, or its name is a temporary one.
    pub async fn settled(&self) -> Result<()> {
        {
            let inner = self.lock();
            if inner.session.is_open() || inner.session.deferred {
                return Err(Error::new(Kind::Busy, "wait").at(inner.target.path.clone()));
            }
        }
        self.until(|inner| !inner.session.flight().is_moving())
            .await;
        match self.lock().session.last() {
            Last::Failed { error, .. } => Err(error.clone()),
            Last::None | Last::Committed => Ok(()),
        }
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
        self.stamp();
    }

    /// The content is of now.
    fn stamp(&mut self) {
        self.written = Some(SystemTime::now());
        self.target.attrs.mtime = None;
    }

    /// What the version being written has taken of the spool's budget, and what a write of `range` would
    /// take.
    fn takes(&self, range: Range<u64>) -> (u64, u64) {
        let len = range.end - range.start;
        match (&self.top, &self.frozen) {
            (Some(top), _) => (top.file.charged(), top.layer.fresh(range)),
            (None, Some(frozen)) if self.session.may_overwrite() => {
                let again = match frozen.file.is_cache() {
                    true => frozen.layer.size(),
                    false => 0,
                };
                (frozen.file.charged(), frozen.layer.fresh(range) + again)
            }
            (None, _) => (0, len),
        }
    }

    /// The version being written, begun if there is none. In place if nobody needs the last one.
    fn top(&mut self, context: &Context) -> Result<&mut Content> {
        self.top_with(u64::MAX, context)
    }

    /// The same, where at most the first `needed` bytes of what was there are needed: none or all.
    fn top_with(&mut self, needed: u64, context: &Context) -> Result<&mut Content> {
        let top = match self.top.take() {
            Some(top) => {
                // Kept after a failure, perhaps: the record is of what it was.
                if self.session.top() == Top::Same
                    && let Err(error) = top.file.to_torn(&self.target, top.layer.size().min(needed))
                {
                    self.top = Some(top);
                    return Err(error);
                }
                top
            }
            None => match self.frozen.take() {
                Some(frozen) if self.session.may_overwrite() => {
                    if let Err(error) = frozen
                        .file
                        .to_torn(&self.target, frozen.layer.size().min(needed))
                    {
                        self.frozen = Some(frozen);
                        return Err(error);
                    }
                    (*frozen).clone()
                }
                Some(frozen) => {
                    self.frozen = Some(frozen.clone());
                    self.over(Lower::Content(frozen), context)?
                }
                None => {
                    let lower = self.base.clone().map_or(Lower::Nothing, Lower::Entry);
                    self.over(lower, context)?
                }
            },
        };
        Ok(self.top.insert(top))
    }

    fn over(&self, lower: Lower, context: &Context) -> Result<Content> {
        Content::over(lower, &context.spool, context.algo(), &self.target)
    }

    /// A record of the frozen version.
    fn record(&self, class: Class) -> Record {
        let mut record = Record::new(class, self.target.clone());
        record.at_ms = self.sealed;
        record.written_ms = self.written_ms();
        if let Some(frozen) = &self.frozen {
            record.size = frozen.layer.size();
            record.digests = frozen.digests();
        }
        record
    }

    fn written_ms(&self) -> Option<u64> {
        let since = self.written?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    /// What is sent long after it was written is still of then; of what is only moved that is when the store got it.
    fn date(&mut self, keeps: &Keeps) {
        let late = |at: &SystemTime| at.elapsed().is_ok_and(|age| age > LATE);
        if keeps.mtime.is_some() && self.target.attrs.mtime.is_none() {
            let of_base = || self.base.as_ref().map(|base| base.modified);
            self.target.attrs.mtime = self.written.or_else(of_base).filter(late);
        }
    }

    /// It has taken another place: of all that was promised for that place this is the latest.
    fn renumber(&mut self) {
        if let Some(owed) = &mut self.owed {
            owed.number = next_ms();
        }
        self.sealed = next_ms();
    }

    fn truncate(&mut self, size: u64, context: &Context) -> Result<()> {
        let needed = if size == 0 { 0 } else { u64::MAX };
        self.top_with(needed, context)?.truncate(size)?;
        if size == 0
            && let Some(top) = &mut self.top
        {
            top.lower = Lower::Nothing;
        }
        Ok(())
    }
}

impl Context {
    fn algo(&self) -> Option<Algo> {
        self.store.caps().digests.first().copied()
    }
}
