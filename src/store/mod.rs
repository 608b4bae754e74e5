//! The store: what a remote service can be asked, in one trait, and what it is like, in plain data.
//!
//! Nothing here knows FUSE, inodes, spool files or HTTP. A store file (`proget.rs`, ...) speaks one
//! service's protocol through `crate::http`; the wrappers around it are built in one function,
//! in one order.

pub mod boxcom;
mod entry;
pub mod iotfile;
mod limit;
#[cfg(test)]
pub(crate) mod memory;
pub mod proget;
mod retry;
mod trace;
mod wrapped;

pub use crate::flow::{PIECE, Sink, Source};
pub use entry::*;
pub use retry::RetrySettings;
pub use trace::{Counts, OpCount, Stats};
pub use wrapped::{WrapSettings, wrapped};

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

/// What [`Store::probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The directory that the mount shows.
    pub root: Addr,
    /// Whose store it is: an account id, or a fingerprint of the credential; never the credential.
    pub account: String,
    /// A line for people: what answered, and in which version.
    pub banner: String,
}

/// A remote store.
///
/// Addresses and versions are opaque to the callers. Every method may be called from many tasks at
/// once. Errors carry the meaning of the service's answer; retries are not made here but in the
/// wrapper, except that an ambiguous answer to a write is settled by looking (`put`, `finish`, `mkdir`,
/// `remove`, `rename`), never by repeating blindly.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// What this store is like. Constant after [`Store::probe`].
    fn caps(&self) -> &Caps;
    /// Whether `name` can be stored at all: `Invalid` or `NameTooLong` if not. Never waits.
    fn check_name(&self, dir: &Addr, name: &str) -> Result<()>;
    /// Reaches the service, proves the credentials, finds the mounted directory.
    async fn probe(&self) -> Result<Probe>;
    /// One entry, fresh; `NotFound` if there is none.
    async fn stat(&self, place: &Place) -> Result<Entry>;
    /// All entries of a directory, in no order.
    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>>;
    /// The bytes `range` (never empty, within the size) of exactly this version into `sink`;
    /// `Stale` if the store has another one by now. On an error the bytes put so far are good.
    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()>;
    /// Stores a whole content of at most [`Caps::one_shot_max`] bytes in one go; `Restart` if it must go
    /// in parts all the same.
    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry>;
    /// Begins an upload in parts.
    async fn start(&self, new: &New) -> Result<Upload>;
    /// Sends one part. `Restart` if the upload is void.
    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt>;
    /// Commits: afterwards everybody sees the new content, before nobody. `receipts` are in order and
    /// complete, but for `tail`, which is given (with its source) only if [`Caps::tail_in_finish`].
    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry>;
    /// Gives an upload up; nothing to give up is success.
    async fn abort(&self, up: &Upload, new: &New) -> Result<()>;
    /// The parts that the store has of an upload, for resuming; `Restart` if it is void,
    /// `Unsupported` unless [`Caps::resume`].
    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>>;
    /// Removes this version of a file or symlink; `NotFound` if it is gone, `Conflict` if the name is seen
    /// to have another one by now. A removal that is tried again looks before.
    async fn remove(&self, entry: &Entry) -> Result<()>;
    /// Makes a directory; `Exists` if the name is taken.
    async fn mkdir(&self, place: &Place) -> Result<Entry>;
    /// Removes an empty directory; `NotEmpty` otherwise. Never removes a file.
    async fn rmdir(&self, entry: &Entry) -> Result<()>;
    /// Renames or moves within the store; `Unsupported` unless [`Caps::rename_file`] /
    /// [`Caps::rename_dir`]. `over` is the entry at the target, if any.
    async fn rename(&self, entry: &Entry, to: &Place, over: Option<&Entry>) -> Result<Entry>;
    /// Changes what [`Caps::keeps`] allows; the rest of `attrs` is ignored. The whole set is replaced.
    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry>;
    /// Quota and use, or `None` if the store tells neither.
    async fn space(&self) -> Result<Option<Space>>;
}

/// When something must be told to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// With the first request of an upload.
    Start,
    /// With the commit.
    End,
}

/// What a store can keep of [`Attrs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    /// Resolution of a settable mtime; `None`: times are the server's.
    pub mtime: Option<Duration>,
    /// Permission bits.
    pub mode: bool,
    /// Extended attributes in `user.`.
    pub xattrs: bool,
    /// Symbolic links.
    pub symlinks: bool,
    /// Attributes of directories too.
    pub on_dirs: bool,
}

impl Keeps {
    /// What is kept of `attrs`, whatever the resolution of times.
    #[must_use]
    pub fn of(&self, attrs: &Attrs) -> Attrs {
        Attrs {
            mtime: attrs.mtime.filter(|_| self.mtime.is_some()),
            mode: attrs.mode.filter(|_| self.mode),
            xattrs: if self.xattrs {
                attrs.xattrs.clone()
            } else {
                std::collections::BTreeMap::new()
            },
        }
    }
}

/// What a store is like. The layers above read it and nothing else to decide how to use a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Its name for people, such as "ProGet".
    pub name: &'static str,
    /// Largest content for [`Store::put`], in bytes; larger ones go in parts.
    pub one_shot_max: u64,
    /// When the total size must be known.
    pub size_at: At,
    /// When the digest of the whole must be known; `None`: never.
    pub digest_at: Option<At>,
    /// Digests that the store reports of a stored content (empty: none). The first is taken while
    /// writing and compared after each commit.
    pub digests: &'static [Algo],
    /// Whether parts may be sent at the same time.
    pub parallel_parts: bool,
    /// Whether a part that was sent may be sent again with other bytes.
    pub replaces_parts: bool,
    /// Whether the last piece goes with the commit.
    pub tail_in_finish: bool,
    /// Most parts of one upload.
    pub parts_max: u32,
    /// Whether an upload can go on after a restart of this program.
    pub resume: bool,
    /// Whether an upload can be given up explicitly.
    pub abort: bool,
    /// Longest pause inside an upload after which it must be taken for void.
    pub idle: Option<Duration>,
    /// Native rename of a file.
    pub rename_file: bool,
    /// Native rename of a directory.
    pub rename_dir: bool,
    /// Native rename replaces an existing file at once.
    pub rename_replaces: bool,
    /// A directory may be empty.
    pub empty_dirs: bool,
    /// Directories at all.
    pub dirs: bool,
    /// `O_EXCL` is decided by the server, not by our look.
    pub exclusive_create: bool,
    /// A replace can be made conditional on the version that it replaces.
    pub conditional_replace: bool,
    /// Names that differ only in case are one name.
    pub case_folds: bool,
    /// The store tells quota and use.
    pub space: bool,
    /// The largest file, in bytes, if known.
    pub size_max: Option<u64>,
    /// What is kept beside the bytes.
    pub keeps: Keeps,
}
