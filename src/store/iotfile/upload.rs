//! Uploads (spec, sections 5 and 6): whole contents in one request, larger ones in parts.
//!
//! There is no upload id, so that one upload of a key is under way at a time. Everything is conditional on
//! the version that is replaced; a 409 that may be our own success after a lost answer is settled by
//! reading, never by repeating blindly.

use super::ask::About;
use super::pace::{NUMBERED, plan};
use super::*;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicI64;
use tokio::sync::Notify;

/// The largest part before the line's speed is known: what the spec's slower schedule ends with.
const PART_UNKNOWN: u64 = 64 << 20;

/// How long an upload waits for another one of its key.
const TURN: Duration = Duration::from_secs(20);

/// An upload of ours that was not touched for so long is not under way any more.
const ABANDONED: Duration = Duration::from_secs(300);

/// Longest `type` and `description` (section 5.1).
const KIND_MAX: usize = 191;
const WORDS_MAX: usize = 100;

/// `Upload::extra`: the etag that is replaced, the timestamp, and when it began by the server's clock.
const TAG: &str = "etag";
const STAMP: &str = "timestamp";
const BEGAN: &str = "began";

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
    fn sends(&self, key: &str, stamp: i64) {
        let mut writes = lock(&self.writes);
        let stamps = writes.entry(key.to_owned()).or_default();
        if !stamps.contains(&stamp) {
            stamps.push(stamp);
        }
    }

    /// Whether a write of ours with this timestamp may have been carried out.
    fn may_be_ours(&self, key: &str, stamp: Option<i64>) -> bool {
        let writes = lock(&self.writes);
        (writes.get(key)).is_some_and(|all| stamp.is_some_and(|stamp| all.contains(&stamp)))
    }

    /// What is under the key is known.
    fn known(&self, key: &str) {
        lock(&self.writes).remove(key);
    }

    /// Waits until no other upload of the key is under way.
    async fn take(&self, key: &str, id: &str, op: &'static str) -> Result<()> {
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

    fn turn<'a>(&'a self, key: &'a str, id: &'a str) -> Turn<'a> {
        Turn {
            memory: self,
            key,
            id,
            goes_on: false,
        }
    }

    fn touch(&self, key: &str, id: &str) {
        if let Some((holder, touched)) = lock(&self.under_way).get_mut(key)
            && holder == id
        {
            *touched = Instant::now();
        }
    }

    fn free(&self, key: &str, id: &str) {
        let mut all = lock(&self.under_way);
        if all.get(key).is_some_and(|(holder, _)| holder == id) {
            all.remove(key);
            drop(all);
            self.freed.notify_waiters();
        }
    }
}

/// A key that is held while this lives, or until its upload ends if that was said.
struct Turn<'a> {
    memory: &'a Memory,
    key: &'a str,
    id: &'a str,
    goes_on: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.goes_on {
            self.memory.free(self.key, self.id);
        }
    }
}

/// A row of `fileslist`.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "partNo")]
    number: u32,
    created: Option<Value>,
}

/// What an answer that is no success means for a write.
enum Lost {
    /// It may have been carried out.
    Perhaps,
    /// It was refused, or never arrived.
    No,
}

fn lost(error: &Error) -> Lost {
    let never = matches!(error.kind, ErrorKind::Later | ErrorKind::Unreachable);
    if error.kind.worth_another_try() && !never {
        Lost::Perhaps
    } else {
        Lost::No
    }
}

fn key_of(new: &New) -> String {
    join(&new.place.dir.0, &new.place.name)
}

/// Whether the caller knows which version it replaces.
fn is_told(new: &New) -> bool {
    new.replaces.as_ref().is_some_and(|old| old.tag.is_some())
}

/// The etag that a commit over `tag` will have.
fn next(tag: Option<u64>) -> u64 {
    tag.map_or(0, |tag| tag + 1)
}

impl IotFile {
    /// Refuses what would make a key file and directory at once.
    fn check_place(&self, new: &New, key: &str, op: &'static str) -> Result<()> {
        self.check_name(&new.place.dir, &new.place.name)?;
        let refuse = |kind, words: &str| Err(Error::new(kind, op).at(key).said(words));
        let elsewhere = |old: &Entry| *old.addr.0 != *key;
        if new.replaces.as_ref().is_some_and(elsewhere) {
            return refuse(
                ErrorKind::IsDir,
                "on the service this file has the name of a directory: rename it first",
            );
        }
        let index = lock(&self.index);
        if let Some(file) = index.file_above(key) {
            return refuse(ErrorKind::NotDir, &format!("/{file} is a file"));
        }
        if index.is_dir(key) {
            return refuse(ErrorKind::IsDir, "");
        }
        if index.row(key).is_none() && key.chars().count() > names::DELETE_MAX {
            log::warn!(
                "{key}: the service's documentation lets no path above 100 characters be deleted"
            );
        }
        Ok(())
    }

    fn stamp(&self, new: &New) -> i64 {
        if let Some(mtime) = new.attrs.mtime {
            return row::millis(mtime);
        }
        let now = row::millis(SystemTime::now());
        let next = |last: i64| Some(now.max(last + 1));
        let last = &self.uploads.last;
        match last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(before) => now.max(before + 1),
            Err(_) => now,
        }
    }

    fn about(&self, new: &New, key: &str, timestamp: i64) -> About {
        let fits = |text: &String, most: usize| {
            !text.is_empty()
                && text.len() <= most
                && text.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        let kind = new
            .replaces
            .as_ref()
            .and_then(|old| old.content_type.clone());
        let words = lock(&self.index)
            .row(key)
            .and_then(|row| row.description.clone());
        About {
            timestamp,
            kind: kind.filter(|kind| fits(kind, KIND_MAX)),
            description: words.filter(|words| fits(words, WORDS_MAX)),
        }
    }

    /// A service that overwrites without being told to (section 14, point 1) must not be asked to when the
    /// name must be new.
    async fn check_new(&self, new: &New, key: &str, op: &'static str) -> Result<()> {
        if !new.exclusive {
            return Ok(());
        }
        match self.head(key, op).await? {
            Some(id) if !self.uploads.may_be_ours(key, id.1) => {
                Err(Error::new(ErrorKind::Exists, op).at(key))
            }
            _ => Ok(()),
        }
    }

    /// The etag to replace: of what the caller replaces, else, unless the name must be new, of what is
    /// known to be there.
    fn base(&self, new: &New, key: &str) -> Option<u64> {
        match &new.replaces {
            _ if new.exclusive => None,
            Some(old) if old.tag.is_some() => old.tag.as_deref().and_then(row::tag),
            _ => lock(&self.index).row(key).and_then(|row| row.etag),
        }
    }

    pub(super) async fn put_whole(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        const OP: &str = "upload";
        let key = key_of(new);
        self.check_place(new, &key, OP)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.uploads.take(&key, &id, OP).await?;
        let _turn = self.uploads.turn(&key, &id);
        self.check_new(new, &key, OP).await?;
        let about = self.about(new, &key, self.stamp(new));
        let mut tag = self.base(new, &key);
        let mut looked = 0;
        loop {
            let mut ask = self.ask(Method::PUT, "files", &key, "", OP)?;
            ask.about = Some(&about);
            ask.if_match = tag;
            ask.body = match new.size {
                0 => Body::Empty,
                size => Body::of(source, 0..size),
            };
            let begin = Instant::now();
            let error = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    self.up.note(new.size, begin.elapsed());
                    let etag = answer.header("etag").and_then(row::tag);
                    answer.drain().await;
                    self.uploads.sends(&key, about.timestamp);
                    return self.confirm(new, &key, etag, tag, &about).await;
                }
                Ok(answer) => {
                    let status = answer.status();
                    let error = answer.into_error().await;
                    if status == 409 || status == 412 || (status == 404 && tag.is_some()) {
                        looked += 1;
                        let again = self.conflict(new, &key, tag, source, error, looked < 3);
                        match again.await? {
                            Settled::Ours(stamp) => {
                                let about = About {
                                    timestamp: stamp,
                                    ..about
                                };
                                return self.confirm(new, &key, None, tag, &about).await;
                            }
                            Settled::Over(other) => {
                                tag = other;
                                continue;
                            }
                        }
                    }
                    error
                }
                Err(error) => error,
            };
            if let Lost::Perhaps = lost(&error) {
                self.uploads.sends(&key, about.timestamp);
                if let Ok(Some(id)) = self.head(&key, OP).await
                    && same(id, (Some(next(tag)), Some(about.timestamp)))
                    && id.1.is_some()
                {
                    return self.confirm(new, &key, id.0, tag, &about).await;
                }
            }
            return Err(strange(error));
        }
    }

    /// What a 409 means: our own success, a version to go over, or somebody else.
    async fn conflict(
        &self,
        new: &New,
        key: &str,
        tag: Option<u64>,
        source: &dyn Source,
        error: Error,
        again: bool,
    ) -> Result<Settled> {
        let op = error.op;
        let Some(id) = self.head(key, op).await? else {
            // What was to be replaced is gone: there is nothing to spare.
            return match tag {
                Some(_) if again => Ok(Settled::Over(None)),
                _ => Err(strange(error)),
            };
        };
        let ours = self.uploads.may_be_ours(key, id.1);
        if ours && id.0 == Some(next(tag)) && self.has_bytes(key, new.size, source, op).await? {
            return Ok(Settled::Ours(id.1.unwrap_or_default()));
        }
        if new.exclusive {
            return Err(Error::new(ErrorKind::Exists, op).at(key));
        }
        // An earlier content of ours that was thought lost, or a file that the caller was not told of.
        if (ours || !is_told(new)) && again && id.0.is_some() && id.0 != tag {
            return Ok(Settled::Over(id.0));
        }
        Err(Error {
            kind: ErrorKind::Conflict,
            ..error
        })
    }

    /// Whether a file has exactly the bytes of `source`.
    async fn has_bytes(
        &self,
        key: &str,
        size: u64,
        source: &dyn Source,
        op: &'static str,
    ) -> Result<bool> {
        let mut answer = self.get(key, None, op).await?;
        if answer.status() != 200 {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(bytes) = answer.chunk().await? {
            let end = at + bytes.len() as u64;
            if end > size {
                return Ok(false);
            }
            let mut from = at;
            while from < end {
                let to = end.min(from + PIECE);
                let ours = source.read(from..to).await?;
                if ours != bytes[(from - at) as usize..(to - at) as usize] {
                    return Ok(false);
                }
                from = to;
            }
            at = end;
        }
        Ok(at == size)
    }

    /// What the service has after a commit over `tag`: its row, or, while the search lags, its size proved
    /// by reading. `Mismatch` if that is not what was sent.
    async fn confirm(
        &self,
        new: &New,
        key: &str,
        etag: Option<u64>,
        tag: Option<u64>,
        about: &About,
    ) -> Result<Entry> {
        const OP: &str = "verify upload";
        let found = self.row_of(key).await?;
        let ours = found.filter(|row| {
            let tags = etag.is_none() || row.etag.is_none() || row.etag == etag;
            tags && row.timestamp == Some(about.timestamp) && row.etag != tag
        });
        let shown = ours.is_some();
        let row = match ours {
            Some(row) if row.size != new.size => {
                return Err(Error::new(ErrorKind::Mismatch, OP)
                    .at(key)
                    .said(&format!("{} bytes there, {} here", row.size, new.size)));
            }
            Some(row) => row,
            None => {
                let etag = match etag {
                    Some(etag) => Some(etag),
                    None => self.head(key, OP).await?.and_then(|id| id.0),
                };
                self.prove_size(key, new.size, OP).await?;
                Row {
                    key: key.to_owned(),
                    size: new.size,
                    etag: etag.or(Some(next(tag))),
                    timestamp: Some(about.timestamp),
                    kind: about.kind.clone(),
                    description: about.description.clone(),
                    ..Row::default()
                }
            }
        };
        self.uploads.known(key);
        let entry = row.entry(&new.place.name);
        let mut index = lock(&self.index);
        index.wrote(Instant::now(), key, Some(row), shown);
        Ok(entry)
    }

    pub(super) async fn start_parts(&self, new: &New) -> Result<Upload> {
        const OP: &str = "start upload";
        let key = key_of(new);
        self.check_place(new, &key, OP)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.uploads.take(&key, &id, OP).await?;
        let mut turn = self.uploads.turn(&key, &id);
        self.check_new(new, &key, OP).await?;
        let stamp = self.stamp(new);
        let mut tag = self.base(new, &key);
        let (mut aborted, mut turned) = (false, false);
        loop {
            let answer = self
                .step(&key, "?upload=start", tag, new, stamp, OP)
                .await?;
            if answer.is_success() {
                let began = answer.header("date").and_then(|d| {
                    let date = httpdate::parse_http_date(d).ok()?;
                    Some(row::millis(date).to_string())
                });
                answer.drain().await;
                let mut extra = BTreeMap::from([(STAMP.to_owned(), stamp.to_string())]);
                extra.extend(began.map(|began| (BEGAN.to_owned(), began)));
                extra.extend(tag.map(|tag| (TAG.to_owned(), tag.to_string())));
                turn.goes_on = true;
                return Ok(Upload {
                    id: id.clone(),
                    cut: plan(new.size, self.config.part_size, self.up.most(PART_UNKNOWN)),
                    extra,
                });
            }
            let status = answer.status();
            let error = answer.into_error().await;
            if !matches!(status, 400 | 404 | 409 | 412) {
                return Err(strange(error));
            }
            let now = self.head(&key, OP).await?;
            let there = now.and_then(|id| id.0);
            if now.is_some() && new.exclusive {
                return Err(Error::new(ErrorKind::Exists, OP).at(key.as_str()));
            }
            if there == tag {
                // A leftover of a crash, or of somebody else: it is in the way.
                if aborted {
                    return Err(strange(error));
                }
                aborted = true;
                let left = self
                    .step(&key, "?upload=abort", tag, new, stamp, OP)
                    .await?;
                log::warn!(
                    "{key}: an unfinished upload was given up: {}",
                    left.status()
                );
                left.drain().await;
                continue;
            }
            let ours = self.uploads.may_be_ours(&key, now.and_then(|id| id.1));
            let free = !is_told(new) || ours || now.is_none();
            if !free || turned {
                return Err(Error {
                    kind: ErrorKind::Conflict,
                    ..error
                });
            }
            (tag, turned) = (there, true);
        }
    }

    /// A request of an upload that has no content.
    async fn step(
        &self,
        key: &str,
        query: &str,
        tag: Option<u64>,
        new: &New,
        stamp: i64,
        op: &'static str,
    ) -> Result<Answer> {
        let about = self.about(new, key, stamp);
        let mut ask = self.ask(Method::PUT, "files", key, query, op)?;
        ask.about = Some(&about);
        ask.if_match = tag;
        ask.body = Body::Empty;
        self.send(&ask).await
    }

    pub(super) async fn send_part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        const OP: &str = "upload part";
        let key = key_of(new);
        if part.index >= NUMBERED {
            return Err(Error::new(ErrorKind::TooLarge, OP)
                .at(key)
                .said("more than 999 parts"));
        }
        self.uploads.touch(&key, &up.id);
        let (tag, stamp) = told(up, new);
        let about = self.about(new, &key, stamp);
        let query = format!("?part={}", part.index + 1);
        let mut ask = self.ask(Method::PUT, "files", &key, &query, OP)?;
        ask.about = Some(&about);
        ask.if_match = tag;
        ask.body = Body::of(source, part.range.clone());
        let begin = Instant::now();
        let answer = self.send(&ask).await?;
        if answer.is_success() {
            answer.drain().await;
            self.uploads.touch(&key, &up.id);
            let size = part.range.end - part.range.start;
            self.up.note(size, begin.elapsed());
            return Ok(Receipt {
                part: part.clone(),
                token: String::new(),
            });
        }
        let void = matches!(answer.status(), 400 | 404 | 409 | 410 | 412 | 422);
        let error = answer.into_error().await;
        if !void {
            return Err(strange(error));
        }
        let there = self.head(&key, OP).await?.and_then(|id| id.0);
        let kind = match there == tag {
            true => ErrorKind::Restart,
            false if new.exclusive => ErrorKind::Exists,
            false => ErrorKind::Conflict,
        };
        Err(Error { kind, ..error })
    }

    pub(super) async fn complete(
        &self,
        up: &Upload,
        new: &New,
        parts: usize,
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        const OP: &str = "commit upload";
        let key = key_of(new);
        self.uploads.touch(&key, &up.id);
        let (tag, stamp) = told(up, new);
        let about = self.about(new, &key, stamp);
        let ours = |id: Option<Id>| {
            id.is_some_and(|id| id.1 == Some(stamp) && id.0.is_none_or(|etag| etag == next(tag)))
        };
        let mut again = true;
        if self.uploads.may_be_ours(&key, Some(stamp)) && ours(self.head(&key, OP).await?) {
            return self.completed(up, new, &key, None, tag, &about).await;
        }
        loop {
            let mut ask = self.ask(Method::PUT, "files", &key, "?upload=complete", OP)?;
            ask.about = Some(&about);
            ask.if_match = tag;
            ask.body = match tail {
                Some((part, source)) => Body::of(source, part.range.clone()),
                None => Body::Empty,
            };
            self.uploads.sends(&key, stamp);
            let (error, void) = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    let etag = answer.header("etag").and_then(row::tag);
                    answer.drain().await;
                    return self.completed(up, new, &key, etag, tag, &about).await;
                }
                Ok(answer) => {
                    let void = matches!(answer.status(), 400 | 404 | 409 | 410 | 412 | 422);
                    (answer.into_error().await, void)
                }
                Err(error) => (error, false),
            };
            if !void && matches!(lost(&error), Lost::No) {
                return Err(strange(error));
            }
            let now = match self.head(&key, OP).await {
                Ok(now) => now,
                Err(_) => return Err(strange(error)),
            };
            if ours(now) {
                return self.completed(up, new, &key, None, tag, &about).await;
            }
            if now.and_then(|id| id.0) != tag || now.is_some() != tag.is_some() {
                let kind = match new.exclusive {
                    true => ErrorKind::Exists,
                    false => ErrorKind::Conflict,
                };
                return Err(Error { kind, ..error });
            }
            // Nothing was committed. With its parts still there it is once more.
            let there = self.numbers(&key, None).await.unwrap_or_default();
            let whole = (1..=parts as u32).all(|number| there.contains(&number));
            if !whole {
                return Err(Error {
                    kind: ErrorKind::Restart,
                    ..error
                });
            }
            if !std::mem::take(&mut again) {
                let kind = if void { ErrorKind::Restart } else { error.kind };
                return Err(Error { kind, ..error });
            }
        }
    }

    async fn completed(
        &self,
        up: &Upload,
        new: &New,
        key: &str,
        etag: Option<u64>,
        tag: Option<u64>,
        about: &About,
    ) -> Result<Entry> {
        let entry = self.confirm(new, key, etag, tag, about).await?;
        self.uploads.free(key, &up.id);
        Ok(entry)
    }

    pub(super) async fn give_up(&self, up: &Upload, new: &New) -> Result<()> {
        const OP: &str = "give up upload";
        let key = key_of(new);
        let _turn = self.uploads.turn(&key, &up.id);
        let (tag, stamp) = told(up, new);
        for tag in [tag, None] {
            let answer = self
                .step(&key, "?upload=abort", tag, new, stamp, OP)
                .await?;
            if answer.is_success() || answer.status() == 404 {
                answer.drain().await;
                return Ok(());
            }
            let refused = matches!(answer.status(), 400 | 409 | 412);
            let error = answer.into_error().await;
            if !refused || tag.is_none() {
                return if refused { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }

    /// The numbers of the parts that are there, made at `since` or later.
    async fn numbers(&self, key: &str, since: Option<i64>) -> Result<HashSet<u32>> {
        const OP: &str = "list parts";
        let answer = self
            .send(&self.ask(Method::GET, "fileslist", key, "", OP)?)
            .await?;
        match answer.status() {
            200 => {}
            404 => {
                answer.drain().await;
                return Ok(HashSet::new());
            }
            _ => return Err(answer.into_error().await),
        }
        let rows: Vec<Listed> = answer.json(1 << 20).await?;
        let ms = |row: &Listed| match &row.created {
            Some(Value::Number(ms)) => ms.as_i64(),
            Some(Value::String(text)) => row::time(text),
            _ => None,
        };
        let young = |row: &&Listed| match (since, ms(row)) {
            (Some(since), Some(made)) => made >= since,
            _ => true,
        };
        Ok(rows.iter().filter(young).map(|row| row.number).collect())
    }

    /// The parts of an upload. Their sizes are not told, and they have no id: parts that are older than
    /// the upload are somebody else's.
    pub(super) async fn parts_there(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        let key = key_of(new);
        let began = up.extra.get(BEGAN).and_then(|ms| ms.parse::<i64>().ok());
        let numbers = self.numbers(&key, began).await?;
        if numbers.is_empty() {
            return Err(Error::new(ErrorKind::Restart, "list parts").at(key));
        }
        self.uploads.take(&key, &up.id, "list parts").await?;
        let mut numbers: Vec<u32> = numbers.into_iter().filter(|n| *n > 0).collect();
        numbers.sort_unstable();
        let receipt = |number: u32| Receipt {
            part: Part {
                index: number - 1,
                range: up.cut.part(number - 1),
            },
            token: String::new(),
        };
        Ok(numbers.into_iter().map(receipt).collect())
    }
}

/// How a conflict was settled.
enum Settled {
    /// The service has our content, with this timestamp.
    Ours(i64),
    /// Once more, over this version.
    Over(Option<u64>),
}

/// The etag that an upload replaces and the timestamp that it sends.
fn told(up: &Upload, new: &New) -> (Option<u64>, i64) {
    let number = |name: &str| up.extra.get(name).and_then(|text| text.parse().ok());
    let tag = up.extra.get(TAG).and_then(|text| text.parse().ok());
    let stamp = new.attrs.mtime.map(row::millis);
    (tag, stamp.or_else(|| number(STAMP)).unwrap_or_default())
}

/// A 404 to a write that no known cause explains is not the file's absence.
fn strange(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error {
            kind: ErrorKind::Protocol,
            ..error
        },
        _ => error,
    }
}
