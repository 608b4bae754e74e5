//! The descriptors of a spool: however many files it has, at most so many are open at once. A file that
//! has a name is closed when others need its place, and opened again when its bytes are next needed.
//!
//! A sync after that covers what was written before it: the kernel writes back by file, and tells a
//! failure that nobody has seen to the next descriptor.

use rustix::process::{Resource, getrlimit};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// More open files are not faster: opening one again takes microseconds.
const MOST: u64 = 1024;

/// The open files of a spool, in the order in which they were opened.
#[derive(Debug)]
pub(super) struct Handles {
    most: usize,
    open: Mutex<VecDeque<Weak<Handle>>>,
}

/// The descriptor of one file, if it is open.
#[derive(Debug, Default)]
pub(super) struct Handle(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    file: Option<Arc<File>>,
    /// It could not be opened again.
    pinned: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handles {
    /// Half of what the process may open; the other half is for connections, the kernel and records.
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Handles::at_most((limit / 2).clamp(1, MOST) as usize)
    }

    pub(super) fn at_most(most: usize) -> Self {
        Handles {
            most,
            open: Mutex::default(),
        }
    }

    /// Opens a file, even if the process has none left, as long as another one here can be closed.
    pub(super) fn open(&self, how: &OpenOptions, path: &Path) -> std::io::Result<File> {
        loop {
            match how.open(path) {
                Err(error) if is_short(&error) && self.close_one() => {}
                done => return done,
            }
        }
    }

    /// Keeps `file` open for `handle` until others need its place.
    pub(super) fn keep(&self, handle: &Arc<Handle>, file: File) -> Arc<File> {
        let file = Arc::new(file);
        lock(&handle.0).file = Some(file.clone());
        let count = {
            let mut open = lock(&self.open);
            open.push_back(Arc::downgrade(handle));
            open.len()
        };
        if count > self.most {
            self.close_one();
        }
        file
    }

    /// Closes what was opened first; `false` if nothing is open.
    fn close_one(&self) -> bool {
        let first = lock(&self.open).pop_front();
        if let Some(handle) = first.as_ref().and_then(Weak::upgrade) {
            let mut slot = lock(&handle.0);
            if !slot.pinned {
                slot.file = None;
            }
        }
        first.is_some()
    }
}

impl Handle {
    /// The file, if it is open.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        lock(&self.0).file.clone()
    }

    /// `file`, which is this one's, stays open for as long as somebody holds the handle.
    pub(super) fn pin(&self, file: Arc<File>) {
        *lock(&self.0) = Slot {
            file: Some(file),
            pinned: true,
        };
    }

    /// Lets go of the file, however it was kept.
    pub(super) fn close(&self) {
        *lock(&self.0) = Slot::default();
    }
}

/// Whether the process or the machine cannot open more files for now, whatever the file.
pub(super) fn is_short(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
}
