//! One version's bytes: a layer in a spool file over what lies below it, read through, completed and
//! digested.

use super::Target;
use super::digest::Running;
use super::layer::{From, Layer};
use super::record::Class;
use super::spool::{Spool, SpoolFile};
use crate::error::{Error, Kind, Result};
use crate::read::{Cache, Reader};
use crate::store::{Algo, Digests, Entry};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;

/// Bytes moved at a time when a content is completed or digested.
const STEP: u64 = 1 << 20;

/// What lies below a layer.
#[derive(Clone, Debug)]
pub(super) enum Lower {
    Nothing,
    /// A version that the store has.
    Entry(Arc<Entry>),
    /// A frozen version in the spool.
    Content(Arc<Content>),
}

/// A version: cheap to clone, the bytes are shared.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) file: Arc<SpoolFile>,
    pub(super) layer: Layer,
    pub(super) lower: Lower,
    hash: Running,
}

enum Home {
    File(Arc<SpoolFile>),
    Entry(Arc<Entry>),
    Zero,
}

impl Content {
    /// Nothing written yet, over `lower`.
    pub(super) fn over(
        lower: Lower,
        spool: &Arc<Spool>,
        algo: Option<Algo>,
        target: &Target,
    ) -> Result<Self> {
        let size = match &lower {
            Lower::Nothing => 0,
            Lower::Entry(entry) => entry.size,
            Lower::Content(content) => content.layer.size(),
        };
        let (file, layer) = (spool.create(target)?, Layer::over(size));
        Ok(Content {
            file,
            layer,
            lower,
            hash: Running::new(algo),
        })
    }

    /// What an earlier process left: all of it is in the file.
    pub(super) fn adopted(file: Arc<SpoolFile>, size: u64, algo: Option<Algo>) -> Self {
        let mut layer = Layer::over(0);
        layer.write(0..size);
        Content {
            file,
            layer,
            lower: Lower::Nothing,
            hash: Running::new(algo),
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        self.file
            .write_at(bytes, offset, self.layer.fresh(range.clone()))?;
        self.layer.write(range);
        self.hash.wrote(offset, bytes);
        Ok(())
    }

    pub(super) fn truncate(&mut self, size: u64) -> Result<()> {
        // Cut the file too: what is grown over later must read as zeros.
        if size < self.layer.size() {
            let owned = self
                .layer
                .owned()
                .map(|r| r.end.saturating_sub(r.start.max(size)));
            let cut: u64 = owned.sum();
            self.file.set_len(size)?;
            self.file.uncharge(cut);
        } else {
            // What the disk cannot hold is told now.
            self.file.set_len(size)?;
        }
        self.hash.changed(size.min(self.layer.size()));
        self.layer.truncate(size);
        Ok(())
    }

    /// Makes zeros of `range`, clipped at the size; what is given back to the disk is to the budget as well.
    pub(super) fn punch(&mut self, range: Range<u64>) -> Result<()> {
        let range = range.start..range.end.min(self.layer.size());
        if range.is_empty() {
            return Ok(());
        }
        self.file.punch(range.clone())?;
        let all = range.end - range.start;
        self.file.uncharge(all - self.layer.fresh(range.clone()));
        self.hash.changed(range.start);
        self.layer.punch(range);
        Ok(())
    }

    /// The digests, if they are of the whole.
    pub(super) fn whole_digests(&self) -> Digests {
        if self.hash.at() == self.layer.size() {
            self.hash.digests()
        } else {
            Digests::default()
        }
    }

    pub(super) fn digests(&self) -> Digests {
        self.hash.digests()
    }

    /// The bytes of `range`, clipped at the size, if all of them are in the spool.
    pub(super) fn read_now(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        let mut homes = Vec::new();
        self.homes(range, &mut homes);
        if homes.iter().any(|(_, home)| matches!(home, Home::Entry(_))) {
            return None;
        }
        if let [(range, Home::File(file))] = &homes[..] {
            return Some(file.read_at(range.clone()));
        }
        let mut out = BytesMut::new();
        for (range, home) in homes {
            let at = out.len();
            out.resize(at + (range.end - range.start) as usize, 0);
            if let Home::File(file) = home
                && let Err(error) = file.fill(&mut out[at..], range.start)
            {
                return Some(Err(error));
            }
        }
        Some(Ok(out.freeze()))
    }

    /// The bytes of `range`, clipped at the size.
    pub(super) async fn read(&self, range: Range<u64>, cache: &Arc<Cache>) -> Result<Bytes> {
        let mut homes = Vec::new();
        self.homes(range, &mut homes);
        let mut out = BytesMut::new();
        for (range, home) in homes {
            let at = out.len();
            let len = (range.end - range.start) as usize;
            match home {
                Home::Entry(entry) => {
                    let bytes = cache.read(&entry, range).await?;
                    if bytes.len() != len {
                        return Err(Error::new(Kind::Stale, "read").at(entry.name.clone()));
                    }
                    out.extend_from_slice(&bytes);
                }
                Home::File(file) => {
                    out.resize(at + len, 0);
                    file.fill(&mut out[at..], range.start)?;
                }
                Home::Zero => out.resize(at + len, 0),
            }
        }
        Ok(out.freeze())
    }

    /// Whether bytes of a version on the store are still part of it.
    pub(super) fn needs_entry(&self) -> bool {
        match &self.lower {
            Lower::Nothing => false,
            Lower::Entry(_) => !self.layer.missing().is_empty(),
            Lower::Content(lower) => lower.needs_entry(),
        }
    }

    /// Puts `whole`, the same bytes in the spool, in the place of the version on the store below.
    pub(super) fn rest_on(&mut self, whole: &Arc<Content>) {
        match &mut self.lower {
            Lower::Nothing => {}
            lower @ Lower::Entry(_) => *lower = Lower::Content(whole.clone()),
            Lower::Content(lower) => Arc::make_mut(lower).rest_on(whole),
        }
    }

    fn homes(&self, range: Range<u64>, out: &mut Vec<(Range<u64>, Home)>) {
        for (piece, from) in self.layer.pieces(range) {
            match (from, &self.lower) {
                (From::Own, _) => out.push((piece, Home::File(self.file.clone()))),
                (From::Below, Lower::Content(lower)) => lower.homes(piece, out),
                (From::Below, Lower::Entry(entry)) => out.push((piece, Home::Entry(entry.clone()))),
                (From::Zero, _) | (From::Below, Lower::Nothing) => out.push((piece, Home::Zero)),
            }
        }
    }

    /// The same content with every byte in one spool file and the digest of the whole.
    ///
    /// The version below, if it is in the spool, must not be on its way any more: the cheaper of the two
    /// directions is copied. `target`: for the record of a file that was a cache and is written to.
    pub(super) async fn complete(&self, cache: &Arc<Cache>, target: &Target) -> Result<Content> {
        let mut whole = self.clone();
        whole.lower = Lower::Nothing;
        match &self.lower {
            Lower::Nothing => {}
            Lower::Entry(entry) => {
                let reader = Reader::new(cache.clone(), entry.clone());
                let mut there: u64 = self.layer.owned().map(|r| r.end - r.start).sum();
                for range in self.layer.missing() {
                    let mut at = range.start;
                    while at < range.end {
                        let step = at..range.end.min(at + STEP);
                        let bytes = reader.read(step.clone()).await?;
                        if bytes.len() as u64 != step.end - step.start {
                            return Err(Error::new(Kind::Stale, "read").at(entry.name.clone()));
                        }
                        there += step.end - step.start;
                        whole.file.charge_at_least(there)?;
                        whole.file.write_at(&bytes, at, 0)?;
                        at = step.end;
                    }
                }
                whole.file.charge_exactly(there)?;
            }
            Lower::Content(lower) => {
                // Its own completion may have failed.
                let under = Box::pin(lower.complete(cache, target)).await?;
                let (over, target) = (self.clone(), target.clone());
                whole = tokio::task::spawn_blocking(move || over.join(&under, &target))
                    .await
                    .map_err(|e| Error::new(Kind::Broken, "complete").because(e))??;
            }
        }
        whole.layer.completed();
        tokio::task::spawn_blocking(move || {
            whole.file.set_len(whole.layer.size())?;
            whole.catch_up()?;
            Ok(whole)
        })
        .await
        .map_err(|e| Error::new(Kind::Broken, "digest").because(e))?
    }

    /// This layer and the complete content below in one file, copying the smaller side.
    fn join(&self, under: &Content, target: &Target) -> Result<Content> {
        let missing = self.layer.missing();
        let len = |ranges: &[Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
        let owned: Vec<_> = self.layer.owned().collect();
        // What is promised of the version below stands until this one is durable: it is not touched.
        let spare = under.file.class() != Class::Torn;
        let mut whole = if !spare && len(&owned) < len(&missing) {
            under.clone()
        } else {
            self.clone()
        };
        whole.lower = Lower::Nothing;
        if Arc::ptr_eq(&whole.file, &self.file) {
            let mut there = len(&owned);
            for range in missing {
                there += range.end - range.start;
                self.file.charge_at_least(there)?;
                self.file.copy_from(&under.file, range)?;
            }
            self.file.charge_exactly(there)?;
            return Ok(whole);
        }
        if under.file.is_cache() {
            // The store has what it was, and nobody has what it becomes.
            under.file.to_torn(target, under.layer.size())?;
            under.file.set_open(false);
        }
        let holes: Vec<_> = self.layer.holes().collect();
        let below = missing.last().map_or(0, |range| range.end);
        let changed = owned.first().into_iter().chain(holes.first());
        let first = changed.map(|range| range.start).fold(below, u64::min);
        let size = self.layer.size();
        if below < under.layer.size() {
            // What the upper layer cut off must not come back when it grew again.
            whole.file.set_len(below)?;
        }
        let fresh = owned.iter().map(|range| under.layer.fresh(range.clone()));
        let fresh = fresh.sum();
        whole.file.charge(fresh)?;
        for range in owned {
            let copied = whole.file.copy_from(&self.file, range);
            copied.inspect_err(|_| whole.file.uncharge(fresh))?;
        }
        for hole in holes.into_iter().filter(|hole| hole.start < below) {
            whole.file.punch(hole.start..hole.end.min(below))?;
        }
        whole.hash.changed(first);
        whole.layer.truncate(below.min(whole.layer.size()));
        whole.layer.truncate(size);
        Ok(whole)
    }

    /// Brings the digest up to the end by reading what it has not seen.
    fn catch_up(&mut self) -> Result<()> {
        let size = self.layer.size();
        let mut buf = Vec::new();
        while self.hash.is_on() && self.hash.at() < size {
            let at = self.hash.at();
            buf.resize((size - at).min(STEP) as usize, 0);
            self.file.fill(&mut buf, at)?;
            self.hash.wrote(at, &buf);
        }
        Ok(())
    }
}
