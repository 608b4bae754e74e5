//! Box, one folder of an account (`specs/box.md`; "section" below means there). Knows the service's
//! addresses and answers; knows nothing of spools, retries or FUSE.
//!
//! An address is `folder/ID` or `file/ID`, so that it survives renames. A version is the id of the file's
//! version. The tag of an entry is its etag and its folder: the one says whether it was changed, the other
//! whether it was moved.
//!
//! The functions of [`Store`] stand in the trait's order; how names are found is in `boxcom/look.rs`, reads
//! are in `boxcom/read.rs`, uploads in `boxcom/upload.rs` and `boxcom/session.rs`, renames and removals in
//! `boxcom/moves.rs`.

mod ask;
mod config;
mod item;
mod keep;
mod look;
mod moves;
mod names;
mod read;
mod refusal;
mod session;
mod token;
mod upload;

pub use config::{Auth, Config, Root, Subject};
pub use token::log_in;

use super::*;
use crate::error::{Error, Kind as ErrorKind};
use crate::http::{Answer, Body, Client, Credential, Method, Secret, Url, encode, skip_for_range};
use ask::{ITEM_MAX, Said};
use item::Item;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::time::Instant;

/// A change of our own that a listing may not show yet.
#[derive(Clone, Debug)]
struct Change {
    at: Instant,
    dir: String,
    addr: Addr,
    etag: Option<String>,
}

/// One folder of a Box account. A clone is the same one: what must not be broken off in the middle runs as a
/// task of its own.
#[derive(Clone, Debug)]
pub struct BoxCom(Arc<Account>);

impl std::ops::Deref for BoxCom {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.0
    }
}

/// What all clones share.
#[derive(Debug)]
pub struct Account {
    config: Config,
    client: Client,
    caps: Caps,
    /// With what the account says.
    probed: OnceLock<Caps>,
    token: Option<Credential>,
    /// Ids by folder and name.
    known: Mutex<HashMap<(String, String), Addr>>,
    recent: Mutex<Vec<Change>>,
    links: Mutex<HashMap<(String, Version), read::Link>>,
    /// The check before an upload tells nothing here.
    mute: AtomicBool,
    /// Versions cannot be asked for here.
    unversioned: AtomicBool,
    /// Requests whose outcome is unknown, by operation and what they were about.
    doubts: Mutex<HashSet<(&'static str, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl BoxCom {
    /// A store that has not been asked anything yet.
    pub fn new(mut config: Config) -> Result<Self> {
        config.check()?;
        let client = Client::new(&config.http, &config.api)?;
        let token = token::bearer(&mut config)?;
        let caps = Caps {
            name: "Box",
            one_shot_max: config.session_min.saturating_sub(1),
            size_at: At::Start,
            digest_at: Some(At::End),
            digests: &[Algo::Sha1],
            parallel_parts: true,
            replaces_parts: false,
            tail_in_finish: false,
            // No number is given; too many end the session.
            parts_max: i32::MAX as u32,
            resume: true,
            abort: true,
            // Sessions live for seven days.
            idle: Some(Duration::from_secs(7 * 24 * 3600)),
            rename_file: true,
            rename_dir: true,
            rename_replaces: false,
            empty_dirs: true,
            dirs: true,
            exclusive_create: true,
            conditional_replace: true,
            case_folds: true,
            space: true,
            size_max: None,
            keeps: Keeps {
                mtime: Some(Duration::from_secs(1)),
                mode: false,
                xattrs: false,
                symlinks: false,
                on_dirs: false,
            },
        };
        Ok(BoxCom(Arc::new(Account {
            config,
            client,
            caps,
            probed: OnceLock::new(),
            token,
            known: Mutex::default(),
            recent: Mutex::default(),
            links: Mutex::default(),
            mute: AtomicBool::new(false),
            unversioned: AtomicBool::new(false),
            doubts: Mutex::default(),
        })))
    }

    fn doubt(&self, op: &'static str, what: &str) {
        lock(&self.doubts).insert((op, what.to_owned()));
    }

    /// Whether a request's outcome was unknown; it is settled now.
    fn doubted(&self, op: &'static str, what: &str) -> bool {
        lock(&self.doubts).remove(&(op, what.to_owned()))
    }

    async fn me(&self, op: &'static str) -> Result<Value> {
        let path = "users/me?fields=id,name,login,space_amount,space_used,max_upload_size";
        let ask = self.ask(Method::GET, &self.config.api, path, op, "users/me")?;
        match self.tell(&ask).await? {
            Said::Yes(answer) => answer.json(ITEM_MAX).await,
            Said::No(no) => Err(no.error),
        }
    }

    /// The folder that is shown.
    async fn root(&self, op: &'static str) -> Result<Addr> {
        let root = &self.config.root;
        let mut addr = names::addr(Kind::Dir, &root.id);
        if self.item(&addr, op).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, op).at(format!("id/{}", root.id)));
        }
        for name in root.path.split('/').filter(|name| !name.is_empty()) {
            let dir = names::folder_id(&addr, op)?.to_owned();
            let found = self.find(&dir, name, op).await?;
            addr = match found {
                Some(item) if item.kind == Kind::Dir => names::addr(Kind::Dir, &item.id),
                Some(_) => return Err(Error::new(ErrorKind::NotDir, op).at(&*root.path)),
                None => return Err(Error::new(ErrorKind::NotFound, op).at(&*root.path)),
            };
        }
        Ok(addr)
    }

    /// An item as an entry; its name must be one that can be shown.
    fn entry_of(&self, item: &Item, op: &'static str) -> Result<Entry> {
        item.entry().ok_or_else(|| ask::odd(op, &item.id))
    }

    /// Notes what one of our changes has made of an item.
    fn made(&self, dir: &str, item: &Item, op: &'static str) -> Result<Entry> {
        let mut item = item.clone();
        item.parent.get_or_insert_with(|| dir.to_owned());
        let entry = self.entry_of(&item, op)?;
        self.note(dir, &item);
        self.changed(dir, entry.addr.clone(), item.etag.as_deref());
        Ok(entry)
    }
}

#[async_trait]
impl Store for BoxCom {
    fn caps(&self) -> &Caps {
        self.probed.get().unwrap_or(&self.caps)
    }

    fn check_name(&self, _: &Addr, name: &str) -> Result<()> {
        names::check(name)
    }

    async fn probe(&self) -> Result<Probe> {
        const OP: &str = "reach the store";
        let me = self.me(OP).await?;
        let text = |name: &str| match &me[name] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        if text("id").is_empty() {
            return Err(Error::new(ErrorKind::Protocol, OP)
                .at(self.config.api.as_str())
                .said("what answers here is not Box"));
        }
        let size_max = item::size(&me["max_upload_size"]).filter(|max| *max > 0);
        // A second probe finds the same.
        let _ = self.probed.set(Caps {
            size_max,
            ..self.caps.clone()
        });
        let root = self.root(OP).await?;
        Ok(Probe {
            banner: format!("Box, account {} ({})", text("login"), text("id")),
            account: text("id"),
            root,
        })
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        const OP: &str = "stat";
        let dir = names::folder_id(&place.dir, OP)?;
        let missing = || Error::new(ErrorKind::NotFound, OP).at(&*place.name);
        let item = self.find(dir, &place.name, OP).await?.ok_or_else(missing)?;
        match item.name.as_deref() == Some(&*place.name) {
            true => self.entry_of(&item, OP),
            false => Err(missing()),
        }
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        const OP: &str = "list";
        let items = self.items(names::folder_id(dir, OP)?, OP).await?;
        Ok(items.iter().filter_map(Item::entry).collect())
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        self.read_range(entry, range, sink).await
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        self.put_whole(new, source).await
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        self.start_session(new).await
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        self.send_part(up, new, part, source).await
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        _tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        self.commit(up, new, receipts).await
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        self.give_up(up, new).await
    }

    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        self.parts_there(up, new).await
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        self.remove_file(entry).await
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        self.make_folder(place).await
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        self.remove_folder(entry).await
    }

    async fn rename(&self, entry: &Entry, to: &Place, over: Option<&Entry>) -> Result<Entry> {
        self.move_item(entry, to, over).await
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        const OP: &str = "set attributes";
        let Some(mtime) = attrs.mtime.filter(|_| entry.kind == Kind::File) else {
            return Ok(entry.clone());
        };
        let id = names::file_id(&entry.addr, OP)?;
        let body = json!({"content_modified_at": item::stamp(mtime)});
        let path = format!("files/{id}?fields={}", item::FIELDS);
        let ask = self.ask(Method::PUT, &self.config.api, &path, OP, &entry.name)?;
        match self.tell(&ask.json(&body)).await? {
            Said::Yes(answer) => {
                let item = self.described(answer, OP, &entry.name).await?;
                let dir = item.parent.clone().unwrap_or_default();
                self.made(&dir, &item, OP)
            }
            Said::No(no) => Err(no.error),
        }
    }

    async fn space(&self) -> Result<Option<Space>> {
        let me = self.me("ask for the quota").await?;
        let total = item::size(&me["space_amount"]);
        let used = item::size(&me["space_used"]).unwrap_or(0);
        Ok(total.map(|total| Space {
            total,
            free: total.saturating_sub(used),
        }))
    }
}
