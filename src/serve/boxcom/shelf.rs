//! The items by id: files and folders of the disk with what the service knows of each, the trash, and older
//! versions.
//!
//! What is known beside the bytes stands in the record's `cache`. A file that was changed by hand has no
//! valid one: it is the next version, made when the file was.

use super::{No, Ways};
use crate::serve::disk::{Disk, Item, Mode, Refusal};
use crate::serve::staging::{Digests, Staged, Whole};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    id: u64,
    etag: u64,
    sequence: u64,
    version: u64,
    created_ms: i64,
    modified_ms: i64,
    content_created_ms: i64,
    content_modified_ms: i64,
    /// Of the very file: else it was changed by hand.
    inode: u64,
    mtime_ns: i64,
}

impl Kept {
    /// After a change.
    fn next(self) -> Kept {
        Kept {
            etag: self.etag + 1,
            sequence: self.sequence + 1,
            modified_ms: now_ms(),
            ..self
        }
    }
}

/// One item as the service sees it; times in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) dir: bool,
    /// From the root; empty for the root itself.
    pub(super) path: String,
    pub(super) etag: u64,
    pub(super) sequence: u64,
    pub(super) version: u64,
    pub(super) size: u64,
    pub(super) sha1: String,
    pub(super) created_ms: i64,
    pub(super) modified_ms: i64,
    pub(super) content_created_ms: i64,
    pub(super) content_modified_ms: i64,
}

impl Row {
    fn root() -> Row {
        Row {
            id: 0,
            dir: true,
            path: String::new(),
            etag: 0,
            sequence: 0,
            version: 0,
            size: 0,
            sha1: String::new(),
            created_ms: 0,
            modified_ms: 0,
            content_created_ms: 0,
            content_modified_ms: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self.id {
            0 => "All Files",
            _ => self.path.rsplit('/').next().unwrap_or(""),
        }
    }

    /// The path of the folder that it is in.
    fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// Why something was refused.
#[derive(Debug)]
pub(super) enum Deny {
    No(No),
    /// This item has the name.
    Taken(Box<Row>),
}

impl From<No> for Deny {
    fn from(no: No) -> Deny {
        Deny::No(no)
    }
}

impl From<io::Error> for Deny {
    fn from(e: io::Error) -> Deny {
        Deny::No(e.into())
    }
}

impl From<Refusal> for Deny {
    fn from(refusal: Refusal) -> Deny {
        Deny::No(refusal.into())
    }
}

type Result<T> = std::result::Result<T, Deny>;

/// What a client wants to be kept with a content, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) created_ms: Option<i64>,
    pub(super) modified_ms: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trashed {
    dir: bool,
    name: String,
    parent: u64,
    size: u64,
    kept: Kept,
}

#[derive(Debug)]
struct Index {
    /// Where an id was last.
    paths: HashMap<u64, String>,
    next: u64,
    trash: HashMap<u64, Trashed>,
    /// Names that are being made: folder and folded name.
    reserved: HashSet<(u64, String)>,
}

/// All items.
#[derive(Debug)]
pub(super) struct Shelf {
    disk: Arc<Disk>,
    trash: PathBuf,
    old: PathBuf,
    versions: bool,
    /// Held over check and change.
    index: Mutex<Index>,
}

/// A name that nobody else can take while this lives.
#[derive(Debug)]
pub(super) struct Reserved {
    shelf: Arc<super::Service>,
    key: (u64, String),
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shelf.shelf.index().reserved.remove(&self.key);
    }
}

/// All methods block.
impl Shelf {
    pub(super) fn new(disk: Arc<Disk>, ways: &Ways) -> io::Result<Shelf> {
        let trash = disk.hidden("trash")?;
        let old = disk.hidden("versions")?;
        let mut thrown = HashMap::new();
        for entry in std::fs::read_dir(&trash)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let one: Trashed = serde_json::from_slice(&std::fs::read(&path)?)?;
                thrown.insert(one.kept.id, one);
            }
        }
        let index = Index {
            paths: HashMap::new(),
            // Ids of an earlier run are lower, unless it made more than a thousand a second.
            next: now_ms() as u64,
            trash: thrown,
            reserved: HashSet::new(),
        };
        Ok(Shelf {
            disk,
            trash,
            old,
            versions: ways.versions,
            index: Mutex::new(index),
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> io::Result<Staged> {
        self.disk.stage()
    }

    /// The item at a path; what is new there gets its id.
    fn row_at(&self, index: &mut Index, path: &str) -> io::Result<Option<Row>> {
        if path.is_empty() {
            return Ok(Some(Row::root()));
        }
        for _ in 0..5 {
            let Some(item) = self.disk.get(path)? else {
                return Ok(None);
            };
            if let Some(row) = row_of(&item) {
                index.paths.insert(row.id, row.path.clone());
                return Ok(Some(row));
            }
            let kept = by_hand(index, &item);
            self.note(path, kept)?;
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// Writes down what is known of an item.
    fn note(&self, path: &str, kept: Kept) -> io::Result<()> {
        self.disk.annotate(path, |record| {
            let kept = Kept {
                inode: record.inode,
                mtime_ns: record.mtime_ns as i64,
                ..kept
            };
            record.cache = serde_json::to_value(kept).unwrap_or_default();
        })?;
        Ok(())
    }

    fn kept(&self, path: &str) -> io::Result<Option<Kept>> {
        let item = self.disk.get(path)?;
        Ok(item.and_then(|item| serde_json::from_value(item.record.cache).ok()))
    }

    /// The item of an id.
    fn find(&self, index: &mut Index, id: u64) -> io::Result<Option<Row>> {
        if id == 0 {
            return Ok(Some(Row::root()));
        }
        for rescan in [false, true] {
            if rescan {
                for item in self.disk.list("", true)? {
                    self.row_at(index, &item.path)?;
                }
            }
            if let Some(path) = index.paths.get(&id).cloned()
                && let Some(row) = self.row_at(index, &path)?
                && row.id == id
            {
                return Ok(Some(row));
            }
        }
        index.paths.remove(&id);
        Ok(None)
    }

    fn must(&self, index: &mut Index, id: u64, dir: bool) -> Result<Row> {
        if index.trash.get(&id).is_some_and(|one| one.dir == dir) {
            return Err(No::new(404, "trashed", "Item is trashed").into());
        }
        match self.find(index, id)? {
            Some(row) if row.dir == dir => Ok(row),
            _ => Err(No::lost().into()),
        }
    }

    /// The folders from the root to an item.
    fn above(&self, index: &mut Index, row: &Row) -> io::Result<Vec<Row>> {
        let mut above = Vec::new();
        if row.id == 0 {
            return Ok(above);
        }
        above.push(Row::root());
        for (end, _) in row.path.match_indices('/') {
            above.extend(self.row_at(index, &row.path[..end])?);
        }
        Ok(above)
    }

    /// Who has the name in a folder, in any case of letters.
    fn holder(
        &self,
        index: &mut Index,
        folder: &str,
        name: &str,
        except: Option<u64>,
    ) -> Result<Option<Row>> {
        let folded = name.to_lowercase();
        for other in self.disk.names(folder)? {
            if other.to_lowercase() == folded {
                let row = self.row_at(index, &join(folder, &other))?;
                if let Some(row) = row.filter(|row| Some(row.id) != except) {
                    return Ok(Some(row));
                }
            }
        }
        Ok(None)
    }

    fn free(&self, index: &mut Index, parent: &Row, name: &str, except: Option<u64>) -> Result<()> {
        check_name(name)?;
        match self.holder(index, &parent.path, name, except)? {
            Some(row) => Err(Deny::Taken(Box::new(row))),
            None => Ok(()),
        }
    }

    /// An item and the folders above it.
    pub(super) fn get(&self, id: u64, dir: bool) -> Result<(Row, Vec<Row>)> {
        let mut index = self.index();
        let row = self.must(&mut index, id, dir)?;
        let above = self.above(&mut index, &row)?;
        Ok((row, above))
    }

    /// What is in a folder: folders first, by name.
    pub(super) fn children(&self, id: u64) -> Result<(Row, Vec<Row>)> {
        let mut index = self.index();
        let folder = self.must(&mut index, id, true)?;
        let mut rows = Vec::new();
        for item in self.disk.list(&folder.path, false)? {
            let row = match row_of(&item) {
                Some(row) => Some(row),
                None => self.row_at(&mut index, &item.path)?,
            };
            if let Some(row) = row {
                index.paths.insert(row.id, row.path.clone());
                rows.push(row);
            }
        }
        rows.sort_by(|a, b| (!a.dir, a.name()).cmp(&(!b.dir, b.name())));
        Ok((folder, rows))
    }

    /// Whether a name is free in a folder, or is that of the file `own`.
    pub(super) fn check_free(&self, parent: u64, name: &str, own: Option<u64>) -> Result<()> {
        let mut index = self.index();
        let parent = self.must(&mut index, parent, true)?;
        self.free(&mut index, &parent, name, own)
    }

    /// Takes a name for the time of an upload: 409 while somebody else does.
    pub(super) fn reserve(
        service: &Arc<super::Service>,
        parent: u64,
        name: &str,
    ) -> Result<Reserved> {
        let key = (parent, name.to_lowercase());
        let mut index = service.shelf.index();
        if !index.reserved.insert(key.clone()) {
            let words = "A file with the same name is being uploaded";
            return Err(No::new(409, "name_temporarily_reserved", words).into());
        }
        Ok(Reserved {
            shelf: service.clone(),
            key,
        })
    }

    /// A new file.
    pub(super) fn create(
        &self,
        staged: &Staged,
        digests: Digests,
        parent: u64,
        name: &str,
        times: Times,
    ) -> Result<Row> {
        let mut index = self.index();
        let parent = self.must(&mut index, parent, true)?;
        self.free(&mut index, &parent, name, None)?;
        let path = join(&parent.path, name);
        self.disk
            .commit(staged, digests, &path, Mode::Create, None)?;
        let now = now_ms();
        let modified = times.modified_ms.unwrap_or(now);
        let kept = Kept {
            id: fresh(&mut index),
            etag: 0,
            sequence: 0,
            version: fresh(&mut index),
            created_ms: now,
            modified_ms: now,
            content_created_ms: times.created_ms.unwrap_or(modified),
            content_modified_ms: modified,
            inode: 0,
            mtime_ns: 0,
        };
        self.note(&path, kept)?;
        Ok(self.row_at(&mut index, &path)?.ok_or_else(No::lost)?)
    }

    /// Another content for a file, under another name if one is given.
    pub(super) fn replace(
        &self,
        staged: &Staged,
        digests: Digests,
        id: u64,
        if_match: Option<&str>,
        name: Option<&str>,
        times: Times,
    ) -> Result<Row> {
        let mut index = self.index();
        let row = self.must(&mut index, id, false)?;
        matches(&row, if_match)?;
        let mut path = row.path.clone();
        if let Some(name) = name.filter(|name| *name != row.name()) {
            let folder = self
                .row_at(&mut index, row.folder())?
                .ok_or_else(No::lost)?;
            self.free(&mut index, &folder, name, Some(id))?;
            let to = join(&folder.path, name);
            self.disk.rename(&path, &to)?;
            path = to;
        }
        let kept = self.kept(&path)?.ok_or_else(No::lost)?;
        if self.versions {
            let old = self.old.join(format!("{id}-{}", row.version));
            self.disk.keep(&path, &old)?;
        }
        self.disk
            .commit(staged, digests, &path, Mode::Replace, None)?;
        let kept = Kept {
            version: fresh(&mut index),
            content_modified_ms: times.modified_ms.unwrap_or_else(now_ms),
            ..kept.next()
        };
        self.note(&path, kept)?;
        Ok(self.row_at(&mut index, &path)?.ok_or_else(No::lost)?)
    }

    pub(super) fn make_folder(&self, parent: u64, name: &str) -> Result<Row> {
        let mut index = self.index();
        let parent = self.must(&mut index, parent, true)?;
        self.free(&mut index, &parent, name, None)?;
        let path = join(&parent.path, name);
        self.disk.make_dir(&path)?;
        Ok(self.row_at(&mut index, &path)?.ok_or_else(No::lost)?)
    }

    /// Renames, moves, sets the time of the content.
    pub(super) fn change(
        &self,
        (id, dir): (u64, bool),
        name: Option<&str>,
        parent: Option<u64>,
        modified_ms: Option<i64>,
        if_match: Option<&str>,
    ) -> Result<Row> {
        let mut index = self.index();
        let row = self.must(&mut index, id, dir)?;
        if id == 0 {
            return Err(No::new(403, "forbidden", "The root cannot be changed").into());
        }
        // It has no effect on moves.
        matches(&row, if_match.filter(|_| parent.is_none()))?;
        let folder = match parent {
            Some(parent) => self.must(&mut index, parent, true)?,
            None => self
                .row_at(&mut index, row.folder())?
                .ok_or_else(No::lost)?,
        };
        let name = name.unwrap_or(row.name());
        if dir && format!("{}/", folder.path).starts_with(&format!("{}/", row.path)) {
            let words = "Folder cannot be a sub-folder of itself";
            return Err(No::new(400, "cyclical_folder_structure", words).into());
        }
        self.free(&mut index, &folder, name, Some(id))?;
        let path = join(&folder.path, name);
        if path != row.path {
            self.disk.rename(&row.path, &path)?;
            // Ids below are found again under their new paths.
            index.paths.clear();
        }
        let kept = self.kept(&path)?.ok_or_else(No::lost)?;
        let kept = Kept {
            content_modified_ms: modified_ms.unwrap_or(kept.content_modified_ms),
            ..kept.next()
        };
        self.note(&path, kept)?;
        Ok(self.row_at(&mut index, &path)?.ok_or_else(No::lost)?)
    }

    /// Into the trash.
    pub(super) fn delete(
        &self,
        (id, dir): (u64, bool),
        recursive: bool,
        if_match: Option<&str>,
    ) -> Result<()> {
        let mut index = self.index();
        let row = self.must(&mut index, id, dir)?;
        if id == 0 {
            return Err(No::new(403, "forbidden", "The root cannot be deleted").into());
        }
        matches(&row, if_match)?;
        if dir && !recursive && !self.disk.names(&row.path)?.is_empty() {
            return Err(Refusal::NotEmpty.into());
        }
        let parent = self
            .row_at(&mut index, row.folder())?
            .map_or(0, |row| row.id);
        let kept = self.kept(&row.path)?.ok_or_else(No::lost)?;
        let items = if dir {
            self.disk.list(&row.path, true)?
        } else {
            Vec::new()
        };
        let below: u64 = items.iter().map(|item| item.record.size).sum();
        let one = Trashed {
            dir,
            name: row.name().to_owned(),
            parent,
            size: row.size + below,
            kept,
        };
        self.disk
            .take_away(&row.path, &self.trash.join(id.to_string()))?;
        let text = serde_json::to_vec(&one).map_err(io::Error::from)?;
        std::fs::write(self.trash.join(format!("{id}.json")), text)?;
        index.paths.remove(&id);
        index.trash.insert(id, one);
        Ok(())
    }

    fn trashed(&self, index: &mut Index, id: u64, dir: bool) -> Result<()> {
        match index.trash.get(&id) {
            Some(one) if one.dir == dir => Ok(()),
            _ => Err(No::new(404, "not_trashed", "Item is not trashed").into()),
        }
    }

    /// Out of the trash, into its folder.
    pub(super) fn restore(&self, id: u64, dir: bool) -> Result<(Row, Vec<Row>)> {
        let mut index = self.index();
        self.trashed(&mut index, id, dir)?;
        let one = index.trash.remove(&id).ok_or_else(No::lost)?;
        let done = self.bring_back(&mut index, id, &one);
        if done.is_err() {
            index.trash.insert(id, one);
        }
        done
    }

    fn bring_back(&self, index: &mut Index, id: u64, one: &Trashed) -> Result<(Row, Vec<Row>)> {
        let parent = self.must(index, one.parent, true)?;
        self.free(index, &parent, &one.name, None)?;
        let path = join(&parent.path, &one.name);
        self.disk
            .bring_back(&self.trash.join(id.to_string()), &path)?;
        std::fs::remove_file(self.trash.join(format!("{id}.json")))?;
        self.note(&path, one.kept.clone().next())?;
        let row = self.row_at(index, &path)?.ok_or_else(No::lost)?;
        let above = self.above(index, &row)?;
        Ok((row, above))
    }

    /// Out of the trash, for good.
    pub(super) fn purge(&self, id: u64, dir: bool) -> Result<()> {
        let mut index = self.index();
        self.trashed(&mut index, id, dir)?;
        let path = self.trash.join(id.to_string());
        match dir {
            true => std::fs::remove_dir_all(&path)?,
            false => std::fs::remove_file(&path)?,
        }
        std::fs::remove_file(self.trash.join(format!("{id}.json")))?;
        index.trash.remove(&id);
        Ok(())
    }

    /// A copy of a file, or of a folder with all that is in it.
    pub(super) fn copy(
        &self,
        (id, dir): (u64, bool),
        parent: u64,
        name: Option<&str>,
    ) -> Result<Row> {
        let (row, _) = self.get(id, dir)?;
        if id == 0 {
            return Err(No::new(500, "internal_server_error", "The root cannot be copied").into());
        }
        let name = name.unwrap_or(row.name());
        if dir {
            let (_, children) = self.children(id)?;
            let made = self.make_folder(parent, name)?;
            for child in children.iter().filter(|child| child.id != made.id) {
                self.copy((child.id, child.dir), made.id, None)?;
            }
            return Ok(made);
        }
        self.check_free(parent, name, None)?;
        let (mut file, item) = self.disk.read(&row.path)?.ok_or_else(No::lost)?;
        let mut whole = Whole::new(self.stage()?);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => whole.put(&[Bytes::copy_from_slice(&buffer[..n])])?,
            }
        }
        let (staged, digests) = whole.finish();
        let times = row_of(&item).unwrap_or(row.clone());
        let times = Times {
            created_ms: Some(times.content_created_ms),
            modified_ms: Some(times.content_modified_ms),
        };
        self.create(&staged, digests, parent, name, times)
    }

    /// A version of a file, opened, with its size; the current one if none is named.
    pub(super) fn open(&self, id: u64, version: Option<u64>) -> Result<(File, u64, u64)> {
        let mut index = self.index();
        let row = self.must(&mut index, id, false)?;
        if version.is_none_or(|version| version == row.version) {
            let (file, item) = self.disk.read(&row.path)?.ok_or_else(No::lost)?;
            return Ok((file, item.record.size, row.version));
        }
        if !self.versions {
            let words = "Access denied - insufficient permission";
            return Err(No::new(403, "access_denied_insufficient_permissions", words).into());
        }
        let version = version.unwrap_or_default();
        let file = File::open(self.old.join(format!("{id}-{version}")));
        let file = file.map_err(|_| No::lost())?;
        let size = file.metadata()?.len();
        Ok((file, size, version))
    }

    /// The older versions of a file, newest first.
    pub(super) fn versions(&self, id: u64) -> Result<Vec<u64>> {
        self.must(&mut self.index(), id, false)?;
        let front = format!("{id}-");
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(&self.old)? {
            let name = entry?.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(&front));
            versions.extend(version.and_then(|version| version.parse::<u64>().ok()));
        }
        versions.sort_unstable_by(|a, b| b.cmp(a));
        Ok(versions)
    }

    /// Bytes that count against the quota.
    pub(super) fn used(&self) -> io::Result<u64> {
        let items = self.disk.list("", true)?;
        let live: u64 = items.iter().map(|item| item.record.size).sum();
        Ok(live + self.index().trash.values().map(|one| one.size).sum::<u64>())
    }
}

fn fresh(index: &mut Index) -> u64 {
    index.next += 1;
    index.next
}

/// The item, if what is known of it is about exactly this file.
fn row_of(item: &Item) -> Option<Row> {
    let record = &item.record;
    let kept: Kept = serde_json::from_value(record.cache.clone()).ok()?;
    let same = (kept.inode, i128::from(kept.mtime_ns)) == (record.inode, record.mtime_ns);
    (same || record.dir).then(|| Row {
        id: kept.id,
        dir: record.dir,
        path: item.path.clone(),
        etag: kept.etag,
        sequence: kept.sequence,
        version: kept.version,
        size: record.size,
        sha1: record.sha1.clone(),
        created_ms: kept.created_ms,
        modified_ms: kept.modified_ms,
        content_created_ms: kept.content_created_ms,
        content_modified_ms: kept.content_modified_ms,
    })
}

/// What is to be known of an item that was put or changed by hand.
fn by_hand(index: &mut Index, item: &Item) -> Kept {
    let record = &item.record;
    let changed = match record.dir {
        true => record.created_ms,
        false => (record.mtime_ns / 1_000_000) as i64,
    };
    let version = fresh(index);
    let kept: Option<Kept> = serde_json::from_value(record.cache.clone()).ok();
    match kept {
        Some(kept) => Kept {
            version,
            content_modified_ms: changed,
            ..kept.next()
        },
        None => Kept {
            id: fresh(index),
            etag: 0,
            sequence: 0,
            version,
            created_ms: changed,
            modified_ms: changed,
            content_created_ms: changed,
            content_modified_ms: changed,
            inode: 0,
            mtime_ns: 0,
        },
    }
}

fn matches(row: &Row, if_match: Option<&str>) -> std::result::Result<(), No> {
    match if_match {
        Some(tag) if tag.trim_matches('"') != row.etag.to_string() => Err(No::new(
            412,
            "precondition_failed",
            "The resource has been modified",
        )),
        _ => Ok(()),
    }
}

/// Refuses what cannot be a name.
pub(super) fn check_name(name: &str) -> std::result::Result<(), No> {
    if name.chars().count() > 255 {
        return Err(No::new(400, "item_name_too_long", "Item name too long"));
    }
    let odd = |c: char| matches!(c, '/' | '\\' | '\u{7f}') || c < ' ';
    if matches!(name, "" | "." | "..") || name.ends_with(' ') || name.contains(odd) {
        return Err(No::new(400, "item_name_invalid", "Item name invalid"));
    }
    Ok(())
}
