//! What a session decides, carried out: freeze, complete, make durable, look, send, compare, answer,
//! keep, try again.

use super::content::{Content, Lower};
use super::record::{Class, Record};
use super::session::{Action, Event, Flight, Last, Top};
use super::spool::{Noted, SpoolFile, next_ms};
use super::upload::{self, Load, Progress, Sent};
use super::{After, Attempt, Inner, Owed, Target, Waiter, Writer};
use crate::error::{Error, Kind, Result};
use crate::store::{Attrs, Entry, Kind as EntryKind, New, Place, Sink, Store};
use bytes::Bytes;
use futures_util::FutureExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// What is done when somebody else changed a file between our look and our commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// Ours goes beside it, under a name that says so, and close is told (`ESTALE`).
    #[default]
    KeepBoth,
    /// Ours is not sent; close is told (`ESTALE`), the bytes are kept.
    Fail,
    /// Ours replaces theirs.
    Overwrite,
}

/// A look at what has the name that is older is taken again before the commit.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The first and the longest wait before what is owed is tried again.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The longest wait that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The wait before the next try of what is owed after `failures` failures in a row.
fn wait(failures: u32, asked: Option<Duration>) -> Duration {
    let doubled = FIRST_WAIT
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_WAIT);
    asked.unwrap_or_default().min(LONGEST_ASKED).max(doubled)
}

/// Bytes read at a time from a store to be compared.
const COMPARE_STEP: u64 = 8 << 20;

/// What the store has, compared with a file from `at` on.
struct Compared<'a> {
    file: &'a SpoolFile,
    at: u64,
    same: Result<bool>,
}

impl Sink for Compared<'_> {
    fn put(&mut self, bytes: Bytes) {
        let range = self.at..self.at + bytes.len() as u64;
        self.at = range.end;
        if let Ok(true) = self.same {
            self.same = self.file.read_at(range).map(|ours| ours == bytes);
        }
    }
}

/// What a look before the commit found.
enum Look {
    /// Nothing is there.
    Absent,
    /// What was there is.
    Known,
    /// The store has exactly these bytes already.
    Ours(Entry),
    /// An older version of ours, whose commit had failed in doubt.
    Older(Entry),
    /// Somebody else's version has the name.
    Theirs(Entry),
}

impl Writer {
    pub(super) fn step(self: &Arc<Self>, event: Event<Waiter>) {
        let later = self.decide(&mut self.lock(), event);
        self.perform(later);
    }

    /// Lets the session decide; does what must happen under the lock, returns the rest.
    pub(super) fn decide(
        self: &Arc<Self>,
        inner: &mut Inner,
        event: Event<Waiter>,
    ) -> Vec<Action<Waiter>> {
        let mut later = Vec::new();
        for action in inner.session.on(event) {
            match action {
                Action::Seal => match inner.freeze(&self.context) {
                    Ok(frozen) => {
                        frozen.file.set_open(false);
                        self.context.spool.end_turn(self.ino);
                        self.spawn_seal(frozen);
                    }
                    Err(error) => {
                        let writer = self.clone();
                        self.context.rt.spawn(async move { writer.broke(error) });
                    }
                },
                Action::Unseal => inner.unseal(),
                Action::Persist => self.spawn_persist(inner),
                Action::Send => self.spawn_send(inner),
                Action::Cancel => {
                    if let Some(progress) = &inner.progress {
                        progress.cancel();
                    }
                }
                Action::Later(error) => self.spawn_later(inner, &error),
                other => later.push(other),
            }
        }
        let parked = inner.session.flight() == Flight::Parked;
        inner.parked = parked.then(|| inner.parked.unwrap_or_else(Instant::now));
        later
    }

    /// What needs no lock.
    pub(super) fn perform(self: &Arc<Self>, actions: Vec<Action<Waiter>>) {
        self.landed.notify_waiters();
        let owner = self.context.owner.upgrade();
        for action in actions {
            match action {
                Action::Answer(waiters, answer) => {
                    for waiter in waiters {
                        // Whoever asked may be gone; the state has the answer too.
                        let _ = waiter.send(answer.clone());
                    }
                }
                Action::Keep(error) => self.spawn_keep(error),
                Action::Rest => {
                    if let Some(owner) = &owner {
                        owner.rested(self.ino);
                    }
                }
                Action::Drop => {
                    self.discard(&self.files());
                    let mut inner = self.lock();
                    let versions = (inner.top.take(), inner.frozen.take());
                    drop(inner);
                    // To remove a large file takes time.
                    drop(versions);
                    if let Some(owner) = &owner {
                        owner.dropped(self.ino);
                    }
                }
                // Done under the lock.
                Action::Seal
                | Action::Unseal
                | Action::Persist
                | Action::Send
                | Action::Cancel
                | Action::Later(_) => {}
            }
        }
        if let Some(owner) = &owner {
            owner.moved();
        }
    }

    /// Runs what waits for the local disk.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.context.rt.spawn_blocking(work).await;
        done.map_err(|e| Error::new(Kind::Broken, op).because(e))?
    }

    fn spawn_seal(self: &Arc<Self>, frozen: Arc<Content>) {
        let writer = self.clone();
        self.context.rt.spawn(async move {
            match frozen
                .complete(&writer.context.cache, &writer.target())
                .await
            {
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
                        if whole.layer.size() > writer.context.defer_max {
                            inner.session.deferred = false;
                        }
                        inner.frozen = Some(whole);
                    }
                    writer.step(Event::Sealed);
                }
                Err(error) => writer.broke(error),
            }
        });
    }

    fn spawn_persist(self: &Arc<Self>, inner: &Inner) {
        let Some(frozen) = inner.frozen.clone() else {
            return;
        };
        let mut record = inner.record(Class::Acknowledged);
        let (writer, file) = (self.clone(), frozen.file.clone());
        let mut stamp = file.stamp();
        self.context.rt.spawn(async move {
            let later = loop {
                let (file, said) = (file.clone(), record.target.clone());
                let promised = move || file.promise(&record, stamp);
                match writer.blocking("keep", promised).await {
                    Ok(Noted::Durable) => {}
                    Ok(Noted::Void) => {
                        let void = "the spool file is no longer what it was";
                        let kind = if writer.is_gone() {
                            Kind::Cancelled
                        } else {
                            Kind::Broken
                        };
                        return writer.broke(Error::new(kind, "keep").said(void));
                    }
                    Err(error) => return writer.broke(error),
                }
                let mut inner = writer.lock();
                // Name and attributes may have changed while the record was being written: an older version
                // that is owed has the new ones, and stands until this one has them as well.
                if inner.target.is_recorded_as(&said) {
                    inner.owe(&frozen);
                    break writer.decide(&mut inner, Event::Kept);
                }
                record = inner.record(Class::Acknowledged);
                stamp = frozen.file.stamp();
            };
            writer.perform(later);
        });
    }

    fn spawn_later(self: &Arc<Self>, inner: &mut Inner, error: &Error) {
        let wait = wait(inner.failures, error.retry_after);
        inner.failures += 1;
        let path = &inner.target.path;
        log::error!("{path}: owed, tried again in {} s: {error}", wait.as_secs());
        let why = Some(error.kind);
        let is_news = std::mem::replace(&mut inner.noted, why) != why;
        let writer = self.clone();
        self.context.rt.spawn(async move {
            // Who lists what is owed while nothing is mounted is told why.
            if is_news && let Err(error) = writer.note_owed().await {
                log::warn!("the error is not kept: {error}");
            }
            tokio::time::sleep(wait).await;
            writer.go();
        });
    }

    fn spawn_keep(self: &Arc<Self>, error: Error) {
        let kept = {
            let inner = self.lock();
            inner.newest().map(|content| {
                let whole = content.layer.missing().is_empty();
                let class = if whole { Class::Refused } else { Class::Torn };
                let mut record = Record::new(class, inner.target.clone());
                record.size = content.layer.size();
                record.digests = content.whole_digests();
                record.error = Some(error.to_string());
                (content.file.clone(), record, content.file.stamp())
            })
        };
        let Some((file, record, stamp)) = kept else {
            return;
        };
        let writer = self.clone();
        self.context.rt.spawn(async move {
            let (path, at) = (record.target.path.clone(), file.path());
            match writer
                .blocking("keep", move || file.promise(&record, stamp))
                .await
            {
                // A program writes to it again: what is kept then is kept anew.
                Ok(Noted::Void) => {}
                Ok(Noted::Durable) => {
                    log::error!("{path}: not sent, kept as {}: {error}", at.display())
                }
                Err(worse) => {
                    log::error!("{path}: not sent ({error}), and not safely kept either: {worse}");
                }
            }
        });
    }

    /// The files of all versions there are.
    pub(super) fn files(&self) -> Vec<Arc<SpoolFile>> {
        let inner = self.lock();
        let versions = inner.top.iter().chain(inner.frozen.as_deref());
        let files = versions.map(|content| content.file.clone());
        files
            .chain(inner.owed.as_ref().map(|owed| owed.content.file.clone()))
            .collect()
    }

    /// Takes every promise for these files away, and their names; who reads them goes on.
    pub(super) fn discard(&self, files: &[Arc<SpoolFile>]) {
        files.iter().for_each(|file| file.discard());
        let mut inner = self.lock();
        let gone = |owed: &mut Owed| {
            files
                .iter()
                .any(|file| Arc::ptr_eq(file, &owed.content.file))
        };
        inner.owed.take_if(gone);
    }

    fn spawn_send(self: &Arc<Self>, inner: &mut Inner) {
        let progress = Arc::new(Progress::default());
        (inner.progress, inner.sending) = (Some(progress.clone()), None);
        let writer = self.clone();
        self.context.rt.spawn(async move {
            if let Err(error) = writer.send(&progress).await {
                writer.broke(error);
            }
        });
    }

    async fn send(self: &Arc<Self>, progress: &Progress) -> Result<()> {
        let started = Instant::now();
        let (content, mut target, tried) = {
            let mut inner = self.lock();
            inner.date(&self.context.store.caps().keeps);
            let content = inner.frozen.clone();
            let content = content.ok_or(Error::new(Kind::Protocol, "send"))?;
            let tried = inner.failures > 0 || matches!(inner.session.last(), Last::Failed { .. });
            (content, inner.target.clone(), tried)
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
        let named = |error: Error| error.at(target.path.clone());
        let (store, uploads) = (&*self.context.store, self.context.uploads);
        let doubt = target.in_doubt();
        let (mut look, looked) = match target.looked.filter(|&at| is_recent(at) && !doubt) {
            Some(at) => (Look::Known, at),
            None => {
                let now = now();
                let look = tokio::select! {
                    biased;
                    () = progress.stopped() => Err(Error::new(Kind::Cancelled, "look")),
                    look = self.look_at_name(&target, &new, &content.file, tried || doubt) => look,
                };
                (look.map_err(named)?, now)
            }
        };
        let mut refused = false;
        let (mut entry, theirs) = loop {
            let theirs = match look {
                Look::Ours(entry) => {
                    // Its attributes may be older; the rest of what was asked for no store keeps.
                    let keeps = store.caps().keeps;
                    if keeps.of(&entry.attrs) != keeps.of(&new.attrs) {
                        new.attrs = entry.attrs.clone();
                    }
                    break (entry, None);
                }
                Look::Older(entry) => {
                    new.replaces = Some(entry);
                    new.exclusive = false;
                    None
                }
                Look::Absent => {
                    new.replaces = None;
                    None
                }
                look => self.settle(look, &mut new, &content.file)?,
            };
            let beside = theirs.is_some();
            let last_look = || match beside {
                true => std::future::ready(Ok(None)).boxed(),
                false => self
                    .last_look(&target, &new, &content.file, tried, looked)
                    .boxed(),
            };
            let load = Load {
                store,
                new: &new,
                source: &*content.file,
                uploads,
                last_look: &last_look,
            };
            self.lock().sending = (!beside).then(|| Attempt {
                place: new.place.clone(),
                size: new.size,
                digests: new.digests.clone(),
            });
            match upload::send(&load, progress).await {
                Ok(Sent::Stored(entry)) => break (entry, theirs),
                Ok(Sent::Theirs(found)) => look = Look::Theirs(found),
                // The store itself has found somebody else's version.
                Err(error) if error.kind == Kind::Conflict && !beside && !refused => {
                    refused = true;
                    look = match self.look_at_name(&target, &new, &content.file, true).await {
                        Ok(Look::Known) => return Err(named(error)),
                        found => found.map_err(named)?,
                    };
                }
                Err(error) => return Err(named(error)),
            }
        };
        if theirs.is_none() {
            let mut inner = self.lock();
            if inner.target.place == new.place {
                inner.target.replaces = Some(entry.clone());
                inner.target.looked = Some(now());
            }
        }
        let elsewhere = left_elsewhere(store, &target).await;
        let elsewhere = elsewhere.map_err(|e| e.at(target.path.clone()))?;
        for stray in elsewhere {
            let mut inner = self.lock();
            // Unless it was struck off meanwhile.
            if inner.target.attempts.iter().any(|one| one.place == stray.0) {
                for removes in [&mut inner.target.removes, &mut target.removes] {
                    removes.retain(|(place, _)| *place != stray.0);
                    removes.push(stray.clone());
                }
            }
        }
        for (place, stray) in std::mem::take(&mut target.removes) {
            {
                let mut inner = self.lock();
                let listed = inner.target.removes.iter().any(|(at, _)| *at == place);
                // Struck off, or what was just committed lies there.
                if !listed || place == new.place {
                    continue;
                }
                inner.removing = Some(place.clone());
            }
            let removed = remove_stray(store, &place, &stray).await;
            {
                let mut inner = self.lock();
                inner.removing = None;
                if removed.is_ok() {
                    let done = |listed: &(Place, Entry)| listed.0 == place && listed.1 == stray;
                    inner.target.removes.retain(|listed| !done(listed));
                }
            }
            self.landed.notify_waiters();
            removed.map_err(|e| e.at(target.path.clone()))?;
        }
        if let Some(theirs) = theirs {
            self.diverted(&theirs, &entry, &target.place, &new.place);
            return Ok(());
        }
        loop {
            match self.sent(&entry, &new, started).await {
                None => return Ok(()),
                Some(attrs) => {
                    entry = store.set_attrs(&entry, &attrs).await?;
                    new.attrs = attrs;
                }
            }
        }
    }

    /// The look right before the commit of an upload that took its time, unless the store decides
    /// itself whether the name still has what it had, or it does not matter.
    async fn last_look(
        &self,
        target: &Target,
        new: &New,
        file: &SpoolFile,
        tried: bool,
        looked: Instant,
    ) -> Result<Option<Entry>> {
        let caps = self.context.store.caps();
        let decided = if new.exclusive {
            caps.exclusive_create
        } else {
            self.conflict(file) == Conflict::Overwrite
                || (caps.conditional_replace && new.replaces.is_some())
        };
        if decided || is_recent(looked) {
            return Ok(None);
        }
        match self.look_at_name(target, new, file, tried).await? {
            Look::Theirs(theirs) => Ok(Some(theirs)),
            Look::Absent | Look::Known | Look::Ours(_) | Look::Older(_) => Ok(None),
        }
    }

    /// Looks whether the name still has what it had. `tried`: an earlier try may have stored ours; else
    /// what lies under a name that must be new is somebody else's, even if its bytes are the same.
    async fn look_at_name(
        &self,
        target: &Target,
        new: &New,
        file: &SpoolFile,
        tried: bool,
    ) -> Result<Look> {
        let now = match self.context.store.stat(&target.place).await {
            Ok(entry) => entry,
            Err(error) if error.kind == Kind::NotFound => return Ok(Look::Absent),
            Err(error) => return Err(error),
        };
        if now.kind == EntryKind::Dir {
            return Err(Error::new(Kind::IsDir, "commit"));
        }
        let known = target
            .replaces
            .as_ref()
            .is_some_and(|known| known.version == now.version);
        let same = now.size == new.size
            && match new.digests.agree(&now.digests) {
                Some(same) => same,
                // Nothing to compare but the bytes themselves: done only for what an earlier try, or an earlier
                // process, may have stored.
                None => tried && !known && self.has_bytes(&now, file).await?,
            };
        if same && (tried || !new.exclusive) {
            return Ok(Look::Ours(now));
        }
        Ok(if known {
            Look::Known
        } else if target.attempted(&now) {
            Look::Older(now)
        } else {
            Look::Theirs(now)
        })
    }

    /// Whether the store has exactly the bytes of `file` at `entry`; read as far as they agree.
    async fn has_bytes(&self, entry: &Entry, file: &SpoolFile) -> Result<bool> {
        let mut compared = Compared {
            file,
            at: 0,
            same: Ok(true),
        };
        while compared.at < entry.size {
            let step = compared.at..entry.size.min(compared.at + COMPARE_STEP);
            match self.context.store.read(entry, step, &mut compared).await {
                Ok(()) => {}
                // It is another one by now.
                Err(error) if matches!(error.kind, Kind::Stale | Kind::NotFound) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            if !compared.same.clone()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is done about somebody else's version when the bytes of `file` are sent.
    fn conflict(&self, file: &SpoolFile) -> Conflict {
        match self.context.conflict {
            // What a power cut brought back may be older than what has the name now.
            Conflict::Overwrite if file.is_left() => Conflict::KeepBoth,
            set => set,
        }
    }

    /// Decides about somebody else's version; returns it if ours goes beside it.
    fn settle(&self, look: Look, new: &mut New, file: &SpoolFile) -> Result<Option<Entry>> {
        let Look::Theirs(theirs) = look else {
            return Ok(None);
        };
        let name = &new.place.name;
        if new.exclusive && !self.owes() {
            return Err(Error::new(Kind::Exists, "commit").at(name.clone()));
        }
        // What was promised cannot be refused any more: it is a conflict like any other.
        new.exclusive = false;
        match self.conflict(file) {
            Conflict::Overwrite => {
                new.replaces = Some(theirs);
                Ok(None)
            }
            Conflict::Fail => Err(changed(name)),
            Conflict::KeepBoth => {
                new.place.name = beside(name);
                new.replaces = None;
                Ok(Some(theirs))
            }
        }
    }

    /// Ours is at `place` on the store, as `other`, because `theirs` was found at `was`.
    fn diverted(self: &Arc<Self>, theirs: &Entry, other: &Entry, was: &Place, place: &Place) {
        let name = &other.name;
        log::warn!(
            "{}: changed by somebody else; ours is {name}",
            self.target().path
        );
        let mut later = Vec::new();
        let mut settle = |after: After| {
            let mut inner = self.lock();
            inner.progress = None;
            later = if inner.target.place != *was || inner.session.is_gone() {
                self.elsewhere(&mut inner, other, place)
            } else {
                let error = changed(&theirs.name).said(&format!("ours was kept as {name}"));
                match after {
                    After::Elsewhere => self.elsewhere(&mut inner, other, place),
                    After::Ours(path) => {
                        inner.target.path = path;
                        inner.target.place = place.clone();
                        inner.has_now(other);
                        self.decide(&mut inner, Event::Diverted { error, open: true })
                    }
                    After::Theirs => {
                        inner.has_now(theirs);
                        // Ours is safe under the other name: what is here gives way to theirs.
                        inner.frozen = None;
                        self.decide(&mut inner, Event::Diverted { error, open: false })
                    }
                }
            };
        };
        match self.context.owner.upgrade() {
            Some(owner) => owner.diverted(self.ino, was, theirs, other, &mut settle),
            None => settle(After::Theirs),
        }
        self.perform(later);
    }

    /// The name has changed, or changes in a moment, or went while ours was sent to `place`: what is there goes
    /// with the next commit, or with the name.
    fn elsewhere(
        self: &Arc<Self>,
        inner: &mut Inner,
        other: &Entry,
        place: &Place,
    ) -> Vec<Action<Waiter>> {
        inner.target.removes.push((place.clone(), other.clone()));
        let given_up = Error::new(Kind::Cancelled, "commit");
        let mut later = self.decide(inner, Event::Moved);
        later.extend(self.decide(inner, Event::Broke(given_up)));
        later
    }

    /// The store has `entry`. Ends the flight, unless attributes were set meanwhile: then these are
    /// returned and have to be set first.
    async fn sent(self: &Arc<Self>, entry: &Entry, new: &New, started: Instant) -> Option<Attrs> {
        let (later, here, path, owed) = {
            let mut inner = self.lock();
            let here = inner.target.place == new.place && !inner.session.is_gone();
            let last = inner.session.top() == Top::Same;
            if here && last && inner.target.attrs != new.attrs {
                return Some(inner.target.attrs.clone());
            }
            (inner.progress, inner.sending) = (None, None);
            let owed = inner.owed.as_ref().map(|owed| owed.content.file.clone());
            if here {
                inner.failures = 0;
                inner.has_now(entry);
            } else if inner.target.place == new.place {
                // Its name was removed meanwhile: whoever did that removes it.
                inner.base = Some(Arc::new(entry.clone()));
                inner.target.replaces = Some(entry.clone());
            } else {
                inner.base = Some(Arc::new(entry.clone()));
                let target = &mut inner.target;
                target.attempts.retain(|one| one.place != new.place);
                target.removes.push((new.place.clone(), entry.clone()));
            }
            let path = inner.target.path.clone();
            (self.decide(&mut inner, Event::Sent), here, path, owed)
        };
        let context = &self.context;
        context.sent_bytes.fetch_add(entry.size, Ordering::Relaxed);
        if here {
            context.committed_files.fetch_add(1, Ordering::Relaxed);
            let (size, seconds) = (entry.size, started.elapsed().as_secs_f64());
            let rate = size as f64 / 1e6 / seconds.max(1e-6);
            log::info!("{path}: {size} bytes committed in {seconds:.2} s, {rate:.1} MB/s");
            if let Some(owner) = context.owner.upgrade() {
                owner.committed(self.ino, entry, &new.place);
            }
            // After a power cut the record of what is owed no more must not be back, and be sent again.
            if let Some(owed) = owed
                && let Err(error) = self.blocking("settle", move || owed.sync_removal()).await
            {
                log::warn!("{path}: {error}");
            }
        }
        self.perform(later);
        None
    }

    fn broke(self: &Arc<Self>, error: Error) {
        {
            let mut inner = self.lock();
            let progress = inner.progress.take();
            let sending = inner.sending.take();
            let lost = error.kind.worth_another_try() || error.kind == Kind::Cancelled;
            if let Some(attempt) = sending
                && lost
                && progress.is_some_and(|progress| progress.may_be_stored())
            {
                inner.target.attempt(attempt);
            }
        }
        self.step(Event::Broke(error.clone()));
        if error.kind != Kind::Cancelled
            && let Some(owner) = self.context.owner.upgrade()
        {
            owner.failed(self.ino, &error);
        }
    }
}

/// What a commit has left under names that a file had before, though no answer said so.
pub async fn left_elsewhere(store: &dyn Store, target: &Target) -> Result<Vec<(Place, Entry)>> {
    let mut left: Vec<(Place, Entry)> = Vec::new();
    for attempt in &target.attempts {
        let known = |(place, _): &(Place, Entry)| *place == attempt.place;
        if attempt.place == target.place || attempt.digests.0.is_empty() || left.iter().any(known) {
            continue;
        }
        match store.stat(&attempt.place).await {
            Ok(entry) if attempt.is(&entry) => left.push((attempt.place.clone(), entry)),
            Err(error) if error.kind != Kind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(left)
}

/// Removes what lies under an old name, unless the name has something newer by now.
pub async fn remove_stray(store: &dyn Store, place: &Place, stray: &Entry) -> Result<()> {
    match store.stat(place).await {
        Ok(now) if now.version == stray.version => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind == Kind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match store.remove(stray).await {
        Err(error) if !matches!(error.kind, Kind::NotFound | Kind::Conflict) => Err(error),
        _ => Ok(()),
    }
}

impl Inner {
    pub(super) fn is_safe(&self) -> bool {
        self.session.is_settled() || self.session.owes() || self.session.is_removed()
    }

    fn freeze(&mut self, context: &super::Context) -> Result<Arc<Content>> {
        if self.top.is_none()
            && let Some(frozen) = &self.frozen
        {
            // Once more as it is; what its record says stands meanwhile.
            return Ok(frozen.clone());
        }
        self.top(context)?;
        self.sealed = next_ms();
        let frozen = Arc::new(self.top.take().ok_or(Error::new(Kind::Protocol, "seal"))?);
        self.frozen = Some(frozen.clone());
        Ok(frozen)
    }

    fn unseal(&mut self) {
        let Some(owed) = self.owed.as_ref().map(|owed| owed.content.clone()) else {
            return;
        };
        if let Some(failed) = self.frozen.replace(owed.clone())
            && !Arc::ptr_eq(&failed.file, &owed.file)
            && self.top.is_none()
        {
            failed.file.set_open(self.session.is_open());
            self.top = Some((*failed).clone());
        }
    }

    /// From now on `content` is what is owed; an older version no longer is.
    fn owe(&mut self, content: &Arc<Content>) {
        let (content, number) = (content.clone(), self.sealed);
        let file = content.file.clone();
        let older = self.owed.replace(Owed { content, number });
        if let Some(older) = older.filter(|older| !Arc::ptr_eq(&older.content.file, &file)) {
            older.content.file.discard();
        }
    }

    /// The store has `entry` at the target, and nothing is owed.
    fn has_now(&mut self, entry: &Entry) {
        self.settle_debt();
        self.base = Some(Arc::new(entry.clone()));
        self.target.replaces = Some(entry.clone());
        self.target.looked = Some(now());
        let here = self.target.place.clone();
        self.target.removes.retain(|(place, _)| *place != here);
        self.target.exclusive = false;
        self.target.attempts.clear();
    }

    /// The store has the frozen version: nothing is owed, and its file is only a cache.
    fn settle_debt(&mut self) {
        let owed = self.owed.take().map(|owed| owed.content.file.clone());
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.file);
        if let Some(owed) = owed
            && frozen.is_none_or(|frozen| !Arc::ptr_eq(frozen, &owed))
        {
            owed.discard();
        }
        if let Some(frozen) = frozen {
            frozen.to_cache();
        }
    }
}

/// Now, by the clock that tests can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether a look at a name is young enough to commit upon.
fn is_recent(looked: Instant) -> bool {
    tokio::time::Instant::from_std(looked).elapsed() < LOOK_AGAIN
}

fn changed(name: &str) -> Error {
    Error::new(Kind::Conflict, "commit").at(name)
}

/// The name beside `name` for a version that lost a conflict: `NAME.conflict-HOST-TIME`, at most 255 bytes.
fn beside(name: &str) -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    let tail = format!(".conflict-{host}-{}", now.strftime("%Y%m%dT%H%M%S%3fZ"));
    let mut end = name.len().min(255usize.saturating_sub(tail.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_try_is_put_off_further_each_time_and_by_what_the_server_asks_within_reason() {
        let s = Duration::from_secs;
        assert_eq!(
            [0, 1, 5, 99].map(|failures| wait(failures, None)),
            [s(5), s(10), s(160), s(300)]
        );
        assert_eq!(wait(0, Some(s(120))), s(120));
        assert_eq!(wait(2, Some(s(1))), s(20));
        assert_eq!(wait(0, Some(s(86_400))), s(600));
    }

    #[test]
    fn the_name_beside_says_where_and_when_and_fits() {
        let name = beside("report.txt");
        assert!(name.starts_with("report.txt.conflict-"), "{name}");
        assert!(beside(&"é".repeat(127)).len() <= 255);
    }
}
