//! Rename: of what is only here a change of names, of what the store has a native rename, or where it
//! has none a copy under the new name and the removal of the old one, never leaving neither.

use super::files::wait;
use super::names::differs_in_case;
use super::tree::Tree;
use super::{Vfs, lock};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Kind as EntryKind, Place};
use crate::write::{self, Left, Target, Writer};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Instant;

/// Largest directory, in bytes below it, that is moved one file at a time: the kernel holds the directory's
/// lock meanwhile. Larger ones are left to the caller (`EXDEV`).
const MOVE_MAX: u64 = 64 << 20;

impl Vfs {
    /// rename(2). `no_replace` is `RENAME_NOREPLACE`.
    pub async fn rename(
        &self,
        parent: u64,
        name: &str,
        new_parent: u64,
        new_name: &str,
        no_replace: bool,
    ) -> Result<()> {
        self.check_writable()?;
        let missing = || Error::new(Kind::NotFound, "rename").at(name);
        let ino = self
            .within_name_timeout("rename", self.find(parent, name))
            .await?;
        let ino = ino.ok_or_else(missing)?;
        if (parent, name) == (new_parent, new_name) {
            return Ok(());
        }
        let over = self
            .within_name_timeout("rename", self.find_target(new_parent, new_name))
            .await;
        let over = match over {
            // Another spelling of its own name, which a store that folds case can give it.
            Err(error)
                if error.kind == Kind::Exists
                    && self.respells(parent, name, new_parent, new_name) =>
            {
                None
            }
            over => over?,
        };
        let kind = self.tree().get(ino).ok_or_else(missing)?.kind;
        if kind == EntryKind::Dir && self.tree().is_below(new_parent, ino) {
            return Err(Error::new(Kind::Invalid, "rename").at(name));
        }
        if let Some(over) = over {
            if no_replace {
                return Err(Error::new(Kind::Exists, "rename").at(new_name));
            }
            if self.tree().is_below(ino, over) {
                return Err(Error::new(Kind::NotEmpty, "rename").at(new_name));
            }
            self.check_replace(kind, over, new_name).await?;
        }
        match kind {
            EntryKind::Dir => self.rename_dir(ino, over, new_parent, new_name).await,
            EntryKind::File | EntryKind::Symlink => {
                self.rename_file(ino, over, new_parent, new_name).await
            }
        }
    }

    fn respells(&self, parent: u64, name: &str, new_parent: u64, new_name: &str) -> bool {
        self.store.caps().rename_file && parent == new_parent && differs_in_case(name, new_name)
    }

    async fn find_target(&self, parent: u64, name: &str) -> Result<Option<u64>> {
        let found = self.find(parent, name).await?;
        if found.is_none() {
            self.check_new_name(parent, name)?;
        }
        Ok(found)
    }

    async fn check_replace(&self, kind: EntryKind, over: u64, name: &str) -> Result<()> {
        let over_kind = self.tree().get(over).map(|node| node.kind);
        match (kind, over_kind) {
            (EntryKind::Dir, Some(EntryKind::Dir)) => {
                // What others have put there since it was listed is not to be merged with what is moved.
                self.within_name_timeout("rename", self.list_now(over))
                    .await?;
                if self
                    .tree()
                    .get(over)
                    .is_some_and(|node| !node.children.is_empty())
                {
                    return Err(Error::new(Kind::NotEmpty, "rename").at(name));
                }
                Ok(())
            }
            (EntryKind::Dir, Some(_)) => Err(Error::new(Kind::NotDir, "rename").at(name)),
            (_, Some(EntryKind::Dir)) => Err(Error::new(Kind::IsDir, "rename").at(name)),
            _ => Ok(()),
        }
    }

    /// Moves one file or symbolic link. Answers when the store has it under the new name, or after
    /// `name_timeout`: then the copy goes on, and an error is told at the next open or close.
    async fn rename_file(
        &self,
        ino: u64,
        over: Option<u64>,
        new_parent: u64,
        new_name: &str,
    ) -> Result<()> {
        let until = tokio::time::Instant::now() + self.options.name_timeout;
        let prepared = self.prepare_move(ino, over, new_parent, new_name);
        let prepared = self.within_name_timeout("rename", prepared).await;
        let (writer, copy) = match prepared {
            Ok(Some(rest)) => rest,
            // Done, or nothing has changed.
            other => {
                over.into_iter().for_each(|over| self.gave_up(over));
                return other.map(drop);
            }
        };
        // What is owed of the replaced file stays in the spool until this one is safe; who has it open does
        // not wait for that.
        let parted =
            over.and_then(|over| self.tree().get(over).and_then(|node| node.writer.clone()));
        if let Some(parted) = parted {
            parted.parted();
        }
        let (me, late) = (self.me.clone(), writer.clone());
        let replaced = over.map(|over| {
            lock(&self.replaced).insert(over, writer.clone());
            async move {
                writer.safe().await;
                if let Some(vfs) = me.upgrade() {
                    vfs.gave_up(over);
                    lock(&vfs.replaced).remove(&over);
                    vfs.changed.notify_waiters();
                }
            }
        });
        let (rt, name) = (self.write.rt.clone(), new_name.to_owned());
        let mut copied = self.write.rt.spawn(async move {
            let copied = copy.await;
            if let Err(error) = &copied {
                log::error!("{name}: the rename is done here, but not on the store: {error}");
            }
            if let Some(replaced) = replaced {
                let mut replaced = Box::pin(replaced);
                if futures_util::poll!(&mut replaced).is_pending() {
                    rt.spawn(replaced);
                }
            }
            copied
        });
        match tokio::time::timeout_at(until, &mut copied).await {
            Ok(Ok(copied)) => copied,
            Ok(Err(died)) => Err(Error::new(Kind::Broken, "rename").because(died)),
            Err(_) => {
                log::info!("{new_name}: the rename goes on as a copy in the background");
                self.write.rt.spawn(async move {
                    if let Ok(Err(error)) = copied.await {
                        late.untold(&error);
                    }
                });
                Ok(())
            }
        }
    }

    /// Moves the name. `None`: the store has moved the file as well. Else the writer is returned, and what is
    /// left to do: the copy under the new name. After an error the name has not moved here; of a symbolic link
    /// whose old name the store would not remove, it has both.
    async fn prepare_move(
        &self,
        ino: u64,
        over: Option<u64>,
        new_parent: u64,
        new_name: &str,
    ) -> Result<Option<(Arc<Writer>, BoxFuture<'static, Result<()>>)>> {
        let missing = || Error::new(Kind::NotFound, "rename").at(new_name);
        let place = self
            .tree()
            .place(new_parent, new_name)
            .ok_or_else(missing)?;
        self.part_from_ghost(new_parent, new_name, Some(ino))
            .await?;
        // Nothing of an older file may arrive or be removed under the new name once this one is sent there.
        let by = self.tree().haunted_by(new_parent, new_name, ino);
        if let Some(by) = by {
            by.departed(&place).await;
        }
        // Nothing may arrive under the new name after this file has.
        let mut replaced = match over {
            Some(over) => self.give_up(over).await?,
            None => Vec::new(),
        };
        let at = replaced.iter().position(|(there, _)| *there == place);
        let over_entry = at.map(|at| replaced.swap_remove(at).1);
        let (parent, entry, writer, kind) = {
            let tree = self.tree();
            let node = tree.get(ino).ok_or_else(missing)?;
            (
                node.parent,
                node.entry.clone(),
                node.writer.clone(),
                node.kind,
            )
        };
        let unsettled = writer.as_ref().is_some_and(|writer| !writer.is_settled());
        if let Some(entry) = entry
            .as_ref()
            .filter(|_| self.store.caps().rename_file && !unsettled)
        {
            let renamed = self
                .store
                .rename(entry, &place, over_entry.as_ref())
                .await?;
            self.take_name(ino, new_parent, new_name);
            self.note_entry(ino, renamed.clone());
            if let Some(writer) = &writer {
                // What a program that has it open writes from now on goes there.
                let path = self.tree().path(ino);
                writer.renamed(place, path, renamed).await?;
            }
            self.remove_strays(replaced).await;
            return Ok(None);
        }
        if let Some(entry) = entry.as_ref().filter(|_| kind == EntryKind::Symlink) {
            self.rename_symlink(ino, entry, place, over_entry, new_parent, new_name)
                .await?;
            self.remove_strays(replaced).await;
            return Ok(None);
        }
        // What is under the old name stays on the store, hidden here, until the commit under the new one.
        let writer = self.writer(ino)?;
        if !unsettled && let Err(error) = writer.ready() {
            if error.kind != Kind::Full {
                return Err(error);
            }
            // Caches give way.
            self.shed_all();
            writer.ready()?;
        }
        let deferred = self.is_deferred(new_name);
        let looked = self.looked(over, new_parent, new_name);
        {
            // One step: a commit under the old name ends before it or after it.
            let mut tree = self.tree();
            let old = tree.get(ino).map(|node| node.name.clone());
            self.take_name_in(&mut tree, ino, new_parent, new_name);
            if let (Some(left), Some(old)) = (writer.may_have(), old) {
                tree.haunt(parent, &old, left, ino);
            }
            if let Some(over) = over {
                tree.bequeath(over, ino);
            }
        }
        let ghost = self.tree().take_ghost(new_parent, new_name, ino);
        let (over_entry, struck) = match ghost {
            Some((entry, by)) => {
                let left = by.as_ref().map(|by| by.strike(&place));
                let left = left.unwrap_or_default();
                writer.inherit(Left {
                    entry: None,
                    attempts: left.attempts,
                });
                (over_entry.or(left.entry).or(entry), by)
            }
            None => (over_entry, None),
        };
        let path = self.tree().path(ino);
        writer.set_promise(self.promise_for(&path));
        let there = place.clone();
        let change =
            |target: &mut Target| redirect(target, place, over_entry, replaced, path, looked);
        let noted = writer.retarget(change);
        let copier = writer.clone();
        let rest = async move {
            let writer = copier;
            if let Some(by) = struck {
                writer.inherit(by.struck(&there).await?);
            }
            noted.await?;
            // With a write or an upload under way, that commit is the copy. Else it is made now: from the
            // spool if the bytes are there, or by way of it.
            let open = writer.is_open();
            if deferred || open {
                writer.set_deferred(deferred);
            } else {
                writer.clear_deferred();
            }
            match (unsettled, open) {
                (true, true) => Ok(()),
                (true, false) => wait(writer.sync()).await,
                (false, _) => wait(writer.force()?).await,
            }
        };
        Ok(Some((writer, Box::pin(rest))))
    }

    /// When the store was last asked what has a name, or `over` was committed under it; `None`: it must be
    /// asked again.
    fn looked(&self, over: Option<u64>, parent: u64, name: &str) -> Option<Instant> {
        let tree = self.tree();
        match over.map(|over| tree.get(over)) {
            Some(node) => node.and_then(|node| match &node.writer {
                Some(writer) => writer.target().looked,
                None => Some(node.checked),
            }),
            None if tree.is_haunted(parent, name) => None,
            None => tree.absent_since(parent, name),
        }
    }

    /// Waits until nothing is left under the old names of a file: until its commit, which a temporary name
    /// does not put off any longer. `Busy` if a program still writes it.
    async fn vacate(&self, ino: u64) -> Result<()> {
        let writer = self.tree().get(ino).and_then(|node| node.writer.clone());
        match writer.filter(|writer| !writer.target().removes.is_empty()) {
            Some(writer) => {
                writer.set_deferred(false);
                writer.settled().await
            }
            None => Ok(()),
        }
    }

    /// Before a name is taken again that the store still has for another file: the bytes which that file
    /// still needs of it are brought into the spool, or its commit is waited for. But not if it is `moved` back there.
    pub(super) async fn part_from_ghost(
        &self,
        parent: u64,
        name: &str,
        moved: Option<u64>,
    ) -> Result<()> {
        let writer = {
            let tree = self.tree();
            let by = tree.ghost(parent, name).map(|(_, by)| by);
            let by = by.filter(|by| Some(*by) != moved);
            by.and_then(|by| tree.get(by)?.writer.clone())
        };
        let Some(writer) = writer else { return Ok(()) };
        self.within_name_timeout("create", async {
            match writer.settled().await {
                Err(_) => writer.hold(u64::MAX).await,
                Ok(()) => Ok(()),
            }
        })
        .await
    }

    /// Makes room on the store for something that is not a file: a name that is gone here may still
    /// be there, until a commit that removes it.
    pub(super) async fn clear_name(&self, parent: u64, name: &str) -> Result<()> {
        let by = self.tree().ghost(parent, name).map(|(_, by)| by);
        match by {
            Some(by) => self.within_name_timeout("rename", self.vacate(by)).await,
            None => Ok(()),
        }
    }

    async fn rename_symlink(
        &self,
        ino: u64,
        entry: &Arc<Entry>,
        place: Place,
        over: Option<Entry>,
        new_parent: u64,
        new_name: &str,
    ) -> Result<()> {
        let target = self.readlink(ino).await?;
        let copy = self.put_symlink(place, &target, over).await?;
        match self.store.remove(entry).await {
            // The old name is somebody else's by now.
            Err(error) if !matches!(error.kind, Kind::NotFound | Kind::Conflict) => {
                return Err(error);
            }
            _ => {}
        }
        self.take_name(ino, new_parent, new_name);
        self.note_entry(ino, copy);
        Ok(())
    }

    /// Removes what a replaced file still had under older names of its own.
    async fn remove_strays(&self, strays: Vec<(Place, Entry)>) {
        for (place, stray) in strays {
            if let Err(error) = write::remove_stray(&*self.store, &place, &stray).await {
                log::warn!("{}: an older name stays on the store: {error}", place.name);
            }
        }
    }

    fn take_name(&self, ino: u64, parent: u64, name: &str) {
        self.take_name_in(&mut self.tree(), ino, parent, name);
    }

    fn take_name_in(&self, tree: &mut Tree, ino: u64, parent: u64, name: &str) {
        tree.rename(ino, parent, name);
        if let Some(node) = tree.get_mut(ino) {
            node.ctime = Some(std::time::SystemTime::now());
        }
        lock(&self.refused).remove(&(parent, name.to_owned()));
    }

    fn note_entry(&self, ino: u64, entry: Entry) {
        if let Some(node) = self.tree().get_mut(ino) {
            let now = Instant::now();
            (node.checked, node.changed) = (now, Some(now));
            node.entry = Some(Arc::new(entry));
        }
    }

    async fn rename_dir(
        &self,
        ino: u64,
        over: Option<u64>,
        new_parent: u64,
        new_name: &str,
    ) -> Result<()> {
        let missing = || Error::new(Kind::NotFound, "rename").at(new_name);
        let place = self
            .tree()
            .place(new_parent, new_name)
            .ok_or_else(missing)?;
        let entry = self
            .tree()
            .get(ino)
            .and_then(|node| node.entry.clone())
            .ok_or_else(missing)?;
        let over_entry =
            over.and_then(|over| self.tree().get(over).and_then(|node| node.entry.clone()));
        if self.store.caps().rename_dir {
            let renamed = self.store.rename(&entry, &place, over_entry.as_deref());
            let renamed = self.within_name_timeout("rename", renamed).await?;
            self.take_name(ino, new_parent, new_name);
            self.note_entry(ino, renamed);
            return Ok(());
        }
        self.check_movable(ino).await?;
        self.clear_name(new_parent, new_name).await?;
        self.move_dir(ino, over.is_some(), new_parent, new_name)
            .await
    }

    /// `CrossDevice` if there is more below a directory than is moved one by one.
    async fn check_movable(&self, ino: u64) -> Result<()> {
        let (mut count, mut bytes) = (0usize, 0u64);
        let mut dirs = vec![ino];
        while let Some(dir) = dirs.pop() {
            self.list_fresh(dir).await?;
            let tree = self.tree();
            let Some(node) = tree.get(dir) else { continue };
            for child in node.children.values().filter_map(|&child| tree.get(child)) {
                count += 1;
                if child.entry.is_some() && child.writer.as_ref().is_some_and(|w| w.is_open()) {
                    // Its old version cannot go before the new one is there: the caller copies.
                    return Err(Error::new(Kind::CrossDevice, "rename"));
                }
                bytes += child.entry.as_ref().map_or(0, |entry| entry.size);
                if child.kind == EntryKind::Dir {
                    dirs.push(child.ino);
                }
            }
            if count > self.options.rename_max || bytes > MOVE_MAX {
                return Err(Error::new(Kind::CrossDevice, "rename"));
            }
        }
        Ok(())
    }

    /// Makes the new directory, moves what is in the old one, removes the old one. If that breaks in the
    /// middle, every file is under one of the two names and the error is told.
    fn move_dir<'a>(
        &'a self,
        ino: u64,
        exists: bool,
        new_parent: u64,
        new_name: &'a str,
    ) -> futures_util::future::BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let missing = || Error::new(Kind::NotFound, "rename").at(new_name);
            let place = self
                .tree()
                .place(new_parent, new_name)
                .ok_or_else(missing)?;
            let made = if exists {
                self.store.stat(&place).await?
            } else {
                self.store.mkdir(&place).await?
            };
            let new = {
                let mut tree = self.tree();
                let new = tree.insert(new_parent, new_name, EntryKind::Dir, Some(made));
                if let Some(node) = tree.get_mut(new) {
                    node.changed = Some(Instant::now());
                    node.listed = node.changed;
                }
                new
            };
            let first = |tree: &Tree| {
                let mut children = tree.get(ino)?.children.iter();
                children
                    .find_map(|(name, &child)| Some((name.clone(), child, tree.get(child)?.kind)))
            };
            // What a program makes in it meanwhile is moved as well.
            let mut tree = loop {
                loop {
                    let Some((name, child, kind)) = first(&self.tree()) else {
                        break;
                    };
                    match kind {
                        EntryKind::Dir => self.move_dir(child, false, new, &name).await?,
                        EntryKind::File | EntryKind::Symlink => {
                            self.rename_file(child, None, new, &name).await?;
                            self.vacate(child).await?;
                        }
                    }
                }
                let old = self.tree().get(ino).and_then(|node| node.entry.clone());
                if let Some(old) = &old {
                    match self.store.rmdir(old).await {
                        Err(error) if error.kind != Kind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                let tree = self.tree();
                if first(&tree).is_none() {
                    break tree;
                }
            };
            // The inode keeps its number: it takes over what was made for the new name.
            let (entry, children) = match tree.get_mut(new) {
                Some(node) => (node.entry.clone(), std::mem::take(&mut node.children)),
                None => return Ok(()),
            };
            tree.rename(ino, new_parent, new_name);
            for &child in children.values() {
                if let Some(node) = tree.get_mut(child) {
                    node.parent = ino;
                }
            }
            if let Some(node) = tree.get_mut(ino) {
                let now = Instant::now();
                (node.checked, node.changed, node.listed) = (now, Some(now), Some(now));
                node.entry = entry;
                node.children = children;
            }
            Ok(())
        })
    }
}

/// The commit goes to `place` from now on, and removes what is under the old name.
fn redirect(
    target: &mut Target,
    place: Place,
    over: Option<Entry>,
    replaced: Vec<(Place, Entry)>,
    path: String,
    looked: Option<Instant>,
) {
    target.path = path;
    let old = std::mem::replace(&mut target.place, place);
    if let Some(entry) = target.replaces.take() {
        target.removes.push((old, entry));
    }
    target.removes.extend(replaced);
    // Back under a name that it had: what is there is replaced, not removed.
    let here = target.place.clone();
    let back = target
        .removes
        .extract_if(.., |(there, _)| *there == here)
        .last();
    let back = back.map(|(_, entry)| entry);
    target.replaces = over.or(back);
    target.looked = looked;
    target.exclusive = false;
}
