//! Open files: open, read, write, flush, fsync, release, truncate, fallocate.

use super::tree::Tree;
use super::{Vfs, lock};
use crate::error::{Error, Kind, Result};
use crate::read::Reader;
use crate::store::{Entry, Kind as EntryKind};
use crate::write::{Answer, Room, Target, Writer};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What open(2) was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// `O_WRONLY` or `O_RDWR`.
    pub write: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_EXCL`.
    pub exclusive: bool,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The handle.
    pub fh: u64,
    /// What the kernel has of the content is still right.
    pub keep_cache: bool,
}

/// An open handle. A reading one is pinned to the version that the inode had; the inode gets another
/// version only by writes through this mount, which readers here see.
#[derive(Debug)]
pub(super) struct Handle {
    ino: u64,
    write: bool,
    reader: Mutex<Option<Arc<Reader>>>,
}

/// Largest file that is fetched to the spool when its name is removed while it is open, in bytes.
const HOLD_MAX: u64 = 64 << 20;

/// What falloc(2) may be asked for here.
const FALLOC_KEEP_SIZE: i32 = 1;
const FALLOC_PUNCH_HOLE: i32 = 2;
const FALLOC_ZERO_RANGE: i32 = 16;

impl Vfs {
    fn handle(&self, fh: u64) -> Result<Arc<Handle>> {
        let handle = lock(&self.handles).get(&fh).cloned();
        handle.ok_or(Error::new(Kind::Local(libc::EBADF), ""))
    }

    /// The writer of an inode, made if there is none.
    pub(super) fn writer(&self, ino: u64) -> Result<Arc<Writer>> {
        self.writer_in(&mut self.tree(), ino)
    }

    /// Counts a handle, and for a writing one opens the writer, in one step: between the two nothing
    /// may let go of the writer.
    fn hold_open(&self, ino: u64, write: bool) -> Result<Option<Arc<Writer>>> {
        let mut tree = self.tree();
        let writer = match write {
            true => Some(self.writer_in(&mut tree, ino)?),
            false => tree.get(ino).and_then(|node| node.writer.clone()),
        };
        let node = tree.get_mut(ino).ok_or(Error::new(Kind::Stale, "open"))?;
        node.handles += 1;
        if write && let Some(writer) = &writer {
            node.writers += 1;
            writer.opened();
        }
        Ok(writer)
    }

    /// Undoes [`Vfs::hold_open`], and ends what ends with the last handle.
    fn let_go(&self, ino: u64, write: bool) {
        let (writer, times) = {
            let mut tree = self.tree();
            let Some(node) = tree.get_mut(ino) else {
                return;
            };
            node.handles = node.handles.saturating_sub(1);
            if write {
                node.writers = node.writers.saturating_sub(1);
            }
            let held = node.handles == 0 && std::mem::take(&mut node.held);
            let writer = node.writer.clone();
            tree.reap(ino);
            (writer, u32::from(write) + u32::from(held))
        };
        if let Some(writer) = writer {
            for _ in 0..times {
                writer.released();
            }
        }
    }

    /// What speaks against opening a file that is, or was, being written; cuts it if asked.
    fn may_open(&self, ino: u64, writer: &Arc<Writer>, flags: OpenFlags) -> Result<()> {
        if writer.is_gone() && self.tree().get(ino).is_some_and(|node| node.is_named()) {
            // Its name is being removed, and that has to wait for a commit.
            return Err(Error::new(Kind::Busy, "open"));
        }
        writer.told()?;
        if flags.truncate && flags.write {
            writer.touched()?;
        }
        Ok(())
    }

    fn writer_in(&self, tree: &mut Tree, ino: u64) -> Result<Arc<Writer>> {
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "open"))?;
        if let Some(writer) = &node.writer {
            return Ok(writer.clone());
        }
        let entry = node.entry.clone().ok_or(Error::new(Kind::Stale, "open"))?;
        let target = Target {
            attempts: Vec::new(),
            place: tree
                .place(node.parent, &node.name)
                .unwrap_or_else(|| crate::store::Place {
                    dir: "".into(),
                    name: String::new(),
                }),
            path: tree.path(ino),
            replaces: Some((*entry).clone()),
            looked: Some(node.checked),
            removes: Vec::new(),
            exclusive: false,
            attrs: node.attrs.clone(),
        };
        let (path, name) = (target.path.clone(), node.name.clone());
        let writer = Writer::new(ino, self.write.clone(), target, Some(entry));
        self.set_terms(&writer, &path, &name);
        if let Some(node) = tree.get_mut(ino) {
            node.writer = Some(writer.clone());
        }
        Ok(writer)
    }

    /// Opens an inode.
    pub async fn open(&self, ino: u64, flags: OpenFlags) -> Result<Open> {
        if flags.write {
            self.check_writable()?;
        }
        match self.tree().get(ino).map(|node| node.kind) {
            Some(EntryKind::File) => {}
            Some(EntryKind::Dir) => return Err(Error::new(Kind::IsDir, "open")),
            Some(EntryKind::Symlink) => return Err(Error::new(Kind::Local(libc::ELOOP), "open")),
            None => return Err(Error::new(Kind::Stale, "open")),
        }
        // The kernel looked it up a moment ago; ask again only if that is older than the TTL.
        if !flags.truncate {
            self.getattr(ino).await?;
        }
        if flags.write {
            self.claim_name(ino).await?;
        }
        let writer = self.hold_open(ino, flags.write)?;
        if let Some(writer) = &writer
            && let Err(error) = self.may_open(ino, writer, flags)
        {
            self.let_go(ino, flags.write);
            return Err(error);
        }
        let mut tree = self.tree();
        let node = tree.get_mut(ino).ok_or(Error::new(Kind::Stale, "open"))?;
        // Pages of what is written through this mount are kept right by the kernel itself.
        let version = node.entry.as_ref().map(|entry| entry.version.clone());
        let keep_cache = !node.is_settled() || (version.is_some() && node.pages == version);
        node.pages = version;
        drop(tree);
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let handle = Handle {
            ino,
            write: flags.write,
            reader: Mutex::default(),
        };
        lock(&self.handles).insert(fh, Arc::new(handle));
        Ok(Open { fh, keep_cache })
    }

    /// Others have stored a file under a name that one of ours left and still has to remove: once that file
    /// is written here, nothing is removed there any more, not even if it has the same bytes again.
    async fn claim_name(&self, ino: u64) -> Result<()> {
        let struck = {
            let mut tree = self.tree();
            let Some(node) = tree.get(ino) else {
                return Ok(());
            };
            let (parent, name) = (node.parent, node.name.clone());
            let ghost = tree.take_ghost(parent, &name, ino);
            ghost.and_then(|(_, by)| by).zip(tree.place(parent, &name))
        };
        match struck {
            Some((by, place)) => {
                by.strike(&place);
                let struck = self.within_name_timeout("open", by.struck(&place));
                struck.await.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Reads up to `size` bytes from `offset` on; less only at the end.
    pub async fn read(&self, fh: u64, offset: u64, size: u64) -> Result<Bytes> {
        let handle = self.handle(fh)?;
        let range = offset..offset.saturating_add(size);
        let (writer, entry) = {
            let tree = self.tree();
            let node = tree
                .get(handle.ino)
                .ok_or(Error::new(Kind::Stale, "read"))?;
            (
                node.writer.clone().filter(|writer| writer.has_content()),
                node.entry.clone(),
            )
        };
        if let Some(writer) = writer {
            return match writer.read_now(range.clone()) {
                Some(bytes) => bytes,
                None => writer.read(range).await,
            };
        }
        let entry = entry.ok_or(Error::new(Kind::Stale, "read"))?;
        if offset >= entry.size {
            return Ok(Bytes::new());
        }
        let reader = handle.reader(self, &entry);
        if let Some(bytes) = reader.read_now(range.clone()) {
            return Ok(bytes);
        }
        reader.read(range).await.map_err(|error| match error.kind {
            // Removed or replaced under the reader.
            Kind::NotFound => Error {
                kind: Kind::Stale,
                ..error
            },
            _ => error,
        })
    }

    /// The writer behind a handle that can write.
    fn writer_of(&self, fh: u64) -> Result<Arc<Writer>> {
        let handle = self.handle(fh)?;
        if !handle.write {
            return Err(Error::new(Kind::Local(libc::EBADF), "write"));
        }
        self.writer(handle.ino)
    }

    /// Writes all of `bytes` at `offset`, if it need not wait for room in the spool; `None`:
    /// [`Vfs::write`] does.
    pub fn write_now(&self, fh: u64, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        let writer = match self.writer_of(fh) {
            Ok(writer) => writer,
            Err(error) => return Some(Err(error)),
        };
        let len = bytes.len() as u64;
        if !self.write.spool.is_roomy(len) && writer.room(offset, len) != Room::Free {
            return None;
        }
        let done = self.write_to(&writer, offset, bytes);
        if done.as_ref().is_err_and(|error| error.kind == Kind::Full)
            && writer.room(offset, len) != Room::Free
        {
            return None;
        }
        // Whatever refuses it: what is there is not what the program meant.
        Some(done.inspect_err(|error| writer.spoilt(error)))
    }

    /// Writes all of `bytes` at `offset`; waits for room in the spool while there is hope for it.
    pub async fn write(&self, fh: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let writer = self.writer_of(fh)?;
        let done = self.write_in_room(&writer, offset, bytes).await;
        done.inspect_err(|error| writer.spoilt(error))
    }

    pub(super) fn write_to(&self, writer: &Writer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        let end = offset.saturating_add(bytes.len() as u64);
        if self.store.caps().size_max.is_some_and(|max| end > max) {
            return Err(Error::new(Kind::TooLarge, "write"));
        }
        match writer.write(offset, bytes) {
            Err(error) if error.kind == Kind::Full => {
                // Caches give way before a writer is refused.
                self.shed_all();
                writer.write(offset, bytes)
            }
            result => result,
        }
    }

    /// A descriptor is closed: answers when the store has what was written.
    pub async fn flush(&self, fh: u64) -> Result<()> {
        let handle = self.handle(fh)?;
        if !handle.write {
            return Ok(());
        }
        wait(self.writer(handle.ino)?.close()).await
    }

    /// fsync(2): answers when the store has what was written.
    pub async fn fsync(&self, fh: u64) -> Result<()> {
        let handle = self.handle(fh)?;
        let writer = self
            .tree()
            .get(handle.ino)
            .and_then(|node| node.writer.clone());
        match writer {
            Some(writer) => wait(writer.sync()).await,
            None => Ok(()),
        }
    }

    /// The handle is gone. Never waits: what is left to do is done in the background.
    pub fn release(&self, fh: u64) {
        let Some(handle) = lock(&self.handles).remove(&fh) else {
            return;
        };
        self.let_go(handle.ino, handle.write);
    }

    /// Keeps the bytes of an open file that is about to lose its name, if they are few enough and come
    /// within half of `name_timeout`: into the spool, until the last handle is closed.
    pub(super) async fn hold(&self, ino: u64) {
        let Ok(writer) = self.writer(ino) else { return };
        let held = tokio::time::timeout(self.options.name_timeout / 2, writer.hold(HOLD_MAX));
        let slow = || Err(Error::new(Kind::Timeout, "read"));
        if let Err(error) = held.await.unwrap_or_else(|_| slow()) {
            log::warn!("an open file loses its name and its bytes could not be kept: {error}");
        }
        if let Some(node) = self.tree().get_mut(ino)
            && node.handles > 0
            && !std::mem::replace(&mut node.held, true)
        {
            writer.opened();
        }
    }

    /// truncate(2) and ftruncate(2). By name, with nobody writing, it commits before it answers.
    pub(super) async fn truncate(&self, ino: u64, fh: Option<u64>, size: u64) -> Result<()> {
        let kind = self.tree().get(ino).map(|node| node.kind);
        if kind == Some(EntryKind::Dir) {
            return Err(Error::new(Kind::IsDir, "truncate"));
        }
        if self.store.caps().size_max.is_some_and(|max| size > max) {
            return Err(Error::new(Kind::TooLarge, "truncate"));
        }
        let writer = self.writer(ino)?;
        if size == writer.size() && writer.is_settled() {
            return Ok(());
        }
        writer.truncate(size)?;
        let alone = fh.is_none() && self.tree().get(ino).is_some_and(|node| node.writers == 0);
        if !alone {
            return Ok(());
        }
        writer.opened();
        let done = wait(writer.close()).await;
        writer.released();
        done
    }

    /// fallocate(2): plain, `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`.
    pub fn fallocate(&self, fh: u64, offset: u64, length: u64, mode: i32) -> Result<()> {
        let handle = self.handle(fh)?;
        self.check_writable()?;
        let writer = self.writer(handle.ino)?;
        let end = offset
            .checked_add(length)
            .ok_or(Error::new(Kind::TooLarge, "fallocate"))?;
        if self.store.caps().size_max.is_some_and(|max| end > max) {
            return Err(Error::new(Kind::TooLarge, "fallocate"));
        }
        let keep = mode & FALLOC_KEEP_SIZE != 0;
        match mode & !FALLOC_KEEP_SIZE {
            0 if keep || end <= writer.size() => Ok(()),
            0 => writer.truncate(end),
            FALLOC_PUNCH_HOLE if keep => writer.zero(offset..end, false),
            FALLOC_ZERO_RANGE => writer.zero(offset..end, !keep),
            _ => Err(Error::new(Kind::Unsupported, "fallocate")),
        }
    }
}

impl Handle {
    fn reader(&self, vfs: &Vfs, entry: &Arc<Entry>) -> Arc<Reader> {
        let mut reader = lock(&self.reader);
        if let Some(reader) = &*reader
            && reader.entry().version == entry.version
        {
            return reader.clone();
        }
        let new = Arc::new(Reader::new(vfs.cache.clone(), entry.clone()));
        *reader = Some(new.clone());
        new
    }
}

/// Waits for a writer's answer.
pub(super) async fn wait(answer: Answer) -> Result<()> {
    answer
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "commit")))
}
