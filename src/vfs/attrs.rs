//! Attributes: what stat(2), chmod, utimens, truncate(2) by name, extended attributes and statfs mean here.

use super::tree::{Node, ROOT, Tree};
use super::{Vfs, file_status, lock};
use crate::error::{Error, Kind, Result};
use crate::store::{Algo, Attrs, Kind as EntryKind, Space};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// File, directory or symbolic link.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// Last change of anything.
    pub ctime: SystemTime,
    /// Creation.
    pub btime: SystemTime,
    /// How long this may be believed.
    pub ttl: Duration,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The present.
    Now,
    /// This time.
    At(SystemTime),
}

/// What setattr changes; `None`: not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Modification time.
    pub mtime: Option<TimeSet>,
}

/// What statfs(2) shows, in blocks of [`Statfs::BLOCK`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
}

impl Statfs {
    /// Bytes of a block.
    pub const BLOCK: u32 = 4096;
}

/// What a store that tells no quota is said to have: 1 PiB, all free.
const UNKNOWN_SPACE: Space = Space {
    total: 1 << 50,
    free: 1 << 50,
};

/// How long what the store said about its space is believed.
const SPACE_TTL: Duration = Duration::from_secs(60);

/// The longest value of an extended attribute that is kept, and of all of one file together, in bytes.
const XATTR_MAX: usize = 4096;

const CONTROL: &str = "user.assetfs.control";
const VIRTUAL: [&str; 6] = [
    "user.assetfs.state",
    "user.assetfs.sent",
    "user.assetfs.total",
    "user.assetfs.error",
    "user.assetfs.version",
    "user.assetfs.sha1",
];

impl Vfs {
    pub(super) fn attr(&self, tree: &Tree, node: &Node) -> Attr {
        let options = &self.options;
        let (size, attrs, written) = match &node.writer {
            Some(writer) => (writer.size(), writer.attrs(), writer.written()),
            None => (
                node.entry.as_ref().map_or(0, |e| e.size),
                node.attrs.clone(),
                node.written,
            ),
        };
        let entry = node.entry.as_deref();
        let theirs = entry.map_or(self.started, |e| e.modified);
        let mtime = attrs.mtime.or(written).unwrap_or(theirs);
        let ctime = node
            .ctime
            .into_iter()
            .chain(written)
            .max()
            .unwrap_or(theirs);
        Attr {
            ino: node.ino,
            kind: node.kind,
            size: if node.kind == EntryKind::Dir { 0 } else { size },
            mode: attrs.mode.unwrap_or(self.default_mode(node.kind)),
            uid: options.uid,
            gid: options.gid,
            mtime,
            ctime,
            btime: entry.and_then(|e| e.created).unwrap_or(theirs.min(mtime)),
            ttl: tree.ttl(node),
        }
    }

    /// The mode of what has none of its own.
    pub(super) fn default_mode(&self, kind: EntryKind) -> u32 {
        match kind {
            EntryKind::File => 0o666 & !self.options.umask,
            EntryKind::Dir => 0o777 & !self.options.umask,
            EntryKind::Symlink => 0o777,
        }
    }

    /// stat(2) of an inode.
    pub async fn getattr(&self, ino: u64) -> Result<Attr> {
        let place = {
            let tree = self.tree();
            let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "stat"))?;
            if tree.is_fresh(node) || node.handles > 0 {
                return Ok(self.attr(&tree, node));
            }
            tree.place(node.parent, &node.name)
                .map(|place| (node.parent, place))
        };
        let (parent, place) = place.ok_or(Error::new(Kind::Stale, "stat"))?;
        let now = self.refresh(parent, &place).await?;
        let tree = self.tree();
        // The name may stand for another inode by now: then this one is stale, and the kernel looks up.
        let node = now
            .filter(|&now| now == ino)
            .and_then(|ino| tree.get(ino))
            .ok_or(Error::new(Kind::Stale, "stat"))?;
        Ok(self.attr(&tree, node))
    }

    /// Changes attributes. Size by name commits; the rest goes with the next commit, or at once.
    pub async fn setattr(&self, ino: u64, fh: Option<u64>, change: Change) -> Result<Attr> {
        self.check_writable()?;
        if change.uid.is_some_and(|uid| uid != self.options.uid)
            || change.gid.is_some_and(|gid| gid != self.options.gid)
        {
            // The owner is the mount's. Refusing would break `cp -p` and `rsync -a` of root.
            log::debug!(
                "chown of {} is accepted and not kept",
                self.tree().path(ino)
            );
        }
        if let Some(size) = change.size {
            self.truncate(ino, fh, size).await?;
        }
        if change.mode.is_some() || change.mtime.is_some() {
            self.change_attrs(ino, |attrs, kind| {
                if let Some(mode) = change.mode {
                    let mode = mode & 0o7777;
                    attrs.mode = (mode != self.default_mode(kind)).then_some(mode);
                }
                match change.mtime {
                    Some(TimeSet::Now) => attrs.mtime = Some(SystemTime::now()),
                    Some(TimeSet::At(time)) => attrs.mtime = Some(time),
                    None => {}
                }
                Ok(())
            })
            .await?;
        }
        let tree = self.tree();
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "setattr"))?;
        Ok(self.attr(&tree, node))
    }

    async fn change_attrs(
        &self,
        ino: u64,
        change: impl FnOnce(&mut Attrs, EntryKind) -> Result<()>,
    ) -> Result<()> {
        let (entry, attrs, writing) = {
            let mut tree = self.tree();
            let node = tree
                .get_mut(ino)
                .ok_or(Error::new(Kind::Stale, "setattr"))?;
            let before = node
                .writer
                .as_ref()
                .map_or_else(|| node.attrs.clone(), |w| w.attrs());
            let mut attrs = before.clone();
            change(&mut attrs, node.kind)?;
            if attrs == before {
                return Ok(());
            }
            node.ctime = Some(SystemTime::now());
            node.attrs = attrs.clone();
            let writing = node
                .writer
                .clone()
                .filter(|writer| writer.set_attrs(&attrs));
            let keeps = self.store.caps().keeps;
            let kept = (attrs.mtime != before.mtime && keeps.mtime.is_some())
                || (attrs.mode != before.mode && keeps.mode)
                || (attrs.xattrs != before.xattrs && keeps.xattrs);
            let entry = node.entry.clone().filter(|_| {
                writing.is_none()
                    && kept
                    && node.is_named()
                    && (keeps.on_dirs || node.kind != EntryKind::Dir)
            });
            (entry, attrs, writing)
        };
        if let Some(writer) = writing {
            // They go with the commit, and with the record of what is owed.
            return writer.note_owed().await;
        }
        let Some(entry) = entry else { return Ok(()) };
        let entry = self.store.set_attrs(&entry, &attrs).await?;
        let mut tree = self.tree();
        if let Some(node) = tree.get_mut(ino)
            && node
                .entry
                .as_ref()
                .is_some_and(|old| old.version == entry.version)
        {
            node.checked = Instant::now();
            node.changed = Some(node.checked);
            node.entry = Some(Arc::new(entry));
        }
        Ok(())
    }

    /// One extended attribute.
    pub async fn getxattr(&self, ino: u64, name: &str) -> Result<Vec<u8>> {
        let tree = self.tree();
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "getxattr"))?;
        let none = Error::new(Kind::NoAttr, "getxattr");
        if name == CONTROL && ino == ROOT {
            let control = self.options.control.as_ref().ok_or(none)?;
            return Ok(control.as_os_str().as_encoded_bytes().to_vec());
        }
        if VIRTUAL.contains(&name) {
            return virtual_attr(&tree, node, name).ok_or(none);
        }
        check_xattr(name)?;
        let attrs = node
            .writer
            .as_ref()
            .map_or_else(|| node.attrs.clone(), |w| w.attrs());
        attrs.xattrs.get(name).cloned().ok_or(none)
    }

    /// The names of the extended attributes that a file has, but for the virtual ones (a copy of all
    /// attributes must not try to set those).
    pub async fn listxattr(&self, ino: u64) -> Result<Vec<String>> {
        let tree = self.tree();
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "listxattr"))?;
        let attrs = node
            .writer
            .as_ref()
            .map_or_else(|| node.attrs.clone(), |w| w.attrs());
        Ok(attrs.xattrs.into_keys().collect())
    }

    /// Sets one extended attribute; `create` and `replace` as setxattr(2)'s flags.
    pub async fn setxattr(
        &self,
        ino: u64,
        name: &str,
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.check_writable()?;
        check_xattr(name)?;
        if name.starts_with("user.assetfs.") {
            return Err(Error::new(Kind::NotPermitted, "setxattr"));
        }
        self.change_attrs(ino, |attrs, _| {
            let xattrs: &mut BTreeMap<String, Vec<u8>> = &mut attrs.xattrs;
            if create && xattrs.contains_key(name) {
                return Err(Error::new(Kind::Exists, "setxattr"));
            }
            if replace && !xattrs.contains_key(name) {
                return Err(Error::new(Kind::NoAttr, "setxattr"));
            }
            xattrs.insert(name.to_owned(), value.to_vec());
            if xattrs.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > XATTR_MAX {
                return Err(Error::new(Kind::Full, "setxattr"));
            }
            Ok(())
        })
        .await
    }

    /// Removes one extended attribute.
    pub async fn removexattr(&self, ino: u64, name: &str) -> Result<()> {
        self.check_writable()?;
        check_xattr(name)?;
        self.change_attrs(ino, |attrs, _| {
            let gone = attrs.xattrs.remove(name);
            gone.map(|_| ())
                .ok_or(Error::new(Kind::NoAttr, "removexattr"))
        })
        .await
    }

    /// Quota and use, from memory: what the store said last; asked again in the background.
    #[must_use]
    pub fn statfs(&self) -> Statfs {
        let mut space = lock(&self.space);
        let fresh = space.is_some_and(|(at, _)| at.elapsed() < SPACE_TTL);
        if !fresh && self.store.caps().space {
            let last = space.and_then(|(_, last)| last);
            *space = Some((Instant::now(), last));
            if let Some(vfs) = self.me.upgrade() {
                self.rt.spawn(async move {
                    if let Ok(found) = vfs.store.space().await {
                        *lock(&vfs.space) = Some((Instant::now(), found));
                    }
                });
            }
        }
        let known = space.and_then(|(_, last)| last).unwrap_or(UNKNOWN_SPACE);
        let block = u64::from(Statfs::BLOCK);
        Statfs {
            blocks: known.total / block,
            free: known.free.min(known.total) / block,
        }
    }
}

/// Only `user.` attributes exist here: ACLs and security labels would not be honoured.
fn check_xattr(name: &str) -> Result<()> {
    if name.starts_with("user.") && name.len() > "user.".len() {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, "xattr"))
}

fn virtual_attr(tree: &Tree, node: &Node, name: &str) -> Option<Vec<u8>> {
    if node.kind != EntryKind::File {
        return None;
    }
    let status = file_status(tree, node)?;
    let entry = node.entry.as_deref();
    let text = match name {
        "user.assetfs.state" => status.state.word().to_owned(),
        "user.assetfs.sent" => status.sent.to_string(),
        "user.assetfs.total" => status.size.to_string(),
        "user.assetfs.error" => status.error?,
        "user.assetfs.version" => entry?.version.0.to_string(),
        "user.assetfs.sha1" => entry?.digests.0.get(&Algo::Sha1)?.clone(),
        _ => return None,
    };
    Some(text.into_bytes())
}
