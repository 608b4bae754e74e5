//! Uploads of whole contents in one request (spec, section 5), and what they share with those in parts.
//!
//! Everything is conditional on the version that is replaced; a 409 that may be our own success after a
//! lost answer is settled by reading, never by repeating blindly.

use super::ask::About;
use super::*;

/// Longest `type` and `description` (section 5.1).
const KIND_MAX: usize = 191;
const WORDS_MAX: usize = 100;

/// Whether a write that ended so may have been carried out.
pub(super) fn is_lost(error: &Error) -> bool {
    let never = matches!(error.kind, ErrorKind::Later | ErrorKind::Unreachable);
    error.kind.worth_another_try() && !never
}

pub(super) fn key_of(new: &New) -> String {
    join(&new.place.dir.0, &new.place.name)
}

/// Whether the caller knows which version it replaces.
pub(super) fn is_told(new: &New) -> bool {
    new.replaces.as_ref().is_some_and(|old| old.tag.is_some())
}

/// The etag that a commit over `tag` will have.
pub(super) fn next(tag: Option<u64>) -> u64 {
    tag.map_or(0, |tag| tag + 1)
}

impl IotFile {
    /// Refuses what would make a key file and directory at once.
    pub(super) fn check_place(&self, new: &New, key: &str, op: &'static str) -> Result<()> {
        self.check_name(&new.place.dir, &new.place.name)?;
        let refuse = |kind, words: &str| Err(Error::new(kind, op).at(key).said(words));
        let elsewhere = |old: &Entry| *old.addr.0 != *key;
        if new.replaces.as_ref().is_some_and(elsewhere) {
            return refuse(
                ErrorKind::IsDir,
                "on the service this file has the name of a directory: rename it first",
            );
        }
        let index = lock(&self.index);
        if let Some(file) = index.file_above(key) {
            return refuse(ErrorKind::NotDir, &format!("/{file} is a file"));
        }
        if index.is_dir(key) {
            return refuse(ErrorKind::IsDir, "");
        }
        if index.row(key).is_none() && key.chars().count() > names::DELETE_MAX {
            log::warn!(
                "{key}: the service's documentation lets no path above 100 characters be deleted"
            );
        }
        Ok(())
    }

    pub(super) fn stamp(&self, new: &New) -> i64 {
        if let Some(mtime) = new.attrs.mtime {
            return row::millis(mtime);
        }
        self.uploads.moment()
    }

    pub(super) fn about(&self, new: &New, key: &str, timestamp: i64) -> About {
        let fits = |text: &String, most: usize| {
            !text.is_empty()
                && text.len() <= most
                && text.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        let kind = new
            .replaces
            .as_ref()
            .and_then(|old| old.content_type.clone());
        let words = lock(&self.index)
            .row(key)
            .and_then(|row| row.description.clone());
        About {
            timestamp,
            kind: kind.filter(|kind| fits(kind, KIND_MAX)),
            description: words.filter(|words| fits(words, WORDS_MAX)),
        }
    }

    /// A service that overwrites without being told to (section 14, point 1) must not be asked to when the
    /// name must be new.
    pub(super) async fn check_new(&self, new: &New, key: &str, op: &'static str) -> Result<()> {
        if !new.exclusive {
            return Ok(());
        }
        match self.head(key, op).await? {
            Some(id) if !self.uploads.may_be_ours(key, id.1) => {
                Err(Error::new(ErrorKind::Exists, op).at(key))
            }
            _ => Ok(()),
        }
    }

    /// The etag to replace: of what the caller replaces, else, unless the name must be new, of what is
    /// known to be there.
    pub(super) fn base(&self, new: &New, key: &str) -> Option<u64> {
        match &new.replaces {
            _ if new.exclusive => None,
            Some(old) if old.tag.is_some() => old.tag.as_deref().and_then(row::tag),
            _ => lock(&self.index).row(key).and_then(|row| row.etag),
        }
    }

    pub(super) async fn put_whole(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        const OP: &str = "upload";
        let key = key_of(new);
        self.check_place(new, &key, OP)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.uploads.take(&key, &id, OP).await?;
        let _turn = self.uploads.turn(&key, &id);
        self.check_new(new, &key, OP).await?;
        let about = self.about(new, &key, self.stamp(new));
        let mut tag = self.base(new, &key);
        let mut looked = 0;
        loop {
            let mut ask = self.ask(Method::PUT, "files", &key, "", OP)?;
            ask.about = Some(&about);
            ask.if_match = tag;
            ask.body = match new.size {
                0 => Body::Empty,
                size => Body::of(source, 0..size),
            };
            let begin = Instant::now();
            let error = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    self.up.note(new.size, begin.elapsed());
                    let etag = answer.header("etag").and_then(row::tag);
                    answer.drain().await;
                    self.uploads.sends(&key, about.timestamp);
                    return self.confirm(new, &key, etag, tag, &about).await;
                }
                Ok(answer) => {
                    let status = answer.status();
                    let error = answer.into_error().await;
                    if status == 409 || status == 412 || (status == 404 && tag.is_some()) {
                        looked += 1;
                        let again = self.conflict(new, &key, tag, source, error, looked < 3);
                        match again.await? {
                            Settled::Ours(stamp) => {
                                let about = About {
                                    timestamp: stamp,
                                    ..about
                                };
                                return self.confirm(new, &key, None, tag, &about).await;
                            }
                            Settled::Over(other) => {
                                tag = other;
                                continue;
                            }
                        }
                    }
                    error
                }
                Err(error) => error,
            };
            if is_lost(&error) {
                self.uploads.sends(&key, about.timestamp);
                if let Ok(Some(id)) = self.head(&key, OP).await
                    && same(id, (Some(next(tag)), Some(about.timestamp)))
                    && id.1.is_some()
                {
                    return self.confirm(new, &key, id.0, tag, &about).await;
                }
            }
            return Err(strange(error));
        }
    }

    /// What a 409 means: our own success, a version to go over, or somebody else.
    async fn conflict(
        &self,
        new: &New,
        key: &str,
        tag: Option<u64>,
        source: &dyn Source,
        error: Error,
        again: bool,
    ) -> Result<Settled> {
        let op = error.op;
        let Some(id) = self.head(key, op).await? else {
            // What was to be replaced is gone: there is nothing to spare.
            return match tag {
                Some(_) if again => Ok(Settled::Over(None)),
                _ => Err(strange(error)),
            };
        };
        let ours = self.uploads.may_be_ours(key, id.1);
        if ours && id.0 == Some(next(tag)) && self.has_bytes(key, new.size, source, op).await? {
            return Ok(Settled::Ours(id.1.unwrap_or_default()));
        }
        if new.exclusive {
            return Err(Error::new(ErrorKind::Exists, op).at(key));
        }
        // An earlier content of ours that was thought lost, or a file that the caller was not told of.
        if (ours || !is_told(new)) && again && id.0.is_some() && id.0 != tag {
            return Ok(Settled::Over(id.0));
        }
        Err(Error {
            kind: ErrorKind::Conflict,
            ..error
        })
    }

    /// Whether a file has exactly the bytes of `source`.
    async fn has_bytes(
        &self,
        key: &str,
        size: u64,
        source: &dyn Source,
        op: &'static str,
    ) -> Result<bool> {
        let mut answer = self.get(key, None, op).await?;
        if answer.status() != 200 {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(bytes) = answer.chunk().await? {
            let end = at + bytes.len() as u64;
            if end > size {
                return Ok(false);
            }
            let mut from = at;
            while from < end {
                let to = end.min(from + PIECE);
                let ours = source.read(from..to).await?;
                if ours != bytes[(from - at) as usize..(to - at) as usize] {
                    return Ok(false);
                }
                from = to;
            }
            at = end;
        }
        Ok(at == size)
    }

    /// What the service has after a commit over `tag`: its row, or, while the search lags, its size proved
    /// by reading. `Mismatch` if that is not what was sent.
    pub(super) async fn confirm(
        &self,
        new: &New,
        key: &str,
        etag: Option<u64>,
        tag: Option<u64>,
        about: &About,
    ) -> Result<Entry> {
        const OP: &str = "verify upload";
        let found = match self.can_be_found(key) {
            true => self.row_of(key).await?,
            false => None,
        };
        let ours = found.filter(|row| {
            let tags = etag.is_none() || row.etag.is_none() || row.etag == etag;
            tags && row.timestamp == Some(about.timestamp) && row.etag != tag
        });
        let shown = ours.is_some();
        let row = match ours {
            Some(row) if row.size != new.size => {
                return Err(Error::new(ErrorKind::Mismatch, OP)
                    .at(key)
                    .said(&format!("{} bytes there, {} here", row.size, new.size)));
            }
            Some(row) => row,
            None => {
                let etag = match etag {
                    Some(etag) => Some(etag),
                    None => self.head(key, OP).await?.and_then(|id| id.0),
                };
                self.prove_size(key, new.size, OP).await?;
                Row {
                    key: key.to_owned(),
                    size: new.size,
                    etag: etag.or(Some(next(tag))),
                    timestamp: Some(about.timestamp),
                    kind: about.kind.clone(),
                    description: about.description.clone(),
                    ..Row::default()
                }
            }
        };
        self.uploads.known(key);
        let entry = row.entry(&new.place.name);
        let mut index = lock(&self.index);
        index.wrote(Instant::now(), key, Some(row), shown);
        Ok(entry)
    }
}

/// How a conflict was settled.
enum Settled {
    /// The service has our content, with this timestamp.
    Ours(i64),
    /// Once more, over this version.
    Over(Option<u64>),
}

/// A 404 to a write that no known cause explains is not the file's absence.
pub(super) fn strange(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error {
            kind: ErrorKind::Protocol,
            ..error
        },
        _ => error,
    }
}
