//! The spool: where the bytes of files being written lie on the local disk.
//!
//! One data file per version being written, in one private folder per mount. A file that is not kept
//! is removed when nobody holds it any more.

use crate::error::{Error, Result};
use crate::store::Source;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::fs::{DirBuilder, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The spool folder of one mount.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    next: AtomicU64,
    bytes: AtomicU64,
    max: Option<u64>,
}

impl Spool {
    /// Opens the folder, which is made (mode 0700) if missing. `max`: most bytes in it.
    pub fn open(dir: &Path, max: Option<u64>) -> Result<Arc<Self>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::local("open spool", e).at(dir.display().to_string()))?;
        Ok(Arc::new(Spool {
            dir: dir.to_owned(),
            next: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max,
        }))
    }

    /// Bytes in the spool, by the sizes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A new, empty data file.
    pub fn create(self: &Arc<Self>) -> Result<Arc<SpoolFile>> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self
                .dir
                .join(format!("{}-{number}.data", std::process::id()));
            match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => {
                    return Ok(Arc::new(SpoolFile {
                        spool: self.clone(),
                        file,
                        path,
                        charged: AtomicU64::new(0),
                        keep: AtomicBool::new(false),
                    }));
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::local("create spool file", e)),
            }
        }
    }
}

/// One data file. Offsets in it are offsets in the file it stands for.
#[derive(Debug)]
pub struct SpoolFile {
    spool: Arc<Spool>,
    file: File,
    path: PathBuf,
    /// Bytes counted against the budget.
    charged: AtomicU64,
    keep: AtomicBool,
}

impl SpoolFile {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps it on disk when it is dropped.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Undoes [`SpoolFile::keep`].
    pub fn unkeep(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }

    /// Writes all of `bytes` at `offset`, `fresh` of which were not in this file before; `Full` beyond
    /// the budget or on a full disk.
    pub fn write_at(&self, bytes: &[u8], offset: u64, fresh: u64) -> Result<()> {
        self.charge(fresh)?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| Error::local("write to spool", e))
    }

    fn charge(&self, more: u64) -> Result<()> {
        let before = self.spool.bytes.fetch_add(more, Ordering::Relaxed);
        if self.spool.max.is_some_and(|max| before + more > max) {
            self.spool.bytes.fetch_sub(more, Ordering::Relaxed);
            return Err(Error::new(crate::error::Kind::Full, "write to spool")
                .said("the spool is full (spool_max)"));
        }
        self.charged.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Cuts or grows it; grown parts are zeros.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(|e| Error::local("resize spool file", e))
    }

    /// The bytes of `range`; zeros past the end.
    pub fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
        self.fill(&mut bytes, range.start)?;
        Ok(bytes.freeze())
    }

    /// Fills `buf` with the bytes from `offset` on; zeros past the end.
    pub fn fill(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
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

    /// Copies `range` from another spool file to the same place, inside the kernel; `fresh` as in
    /// [`SpoolFile::write_at`].
    pub fn copy_from(&self, other: &SpoolFile, range: Range<u64>, fresh: u64) -> Result<()> {
        self.charge(fresh)?;
        let (mut from, mut to) = (range.start, range.start);
        while to < range.end {
            let want = usize::try_from(range.end - to)
                .unwrap_or(usize::MAX)
                .min(1 << 30);
            let n = rustix::fs::copy_file_range(
                &other.file,
                Some(&mut from),
                &self.file,
                Some(&mut to),
                want,
            )
            .map_err(|e| Error::local("copy in spool", e.into()))?;
            if n == 0 {
                // Past the end of the other file: zeros.
                return self.set_len_at_least(range.end);
            }
        }
        Ok(())
    }

    fn set_len_at_least(&self, len: u64) -> Result<()> {
        let now = self
            .file
            .metadata()
            .map_err(|e| Error::local("stat spool file", e))?
            .len();
        if now < len { self.set_len(len) } else { Ok(()) }
    }

    /// Makes its bytes durable.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::local("sync spool file", e))
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.spool
            .bytes
            .fetch_sub(*self.charged.get_mut(), Ordering::Relaxed);
        if !*self.keep.get_mut()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[async_trait]
impl Source for SpoolFile {
    // The pieces were just written and come from the page cache: reading them here is shorter than
    // handing them to another thread.
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.read_at(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn spool(max: Option<u64>) -> (tempfile::TempDir, Arc<Spool>) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), max).unwrap();
        (dir, spool)
    }

    #[test]
    fn a_file_vanishes_with_its_last_holder_unless_kept() {
        let (_dir, spool) = spool(None);
        let (a, b) = (spool.create().unwrap(), spool.create().unwrap());
        let (pa, pb) = (a.path().to_owned(), b.path().to_owned());
        b.keep();
        drop((a, b));
        assert!(!pa.exists());
        assert!(pb.exists());
    }

    #[test]
    fn bytes_come_back_and_past_the_end_are_zeros() {
        let (_dir, spool) = spool(None);
        let file = spool.create().unwrap();
        file.write_at(b"abc", 2, 3).unwrap();
        assert_eq!(&file.read_at(0..8).unwrap()[..], b"\0\0abc\0\0\0");
        let other = spool.create().unwrap();
        other.copy_from(&file, 1..7, 6).unwrap();
        assert_eq!(&other.read_at(0..7).unwrap()[..], b"\0\0abc\0\0");
    }

    #[test]
    fn beyond_the_budget_a_write_is_enospc_and_room_comes_back() {
        let (_dir, spool) = spool(Some(10));
        let file = spool.create().unwrap();
        file.write_at(&[1; 8], 0, 8).unwrap();
        assert_eq!(file.write_at(&[1; 8], 8, 8).unwrap_err().kind, Kind::Full);
        drop(file);
        assert_eq!(spool.bytes(), 0);
        spool.create().unwrap().write_at(&[1; 10], 0, 10).unwrap();
    }
}
