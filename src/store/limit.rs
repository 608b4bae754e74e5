//! Bounds the requests in flight, in three lanes, so that `ls` never waits behind an upload.
//!
//! It knows nothing of retries; a try holds its permit only while it runs.

use super::*;
use crate::error::{Error, Kind as ErrorKind};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

#[derive(Debug)]
pub(super) struct Limit {
    inner: Arc<dyn Store>,
    uploads: Semaphore,
    downloads: Semaphore,
    others: Semaphore,
}

impl Limit {
    pub(super) fn new(inner: Arc<dyn Store>, settings: &WrapSettings) -> Self {
        Limit {
            inner,
            uploads: Semaphore::new(settings.uploads.max(1)),
            downloads: Semaphore::new(settings.downloads.max(1)),
            others: Semaphore::new(settings.others.max(1)),
        }
    }
}

async fn enter(lane: &Semaphore) -> Result<SemaphorePermit<'_>> {
    // Never closed; if it were, nothing could be sent any more.
    lane.acquire()
        .await
        .map_err(|e| Error::new(ErrorKind::Cancelled, "wait for a turn").because(e))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for Limit {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn check_name(&self, dir: &Addr, name: &str) -> Result<()> {
        self.inner.check_name(dir, name)
    }

    async fn probe(&self) -> Result<Probe> {
        let _turn = enter(&self.others).await?;
        self.inner.probe().await
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        let _turn = enter(&self.others).await?;
        self.inner.stat(place).await
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        let _turn = enter(&self.others).await?;
        self.inner.list(dir).await
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        let _turn = enter(&self.downloads).await?;
        self.inner.read(entry, range, sink).await
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        let _turn = enter(&self.uploads).await?;
        self.inner.put(new, source).await
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        let _turn = enter(&self.others).await?;
        self.inner.start(new).await
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        let _turn = enter(&self.uploads).await?;
        self.inner.part(up, new, part, source).await
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        // A commit can take minutes and may carry bytes: not a lane that `ls` needs.
        let _turn = enter(&self.uploads).await?;
        self.inner.finish(up, new, receipts, tail).await
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        let _turn = enter(&self.others).await?;
        self.inner.abort(up, new).await
    }

    async fn receipts(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        let _turn = enter(&self.others).await?;
        self.inner.receipts(up, new).await
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        let _turn = enter(&self.others).await?;
        self.inner.remove(entry).await
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        let _turn = enter(&self.others).await?;
        self.inner.mkdir(place).await
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        let _turn = enter(&self.others).await?;
        self.inner.rmdir(entry).await
    }

    async fn rename(&self, entry: &Entry, to: &Place, over: Option<&Entry>) -> Result<Entry> {
        let _turn = enter(&self.others).await?;
        self.inner.rename(entry, to, over).await
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        let _turn = enter(&self.others).await?;
        self.inner.set_attrs(entry, attrs).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        let _turn = enter(&self.others).await?;
        self.inner.space().await
    }
}
