//! Search, read, write in one request, delete.

use super::address::Address;
use super::filter::{Filter, order};
use super::shelf::{About, Row, time};
use super::{LOST, No, Service, json_answer, length_of, text};
use crate::serve::body::{FileBody, receive};
use crate::serve::disk::blocking;
use crate::serve::staging::Whole;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The longest `Range` header, in characters.
const RANGE_MAX: usize = 32;

impl Service {
    pub(super) async fn search(self: &Arc<Self>, address: &Address) -> Result<Response, No> {
        let bad = || No::bad("The request is not valid.");
        let number = |name: &str, default: u64| match address.get(name) {
            None => Some(default),
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Some(_) => None,
        };
        let offset = number("offset", 0).ok_or_else(bad)?;
        let limit = number("limit", self.ways.page_max).ok_or_else(bad)?;
        if limit == 0 || limit > self.ways.page_max || offset + limit > self.ways.ceiling {
            return Err(bad());
        }
        let order = match address.get("order") {
            None => None,
            Some(text) => Some(order(text).ok_or_else(bad)?),
        };
        // Silently ignored when it cannot be read.
        let filter = address.get("filter").and_then(Filter::parse);
        let filter = filter.unwrap_or_default();
        let here = self.clone();
        let rows = blocking(move || here.shelf.searchable()).await??;
        let mut rows: Vec<Row> = rows
            .into_values()
            .filter(|row| filter.takes(row, &self.path(row)))
            .collect();
        match order {
            // No order at all: another one each time.
            None => {
                let chance = RandomState::new();
                rows.sort_by_cached_key(|row| chance.hash_one(&row.key));
            }
            Some((field, down)) => {
                rows.sort_by(|a, b| {
                    match field {
                        "updated" => a.updated_ms.cmp(&b.updated_ms),
                        "path" => a.dir().cmp(b.dir()),
                        _ => a.name().cmp(b.name()).then(a.dir().cmp(b.dir())),
                    }
                    .then(a.key.cmp(&b.key))
                });
                if down {
                    rows.reverse();
                }
            }
        }
        let total = rows.len();
        let page = rows.iter().skip(offset as usize).take(limit as usize);
        let page: Vec<Value> = page.map(|row| self.view(row)).collect();
        let mut answer = json_answer(&page.into());
        if address.get("count") == Some("true") {
            let count = HeaderValue::from(total);
            answer.headers_mut().insert(self.ways.count_header, count);
        }
        Ok(answer)
    }

    /// The `path` of a row.
    fn path(&self, row: &Row) -> String {
        match row.dir() {
            "" => String::new(),
            dir if self.ways.slash => format!("{dir}/"),
            dir => dir.to_owned(),
        }
    }

    fn view(&self, row: &Row) -> Value {
        let mut view = json!({
            "name": row.name(),
            "path": self.path(row),
            "size": row.size,
            "timestamp": time(row.about.timestamp.unwrap_or(row.updated_ms)),
            "created": time(row.created_ms),
            "updated": row.updated(),
            "createdBy": "user",
            "updatedBy": "user",
            "etag": row.etag,
            "tenantId": "tenant",
        });
        if row.dir().is_empty() && !self.ways.slash {
            view.as_object_mut().map(|view| view.remove("path"));
        }
        if let Some(kind) = &row.about.kind {
            view["type"] = kind.as_str().into();
        }
        if let Some(words) = &row.about.description {
            view["description"] = words.as_str().into();
        }
        view
    }

    pub(super) async fn download(
        self: &Arc<Self>,
        range: Option<String>,
        address: &Address,
    ) -> Result<Response, No> {
        let (here, key) = (self.clone(), address.key().to_owned());
        let found = blocking(move || here.shelf.open(&key)).await??;
        let (file, row) = found.ok_or(LOST)?;
        let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
        let Some(range) = range else {
            let stamp = time(row.about.timestamp.unwrap_or(row.updated_ms));
            let mut head = vec![("etag", row.etag.to_string()), ("timestamp", stamp)];
            if let Some(words) = row.about.description {
                head.push(("description", words));
            }
            // An unsized stream, as the service hands it to Spring.
            let body = Body::new(Unsized(FileBody::new(file, 0..row.size)));
            let mut answer = (kind, body).into_response();
            for (name, value) in head {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    answer.headers_mut().insert(name, value);
                }
            }
            return Ok(answer);
        };
        let range = closed(&range).ok_or(No::bad("The range is not valid."))?;
        let range = range.start..range.end.min(row.size);
        if range.start >= row.size {
            return Err(No(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "Requested range not satisfiable",
            ));
        }
        let length = [(header::CONTENT_LENGTH, range.end - range.start)];
        let body = Body::new(FileBody::new(file, range));
        let mut answer = (StatusCode::PARTIAL_CONTENT, kind, length, body).into_response();
        if self.ways.range_tag {
            let tag = HeaderValue::from(row.etag);
            answer.headers_mut().insert(header::ETAG, tag);
        }
        Ok(answer)
    }

    pub(super) async fn put(
        self: &Arc<Self>,
        request: Request,
        address: Address,
    ) -> Result<Response, No> {
        let (head, body) = request.into_parts();
        let Some(length) = length_of(&body) else {
            return Err(No(
                StatusCode::LENGTH_REQUIRED,
                "Content-Length is missing.",
            ));
        };
        if text(&head.headers, header::CONTENT_TYPE) != Some("application/octet-stream") {
            return Err(No(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content type is not supported.",
            ));
        }
        let put = Put {
            key: address.key().to_owned(),
            if_match: if_match(&head.headers)?,
            about: about(&head.headers)?,
            body,
            length,
        };
        match (address.get("upload"), address.get("part")) {
            (None, None) => self.put_whole(put).await,
            (Some("start"), None) => self.start(put).await,
            (None, Some(number)) => self.part(put, number).await,
            (Some("complete"), None) => self.complete(put).await,
            (Some("abort"), None) => self.abort(put).await,
            _ => Err(No::bad("The request is not valid.")),
        }
    }

    async fn put_whole(self: &Arc<Self>, put: Put) -> Result<Response, No> {
        self.check(&put.key, put.if_match).await?;
        let whole = self.receive_whole(put.body, put.length).await?;
        let here = self.clone();
        let commit = move || {
            let (staged, digests) = whole.finish();
            here.shelf
                .commit(&staged, digests, &put.key, put.if_match, put.about)
        };
        let (row, new) = blocking(commit).await??;
        Ok(stored(&row, new, true))
    }

    pub(super) async fn check(self: &Arc<Self>, key: &str, tag: Option<u64>) -> Result<(), No> {
        let (here, key) = (self.clone(), key.to_owned());
        blocking(move || here.shelf.check(&key, tag)).await?
    }

    pub(super) async fn receive_whole(&self, body: Body, length: u64) -> Result<Whole, No> {
        let whole = Whole::new(self.shelf.stage()?);
        let (whole, size) = receive(body, whole, length, Whole::put).await?;
        if size != length {
            return Err(No::bad("Unexpected end of the request."));
        }
        Ok(whole)
    }

    pub(super) async fn delete(self: &Arc<Self>, address: &Address) -> Result<Response, No> {
        let (here, key) = (self.clone(), address.key().to_owned());
        blocking(move || here.shelf.remove(&key)).await??;
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

/// A PUT whose headers were read.
pub(super) struct Put {
    pub(super) key: String,
    pub(super) if_match: Option<u64>,
    pub(super) about: About,
    pub(super) body: Body,
    pub(super) length: u64,
}

/// The answer to a commit.
pub(super) fn stored(row: &Row, new: bool, tag: bool) -> Response {
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    };
    let mut answer = status.into_response();
    if tag {
        let tag = HeaderValue::from(row.etag);
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

/// `If-Match` as a bare integer.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, No> {
    match headers.get(header::IF_MATCH) {
        None => Ok(None),
        Some(value) => {
            let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
            let number = value.to_str().ok().filter(digits);
            let number = number.and_then(|text| text.parse().ok());
            let odd = No::bad("If-Match is not a number.");
            number.map(Some).ok_or(odd)
        }
    }
}

fn about(headers: &HeaderMap) -> Result<About, No> {
    let bad = || No::bad("A header is not valid.");
    let words = |name: &str, most: usize| match headers.get(name) {
        None => Ok(None),
        Some(value) => {
            let text = value.to_str().map_err(|_| bad())?;
            let fits = (1..=most).contains(&text.chars().count());
            fits.then(|| Some(text.to_owned())).ok_or_else(bad)
        }
    };
    let timestamp = match words("timestamp", 100)? {
        None => None,
        Some(text) => {
            let time: Timestamp = text.parse().map_err(|_| bad())?;
            Some(time.as_millisecond())
        }
    };
    Ok(About {
        timestamp,
        kind: words("type", 191)?,
        description: words("description", 100)?,
    })
}

/// `bytes=a-b` with both ends, and nothing else.
fn closed(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (header.len() <= RANGE_MAX && first <= last).then(|| first..last.saturating_add(1))
}

/// A body that does not tell its length.
struct Unsized(FileBody);

impl HttpBody for Unsized {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_range_of_at_most_32_characters_is_one() {
        assert_eq!(closed("bytes=0-0"), Some(0..1));
        assert_eq!(closed("bytes=200-600"), Some(200..601));
        for bad in [
            "bytes=1-",
            "bytes=-1",
            "bytes=2-1",
            "bytes=0-1,3-4",
            "bytes=0-1 ",
            "bytes=0000000000000-0000000000001",
        ] {
            assert_eq!(closed(bad), None, "{bad}");
        }
    }
}
