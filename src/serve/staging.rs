//! Content that is not yet visible: one hidden file per upload, and its digests as they grow.
//!
//! [`Staged`] is the file. [`Whole`] fills it from front to back. [`Parts`] fills it in any order and
//! from many connections: what arrives at the frontier (all bytes below it are hashed) is hashed from
//! memory; what was written ahead of it is read back when the frontier gets there. A part that is
//! sent again takes the frontier back to its beginning, where the state of the digests was kept.

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How much is read back in one go, in bytes.
const READ_BACK: usize = 1 << 20;

/// The digests that records hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Digests {
    sha1: Sha1,
    sha256: Sha256,
}

impl Digests {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        // In pieces that stay in the cache for the second digest.
        for piece in bytes.chunks(64 * 1024) {
            self.sha1.update(piece);
            self.sha256.update(piece);
        }
    }

    /// SHA-1 and SHA-256, lower-case hex.
    pub(super) fn hex(self) -> (String, String) {
        (
            format!("{:x}", self.sha1.finalize()),
            format!("{:x}", self.sha256.finalize()),
        )
    }
}

/// A path in `dir` that was not used before.
pub(super) fn fresh(dir: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    dir.join(format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ))
}

/// A hidden file, removed unless it is taken.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    file: File,
    taken: AtomicBool,
}

impl Staged {
    /// Makes a new file in `dir`.
    pub(super) fn new(dir: &Path) -> io::Result<Staged> {
        let path = fresh(dir);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Staged {
            path,
            file,
            taken: AtomicBool::new(false),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Moves it to its place, replacing what is there.
    pub(super) fn take(&self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.taken.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.taken.load(Ordering::Acquire) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An upload in one request.
#[derive(Debug)]
pub(super) struct Whole {
    staged: Staged,
    size: u64,
    digests: Digests,
}

impl Whole {
    pub(super) fn new(staged: Staged) -> Whole {
        Whole {
            staged,
            size: 0,
            digests: Digests::default(),
        }
    }

    /// Appends. Blocks.
    pub(super) fn put(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.staged.file.write_all_at(piece, self.size)?;
            self.digests.update(piece);
            self.size += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> (Staged, Digests) {
        (self.staged, self.digests)
    }
}

/// Why a part, or the end of an upload, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another part has some of these bytes, or this index another place.
    Overlap,
    /// Parts are missing, or still under way.
    Incomplete,
    /// The upload is being completed.
    Closing,
}

/// An upload in many requests, of a size that is known from the start.
#[derive(Debug)]
pub(super) struct Parts {
    staged: Staged,
    total: u64,
    count: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By offset.
    parts: BTreeMap<u64, Part>,
    /// The offset of each index.
    places: HashMap<u32, u64>,
    /// Parts that are whole.
    done: u32,
    frontier: u64,
    digests: Digests,
    /// The digests at the beginning of each part that the frontier has passed.
    marks: BTreeMap<u64, Digests>,
    closing: bool,
    touched: Instant,
}

#[derive(Debug)]
struct Part {
    index: u32,
    size: u64,
    received: u64,
    /// The try that may write, also the lock under which it writes: when a newer one has taken over,
    /// no byte of the older can arrive any more.
    turn: Arc<Mutex<u64>>,
}

impl Parts {
    /// `total` bytes in `count` parts.
    pub(super) fn new(staged: Staged, total: u64, count: u32) -> io::Result<Parts> {
        staged.file.set_len(total)?;
        let state = State {
            parts: BTreeMap::new(),
            places: HashMap::new(),
            done: 0,
            frontier: 0,
            digests: Digests::default(),
            marks: BTreeMap::new(),
            closing: false,
            touched: Instant::now(),
        };
        Ok(Parts {
            staged,
            total,
            count,
            state: Mutex::new(state),
        })
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// When a part was last begun or written.
    pub(super) fn touched(&self) -> Instant {
        self.state().touched
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins part `index` at `offset` (both in range), or begins it again. Blocks while an older try
    /// of the same part is writing.
    pub(super) fn begin(
        self: &Arc<Self>,
        index: u32,
        offset: u64,
        size: u64,
    ) -> Result<PartWriter, Refused> {
        loop {
            let turn = self.state().claim(index, offset, size)?;
            let mut now = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.state();
            // An older try may have failed, and taken the part away, while this one waited for it.
            if !state
                .parts
                .get(&offset)
                .is_some_and(|part| Arc::ptr_eq(&part.turn, &turn))
            {
                continue;
            }
            *now += 1;
            let mine = *now;
            state.restart(offset);
            drop(state);
            drop(now);
            return Ok(PartWriter {
                parts: self.clone(),
                offset,
                at: offset,
                turn,
                mine,
            });
        }
    }

    /// Reads back and hashes a little, if the frontier stands before bytes that are there.
    fn step(&self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut state = self.state();
        let at = state.frontier;
        let most = (state.ahead() as usize).min(buffer.len());
        if most == 0 {
            return Ok(false);
        }
        self.staged.file.read_exact_at(&mut buffer[..most], at)?;
        state.hash(&buffer[..most]);
        Ok(true)
    }

    /// Hashes what can be hashed. Blocks.
    fn catch_up(&self) -> io::Result<()> {
        if self.state().ahead() == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; READ_BACK];
        while self.step(&mut buffer)? {}
        Ok(())
    }

    /// Ends the upload if all parts are there; no part may begin any more until [`Parts::reopen`].
    /// Blocks while the rest is hashed.
    pub(super) fn finish(&self) -> io::Result<Result<Digests, Refused>> {
        {
            let mut state = self.state();
            if state.closing {
                return Ok(Err(Refused::Closing));
            }
            let sum: u64 = state.parts.values().map(|part| part.size).sum();
            if state.done != self.count || sum != self.total {
                return Ok(Err(Refused::Incomplete));
            }
            state.closing = true;
        }
        self.catch_up().inspect_err(|_| self.reopen())?;
        let state = self.state();
        debug_assert_eq!(state.frontier, self.total);
        Ok(Ok(state.digests.clone()))
    }

    /// The end was refused elsewhere: parts may come again.
    pub(super) fn reopen(&self) {
        self.state().closing = false;
    }

    pub(super) fn staged(&self) -> &Staged {
        &self.staged
    }
}

impl State {
    fn claim(&mut self, index: u32, offset: u64, size: u64) -> Result<Arc<Mutex<u64>>, Refused> {
        self.touched = Instant::now();
        if self.closing {
            return Err(Refused::Closing);
        }
        match (self.places.get(&index), self.parts.get(&offset)) {
            (None, None) => {}
            (Some(place), Some(part)) if *place == offset && part.size == size => {
                return Ok(part.turn.clone());
            }
            _ => return Err(Refused::Overlap),
        }
        let before = self.parts.range(..offset).next_back();
        let after = self.parts.range(offset..).next();
        if before.is_some_and(|(at, part)| at + part.size > offset)
            || after.is_some_and(|(at, _)| offset + size > *at)
        {
            return Err(Refused::Overlap);
        }
        let turn = Arc::new(Mutex::new(0));
        self.places.insert(index, offset);
        self.parts.insert(
            offset,
            Part {
                index,
                size,
                received: 0,
                turn: turn.clone(),
            },
        );
        self.done += u32::from(size == 0);
        Ok(turn)
    }

    /// The part at `offset` has no bytes any more.
    fn restart(&mut self, offset: u64) {
        if self.frontier > offset {
            let mark = self.marks.range(..=offset).next_back();
            (self.frontier, self.digests) = mark
                .map_or((0, Digests::default()), |(at, digests)| {
                    (*at, digests.clone())
                });
            let frontier = self.frontier;
            self.marks.retain(|at, _| *at <= frontier);
        }
        if let Some(part) = self.parts.get_mut(&offset) {
            self.done -= u32::from(part.size > 0 && part.received == part.size);
            part.received = 0;
        }
    }

    /// Bytes that are there behind the frontier, of one part.
    fn ahead(&self) -> u64 {
        let part = self.parts.range(..=self.frontier).next_back();
        part.map_or(0, |(at, part)| {
            (at + part.received).saturating_sub(self.frontier)
        })
    }

    /// The next bytes at the frontier.
    fn hash(&mut self, bytes: &[u8]) {
        if self.parts.contains_key(&self.frontier) {
            self.marks.insert(self.frontier, self.digests.clone());
        }
        self.digests.update(bytes);
        self.frontier += bytes.len() as u64;
    }
}

/// One try of one part. Dropped before its end, the part is as if never sent.
#[derive(Debug)]
pub(super) struct PartWriter {
    parts: Arc<Parts>,
    offset: u64,
    at: u64,
    turn: Arc<Mutex<u64>>,
    mine: u64,
}

impl PartWriter {
    /// Writes the next bytes; never more than the part's size in all (the caller counts). Fails with
    /// `Interrupted` if a newer try has taken over. Blocks.
    pub(super) fn put(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if *turn != self.mine {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "sent again meanwhile",
                ));
            }
            self.parts.staged.file.write_all_at(piece, self.at)?;
            let mut state = self.parts.state();
            if state.frontier == self.at {
                state.hash(piece);
            }
            self.at += piece.len() as u64;
            if let Some(part) = state.parts.get_mut(&self.offset) {
                part.received = self.at - self.offset;
                state.done += u32::from(part.received == part.size && !piece.is_empty());
            }
            state.touched = Instant::now();
        }
        Ok(())
    }

    /// The part is whole: hashes what this may have set free. Blocks.
    pub(super) fn finish(self) -> io::Result<()> {
        self.parts.catch_up()
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.parts.state();
        let Some(part) = state.parts.get(&self.offset) else {
            return;
        };
        if *turn != self.mine || part.received == part.size {
            return;
        }
        let index = part.index;
        state.restart(self.offset);
        state.parts.remove(&self.offset);
        state.places.remove(&index);
    }
}
