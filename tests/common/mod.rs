//! What tests of stores share: bytes as a source, a sink that collects, and an upload as the engine
//! makes it.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_debug_implementations
)]

pub mod boxcom;
pub mod iot;
pub mod look;
pub mod mount;
pub mod tls;

use assetfs::error::{Kind, Result};
use assetfs::store::{
    Addr, Algo, Attrs, Digests, Entry, Kind as EntryKind, New, Part, Place, Sink, Source, Store,
};
use async_trait::async_trait;
use bytes::Bytes;
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::ops::Range;
use std::sync::Arc;

/// A content in memory.
pub struct Mem(pub Bytes);

#[async_trait]
impl Source for Mem {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

/// What was read.
#[derive(Default)]
pub struct Got(pub Vec<u8>);

impl Sink for Got {
    fn put(&mut self, bytes: Bytes) {
        self.0.extend_from_slice(&bytes);
    }
}

/// `len` bytes that differ from place to place and from seed to seed.
pub fn bytes(len: usize, seed: u64) -> Bytes {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn digests(content: &[u8]) -> Digests {
    Digests(
        [
            (Algo::Md5, hex(&Md5::digest(content))),
            (Algo::Sha1, hex(&Sha1::digest(content))),
            (Algo::Sha256, hex(&Sha256::digest(content))),
        ]
        .into(),
    )
}

pub fn place(dir: &Addr, name: &str) -> Place {
    Place {
        dir: dir.clone(),
        name: name.to_owned(),
    }
}

pub fn new(dir: &Addr, name: &str, content: &[u8]) -> New {
    New {
        place: place(dir, name),
        kind: EntryKind::File,
        size: content.len() as u64,
        digests: digests(content),
        attrs: Attrs::default(),
        replaces: None,
        exclusive: false,
    }
}

/// Stores a content as the upload engine does: in one go, or in parts from two tasks at a time where
/// the store allows it, and anew when the upload is void.
pub async fn store(store: &Arc<dyn Store>, new: &New, content: &Bytes) -> Result<Entry> {
    let source = Mem(content.clone());
    if new.size <= store.caps().one_shot_max {
        match store.put(new, &source).await {
            // Larger than what the server takes in one request.
            Err(error) if error.kind == Kind::Restart => {}
            done => return done,
        }
    }
    let mut rounds = 0;
    loop {
        rounds += 1;
        let up = store.start(new).await?;
        let parallel = store.caps().parallel_parts && !up.sequential;
        let parts = up.cut.parts(new.size);
        let tail = store.caps().tail_in_finish.then(|| parts.last()).flatten();
        let numbered: &[Part] = match tail {
            Some(_) => &parts[..parts.len() - 1],
            None => &parts,
        };
        let done = async {
            let mut receipts = Vec::new();
            for pair in numbered.chunks(if parallel { 2 } else { 1 }) {
                let sent = pair.iter().map(|p| store.part(&up, new, p, &source));
                receipts.extend(futures_util::future::try_join_all(sent).await?);
            }
            let tail = tail.map(|part| (part, &source as &dyn Source));
            store.finish(&up, new, &receipts, tail).await
        }
        .await;
        match done {
            Err(e) if e.kind == Kind::Restart && rounds < 5 => {
                store.abort(&up, new).await?;
            }
            Err(e) => {
                store.abort(&up, new).await?;
                return Err(e);
            }
            done => return done,
        }
    }
}

pub async fn read(store: &Arc<dyn Store>, entry: &Entry, range: Range<u64>) -> Result<Vec<u8>> {
    let mut got = Got::default();
    store.read(entry, range, &mut got).await?;
    Ok(got.0)
}

pub async fn read_all(store: &Arc<dyn Store>, entry: &Entry) -> Result<Vec<u8>> {
    if entry.size == 0 {
        return Ok(Vec::new());
    }
    read(store, entry, 0..entry.size).await
}

/// Names in a directory, sorted.
pub async fn names(store: &Arc<dyn Store>, dir: &Addr) -> Vec<String> {
    let mut names: Vec<_> = (store.list(dir).await.expect("list"))
        .into_iter()
        .map(|e| e.name)
        .collect();
    names.sort();
    names
}

/// A server over a fresh folder, and a store on it.
pub struct Proget {
    pub server: assetfs::serve::Server,
    pub store: Arc<dyn Store>,
    pub stats: Arc<assetfs::store::Stats>,
    pub folder: tempfile::TempDir,
}

/// Part size in these tests, in bytes.
pub const PART: u64 = 64 * 1024;

pub const KEY: &str = "abc12345";

/// How a [`Proget`] is made; the fields are changed before [`Setup::go`].
pub struct Setup {
    pub server: assetfs::serve::Settings,
    pub folder: tempfile::TempDir,
    pub part_size: u64,
    pub parallel: bool,
    pub tries: u32,
    pub below: String,
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = assetfs::serve::Settings::new(folder.path());
        server.key = Some(KEY.to_owned());
        Setup {
            server,
            folder,
            part_size: PART,
            parallel: true,
            tries: 1,
            below: String::new(),
        }
    }

    pub fn config(&self, server: &assetfs::serve::Server) -> assetfs::store::proget::Config {
        use assetfs::http::{Credential, Secret};
        use assetfs::store::proget::{Auth, Config};
        let address = format!("http://{}/endpoints/files{}", server.addr(), self.below);
        let key = Credential::fixed(Secret::new(KEY));
        let mut config = Config::at(&address, Auth::Key(key)).expect("an address");
        config.part_size = self.part_size;
        config.parallel_parts = self.parallel;
        config.http.stall_timeout = std::time::Duration::from_millis(400);
        config
    }

    pub async fn go(self) -> Proget {
        let server = assetfs::serve::Server::start(self.server.clone())
            .await
            .expect("the server starts");
        let store = assetfs::store::proget::ProGet::new(self.config(&server)).expect("a store");
        let settings = assetfs::store::WrapSettings {
            retry: assetfs::store::RetrySettings {
                tries: self.tries,
                first_wait: std::time::Duration::from_millis(1),
                later_budget: std::time::Duration::from_secs(if self.tries > 1 { 20 } else { 0 }),
                ..Default::default()
            },
            ..Default::default()
        };
        Proget {
            server,
            store: assetfs::store::wrapped(Arc::new(store), &settings),
            stats: settings.stats,
            folder: self.folder,
        }
    }
}

impl Proget {
    /// `METHOD operation?query` of each request seen, and its status.
    pub fn seen(&self) -> Vec<(String, Option<u16>)> {
        (self.server.requests().into_iter())
            .map(|r| {
                let (path, query) = r.target.split_once('?').unwrap_or((&r.target, ""));
                let operation = path.split('/').nth(3).unwrap_or("");
                let query: Vec<_> = query.split('&').filter(|q| !q.starts_with("id=")).collect();
                let query = query.join("&");
                let query = if query.is_empty() {
                    query
                } else {
                    format!("?{query}")
                };
                (format!("{} {operation}{query}", r.method), r.status)
            })
            .collect()
    }

    /// As [`Proget::seen`], without queries and statuses.
    pub fn verbs(&self) -> Vec<String> {
        (self.seen().into_iter())
            .map(|(line, _)| line.split('?').next().unwrap_or("").to_owned())
            .collect()
    }
}
