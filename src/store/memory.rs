//! A store in memory, as strict as a service, for the tests of the layers above. A path is an address.

use super::*;
use crate::error::{Error, Kind as Bad};
use sha1::{Digest as _, Sha1};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// A fault for the next request of a kind: before the work or, with the work done, after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) op: &'static str,
    pub(crate) kind: Bad,
    pub(crate) done: bool,
}

#[derive(Debug)]
struct Item {
    bytes: Option<Bytes>,
    kind: Kind,
    attrs: Attrs,
    modified: SystemTime,
}

type Parts = BTreeMap<u32, (Range<u64>, Bytes)>;

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) caps: Caps,
    items: Mutex<BTreeMap<String, Item>>,
    uploads: Mutex<BTreeMap<String, Parts>>,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) log: Mutex<Vec<String>>,
    /// Requests of the named kinds wait for a permit each.
    pub(crate) gate: Mutex<Option<(&'static str, Arc<Semaphore>)>>,
    next: AtomicU64,
    /// Bytes of one part of later uploads.
    pub(crate) part: AtomicU64,
    /// Larger parts are refused, and make later uploads' parts half as large.
    pub(crate) part_max: AtomicU64,
    reads: Option<Arc<dyn Reads>>,
}

/// Answers [`Store::read`] in the place of a [`Memory`].
#[async_trait]
pub(crate) trait Reads: Send + Sync + Debug {
    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()>;
}

impl Memory {
    pub(crate) fn new() -> Self {
        Memory {
            caps: Caps {
                name: "memory",
                one_shot_max: 64,
                size_at: At::Start,
                digest_at: None,
                digests: &[Algo::Sha1],
                parallel_parts: true,
                replaces_parts: false,
                tail_in_finish: false,
                parts_max: 1000,
                resume: false,
                abort: true,
                idle: None,
                rename_file: false,
                rename_dir: false,
                rename_replaces: false,
                empty_dirs: true,
                dirs: true,
                exclusive_create: true,
                conditional_replace: false,
                case_folds: false,
                space: false,
                size_max: Some(1 << 20),
                keeps: Keeps {
                    mtime: Some(Duration::from_nanos(1)),
                    mode: true,
                    xattrs: true,
                    symlinks: true,
                    on_dirs: false,
                },
            },
            items: Mutex::default(),
            uploads: Mutex::default(),
            faults: Mutex::default(),
            log: Mutex::default(),
            gate: Mutex::default(),
            next: AtomicU64::new(1),
            part: AtomicU64::new(48),
            part_max: AtomicU64::new(u64::MAX),
            reads: None,
        }
    }

    /// A store whose reads are answered by `reads`.
    pub(crate) fn read_by(reads: Arc<dyn Reads>) -> Self {
        Memory {
            reads: Some(reads),
            ..Memory::new()
        }
    }

    /// A file's bytes, or `None`.
    pub(crate) fn content(&self, path: &str) -> Option<Bytes> {
        self.items
            .lock()
            .unwrap()
            .get(path)
            .and_then(|item| item.bytes.clone())
    }

    /// All paths, sorted.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.items.lock().unwrap().keys().cloned().collect()
    }

    /// Somebody else stores a file.
    pub(crate) fn plant(&self, path: &str, bytes: &[u8]) {
        let item = Item {
            bytes: Some(Bytes::copy_from_slice(bytes)),
            kind: Kind::File,
            attrs: Attrs::default(),
            modified: SystemTime::now(),
        };
        self.items.lock().unwrap().insert(path.to_owned(), item);
    }

    /// How many requests of a kind there were.
    pub(crate) fn count(&self, op: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.split(' ').next() == Some(op))
            .count()
    }

    async fn asked(&self, op: &'static str, what: &str) -> Result<Option<Bad>> {
        self.log.lock().unwrap().push(format!("{op} {what}"));
        self.pass(op).await;
        let mut faults = self.faults.lock().unwrap();
        if faults.front().is_some_and(|fault| fault.op == op) {
            let fault = faults.pop_front().unwrap();
            if !fault.done {
                return Err(Error::new(fault.kind, op));
            }
            return Ok(Some(fault.kind));
        }
        Ok(None)
    }

    async fn pass(&self, op: &'static str) {
        let gate = self.gate.lock().unwrap().clone();
        if let Some((gated, permits)) = gate
            && gated == op
        {
            permits.acquire().await.unwrap().forget();
        }
    }

    fn entry(path: &str, item: &Item) -> Entry {
        let bytes = item.bytes.clone().unwrap_or_default();
        let hex: String = Sha1::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        Entry {
            addr: path.into(),
            name: path.rsplit('/').next().unwrap().to_owned(),
            kind: item.kind,
            size: bytes.len() as u64,
            version: hex.as_str().into(),
            tag: None,
            modified: item.modified,
            created: None,
            digests: Digests([(Algo::Sha1, hex)].into()),
            attrs: item.attrs.clone(),
            content_type: None,
        }
    }

    fn path(place: &Place) -> String {
        if place.dir.0.is_empty() {
            place.name.clone()
        } else {
            format!("{}/{}", place.dir, place.name)
        }
    }

    fn store(&self, new: &New, bytes: Bytes) -> Result<Entry> {
        let path = Self::path(&new.place);
        let mut items = self.items.lock().unwrap();
        if let Some(old) = items.get(&path) {
            if old.kind == Kind::Dir {
                return Err(Bad::IsDir.into());
            }
            if new.exclusive {
                return Err(Bad::Exists.into());
            }
        }
        if self.caps.conditional_replace
            && let Some(known) = &new.replaces
        {
            let there = items.get(&path).map(|item| Self::entry(&path, item));
            if there.is_none_or(|there| there.version != known.version) {
                return Err(Bad::Conflict.into());
            }
        }
        let dir = &new.place.dir.0;
        if !dir.is_empty() && items.get(&**dir).is_none_or(|dir| dir.kind != Kind::Dir) {
            return Err(Bad::NotDir.into());
        }
        let item = Item {
            bytes: Some(bytes),
            kind: new.kind,
            attrs: new.attrs.clone(),
            modified: SystemTime::now(),
        };
        let entry = Self::entry(&path, &item);
        items.insert(path, item);
        Ok(entry)
    }
}

fn after<T>(value: T, fault: Option<Bad>, op: &'static str) -> Result<T> {
    fault.map_or(Ok(value), |kind| Err(Error::new(kind, op)))
}

#[async_trait]
impl Store for Memory {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn check_name(&self, _dir: &Addr, name: &str) -> Result<()> {
        if name.contains('\\') {
            Err(Bad::Invalid.into())
        } else {
            Ok(())
        }
    }

    async fn probe(&self) -> Result<Probe> {
        Ok(Probe {
            root: "".into(),
            account: "memory".into(),
            banner: String::new(),
        })
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        let path = Self::path(place);
        self.asked("stat", &path).await?;
        let items = self.items.lock().unwrap();
        items
            .get(&path)
            .map(|item| Self::entry(&path, item))
            .ok_or(Bad::NotFound.into())
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        self.asked("list", &dir.0).await?;
        let items = self.items.lock().unwrap();
        let above = |path: &str| {
            path.rfind('/')
                .map_or(String::new(), |at| path[..at].to_owned())
        };
        let rows = items.iter().filter(|(path, _)| above(path) == *dir.0);
        Ok(rows.map(|(path, item)| Self::entry(path, item)).collect())
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        if let Some(reads) = &self.reads {
            return reads.read(entry, range, sink).await;
        }
        self.asked("read", &entry.addr.0).await?;
        let found = {
            let items = self.items.lock().unwrap();
            let item = items
                .get(&*entry.addr.0)
                .ok_or(Error::from(Bad::NotFound))?;
            if Self::entry(&entry.addr.0, item).version != entry.version {
                return Err(Bad::Stale.into());
            }
            item.bytes.clone().unwrap()
        };
        assert!(
            !range.is_empty() && range.end <= found.len() as u64,
            "{range:?} of {entry:?}"
        );
        sink.put(found.slice(range.start as usize..range.end as usize));
        Ok(())
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        assert!(new.size <= self.caps.one_shot_max);
        self.pass("body").await;
        let bytes = source.read(0..new.size).await?;
        // What holds it now holds the answer.
        let fault = self.asked("put", &Self::path(&new.place)).await?;
        after(self.store(new, bytes)?, fault, "put")
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        self.asked("start", &Self::path(&new.place)).await?;
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        self.uploads
            .lock()
            .unwrap()
            .insert(id.clone(), BTreeMap::new());
        Ok(Upload {
            id,
            cut: Cut::every(self.part.load(Ordering::Relaxed)),
            sequential: false,
            whole: false,
            extra: BTreeMap::new(),
        })
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        let what = format!("{} {}", Self::path(&new.place), part.index);
        self.asked("part", &what).await?;
        if part.range.end - part.range.start > self.part_max.load(Ordering::Relaxed) {
            self.part.store(up.cut.first / 2, Ordering::Relaxed);
            return Err(Bad::Restart.into());
        }
        let bytes = source.read(part.range.clone()).await?;
        let mut uploads = self.uploads.lock().unwrap();
        let parts = uploads.get_mut(&up.id).ok_or(Error::from(Bad::Restart))?;
        parts.insert(part.index, (part.range.clone(), bytes));
        Ok(Receipt {
            part: part.clone(),
            token: String::new(),
        })
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        _tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        let fault = self.asked("finish", &Self::path(&new.place)).await?;
        let parts = self.uploads.lock().unwrap().remove(&up.id);
        let parts = parts.ok_or(Error::from(Bad::Restart))?;
        assert_eq!(parts.len(), receipts.len());
        let mut all = Vec::new();
        for (range, bytes) in parts.values() {
            assert_eq!(range.start as usize, all.len());
            all.extend_from_slice(bytes);
        }
        assert_eq!(all.len() as u64, new.size);
        after(self.store(new, all.into())?, fault, "finish")
    }

    async fn abort(&self, up: &Upload, _new: &New) -> Result<()> {
        self.asked("abort", &up.id).await?;
        self.uploads.lock().unwrap().remove(&up.id);
        Ok(())
    }

    async fn receipts(&self, _up: &Upload, _new: &New) -> Result<Vec<Receipt>> {
        Err(Bad::Unsupported.into())
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        self.asked("remove", &entry.addr.0).await?;
        let mut items = self.items.lock().unwrap();
        match items.get(&*entry.addr.0) {
            None => Err(Bad::NotFound.into()),
            Some(item) if item.kind == Kind::Dir => Err(Bad::IsDir.into()),
            Some(item) if Self::entry(&entry.addr.0, item).version != entry.version => {
                Err(Bad::Conflict.into())
            }
            Some(_) => {
                items.remove(&*entry.addr.0);
                Ok(())
            }
        }
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        let path = Self::path(place);
        self.asked("mkdir", &path).await?;
        let mut items = self.items.lock().unwrap();
        if items.contains_key(&path) {
            return Err(Bad::Exists.into());
        }
        let item = Item {
            bytes: None,
            kind: Kind::Dir,
            attrs: Attrs::default(),
            modified: SystemTime::now(),
        };
        let entry = Self::entry(&path, &item);
        items.insert(path, item);
        Ok(entry)
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        self.asked("rmdir", &entry.addr.0).await?;
        let mut items = self.items.lock().unwrap();
        let below = format!("{}/", entry.addr);
        if items.keys().any(|path| path.starts_with(&below)) {
            return Err(Bad::NotEmpty.into());
        }
        items
            .remove(&*entry.addr.0)
            .map(|_| ())
            .ok_or(Bad::NotFound.into())
    }

    async fn rename(&self, _: &Entry, _: &Place, _: Option<&Entry>) -> Result<Entry> {
        Err(Bad::Unsupported.into())
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        self.asked("set_attrs", &entry.addr.0).await?;
        let mut items = self.items.lock().unwrap();
        let item = items
            .get_mut(&*entry.addr.0)
            .ok_or(Error::from(Bad::NotFound))?;
        item.attrs = attrs.clone();
        Ok(Self::entry(&entry.addr.0, item))
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}
