//! The Box content API: items below `/2.0`, uploads below `/api/2.0`, tokens below `/oauth2`, and the
//! download host's signed links below `/d`, all at one address.
//!
//! As strict as the service where that is known; where the documentation leaves something open, it takes
//! the reading that costs a careless client most, or what [`Ways`] says. Items keep their ids while they
//! are renamed through the API and over restarts of the server; what is renamed by hand is a new item.
//! Upload sessions do not outlive the server. Not here: web links, shared links, events, search.

mod content;
mod door;
mod items;
mod session;
mod shelf;
mod view;

use super::Settings;
use super::body::Unreceived;
use super::disk::{Disk, Refusal};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use door::Door;
use serde_json::{Value, json};
use session::Sessions;
use shelf::Shelf;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the documentation leaves open, or tests want smaller. All fields are public;
/// [`Ways::default`] is the strict reading.
#[derive(Clone, Debug)]
pub struct Ways {
    /// Bytes of each part of a session.
    pub part_size: u64,
    /// The smallest file for a session, in bytes.
    pub session_min: u64,
    /// The largest file in one request, in bytes.
    pub direct_max: u64,
    /// How long a session lives.
    pub session_life: Duration,
    /// Whether a second session for the same target is refused.
    pub session_conflict: bool,
    /// How long a download link is good.
    pub link_life: Duration,
    /// How often a download of new content is told to come later (202).
    pub not_ready: u32,
    /// How often a commit is told to come later (202) before it is done.
    pub commit_waits: u32,
    /// What those 202 say, in seconds.
    pub retry_after: u64,
    /// How often a commit is refused with `parts_mismatch` before it is done.
    pub parts_mismatch: u32,
    /// Whether a new version with the content of the old one is a 202 that changes nothing.
    pub unchanged: bool,
    /// Whether older versions are kept and can be asked for.
    pub versions: bool,
    /// How long an access token is good.
    pub token_life: Duration,
    /// How long it is said to be good, if not `token_life`.
    pub token_told: Option<Duration>,
    /// The refresh token that the server begins with.
    pub refresh_token: Option<String>,
    /// Bytes of the account.
    pub quota: Option<u64>,
    /// The largest file, in bytes.
    pub size_max: u64,
    /// Most calls of the user in a time.
    pub calls: Option<(u32, Duration)>,
    /// Whether `conflicts` is a list everywhere, or only of folders.
    pub conflicts_list: bool,
    /// Whether ids are bare numbers and sizes have a fraction.
    pub bare_numbers: bool,
    /// Whether a stored part is answered without `part` around it.
    pub bare_part: bool,
    /// `next_marker` of the last page; nothing: it is missing.
    pub last_marker: Option<Value>,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            part_size: 8 << 20,
            session_min: 20_000_000,
            direct_max: 50_000_000,
            session_life: Duration::from_secs(7 * 24 * 3600),
            session_conflict: true,
            link_life: Duration::from_secs(15 * 60),
            not_ready: 0,
            commit_waits: 0,
            retry_after: 1,
            parts_mismatch: 0,
            unchanged: true,
            versions: false,
            token_life: Duration::from_secs(3600),
            token_told: None,
            refresh_token: None,
            quota: None,
            size_max: 500_000_000_000,
            calls: None,
            conflicts_list: false,
            bare_numbers: false,
            bare_part: false,
            last_marker: Some(Value::Null),
        }
    }
}

/// One account.
#[derive(Debug)]
struct Service {
    ways: Ways,
    door: Door,
    shelf: Shelf,
    sessions: Sessions,
    links: content::Links,
    /// When the user has called.
    calls: Mutex<VecDeque<Instant>>,
}

/// The whole API over `disk`.
pub(super) fn router(settings: &Settings, disk: Arc<Disk>) -> io::Result<Router> {
    let ways = settings.boxcom.clone();
    let service = Service {
        door: Door::new(settings, disk.hidden("box")?)?,
        shelf: Shelf::new(disk, &ways)?,
        sessions: Sessions::default(),
        links: content::Links::default(),
        calls: Mutex::default(),
        ways,
    };
    Ok(Router::new().fallback(front).with_state(Arc::new(service)))
}

async fn front(State(service): State<Arc<Service>>, request: Request) -> Response {
    match service.answer(request).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

/// An answer that is not a success.
#[derive(Debug)]
struct No {
    status: u16,
    code: &'static str,
    message: String,
    context: Value,
    retry_after: Option<u64>,
}

impl No {
    fn new(status: u16, code: &'static str, message: &str) -> No {
        No {
            status,
            code,
            message: message.to_owned(),
            context: Value::Null,
            retry_after: None,
        }
    }

    fn bad(message: &str) -> No {
        No::new(400, "bad_request", message)
    }

    fn lost() -> No {
        No::new(404, "not_found", "Not Found")
    }

    fn method() -> No {
        No::new(405, "method_not_allowed", "Method Not Allowed")
    }

    fn with(self, context: Value) -> No {
        No { context, ..self }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        if self.status == 401 {
            let words = "Bearer realm=\"Service\", error=\"invalid_token\", \
                         error_description=\"The access token provided is invalid.\"";
            return (status, [(header::WWW_AUTHENTICATE, words)]).into_response();
        }
        let mut body = json!({
            "type": "error",
            "status": self.status,
            "code": self.code,
            "help_url": "http://developers.box.com/docs/#errors",
            "message": self.message,
            "request_id": uuid::Uuid::new_v4().simple().to_string(),
        });
        if !self.context.is_null() {
            body["context_info"] = self.context;
        }
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let mut answer = (status, kind, body.to_string()).into_response();
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        answer
    }
}

impl From<io::Error> for No {
    fn from(e: io::Error) -> No {
        match e.kind() {
            io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
                No::new(400, "item_name_too_long", "Item name too long")
            }
            _ => {
                ::log::warn!("serve: {e}");
                No::new(500, "internal_server_error", "Internal Server Error")
            }
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        match refusal {
            Refusal::Missing => No::lost(),
            Refusal::NotEmpty => {
                No::new(400, "folder_not_empty", "Cannot delete - folder not empty")
            }
            Refusal::Exists | Refusal::Folder | Refusal::ParentIsFile => No::new(
                409,
                "item_name_in_use",
                "Item with the same name already exists",
            ),
            Refusal::Io(e) => e.into(),
        }
    }
}

impl From<Unreceived> for No {
    fn from(e: Unreceived) -> No {
        match e {
            Unreceived::Cut | Unreceived::TooMuch => No::new(
                400,
                "request_size_mismatch",
                "The body is not as long as it was said to be",
            ),
            Unreceived::Silent => No::new(408, "request_timeout", "The request is too slow"),
            Unreceived::Io(e) => e.into(),
        }
    }
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request) -> Result<Response, No> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let method = request.method().as_str().to_owned();
        match (method.as_str(), segments.as_slice()) {
            ("POST", ["oauth2", "token"]) => return self.door.token(request).await,
            ("POST", ["oauth2", "revoke"]) => return self.door.revoke(request).await,
            ("GET", ["api", "oauth2", "authorize"]) => return self.door.authorize(&request),
            ("GET", ["d", "1", id, "download"]) => return self.follow(request, id).await,
            _ => {}
        }
        if !self.door.opens(request.headers()) {
            return Err(No::new(401, "unauthorized", "Unauthorized"));
        }
        self.count_call()?;
        match (method.as_str(), segments.as_slice()) {
            ("GET", ["2.0", "users", "me"]) => self.me().await,
            ("POST", ["2.0", "folders"]) => self.make_folder(request).await,
            ("GET", ["2.0", "folders", id, "items"]) => self.list(request, number(id)?).await,
            ("OPTIONS", ["2.0", "files", "content"]) => self.preflight(request, None).await,
            ("OPTIONS", ["2.0", "files", id, "content"]) => {
                let id = number(id)?;
                self.preflight(request, Some(id)).await
            }
            ("GET", ["2.0", "files", id, "content"]) => self.download(request, number(id)?).await,
            ("GET", ["2.0", "files", id, "versions"]) => self.versions_of(number(id)?).await,
            (_, ["2.0", kind @ ("files" | "folders"), id]) => {
                let (id, dir) = (number(id)?, *kind == "folders");
                match method.as_str() {
                    "GET" => self.get(request, id, dir).await,
                    "PUT" => self.change(request, id, dir).await,
                    "DELETE" => self.delete(request, id, dir).await,
                    "POST" => self.restore(id, dir).await,
                    _ => Err(No::method()),
                }
            }
            ("POST", ["2.0", kind @ ("files" | "folders"), id, "copy"]) => {
                let (id, dir) = (number(id)?, *kind == "folders");
                self.copy(request, id, dir).await
            }
            ("DELETE", ["2.0", kind @ ("files" | "folders"), id, "trash"]) => {
                self.purge(number(id)?, *kind == "folders").await
            }
            ("POST", ["api", "2.0", "files", "content"]) => self.upload(request, None).await,
            ("POST", ["api", "2.0", "files", "upload_sessions"]) => self.begin(request, None).await,
            ("POST", ["api", "2.0", "files", id, "content"]) => {
                let id = number(id)?;
                self.upload(request, Some(id)).await
            }
            ("POST", ["api", "2.0", "files", id, "upload_sessions"]) => {
                let id = number(id)?;
                self.begin(request, Some(id)).await
            }
            (_, ["api", "2.0", "files", "upload_sessions", id, rest @ ..]) => {
                let id = (*id).to_owned();
                match (method.as_str(), rest) {
                    ("PUT", []) => self.part(request, &id).await,
                    ("GET", []) => self.status(&request, &id),
                    ("DELETE", []) => self.abort(&id),
                    ("GET", ["parts"]) => self.parts(&request, &id),
                    ("POST", ["commit"]) => self.commit(request, &id).await,
                    ("POST", ["plan"]) => self.plan(request, &id).await,
                    _ => Err(No::method()),
                }
            }
            _ => Err(No::method()),
        }
    }

    /// Refuses (429) when the user has called too often.
    fn count_call(&self) -> Result<(), No> {
        let Some((most, time)) = self.ways.calls else {
            return Ok(());
        };
        let now = Instant::now();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        while calls.front().is_some_and(|at| now - *at >= time) {
            calls.pop_front();
        }
        if calls.len() >= most as usize {
            let free = calls.front().map_or(time, |at| time - (now - *at));
            let no = No::new(429, "rate_limit_exceeded", "Request rate limit exceeded");
            return Err(No {
                retry_after: Some(free.as_secs_f64().ceil() as u64),
                ..no
            });
        }
        calls.push_back(now);
        Ok(())
    }

    async fn me(self: &Arc<Self>) -> Result<Response, No> {
        let here = self.clone();
        let used = super::disk::blocking(move || here.shelf.used()).await??;
        Ok(json_answer(
            200,
            &json!({
                "type": "user",
                "id": "11111",
                "name": "Somebody",
                "login": "somebody@example.com",
                "space_amount": self.ways.quota.map_or(1e18, |quota| quota as f64),
                "space_used": used,
                "max_upload_size": self.ways.size_max,
            }),
        ))
    }
}

/// An id in an address: 405 if it is no number.
fn number(text: &str) -> Result<u64, No> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(No::method)
}

/// A header as text.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

const DIGEST: HeaderName = HeaderName::from_static("digest");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// The pairs of the query.
fn query(request: &Request) -> Vec<(String, String)> {
    let raw = request.uri().query().unwrap_or("");
    url::form_urlencoded::parse(raw.as_bytes())
        .into_owned()
        .collect()
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// A JSON body of at most 1 MiB, which must say that it is one.
async fn json_body(request: Request) -> Result<Value, No> {
    let (head, body) = request.into_parts();
    if !has_length(&head.headers) {
        return Err(No::new(411, "length_required", "Content-Length is missing"));
    }
    if !text(&head.headers, header::CONTENT_TYPE).is_some_and(|kind| kind.contains("json")) {
        return Err(No::bad("The body is not said to be JSON"));
    }
    read_json(body).await
}

async fn read_json(body: Body) -> Result<Value, No> {
    let bytes = axum::body::to_bytes(body, 1 << 20).await;
    let bytes = bytes.map_err(|_| No::bad("The body cannot be read"))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| No::bad("Not JSON"))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(No::bad("Not a JSON object")),
    }
}

fn has_length(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH)
}

fn json_answer(status: u16, value: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let status = StatusCode::from_u16(status).unwrap_or_default();
    (status, kind, value.to_string()).into_response()
}

/// An answer without a body, which may ask to come later.
fn empty(status: u16, retry_after: Option<u64>) -> Response {
    let mut answer = StatusCode::from_u16(status)
        .unwrap_or_default()
        .into_response();
    if let Some(seconds) = retry_after {
        let seconds = HeaderValue::from(seconds);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    answer
}
