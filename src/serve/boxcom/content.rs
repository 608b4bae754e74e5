//! Contents: uploads in one request (a form: attributes, then the file), and downloads by way of a signed
//! link.

use super::items::{host, id_in};
use super::shelf::{Row, Shelf, Times, check_name};
use super::view::{Shape, parse_time};
use super::{CONTENT_MD5, No, Service, empty, has_length, json_answer, query, text, value};
use crate::serve::body::{FileBody, receive};
use crate::serve::range::{Wanted, wanted};
use crate::serve::staging::{Digests, Staged, Whole};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use multer::Multipart;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a form has beside the file, at most, in bytes.
const FORM_MAX: u64 = 64 * 1024;

/// The download links that are good, and how often each content was not ready.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: Mutex<HashMap<String, Link>>,
    waited: Mutex<HashMap<u64, u32>>,
}

#[derive(Clone, Debug)]
struct Link {
    file: u64,
    version: u64,
    until: Instant,
}

/// A form's file, received and digested.
#[derive(Debug)]
struct Received {
    staged: Staged,
    digests: Digests,
}

impl Service {
    /// A new file, or a new version of the file `id`.
    pub(super) async fn upload(
        self: &Arc<Self>,
        request: Request,
        id: Option<u64>,
    ) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let (head, body) = request.into_parts();
        if !has_length(&head.headers) {
            return Err(No::new(411, "length_required", "Content-Length is missing"));
        }
        let length = text(&head.headers, header::CONTENT_LENGTH);
        let length: u64 = length.and_then(|n| n.parse().ok()).unwrap_or(0);
        if length > self.ways.direct_max + FORM_MAX {
            let words = "The file is too large for one request";
            return Err(No::new(413, "request_entity_too_large", words));
        }
        let kind = text(&head.headers, header::CONTENT_TYPE).unwrap_or("");
        let boundary = multer::parse_boundary(kind).map_err(|_| No::bad("Not a form"))?;
        let tag = text(&head.headers, header::IF_MATCH).map(str::to_owned);
        let digest = text(&head.headers, CONTENT_MD5).map(str::to_owned);
        let mut form = Multipart::new(body.into_data_stream(), boundary);
        let bad = |_| No::bad("Not a form");
        let field = form.next_field().await.map_err(bad)?;
        let field = field.ok_or_else(|| No::bad("An empty form"))?;
        if field.name() != Some("attributes") {
            let words = "The attributes must come before the file";
            return Err(No::new(400, "metadata_after_file_contents", words));
        }
        let attributes = field.text().await.map_err(bad)?;
        let attributes: Value = serde_json::from_str(&attributes)
            .map_err(|_| No::bad("The attributes are not JSON"))?;
        let name = attributes["name"].as_str().map(str::to_owned);
        let name = name.ok_or_else(|| No::bad("The name is missing"))?;
        check_name(&name)?;
        let times = times(&attributes)?;
        let parent = id_in(&attributes["parent"]["id"]);
        self.check_size(length.saturating_sub(FORM_MAX)).await?;
        let _reserved = match (id, parent) {
            (Some(id), _) => {
                self.on_shelf(false, move |shelf| shelf.get(id, false))
                    .await?;
                None
            }
            (None, None) => return Err(No::bad("The parent is missing")),
            (None, Some(parent)) => {
                let wanted = name.clone();
                let work = move |shelf: &Shelf| shelf.check_free(parent, &wanted, None);
                self.on_shelf(false, work).await?;
                let reserved = Shelf::reserve(self, parent, &name);
                Some(reserved.map_err(|deny| self.denied(deny, false))?)
            }
        };
        let field = form.next_field().await.map_err(bad)?;
        let field = field.ok_or_else(|| No::bad("The file is missing"))?;
        if field.file_name().is_none() {
            return Err(No::bad("The second part of the form is no file"));
        }
        let received = self.receive(Body::from_stream(field)).await?;
        // A form that is cut off has no end.
        if form.next_field().await.map_err(bad)?.is_some() {
            return Err(No::bad("More than a file"));
        }
        let (sha1, _) = received.digests.clone().hex();
        if digest.is_some_and(|digest| digest != sha1) {
            let words = "The content does not have the digest that the header says";
            return Err(No::new(400, "bad_digest", words));
        }
        let Received { staged, digests } = received;
        let row = match id {
            Some(id) => {
                let work = move |shelf: &Shelf| {
                    shelf.replace(&staged, digests, id, tag.as_deref(), Some(&name), times)
                };
                self.on_shelf(false, work).await?
            }
            None => {
                let parent = parent.unwrap_or_default();
                let work =
                    move |shelf: &Shelf| shelf.create(&staged, digests, parent, &name, times);
                self.on_shelf(false, work).await?
            }
        };
        self.stored(&row, &shape).await
    }

    async fn receive(&self, body: Body) -> Result<Received, No> {
        let whole = Whole::new(self.shelf.stage()?);
        let most = self.ways.direct_max;
        let (whole, _) = receive(body, whole, most, Whole::put).await?;
        let (staged, digests) = whole.finish();
        Ok(Received { staged, digests })
    }

    /// 201 with one file.
    pub(super) async fn stored(self: &Arc<Self>, row: &Row, shape: &Shape) -> Result<Response, No> {
        let id = row.id;
        let (row, above) = self
            .on_shelf(false, move |shelf| shelf.get(id, false))
            .await?;
        let entry = self.show(&row, &above, shape);
        Ok(json_answer(
            201,
            &json!({"total_count": 1, "entries": [entry]}),
        ))
    }

    /// A link to a content.
    pub(super) async fn download(
        self: &Arc<Self>,
        request: Request,
        id: u64,
    ) -> Result<Response, No> {
        let host = host(&request);
        let version = match value(&query(&request), "version") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| No::lost())?),
        };
        let (_, _, version) = self
            .on_shelf(false, move |shelf| shelf.open(id, version))
            .await?;
        {
            let waited = &self.links.waited;
            let mut waited = waited.lock().unwrap_or_else(PoisonError::into_inner);
            let times = waited.entry(version).or_default();
            if *times < self.ways.not_ready {
                *times += 1;
                return Ok(empty(202, Some(self.ways.retry_after)));
            }
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        // Another host, as with the service: clients that follow by themselves leave the token behind.
        let host = host.replace("127.0.0.1", "localhost");
        let location = format!("http://{host}/d/1/{id}/download?token={token}");
        let now = Instant::now();
        let link = Link {
            file: id,
            version,
            until: now + self.ways.link_life,
        };
        let mut all = self
            .links
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, link| now < link.until);
        all.insert(token, link);
        let mut answer = empty(302, None);
        let location = HeaderValue::from_str(&location).map_err(|_| No::bad("No host"))?;
        answer.headers_mut().insert(header::LOCATION, location);
        Ok(answer)
    }

    /// What a link leads to; it authorizes itself.
    pub(super) async fn follow(
        self: &Arc<Self>,
        request: Request,
        id: &str,
    ) -> Result<Response, No> {
        if request.headers().contains_key(header::AUTHORIZATION) {
            return Err(No::new(400, "bad_request", "A link needs no authorization"));
        }
        let link = {
            let asked = query(&request);
            let all = self
                .links
                .all
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let token = value(&asked, "token").unwrap_or("");
            all.get(token)
                .filter(|link| link.file.to_string() == id)
                .cloned()
        };
        let link = link.ok_or_else(No::lost)?;
        let ranged = text(request.headers(), header::RANGE).map(str::to_owned);
        if Instant::now() >= link.until {
            return Err(No::new(403, "forbidden", "The link has expired"));
        }
        let (id, version) = (link.file, link.version);
        let opened = self.on_shelf(false, move |shelf| shelf.open(id, Some(version)));
        // The content that it was made for is gone.
        let (file, size, _) = opened.await.map_err(|_| No::lost())?;
        let outside = || {
            No::new(
                416,
                "range_not_satisfiable",
                "The range is outside of the file",
            )
        };
        let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
        let ranged = ranged.as_deref();
        // Ranges from the end are not known.
        let from_end = ranged.is_some_and(|range| range.starts_with("bytes=-"));
        match wanted(ranged.filter(|_| !from_end), size) {
            _ if from_end => Err(outside()),
            Wanted::Nothing => Err(outside()),
            Wanted::Whole => {
                let length = [(header::CONTENT_LENGTH, size)];
                let body = Body::new(FileBody::new(file, 0..size));
                Ok((kind, length, body).into_response())
            }
            Wanted::Part(part) => {
                let length = [(header::CONTENT_LENGTH, part.end - part.start)];
                let place = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                let place = [(header::CONTENT_RANGE, place)];
                let body = Body::new(FileBody::new(file, part));
                Ok((StatusCode::PARTIAL_CONTENT, kind, length, place, body).into_response())
            }
        }
    }
}

/// The times in a body.
pub(super) fn times(attributes: &Value) -> Result<Times, No> {
    let time = |name: &str| match attributes[name].as_str() {
        Some(text) => parse_time(text).map(Some),
        None => Ok(None),
    };
    Ok(Times {
        created_ms: time("content_created_at")?,
        modified_ms: time("content_modified_at")?,
    })
}
