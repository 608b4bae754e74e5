//! The served folder: plain files in plain folders, changed atomically, with their records.
//!
//! Everything that is not the files themselves is below `.assetfs-serve/`: `lock` (one server at a
//! time), `records` (see `records`), `staging/` (emptied at the start). A file that was put or changed
//! by hand has no valid record: its digests are computed when somebody asks, and kept.
//!
//! Paths are canonical: `a/b/c`, the empty one is the root. All methods block; callers go through
//! [`blocking`]. It survives `kill -9` at any moment; nothing is fsynced.

use super::records::{Record, Records};
use super::staging::{self, Digests, Staged};
use jiff::Timestamp;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The hidden folder in the root.
pub(super) const HIDDEN: &str = ".assetfs-serve";

/// How often a file that somebody is changing by hand is digested for one request.
const TRIES: usize = 5;

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

/// One file or folder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// As it is on disk: with [`Disk::open`]'s `ignore_case` not always what was asked for.
    pub(super) path: String,
    pub(super) record: Record,
}

impl Item {
    /// The last segment, and the folder it is in (`None` in the root).
    pub(super) fn name_and_parent(&self) -> (&str, Option<&str>) {
        match self.path.rsplit_once('/') {
            Some((parent, name)) => (name, Some(parent)),
            None => (&self.path, None),
        }
    }
}

/// Why a change was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is something at the path.
    Exists,
    /// There is nothing at the path.
    Missing,
    /// A folder is at the path.
    Folder,
    /// A file is where a folder is needed.
    ParentIsFile,
    /// The folder has entries.
    NotEmpty,
    /// The path cannot be on this disk, or the disk failed.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Refusal {
        match e.kind() {
            io::ErrorKind::NotADirectory => Refusal::ParentIsFile,
            _ => Refusal::Io(e),
        }
    }
}

/// What a commit may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only where nothing is.
    Create,
    /// Only over a file.
    Replace,
    /// Both.
    Either,
}

/// What a removal may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    File,
    FileOrEmptyFolder,
    Anything,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    staging: PathBuf,
    ignore_case: bool,
    /// Held for every change of names, so that a file and its record change together.
    records: Mutex<Records>,
    _lock: File,
}

impl Disk {
    /// Makes the folder if needed. `WouldBlock` while another server has it.
    pub(super) fn open(root: &Path, ignore_case: bool) -> io::Result<Disk> {
        let hidden = root.join(HIDDEN);
        let staging = hidden.join("staging");
        fs::create_dir_all(&hidden)?;
        let lock = File::create(hidden.join("lock"))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            fs::TryLockError::Error(e) => e,
        })?;
        match fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir(&staging)?,
        }
        let records = Mutex::new(Records::open(hidden.join("records"))?);
        Ok(Disk {
            root: root.to_owned(),
            staging,
            ignore_case,
            records,
            _lock: lock,
        })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file for an upload.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        Staged::new(&self.staging)
    }

    /// The item at `path`; none for the root.
    pub(super) fn get(&self, path: &str) -> io::Result<Option<Item>> {
        let path = self.real(path);
        for _ in 0..TRIES {
            let records = self.records();
            let Some(meta) = self.look(&path)? else {
                return Ok(None);
            };
            if let Some(record) = known(&records, &path, &meta) {
                return Ok(Some(Item { path, record }));
            }
            drop(records);
            self.learn(&path)?;
        }
        Err(restless(&path))
    }

    /// The file at `path`, opened, with exactly its record; none for a folder too.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<(File, Item)>> {
        let path = self.real(path);
        for _ in 0..TRIES {
            let records = self.records();
            match self.look(&path)? {
                Some(meta) if meta.is_file() => {}
                _ => return Ok(None),
            }
            let file = File::open(self.root.join(&path))?;
            if let Some(record) = known(&records, &path, &file.metadata()?) {
                return Ok(Some((file, Item { path, record })));
            }
            drop(records);
            self.learn(&path)?;
        }
        Err(restless(&path))
    }

    /// What is in the folder `path`, or, `recursive`, below it; sorted by nothing. Empty if there is
    /// no such folder.
    pub(super) fn list(&self, path: &str, recursive: bool) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut folders = vec![self.real(path)];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                Err(e) if is_absence(&e) => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let Ok(name) = entry?.file_name().into_string() else {
                    continue;
                };
                let path = if folder.is_empty() {
                    name
                } else {
                    format!("{folder}/{name}")
                };
                let Some(meta) = self.look(&path)? else {
                    continue;
                };
                let record = known(&self.records(), &path, &meta);
                let item = match record {
                    Some(record) => Item { path, record },
                    None => match self.get(&path)? {
                        Some(item) => item,
                        None => continue,
                    },
                };
                if recursive && item.record.dir {
                    folders.push(item.path.clone());
                }
                items.push(item);
            }
        }
        Ok(items)
    }

    /// Makes the folder `path` and those above; no matter if it exists.
    pub(super) fn make_dir(&self, path: &str) -> Result<(), Refusal> {
        let path = self.real(path);
        self.make_dirs(&mut self.records(), &path)
    }

    /// Whether an upload to `path` could be committed now; nothing is changed.
    pub(super) fn check(&self, path: &str, mode: Mode) -> Result<(), Refusal> {
        self.check_real(&self.real(path), mode).map(|_| ())
    }

    /// Puts a finished upload in its place, at once and for all; what the file had besides its
    /// content stays. `media`: its content type, if one was given. Returns whether it is new.
    pub(super) fn commit(
        &self,
        staged: &Staged,
        digests: Digests,
        path: &str,
        mode: Mode,
        media: Option<&str>,
    ) -> Result<bool, Refusal> {
        let (sha1, sha256) = digests.hex();
        let path = self.real(path);
        let mut records = self.records();
        let old = self.check_real(&path, mode)?;
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_dirs(&mut records, parent)?;
        }
        let now = now_ms();
        let new = staged.file().metadata()?;
        let mut record = match &old {
            Some(_) => records
                .get(&path)
                .filter(|r| !r.dir)
                .cloned()
                .unwrap_or_default(),
            None => Record::default(),
        };
        if record.created_ms == 0 {
            record.created_ms = old.as_ref().map_or(now, created_ms);
        }
        record.modified_ms = now;
        if let Some(media) = media {
            media.clone_into(&mut record.media);
        }
        let record = Record {
            sha1,
            sha256,
            ..stamped(record, &new)
        };
        staged.take(&self.root.join(&path))?;
        records.put(&path, record)?;
        Ok(old.is_none())
    }

    /// Removes what is at `path`; false if there was nothing. A folder disappears at once.
    pub(super) fn remove(&self, path: &str, target: Target) -> Result<bool, Refusal> {
        let path = self.real(path);
        let mut records = self.records();
        let Some(meta) = self.look(&path)? else {
            return Ok(false);
        };
        let full = self.root.join(&path);
        match (meta.is_dir(), target) {
            (false, _) => fs::remove_file(&full)?,
            (true, Target::File) => return Err(Refusal::Folder),
            (true, Target::FileOrEmptyFolder) => {
                fs::remove_dir(&full).map_err(|e| match e.kind() {
                    io::ErrorKind::DirectoryNotEmpty => Refusal::NotEmpty,
                    _ => e.into(),
                })?
            }
            (true, Target::Anything) => {
                let away = staging::fresh(&self.staging);
                fs::rename(&full, &away)?;
                records.remove(&path)?;
                drop(records);
                fs::remove_dir_all(&away)?;
                return Ok(true);
            }
        }
        records.remove(&path)?;
        Ok(true)
    }

    /// Gives an item another path, with its record and those below; what is at `to` must be checked before.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let mut records = self.records();
        fs::rename(self.root.join(from), self.root.join(to))?;
        records.rename(from, to)?;
        Ok(())
    }

    /// Moves an item out of the tree, to a path that [`Disk::hidden`] gave.
    pub(super) fn take_away(&self, path: &str, to: &Path) -> Result<(), Refusal> {
        let mut records = self.records();
        fs::rename(self.root.join(path), to)?;
        records.remove(path)?;
        Ok(())
    }

    /// Moves what was taken away back into the tree.
    pub(super) fn bring_back(&self, from: &Path, path: &str) -> Result<(), Refusal> {
        let _alone = self.records();
        Ok(fs::rename(from, self.root.join(path))?)
    }

    /// A second name for the content that a file has now, at a path that [`Disk::hidden`] gave.
    pub(super) fn keep(&self, path: &str, to: &Path) -> io::Result<()> {
        fs::hard_link(self.root.join(path), to)
    }

    /// A folder for an API's own files, made if needed.
    pub(super) fn hidden(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.root.join(HIDDEN).join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Names of plain files and folders in a folder, without their records.
    pub(super) fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let hidden = path.is_empty() && entry.file_name() == HIDDEN;
            if !hidden && (kind.is_file() || kind.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    /// Changes what is known of an item; false if there is none.
    pub(super) fn annotate(
        &self,
        path: &str,
        change: impl FnOnce(&mut Record),
    ) -> io::Result<bool> {
        loop {
            let Some(item) = self.get(path)? else {
                return Ok(false);
            };
            let mut records = self.records();
            let Some(meta) = self.look(&item.path)? else {
                return Ok(false);
            };
            let Some(mut record) = known(&records, &item.path, &meta) else {
                continue;
            };
            change(&mut record);
            record.modified_ms = now_ms();
            records.put(&item.path, record)?;
            return Ok(true);
        }
    }

    /// The plain file or folder at a real path; never what is hidden, never the root.
    fn look(&self, path: &str) -> io::Result<Option<Metadata>> {
        if path.is_empty() || path.split('/').next() == Some(HIDDEN) {
            return Ok(None);
        }
        match fs::symlink_metadata(self.root.join(path)) {
            Ok(meta) if meta.is_file() || meta.is_dir() => Ok(Some(meta)),
            Ok(_) => Ok(None),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn check_real(&self, path: &str, mode: Mode) -> Result<Option<Metadata>, Refusal> {
        let old = self.look(path)?;
        match (&old, mode) {
            (Some(meta), _) if meta.is_dir() => return Err(Refusal::Folder),
            (Some(_), Mode::Create) => return Err(Refusal::Exists),
            (None, Mode::Replace) => return Err(Refusal::Missing),
            _ => {}
        }
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            match self.look(parent)? {
                Some(meta) if !meta.is_dir() => return Err(Refusal::ParentIsFile),
                Some(_) => break,
                None => above = parent,
            }
        }
        Ok(old)
    }

    fn make_dirs(&self, records: &mut Records, path: &str) -> Result<(), Refusal> {
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let folder = &path[..end];
            match self.look(folder)? {
                Some(meta) if meta.is_dir() => continue,
                Some(_) => return Err(Refusal::ParentIsFile),
                None => {}
            }
            fs::create_dir(self.root.join(folder))?;
            let now = now_ms();
            let times = Record {
                created_ms: now,
                modified_ms: now,
                ..Record::default()
            };
            records.put(folder, Record { dir: true, ..times })?;
        }
        Ok(())
    }

    /// Makes the record of a file that has none.
    fn learn(&self, path: &str) -> io::Result<()> {
        let full = self.root.join(path);
        let mut file = match File::open(&full) {
            Ok(file) => file,
            Err(e) if is_absence(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        let mut digests = Digests::default();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => digests.update(&buffer[..n]),
            }
        }
        let (sha1, sha256) = digests.hex();
        let mut records = self.records();
        if !self.look(path)?.is_some_and(|now| same(&now, &meta)) {
            return Ok(());
        }
        let mut record = records
            .get(path)
            .filter(|r| !r.dir)
            .cloned()
            .unwrap_or_default();
        if record.created_ms == 0 {
            record.created_ms = created_ms(&meta);
        }
        record.modified_ms = modified_ms(&meta);
        records.put(
            path,
            Record {
                sha1,
                sha256,
                ..stamped(record, &meta)
            },
        )
    }

    /// The path as it is on disk. Segments that do not exist stay as they are.
    fn real(&self, path: &str) -> String {
        if !self.ignore_case {
            return path.to_owned();
        }
        let mut real = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let folder = self.root.join(&real);
            let there = fs::symlink_metadata(folder.join(name)).is_ok();
            let other = if there { None } else { like(&folder, name) };
            if !real.is_empty() {
                real.push('/');
            }
            real.push_str(other.as_deref().unwrap_or(name));
        }
        real
    }
}

fn restless(path: &str) -> io::Error {
    io::Error::other(format!("{path} changes faster than it can be read"))
}

/// A name in `folder` that differs from `name` in case only.
fn like(folder: &Path, name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let names = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    names.into_iter().find(|other| other.to_lowercase() == name)
}

fn is_absence(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The record that is valid for this very file; a folder's own times if it has no record.
fn known(records: &Records, path: &str, meta: &Metadata) -> Option<Record> {
    let record = records
        .get(path)
        .filter(|record| record.dir == meta.is_dir());
    if meta.is_dir() {
        let made = created_ms(meta);
        let times = || Record {
            created_ms: made,
            modified_ms: made,
            ..Record::default()
        };
        return Some(record.cloned().unwrap_or_else(|| Record {
            dir: true,
            ..times()
        }));
    }
    let valid =
        |r: &&Record| (r.size, r.inode, r.mtime_ns) == (meta.len(), meta.ino(), mtime_ns(meta));
    record.filter(valid).cloned()
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.len(), a.ino(), mtime_ns(a)) == (b.len(), b.ino(), mtime_ns(b))
}

fn stamped(record: Record, meta: &Metadata) -> Record {
    Record {
        size: meta.len(),
        inode: meta.ino(),
        mtime_ns: mtime_ns(meta),
        ..record
    }
}

fn mtime_ns(meta: &Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

fn modified_ms(meta: &Metadata) -> i64 {
    (mtime_ns(meta) / 1_000_000) as i64
}

/// The time of birth where the disk knows it.
fn created_ms(meta: &Metadata) -> i64 {
    let born = meta
        .created()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok());
    born.map_or_else(|| modified_ms(meta), Timestamp::as_millisecond)
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
