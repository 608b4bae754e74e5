//! POSIX meaning over a store: inodes, handles, directories, attributes. Knows no FUSE.
//!
//! Locks, in this order, never across an await: `tree`, then the small ones (`handles`, `refused`, `refusals`,
//! `kept`, `replaced`), then a writer's, then the cache's.

mod attrs;
mod debts;
mod files;
mod moves;
mod names;
mod room;
mod status;
mod tree;
mod unsent;

#[cfg(test)]
mod tests;

pub use attrs::{Attr, Change, Statfs, TimeSet};
pub use debts::TakenUp;
pub use files::{Open, OpenFlags};
pub use names::Listed;
pub use status::{FileState, FileStatus, Status};
pub use tree::ROOT;

use crate::error::{Error, Kind, Result};
use crate::read::Cache;
use crate::store::{Attrs, Digests, Entry, Kind as EntryKind, Place, Probe, Space, Store, Version};
use crate::write::{self, After, Conflict, Found, Promise, Spool, SpoolFile, Writer};
use files::Handle;
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tree::{Node, Tree, Ttl};

/// Settings of one mount, as plain data.
#[derive(Clone, Debug)]
pub struct Options {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits taken away from 0666 (files) and 0777 (directories).
    pub umask: u32,
    /// Refuse every change (`EROFS`).
    pub read_only: bool,
    /// How long what the store said about an entry is believed.
    pub attr_ttl: Duration,
    /// How long the absence of a name is believed.
    pub negative_ttl: Duration,
    /// Bound of a lookup, create, mkdir, unlink and rename.
    pub name_timeout: Duration,
    /// Longest time without progress of an upload or a read.
    pub stall_timeout: Duration,
    /// Upload requests in flight, of the whole mount.
    pub uploads: usize,
    /// Download requests in flight, of the whole mount.
    pub downloads: usize,
    /// Memory budget for blocks, in bytes.
    pub memory: u64,
    /// The folder of this mount's spool; made if missing, mode 0700.
    pub spool_dir: PathBuf,
    /// Most bytes in the spool; `None`: as the disk allows.
    pub spool_max: Option<u64>,
    /// What closes and fsyncs answer for.
    pub commit: Promise,
    /// The same for paths below the mountpoint (without a leading `/`) that match; the first that
    /// matches counts.
    pub commit_for: Vec<(Glob, Promise)>,
    /// Temporary names, which are not sent before they are renamed; empty: none.
    pub temp_names: Vec<Glob>,
    /// How long a file stays under a temporary name without being written before it is sent all the same.
    pub temp_idle: Duration,
    /// What is done when somebody else changed a file meanwhile.
    pub conflict: Conflict,
    /// A directory with more entries below it is not renamed but copied by the caller (`EXDEV`).
    pub rename_max: usize,
    /// The socket that `user.assetfs.control` on the root tells.
    pub control: Option<PathBuf>,
}

/// How long a question is waited for when an older answer is at hand.
const PATIENCE: Duration = Duration::from_secs(2);

/// For so long after a question without an answer older answers are given at once: a listing of a thousand names
/// must not wait a thousand times.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// How long a name that the store refused is refused at create.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Committed spool files that stay as a cache (for a rename or a read that follows): bytes and files.
const KEPT_BYTES: u64 = 1 << 30;
const KEPT_FILES: usize = 256;

/// More inodes than so many are let go of when they can be asked for again: some 60 MiB.
const NODES_MAX: usize = 100_000;

/// Held by who lists a directory; has the last failure, for those who waited meanwhile.
type Gate = tokio::sync::Mutex<Option<(Instant, Error)>>;

/// What a drain left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Acknowledged files that are still in the spool.
    pub kept: usize,
    /// Files whose program was told of a failure, or that were open and not closed; kept as well.
    pub refused: usize,
}

/// A mounted store.
#[derive(Debug)]
pub struct Vfs {
    me: Weak<Vfs>,
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    write: Arc<write::Context>,
    rt: tokio::runtime::Handle,
    options: Options,
    tree: Mutex<Tree>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
    /// One listing of a directory at a time.
    listing: Mutex<HashMap<u64, Weak<Gate>>>,
    /// When the store last left a question without an answer, if that was the last one.
    silent_since: Mutex<Option<tokio::time::Instant>>,
    /// Names that the store refused at close, by directory.
    refused: Mutex<HashMap<(u64, String), (Instant, Error)>>,
    /// Committed spool files kept as a cache, oldest first.
    kept: Mutex<VecDeque<(u64, u64)>>,
    draining: AtomicBool,
    temp_names: GlobSet,
    commit_for: GlobSet,
    /// What an earlier process was refused, with its [`write::Record::at_ms`], until something newer of that
    /// name is committed.
    refusals: Mutex<Vec<(Place, u64, Arc<SpoolFile>)>>,
    /// Files that lost their name to another, whose writer this is: owed until that one is safe.
    replaced: Mutex<HashMap<u64, Arc<Writer>>>,
    /// Files that are owed and that this mount cannot send.
    left_owed: AtomicUsize,
    /// What the start found in the spool, until it is taken up.
    found: Mutex<Found>,
    space: Mutex<Option<(Instant, Option<Space>)>>,
    /// Something was committed, failed, or came to rest.
    changed: Notify,
    started: SystemTime,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vfs {
    /// A filesystem over `store`, which was probed.
    pub fn new(
        store: Arc<dyn Store>,
        probe: &Probe,
        options: Options,
        rt: tokio::runtime::Handle,
    ) -> Result<Arc<Self>> {
        let (spool, found) = Spool::open(&options.spool_dir, options.spool_max)?;
        let cache = Cache::new(
            store.clone(),
            rt.clone(),
            options.memory,
            options.downloads,
            options.stall_timeout,
        );
        let now = SystemTime::now();
        let root = Entry {
            addr: probe.root.clone(),
            name: String::new(),
            kind: EntryKind::Dir,
            size: 0,
            version: Version::from(""),
            tag: None,
            modified: now,
            created: None,
            digests: Digests::default(),
            attrs: Attrs::default(),
            content_type: None,
        };
        let ttl = Ttl {
            attr: options.attr_ttl,
            negative: options.negative_ttl,
        };
        let temp_names = globs(options.temp_names.iter())?;
        let commit_for = globs(options.commit_for.iter().map(|(glob, _)| glob))?;
        Ok(Arc::new_cyclic(|me: &Weak<Vfs>| Vfs {
            me: me.clone(),
            cache: cache.clone(),
            write: Arc::new(write::Context {
                store: store.clone(),
                cache,
                spool,
                rt: rt.clone(),
                uploads: options.uploads,
                conflict: options.conflict,
                defer_max: options.spool_max.unwrap_or(u64::MAX) / 4,
                owner: me.clone(),
                sent_bytes: AtomicU64::new(0),
                committed_files: AtomicU64::new(0),
            }),
            store,
            rt,
            tree: Mutex::new(Tree::new(root, ttl)),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            listing: Mutex::default(),
            silent_since: Mutex::default(),
            refused: Mutex::default(),
            kept: Mutex::default(),
            draining: AtomicBool::new(false),
            temp_names,
            commit_for,
            replaced: Mutex::default(),
            left_owed: AtomicUsize::new(0),
            found: Mutex::new(found),
            refusals: Mutex::default(),
            space: Mutex::default(),
            changed: Notify::new(),
            started: now,
            options,
        }))
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    /// `ReadOnly` if nothing may be changed (any more).
    fn check_writable(&self) -> Result<()> {
        if self.options.read_only || self.draining.load(Ordering::Acquire) {
            return Err(Error::new(Kind::ReadOnly, ""));
        }
        Ok(())
    }

    /// Bounds a question whose older answer is at hand: better the old answer soon than none.
    async fn ask<T>(
        &self,
        have_older: bool,
        question: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !have_older {
            return question.await;
        }
        let timeout = Err(Error::new(Kind::Timeout, "look"));
        if self.is_silent() {
            return timeout;
        }
        let answer = tokio::time::timeout(PATIENCE, question).await;
        let answer = answer.unwrap_or(timeout);
        let away = |error: &Error| matches!(error.kind, Kind::Timeout | Kind::Unreachable);
        let away = answer.as_ref().is_err_and(away);
        *lock(&self.silent_since) = away.then(tokio::time::Instant::now);
        answer
    }

    /// Whether the store has just left a question without an answer.
    fn is_silent(&self) -> bool {
        let since = *lock(&self.silent_since);
        since.is_some_and(|since| since.elapsed() < SILENT_FOR)
    }

    /// Bounds an operation during which the kernel holds the directory's lock.
    async fn within_name_timeout<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.options.name_timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                let mut error = Error::new(Kind::Timeout, op).said("no answer within name_timeout");
                error.elapsed = self.options.name_timeout;
                Err(error)
            }
        }
    }

    /// What the mount is doing; from memory.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status {
            sent_bytes: self.write.sent_bytes.load(Ordering::Relaxed),
            fetched_bytes: self.cache.fetched(),
            cached_bytes: self.cache.bytes(),
            spool_bytes: self.write.spool.bytes(),
            committed_files: self.write.committed_files.load(Ordering::Relaxed),
            ..Status::default()
        };
        let tree = self.tree();
        for node in tree.nodes().filter(|node| node.writer.is_some()) {
            let Some(file) = file_status(&tree, node) else {
                continue;
            };
            if matches!(file.state, FileState::Clean | FileState::Committed) {
                continue;
            }
            if matches!(file.state, FileState::Sealing | FileState::Uploading) {
                status.to_send_bytes += file.size.saturating_sub(file.sent);
            }
            status.files.push(file);
        }
        status.files.sort_by(|a, b| a.path.cmp(&b.path));
        status
    }

    /// Where one file stands, by its path below the mountpoint; `None` if it is not known here.
    #[must_use]
    pub fn file_status(&self, path: &str) -> Option<FileStatus> {
        let tree = self.tree();
        let mut ino = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            ino = tree.child(ino, name)?;
        }
        let node = tree.get(ino)?;
        file_status(&tree, node)
    }

    /// Takes writes again, after a drain whose unmount was refused as busy.
    pub fn undrain(&self) {
        self.draining.store(false, Ordering::Release);
    }

    fn writers(&self) -> Vec<Arc<Writer>> {
        self.tree()
            .nodes()
            .filter_map(|node| node.writer.clone())
            .collect()
    }

    /// Lets go of the oldest committed spool files beyond the budget.
    fn shed(&self) {
        let mut shed = Vec::new();
        {
            let mut kept = lock(&self.kept);
            let mut bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
            let most = self
                .options
                .spool_max
                .map_or(KEPT_BYTES, |max| KEPT_BYTES.min(max / 4));
            while (bytes > most || kept.len() > KEPT_FILES)
                && let Some((ino, size)) = kept.pop_front()
            {
                bytes -= size;
                shed.push(ino);
            }
        }
        for ino in shed {
            self.shed_one(ino);
        }
    }

    /// Lets go of all committed spool files.
    pub(super) fn shed_all(&self) {
        let all: Vec<u64> = lock(&self.kept).drain(..).map(|(ino, _)| ino).collect();
        for ino in all {
            self.shed_one(ino);
        }
    }

    fn shed_one(&self, ino: u64) {
        let mut tree = self.tree();
        let Some(node) = tree.get_mut(ino) else {
            return;
        };
        let Some(writer) = &node.writer else { return };
        let (nothing_left, cached) = writer.shed();
        if nothing_left {
            node.attrs = writer.attrs();
            node.writer = None;
            tree.reap(ino);
        }
        drop(tree);
        drop(cached);
    }
}

fn globs<'a>(globs: impl Iterator<Item = &'a Glob>) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    set.build()
        .map_err(|e| Error::new(Kind::Invalid, "read patterns").because(e))
}

fn file_status(tree: &Tree, node: &Node) -> Option<FileStatus> {
    let entry_size = node.entry.as_ref().map_or(0, |entry| entry.size);
    let mut status = FileStatus {
        path: tree.path(node.ino),
        state: FileState::Clean,
        size: entry_size,
        sent: entry_size,
        error: None,
    };
    let Some(writer) = &node.writer else {
        return Some(status);
    };
    let (top, flight, last, sent) = writer.look();
    status.size = writer.size();
    status.sent = sent;
    status.state = match (flight, top, &last) {
        (write::Flight::Sealing | write::Flight::Keeping, ..) => FileState::Sealing,
        (write::Flight::Uploading, ..) => FileState::Uploading,
        (_, write::Top::Touched | write::Top::Written, _) => FileState::Dirty,
        (write::Flight::Parked, ..) => match writer.parked() {
            Some((_, true)) => FileState::Deferred,
            _ => FileState::Owed,
        },
        (.., write::Last::Failed { .. }) if writer.is_open() => FileState::Failed,
        (.., write::Last::Failed { .. }) => FileState::Unsent,
        (.., write::Last::Committed) => FileState::Committed,
        (.., write::Last::None) => FileState::Clean,
    };
    if matches!(status.state, FileState::Clean | FileState::Committed) {
        status.sent = status.size;
    }
    if let write::Last::Failed { error, .. } = last {
        status.error = Some(error.to_string());
    }
    Some(status)
}

impl write::Owner for Vfs {
    fn committed(&self, ino: u64, entry: &Entry, committed: &Place) {
        {
            let mut tree = self.tree();
            let mut number = 0;
            if let Some(node) = tree.get_mut(ino) {
                let now = Instant::now();
                node.checked = now;
                node.changed = Some(now);
                node.pages = Some(entry.version.clone());
                node.entry = Some(Arc::new(entry.clone()));
                if let Some(writer) = &node.writer {
                    node.attrs = writer.attrs();
                    node.written = writer.written();
                    number = writer.committed_number();
                }
            }
            let place = tree
                .get(ino)
                .and_then(|node| tree.place(node.parent, &node.name));
            // Renamed since: what is left under that name goes with the next commit.
            if place.as_ref() == Some(committed) {
                tree.lay(ino);
            }
            lock(&self.refusals).retain(|(there, at_ms, file)| {
                let superseded = Some(there) == place.as_ref() && *at_ms < number;
                if superseded {
                    file.discard();
                }
                !superseded
            });
        }
        self.changed.notify_waiters();
    }

    fn diverted(
        &self,
        ino: u64,
        was: &Place,
        theirs: &Entry,
        other: &Entry,
        settle: &mut dyn FnMut(After),
    ) {
        let mut tree = self.tree();
        let now = Instant::now();
        let here = tree.get(ino).filter(|node| node.is_named());
        let here = here.and_then(|node| tree.place(node.parent, &node.name));
        let node = tree.get_mut(ino).filter(|_| here.as_ref() == Some(was));
        let Some(node) = node else {
            return settle(After::Elsewhere);
        };
        let writer = node.writer.as_ref();
        if writer.is_some_and(|writer| writer.is_gone()) {
            return settle(After::Elsewhere);
        }
        let parent = node.parent;
        (node.checked, node.changed) = (now, Some(now));
        if node.handles > 0 || writer.is_some_and(|writer| writer.look().0 != write::Top::Same) {
            // Who has it open goes on with ours, which is the file beside it now.
            node.pages = Some(other.version.clone());
            node.entry = Some(Arc::new(other.clone()));
            tree.rename(ino, parent, &other.name);
            tree.insert(parent, &theirs.name, theirs.kind, Some(theirs.clone()));
            tree.lay(ino);
            settle(After::Ours(tree.path(ino)));
        } else {
            (node.attrs, node.written, node.ctime) = (theirs.attrs.clone(), None, None);
            node.pages = None;
            node.entry = Some(Arc::new(theirs.clone()));
            tree.apply(parent, other.clone(), now);
            tree.lay(ino);
            settle(After::Theirs);
        }
    }

    fn moved(&self) {
        self.changed.notify_waiters();
    }

    fn failed(&self, ino: u64, error: &Error) {
        if matches!(
            error.kind,
            Kind::Invalid | Kind::NameTooLong | Kind::IsDir | Kind::NotDir
        ) {
            let tree = self.tree();
            if let Some(node) = tree.get(ino) {
                let key = (node.parent, node.name.clone());
                lock(&self.refused).insert(key, (Instant::now(), error.clone()));
            }
        }
        self.changed.notify_waiters();
    }

    fn rested(&self, ino: u64) {
        let size = self
            .tree()
            .get(ino)
            .and_then(|n| n.writer.as_ref().map(|w| w.size()));
        if let Some(size) = size {
            lock(&self.kept).push_back((ino, size));
            self.shed();
        }
        self.changed.notify_waiters();
    }

    fn dropped(&self, ino: u64) {
        let mut tree = self.tree();
        if let Some(node) = tree.get_mut(ino) {
            node.writer = None;
            tree.reap(ino);
        }
        tree.lay(ino);
        drop(tree);
        self.changed.notify_waiters();
    }
}
