//! Uploads in parts. There is no id: an unfinished upload is named by its key, one at a time.
//!
//! `start` while one is unfinished is refused (409), numbered parts have a least size, at the end the
//! numbers must be 1, 2, 3 ... and the body is the last piece. Every request says `If-Match` as a PUT
//! would. Unfinished uploads do not outlive the server.

use super::content::{Put, stored};
use super::{LOST, No, Service, json_answer};
use crate::serve::body::receive;
use crate::serve::disk::blocking;
use crate::serve::staging::{Staged, Whole};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The highest number of a part.
const NUMBER_MAX: u32 = 1000;

/// Parts of an unfinished upload are deleted after this.
const LIFE: Duration = Duration::from_secs(2 * 24 * 3600);

/// What is copied in one go when parts are put together, in bytes.
const COPY: usize = 1 << 20;

/// The uploads under way, by key.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Upload>>);

#[derive(Clone, Debug)]
struct Upload {
    id: uuid::Uuid,
    begun: Instant,
    parts: BTreeMap<u32, Arc<Piece>>,
}

#[derive(Debug)]
struct Piece {
    staged: Staged,
    size: u64,
    created_ms: i64,
}

impl Piece {
    fn put(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.staged.file().write_all_at(piece, self.size)?;
            self.size += piece.len() as u64;
        }
        Ok(())
    }
}

impl Uploads {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, upload| upload.begun.elapsed() < LIFE);
        all
    }
}

impl Service {
    pub(super) async fn start(self: &Arc<Self>, put: Put) -> Result<Response, No> {
        if put.length > 0 {
            return Err(No::bad("A start has no content."));
        }
        self.check(&put.key, put.if_match).await?;
        let mut all = self.uploads.all();
        if all.contains_key(&put.key) {
            return Err(No(StatusCode::CONFLICT, "An upload is not finished."));
        }
        let upload = Upload {
            id: uuid::Uuid::new_v4(),
            begun: Instant::now(),
            parts: BTreeMap::new(),
        };
        all.insert(put.key, upload);
        Ok(StatusCode::CREATED.into_response())
    }

    fn upload(&self, key: &str) -> Result<Upload, No> {
        self.uploads.all().get(key).cloned().ok_or(LOST)
    }

    pub(super) async fn part(self: &Arc<Self>, put: Put, number: &str) -> Result<Response, No> {
        let number = number.parse().ok();
        let number = number.filter(|n| (1..=NUMBER_MAX).contains(n));
        let number = number.ok_or(No::bad("The number of the part is not valid."))?;
        let id = self.upload(&put.key)?.id;
        self.check(&put.key, put.if_match).await?;
        if put.length < self.ways.part_min {
            return Err(No::bad("The part is too small."));
        }
        let piece = Piece {
            staged: self.shelf.stage()?,
            size: 0,
            created_ms: Timestamp::now().as_millisecond(),
        };
        let (piece, size) = receive(put.body, piece, put.length, Piece::put).await?;
        if size != put.length {
            return Err(No::bad("Unexpected end of the request."));
        }
        let mut all = self.uploads.all();
        let upload = all.get_mut(&put.key).filter(|upload| upload.id == id);
        let upload = upload.ok_or(LOST)?;
        upload.parts.insert(number, Arc::new(piece));
        Ok(StatusCode::OK.into_response())
    }

    pub(super) async fn complete(self: &Arc<Self>, put: Put) -> Result<Response, No> {
        let upload = self.upload(&put.key)?;
        self.check(&put.key, put.if_match).await?;
        let tail = self.receive_whole(put.body, put.length).await?;
        let count = upload.parts.len() as u32;
        let gapless = (1..=count).eq(upload.parts.keys().copied());
        if count == 0 || !gapless || (put.length > 0 && count == NUMBER_MAX) {
            return Err(No::bad("The parts are not 1, 2, 3 ..."));
        }
        let here = self.clone();
        let (key, id, tag) = (put.key.clone(), upload.id, put.if_match);
        let commit = move || -> Result<_, No> {
            let mut whole = Whole::new(here.shelf.stage()?);
            for piece in upload.parts.values() {
                append(&mut whole, &piece.staged, piece.size)?;
            }
            let (tail, _) = tail.finish();
            append(&mut whole, &tail, put.length)?;
            {
                let mut all = here.uploads.all();
                if all.get(&key).is_none_or(|upload| upload.id != id) {
                    return Err(LOST);
                }
                all.remove(&key);
            }
            let (staged, digests) = whole.finish();
            let done = here.shelf.commit(&staged, digests, &key, tag, put.about);
            if done.is_err() {
                here.uploads.all().entry(key).or_insert(upload);
            }
            done
        };
        let (row, new) = blocking(commit).await??;
        Ok(stored(&row, new, self.ways.complete_tag))
    }

    pub(super) async fn abort(self: &Arc<Self>, put: Put) -> Result<Response, No> {
        self.check(&put.key, put.if_match).await?;
        match self.uploads.all().remove(&put.key) {
            Some(_) => Ok(StatusCode::NO_CONTENT.into_response()),
            None => Err(LOST),
        }
    }

    pub(super) fn parts_of(&self, key: &str) -> Result<Response, No> {
        let upload = self.upload(key)?;
        let rows = upload.parts.iter().map(|(number, piece)| {
            json!({
                "objectKey": format!("iotfile/{}/{key}", self.entity),
                "partNo": number,
                "created": piece.created_ms,
            })
        });
        Ok(json_answer(&rows.collect::<Vec<Value>>().into()))
    }
}

fn append(whole: &mut Whole, from: &Staged, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let mut buffer = vec![0; COPY.min((size - at) as usize)];
        from.file().read_exact_at(&mut buffer, at)?;
        at += buffer.len() as u64;
        whole.put(&[buffer.into()])?;
    }
    Ok(())
}
