//! The spool: where the bytes of files being written lie on the local disk, and what is known of them.
//!
//! One folder per mount, locked while the mount lives; one data file `N.data` per version being written,
//! beside it its record `N.json` and, once something was promised, the checksums of its blocks
//! `N.sums`. A committed file that stays as a cache is `N.cache`. A start takes over the folders that
//! nobody has locked.

use super::Target;
use super::handles::{Handle, Handles, is_short};
use super::record::{Class, FORMAT, Record};
use super::room::{Budget, Room};
use super::sums::{self, BLOCK, Sum, Sums};
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Group};
use crate::store::Source;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::futures::Notified;

/// The spool of one mount.
#[derive(Debug)]
pub struct Spool {
    /// Where new files go.
    dir: PathBuf,
    /// All folders of it.
    dirs: Vec<PathBuf>,
    /// Held for as long as the mount lives.
    _locks: Vec<File>,
    next: AtomicU64,
    handles: Handles,
    room: Budget,
    /// Bytes of files that nobody holds any more and that stay, by their data files.
    left: Mutex<BTreeMap<PathBuf, u64>>,
    /// Leave everything where it is: the process ends.
    frozen: AtomicBool,
}

/// What a start found of an earlier one.
#[derive(Debug, Default)]
pub struct Found {
    /// Files with their records, oldest first.
    pub files: Vec<(Arc<SpoolFile>, Record)>,
    /// What cannot be understood, one sentence each; it stays where it is.
    pub odd: Vec<String>,
}

impl Spool {
    /// Opens the spool below `root`, which is made (mode 0700) if missing: takes over every folder in
    /// it that nobody has locked, or makes one. `max`: most bytes.
    pub fn open(root: &Path, max: Option<u64>) -> Result<(Arc<Self>, Found)> {
        let failed = |e| Error::local("open spool", e).at(root.display().to_string());
        make_dir(root).map_err(failed)?;
        let mut dirs = Vec::new();
        for row in std::fs::read_dir(root).map_err(failed)? {
            let path = row.map_err(failed)?.path();
            if path.is_dir()
                && let Some(lock) = lock_dir(&path).map_err(failed)?
            {
                dirs.push((path, lock));
            }
        }
        dirs.sort_by(|(a, _), (b, _)| a.cmp(b));
        if dirs.is_empty() {
            let path = root.join(uuid::Uuid::new_v4().simple().to_string());
            make_dir(&path).map_err(failed)?;
            // A promise in it must find its folder after a power cut.
            for above in path.ancestors().skip(1).take(NEW_FOLDERS) {
                sync_dir(above).map_err(failed)?;
            }
            let lock = lock_dir(&path).map_err(failed)?;
            let lock = lock.ok_or_else(|| Error::new(Kind::Busy, "open spool"))?;
            dirs.push((path, lock));
        }
        let (paths, locks): (Vec<_>, Vec<_>) = dirs.into_iter().unzip();
        let spool = Arc::new(Spool {
            dir: paths[0].clone(),
            dirs: paths.clone(),
            _locks: locks,
            next: AtomicU64::new(0),
            handles: Handles::new(),
            room: Budget::new(max),
            left: Mutex::default(),
            frozen: AtomicBool::new(false),
        });
        let mut found = Found::default();
        for dir in &paths {
            spool.scan(dir, &mut found).map_err(failed)?;
        }
        found.files.sort_by_key(|(_, record)| record.at_ms);
        if let Some((_, newest)) = found.files.last() {
            LAST_MS.fetch_max(newest.at_ms, Ordering::Relaxed);
        }
        Ok((spool, found))
    }

    fn scan(self: &Arc<Self>, dir: &Path, found: &mut Found) -> std::io::Result<()> {
        let rows = std::fs::read_dir(dir)?.map(|row| row.map(|row| row.path()));
        let mut paths = rows.collect::<std::io::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e != "cache") || !clear(path));
        for path in paths {
            if !path.exists() {
                continue;
            }
            let stem = path.file_stem().and_then(|s| s.to_str());
            let number: Option<u64> = stem.and_then(|s| s.parse().ok());
            if let Some(number) = number {
                self.next.fetch_max(number + 1, Ordering::Relaxed);
            }
            match path.extension().and_then(|e| e.to_str()) {
                Some("new") => remove(&path),
                // A crash between its making and its first record.
                Some("data") if is_new(&path) => remove(&path),
                Some("data") if !path.with_extension("json").exists() => {
                    found.odd.push(format!("{} has no record", path.display()));
                }
                Some("sums") if !path.with_extension("data").exists() => remove(&path),
                Some("json") => match self.take(&path) {
                    Ok(file) => found.files.push(file),
                    Err(Odd::Short(error)) => return Err(error),
                    Err(Odd::Damaged(why)) => {
                        found.odd.push(format!("{}: {why}", path.display()));
                    }
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes up what lies beside the record at `path`; the bytes are opened when they are needed.
    fn take(self: &Arc<Self>, path: &Path) -> std::result::Result<(Arc<SpoolFile>, Record), Odd> {
        let record = read_record(path)?;
        let stem = path.with_extension("");
        let len = match std::fs::metadata(stem.with_extension("data")) {
            Ok(data) => data.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Odd::Damaged(format!("a record without its bytes: {e}")));
            }
            // What they are shows when they are read.
            Err(_) => 0,
        };
        let sums = read_sums(&stem, &record)?;
        // Nobody noted how large a torn one had become.
        let size = record.size.max(len);
        self.room.found(size);
        let account = Account {
            charged: size,
            open: false,
        };
        let mut state = State::new(record.class);
        state.summed = stem.with_extension("sums").exists();
        state.left = true;
        let file = SpoolFile {
            spool: self.clone(),
            handle: Arc::default(),
            stem,
            account: Mutex::new(account),
            syncing: Mutex::default(),
            state: Mutex::new(state),
            sums: RwLock::new(sums),
        };
        Ok((Arc::new(file), record))
    }

    /// Bytes in the spool, by the sizes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.room.taken()
    }

    /// Its folders.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Whether a write of `more` bytes need not even ask whether there is room.
    #[must_use]
    pub fn is_roomy(&self, more: u64) -> bool {
        self.room.is_roomy(more)
    }

    /// Whether `who`, whose version has `own` bytes here, finds room for `more`.
    pub(super) fn ask(&self, who: u64, own: u64, more: u64) -> Room {
        self.room.ask(who, own, more)
    }

    /// Whether somebody else than `who` is finishing a file.
    #[must_use]
    pub fn is_anothers_turn(&self, who: u64) -> bool {
        self.room.is_anothers_turn(who)
    }

    /// `who` has finished a version, or given it up: another may.
    pub fn end_turn(&self, who: u64) {
        self.room.end_turn(who);
    }

    /// Changes whenever something moves: bytes leave, come, or are on their way.
    #[must_use]
    pub fn stirred(&self) -> u64 {
        self.room.stirred()
    }

    /// Resolves when room was given back, or somebody's turn ended, after this call.
    pub fn freed(&self) -> Notified<'_> {
        self.room.freed()
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<PathBuf, u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up again what nobody holds any more; `data` is its data file.
    pub fn reopen(self: &Arc<Self>, data: &Path) -> Result<(Arc<SpoolFile>, Record)> {
        let opened = self.take(&data.with_extension("json")).map_err(|why| {
            Error::new(Kind::Local(libc::EIO), "reopen spool file").said(&why.to_string())
        })?;
        let counted = self.left().remove(data).unwrap_or_default();
        self.room.give(counted, false);
        Ok(opened)
    }

    /// Removes what nobody holds any more, or what cannot be understood; `data` is its data file.
    pub fn forget(&self, data: &Path) -> Result<()> {
        super::unsent::remove(data)?;
        let counted = self.left().remove(data).unwrap_or_default();
        self.room.give(counted, false);
        Ok(())
    }

    /// From now on nothing is removed any more: the process is about to end.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// A new, empty data file with a record that promises nothing.
    pub fn create(self: &Arc<Self>, target: &Target) -> Result<Arc<SpoolFile>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stem = self.dir.join(number.to_string());
        let mut how = OpenOptions::new();
        how.read(true).write(true).create_new(true).mode(0o600);
        failpoint::cross(Group::Spool, "create data");
        let opened = self.handles.open(&how, &stem.with_extension("data"));
        let opened = opened.map_err(|e| Error::local("create spool file", e))?;
        let handle = Arc::default();
        self.handles.keep(&handle, opened);
        let file = Arc::new(SpoolFile {
            spool: self.clone(),
            handle,
            stem,
            account: Mutex::new(Account {
                charged: 0,
                open: true,
            }),
            syncing: Mutex::default(),
            state: Mutex::new(State::new(Class::Torn)),
            sums: RwLock::default(),
        });
        let record = Record::new(Class::Torn, target.clone());
        file.write_torn(&mut file.state(), &record, 0)?;
        Ok(file)
    }
}

/// Folders that [`Spool::open`] may have made above the one of a mount: `spool/STORE` below the state
/// directory, and that itself.
const NEW_FOLDERS: usize = 3;

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a file that nobody needs; what cannot be removed is told.
fn remove(path: &Path) {
    failpoint::cross(Group::Spool, "remove");
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Removes a cache that an earlier process left, with what belonged to it; `true`.
fn clear(cache: &Path) -> bool {
    for ending in ["json", "sums", "cache"] {
        remove(&cache.with_extension(ending));
    }
    true
}

/// Whether a data file was made and nothing else.
fn is_new(data: &Path) -> bool {
    !data.with_extension("json").exists() && data.metadata().is_ok_and(|meta| meta.len() == 0)
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why a record cannot be taken up.
#[derive(Debug)]
pub(super) enum Odd {
    /// This process cannot open it now: nothing is said about the record.
    Short(std::io::Error),
    /// It, or what belongs to it, cannot be read or understood: a sentence.
    Damaged(String),
}

impl Odd {
    /// A file of a record could not be read.
    fn unread(what: &str, error: std::io::Error) -> Self {
        match is_short(&error) {
            true => Odd::Short(error),
            false => Odd::Damaged(format!("{what}{error}")),
        }
    }
}

impl std::fmt::Display for Odd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Odd::Short(error) => error.fmt(f),
            Odd::Damaged(why) => f.write_str(why),
        }
    }
}

/// The record at `path`.
pub(super) fn read_record(path: &Path) -> std::result::Result<Record, Odd> {
    let text = std::fs::read(path).map_err(|e| Odd::unread("", e))?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|e| Odd::Damaged(format!("damaged record: {e}")))?;
    match record.format {
        FORMAT => Ok(record),
        other => Err(Odd::Damaged(format!(
            "a record of format {other}, not {FORMAT}"
        ))),
    }
}

/// The checksums of the file of `record`; none for what was being written.
pub(super) fn read_sums(stem: &Path, record: &Record) -> std::result::Result<Sums, Odd> {
    if record.is_in_writing() {
        // Those of an earlier promise may still lie there.
        return Ok(Sums::default());
    }
    match std::fs::read(stem.with_extension("sums")) {
        Ok(bytes) => {
            Sums::from_bytes(&bytes).ok_or_else(|| Odd::Damaged("damaged checksums".to_owned()))
        }
        Err(e) if record.size > 0 || is_short(&e) => Err(Odd::unread("no checksums: ", e)),
        Err(_) => Ok(Sums::default()),
    }
}

/// Locks a folder; `None` if somebody else has.
pub(super) fn lock_dir(path: &Path) -> std::io::Result<Option<File>> {
    let mut how = OpenOptions::new();
    let lock = how
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The time in the newest record: none is as old as one that was made before it, whatever the clock does.
static LAST_MS: AtomicU64 = AtomicU64::new(0);

/// A time later than that of every record so far.
pub(super) fn next_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |d| d.as_millis() as u64);
    let next = |last: u64| now.max(last + 1);
    match LAST_MS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(next(last))
    }) {
        Ok(last) | Err(last) => next(last),
    }
}

impl Record {
    /// Whether the bytes were being written when this was drawn up: their number and their checksums are
    /// not known.
    #[must_use]
    pub fn is_in_writing(&self) -> bool {
        self.class == Class::Torn && self.error.is_none()
    }

    /// A record of now.
    #[must_use]
    pub fn new(class: Class, target: Target) -> Self {
        Record {
            format: FORMAT,
            class,
            target,
            size: 0,
            digests: crate::store::Digests::default(),
            upload: None,
            error: None,
            written_ms: None,
            at_ms: next_ms(),
        }
    }
}

fn text_of(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(|e| Error::new(Kind::Invalid, "write spool record").because(e))
}

/// Under which names a file lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// `N.data` with its record.
    Data,
    /// `N.cache`: the store has it.
    Cache,
    /// None: open only.
    Nowhere,
}

/// Whether a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Noted {
    /// It is durable.
    Durable,
    /// The file is no longer what the record says, or has no name any more: nothing was written, nothing
    /// is promised.
    Void,
}

/// Held for short: a tree's lock may wait for it. Never across a sync.
#[derive(Debug)]
struct State {
    class: Class,
    home: Home,
    /// An earlier process left it, and nothing was decided about it yet: it is never removed by itself.
    left: bool,
    /// How often it was begun anew, became a cache, or was let go of.
    life: u64,
    /// The last stamp given, and the newest whose record was written.
    given: u64,
    written: u64,
    /// Checksums lie beside it.
    summed: bool,
    /// A sync failed: the kernel may have let go of bytes that never reached the disk, and does not say so again.
    doubtful: bool,
}

impl State {
    /// Of the name that its bytes have, or had.
    fn ending(&self) -> &'static str {
        match self.home {
            Home::Cache => "cache",
            Home::Data | Home::Nowhere => "data",
        }
    }

    fn new(class: Class) -> Self {
        State {
            class,
            left: false,
            home: Home::Data,
            life: 0,
            given: 0,
            written: 0,
            summed: false,
            doubtful: false,
        }
    }

    /// Whether a record drawn up at `stamp` may still be written.
    fn is_still(&self, stamp: Stamp) -> bool {
        self.life == stamp.life && self.home != Home::Nowhere
    }
}

/// What a file has taken of the budget.
#[derive(Debug)]
struct Account {
    charged: u64,
    /// A program is writing it: it cannot leave.
    open: bool,
}

/// When a record was drawn up. It is written only while the file is still what it says, and not over a
/// record drawn up later.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    life: u64,
    number: u64,
}

/// One data file. Offsets in it are offsets in the file it stands for.
#[derive(Debug)]
pub struct SpoolFile {
    spool: Arc<Spool>,
    handle: Arc<Handle>,
    /// The path without its ending.
    stem: PathBuf,
    account: Mutex<Account>,
    /// Held while a record is made durable: one at a time. Taken before `state`, and never while a
    /// writer's lock is held.
    syncing: Mutex<()>,
    state: Mutex<State>,
    /// Readers share, a writer is alone: a block and its checksum change together.
    sums: RwLock<Sums>,
}

impl SpoolFile {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.stem.with_extension("data")
    }

    /// Its number.
    #[cfg(test)]
    fn id(&self) -> String {
        self.stem
            .file_name()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file.
    fn file(&self) -> std::io::Result<Arc<File>> {
        match self.handle.file() {
            Some(file) => Ok(file),
            None => self.open_locked(&self.state()),
        }
    }

    /// Opens it under the name that it has, if it is not open.
    fn open_locked(&self, state: &State) -> std::io::Result<Arc<File>> {
        if let Some(file) = self.handle.file() {
            return Ok(file);
        }
        let mut how = OpenOptions::new();
        let how = how.read(true).write(true);
        let file = self
            .spool
            .handles
            .open(how, &self.stem.with_extension(state.ending()))?;
        Ok(self.spool.handles.keep(&self.handle, file))
    }

    /// What was promised for it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.state().class
    }

    /// Whether it is as an earlier process left it.
    #[must_use]
    pub(super) fn is_left(&self) -> bool {
        self.state().left
    }

    /// To be taken when a record is drawn up, under the lock that keeps what it says true.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let mut state = self.state();
        state.given += 1;
        Stamp {
            life: state.life,
            number: state.given,
        }
    }

    /// Makes bytes, checksums and record durable: from here on the promise of `record` stands.
    pub fn promise(&self, record: &Record, stamp: Stamp) -> Result<Noted> {
        let doubtful = self.state().doubtful;
        if doubtful {
            self.rewrite()?;
        }
        failpoint::cross(Group::Spool, "sync data");
        let synced = self.file().and_then(|file| file.sync_all());
        if doubtful || synced.is_err() {
            self.state().doubtful = synced.is_err();
        }
        synced.map_err(|e| Error::local("sync spool file", e))?;
        let _turn = self.turn();
        if !self.state().is_still(stamp) {
            return Ok(Noted::Void);
        }
        let sums = self
            .sums
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .to_bytes();
        self.write_new("sums", &sums, true)?;
        {
            let mut state = self.state();
            if !state.is_still(stamp) {
                remove(&self.stem.with_extension("sums.new"));
                return Ok(Noted::Void);
            }
            state.summed = true;
            self.rename("sums.new", "sums")?;
        }
        self.write_stamped(record, stamp)
    }

    /// Writes every byte once more, compared with its checksum, so that the next sync is of all of them. Who
    /// reads does not wait, as nothing changes; who writes waits for one block.
    fn rewrite(&self) -> Result<()> {
        let sums = || self.sums.read().unwrap_or_else(PoisonError::into_inner);
        let blocks: Vec<u64> = sums().iter().map(|(block, _)| block).collect();
        for block in blocks {
            let sums = sums();
            let bytes = self.checked(block, sums.get(block))?;
            let written = self
                .file()
                .and_then(|file| file.write_all_at(&bytes, block * BLOCK));
            written.map_err(|e| Error::local("write to spool", e))?;
        }
        Ok(())
    }

    /// Makes a new record durable.
    pub fn note(&self, record: &Record, stamp: Stamp) -> Result<Noted> {
        let _turn = self.turn();
        self.write_stamped(record, stamp)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Write new, sync, rename, sync the folder; in turn.
    fn write_stamped(&self, record: &Record, stamp: Stamp) -> Result<Noted> {
        let what_for = {
            let state = self.state();
            (state.is_still(stamp), stamp.number > state.written)
        };
        match what_for {
            (false, _) => return Ok(Noted::Void),
            (true, false) => return Ok(Noted::Durable),
            (true, true) => {}
        }
        self.write_new("json", &text_of(record)?, true)?;
        {
            let mut state = self.state();
            if !state.is_still(stamp) {
                remove(&self.stem.with_extension("json.new"));
                return Ok(Noted::Void);
            }
            self.put_record(&mut state, "json.new", record.class, record.size)?;
            state.written = stamp.number;
        }
        self.sync_folder("json")?;
        Ok(Noted::Durable)
    }

    /// A record that promises nothing needs no sync, and does not wait for one.
    fn write_torn(&self, state: &mut State, record: &Record, size: u64) -> Result<()> {
        self.write_new("torn", &text_of(record)?, false)?;
        self.put_record(state, "torn.new", record.class, size)
    }

    /// Puts the record in its place, and the bytes if they were a cache: it is there before they have a
    /// name that needs one. `size`: bytes in use.
    fn put_record(&self, state: &mut State, new: &str, class: Class, size: u64) -> Result<()> {
        let was_cache = state.home == Home::Cache;
        if was_cache {
            self.charge(size)?;
        }
        let mut put = self.rename(new, "json");
        if was_cache {
            put = put.and_then(|()| self.rename("cache", "data"));
            match &put {
                Ok(()) => state.home = Home::Data,
                Err(_) => self.uncharge(size),
            }
        }
        put?;
        state.class = class;
        Ok(())
    }

    /// Writes what is going to be the file with this ending.
    fn write_new(&self, ending: &str, bytes: &[u8], durable: bool) -> Result<PathBuf> {
        let failed = |e| Error::local("write spool record", e);
        let new = self.stem.with_extension(format!("{ending}.new"));
        let mut how = OpenOptions::new();
        how.write(true).create(true).truncate(true).mode(0o600);
        let cross = |what: &str| failpoint::cross(Group::Spool, format_args!("{what} {ending}"));
        cross("create");
        let mut file = self.spool.handles.open(&how, &new).map_err(failed)?;
        cross("write");
        file.write_all(bytes).map_err(failed)?;
        if durable {
            cross("sync");
            file.sync_all().map_err(failed)?;
        }
        Ok(new)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        failpoint::cross(Group::Spool, format_args!("rename {from} to {to}"));
        let (from, to) = (self.stem.with_extension(from), self.stem.with_extension(to));
        std::fs::rename(from, to).map_err(|e| Error::local("rename spool file", e))
    }

    /// Makes the name with this ending durable.
    fn sync_folder(&self, ending: &str) -> Result<()> {
        failpoint::cross(Group::Spool, format_args!("sync folder of {ending}"));
        sync_dir(self.stem.parent().unwrap_or(Path::new("/")))
            .map_err(|e| Error::local("sync spool folder", e))
    }

    /// Makes durable that its record was taken away.
    pub(super) fn sync_removal(&self) -> Result<()> {
        self.sync_folder("removed")
    }

    /// The store has it: it is a cache from here on, which gives way and is not charged.
    pub fn to_cache(&self) {
        self.uncharge(u64::MAX);
        let mut state = self.state();
        state.life += 1;
        state.left = false;
        self.cache_locked(&mut state);
        if state.home != Home::Nowhere {
            remove(&self.stem.with_extension("json"));
            remove(&self.stem.with_extension("sums"));
        }
        (state.class, state.summed) = (Class::Torn, false);
    }

    /// One rename takes every promise away: a start removes a cache and whatever lies beside it.
    fn cache_locked(&self, state: &mut State) {
        if state.home == Home::Data {
            match self.rename("data", "cache") {
                Ok(()) => state.home = Home::Cache,
                Err(error) => log::warn!("{error}"),
            }
        }
    }

    /// It is about to be written again; `size` bytes of it are in use.
    pub fn to_torn(&self, target: &Target, size: u64) -> Result<()> {
        let mut state = self.state();
        if state.home != Home::Nowhere {
            self.set_open(true);
            let is_torn = state.home == Home::Data && state.class == Class::Torn && !state.summed;
            if !is_torn {
                let record = Record::new(Class::Torn, target.clone());
                self.write_torn(&mut state, &record, size)?;
            }
            if std::mem::take(&mut state.summed) {
                // They are of bytes that are about to change.
                remove(&self.stem.with_extension("sums"));
            }
            state.left = false;
        }
        // What was about to be said of it will not be true.
        state.life += 1;
        Ok(())
    }

    /// It stays on disk, whatever it is, and is counted for as long as the mount lives.
    pub fn leave(&self) {
        self.state().home = Home::Nowhere;
        self.note_left();
    }

    /// Its bytes are counted without it from here on.
    fn note_left(&self) {
        self.set_open(false);
        let counted = std::mem::take(&mut self.account().charged);
        self.spool.left().insert(self.path(), counted);
    }

    /// Nobody wants it any more: it leaves the disk when the last holder is gone, its name at once.
    pub fn discard(&self) {
        let mut state = self.state();
        if state.home != Home::Nowhere {
            // Who reads it goes on, with no name to open it by.
            match self.open_locked(&state) {
                Ok(file) => self.handle.pin(file),
                Err(error) => log::warn!("cannot open {}: {error}", self.path().display()),
            }
        }
        self.remove_locked(&mut state);
        state.life += 1;
        (state.class, state.left) = (Class::Torn, false);
    }

    fn remove_locked(&self, state: &mut State) {
        self.cache_locked(state);
        let endings: &[&str] = match state.home {
            Home::Data => &["json", "sums", "data"],
            Home::Cache => &["json", "sums", "cache"],
            Home::Nowhere => &[],
        };
        for ending in endings {
            remove(&self.stem.with_extension(ending));
        }
        state.home = Home::Nowhere;
    }

    /// Writes all of `bytes` at `offset`, `fresh` of which were not in this file before; `Full` beyond
    /// the budget or on a full disk.
    pub fn write_at(&self, bytes: &[u8], offset: u64, fresh: u64) -> Result<()> {
        self.charge(fresh)?;
        let written = self.write_summed(bytes, offset);
        // What is not in the file is charged when it comes again.
        written.inspect_err(|_| self.uncharge(fresh))
    }

    fn write_summed(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        for (block, piece) in sums::pieces(range.clone()) {
            let from = (block * BLOCK + piece.start as u64 - offset) as usize;
            let part = &bytes[from..from + piece.len()];
            sums.write(block, piece.start, part, |sum| self.checked(block, sum))?;
        }
        failpoint::cross(Group::Spool, "write data");
        let file = self.file().map_err(|e| Error::local("write to spool", e))?;
        let written = file.write_all_at(bytes, offset);
        if written.is_err() {
            // Some of it may be there: what is there now counts.
            for (block, piece) in sums::pieces(range) {
                let mut now = vec![0; piece.end];
                if self.fill_raw(&mut now, block * BLOCK).is_ok() {
                    sums.renew(block, &now);
                }
            }
        }
        written.map_err(|e| Error::local("write to spool", e))
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes counted against the budget.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.account().charged
    }

    /// Whether it is a cache, which counts for nothing until it is written again.
    #[must_use]
    pub fn is_cache(&self) -> bool {
        self.state().home == Home::Cache
    }

    /// A program begins or ends to write it.
    pub(super) fn set_open(&self, open: bool) {
        let mut account = self.account();
        if std::mem::replace(&mut account.open, open) != open {
            self.spool.room.set_open(account.charged, open);
        }
    }

    /// Counts `more` bytes against the budget; `Full` beyond it.
    pub(super) fn charge(&self, more: u64) -> Result<()> {
        let mut account = self.account();
        self.spool.room.take(more, account.open)?;
        account.charged += more;
        Ok(())
    }

    /// Counts it as at least `bytes` bytes: what is brought in again after a failure counts once.
    pub(super) fn charge_at_least(&self, bytes: u64) -> Result<()> {
        if self.is_cache() {
            return Ok(());
        }
        self.charge(bytes.saturating_sub(self.charged()))
    }

    /// Counts it as `bytes` bytes, all of which are in it.
    pub(super) fn charge_exactly(&self, bytes: u64) -> Result<()> {
        self.charge_at_least(bytes)?;
        self.uncharge(self.charged().saturating_sub(bytes));
        Ok(())
    }

    /// Gives back what is charged for `bytes` bytes.
    pub(super) fn uncharge(&self, bytes: u64) {
        let mut account = self.account();
        let bytes = bytes.min(account.charged);
        account.charged -= bytes;
        self.spool.room.give(bytes, account.open);
    }

    /// The written bytes of a block, compared with their checksum.
    fn checked(&self, block: u64, sum: Sum) -> Result<Vec<u8>> {
        let mut bytes = vec![0; sum.len as usize];
        self.fill_raw(&mut bytes, block * BLOCK)?;
        if sum.agrees(&bytes) {
            Ok(bytes)
        } else {
            Err(self.rotted(block))
        }
    }

    fn rotted(&self, block: u64) -> Error {
        Error::new(Kind::Mismatch, "read spool")
            .at(self.path().display().to_string())
            .said(&format!(
                "the bytes at {} on the local disk are not those that were written",
                block * BLOCK
            ))
    }

    /// Cuts or grows it; grown parts are zeros.
    pub fn set_len(&self, len: u64) -> Result<()> {
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        sums.cut(len, |block, sum| self.checked(block, sum))?;
        failpoint::cross(Group::Spool, "cut data");
        self.file()
            .and_then(|file| file.set_len(len))
            .map_err(|e| Error::local("resize spool file", e))
    }

    /// Makes zeros of `range`; the disk gets the room back, where it can.
    pub(super) fn punch(&self, range: Range<u64>) -> Result<()> {
        use rustix::fs::FallocateFlags as Flags;
        let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
        sums.punch(range.clone(), |block, sum| self.checked(block, sum))?;
        failpoint::cross(Group::Spool, "punch data");
        let how = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
        self.file()
            .and_then(|file| {
                let length = range.end - range.start;
                match rustix::fs::fallocate(&file, how, range.start, length) {
                    Err(rustix::io::Errno::OPNOTSUPP) => blank(&file, range),
                    done => done.map_err(Into::into),
                }
            })
            .map_err(|e| Error::local("punch spool file", e))
    }

    /// The bytes of `range`, compared with their checksums; zeros past the end.
    pub fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
        self.fill(&mut bytes, range.start)?;
        Ok(bytes.freeze())
    }

    /// Fills `buf` with the bytes from `offset` on, compared with their checksums; zeros past the end.
    pub fn fill(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        self.fill_raw(buf, offset)?;
        for (block, piece) in sums::pieces(offset..offset + buf.len() as u64) {
            let sum = sums.get(block);
            let from = (block * BLOCK + piece.start as u64 - offset) as usize;
            if piece.start == 0 && piece.end >= sum.len as usize {
                if !sum.agrees(&buf[from..from + piece.len()]) {
                    return Err(self.rotted(block));
                }
            } else {
                self.checked(block, sum)?;
            }
        }
        Ok(())
    }

    fn fill_raw(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let file = self.file().map_err(|e| Error::local("read spool", e))?;
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    return Ok(());
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::local("read spool", e)),
            }
        }
        Ok(())
    }

    /// Copies `range` from another spool file to the same place; what it needs was counted before.
    pub fn copy_from(&self, other: &SpoolFile, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let step = at..range.end.min(at + COPY_STEP);
            self.write_at(&other.read_at(step.clone())?, at, 0)?;
            at = step.end;
        }
        Ok(())
    }
}

/// Bytes copied at a time.
const COPY_STEP: u64 = 1 << 20;

/// The blocks of a file above this size, in bytes, are freed by a thread of their own: that takes time, and who
/// drops a file may hold a lock.
const LARGE: u64 = 64 << 20;

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let mut state = self.state();
        let frozen = self.spool.frozen.load(Ordering::Acquire);
        // What was promised or refused outlives us; so does what an earlier process left, whatever it is, and
        // everything once the process ends.
        if state.class != Class::Torn || state.left || frozen {
            if state.home == Home::Data {
                self.note_left();
            }
            return;
        }
        let size = match self.handle.file() {
            Some(file) => file.metadata(),
            None => std::fs::metadata(self.stem.with_extension(state.ending())),
        };
        let large = size.is_ok_and(|meta| meta.len() > LARGE);
        let file = large
            .then(|| self.open_locked(&state))
            .and_then(|file| file.ok());
        self.remove_locked(&mut state);
        drop(state);
        self.uncharge(u64::MAX);
        if let Some(file) = file {
            self.handle.close();
            let thread = std::thread::Builder::new().name("free".to_owned());
            // Without one it is freed here.
            drop(thread.spawn(move || drop(file)));
        }
    }
}

#[async_trait]
impl Source for SpoolFile {
    // The pieces were just written and come from the page cache: reading them here is shorter than
    // handing them to another thread.
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.spool.room.stir();
        self.read_at(range)
    }
}

/// Writes zeros into `range`, as far as the file goes.
fn blank(file: &File, range: Range<u64>) -> std::io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let end = range.end.min(file.metadata()?.len());
    let mut at = range.start;
    while at < end {
        let step = (end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
