//! What is owed to the store: temporary names, what closes answer for, what an earlier process promised,
//! and the end of the mount.

use super::tree::ROOT;
use super::{Drained, NODES_MAX, Vfs, lock};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Kind as EntryKind, Place};
use crate::write::{self, Class, Promise, Record, SpoolFile, Top, Writer};
use futures_util::StreamExt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often parked files are looked at for having been idle.
const IDLE_TICK: Duration = Duration::from_secs(5);

/// What a start took up of an earlier process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenUp {
    /// Files that are being sent now.
    pub sending: usize,
    /// Files that the store turned out to have.
    pub there: usize,
    /// Files that were open at a crash, or that a program was told had failed: kept.
    pub kept: usize,
    /// What cannot be understood or taken up, one sentence each: kept.
    pub odd: Vec<String>,
}

impl Vfs {
    /// Whether a name is a temporary one.
    pub(super) fn is_deferred(&self, name: &str) -> bool {
        self.temp_names.is_match(name)
    }

    /// What closes of a path below the mountpoint answer for.
    pub(super) fn promise_for(&self, path: &str) -> Promise {
        let matches = self.commit_for.matches(path.trim_start_matches('/'));
        let first = matches
            .first()
            .and_then(|&at| self.options.commit_for.get(at));
        first.map_or(self.options.commit, |(_, promise)| *promise)
    }

    /// Applies name and path to a writer that is about to be used.
    pub(super) fn set_terms(&self, writer: &Arc<Writer>, path: &str, name: &str) {
        writer.set_promise(self.promise_for(path));
        if self.is_deferred(name) {
            writer.set_deferred(true);
        }
    }

    /// Takes up what an earlier process left in the spool: sends what was promised, keeps the rest.
    pub async fn take_up(&self) -> TakenUp {
        let found = std::mem::take(&mut *lock(&self.found));
        let mut taken = TakenUp {
            odd: found.odd,
            ..TakenUp::default()
        };
        // Of several versions promised for one place the last one counts; an older one goes only when
        // that one is in good hands.
        let mut served = HashMap::new();
        let mut there = self.look_at(&found.files).await;
        for (file, record) in found.files.into_iter().rev() {
            match record.class {
                Class::Torn => {
                    taken.kept += 1;
                    file.leave();
                }
                Class::Refused => {
                    taken.kept += 1;
                    lock(&self.refusals).push((record.target.place, record.at_ms, file));
                }
                Class::Acknowledged if served.get(&record.target.place) == Some(&true) => {
                    file.discard();
                }
                // The newer one stays for another start: so does this.
                Class::Acknowledged if served.contains_key(&record.target.place) => {
                    self.leave_owed(&file);
                }
                Class::Acknowledged => match self
                    .take_up_one(&file, &record, there.remove(&record.target.place))
                    .await
                {
                    Ok(sending) => {
                        served.insert(record.target.place, true);
                        *(if sending {
                            &mut taken.sending
                        } else {
                            &mut taken.there
                        }) += 1;
                    }
                    Err(error) => {
                        taken
                            .odd
                            .push(format!("{}: {error}", file.path().display()));
                        served.insert(record.target.place, false);
                        self.leave_owed(&file);
                    }
                },
            }
        }
        taken
    }

    /// What the store has where something is owed, several questions at a time.
    async fn look_at(&self, files: &[(Arc<SpoolFile>, Record)]) -> HashMap<Place, Result<Entry>> {
        let owed = files
            .iter()
            .filter(|(_, record)| record.class == Class::Acknowledged);
        let places: HashSet<Place> = owed
            .map(|(_, record)| record.target.place.clone())
            .collect();
        let looks = places.into_iter().map(|place| async move {
            let look = self.store.stat(&place).await;
            (place, look)
        });
        futures_util::stream::iter(looks)
            .buffer_unordered(self.options.downloads.max(1))
            .collect()
            .await
    }

    /// What is owed and cannot be sent by this mount stays, and is told by the drain.
    pub(super) fn leave_owed(&self, file: &SpoolFile) {
        file.leave();
        self.left_owed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes up one file, where the store has `there`; `false` if that is the file already.
    pub(super) async fn take_up_one(
        &self,
        file: &Arc<SpoolFile>,
        record: &Record,
        there: Option<Result<Entry>>,
    ) -> Result<bool> {
        let (target, keeps) = (&record.target, self.store.caps().keeps);
        let there = match there {
            Some(there) => there,
            // An older version could not be taken up in the place of a newer one.
            None => self.store.stat(&target.place).await,
        };
        match there {
            Ok(entry)
                if entry.size == record.size
                    && keeps.of(&entry.attrs) == keeps.of(&target.attrs)
                    && record.digests.agree(&entry.digests) == Some(true) =>
            {
                match self.clear_old_names(target).await {
                    Ok(()) => {
                        file.discard();
                        return Ok(false);
                    }
                    // With the commit, then, which finds that it is there.
                    Err(error) if error.kind.worth_another_try() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(entry) if entry.kind == EntryKind::Dir => {
                return Err(Error::new(Kind::IsDir, "take up").at(target.path.clone()));
            }
            Ok(_) => {}
            Err(error) if error.kind == Kind::NotFound => {}
            // The look is taken again before it is sent.
            Err(error) if error.kind.worth_another_try() => {}
            Err(error) => return Err(error),
        }
        let (parent, name) = self.parent_of(&target.path).await?;
        let ino = self.claim(parent, &name)?;
        let writer = Writer::adopt(ino, self.write.clone(), file.clone(), record).await;
        let writer = self.settle_claim(ino, writer, &target.attrs)?;
        writer.set_promise(self.promise_for(&target.path));
        writer.go();
        Ok(true)
    }

    async fn clear_old_names(&self, target: &write::Target) -> Result<()> {
        let elsewhere = write::left_elsewhere(&*self.store, target).await?;
        for (place, stray) in target.removes.iter().chain(&elsewhere) {
            write::remove_stray(&*self.store, place, stray).await?;
        }
        Ok(())
    }

    /// The directory of a path below the mountpoint, made where it is missing, and the last name.
    pub(super) async fn parent_of(&self, path: &str) -> Result<(u64, String)> {
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let last = names
            .pop()
            .ok_or(Error::new(Kind::Invalid, "take up"))?
            .to_owned();
        let mut at = ROOT;
        for name in names {
            at = match self.find(at, name).await? {
                Some(ino) => ino,
                None => {
                    let made = self.mkdir(at, name, 0o777 & !self.options.umask).await?;
                    self.forget(made.ino, 1);
                    made.ino
                }
            };
        }
        Ok((at, last))
    }

    /// Sends what has stayed under a temporary name for too long, and lets go of what was known of names that
    /// nobody asks for any more. Runs as long as the mount.
    pub async fn watch_idle(&self) {
        loop {
            tokio::time::sleep(IDLE_TICK.min(self.options.temp_idle)).await;
            let went = self.tree().sweep(NODES_MAX);
            if went > 0 {
                log::debug!("{went} inodes forgotten");
            }
            for writer in self.writers() {
                let idle = |(since, deferred): (std::time::Instant, bool)| {
                    deferred && since.elapsed() >= self.options.temp_idle
                };
                if writer.parked().is_some_and(idle) && !writer.is_open() {
                    writer.set_deferred(false);
                }
            }
        }
    }

    /// Waits until nothing is being sealed, kept or sent.
    pub(super) async fn landed(&self) {
        loop {
            let changed = self.changed.notified();
            let moving = |writer: &Arc<Writer>| writer.look().1.is_moving();
            let replaced: Vec<Arc<Writer>> = lock(&self.replaced).values().cloned().collect();
            // A successor that is safe: what it replaced is given up in a moment.
            if !self.writers().iter().any(moving) && !replaced.iter().any(|by| by.is_safe()) {
                return;
            }
            changed.await;
        }
    }

    /// Takes no new writes (`EROFS`) and sends what is owed, for at most `limit`; may be called again,
    /// also after the unmount. What is open and not closed is not sent: nobody said that it is whole.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.draining.store(true, Ordering::Release);
        for writer in self.writers() {
            writer.set_deferred(false);
        }
        let _ = tokio::time::timeout(limit, self.landed()).await;
        let mut drained = Drained {
            kept: self.left_owed.load(Ordering::Relaxed),
            refused: 0,
        };
        for writer in self.writers() {
            let (top, flight, last, _) = writer.look();
            if writer.owes() || flight.is_moving() {
                drained.kept += 1;
            } else if !writer.is_gone()
                && (top != Top::Same || matches!(last, write::Last::Failed { .. }))
            {
                drained.refused += 1;
            }
        }
        drained
    }

    /// The process is about to end: caches go, and nothing else in the spool is removed any more.
    pub fn close_spool(&self) {
        self.shed_all();
        self.write.spool.freeze();
    }
}
