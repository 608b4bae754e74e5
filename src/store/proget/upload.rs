//! Uploads (spec, sections 7 and 8): whole contents in one request, larger ones in parts, and the ways
//! out when a server or a proxy refuses either.
//!
//! What is learned about the server (smaller parts, one at a time, no parts at all) is kept in
//! [`Memory`] and used by the next `start`; an upload that must change its ways is void (`Restart`).

use super::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Parts are never cut smaller than this after a refusal, in bytes.
const PART_MIN: u64 = 256 * 1024;

/// Largest content that goes in one request where parts are refused, in bytes.
const WHOLE_MAX: u64 = (1 << 31) - 1;

/// What this process knows of its uploads and of the server's ways.
#[derive(Debug)]
pub(super) struct Memory {
    part_size: AtomicU64,
    /// As the settings have it.
    part_size_set: u64,
    pub(super) sequential: AtomicBool,
    /// The server took a whole content after it had refused its first part.
    no_parts: AtomicBool,
    under_way: Mutex<HashMap<String, Attempt>>,
    /// Paths whose next upload goes in one request.
    whole: Mutex<HashSet<String>>,
    /// Paths at which an empty file of ours stands in for the upload.
    placeholders: Mutex<HashSet<String>>,
    placing: tokio::sync::Mutex<()>,
    /// Writes whose outcome is unknown: the next try may meet its own success.
    doubts: Mutex<HashSet<String>>,
}

/// One upload in parts.
#[derive(Debug, Default)]
struct Attempt {
    in_flight: u32,
    acknowledged: u32,
    was_parallel: bool,
    commit_sent: bool,
}

impl Memory {
    pub(super) fn new(part_size: u64, parallel: bool) -> Self {
        Memory {
            part_size: AtomicU64::new(part_size),
            part_size_set: part_size,
            sequential: AtomicBool::new(!parallel),
            no_parts: AtomicBool::new(false),
            under_way: Mutex::default(),
            whole: Mutex::default(),
            placeholders: Mutex::default(),
            placing: tokio::sync::Mutex::default(),
            doubts: Mutex::default(),
        }
    }

    fn attempt<T>(&self, id: &str, f: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut all = lock(&self.under_way);
        match all.get_mut(id) {
            Some(attempt) => f(attempt),
            None => f(all.entry(id.to_owned()).or_default()),
        }
    }

    fn forget(&self, id: &str) {
        lock(&self.under_way).remove(id);
    }

    /// Halves the parts of later uploads; false if a part of `len` bytes is as small as they get. Then
    /// size was not the reason (a 404 has many), and parts are again as they were.
    fn smaller_than(&self, len: u64) -> bool {
        if len <= PART_MIN {
            self.part_size.store(self.part_size_set, Ordering::Relaxed);
            return false;
        }
        let half = (len / 2).max(PART_MIN);
        self.part_size.fetch_min(half, Ordering::Relaxed);
        log::warn!("the server refuses {len} bytes in one request; from now on {half}");
        true
    }

    pub(super) fn doubtful(&self, op: &str, path: &str) -> bool {
        lock(&self.doubts).contains(&format!("{op} {path}"))
    }

    pub(super) fn settled(&self, op: &str, path: &str) {
        lock(&self.doubts).remove(&format!("{op} {path}"));
    }

    fn doubt(&self, op: &str, path: &str) {
        lock(&self.doubts).insert(format!("{op} {path}"));
    }

    /// Remembers whether the outcome is unknown: the request may have reached the server, and looking
    /// did not help. A request that was not carried out leaves what is known of an earlier one.
    pub(super) fn settle<T>(&self, op: &str, path: &str, done: &Result<T>) {
        match done {
            Err(e) if matches!(e.kind, ErrorKind::Broken | ErrorKind::Timeout) => {
                self.doubt(op, path);
            }
            Err(e) if e.kind.worth_another_try() => {}
            _ => self.settled(op, path),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A part on its way; its drop says that it is no more.
struct Flight<'a>(&'a Memory, &'a str);

impl<'a> Flight<'a> {
    fn of(memory: &'a Memory, id: &'a str) -> Self {
        memory.attempt(id, |a| {
            a.in_flight += 1;
            a.was_parallel |= a.in_flight > 1;
        });
        Flight(memory, id)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = lock(&self.0.under_way).get_mut(self.1) {
            attempt.in_flight = attempt.in_flight.saturating_sub(1);
        }
    }
}

/// Whether `entry` has what is to be stored, beyond doubt.
fn is_ours(entry: &Entry, new: &New) -> bool {
    entry.kind == new.kind
        && entry.size == new.size
        && entry.digests.agree(&new.digests) == Some(true)
}

fn path_of(new: &New) -> String {
    join(&new.place.dir.0, &new.place.name)
}

impl ProGet {
    /// The content in one request; `Restart` if it must go in parts, because the server refuses such a size.
    pub(super) async fn put_whole(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        const OP: &str = "upload";
        let path = path_of(new);
        self.check_name(&new.place.dir, &new.place.name)?;
        if new.size > self.uploads.part_size.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Restart, OP).at(path));
        }
        // Create-only guards O_EXCL, and other spellings of the name where case may fold.
        let create = new.exclusive || (new.replaces.is_none() && self.config.case_fold);
        let doubt = new.exclusive && self.uploads.doubtful(OP, &path);
        let done = self.send_whole(new, source, &path, create, doubt).await;
        self.uploads.settle(OP, &path, &done);
        done
    }

    /// `Restart`: it must go in smaller pieces. `doubt`: an earlier try of this create may have
    /// succeeded.
    async fn send_whole(
        &self,
        new: &New,
        source: &dyn Source,
        path: &str,
        create: bool,
        doubt: bool,
    ) -> Result<Entry> {
        const OP: &str = "upload";
        let mut method = if create { Method::PUT } else { Method::POST };
        let mut made_parent = false;
        loop {
            let mut ask = self.ask(method.clone(), "content", path, "", OP)?;
            ask.content_type = Some(content_type(new));
            ask.body = match new.size {
                0 => Body::Empty,
                size => Body::of(source, 0..size),
            };
            ask.answer_within = Some(storing_time(self.config.http.stall_timeout, new.size));
            let answer = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    answer.drain().await;
                    let done = self.confirm(new, path).await;
                    if done.as_ref().is_err_and(|e| e.kind.worth_another_try()) {
                        // The next try meets its own success.
                        self.uploads.doubt(OP, path);
                    }
                    return done;
                }
                Ok(answer) => answer,
                Err(error) => return self.settle_upload(new, path, error).await,
            };
            let status = answer.status();
            let error = answer.into_error().await;
            match status {
                400 | 409 => match self.look(path, OP).await? {
                    Look::Other(entry) => return Err(taken_by(&entry, OP).at(path)),
                    Look::Is(entry) if new.exclusive => {
                        if doubt && is_ours(&entry, new) {
                            return self.confirm(new, path).await;
                        }
                        return Err(Error::new(ErrorKind::Exists, OP).at(path));
                    }
                    Look::Is(entry) if entry.kind == Kind::Dir => {
                        return Err(Error::new(ErrorKind::IsDir, OP).at(path));
                    }
                    // Somebody has made it since, or an earlier try of ours: replace it.
                    Look::Is(_) if method == Method::PUT => method = Method::POST,
                    Look::Is(_) => return Err(error),
                    Look::Absent => return Err(self.why_refused(path, error).await),
                },
                // A proxy that blocks PUT (section 9); the look takes its place.
                405 if method == Method::PUT => match self.look(path, OP).await? {
                    Look::Absent => method = Method::POST,
                    Look::Other(entry) => return Err(taken_by(&entry, OP).at(path)),
                    Look::Is(_) if new.exclusive => {
                        return Err(Error::new(ErrorKind::Exists, OP).at(path));
                    }
                    Look::Is(_) => method = Method::POST,
                },
                404 if !made_parent && !new.place.dir.0.is_empty() => {
                    made_parent = true;
                    self.post_dir(&new.place.dir.0, OP).await.map_err(strange)?;
                }
                404 | 413 => {
                    return Err(if self.uploads.smaller_than(new.size) {
                        Error::new(ErrorKind::Restart, OP).at(path)
                    } else {
                        strange(error)
                    });
                }
                500.. | 408 => return self.settle_upload(new, path, error).await,
                _ => return Err(error),
            }
        }
    }

    /// An upload whose answer was lost: done if the server has exactly this content.
    async fn settle_upload(&self, new: &New, path: &str, error: Error) -> Result<Entry> {
        if !error.kind.worth_another_try() || error.kind == ErrorKind::Later {
            return Err(error);
        }
        match self.look(path, error.op).await {
            Ok(Look::Is(entry)) if is_ours(&entry, new) => self.confirm(new, path).await,
            _ => Err(error),
        }
    }

    fn goes_whole(&self, new: &New) -> bool {
        new.size <= WHOLE_MAX
            && (self.uploads.no_parts.load(Ordering::Relaxed)
                || lock(&self.uploads.whole).contains(&path_of(new)))
    }

    pub(super) async fn start_parts(&self, new: &New) -> Result<Upload> {
        const OP: &str = "start upload";
        let path = path_of(new);
        self.check_name(&new.place.dir, &new.place.name)?;
        let ours = lock(&self.uploads.placeholders).contains(&path);
        if new.replaces.is_none() && (new.exclusive || self.config.case_fold) && !ours {
            match self.look(&path, OP).await? {
                Look::Absent => {}
                Look::Other(entry) => return Err(taken_by(&entry, OP).at(path)),
                Look::Is(_) if new.exclusive => {
                    return Err(Error::new(ErrorKind::Exists, OP).at(path));
                }
                Look::Is(entry) if entry.kind == Kind::Dir => {
                    return Err(Error::new(ErrorKind::IsDir, OP).at(path));
                }
                Look::Is(_) => {}
            }
        }
        let whole = self.goes_whole(new);
        let part_size = self.uploads.part_size.load(Ordering::Relaxed);
        Ok(Upload {
            id: uuid::Uuid::new_v4().simple().to_string(),
            cut: Cut::every(if whole { new.size } else { part_size }),
            sequential: self.is_sequential(),
            whole,
            extra: BTreeMap::new(),
        })
    }

    pub(super) async fn send_part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        const OP: &str = "upload part";
        let path = path_of(new);
        let receipt = Receipt {
            part: part.clone(),
            token: String::new(),
        };
        if up.whole {
            return self
                .send_whole_as_part(new, source, &path)
                .await
                .map(|()| receipt);
        }
        let len = part.range.end - part.range.start;
        let parts = new.size.div_ceil(up.cut.first.max(1));
        let query = format!(
            "?multipart=upload&id={}&index={}&offset={}&totalSize={}&partSize={len}&totalParts={parts}",
            up.id, part.index, part.range.start, new.size
        );
        let void = |error: Error| {
            self.uploads.forget(&up.id);
            Err(Error {
                kind: ErrorKind::Restart,
                ..error
            })
        };
        let _flight = Flight::of(&self.uploads, &up.id);
        let (mut made_parent, mut made_file) = (new.place.dir.0.is_empty(), false);
        loop {
            let mut ask = self.ask(Method::POST, "content", &path, &query, OP)?;
            ask.content_type = Some(content_type(new));
            ask.body = Body::of(source, part.range.clone());
            let answer = self.send(&ask).await?;
            if answer.is_success() {
                answer.drain().await;
                self.uploads.attempt(&up.id, |a| a.acknowledged += 1);
                return Ok(receipt);
            }
            let status = answer.status();
            let error = answer.into_error().await;
            let (first, parallel) = self
                .uploads
                .attempt(&up.id, |a| (a.acknowledged == 0, a.was_parallel));
            match status {
                400 | 409 | 410 | 422 if parallel => {
                    if !self.uploads.sequential.swap(true, Ordering::Relaxed) {
                        log::warn!("{error}; from now on one part at a time");
                    }
                    return void(error);
                }
                400 | 409 | 410 | 422 => {
                    if first && new.size <= WHOLE_MAX {
                        // Old versions take no parts for directories in cloud storage (section 8).
                        log::warn!("{error}; trying {path} in one request");
                        lock(&self.uploads.whole).insert(path);
                    }
                    return void(error);
                }
                404 if first && !made_parent => {
                    made_parent = true;
                    self.post_dir(&new.place.dir.0, OP).await.map_err(strange)?;
                }
                404 if first && !made_file && self.make_placeholder(new, &path).await? => {
                    made_file = true;
                }
                404 if !first => return void(error),
                404 | 413 => {
                    return if self.uploads.smaller_than(len) {
                        void(error)
                    } else {
                        Err(strange(error))
                    };
                }
                _ => return Err(error),
            }
        }
    }

    /// An empty file in place of the upload, where the server takes parts for existing files only
    /// (section 8). False if there is a file already.
    async fn make_placeholder(&self, new: &New, path: &str) -> Result<bool> {
        const OP: &str = "make an empty file";
        // One at a time: parts that are refused together need one file.
        let _turn = self.uploads.placing.lock().await;
        if lock(&self.uploads.placeholders).contains(path) {
            return Ok(true);
        }
        if new.replaces.is_some() || !matches!(self.look(path, OP).await?, Look::Absent) {
            return Ok(false);
        }
        let mut ask = self.ask(Method::PUT, "content", path, "", OP)?;
        ask.content_type = Some(content_type(new));
        ask.body = Body::Empty;
        // Remembered before it is sent: this task may be given up while the answer is on its way.
        lock(&self.uploads.placeholders).insert(path.to_owned());
        let answer = self.send(&ask).await?;
        let made = answer.is_success();
        if !made {
            lock(&self.uploads.placeholders).remove(path);
        }
        answer.drain().await;
        Ok(made)
    }

    /// The one part of an upload that goes in one request. It is seen at once, so it waits for the
    /// digest of the whole, which is known only when nothing will change any more.
    async fn send_whole_as_part(&self, new: &New, source: &dyn Source, path: &str) -> Result<()> {
        const OP: &str = "upload";
        if new.digests.0.is_empty() {
            return Err(Error::new(ErrorKind::Restart, OP)
                .at(path)
                .said("not before the file is closed"));
        }
        let doubt = new.exclusive && self.uploads.doubtful(OP, path);
        let done = self
            .send_whole(new, source, path, new.exclusive, doubt)
            .await;
        self.uploads.settle(OP, path, &done);
        match done {
            Ok(_) => self.uploads.no_parts.store(true, Ordering::Relaxed),
            Err(error) if error.kind.worth_another_try() => return Err(error),
            Err(error) => {
                lock(&self.uploads.whole).remove(path);
                return Err(error);
            }
        }
        lock(&self.uploads.whole).remove(path);
        Ok(())
    }

    pub(super) async fn complete(&self, up: &Upload, new: &New) -> Result<Entry> {
        const OP: &str = "commit upload";
        let path = path_of(new);
        if up.whole {
            return self.confirm(new, &path).await;
        }
        let sent_before = self.uploads.attempt(&up.id, |a| a.commit_sent);
        if sent_before || new.exclusive {
            match self.look(&path, OP).await? {
                Look::Is(entry) if sent_before && is_ours(&entry, new) => {
                    return self.completed(up, new, &path).await;
                }
                Look::Other(entry) => return Err(taken_by(&entry, OP).at(path)),
                Look::Is(entry) if new.exclusive => {
                    let ours = lock(&self.uploads.placeholders).contains(&path) && entry.size == 0;
                    if !ours {
                        return Err(Error::new(ErrorKind::Exists, OP).at(path));
                    }
                }
                // Between two tries somebody else was there: neither what is replaced nor ours.
                Look::Is(entry) if sent_before && !self.is_expected(new, &path, &entry) => {
                    return Err(Error::new(ErrorKind::Conflict, OP).at(path));
                }
                _ => {}
            }
        }
        self.uploads.attempt(&up.id, |a| a.commit_sent = true);
        let query = format!("?multipart=complete&id={}", up.id);
        let mut again = true;
        loop {
            let mut ask = self.ask(Method::POST, "content", &path, &query, OP)?;
            ask.content_type = Some(content_type(new));
            ask.body = Body::Empty;
            ask.answer_within = Some(assembling_time(self.config.http.stall_timeout, new.size));
            let (error, void) = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    answer.drain().await;
                    return self.completed(up, new, &path).await;
                }
                Ok(answer) => {
                    let void = matches!(answer.status(), 400 | 404 | 409 | 410 | 422);
                    (answer.into_error().await, void)
                }
                Err(error) => (error, false),
            };
            let lost = error.kind.worth_another_try() && error.kind != ErrorKind::Later;
            if !void && !lost {
                return Err(error);
            }
            match self.look(&path, OP).await {
                Ok(Look::Is(entry)) if is_ours(&entry, new) => {
                    return self.completed(up, new, &path).await;
                }
                Ok(_) if void => {
                    self.uploads.forget(&up.id);
                    return Err(Error {
                        kind: ErrorKind::Restart,
                        ..error
                    });
                }
                // The answer was lost and it is not there: once more, then the caller's patience.
                Ok(_) if again => again = false,
                _ => return Err(error),
            }
        }
    }

    /// Whether an upload may replace `entry`: what it was begun over, or an empty file of our own.
    fn is_expected(&self, new: &New, path: &str, entry: &Entry) -> bool {
        let known = new.replaces.as_ref();
        known.is_some_and(|known| known.version == entry.version)
            || (entry.size == 0 && lock(&self.uploads.placeholders).contains(path))
    }

    async fn completed(&self, up: &Upload, new: &New, path: &str) -> Result<Entry> {
        let entry = self.confirm(new, path).await?;
        lock(&self.uploads.placeholders).remove(path);
        self.uploads.forget(&up.id);
        Ok(entry)
    }

    pub(super) async fn give_up(&self, up: &Upload, new: &New) -> Result<()> {
        const OP: &str = "give up upload";
        self.uploads.forget(&up.id);
        let path = path_of(new);
        if !lock(&self.uploads.placeholders).remove(&path) {
            return Ok(());
        }
        match self.look(&path, OP).await? {
            Look::Is(entry) if entry.kind != Kind::Dir && entry.size == 0 => {
                self.remove(&entry).await
            }
            _ => Ok(()),
        }
    }

    /// What the server has after a commit, with its attributes; `Mismatch` if it is not what was sent.
    async fn confirm(&self, new: &New, path: &str) -> Result<Entry> {
        const OP: &str = "verify upload";
        let keep = self.config.user_metadata;
        let had_attrs = new.replaces.as_ref().is_some_and(|e| !e.attrs.is_empty());
        let mut written = keep && (had_attrs || !new.attrs.is_empty());
        if written {
            self.keep_attrs(path, &new.attrs, !had_attrs).await?;
        }
        loop {
            let differs =
                |words: &str| Err(Error::new(ErrorKind::Mismatch, OP).at(path).said(words));
            let entry = match self.look(path, OP).await? {
                Look::Is(entry) => entry,
                Look::Other(entry) => {
                    return differs(&format!("the server has stored it as \"{}\"", entry.name));
                }
                Look::Absent => return differs("the server said yes, but does not have it"),
            };
            if entry.size != new.size {
                return differs(&format!("{} bytes there, {} here", entry.size, new.size));
            }
            if entry.digests.agree(&new.digests) == Some(false) {
                return differs("the digests differ");
            }
            if keep && !written && entry.attrs != new.attrs {
                // Left over from a file that was replaced without our seeing it.
                written = true;
                self.keep_attrs(path, &new.attrs, false).await?;
                continue;
            }
            return Ok(entry);
        }
    }

    /// The content is stored; a server that does not take attributes does not undo that.
    async fn keep_attrs(&self, path: &str, attrs: &Attrs, only_more: bool) -> Result<()> {
        match self.write_attrs(path, attrs, only_more).await {
            Err(error) if !error.kind.worth_another_try() => {
                log::warn!("{error}; the file is stored without them");
                Ok(())
            }
            done => done,
        }
    }
}

/// How long the server may be silent once it has all of a content that went in one request: it only has
/// to put it away, which is a matter of the disk's speed (20 MB a second at least).
fn storing_time(stall: Duration, size: u64) -> Duration {
    stall + Duration::from_secs(size / 20_000_000)
}

/// How long the server may be silent while it assembles and hashes `size` bytes: twice what a silent line
/// is given (with the default a minute) and a second per 20 MB (section 8).
fn assembling_time(stall: Duration, size: u64) -> Duration {
    stall * 2 + Duration::from_secs(size / 20_000_000)
}

/// A 404 or 405 that no known cause explains is not the file's absence.
fn strange(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error {
            kind: ErrorKind::Protocol,
            ..error
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_an_answer_is_waited_for_follows_the_settings_and_the_size() {
        let s = Duration::from_secs;
        assert_eq!(storing_time(s(1), 1000), s(1));
        assert_eq!(storing_time(s(30), 2_000_000_000), s(130));
        assert_eq!(assembling_time(s(1), 1000), s(2));
        assert_eq!(assembling_time(s(30), 2_000_000_000), s(160));
    }
}
