//! `content`: the bytes of a file, out and in.

use super::address::Address;
use super::{Directory, No, item, length_of, media_of};
use crate::serve::body::{FileBody, receive};
use crate::serve::disk::{Item, Mode, Target, blocking};
use crate::serve::range::{Wanted, wanted};
use crate::serve::staging::Whole;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const VERBS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE";

impl Directory {
    pub(super) async fn content(
        self: Arc<Self>,
        request: Request,
        address: Address,
    ) -> Result<Response, No> {
        let mode = match *request.method() {
            Method::GET | Method::HEAD => return self.download(request, address).await,
            Method::DELETE => return self.delete_file(address).await,
            Method::POST => Mode::Either,
            Method::PUT => Mode::Create,
            Method::PATCH => Mode::Replace,
            _ => return Ok(No::verb(VERBS)),
        };
        if address.path.is_empty() {
            return Err(No::bad("The path is empty."));
        }
        address.check_new()?;
        let media = media_of(request.headers()).map(str::to_owned);
        if media.as_deref().is_some_and(is_form) {
            // The service would store the file inside the form.
            return Err(No::bad("Forms are not accepted."));
        }
        if address.get("multipart").is_some() {
            if mode != Mode::Either {
                return Err(No::bad("Multipart uploads use POST."));
            }
            return self.multipart(request.into_body(), address, media).await;
        }
        self.upload(request.into_body(), address, mode, media).await
    }

    async fn upload(
        &self,
        body: Body,
        address: Address,
        mode: Mode,
        media: Option<String>,
    ) -> Result<Response, No> {
        let (disk, path) = (self.disk.clone(), address.path.clone());
        let staged = blocking(move || {
            disk.check(&path, mode)?;
            Ok::<_, No>(disk.stage()?)
        });
        let whole = Whole::new(staged.await??);
        let length = length_of(&body);
        let (whole, size) = receive(body, whole, u64::MAX, Whole::put).await?;
        if length.is_some_and(|length| length != size) {
            return Err(No::bad("Unexpected end of request content."));
        }
        let disk = self.disk.clone();
        let commit = move || {
            let (staged, digests) = whole.finish();
            disk.commit(&staged, digests, &address.path, mode, media.as_deref())
        };
        blocking(commit).await??;
        Ok(StatusCode::CREATED.into_response())
    }

    async fn delete_file(&self, address: Address) -> Result<Response, No> {
        if address.path.is_empty() {
            return Err(No::bad("The path is empty."));
        }
        let disk = self.disk.clone();
        blocking(move || disk.remove(&address.path, Target::File)).await??;
        Ok(StatusCode::OK.into_response())
    }

    async fn download(&self, request: Request, address: Address) -> Result<Response, No> {
        if super::address::is_reserved(&address.path) {
            return Err(LOST);
        }
        let (disk, path) = (self.disk.clone(), address.path.clone());
        let found = blocking(move || {
            Ok::<_, No>(match disk.read(&path)? {
                Some(found) => Ok(found),
                None if path.is_empty() || disk.get(&path)?.is_some() => Err(FOLDER),
                None => Err(LOST),
            })
        });
        let (file, item) = found.await???;
        let headers = common_headers(&item);
        if unchanged(request.headers(), &item) {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let size = item.record.size;
        if request.method() == Method::HEAD {
            return Ok((headers, [length(size)], Body::empty()).into_response());
        }
        let range = request
            .headers()
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok());
        Ok(match wanted(range, size) {
            Wanted::Whole => (headers, part(file, 0..size)).into_response(),
            Wanted::Part(range) => {
                let place = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let place = [(header::CONTENT_RANGE, place)];
                (
                    StatusCode::PARTIAL_CONTENT,
                    headers,
                    place,
                    part(file, range),
                )
                    .into_response()
            }
            Wanted::Nothing => {
                let place = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                (StatusCode::RANGE_NOT_SATISFIABLE, place).into_response()
            }
        })
    }
}

/// `metadata` says it in other words.
const LOST: No = No(StatusCode::NOT_FOUND, "The specified asset was not found.");
const FOLDER: No = No(StatusCode::BAD_REQUEST, "The path is a folder.");

fn length(bytes: u64) -> (HeaderName, HeaderValue) {
    (header::CONTENT_LENGTH, HeaderValue::from(bytes))
}

fn part(file: File, range: Range<u64>) -> Response {
    let length = [length(range.end - range.start)];
    (length, Body::new(FileBody::new(file, range))).into_response()
}

fn is_form(media: &str) -> bool {
    let media = media
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    media == "multipart/form-data" || media == "application/x-www-form-urlencoded"
}

/// Exactly those of the recorded answer, and what the metadata asks for. No `Accept-Ranges`.
fn common_headers(item: &Item) -> HeaderMap {
    let record = &item.record;
    let (name, _) = item.name_and_parent();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(item::seconds(record.modified_ms));
    let cache = match record.cache.get("type").and_then(Value::as_str) {
        Some(kind) if kind.eq_ignore_ascii_case("NoCache") => "no-cache",
        _ => "public",
    };
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, item::media(record, name));
    set(header::CACHE_CONTROL, cache);
    // Without quotes, as the service has it.
    set(header::ETAG, &record.sha1);
    set(header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    set(header::VARY, "Accept-Encoding, Authorization");
    for (name, value) in &record.user {
        let shown = value
            .get("includeInResponseHeader")
            .and_then(Value::as_bool)
            == Some(true);
        let value = value.get("value").and_then(Value::as_str);
        if let (true, Some(value), Ok(name)) = (shown, value, name.parse::<HeaderName>()) {
            set(name, value);
        }
    }
    headers
}

/// `If-None-Match`, with or without quotes, else `If-Modified-Since`.
fn unchanged(headers: &HeaderMap, item: &Item) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if let Some(tags) = text(header::IF_NONE_MATCH) {
        return tags.split(',').map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
            tag == "*" || tag.eq_ignore_ascii_case(&item.record.sha1)
        });
    }
    let since = text(header::IF_MODIFIED_SINCE).and_then(|t| httpdate::parse_http_date(t).ok());
    let since = since.and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.is_some_and(|since| item::seconds(item.record.modified_ms) <= since.as_secs())
}
