//! What stays in the spool, as a running mount knows it: listed, sent again, discarded.

use super::tree::Node;
use super::{Vfs, lock};
use crate::error::{Error, Kind, Result};
use crate::store::Kind as EntryKind;
use crate::write::unsent::{self, Stays, Unsent};
use crate::write::{Last, Record, SpoolFile, Writer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Vfs {
    /// The folders of this mount's spool.
    #[must_use]
    pub fn spool_folders(&self) -> Vec<PathBuf> {
        self.write.spool.folders().to_vec()
    }

    /// What stays in the spool, oldest first: without what is being written, or on its way for the first
    /// time. Reads the local disk.
    pub fn unsent(&self) -> Result<Vec<Unsent>> {
        let mut all = Vec::new();
        for folder in self.write.spool.folders() {
            all.extend(unsent::list(folder)?);
        }
        let mut held: HashMap<PathBuf, Option<bool>> = HashMap::new();
        let mut errors: HashMap<PathBuf, String> = HashMap::new();
        for writer in self.writers() {
            for (data, kept) in writer.spooled() {
                if kept == Some(true)
                    && let Last::Failed { error, .. } = writer.look().2
                {
                    errors.insert(data.clone(), error.to_string());
                }
                held.insert(data, kept);
            }
        }
        all.retain_mut(|one| {
            if one.state == Stays::Owed && one.error.is_none() {
                one.error = errors.remove(&one.data);
            }
            // A kept one is not there as such before its record says so.
            let here = match held.get(&one.data) {
                None => true,
                Some(Some(true)) => one.state == Stays::Owed,
                Some(Some(false)) => one.state != Stays::Owed && one.error.is_some(),
                Some(None) => false,
            };
            // What ended between the two looks is gone by now.
            let there = |ending| one.data.with_extension(ending).exists();
            here && (there("json") || there("data"))
        });
        Ok(all)
    }

    async fn unsent_by_id(&self, id: &str) -> Result<Unsent> {
        let me = self.me.upgrade().ok_or(Error::new(Kind::Cancelled, ""))?;
        let listed = self.rt.spawn_blocking(move || me.unsent()).await;
        let listed = listed.map_err(|e| Error::new(Kind::Broken, "list").because(e))??;
        let mut listed = listed.into_iter();
        listed
            .find(|one| one.id == id)
            .ok_or_else(|| Error::new(Kind::NotFound, "look for").at(id))
    }

    fn writer_with(&self, data: &Path) -> Option<Arc<Writer>> {
        let mut writers = self.writers().into_iter();
        writers.find(|writer| writer.spooled().iter().any(|(path, _)| path == data))
    }

    /// Sends again what is owed or was refused; returns when the store has it, or why it does not.
    ///
    /// What was refused is not sent over something newer: neither over a version that the store has got
    /// since, nor over one that is being written here.
    pub async fn retry(&self, id: &str) -> Result<()> {
        self.check_writable()?;
        let unsent = self.unsent_by_id(id).await?;
        let failed = |kind| Error::new(kind, "retry").at(unsent.name());
        match unsent.state {
            Stays::Owed | Stays::Refused => {}
            Stays::Torn => {
                let why = "nobody said that it is whole: export or discard it";
                return Err(failed(Kind::Invalid).said(why));
            }
            Stays::Odd => return Err(failed(Kind::Invalid).said("it cannot be understood")),
        }
        if let Some(writer) = self.writer_with(&unsent.data) {
            return match unsent.state {
                Stays::Owed => self.retry_owed(&writer).await,
                _ if writer.is_open() => Err(failed(Kind::Busy).said("a program has it open")),
                _ => {
                    let target = writer.target();
                    self.check_not_newer(&target.place, target.replaces.as_ref(), &unsent)
                        .await?;
                    self.retry_refused(&writer).await
                }
            };
        }
        let refusal = {
            let mut refusals = lock(&self.refusals);
            let at = (refusals.iter()).position(|(.., file)| file.path() == unsent.data);
            at.map(|at| refusals.remove(at))
        };
        let (place, at_ms, file) = match refusal {
            Some(refusal) => refusal,
            None => {
                let (file, record) = self.write.spool.reopen(&unsent.data)?;
                if unsent.state == Stays::Owed {
                    self.not_left();
                    return self.retry_left(&file, &record).await;
                }
                (record.target.place, record.at_ms, file)
            }
        };
        let writer = match self.readmit(&file, &unsent).await {
            Ok(writer) => writer,
            Err(error) => {
                lock(&self.refusals).push((place, at_ms, file));
                return Err(error);
            }
        };
        self.retry_refused(&writer).await
    }

    /// Sends what was refused; a close may be answered for less than that.
    async fn retry_refused(&self, writer: &Arc<Writer>) -> Result<()> {
        writer.set_deferred(false);
        super::files::wait(writer.sync()).await?;
        self.outcome(writer).await
    }

    /// One owed version less that this mount cannot send.
    fn not_left(&self) {
        let less = |left: usize| left.checked_sub(1);
        // None was counted.
        let _ = (self.left_owed).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    async fn retry_owed(&self, writer: &Arc<Writer>) -> Result<()> {
        writer.set_deferred(false);
        self.outcome(writer).await
    }

    /// How what is on its way ends.
    async fn outcome(&self, writer: &Writer) -> Result<()> {
        writer.at_rest().await;
        match writer.look().2 {
            Last::Failed { error, .. } if writer.owes() => Err(error),
            _ => Ok(()),
        }
    }

    /// What is owed and could not be taken up at the start.
    async fn retry_left(&self, file: &Arc<SpoolFile>, record: &Record) -> Result<()> {
        match self.take_up_one(file, record, None).await {
            Ok(false) => Ok(()),
            Ok(true) => match self.writer_with(&file.path()) {
                Some(writer) => self.retry_owed(&writer).await,
                None => Ok(()),
            },
            Err(error) => {
                self.leave_owed(file);
                Err(error)
            }
        }
    }

    /// Gives a refusal of an earlier process its place in the tree again.
    async fn readmit(&self, file: &Arc<SpoolFile>, unsent: &Unsent) -> Result<Arc<Writer>> {
        let data = unsent.data.clone();
        let record = unsent::record(&data)?;
        let target = &record.target;
        self.check_not_newer(&target.place, target.replaces.as_ref(), unsent)
            .await?;
        let (parent, name) = self.parent_of(&target.path).await?;
        let ino = self.claim(parent, &name)?;
        let admitted = Writer::readmit(ino, self.write.clone(), file.clone(), &record).await;
        let writer = self.settle_claim(ino, admitted, &target.attrs)?;
        writer.set_promise(self.promise_for(&target.path));
        Ok(writer)
    }

    /// An inode for what is to be sent under a name: `Busy` if something newer is there.
    pub(super) fn claim(&self, parent: u64, name: &str) -> Result<u64> {
        let mut tree = self.tree();
        let Some(ino) = tree.child(parent, name) else {
            return Ok(tree.insert(parent, name, EntryKind::File, None));
        };
        let node = tree.get(ino).ok_or(Error::new(Kind::Stale, "take up"))?;
        if node.kind != EntryKind::File {
            return Err(Error::new(Kind::IsDir, "take up").at(name));
        }
        if node.handles > 0 || !node.is_settled() {
            return Err(taken(name));
        }
        Ok(ino)
    }

    /// Gives a claimed inode its writer, or the name back: `Busy` if something newer has come there since.
    pub(super) fn settle_claim(
        &self,
        ino: u64,
        writer: Result<Arc<Writer>>,
        attrs: &crate::store::Attrs,
    ) -> Result<Arc<Writer>> {
        let mut tree = self.tree();
        let newer = |node: &&Node| {
            let writer = node.writer.as_ref();
            !node.is_named()
                || node.handles > 0
                || writer.is_some_and(|writer| !writer.is_settled())
        };
        let writer = match tree.get(ino).filter(newer) {
            Some(node) => writer.and_then(|_| Err(taken(&node.name))),
            None => writer,
        };
        match (writer, tree.get_mut(ino)) {
            (Ok(writer), Some(node)) => {
                node.attrs = attrs.clone();
                node.writer = Some(writer.clone());
                Ok(writer)
            }
            (Ok(_), None) => Err(Error::new(Kind::Stale, "take up")),
            (Err(error), node) => {
                if node.is_some_and(|node| node.entry.is_none() && node.writer.is_none()) {
                    tree.detach(ino);
                }
                Err(error)
            }
        }
    }

    /// Whether the store still has what it had when this was written.
    async fn check_not_newer(
        &self,
        place: &crate::store::Place,
        replaces: Option<&crate::store::Entry>,
        unsent: &Unsent,
    ) -> Result<()> {
        let now = match self.store.stat(place).await {
            Ok(now) => now,
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let record = unsent::record(&unsent.data)?;
        let ours = now.size == record.size && record.digests.agree(&now.digests) == Some(true);
        let known = replaces.is_some_and(|known| known.version == now.version);
        if ours || known || record.target.attempted(&now) {
            return Ok(());
        }
        let error = Error::new(Kind::Conflict, "retry").at(unsent.name());
        Err(error.said("the store has another version by now: export or discard this one"))
    }

    /// Removes what stays in the spool. What is owed only with `force`.
    pub async fn discard(&self, id: &str, force: bool) -> Result<()> {
        let unsent = self.unsent_by_id(id).await?;
        let busy = |why| {
            Error::new(Kind::Busy, "discard")
                .at(unsent.name())
                .said(why)
        };
        if unsent.state == Stays::Owed && !force {
            return Err(busy("a program was told that it is safe"));
        }
        let Some(writer) = self.writer_with(&unsent.data) else {
            let mut refusals = lock(&self.refusals);
            let at = (refusals.iter()).position(|(.., file)| file.path() == unsent.data);
            if let Some(at) = at {
                refusals.remove(at).2.discard();
                return Ok(());
            }
            drop(refusals);
            self.write.spool.forget(&unsent.data)?;
            if unsent.state == Stays::Owed {
                self.not_left();
            }
            return Ok(());
        };
        let ino = writer.ino();
        if writer.is_open() || self.tree().get(ino).is_some_and(|node| node.handles > 0) {
            return Err(busy("a program has it open"));
        }
        writer.unlinked();
        let rest = async {
            writer.at_rest().await;
            Ok(())
        };
        if let Err(error) = self.within_name_timeout("discard", rest).await {
            writer.revived();
            return Err(error);
        }
        writer.removed();
        let mut tree = self.tree();
        match tree.get_mut(ino) {
            Some(node) if node.entry.is_none() => tree.detach(ino),
            // What the store has of it is shown again.
            Some(node) => {
                node.writer = None;
                let entry = node.entry.clone();
                node.attrs = entry.map(|entry| entry.attrs.clone()).unwrap_or_default();
                (node.written, node.pages) = (None, None);
                tree.reap(ino);
            }
            None => {}
        }
        Ok(())
    }
}

fn taken(name: &str) -> Error {
    let error = Error::new(Kind::Busy, "take up").at(name);
    error.said("it is open, or something newer of that name is on its way")
}
