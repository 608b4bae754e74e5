//! Names: lookup, listing, create, mkdir, symlink, unlink, rmdir.

use super::files::{Open, OpenFlags};
use super::tree::{Known, ROOT, Tree};
use super::{Attr, REFUSED_FOR, Vfs, lock};
use crate::error::{Error, Kind, Result};
use crate::store::{Attrs, Entry, Kind as EntryKind, New, Place, Source};
use crate::write::{self, Left, Target, Writer};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// One row of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Inode number.
    pub ino: u64,
    /// File, directory or symbolic link.
    pub kind: EntryKind,
    /// The name.
    pub name: String,
}

/// Bytes in memory as a source.
#[derive(Debug)]
struct InMemory(Bytes);

#[async_trait]
impl Source for InMemory {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

/// Whether two names are equal but for the case of their letters. Allocates only for names that are not
/// ASCII: a directory may have many.
pub(super) fn differs_in_case(a: &str, b: &str) -> bool {
    let folded = || a.to_lowercase() == b.to_lowercase();
    a != b && (a.eq_ignore_ascii_case(b) || !(a.is_ascii() && b.is_ascii()) && folded())
}

impl Vfs {
    /// Asks the store about one name; returns the inode that has it now, if any.
    pub(super) async fn refresh(&self, parent: u64, place: &Place) -> Result<Option<u64>> {
        let asked = Instant::now();
        let older = self.tree().child(parent, &place.name);
        match self.ask(older.is_some(), self.store.stat(place)).await {
            Ok(entry) => Ok(self.tree().apply(parent, entry, asked)),
            Err(error) if error.kind == Kind::NotFound => {
                let mut tree = self.tree();
                tree.apply_absent(parent, &place.name, asked);
                Ok(tree.child(parent, &place.name))
            }
            Err(error) => match older {
                // The store is away: what is known is shown, and asked about again after the TTL.
                Some(ino) if error.kind.worth_another_try() => {
                    self.tree().show_older(ino);
                    Ok(Some(ino))
                }
                _ => Err(error),
            },
        }
    }

    fn place(&self, parent: u64, name: &str) -> Result<Place> {
        let place = self.tree().place(parent, name);
        place.ok_or(Error::new(Kind::NotFound, "look up").at(name))
    }

    /// The inode that has a name, asking the store if memory does not know.
    pub(super) async fn find(&self, parent: u64, name: &str) -> Result<Option<u64>> {
        let known = self.tree().known(parent, name);
        match known {
            Known::Here(ino) => Ok(Some(ino)),
            Known::Absent => Ok(None),
            Known::Ask(_) => {
                let place = self.place(parent, name)?;
                if self.store.check_name(&place.dir, name).is_err() {
                    return Ok(None);
                }
                self.refresh(parent, &place).await
            }
        }
    }

    /// Looks a name up; the kernel holds one more reference to the inode then, and may hold the directory's
    /// lock until it is answered.
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Attr> {
        let ino = self
            .within_name_timeout("look up", self.find(parent, name))
            .await?;
        let mut tree = self.tree();
        let missing = Error::new(Kind::NotFound, "look up");
        let node = ino.and_then(|ino| tree.get_mut(ino)).ok_or(missing)?;
        node.lookups += 1;
        let ino = node.ino;
        let node = tree.get(ino).ok_or(Error::new(Kind::NotFound, "look up"))?;
        Ok(self.attr(&tree, node))
    }

    /// How long the absence of a name may be believed.
    #[must_use]
    pub fn negative_ttl(&self) -> std::time::Duration {
        self.options.negative_ttl
    }

    /// The kernel drops references.
    pub fn forget(&self, ino: u64, count: u64) {
        self.tree().forget(ino, count);
    }

    /// Makes the listing of a directory fresh: one request for all that ask at once.
    pub(super) async fn list_fresh(&self, dir: u64) -> Result<()> {
        self.list(dir, None).await
    }

    /// Lists a directory, however much is known of it: no older answer will do.
    pub(super) async fn list_now(&self, dir: u64) -> Result<()> {
        self.list(dir, Some(Instant::now())).await
    }

    async fn list(&self, dir: u64, since: Option<Instant>) -> Result<()> {
        let is_listed = |tree: &Tree| match since {
            Some(since) => tree.get(dir).is_some_and(|node| node.listed >= Some(since)),
            None => tree.is_listed(dir),
        };
        if is_listed(&self.tree()) {
            return Ok(());
        }
        let gate = {
            let mut listing = lock(&self.listing);
            listing.retain(|_, gate| gate.strong_count() > 0);
            match listing.get(&dir).and_then(Weak::upgrade) {
                Some(gate) => gate,
                None => {
                    let gate = Arc::new(tokio::sync::Mutex::new(None));
                    listing.insert(dir, Arc::downgrade(&gate));
                    gate
                }
            }
        };
        let came = Instant::now();
        let mut failed = gate.lock().await;
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at >= came) {
            // Who asked before was refused after this one came: no need to wait for that again.
            return Err(error.clone());
        }
        let (addr, older) = {
            let tree = self.tree();
            if is_listed(&tree) {
                return Ok(());
            }
            let node = tree.get(dir).ok_or(Error::new(Kind::Stale, "list"))?;
            if !node.is_named() {
                return Ok(());
            }
            let entry = node
                .entry
                .as_ref()
                .ok_or(Error::new(Kind::NotFound, "list"))?;
            (entry.addr.clone(), since.is_none() && node.listed.is_some())
        };
        let asked = Instant::now();
        match self.ask(older, self.store.list(&addr)).await {
            Ok(entries) => self.tree().apply_listing(dir, entries, asked),
            Err(error) if older && error.kind.worth_another_try() => self.tree().show_older(dir),
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// The rows of a directory, sorted by name.
    pub async fn readdir(&self, dir: u64) -> Result<Vec<Listed>> {
        self.list_fresh(dir).await?;
        let tree = self.tree();
        let node = tree.get(dir).ok_or(Error::new(Kind::Stale, "list"))?;
        let mut rows: Vec<Listed> = node
            .children
            .iter()
            .filter_map(|(name, &ino)| {
                Some(Listed {
                    ino,
                    kind: tree.get(ino)?.kind,
                    name: name.clone(),
                })
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    /// The attributes of a row, with one more reference, if it is still that inode. Never waits.
    #[must_use]
    pub fn row_attr(&self, dir: u64, row: &Listed) -> Option<Attr> {
        let mut tree = self.tree();
        if tree.child(dir, &row.name) != Some(row.ino) {
            return None;
        }
        tree.get_mut(row.ino)?.lookups += 1;
        let node = tree.get(row.ino)?;
        Some(self.attr(&tree, node))
    }

    /// The directory above; the root's is itself.
    #[must_use]
    pub fn parent(&self, ino: u64) -> u64 {
        self.tree().get(ino).map_or(
            ROOT,
            |node| if node.is_named() { node.parent } else { ROOT },
        )
    }

    /// Refuses a name that cannot be, or was refused a moment ago.
    pub(super) fn check_new_name(&self, parent: u64, name: &str) -> Result<Place> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        self.store.check_name(&place.dir, name)?;
        let key = (parent, name.to_owned());
        let mut refused = lock(&self.refused);
        refused.retain(|_, (at, _)| at.elapsed() < REFUSED_FOR);
        if let Some((_, error)) = refused.get(&key) {
            return Err(error.clone());
        }
        drop(refused);
        if self.store.caps().case_folds {
            let tree = self.tree();
            let twin = tree.get(parent).is_some_and(|dir| {
                dir.children
                    .keys()
                    .any(|other| differs_in_case(other, name))
            });
            if twin {
                return Err(Error::new(Kind::Exists, "create")
                    .at(name)
                    .said("a name that differs only in case exists"));
            }
        }
        Ok(place)
    }

    /// Opens a name that may be new. The kernel holds one more reference to the inode then.
    pub async fn create(
        &self,
        parent: u64,
        name: &str,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Attr, Open)> {
        self.check_new_name(parent, name)?;
        self.part_from_ghost(parent, name, None).await?;
        let found = self
            .within_name_timeout("create", self.find(parent, name))
            .await?;
        let (ino, made) = match found {
            Some(_) if flags.exclusive => {
                return Err(Error::new(Kind::Exists, "create").at(name));
            }
            Some(ino) => (ino, None),
            None => {
                let made = self.make(parent, name, mode, flags.exclusive)?;
                (made.0.ino(), Some(made))
            }
        };
        let opened = async {
            if let Some((writer, struck)) = &made {
                writer.touched()?;
                if let Some(by) = struck {
                    let place = writer.target().place;
                    let left = self.within_name_timeout("create", by.struck(&place));
                    writer.inherit(left.await?);
                }
            }
            self.open(ino, flags).await
        };
        let open = match opened.await {
            Ok(open) => open,
            Err(error) => {
                if let Some((writer, struck)) = made {
                    self.unmake(parent, name, &writer, struck);
                }
                return Err(error);
            }
        };
        let mut tree = self.tree();
        if let Some(node) = tree.get_mut(ino) {
            node.lookups += 1;
        }
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "create"))?;
        Ok((self.attr(&tree, node), open))
    }

    /// A new file in the tree, with its writer, and the one that had to remove what the store still has there.
    fn make(
        &self,
        parent: u64,
        name: &str,
        mode: u32,
        exclusive: bool,
    ) -> Result<(Arc<Writer>, Option<Arc<Writer>>)> {
        let mut tree = self.tree();
        let missing = || Error::new(Kind::NotFound, "create").at(name);
        let place = tree.place(parent, name).ok_or_else(missing)?;
        let ino = tree.insert(parent, name, EntryKind::File, None);
        let mode = mode & 0o7777;
        let default = self.default_mode(EntryKind::File);
        let attrs = Attrs {
            mode: (mode != default).then_some(mode),
            ..Attrs::default()
        };
        let path = tree.path(ino);
        let (ghost, struck) = match tree.take_ghost(parent, name, ino) {
            Some((entry, by)) => (entry, by),
            None => (None, None),
        };
        let target = Target {
            attempts: Vec::new(),
            place,
            path: path.clone(),
            exclusive: exclusive && ghost.is_none(),
            replaces: ghost,
            looked: tree.absent_since(parent, name),
            removes: Vec::new(),
            attrs,
        };
        let writer = Writer::new(ino, self.write.clone(), target, None);
        self.set_terms(&writer, &path, name);
        if let Some(node) = tree.get_mut(ino) {
            node.writer = Some(writer.clone());
        }
        if let Some(by) = &struck {
            let left = by.strike(&writer.target().place);
            writer.inherit(left);
        }
        Ok((writer, struck))
    }

    /// Undoes [`Vfs::make`]. What the store has there is hidden again, and for `struck` to remove.
    fn unmake(&self, parent: u64, name: &str, writer: &Arc<Writer>, struck: Option<Arc<Writer>>) {
        let target = writer.target();
        let mut tree = self.tree();
        tree.detach(writer.ino());
        if let Some(by) = struck {
            let left = Left {
                entry: target.replaces.clone(),
                attempts: target.attempts,
            };
            if by.relist(&target.place, left) {
                tree.haunt(parent, name, target.replaces, by.ino());
            } else if target.replaces.is_some() {
                log::warn!("{}: an older name stays on the store", target.path);
            }
        }
        drop(tree);
        writer.removed();
    }

    /// Makes a directory. The kernel holds one more reference to the inode then.
    pub async fn mkdir(&self, parent: u64, name: &str, mode: u32) -> Result<Attr> {
        let place = self.check_new_name(parent, name)?;
        self.within_name_timeout("mkdir", async {
            if self.find(parent, name).await?.is_some() {
                return Err(Error::new(Kind::Exists, "mkdir").at(name));
            }
            self.clear_name(parent, name).await?;
            let asked = Instant::now();
            let entry = self.store.mkdir(&place).await?;
            let mut tree = self.tree();
            let ino = tree.apply(parent, entry, asked).unwrap_or_default();
            let default = self.default_mode(EntryKind::Dir);
            if let Some(node) = tree.get_mut(ino) {
                let now = Instant::now();
                node.lookups += 1;
                node.changed = Some(now);
                // It was made just now: it is empty.
                node.listed = Some(now);
                let mode = mode & 0o7777;
                node.attrs.mode = (mode != default).then_some(mode);
            }
            let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "mkdir"))?;
            Ok(self.attr(&tree, node))
        })
        .await
    }

    /// Makes a symbolic link. The kernel holds one more reference to the inode then.
    pub async fn symlink(&self, parent: u64, name: &str, target: &str) -> Result<Attr> {
        if !self.store.caps().keeps.symlinks {
            return Err(Error::new(Kind::NotPermitted, "symlink").said("this store keeps none"));
        }
        let place = self.check_new_name(parent, name)?;
        self.within_name_timeout("symlink", async {
            if self.find(parent, name).await?.is_some() {
                return Err(Error::new(Kind::Exists, "symlink").at(name));
            }
            self.clear_name(parent, name).await?;
            let asked = Instant::now();
            let entry = self.put_symlink(place, target.as_bytes(), None).await?;
            let mut tree = self.tree();
            let ino = tree.apply(parent, entry, asked).unwrap_or_default();
            if let Some(node) = tree.get_mut(ino) {
                node.lookups += 1;
                node.changed = Some(Instant::now());
            }
            let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "symlink"))?;
            Ok(self.attr(&tree, node))
        })
        .await
    }

    /// Stores a symbolic link, in place of `over` if there is one: its bytes are the target.
    pub(super) async fn put_symlink(
        &self,
        place: Place,
        target: &[u8],
        over: Option<Entry>,
    ) -> Result<Entry> {
        let new = New {
            place,
            kind: EntryKind::Symlink,
            size: target.len() as u64,
            digests: write::digests_of(self.store.caps().digests.first().copied(), target),
            attrs: Attrs::default(),
            exclusive: over.is_none(),
            replaces: over,
        };
        self.store
            .put(&new, &InMemory(Bytes::copy_from_slice(target)))
            .await
    }

    /// Where a symbolic link points.
    pub async fn readlink(&self, ino: u64) -> Result<Bytes> {
        let entry = {
            let tree = self.tree();
            let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "readlink"))?;
            if node.kind != EntryKind::Symlink {
                return Err(Error::new(Kind::Invalid, "readlink"));
            }
            node.entry
                .clone()
                .ok_or(Error::new(Kind::Stale, "readlink"))?
        };
        self.cache.read(&entry, 0..entry.size).await
    }

    /// Removes a file's or a symbolic link's name.
    pub async fn unlink(&self, parent: u64, name: &str) -> Result<()> {
        self.check_writable()?;
        let mut given_up = None;
        let done = self.within_name_timeout("unlink", async {
            let missing = || Error::new(Kind::NotFound, "unlink").at(name);
            let ino = self.find(parent, name).await?.ok_or_else(missing)?;
            if self.tree().get(ino).ok_or_else(missing)?.kind == EntryKind::Dir {
                return Err(Error::new(Kind::IsDir, "unlink").at(name));
            }
            given_up = Some(ino);
            self.remove_all(ino).await?;
            let mut tree = self.tree();
            if let Some(dir) = tree.get_mut(parent) {
                dir.absent.insert(name.to_owned(), Instant::now());
            }
            tree.detach(ino);
            Ok(())
        });
        let done = done.await;
        if let Some(ino) = given_up {
            self.gave_up(ino);
        }
        done
    }

    /// Gives up what an inode still has to send, because its name goes; returns what the store has under
    /// that name and older ones, once nothing more can arrive there. Bytes that somebody has open are
    /// held.
    ///
    /// What is owed is lost only with [`Vfs::gave_up`], which must follow.
    pub(super) async fn give_up(&self, ino: u64) -> Result<Vec<(Place, Entry)>> {
        if self.tree().get(ino).is_some_and(|node| node.handles > 0) {
            self.hold(ino).await;
        }
        let (place, entry, writer) = {
            let tree = self.tree();
            let Some(node) = tree.get(ino) else {
                return Ok(Vec::new());
            };
            let place = tree.place(node.parent, &node.name);
            (place, node.entry.clone(), node.writer.clone())
        };
        match writer {
            None => Ok(place
                .into_iter()
                .zip(entry.map(|entry| (*entry).clone()))
                .collect()),
            Some(writer) => {
                writer.unlinked();
                writer.landed().await
            }
        }
    }

    /// The name of an inode that was given up is gone, or has to stay after all.
    pub(super) fn gave_up(&self, ino: u64) {
        let (writer, named) = match self.tree().get(ino) {
            Some(node) => (node.writer.clone(), node.is_named()),
            None => return,
        };
        match writer.filter(|writer| writer.is_gone()) {
            Some(writer) if named => writer.revived(),
            Some(writer) => {
                writer.removed();
                // What it had replaced is not owed any longer either.
                let of_it =
                    |(over, by): (&u64, &Arc<Writer>)| Arc::ptr_eq(by, &writer).then_some(*over);
                let replaced: Vec<u64> = lock(&self.replaced).iter().filter_map(of_it).collect();
                for over in replaced {
                    lock(&self.replaced).remove(&over);
                    self.gave_up(over);
                }
            }
            None => {}
        }
    }

    /// Removes from the store what an inode has there.
    async fn remove_all(&self, ino: u64) -> Result<()> {
        let here = {
            let tree = self.tree();
            tree.get(ino)
                .and_then(|node| tree.place(node.parent, &node.name))
        };
        for (place, entry) in self.give_up(ino).await? {
            if Some(&place) != here.as_ref() {
                write::remove_stray(&*self.store, &place, &entry).await?;
                continue;
            }
            let removed = match self.store.remove(&entry).await {
                // The name has a version that was not known here: once more, that one.
                Err(error) if error.kind == Kind::Conflict => match self.store.stat(&place).await {
                    Ok(now) => self.store.remove(&now).await,
                    gone => gone.map(drop),
                },
                removed => removed,
            };
            match removed {
                // Somebody else was faster, or only an older look knew it.
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.tree().lay(ino);
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: u64, name: &str) -> Result<()> {
        self.check_writable()?;
        self.within_name_timeout("rmdir", async {
            let missing = || Error::new(Kind::NotFound, "rmdir").at(name);
            let ino = self.find(parent, name).await?.ok_or_else(missing)?;
            let entry = {
                let tree = self.tree();
                let node = tree.get(ino).ok_or_else(missing)?;
                if node.kind != EntryKind::Dir {
                    return Err(Error::new(Kind::NotDir, "rmdir").at(name));
                }
                let unsent = node
                    .children
                    .values()
                    .any(|&child| tree.get(child).is_some_and(|child| !child.is_settled()));
                if unsent {
                    return Err(Error::new(Kind::NotEmpty, "rmdir").at(name));
                }
                node.entry.clone()
            };
            if let Some(entry) = entry {
                self.store.rmdir(&entry).await?;
            }
            let mut tree = self.tree();
            if let Some(dir) = tree.get_mut(parent) {
                dir.absent.insert(name.to_owned(), Instant::now());
            }
            tree.detach(ino);
            Ok(())
        })
        .await
    }
}
