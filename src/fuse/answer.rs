//! From the words of the vfs to those of the kernel and back.

use crate::error::{Error, Kind, Result};
use crate::store::Kind as EntryKind;
use crate::vfs::{Attr, Open, OpenFlags, Statfs};
use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyEmpty, ReplyEntry, ReplyWrite,
    ReplyXattr,
};
use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

/// Names longer than this cannot be, in bytes (`NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;

pub(super) fn errno(op: &str, ino: u64, error: &Error) -> Errno {
    // The kernel asks for `security.capability` before every write, `ls -l` for two more of each file.
    let level = match error.kind {
        Kind::NoAttr | Kind::Unsupported => log::Level::Trace,
        _ => log::Level::Debug,
    };
    log::log!(level, "{op} {ino}: {error}");
    Errno::from_i32(error.errno())
}

/// A name as the store can have it. Stores speak Unicode: other bytes cannot be a name.
pub(super) fn text(name: &OsStr) -> Result<&str> {
    if name.len() > NAME_MAX {
        return Err(Error::new(Kind::NameTooLong, ""));
    }
    name.to_str().ok_or(Error::new(Kind::Invalid, ""))
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.btime,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: if attr.kind == EntryKind::Dir { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: Statfs::BLOCK,
        flags: 0,
    }
}

pub(super) fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Dir => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn open_flags(flags: i32) -> OpenFlags {
    OpenFlags {
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

pub(super) fn fopen_flags(open: Open) -> FopenFlags {
    if open.keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, op: &str, parent: u64, result: Result<Attr>) {
    match result {
        Ok(attr) => reply.entry(&attr.ttl, &file_attr(&attr), Generation(0)),
        Err(error) => reply.error(errno(op, parent, &error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, op: &str, ino: u64, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(op, ino, &error)),
    }
}

pub(super) fn reply_written(reply: ReplyWrite, len: usize, ino: u64, result: Result<()>) {
    match result {
        Ok(()) => reply.written(len as u32),
        Err(error) => reply.error(errno("write", ino, &error)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, ino: u64, result: Result<Vec<u8>>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno("xattr", ino, &error)),
    }
}

/// Attributes of nothing.
pub(super) fn nothing() -> FileAttr {
    file_attr(&Attr {
        ino: 0,
        kind: EntryKind::File,
        size: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        btime: SystemTime::UNIX_EPOCH,
        ttl: Duration::ZERO,
    })
}
