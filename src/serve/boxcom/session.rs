//! Uploads in parts: the server says how large they are, parts do not change once they are stored, and the
//! whole becomes visible with the commit. Sessions do not outlive the server.

use super::content::times;
use super::items::{host, id_in};
use super::shelf::{Shelf, Times, check_name};
use super::view::Shape;
use super::{DIGEST, No, Service, empty, has_length, json_answer, json_body, query, text, value};
use crate::serve::body::receive;
use crate::serve::disk::blocking;
use crate::serve::staging::{PartWriter, Parts, Refused};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most entries of a page of parts, and the highest offset.
const PAGE: (usize, usize) = (1000, 10_000);

/// The sessions that were not committed, by id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Clone, Debug)]
struct Session {
    target: Target,
    size: u64,
    until: Instant,
    expires: Timestamp,
    parts: Arc<Parts>,
    /// By offset.
    stored: BTreeMap<u64, Stored>,
    /// Commits that were told to come later, or refused for a moment.
    waits: (u32, u32),
}

/// Where the content goes.
#[derive(Clone, Debug, PartialEq)]
enum Target {
    New { parent: u64, name: String },
    Version { file: u64, name: Option<String> },
}

#[derive(Clone, Debug)]
struct Stored {
    id: String,
    size: u64,
    sha1: String,
}

/// A part on its way, with its digest.
struct Incoming {
    writer: PartWriter,
    sha1: Sha1,
}

impl Incoming {
    fn put(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        pieces.iter().for_each(|piece| self.sha1.update(piece));
        self.writer.put(pieces)
    }
}

fn invalid(code: &'static str) -> No {
    No::new(400, code, "The session cannot be created")
}

fn gone() -> No {
    No::lost()
}

impl Service {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, id: &str) -> Result<Session, No> {
        let session = self.sessions().get(id).cloned().ok_or_else(gone)?;
        match Instant::now() < session.until {
            true => Ok(session),
            false => Err(No::new(410, "session_expired", "The session has expired")),
        }
    }

    fn session_view(&self, id: &str, session: &Session, host: &str) -> Value {
        let at = format!("http://{host}/api/2.0/files/upload_sessions/{id}");
        json!({
            "id": id,
            "type": "upload_session",
            "session_expires_at": session.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "part_size": self.ways.part_size,
            "total_parts": session.size.div_ceil(self.ways.part_size),
            "num_parts_processed": session.stored.len(),
            "session_endpoints": {
                "upload_part": at,
                "status": at,
                "abort": at,
                "list_parts": format!("{at}/parts"),
                "commit": format!("{at}/commit"),
                "log_event": format!("{at}/log"),
                "plan": format!("{at}/plan"),
            },
        })
    }

    /// A session for a new file, or for a new version of the file `id`.
    pub(super) async fn begin(
        self: &Arc<Self>,
        request: Request,
        id: Option<u64>,
    ) -> Result<Response, No> {
        let host = host(&request);
        let body = json_body(request).await?;
        let size = match &body["file_size"] {
            Value::Null => return Err(invalid("missing_file_size")),
            size => size.as_u64().ok_or_else(|| invalid("invalid_file_size"))?,
        };
        if size < self.ways.session_min {
            return Err(invalid("file_size_too_small"));
        }
        let name = body["file_name"].as_str().map(str::to_owned);
        if let Some(name) = &name {
            check_name(name)?;
        }
        let target = match id {
            Some(file) => {
                self.on_shelf(false, move |shelf| shelf.get(file, false))
                    .await?;
                Target::Version { file, name }
            }
            None => {
                let parent = match &body["folder_id"] {
                    Value::Null => return Err(invalid("missing_destination")),
                    id => id_in(id).ok_or_else(|| invalid("invalid_folder_id"))?,
                };
                let name = name.ok_or_else(|| invalid("missing_file_name"))?;
                let wanted = name.clone();
                let folder = self
                    .on_shelf(false, move |shelf| shelf.get(parent, true))
                    .await;
                folder.map_err(|_| No::new(404, "invalid_parameter", "No such folder"))?;
                let work = move |shelf: &Shelf| shelf.check_free(parent, &wanted, None);
                self.on_shelf(false, work).await?;
                Target::New { parent, name }
            }
        };
        self.check_size(size).await?;
        let count = size.div_ceil(self.ways.part_size);
        let count = u32::try_from(count).map_err(|_| invalid("invalid_file_size"))?;
        let life = self.ways.session_life;
        let expires = Timestamp::now().as_second() + life.as_secs() as i64;
        let session = Session {
            target,
            size,
            until: Instant::now() + life,
            expires: Timestamp::from_second(expires).unwrap_or_default(),
            parts: Arc::new(Parts::new(self.shelf.stage()?, size, count)?),
            stored: BTreeMap::new(),
            waits: (0, 0),
        };
        let mut sessions = self.sessions();
        let now = Instant::now();
        let same = |other: &Session| {
            self.ways.session_conflict && now < other.until && other.target == session.target
        };
        if let Some((id, other)) = sessions.iter().find(|(_, other)| same(other)) {
            let no = No::new(409, "session_conflict", "A session for this file exists");
            return Err(no.with(json!({"session": self.session_view(id, other, &host)})));
        }
        let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        let view = self.session_view(&id, &session, &host);
        sessions.insert(id, session);
        Ok(json_answer(201, &view))
    }

    pub(super) async fn part(self: &Arc<Self>, request: Request, id: &str) -> Result<Response, No> {
        let (head, body) = request.into_parts();
        let session = self.session(id)?;
        if !has_length(&head.headers) {
            return Err(No::new(411, "length_required", "Content-Length is missing"));
        }
        if text(&head.headers, header::CONTENT_TYPE) != Some("application/octet-stream") {
            return Err(No::bad("The body is not said to be bytes"));
        }
        let digest = digest(&head.headers)?;
        let outside = || No::new(416, "range_not_satisfiable", "Not the range of a part");
        let place = text(&head.headers, header::CONTENT_RANGE).and_then(content_range);
        let (from, end, total) = place.ok_or_else(outside)?;
        let part_size = self.ways.part_size;
        let right_end = session.size.min(from.saturating_add(part_size));
        if total != session.size || from % part_size != 0 || from >= total || end != right_end {
            return Err(outside());
        }
        let size = end - from;
        let length = text(&head.headers, header::CONTENT_LENGTH);
        if length.and_then(|n| n.parse().ok()) != Some(size) {
            let words = "The body is not as long as its range";
            return Err(No::new(400, "request_size_mismatch", words));
        }
        if let Some(stored) = session.stored.get(&from) {
            let no = No::new(
                416,
                "range_overlaps_existing_part",
                "A part of these bytes is stored",
            );
            return Err(no.with(json!({"conflicting_part": view(from, stored)})));
        }
        let (parts, index) = (session.parts.clone(), (from / part_size) as u32);
        let begun = blocking(move || parts.begin(index, from, size)).await?;
        let writer = begun.map_err(|refused| match refused {
            Refused::Closing => No::new(409, "conflict", "The session is being committed"),
            Refused::Overlap | Refused::Incomplete => outside(),
        })?;
        let incoming = Incoming {
            writer,
            sha1: Sha1::new(),
        };
        let (incoming, got) = receive(body, incoming, size, Incoming::put).await?;
        if got != size {
            return Err(No::new(
                400,
                "request_size_mismatch",
                "The body was cut off",
            ));
        }
        let sha1 = incoming.sha1.finalize();
        let writer = incoming.writer;
        blocking(move || writer.finish()).await??;
        if sha1[..] != digest[..] {
            let words = "The part does not have the digest that the header says";
            return Err(No::new(412, "precondition_failed", words));
        }
        let stored = Stored {
            id: format!("{:08X}", uuid::Uuid::new_v4().as_u128() as u32),
            size,
            sha1: format!("{sha1:x}"),
        };
        let one = view(from, &stored);
        let mut sessions = self.sessions();
        sessions
            .get_mut(id)
            .ok_or_else(gone)?
            .stored
            .insert(from, stored);
        let answer = match self.ways.bare_part {
            true => one,
            false => json!({"part": one}),
        };
        Ok(json_answer(200, &answer))
    }

    pub(super) fn status(&self, request: &Request, id: &str) -> Result<Response, No> {
        let session = self.session(id)?;
        Ok(json_answer(
            200,
            &self.session_view(id, &session, &host(request)),
        ))
    }

    pub(super) fn abort(&self, id: &str) -> Result<Response, No> {
        self.session(id)?;
        self.sessions().remove(id);
        Ok(empty(204, None))
    }

    pub(super) fn parts(&self, request: &Request, id: &str) -> Result<Response, No> {
        let session = self.session(id)?;
        let asked = query(request);
        let number = |name: &str, default: usize, most: usize| match value(&asked, name) {
            None => Ok(default),
            Some(text) => (text.parse().ok().filter(|n| *n <= most))
                .ok_or_else(|| No::bad("Not a number that can be")),
        };
        let (offset, limit) = (
            number("offset", 0, PAGE.1)?,
            number("limit", PAGE.0, PAGE.0)?,
        );
        let page = session.stored.iter().skip(offset).take(limit);
        let entries: Vec<Value> = page.map(|(from, stored)| view(*from, stored)).collect();
        Ok(json_answer(
            200,
            &json!({
                "total_count": session.stored.len(),
                "limit": limit,
                "offset": offset,
                "order": [{"by": "offset", "direction": "ASC"}],
                "entries": entries,
            }),
        ))
    }

    /// Which parts need not be sent: none, nothing is known by its SHA-512 here.
    pub(super) async fn plan(&self, request: Request, id: &str) -> Result<Response, No> {
        self.session(id)?;
        let body = json_body(request).await?;
        let parts = body["parts"].as_array();
        let parts = parts.ok_or_else(|| No::bad("The parts are missing"))?;
        Ok(json_answer(
            200,
            &json!({"upload_session_id": id, "hits": [], "misses": parts}),
        ))
    }

    pub(super) async fn commit(
        self: &Arc<Self>,
        request: Request,
        id: &str,
    ) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let wanted = digest(request.headers())?;
        let tag = text(request.headers(), header::IF_MATCH).map(str::to_owned);
        self.session(id)?;
        let body = json_body(request).await?;
        let times = times(&body["attributes"])?;
        let session = self.session(id)?;
        let unknown = || {
            No::new(
                400,
                "parts_mismatch",
                "The parts are not those of the session",
            )
        };
        let listed = body["parts"].as_array().ok_or_else(unknown)?;
        let agrees = |(part, (from, stored)): (&Value, (&u64, &Stored))| {
            part["part_id"] == stored.id.as_str()
                && part["offset"].as_u64() == Some(*from)
                && part["size"].as_u64() == Some(stored.size)
                && part["sha1"].as_str().is_none_or(|sha1| sha1 == stored.sha1)
        };
        let all = listed.len() == session.stored.len();
        if !all || !listed.iter().zip(&session.stored).all(agrees) {
            return Err(unknown());
        }
        {
            let mut sessions = self.sessions();
            let waits = &mut sessions.get_mut(id).ok_or_else(gone)?.waits;
            if waits.0 < self.ways.parts_mismatch {
                waits.0 += 1;
                return Err(unknown());
            }
            if waits.1 < self.ways.commit_waits {
                waits.1 += 1;
                return Ok(empty(202, Some(self.ways.retry_after)));
            }
        }
        let parts = session.parts.clone();
        let digests = match blocking(move || parts.finish()).await?? {
            Ok(digests) => digests,
            Err(Refused::Closing) => return Ok(empty(202, Some(self.ways.retry_after))),
            Err(_) => return Err(unknown()),
        };
        let (sha1, _) = digests.clone().hex();
        let asked: String = wanted.iter().map(|b| format!("{b:02x}")).collect();
        if asked != sha1 {
            session.parts.reopen();
            let words = format!("Expected digest {asked}, the content has {sha1}");
            return Err(No::new(400, "digest_mismatch", &words));
        }
        let done = self
            .put_in_place(&session, digests, &sha1, tag, times)
            .await;
        match done {
            Ok(row) => {
                self.sessions().remove(id);
                match row {
                    Some(row) => self.stored(&row, &shape).await,
                    None => Ok(empty(202, None)),
                }
            }
            Err(no) => {
                session.parts.reopen();
                Err(no)
            }
        }
    }

    /// Nothing, if the new version is the old one.
    async fn put_in_place(
        self: &Arc<Self>,
        session: &Session,
        digests: crate::serve::staging::Digests,
        sha1: &str,
        tag: Option<String>,
        times: Times,
    ) -> Result<Option<super::shelf::Row>, No> {
        let parts = session.parts.clone();
        match session.target.clone() {
            Target::New { parent, name } => {
                let work = move |shelf: &Shelf| {
                    shelf.create(parts.staged(), digests, parent, &name, times)
                };
                self.on_shelf(false, work).await.map(Some)
            }
            Target::Version { file, name } => {
                let (row, _) = self
                    .on_shelf(false, move |shelf| shelf.get(file, false))
                    .await?;
                let current = tag.as_ref().is_none_or(|tag| *tag == row.etag.to_string());
                if self.ways.unchanged && row.sha1 == sha1 && current {
                    return Ok(None);
                }
                let work = move |shelf: &Shelf| {
                    let tag = tag.as_deref();
                    shelf.replace(parts.staged(), digests, file, tag, name.as_deref(), times)
                };
                self.on_shelf(false, work).await.map(Some)
            }
        }
    }
}

fn view(from: u64, stored: &Stored) -> Value {
    json!({"part_id": stored.id, "offset": from, "size": stored.size, "sha1": stored.sha1})
}

/// `Digest: sha=BASE64`, 20 bytes.
fn digest(headers: &HeaderMap) -> Result<Vec<u8>, No> {
    let bad = || {
        No::new(
            400,
            "invalid_parameter",
            "The header Digest is missing or wrong",
        )
    };
    let header = text(headers, DIGEST).ok_or_else(bad)?;
    let (algorithm, digest) = header.split_once('=').ok_or_else(bad)?;
    let digest = STANDARD
        .decode(digest)
        .ok()
        .filter(|bytes| bytes.len() == 20);
    match algorithm.eq_ignore_ascii_case("sha") {
        true => digest.ok_or_else(bad),
        false => Err(bad()),
    }
}

/// `bytes a-b/total` as start, end and total.
fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (from, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    Some((number(from)?, number(last)?.checked_add(1)?, number(total)?))
}
