//! Keeping the index fresh, and answering from it.
//!
//! A small entity is walked whole each time. Of a large one the search is asked, at most once in
//! [`Config::fresh_for`] however much is looked at, for what changed since the last time, and for one page
//! of a rolling check that finds what was deleted elsewhere; a directory that is listed is asked for too,
//! unless it is large.

use super::index::Known;
use super::row::Row;
use super::search::{PAGE, Page, Want, can_be_asked};
use super::*;

/// An entity of at most so many files is walked whole.
const SMALL: usize = 2 * PAGE as usize;

/// A directory with more rows is listed from the index: its pages would take longer than their answer is
/// believed.
const DIR_MAX: usize = 5 * PAGE as usize;

/// A row may come into the search so much later than its `updated` says.
const LATE_MS: i64 = 10_000;

impl IotFile {
    fn is_small(&self) -> bool {
        let index = lock(&self.index);
        !index.whole || index.len() <= SMALL
    }

    /// Brings the index up to date; those who ask at once share one round.
    pub(super) async fn refresh(&self) -> Result<()> {
        let came = Instant::now();
        let mut last = self.round.lock().await;
        let small = self.is_small();
        let fresh = |at: Instant| at >= came || (!small && at.elapsed() < self.config.fresh_for);
        if last.is_some_and(fresh) {
            return Ok(());
        }
        let asked = Instant::now();
        if small {
            let rows = self.walk(&Want::default()).await?;
            lock(&self.index).apply_all(asked, rows);
        } else {
            let newest = lock(&self.index).newest;
            let want = Want {
                since: newest.map(|at| at - LATE_MS),
                ..Want::default()
            };
            let rows = self.walk(&want).await?;
            lock(&self.index).apply_some(asked, rows);
            self.sweep().await?;
        }
        *last = Some(asked);
        Ok(())
    }

    /// The next page of the rolling check.
    async fn sweep(&self) -> Result<()> {
        let from = lock(&self.index).sweep;
        let asked = Instant::now();
        let want = Want {
            since: from,
            ..Want::default()
        };
        let Page::Rows { rows, sent, total } = self.page(&want, 0).await? else {
            return Ok(());
        };
        let times: Option<Vec<i64>> = rows.iter().map(|row| row.updated).collect();
        let times = times.filter(|times| times.is_sorted());
        let from = from.unwrap_or(i64::MIN);
        let mut index = lock(&self.index);
        match times.as_deref() {
            Some([first, .., last]) if *first >= from => {
                let all = total.is_some_and(|total| total <= sent);
                // Of the last moment there may be more; of a page of one moment nothing is known.
                index.apply_span(asked, from, if all { i64::MAX } else { *last }, rows);
                index.sweep = (!all).then(|| (*last).max(from.saturating_add(1)));
            }
            _ => index.sweep = None,
        }
        Ok(())
    }

    /// What a key is, fresh.
    pub(super) async fn look(&self, dir: &str, name: &str, op: &'static str) -> Result<Known> {
        let key = join(dir, name);
        self.refresh().await?;
        if lock(&self.index).is_doubtful(&key) {
            let exists = self.exists(&key, op).await?;
            lock(&self.index).decided(Instant::now(), &key, exists);
        }
        Ok(lock(&self.index).known(dir, name))
    }

    /// Whether there is a file, by reading a byte of it.
    async fn exists(&self, key: &str, op: &'static str) -> Result<bool> {
        let answer = self.get(key, Some(&(0..1)), op).await?;
        match answer.status() {
            200 => Ok(true),
            // An empty file has no first byte.
            206 | 416 => {
                answer.drain().await;
                Ok(true)
            }
            404 | 410 => {
                answer.drain().await;
                Ok(false)
            }
            _ => Err(answer.into_error().await),
        }
    }

    pub(super) async fn entries(&self, dir: &str) -> Result<Vec<Entry>> {
        const OP: &str = "list";
        let count = lock(&self.index).list(dir).len();
        if !self.is_small() && can_be_asked(dir) && count <= DIR_MAX {
            let asked = Instant::now();
            let want = Want {
                dir: Some(dir.to_owned()),
                ..Want::default()
            };
            let rows = self.walk(&want).await?;
            lock(&self.index).apply_dir(asked, dir, rows);
        }
        self.refresh().await?;
        let index = lock(&self.index);
        if !index.is_dir(dir) && dir != self.config.folder {
            let kind = match index.row(dir) {
                Some(_) => ErrorKind::NotDir,
                None => ErrorKind::NotFound,
            };
            return Err(Error::new(kind, OP).at(dir));
        }
        let rows = index.list(dir);
        drop(index);
        let entry = |(name, row): (String, Option<Row>)| match row {
            Some(row) => row.entry(&name),
            None => self.dir_entry(&join(dir, &name)),
        };
        Ok(rows.into_iter().map(entry).collect())
    }

    /// A directory, of which the service knows nothing.
    pub(super) fn dir_entry(&self, key: &str) -> Entry {
        Entry {
            addr: key.into(),
            name: split(key).1.to_owned(),
            kind: Kind::Dir,
            size: 0,
            version: "".into(),
            tag: None,
            modified: self.began,
            created: None,
            digests: Digests::default(),
            attrs: Attrs::default(),
            content_type: None,
        }
    }
}
