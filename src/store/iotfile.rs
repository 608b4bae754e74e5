//! The Siemens IoT File Service, one entity (`specs/mindsphere.md`; "section" below means there). Knows
//! the service's addresses and answers; knows nothing of spools, retries or FUSE.
//!
//! An address is the key of a file or the path of a directory, without slashes at its ends; the root is
//! the empty one. A version is etag, size and the client's timestamp. The service has no directories: they
//! are pieces of keys, or exist only here (`iotfile/index.rs`).
//!
//! The functions of [`Store`] stand in the trait's order; uploads are in `iotfile/upload.rs`
//! and `iotfile/parts.rs`.

mod ask;
mod config;
mod index;
mod look;
mod names;
mod pace;
mod parts;
mod row;
mod search;
mod token;
mod turns;
mod upload;

pub use config::{Auth, Config};

use super::*;
use crate::error::{Error, Kind as ErrorKind};
use crate::http::{
    Answer, Body, Client, Credential, Method, Secret, Url, encode, encode_path, skip_for_range,
};
use ask::id_of;
use index::{Index, Known};
use names::{join, split};
use pace::Pace;
use row::{Id, Row, same};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;
use tokio::time::Instant;

/// Forms of `path` in the search's rows: not yet seen, with and without a slash at the end.
const UNKNOWN: u8 = 0;
const WITH: u8 = 1;
const WITHOUT: u8 = 2;

/// A file of at most so many bytes is read whole: only then the answer tells its version.
const WHOLE: u64 = 256 * 1024;

/// Bytes of one ranged read before the line's speed is known.
const PIECE_MAX: u64 = 32 << 20;

/// The largest file: 999 parts and the piece of the commit, of what S3 takes in one.
const SIZE_MAX: u64 = 1000 * pace::PART_MAX;

/// A removal that failed and may be tried again, among the doubts.
const AGAIN: &str = "remove again";

/// The last question about a key by the head of a read, and its answer.
type Gate = Arc<tokio::sync::Mutex<Option<(Instant, Option<Id>)>>>;

/// One entity of an IoT File Service.
#[derive(Debug)]
pub struct IotFile {
    config: Config,
    client: Client,
    caps: Caps,
    /// `GATEWAY/api/iotfile/v3/`
    front: String,
    token: Option<Credential>,
    account: String,
    index: Mutex<Index>,
    /// Held while the index is brought up to date; when that was asked for last.
    round: tokio::sync::Mutex<Option<Instant>>,
    heads: Mutex<HashMap<String, Gate>>,
    slash: AtomicU8,
    up: Pace,
    down: Pace,
    uploads: turns::Memory,
    /// Shown as the time of directories.
    began: SystemTime,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl IotFile {
    /// A store that has not been asked anything yet.
    pub fn new(mut config: Config) -> Result<Self> {
        config.check()?;
        let client = Client::new(&config.http, &config.gateway)?;
        let (token, account) = token::bearer(&mut config)?;
        let caps = Caps {
            name: "IoT File Service",
            one_shot_max: config.part_size,
            size_at: At::End,
            digest_at: None,
            digests: &[],
            parallel_parts: true,
            replaces_parts: true,
            tail_in_finish: true,
            parts_max: pace::NUMBERED + 1,
            resume: true,
            abort: true,
            // Parts of an unfinished upload are deleted after two days.
            idle: Some(Duration::from_secs(2 * 24 * 3600)),
            rename_file: false,
            rename_dir: false,
            rename_replaces: false,
            empty_dirs: false,
            dirs: false,
            exclusive_create: true,
            conditional_replace: true,
            case_folds: false,
            space: false,
            size_max: Some(SIZE_MAX),
            keeps: Keeps {
                mtime: Some(Duration::from_millis(1)),
                mode: false,
                xattrs: false,
                symlinks: false,
                on_dirs: false,
            },
        };
        let front = format!(
            "{}/api/iotfile/v3/",
            config.gateway.as_str().trim_end_matches('/')
        );
        Ok(IotFile {
            config,
            client,
            caps,
            front,
            token,
            account,
            index: Mutex::default(),
            round: tokio::sync::Mutex::default(),
            heads: Mutex::default(),
            slash: AtomicU8::new(UNKNOWN),
            up: Pace::default(),
            down: Pace::default(),
            uploads: turns::Memory::default(),
            began: SystemTime::now(),
        })
    }

    /// Whether an answer about `id` is about the content that `entry` describes.
    fn is_version(&self, entry: &Entry, id: Id) -> bool {
        let tag = entry.tag.as_deref().and_then(row::tag);
        same(id, (tag, entry.attrs.mtime.map(row::millis)))
    }

    /// Whether a key may have this version still. A request is made only if a removal failed before: time has
    /// passed since the caller looked.
    async fn is_still(&self, entry: &Entry, op: &'static str) -> Result<bool> {
        let key = &*entry.addr.0;
        // What tells nothing, and what is gone, the removal itself finds out.
        let may_be =
            |id: Option<Id>| id.is_none_or(|id| id == (None, None) || self.is_version(entry, id));
        let known = lock(&self.index).row(key).map(Row::id);
        if !may_be(known) || !self.uploads.doubtful(AGAIN, key) {
            return Ok(may_be(known));
        }
        Ok(may_be(self.head(key, op).await?))
    }

    /// Reads a piece that fits into one request.
    async fn read_piece(
        &self,
        entry: &Entry,
        range: Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        const OP: &str = "read";
        let key = &*entry.addr.0;
        let begin = Instant::now();
        let ranged = (entry.size > WHOLE).then_some(&range);
        let answer = self.get(key, ranged, OP).await?;
        let came = Instant::now();
        match answer.status() {
            200 | 206 | 416 => {}
            404 | 410 => {
                lock(&self.index).is_gone(key);
                return Err(answer.into_error().await);
            }
            _ => return Err(answer.into_error().await),
        }
        if answer.is_coded() {
            return Err(answer.fault(
                ErrorKind::Protocol,
                "the answer is compressed, which was not asked for",
            ));
        }
        let skip = skip_for_range(
            answer.status(),
            answer.header("content-range"),
            answer.length().filter(|_| answer.status() == 200),
            &range,
            entry.size,
            true,
        )
        .map_err(|e| e.at(key))?;
        // A 206 promises no header that tells the version: then a look that is younger than it does.
        let id = match id_of(&answer) {
            (None, None) => match self.head_after(key, came, OP).await? {
                Some(id) => id,
                None => return Err(Error::new(ErrorKind::NotFound, OP).at(key)),
            },
            id => id,
        };
        let current = match id {
            (None, None) => match self.look(split(key).0, split(key).1, OP).await? {
                Known::File(row) => row.version() == *entry.version.0,
                _ => false,
            },
            id => self.is_version(entry, id),
        };
        if !current {
            return Err(Error::new(ErrorKind::Stale, OP).at(key));
        }
        let want = range.end - range.start;
        answer.into_sink(skip, want, sink).await?;
        self.down.note(want, begin.elapsed());
        Ok(())
    }
}

#[async_trait]
impl Store for IotFile {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn check_name(&self, dir: &Addr, name: &str) -> Result<()> {
        names::check(dir, name)
    }

    async fn probe(&self) -> Result<Probe> {
        const OP: &str = "reach the store";
        let at = format!("{}files/{}", self.front, self.config.entity);
        self.refresh().await.map_err(|e| match e.kind {
            ErrorKind::Protocol if e.source.is_some() => Error::new(e.kind, OP)
                .said("what answers here is no IoT File Service")
                .at(at.as_str()),
            ErrorKind::Protocol if e.said.ends_with(search::NO_ENTITY) => Error {
                kind: ErrorKind::NotFound,
                op: OP,
                ..e
            }
            .at(at.as_str()),
            _ => Error { op: OP, ..e }.at(at.as_str()),
        })?;
        let folder = self.config.folder.as_str();
        let index = lock(&self.index);
        if index.row(folder).is_some() && !index.is_dir(folder) {
            return Err(Error::new(ErrorKind::NotDir, OP).at(format!("/{folder}")));
        }
        if !index.is_dir(folder) {
            log::warn!("nothing is below /{folder} yet");
        }
        let files = index.len();
        Ok(Probe {
            root: folder.into(),
            account: self.account.clone(),
            banner: format!(
                "IoT File Service, entity {} with {files} files at {}",
                self.config.entity, self.config.gateway
            ),
        })
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        let key = join(&place.dir.0, &place.name);
        match self.look(&place.dir.0, &place.name, "stat").await? {
            Known::File(row) => Ok(row.entry(&place.name)),
            Known::Dir => Ok(self.dir_entry(&key)),
            Known::Absent => Err(Error::new(ErrorKind::NotFound, "stat").at(key)),
        }
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        self.entries(&dir.0).await
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        let key = &*entry.addr.0;
        if range.is_empty() || range.end > entry.size {
            return Err(Error::new(ErrorKind::Invalid, "read")
                .at(key)
                .said("a range outside the file"));
        }
        let mut at = range.start;
        while at < range.end {
            let piece = at..range.end.min(at + self.down.most(PIECE_MAX));
            at = piece.end;
            self.read_piece(entry, piece, sink).await?;
        }
        Ok(())
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        self.put_whole(new, source).await
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        self.start_parts(new).await
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        self.send_part(up, new, part, source).await
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        self.complete(up, new, receipts.len(), tail).await
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        self.give_up(up, new).await
    }

    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        self.parts_there(up, new).await
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove";
        let key = &*entry.addr.0;
        if entry.kind == Kind::Dir {
            return Err(Error::new(ErrorKind::IsDir, OP).at(key));
        }
        if !self.is_still(entry, OP).await? {
            let sent = self.uploads.doubtful(OP, key);
            self.uploads.settled(OP, key);
            self.uploads.settled(AGAIN, key);
            return match sent {
                // What is there now came after ours.
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Conflict, OP).at(key)),
            };
        }
        let answer = self
            .send(&self.ask(Method::DELETE, "files", key, "", OP)?)
            .await;
        self.uploads.settled(AGAIN, key);
        let error = match answer {
            Ok(answer) if answer.is_success() => {
                answer.drain().await;
                self.uploads.settled(OP, key);
                lock(&self.index).wrote(Instant::now(), key, None, false);
                return Ok(());
            }
            Ok(answer) => answer.into_error().await,
            Err(error) => error,
        };
        let lost = upload::is_lost(&error);
        // A 404 after an answer that was lost is our own success.
        let ours = error.kind == ErrorKind::NotFound && self.uploads.doubtful(OP, key);
        if ours || (lost && matches!(self.head(key, OP).await, Ok(None))) {
            self.uploads.settled(OP, key);
            lock(&self.index).wrote(Instant::now(), key, None, false);
            return Ok(());
        }
        if error.kind.worth_another_try() {
            self.uploads.doubt(AGAIN, key);
        }
        if lost {
            self.uploads.doubt(OP, key);
        } else if error.kind == ErrorKind::NotFound {
            lock(&self.index).is_gone(key);
        }
        Err(error)
    }

    /// Only here, until a file is in it.
    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        const OP: &str = "make directory";
        self.check_name(&place.dir, &place.name)?;
        let key = join(&place.dir.0, &place.name);
        let found = self.look(&place.dir.0, &place.name, OP).await?;
        let mut index = lock(&self.index);
        if let Some(file) = index.file_above(&key) {
            let said = format!("/{file} is a file");
            return Err(Error::new(ErrorKind::NotDir, OP).at(key).said(&said));
        }
        if found != Known::Absent {
            return Err(Error::new(ErrorKind::Exists, OP).at(key));
        }
        index.make_dir(&key);
        drop(index);
        Ok(self.dir_entry(&key))
    }

    /// Only here: a directory is gone on the service with its last file.
    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove directory";
        let key = &*entry.addr.0;
        if key.is_empty() {
            return Err(Error::new(ErrorKind::Busy, OP).at("/").said("the root"));
        }
        let (dir, name) = split(key);
        let refuse = |kind| Err(Error::new(kind, OP).at(key));
        match self.look(dir, name, OP).await? {
            Known::Dir => {}
            Known::File(_) => return refuse(ErrorKind::NotDir),
            Known::Absent => return refuse(ErrorKind::NotFound),
        }
        let mut index = lock(&self.index);
        if index.has_below(key) {
            return refuse(ErrorKind::NotEmpty);
        }
        index.remove_dir(key);
        Ok(())
    }

    async fn rename(&self, entry: &Entry, _to: &Place, _over: Option<&Entry>) -> Result<Entry> {
        // Section 2: there is none.
        Err(Error::new(ErrorKind::Unsupported, "rename").at(&*entry.addr.0))
    }

    /// The service takes a time only with a content: what is set later is kept by the mount alone.
    async fn set_attrs(&self, entry: &Entry, _attrs: &Attrs) -> Result<Entry> {
        let (dir, _) = split(&entry.addr.0);
        match self.look(dir, &entry.name, "set attributes").await? {
            Known::File(row) => Ok(row.entry(&entry.name)),
            Known::Dir => Ok(self.dir_entry(&entry.addr.0)),
            Known::Absent => {
                Err(Error::new(ErrorKind::NotFound, "set attributes").at(&*entry.addr.0))
            }
        }
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}
