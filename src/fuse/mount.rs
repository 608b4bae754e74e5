//! Mounting and unmounting.

use super::Fs;
use crate::error::{Error, Kind, Result};
use crate::vfs::Vfs;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Event loops, each with its own descriptor of /dev/fuse.
const EVENT_LOOPS: usize = 2;

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
pub struct Mounted {
    session: Mutex<Option<BackgroundSession>>,
    mountpoint: PathBuf,
}

/// Mounts; returns when the mount answers.
pub fn mount(
    vfs: Arc<Vfs>,
    mountpoint: &Path,
    options: &MountOptions,
    rt: tokio::runtime::Handle,
) -> Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.replace(',', "\\,")),
        // As a word for the kernel, so that root's own mount(2) has it as well as fusermount3.
        MountOption::CUSTOM("subtype=assetfs".to_owned()),
        MountOption::DefaultPermissions,
        if options.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    for word in &options.words {
        config.mount_options.push(match word.as_str() {
            "nosuid" => MountOption::NoSuid,
            "suid" => MountOption::Suid,
            "nodev" => MountOption::NoDev,
            "dev" => MountOption::Dev,
            "noexec" => MountOption::NoExec,
            "exec" => MountOption::Exec,
            "noatime" => MountOption::NoAtime,
            "atime" => MountOption::Atime,
            "sync" => MountOption::Sync,
            "async" => MountOption::Async,
            "dirsync" => MountOption::DirSync,
            other => MountOption::CUSTOM(other.to_owned()),
        });
    }
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(EVENT_LOOPS);
    config.clone_fd = true;
    let failed = |e| Error::local("mount", e).at(mountpoint.display().to_string());
    let session = Session::new(Fs::new(vfs, rt), mountpoint, &config).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    widen_readahead(mountpoint);
    Ok(Mounted {
        session: Mutex::new(Some(session)),
        mountpoint: mountpoint.to_owned(),
    })
}

/// The kernel's own read-ahead on the mount, in KiB: one request then asks for as much as a request can.
const READAHEAD_KIB: u32 = 1024;

/// The device number of what is mounted there, major and minor, without a question to who serves it. A process
/// that waits for its own answer and is killed meanwhile can never end: the kernel waits for the answer, and
/// the mount for the process.
///
/// # Errors
/// Those of statx(2).
pub fn device_of(mountpoint: &Path) -> std::io::Result<(u32, u32)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let from_memory = AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(CWD, mountpoint, from_memory, StatxFlags::empty())?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

/// The kernel offers 128 KiB at most in the handshake; more is a matter of the device, and needs root.
fn widen_readahead(mountpoint: &Path) {
    let Ok((major, minor)) = device_of(mountpoint) else {
        return;
    };
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&knob, READAHEAD_KIB.to_string()) {
        log::debug!("{knob}: {error}");
    }
}

impl Mounted {
    /// Waits until the filesystem is unmounted, by whomever. Blocks the thread.
    pub fn wait(&self) {
        let session = self
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(session) = session
            && let Err(error) = session.join()
        {
            log::error!("{}: {error}", self.mountpoint.display());
        }
    }

    /// Unmounts; `Busy` if something holds it.
    pub fn unmount(&self) -> Result<()> {
        unmount(&self.mountpoint)
    }
}

/// Unmounts a mountpoint; `Busy` if something holds it. An ordinary user goes through `fusermount3`.
fn unmount(mountpoint: &Path) -> Result<()> {
    let failed = |e: std::io::Error| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::new(Kind::Busy, "unmount").at(mountpoint.display().to_string()),
        _ => Error::local("unmount", e).at(mountpoint.display().to_string()),
    };
    match rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let out = std::process::Command::new("fusermount3")
        .arg("-u")
        .arg("--")
        .arg(mountpoint)
        .output();
    let out = out.map_err(failed)?;
    if out.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr);
    let kind = if words.contains("busy") {
        Kind::Busy
    } else {
        Kind::Local(libc::EIO)
    };
    Err(Error::new(kind, "unmount")
        .at(mountpoint.display().to_string())
        .said(&words))
}
