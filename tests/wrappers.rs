//! The wrappers around a store, over one that fails as it is told, on a paused clock.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::{Error, Kind, Result};
use assetfs::store::*;
use async_trait::async_trait;
use bytes::Bytes;
use common::{Got, place};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Answers `stat`, `read` and `mkdir` with the errors of a script, then well.
#[derive(Debug)]
struct Scripted {
    script: Mutex<VecDeque<(Kind, Option<u64>)>>,
    calls: Mutex<Vec<(Instant, String)>>,
}

impl Scripted {
    fn wrapped(
        script: &[(Kind, Option<u64>)],
        others: usize,
    ) -> (Arc<Self>, Arc<dyn Store>, Arc<Stats>) {
        let scripted = Arc::new(Scripted {
            script: Mutex::new(script.iter().copied().collect()),
            calls: Mutex::default(),
        });
        let settings = WrapSettings {
            others,
            ..WrapSettings::default()
        };
        let store = wrapped(scripted.clone(), &settings);
        (scripted, store, settings.stats)
    }

    fn next(&self, call: String) -> Result<()> {
        self.calls.lock().unwrap().push((Instant::now(), call));
        match self.script.lock().unwrap().pop_front() {
            Some((kind, wait)) => Err(Error::new(kind, "x").after(wait.map(Duration::from_secs))),
            None => Ok(()),
        }
    }
}

fn dir() -> Entry {
    Entry {
        addr: "d".into(),
        name: "d".into(),
        kind: assetfs::store::Kind::Dir,
        size: 10,
        version: "".into(),
        tag: None,
        modified: std::time::SystemTime::UNIX_EPOCH,
        created: None,
        digests: Digests::default(),
        attrs: Attrs::default(),
        content_type: None,
    }
}

#[async_trait]
impl Store for Scripted {
    fn caps(&self) -> &Caps {
        unreachable!()
    }
    fn check_name(&self, _: &Addr, _: &str) -> Result<()> {
        unreachable!()
    }
    async fn probe(&self) -> Result<Probe> {
        unreachable!()
    }
    async fn stat(&self, place: &Place) -> Result<Entry> {
        self.next(format!("stat {}", place.name)).map(|()| dir())
    }
    async fn list(&self, _: &Addr) -> Result<Vec<Entry>> {
        unreachable!()
    }
    async fn read(&self, _: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        let done = self.next(format!("read {range:?}"));
        // A broken read has given three bytes before.
        let end = if done.is_ok() {
            range.end
        } else {
            range.end.min(range.start + 3)
        };
        sink.put((range.start..end).map(|n| n as u8).collect::<Bytes>());
        done
    }
    async fn put(&self, _: &New, _: &dyn Source) -> Result<Entry> {
        unreachable!()
    }
    async fn start(&self, _: &New) -> Result<Upload> {
        unreachable!()
    }
    async fn part(&self, _: &Upload, _: &New, _: &Part, _: &dyn Source) -> Result<Receipt> {
        unreachable!()
    }
    async fn finish(
        &self,
        _: &Upload,
        _: &New,
        _: &[Receipt],
        _: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        unreachable!()
    }
    async fn abort(&self, _: &Upload, _: &New) -> Result<()> {
        unreachable!()
    }
    async fn receipts(&self, _: &Upload, _: &New) -> Result<Vec<Receipt>> {
        unreachable!()
    }
    async fn remove(&self, _: &Entry) -> Result<()> {
        unreachable!()
    }
    async fn mkdir(&self, _: &Place) -> Result<Entry> {
        unreachable!()
    }
    async fn rmdir(&self, _: &Entry) -> Result<()> {
        unreachable!()
    }
    async fn rename(&self, _: &Entry, _: &Place, _: Option<&Entry>) -> Result<Entry> {
        unreachable!()
    }
    async fn set_attrs(&self, _: &Entry, _: &Attrs) -> Result<Entry> {
        unreachable!()
    }
    async fn space(&self) -> Result<Option<Space>> {
        unreachable!()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_final_is_not_tried_again() {
    let (scripted, store, stats) = Scripted::wrapped(&[(Kind::Denied, None)], 4);
    let error = store.stat(&place(&"".into(), "a")).await.unwrap_err();
    assert_eq!((error.kind, error.tries), (Kind::Denied, 1));
    assert_eq!(scripted.calls.lock().unwrap().len(), 1);
    let counts = stats.counts();
    assert_eq!((counts.retries, counts.ops["stat"].failed), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_broken_ends_in_an_error_that_tells_tries_and_time() {
    let script = vec![(Kind::Broken, None); 99];
    let (scripted, store, stats) = Scripted::wrapped(&script, 4);
    let begin = Instant::now();
    let error = store.stat(&place(&"".into(), "a")).await.unwrap_err();
    assert_eq!((error.kind, error.tries), (Kind::Broken, 6));
    assert_eq!(error.elapsed, begin.elapsed());
    // Five waits of 0.5, 1, 2, 4 and 8 s, each between a half and one and a half of that.
    let waited = begin.elapsed().as_secs_f64();
    assert!((7.7..23.3).contains(&waited), "{waited}");
    assert_eq!(scripted.calls.lock().unwrap().len(), 6);
    assert_eq!(stats.counts().retries, 5);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_is_left_alone_by_all_until_then() {
    let (scripted, store, _) = Scripted::wrapped(&[(Kind::Later, Some(7))], 4);
    let begin = Instant::now();
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.stat(&place(&"".into(), "a")).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.stat(&place(&"".into(), "b")).await.unwrap();
    first.await.unwrap().unwrap();
    let calls = scripted.calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].1, "stat a");
    for (at, call) in &calls[1..] {
        assert!(*at - begin >= Duration::from_secs(7), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_that_waits_holds_no_permit() {
    let (scripted, store, _) = Scripted::wrapped(&[(Kind::Broken, None)], 1);
    let (a, b) = (place(&"".into(), "a"), place(&"".into(), "b"));
    let begin = Instant::now();
    let (first, second) = tokio::join!(store.stat(&a), async {
        let second = store.stat(&b).await;
        (second, begin.elapsed())
    });
    first.unwrap();
    second.0.unwrap();
    assert_eq!(second.1, Duration::ZERO);
    let calls: Vec<_> = (scripted.calls.lock().unwrap().iter())
        .map(|c| c.1.clone())
        .collect();
    assert_eq!(calls, ["stat a", "stat b", "stat a"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_moves_on_is_not_given_up() {
    let script = vec![(Kind::Broken, None); 20];
    let (scripted, store, stats) = Scripted::wrapped(&script, 4);
    let mut got = Got::default();
    store.read(&dir(), 0..62, &mut got).await.unwrap();
    assert_eq!(got.0, (0..62).collect::<Vec<u8>>());
    assert_eq!(
        scripted.calls.lock().unwrap().last().unwrap().1,
        "read 60..62"
    );
    assert_eq!(stats.counts().fetched_bytes, 62);
}
