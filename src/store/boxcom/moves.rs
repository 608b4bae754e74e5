//! Folders made, items renamed, moved and removed (spec, section 13).
//!
//! No request of the service replaces what has a name. A rename over an existing item therefore puts that
//! aside under a name beside, moves, and removes what was put aside; if the move fails it gets its name
//! back. Nothing is removed before the move has succeeded.

use super::ask::LONG;
use super::item::{FIELDS, tag_of};
use super::refusal::is_lost;
use super::*;

/// How often the removal of what was replaced is tried.
const TRIES: u32 = 3;

/// How often, and how long at first, a name is waited for that somebody else is making.
pub(super) const RESERVED_TRIES: u32 = 5;
pub(super) const RESERVED_PAUSE: Duration = Duration::from_millis(200);

/// `files/ID` or `folders/ID`.
fn path_of(entry: &Entry) -> String {
    match entry.addr.0.split_once('/') {
        Some(("folder", id)) => format!("folders/{id}"),
        Some((_, id)) => format!("files/{id}"),
        None => entry.addr.0.to_string(),
    }
}

impl BoxCom {
    pub(super) async fn make_folder(&self, place: &Place) -> Result<Entry> {
        const OP: &str = "make directory";
        let dir = names::folder_id(&place.dir, OP)?;
        names::check(&place.name)?;
        let what = format!("{dir}/{}", place.name);
        let body = json!({"name": place.name, "parent": {"id": dir}});
        let path = format!("folders?fields={FIELDS}");
        let mut reserved = 0;
        loop {
            let ask = self.ask(Method::POST, &self.config.api, &path, OP, &place.name)?;
            let no = match self.tell(&ask.json(&body)).await {
                Ok(Said::Yes(answer)) => {
                    self.doubt(OP, &what);
                    let item = self.described(answer, OP, &place.name).await?;
                    self.doubted(OP, &what);
                    return self.made(dir, &item, OP);
                }
                Ok(Said::No(no)) => no,
                Err(error) => {
                    if is_lost(&error) {
                        self.doubt(OP, &what);
                    }
                    return Err(error);
                }
            };
            if no.is_lost() {
                self.doubt(OP, &what);
                return Err(no.error);
            }
            if no.code == "name_temporarily_reserved" && reserved < RESERVED_TRIES {
                reserved += 1;
                tokio::time::sleep(RESERVED_PAUSE * reserved).await;
                continue;
            }
            if no.error.kind == ErrorKind::Exists && self.doubted(OP, &what) {
                // Our own, made by a request whose answer was lost.
                let item = match no.conflict() {
                    Some(item) => self.item(&names::addr(item.kind, &item.id), OP).await?,
                    None => self.find(dir, &place.name, OP).await?,
                };
                if let Some(item) = item.filter(|item| item.kind == Kind::Dir) {
                    return self.made(dir, &item, OP);
                }
            }
            return Err(no.error.at(&*place.name));
        }
    }

    pub(super) async fn remove_file(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove";
        names::file_id(&entry.addr, OP)?;
        let (etag, dir) = tag_of(entry);
        let mut etag = etag.map(str::to_owned);
        if self.doubted(OP, &entry.addr.0) {
            // Its etag may be older than what our own attempt has done.
            match self.item(&entry.addr, OP).await? {
                None => return self.gone(entry, dir),
                Some(now) => etag = Some(self.still(entry, &now, OP)?),
            }
        }
        for again in [true, false] {
            let path = path_of(entry);
            let ask = self.ask(Method::DELETE, &self.config.api, &path, OP, &entry.name)?;
            let no = match self.tell(&ask.if_match(etag.as_deref())).await {
                Ok(Said::Yes(answer)) => {
                    answer.drain().await;
                    return self.gone(entry, dir);
                }
                Ok(Said::No(no)) => no,
                Err(error) => {
                    if is_lost(&error) {
                        return self.lost_removal(OP, entry, error).await;
                    }
                    return Err(error);
                }
            };
            if no.is_lost() {
                return self.lost_removal(OP, entry, no.error).await;
            }
            if no.error.kind == ErrorKind::NotFound {
                self.forget(entry);
            }
            if no.status != 412 || !again {
                return Err(no.error);
            }
            // Its name or time was changed, or its content.
            match self.item(&entry.addr, OP).await? {
                None => return Err(no.error_as(ErrorKind::NotFound)),
                Some(now) => etag = Some(self.still(entry, &now, OP)?),
            }
        }
        Err(Error::new(ErrorKind::Conflict, OP).at(&*entry.name))
    }

    /// The etag of an item that is to be removed, if it is still what it was, where it was.
    fn still(&self, entry: &Entry, now: &Item, op: &'static str) -> Result<String> {
        let refuse = |kind| Err(Error::new(kind, op).at(&*entry.name));
        let (_, dir) = tag_of(entry);
        let moved = dir.is_some() && now.parent.is_some() && dir != now.parent.as_deref();
        if moved || now.name.as_deref() != Some(&*entry.name) {
            return refuse(ErrorKind::NotFound);
        }
        match now.version() == entry.version {
            true => Ok(now.etag.clone().unwrap_or_default()),
            false => refuse(ErrorKind::Conflict),
        }
    }

    fn gone(&self, entry: &Entry, dir: Option<&str>) -> Result<()> {
        self.forget(entry);
        self.changed(dir.unwrap_or(""), entry.addr.clone(), None);
        Ok(())
    }

    /// What a removal has done whose answer was lost.
    async fn lost_removal(&self, op: &'static str, entry: &Entry, error: Error) -> Result<()> {
        if let Ok(None) = self.item(&entry.addr, op).await {
            return self.gone(entry, tag_of(entry).1);
        }
        self.doubt(op, &entry.addr.0);
        Err(error)
    }

    pub(super) async fn remove_folder(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove directory";
        let id = names::folder_id(&entry.addr, OP)?;
        if id == "0" {
            return Err(Error::new(ErrorKind::Busy, OP).at("/").said("the root"));
        }
        let doubted = self.doubted(OP, &entry.addr.0);
        let path = format!("folders/{id}?recursive=false");
        let ask = self.ask(Method::DELETE, &self.config.api, &path, OP, &entry.name)?;
        match self.tell(&ask).await {
            Ok(Said::Yes(answer)) => {
                answer.drain().await;
                self.gone(entry, tag_of(entry).1)
            }
            Ok(Said::No(no)) if no.is_lost() => self.lost_removal(OP, entry, no.error).await,
            Ok(Said::No(no)) if no.error.kind == ErrorKind::NotFound => {
                let _ = self.gone(entry, tag_of(entry).1);
                match doubted {
                    true => Ok(()),
                    false => Err(no.error),
                }
            }
            Ok(Said::No(no)) => Err(no.error),
            Err(error) if is_lost(&error) => self.lost_removal(OP, entry, error).await,
            Err(error) => Err(error),
        }
    }

    /// Gives an item a name in a folder; what became of it if the answer was lost is found out by looking.
    async fn relocate(
        &self,
        entry: &Entry,
        dir: Option<&str>,
        name: &str,
        op: &'static str,
    ) -> Result<Item> {
        let mut body = json!({"name": name});
        if let Some(dir) = dir {
            body["parent"] = json!({"id": dir});
        }
        let path = format!("{}?fields={FIELDS}", path_of(entry));
        let mut ask = self.ask(Method::PUT, &self.config.api, &path, op, &entry.name)?;
        ask.answer_within = Some(LONG);
        let error = match self.tell(&ask.json(&body)).await {
            Ok(Said::Yes(answer)) => return self.described(answer, op, &entry.name).await,
            Ok(Said::No(no)) if !no.is_lost() => return Err(no.error),
            Ok(Said::No(no)) => no.error,
            Err(error) if !is_lost(&error) => return Err(error),
            Err(error) => error,
        };
        let there = |item: &Item| {
            let folder = dir.is_none() || item.parent.as_deref() == dir;
            folder && item.name.as_deref() == Some(name)
        };
        match self.item(&entry.addr, op).await {
            Ok(Some(item)) if there(&item) => Ok(item),
            _ => Err(error),
        }
    }

    pub(super) async fn move_item(
        &self,
        entry: &Entry,
        to: &Place,
        over: Option<&Entry>,
    ) -> Result<Entry> {
        const OP: &str = "rename";
        let dir = names::folder_id(&to.dir, OP)?;
        names::check(&to.name)?;
        // Within a folder only the name is told.
        let (_, from) = tag_of(entry);
        let parent = Some(dir).filter(|dir| from != Some(dir));
        self.forget(entry);
        // Another spelling of its own name.
        let over = over.filter(|over| over.addr != entry.addr);
        let Some(over) = over else {
            let item = self.relocate(entry, parent, &to.name, OP).await?;
            return self.made(dir, &item, OP);
        };
        if over.kind == Kind::Dir {
            match self.remove_folder(over).await {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let item = self.relocate(entry, parent, &to.name, OP).await?;
            return self.made(dir, &item, OP);
        }
        // Whoever waits for it may go away; it must not end between its requests.
        let (here, entry, to, over) = (self.clone(), entry.clone(), to.clone(), over.clone());
        let replaced = tokio::spawn(async move { here.replace(&entry, &to, &over, OP).await });
        let died = |e| Error::new(ErrorKind::Broken, OP).because(e);
        replaced.await.map_err(died)?
    }

    /// Puts a file aside, moves another one to its place, and removes what was put aside.
    async fn replace(
        &self,
        entry: &Entry,
        to: &Place,
        over: &Entry,
        op: &'static str,
    ) -> Result<Entry> {
        let dir = names::folder_id(&to.dir, op)?;
        let parent = Some(dir).filter(|dir| tag_of(entry).1 != Some(dir));
        let aside = names::aside(&to.name);
        let put_aside = match self.relocate(over, None, &aside, op).await {
            Ok(item) => Some(item),
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let moved = self.relocate(entry, parent, &to.name, op).await;
        let Some(put_aside) = put_aside else {
            return self.made(dir, &moved?, op);
        };
        match moved {
            Ok(item) => {
                self.remove_replaced(over, put_aside).await;
                self.made(dir, &item, op)
            }
            Err(error) => {
                if let Err(worse) = self.relocate(over, None, &to.name, op).await {
                    log::error!(
                        "{} is now {aside}, and cannot get its name back: {worse}",
                        to.name
                    );
                }
                Err(error)
            }
        }
    }

    /// Removes what was put aside. The rename is done whatever becomes of it.
    async fn remove_replaced(&self, over: &Entry, item: Item) {
        let Some(aside) = item.entry() else { return };
        for tried in 1.. {
            match self.remove_file(&aside).await {
                Err(error) if error.kind.worth_another_try() && tried < TRIES => {
                    tokio::time::sleep(RESERVED_PAUSE * tried).await;
                }
                Err(error) if error.kind != ErrorKind::NotFound => {
                    log::warn!(
                        "what {} was before stays as {}: {error}",
                        over.name,
                        aside.name
                    );
                    return;
                }
                _ => return,
            }
        }
    }
}
