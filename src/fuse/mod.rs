//! The only place that names fuser: translates, answers or parks.
//!
//! Every callback is one future over the vfs. It is polled once on the FUSE thread: what memory and the
//! local disk can answer is answered there and then; what has to wait goes on as a task, and the thread
//! takes the next request. Nothing here blocks, and a reply that is dropped answers EIO by itself.

mod answer;
mod dirs;
mod mount;

pub use mount::{MountOptions, Mounted, device_of, mount};

use crate::error::Kind;
use crate::vfs::{Change, OpenFlags, Statfs, TimeSet, Vfs};
use answer::{
    NAME_MAX, errno, file_attr, file_type, fopen_flags, nothing, open_flags, reply_empty,
    reply_entry, reply_written, reply_xattr, text,
};
use dirs::Dirs;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags as FuseOpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

/// Reads and writes up to this size in one request, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel keeps in flight in the background (read-ahead).
const MAX_BACKGROUND: u16 = 64;

/// The filesystem as fuser sees it.
#[derive(Debug)]
struct Fs {
    vfs: Arc<Vfs>,
    rt: tokio::runtime::Handle,
    dirs: Arc<Dirs>,
}

impl Fs {
    fn new(vfs: Arc<Vfs>, rt: tokio::runtime::Handle) -> Self {
        Fs {
            vfs,
            rt,
            dirs: Arc::default(),
        }
    }

    /// Answers now or parks: polls once here, and leaves the rest to a task.
    fn serve(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        let _in_runtime = self.rt.enter();
        if work
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
        {
            self.rt.spawn(work);
        }
    }
}

/// `text`, or answers with its error and leaves.
macro_rules! name {
    ($name:expr, $reply:expr) => {
        match text($name) {
            Ok(name) => name.to_owned(),
            Err(error) => return $reply.error(errno("name", 0, &error)),
        }
    };
}

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Pages are dropped at open, by version; a time that changes must not drop them.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::debug!("the kernel does not offer {wanted:?}");
            }
        }
        // An older kernel's own bounds are the nearest values.
        let _ = config
            .set_max_write(MAX_WRITE)
            .or_else(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = match text(name) {
            Ok(name) => name.to_owned(),
            Err(error) if error.kind == Kind::Invalid => {
                return reply.error(Errno::ENOENT);
            }
            Err(error) => return reply.error(errno("lookup", parent.0, &error)),
        };
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.lookup(parent.0, &name).await {
                Err(error) if error.kind == Kind::NotFound => {
                    // Inode 0 is "does not exist, and you may remember it".
                    let mut none = nothing();
                    none.ino = INodeNo(0);
                    reply.entry(&vfs.negative_ttl(), &none, Generation(0));
                }
                result => reply_entry(reply, "lookup", parent.0, result),
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.vfs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.getattr(ino.0).await {
                Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
                Err(error) => reply.error(errno("getattr", ino.0, &error)),
            }
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => TimeSet::At(time),
            TimeOrNow::Now => TimeSet::Now,
        });
        let change = Change {
            mode,
            uid,
            gid,
            size,
            mtime,
        };
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.setattr(ino.0, fh.map(|fh| fh.0), change).await {
                Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
                Err(error) => reply.error(errno("setattr", ino.0, &error)),
            }
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.readlink(ino.0).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno("readlink", ino.0, &error)),
            }
        });
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        let flags = OpenFlags {
            write: true,
            truncate: false,
            exclusive: true,
        };
        self.serve(async move {
            let made = vfs.create(parent.0, &name, mode, flags).await;
            reply_entry(
                reply,
                "mknod",
                parent.0,
                made.map(|(attr, open)| {
                    vfs.release(open.fh);
                    attr
                }),
            );
        });
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            let made = vfs.mkdir(parent.0, &name, mode).await;
            reply_entry(reply, "mkdir", parent.0, made);
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.unlink(parent.0, &name).await;
            reply_empty(reply, "unlink", parent.0, result);
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.rmdir(parent.0, &name).await;
            reply_empty(reply, "rmdir", parent.0, result);
        });
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let name = name!(link_name, reply);
        let Some(target) = target.to_str().map(str::to_owned) else {
            return reply.error(Errno::EINVAL);
        };
        let vfs = self.vfs.clone();
        self.serve(async move {
            let made = vfs.symlink(parent.0, &name, &target).await;
            reply_entry(reply, "symlink", parent.0, made);
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname) = (name!(name, reply), name!(newname, reply));
        let no_replace = flags == RenameFlags::RENAME_NOREPLACE;
        if !flags.is_empty() && !no_replace {
            return reply.error(Errno::EINVAL);
        }
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs
                .rename(parent.0, &name, newparent.0, &newname, no_replace)
                .await;
            reply_empty(reply, "rename", parent.0, result);
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel takes every file for one without holes then.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel copies by read and write then.
        reply.error(Errno::ENOSYS);
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: FuseOpenFlags, reply: ReplyOpen) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.open(ino.0, open_flags(flags.0)).await {
                Ok(open) => reply.opened(FileHandle(open.fh), fopen_flags(open)),
                Err(error) => reply.error(errno("open", ino.0, &error)),
            }
        });
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.create(parent.0, &name, mode, open_flags(flags)).await {
                Ok((attr, open)) => reply.created(
                    &attr.ttl,
                    &file_attr(&attr),
                    Generation(0),
                    FileHandle(open.fh),
                    fopen_flags(open),
                ),
                Err(error) => reply.error(errno("create", parent.0, &error)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: FuseOpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            match vfs.read(fh.0, offset, u64::from(size)).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno("read", ino.0, &error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: FuseOpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Some(done) = self.vfs.write_now(fh.0, offset, data) {
            return reply_written(reply, data.len(), ino.0, done);
        }
        // Only what has to wait is copied out of the kernel's buffer.
        let (vfs, data) = (self.vfs.clone(), data.to_vec());
        self.serve(async move {
            let done = vfs.write(fh.0, offset, &data).await;
            reply_written(reply, data.len(), ino.0, done);
        });
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.flush(fh.0).await;
            reply_empty(reply, "flush", ino.0, result);
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: FuseOpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.vfs.release(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.fsync(fh.0).await;
            reply_empty(reply, "fsync", ino.0, result);
        });
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: FuseOpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.dirs.open()), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (vfs, dirs) = (self.vfs.clone(), self.dirs.clone());
        self.serve(async move {
            let rows = match dirs.rows(&vfs, ino.0, fh.0, offset).await {
                Ok(rows) => rows,
                Err(error) => return reply.error(errno("readdir", ino.0, &error)),
            };
            for (at, row) in rows.iter().enumerate().skip(offset as usize) {
                let next = at as u64 + 1;
                if reply.add(INodeNo(row.ino), next, file_type(row.kind), &row.name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, dirs) = (self.vfs.clone(), self.dirs.clone());
        self.serve(async move {
            let rows = match dirs.rows(&vfs, ino.0, fh.0, offset).await {
                Ok(rows) => rows,
                Err(error) => return reply.error(errno("readdir", ino.0, &error)),
            };
            for (at, row) in rows.iter().enumerate().skip(offset as usize) {
                let next = at as u64 + 1;
                if row.name == "." || row.name == ".." {
                    // The kernel takes no reference for these, and no attributes.
                    let mut attr = nothing();
                    attr.ino = INodeNo(row.ino);
                    attr.kind = FileType::Directory;
                    let (id, zero) = (INodeNo(row.ino), Duration::ZERO);
                    if reply.add(id, next, &row.name, &zero, &attr, Generation(0)) {
                        break;
                    }
                    continue;
                }
                let Some(attr) = vfs.row_attr(ino.0, row) else {
                    continue;
                };
                let (id, file) = (INodeNo(row.ino), file_attr(&attr));
                if reply.add(id, next, &row.name, &attr.ttl, &file, Generation(0)) {
                    // It did not fit: the kernel has no reference.
                    vfs.forget(row.ino, 1);
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: FuseOpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dirs.close(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are made on the store when they are made here.
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.vfs.statfs();
        let (files, block) = (1 << 32, Statfs::BLOCK);
        reply.statfs(
            space.blocks,
            space.free,
            space.free,
            files,
            files,
            block,
            NAME_MAX as u32,
            block,
        );
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name!(name, reply), value.to_vec());
        let (create, replace) = (
            flags & libc::XATTR_CREATE != 0,
            flags & libc::XATTR_REPLACE != 0,
        );
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.setxattr(ino.0, &name, &value, create, replace).await;
            reply_empty(reply, "setxattr", ino.0, result);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            let value = vfs.getxattr(ino.0, &name).await;
            reply_xattr(reply, size, ino.0, value);
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.vfs.clone();
        self.serve(async move {
            let names = vfs.listxattr(ino.0).await;
            let joined = names.map(|names| {
                names
                    .iter()
                    .flat_map(|name| name.bytes().chain(std::iter::once(0)))
                    .collect()
            });
            reply_xattr(reply, size, ino.0, joined);
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name!(name, reply);
        let vfs = self.vfs.clone();
        self.serve(async move {
            let result = vfs.removexattr(ino.0, &name).await;
            reply_empty(reply, "removexattr", ino.0, result);
        });
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // With default_permissions the kernel decides; it does not ask.
        reply.ok();
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = self.vfs.fallocate(fh.0, offset, length, mode);
        reply_empty(reply, "fallocate", ino.0, result);
    }
}
