//! POSIX meaning over a store: inodes, handles, directories, attributes. Knows no FUSE.

mod status;

pub use status::{FileState, FileStatus, Status};

use crate::error::Result;
use crate::store::{Probe, Store};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Bound of create, mkdir, unlink and rename.
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
    /// A directory with more entries below it is not renamed but copied by the caller (`EXDEV`).
    pub rename_max: usize,
    /// The socket of this process, which `user.assetfs.control` on the mount's root names; `None`: the
    /// attribute is not there.
    pub control: Option<PathBuf>,
}

/// What a drain left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Acknowledged files that are still in the spool.
    pub kept: usize,
    /// Files whose program was told of a failure, kept in the spool as well.
    pub refused: usize,
}

/// A mounted store.
#[derive(Debug)]
pub struct Vfs {}

impl Vfs {
    /// A filesystem over `store`, which was probed. Adopts what the spool folder holds.
    pub fn new(
        _store: Arc<dyn Store>,
        _probe: &Probe,
        _options: Options,
        _rt: tokio::runtime::Handle,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Vfs {}))
    }

    /// What the mount is doing; from memory.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Where one file stands, by its path below the mountpoint; `None` if it is not known here.
    #[must_use]
    pub fn file_status(&self, _path: &str) -> Option<FileStatus> {
        None
    }

    /// Takes writes again, after a drain whose unmount was refused as busy.
    pub fn undrain(&self) {}

    /// Takes no new writes (`EROFS`) and sends what there is to send, for at most `limit`. May be
    /// called again, also after the unmount.
    pub async fn drain(&self, _limit: Duration) -> Drained {
        Drained {
            kept: 0,
            refused: 0,
        }
    }
}
