//! What answers the reads of a store in the tests of this room: counts requests, has gates and faults.

use crate::error::{Error, Kind, Result};
use crate::store::memory::{Memory, Reads};
use crate::store::{Addr, Attrs, Digests, Entry, Kind as What, Sink, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Fake {
    contents: Mutex<HashMap<(Addr, String), Bytes>>,
    /// Bytes per put; a gate lets through one put per permit.
    chunk: usize,
    gate: Option<Semaphore>,
    link: Option<Link>,
    /// The next requests fail after so many bytes.
    faults: Mutex<Vec<(usize, Option<Kind>)>>,
    /// What was asked for, in order.
    asked: watch::Sender<Vec<Range<u64>>>,
    flying: AtomicUsize,
    pub(super) peak: AtomicUsize,
    /// Requests that ended, well or not, or were dropped.
    pub(super) over: watch::Sender<usize>,
}

impl Fake {
    pub(super) fn new(chunk: usize, gated: bool) -> Arc<Fake> {
        Fake::with(chunk, gated, None)
    }

    /// Behind a link of so many bytes per second, shared by all requests, each of which costs a round trip.
    pub(super) fn linked(chunk: usize, rate: u64, rtt: Duration) -> Arc<Fake> {
        let free = Mutex::new(Instant::now());
        Fake::with(chunk, false, Some(Link { rate, rtt, free }))
    }

    fn with(chunk: usize, gated: bool, link: Option<Link>) -> Arc<Fake> {
        Arc::new(Fake {
            contents: Mutex::default(),
            chunk,
            gate: gated.then(|| Semaphore::new(0)),
            link,
            faults: Mutex::default(),
            asked: watch::Sender::new(Vec::new()),
            flying: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            over: watch::Sender::new(0),
        })
    }

    /// The store whose reads it answers.
    pub(super) fn store(self: &Arc<Self>) -> Arc<dyn Store> {
        Arc::new(Memory::read_by(self.clone()))
    }

    /// A file whose bytes depend on its address, its version and the place.
    pub(super) fn file(&self, addr: &str, version: &str, size: u64) -> Arc<Entry> {
        let mut state = addr
            .bytes()
            .chain(version.bytes())
            .fold(1u64, |s, b| s * 31 + u64::from(b));
        let mut content = Vec::with_capacity(size as usize + 8);
        while content.len() < size as usize {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(size as usize);
        let key = (addr.into(), version.to_owned());
        self.contents.lock().unwrap().insert(key, content.into());
        Arc::new(Entry {
            addr: addr.into(),
            name: addr.to_owned(),
            kind: What::File,
            size,
            version: version.into(),
            tag: None,
            modified: SystemTime::UNIX_EPOCH,
            created: None,
            digests: Digests::default(),
            attrs: Attrs::default(),
            content_type: None,
        })
    }

    pub(super) fn content(&self, entry: &Entry, range: Range<u64>) -> Bytes {
        let key = (entry.addr.clone(), entry.version.0.to_string());
        self.contents.lock().unwrap()[&key].slice(range.start as usize..range.end as usize)
    }

    /// The store has another version by now.
    pub(super) fn replace(&self, entry: &Entry) {
        self.contents
            .lock()
            .unwrap()
            .remove(&(entry.addr.clone(), entry.version.0.to_string()));
    }

    /// Lets so many puts through.
    pub(super) fn open(&self, puts: usize) {
        self.gate.as_ref().unwrap().add_permits(puts);
    }

    /// The next request (after those already told) fails after so many bytes.
    pub(super) fn fail(&self, after: usize, kind: Kind) {
        self.faults.lock().unwrap().push((after, Some(kind)));
    }

    /// The next request ends well after so many bytes: a store that breaks its word.
    pub(super) fn cut(&self, after: usize) {
        self.faults.lock().unwrap().push((after, None));
    }

    pub(super) fn requests(&self) -> Vec<Range<u64>> {
        self.asked.borrow().clone()
    }

    /// Waits until so many requests came.
    pub(super) async fn reached(&self, requests: usize) {
        self.asked
            .subscribe()
            .wait_for(|asked| asked.len() >= requests)
            .await
            .unwrap();
    }

    /// Waits until so many requests are over.
    pub(super) async fn ended(&self, requests: usize) {
        self.over
            .subscribe()
            .wait_for(|over| *over >= requests)
            .await
            .unwrap();
    }
}

#[derive(Debug)]
struct Link {
    rate: u64,
    rtt: Duration,
    /// When everything sent so far is through.
    free: Mutex<Instant>,
}

impl Link {
    /// When the next so many bytes are through.
    fn next(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap();
        let took = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *free = (*free).max(Instant::now()) + took;
        *free
    }
}

struct Flying<'a>(&'a Fake);

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.flying.fetch_sub(1, Ordering::SeqCst);
        self.0.over.send_modify(|over| *over += 1);
    }
}

#[async_trait]
impl Reads for Fake {
    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        assert!(range.start < range.end && range.end <= entry.size);
        let _flying = Flying(self);
        let now = self.flying.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            (!faults.is_empty()).then(|| faults.remove(0))
        };
        self.asked.send_modify(|asked| asked.push(range.clone()));
        let key = (entry.addr.clone(), entry.version.0.to_string());
        let content = self.contents.lock().unwrap().get(&key).cloned();
        let content = content.ok_or_else(|| Error::new(Kind::Stale, "read"))?;
        let mut content = content.slice(range.start as usize..range.end as usize);
        if let Some((after, _)) = fault {
            content.truncate(after);
        }
        if let Some(link) = &self.link {
            tokio::time::sleep(link.rtt).await;
        }
        while !content.is_empty() {
            if let Some(link) = &self.link {
                let through = link.next(self.chunk.min(content.len()));
                // The timer is no finer than this.
                if through > Instant::now() + Duration::from_millis(2) {
                    tokio::time::sleep_until(through).await;
                }
            }
            match &self.gate {
                Some(gate) => gate.acquire().await.unwrap().forget(),
                None => tokio::task::yield_now().await,
            }
            sink.put(content.split_to(self.chunk.min(content.len())));
        }
        match fault {
            Some((_, Some(kind))) => Err(Error::new(kind, "read")),
            _ => Ok(()),
        }
    }
}
