//! From names to items (spec, sections 8 and 11): there is no call by path. An id that is known is asked
//! about; a name that is not is asked for by the check before an upload, which names who has it; where that
//! may not be asked, the folder is listed.

use super::ask::Said;
use super::item::{FIELDS, Item};
use super::*;
use serde_json::{Value, json};
use std::collections::hash_map::Entry as Slot;

/// Entries of a page of a listing.
const PAGE: usize = 1000;

/// Most bytes of a page: a thousand entries with long names.
const PAGE_MAX: usize = 16 << 20;

/// Most names whose ids are remembered.
const KNOWN_MAX: usize = 200_000;

/// What the check before an upload says of a name.
enum Check {
    Free,
    Taken(Box<Item>),
    /// It says nothing here.
    Mute,
}

impl BoxCom {
    /// Notes which item has a name.
    pub(super) fn note(&self, dir: &str, item: &Item) {
        let Some(name) = &item.name else { return };
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let key = (dir.to_owned(), name.clone());
        known.insert(key, names::addr(item.kind, &item.id));
    }

    /// An entry does not have its name any more.
    pub(super) fn forget(&self, entry: &Entry) {
        if let Some(dir) = item::tag_of(entry).1 {
            lock(&self.known).remove(&(dir.to_owned(), entry.name.clone()));
        }
    }

    /// Who has a name in a folder, in whatever case of letters, fresh.
    pub(super) async fn find(
        &self,
        dir: &str,
        name: &str,
        op: &'static str,
    ) -> Result<Option<Item>> {
        if names::check(name).is_err() {
            return Ok(None);
        }
        let key = (dir.to_owned(), name.to_owned());
        let known = lock(&self.known).get(&key).cloned();
        if let Some(addr) = known {
            let item = self.item(&addr, op).await?;
            let here = |item: &Item| {
                let folder = item.parent.as_deref().is_none_or(|parent| parent == dir);
                folder && item.name.as_deref() == Some(name)
            };
            if let Some(item) = item.filter(here) {
                return Ok(Some(item));
            }
            lock(&self.known).remove(&key);
        }
        match self.check_free(dir, name, op).await? {
            Check::Free => Ok(None),
            Check::Taken(brief) => {
                let found = self.item(&names::addr(brief.kind, &brief.id), op).await?;
                if let Some(item) = &found {
                    self.note(dir, item);
                }
                Ok(found)
            }
            Check::Mute => {
                let items = self.items(dir, op).await?;
                let exact = items.iter().find(|item| item.name.as_deref() == Some(name));
                let folded = |item: &&Item| {
                    item.name
                        .as_deref()
                        .is_some_and(|other| names::same(other, name))
                };
                Ok(exact.or_else(|| items.iter().find(folded)).cloned())
            }
        }
    }

    /// Asks whether a file could be made under a name.
    async fn check_free(&self, dir: &str, name: &str, op: &'static str) -> Result<Check> {
        if self.mute.load(Ordering::Relaxed) {
            return Ok(Check::Mute);
        }
        let body = json!({"name": name, "parent": {"id": dir}});
        let method = Method::OPTIONS;
        let ask = self.ask(method, &self.config.api, "files/content", op, name)?;
        let no = match self.tell(&ask.json(&body)).await? {
            Said::Yes(answer) => {
                answer.drain().await;
                return Ok(Check::Free);
            }
            Said::No(no) => no,
        };
        match (no.status, no.error.kind) {
            (409, ErrorKind::Exists) => {
                Ok((no.conflict()).map_or(Check::Mute, |item| Check::Taken(Box::new(item))))
            }
            // Somebody is making it, it is not there yet; or this folder takes no files of ours.
            (409 | 403, _) => Ok(Check::Mute),
            (400, _) => Ok(Check::Mute),
            (405 | 501, _) => {
                // Something on the way does not let it through.
                self.mute.store(true, Ordering::Relaxed);
                Ok(Check::Mute)
            }
            _ => Err(no.error),
        }
    }

    /// All files and folders in a folder, each name once.
    pub(super) async fn items(&self, dir: &str, op: &'static str) -> Result<Vec<Item>> {
        let mut all: HashMap<String, Item> = HashMap::new();
        let mut marker = String::new();
        let asked = Instant::now();
        loop {
            let mut path =
                format!("folders/{dir}/items?usemarker=true&limit={PAGE}&fields={FIELDS}");
            if !marker.is_empty() {
                path.push_str(&format!("&marker={}", encode(&marker)));
            }
            let ask = self.ask(Method::GET, &self.config.api, &path, op, dir)?;
            let page: Value = match self.tell(&ask).await? {
                Said::Yes(answer) => answer.json(PAGE_MAX).await?,
                Said::No(no) => return Err(no.error),
            };
            let entries = page["entries"].as_array().ok_or_else(|| {
                Error::new(ErrorKind::Protocol, op)
                    .at(dir)
                    .said("a listing without entries")
            })?;
            for item in entries
                .iter()
                .filter_map(Item::of)
                .filter(|item| !item.trashed)
            {
                take_in(&mut all, item);
            }
            // Null, empty or missing: the last page. An empty page is not.
            match page["next_marker"].as_str().unwrap_or("") {
                "" => break,
                next if next == marker => {
                    let words = "the listing goes in a circle";
                    return Err(Error::new(ErrorKind::Protocol, op).at(dir).said(words));
                }
                next => next.clone_into(&mut marker),
            }
        }
        self.settle(dir, asked, &mut all, op).await?;
        let mut items = Vec::with_capacity(all.len());
        for mut item in all.into_values() {
            item.parent.get_or_insert_with(|| dir.to_owned());
            self.note(dir, &item);
            items.push(item);
        }
        Ok(items)
    }

    /// Holds what we changed a moment ago against what a listing says: where they disagree, the item itself
    /// is asked.
    async fn settle(
        &self,
        dir: &str,
        asked: Instant,
        all: &mut HashMap<String, Item>,
        op: &'static str,
    ) -> Result<()> {
        let recent = {
            let mut recent = lock(&self.recent);
            recent.retain(|change| asked.duration_since(change.at) < self.config.settle);
            recent.clone()
        };
        if recent.is_empty() {
            return Ok(());
        }
        let listed: HashMap<Addr, (String, Option<String>)> = (all.iter())
            .map(|(name, item)| {
                let addr = names::addr(item.kind, &item.id);
                (addr, (name.clone(), item.etag.clone()))
            })
            .collect();
        for change in &recent {
            let listed = listed.get(&change.addr);
            let agrees = match (&change.etag, listed) {
                (Some(etag), Some((_, tag))) => newer(tag.as_deref(), etag),
                (Some(_), None) => change.dir != dir,
                (None, listed) => listed.is_none(),
            };
            if agrees {
                continue;
            }
            let now = self.item(&change.addr, op).await?;
            if let Some((name, _)) = listed {
                all.remove(name);
            }
            let here = |item: &Item| item.parent.as_deref().is_none_or(|parent| parent == dir);
            if let Some(item) = now.filter(here) {
                take_in(all, item);
            }
        }
        Ok(())
    }

    /// Notes a change of our own; `etag` is nothing for what is gone from a folder.
    pub(super) fn changed(&self, dir: &str, addr: Addr, etag: Option<&str>) {
        if self.config.settle.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut recent = lock(&self.recent);
        recent.retain(|change| {
            change.addr != addr && now.duration_since(change.at) < self.config.settle
        });
        recent.push(Change {
            at: now,
            dir: dir.to_owned(),
            addr,
            etag: etag.map(str::to_owned),
        });
    }
}

/// Whether a tag is at least as new as another: they are counters, in practice.
fn newer(tag: Option<&str>, than: &str) -> bool {
    match (tag.map(str::parse::<u64>), than.parse::<u64>()) {
        (Some(Ok(tag)), Ok(than)) => tag >= than,
        _ => tag == Some(than),
    }
}

/// Of several items of one name the one with the lowest id is shown.
fn take_in(all: &mut HashMap<String, Item>, item: Item) {
    let Some(name) = item.name.clone().filter(|name| names::is_one_segment(name)) else {
        log::warn!("an item whose name cannot be shown is hidden: {}", item.id);
        return;
    };
    let order = |item: &Item| (item.id.len(), item.id.clone());
    match all.entry(name) {
        Slot::Vacant(slot) => {
            slot.insert(item);
        }
        Slot::Occupied(mut slot) if slot.get().id != item.id || slot.get().kind != item.kind => {
            log::warn!("two items have the name {}: one is hidden", slot.key());
            if order(&item) < order(slot.get()) {
                slot.insert(item);
            }
        }
        Slot::Occupied(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_counters_where_they_are() {
        assert!(newer(Some("10"), "9") && newer(Some("9"), "9") && !newer(Some("9"), "10"));
        assert!(newer(Some("x"), "x") && !newer(Some("x"), "y") && !newer(None, "1"));
    }

    #[test]
    fn of_two_items_of_one_name_the_lowest_id_is_shown() {
        let mut all = HashMap::new();
        for id in ["100", "99", "101"] {
            let item = json!({"type": "file", "id": id, "name": "f"});
            take_in(&mut all, Item::of(&item).unwrap());
        }
        assert_eq!(all["f"].id, "99");
    }
}
