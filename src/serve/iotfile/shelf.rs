//! The files of the entity with what the service knows of each: version number, times, type; and the
//! search index, which lags behind.
//!
//! What is known beside the bytes stands in the record's `cache`. A file that was put or changed by hand
//! has no valid one: it is the next version, made when the file was.

use super::{CONFLICT, No};
use crate::serve::disk::{Disk, Item, Mode, Target};
use crate::serve::staging::{Digests, Staged};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the request headers of an upload say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct About {
    /// Milliseconds since 1970; the time of the upload if the client did not say.
    pub(super) timestamp: Option<i64>,
    pub(super) kind: Option<String>,
    pub(super) description: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    etag: u64,
    created_ms: i64,
    updated_ms: i64,
    about: About,
    /// Of the very file: else it was changed by hand.
    inode: u64,
    mtime_ns: i64,
}

/// One file as the service sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: u64,
    pub(super) about: About,
    pub(super) created_ms: i64,
    pub(super) updated_ms: i64,
}

impl Row {
    fn of(item: &Item) -> Row {
        let record = &item.record;
        let kept: Option<Kept> = serde_json::from_value(record.cache.clone()).ok();
        let changed_ms = (record.mtime_ns / 1_000_000) as i64;
        let by_hand = |etag, created_ms| Row {
            key: item.path.clone(),
            size: record.size,
            etag,
            about: About {
                timestamp: Some(changed_ms),
                ..About::default()
            },
            created_ms,
            updated_ms: changed_ms,
        };
        match kept {
            None => by_hand(0, changed_ms),
            Some(kept)
                if (kept.inode, i128::from(kept.mtime_ns)) != (record.inode, record.mtime_ns) =>
            {
                by_hand(kept.etag + 1, kept.created_ms)
            }
            Some(kept) => Row {
                key: item.path.clone(),
                size: record.size,
                etag: kept.etag,
                about: kept.about,
                created_ms: kept.created_ms,
                updated_ms: kept.updated_ms,
            },
        }
    }

    pub(super) fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or("")
    }

    /// The directory, without a slash at its end.
    pub(super) fn dir(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    pub(super) fn updated(&self) -> String {
        time(self.updated_ms)
    }
}

/// ISO 8601 with milliseconds.
pub(super) fn time(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or_default();
    format!("{time:.3}")
}

/// A change that the search does not show yet.
#[derive(Debug)]
struct Unseen {
    until: Instant,
    key: String,
    before: Option<Row>,
}

/// All files.
#[derive(Debug)]
pub(super) struct Shelf {
    disk: Arc<Disk>,
    index_delay: Duration,
    /// Held over check and change.
    unseen: Mutex<VecDeque<Unseen>>,
}

/// All methods but [`Shelf::new`] block.
impl Shelf {
    pub(super) fn new(disk: Arc<Disk>, index_delay: Duration) -> Shelf {
        Shelf {
            disk,
            index_delay,
            unseen: Mutex::default(),
        }
    }

    fn unseen(&self) -> MutexGuard<'_, VecDeque<Unseen>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, key: &str) -> io::Result<Option<Row>> {
        let item = self.disk.get(key)?;
        Ok(item
            .filter(|item| !item.record.dir)
            .map(|item| Row::of(&item)))
    }

    /// Everything that the search knows by now, by key.
    pub(super) fn searchable(&self) -> io::Result<BTreeMap<String, Row>> {
        let unseen = self.unseen();
        let items = self.disk.list("", true)?;
        let rows = items.iter().filter(|item| !item.record.dir).map(Row::of);
        let mut rows: BTreeMap<_, _> = rows.map(|row| (row.key.clone(), row)).collect();
        let now = Instant::now();
        for change in unseen.iter().rev().filter(|change| now < change.until) {
            match &change.before {
                Some(row) => rows.insert(change.key.clone(), row.clone()),
                None => rows.remove(&change.key),
            };
        }
        Ok(rows)
    }

    /// A file, opened, with exactly its row.
    pub(super) fn open(&self, key: &str) -> io::Result<Option<(File, Row)>> {
        let found = self.disk.read(key)?;
        Ok(found.map(|(file, item)| (file, Row::of(&item))))
    }

    pub(super) fn stage(&self) -> io::Result<Staged> {
        self.disk.stage()
    }

    /// Whether `if_match` is what a change must say now.
    pub(super) fn check(&self, key: &str, if_match: Option<u64>) -> Result<(), No> {
        let here = self.file(key)?;
        if here.map(|row| row.etag) != if_match {
            return Err(CONFLICT);
        }
        Ok(self.disk.check(key, Mode::Either)?)
    }

    /// Puts a finished upload in its place; its row, and whether it is new.
    pub(super) fn commit(
        &self,
        staged: &Staged,
        digests: Digests,
        key: &str,
        if_match: Option<u64>,
        about: About,
    ) -> Result<(Row, bool), No> {
        let mut unseen = self.unseen();
        self.check(key, if_match)?;
        let before = self.file(key)?;
        self.disk.commit(staged, digests, key, Mode::Either, None)?;
        let now = Timestamp::now().as_millisecond();
        self.disk.annotate(key, |record| {
            let kept = Kept {
                etag: before.as_ref().map_or(0, |row| row.etag + 1),
                created_ms: before.as_ref().map_or(now, |row| row.created_ms),
                updated_ms: now,
                about: About {
                    timestamp: about.timestamp.or(Some(now)),
                    ..about
                },
                inode: record.inode,
                mtime_ns: record.mtime_ns as i64,
            };
            record.cache = serde_json::to_value(kept).unwrap_or_default();
        })?;
        let row = self.file(key)?.ok_or(super::LOST)?;
        let new = before.is_none();
        self.note(&mut unseen, key, before);
        Ok((row, new))
    }

    /// Removes a file, and the directories that were only there for it.
    pub(super) fn remove(&self, key: &str) -> Result<(), No> {
        let mut unseen = self.unseen();
        let before = self.file(key)?.ok_or(super::LOST)?;
        self.disk.remove(key, Target::File)?;
        let mut dir = key;
        while let Some((above, _)) = dir.rsplit_once('/') {
            if self.disk.remove(above, Target::FileOrEmptyFolder).is_err() {
                break;
            }
            dir = above;
        }
        self.note(&mut unseen, key, Some(before));
        Ok(())
    }

    fn note(&self, unseen: &mut VecDeque<Unseen>, key: &str, before: Option<Row>) {
        let now = Instant::now();
        unseen.retain(|change| now < change.until);
        if !self.index_delay.is_zero() {
            unseen.push_back(Unseen {
                until: now + self.index_delay,
                key: key.to_owned(),
                before,
            });
        }
    }
}
