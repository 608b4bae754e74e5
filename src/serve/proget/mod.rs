//! A ProGet asset directory: `/endpoints/NAME/{content,dir,metadata,delete}/PATH`, and `/health`.
//!
//! As strict as the service where that is known; where it is not, it takes the reading that costs a
//! careless client most. Not here: `export`, `import`, versioning, permissions beyond "a key or not".

mod address;
mod auth;
mod content;
mod item;
mod multipart;

use super::Settings;
use super::body::Unreceived;
use super::disk::{Disk, Refusal, Target, blocking};
use address::{Address, Operation};
use auth::Door;
use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use multipart::Uploads;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the server says of itself; the version in the spec's samples.
const VERSION: &str = "25.0.18.5";

/// The largest metadata update, in bytes.
const UPDATE_MAX: usize = 1 << 20;

/// One asset directory.
#[derive(Debug)]
struct Directory {
    name: String,
    /// The server's own idea of its address.
    base: String,
    door: Door,
    disk: Arc<Disk>,
    uploads: Uploads,
}

/// The whole API over `disk`.
pub(super) fn router(settings: &Settings, addr: SocketAddr, disk: Arc<Disk>) -> Router {
    let directory = Directory {
        name: settings.name.clone(),
        base: format!(
            "http://{addr}/endpoints/{}",
            address::encode(&settings.name)
        ),
        door: Door::new(settings.key.clone(), settings.login.clone()),
        disk,
        uploads: Uploads::default(),
    };
    Router::new()
        .route("/health", get(health))
        .fallback(endpoints)
        .layer(axum::middleware::map_response(sign))
        .with_state(Arc::new(directory))
}

/// What is on every answer.
async fn sign(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("Kestrel"));
    let version = HeaderName::from_static("x-proget-version");
    headers.insert(version, HeaderValue::from_static(VERSION));
    response
}

async fn health() -> Response {
    let body = serde_json::json!({
        "applicationName": "ProGet",
        "databaseStatus": "OK",
        "databaseStatusDetails": null,
        "extensionsInstalled": {},
        "licenseStatus": "OK",
        "licenseStatusDetail": null,
        "versionNumber": VERSION,
    });
    json(&body)
}

/// Everything but `/health`.
async fn endpoints(State(directory): State<Arc<Directory>>, request: Request) -> Response {
    match directory.answer(request).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

/// An answer that is not a success: status and one sentence.
#[derive(Debug)]
struct No(StatusCode, &'static str);

const NOT_FOUND: No = No(StatusCode::NOT_FOUND, "Asset not found.");

impl No {
    fn bad(text: &'static str) -> No {
        No(StatusCode::BAD_REQUEST, text)
    }

    fn verb(allowed: &'static str) -> Response {
        let no = No(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.");
        ([(header::ALLOW, allowed)], no).into_response()
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "text/plain")];
        (self.0, kind, self.1).into_response()
    }
}

impl From<io::Error> for No {
    fn from(e: io::Error) -> No {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => No(
                StatusCode::INSUFFICIENT_STORAGE,
                "There is not enough space on the disk.",
            ),
            io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
                No::bad("The path is not valid.")
            }
            _ => {
                ::log::warn!("serve: {e}");
                No(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "An error occurred processing the request.",
                )
            }
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        match refusal {
            Refusal::Exists => No::bad("An asset already exists at this path."),
            Refusal::Missing => NOT_FOUND,
            Refusal::Folder => No::bad("The path is a folder."),
            Refusal::ParentIsFile => No::bad("A parent of the path is a file."),
            Refusal::NotEmpty => No::bad("The folder is not empty."),
            Refusal::Io(e) => e.into(),
        }
    }
}

impl From<Unreceived> for No {
    fn from(e: Unreceived) -> No {
        match e {
            Unreceived::Cut => No::bad("Unexpected end of request content."),
            Unreceived::Silent => No(StatusCode::REQUEST_TIMEOUT, "The request body is too slow."),
            Unreceived::TooMuch => No::bad("The body is longer than its size."),
            Unreceived::Io(e) => e.into(),
        }
    }
}

impl Directory {
    async fn answer(self: Arc<Self>, request: Request) -> Result<Response, No> {
        let address = Address::parse(request.uri())?;
        if !address.directory.eq_ignore_ascii_case(&self.name) {
            return Err(No(StatusCode::NOT_FOUND, "Asset directory not found."));
        }
        if !self.door.opens(request.headers(), &address) {
            return Err(No(StatusCode::UNAUTHORIZED, "Unauthorized."));
        }
        match address.operation {
            Operation::Content => self.content(request, address).await,
            Operation::Dir => self.folder(request, address).await,
            Operation::Metadata => self.metadata(request, address).await,
            Operation::Delete => self.delete(request, address).await,
        }
    }

    /// `dir`: lists or makes a folder.
    async fn folder(&self, request: Request, address: Address) -> Result<Response, No> {
        let (disk, path) = (self.disk.clone(), address.path.clone());
        match *request.method() {
            Method::GET | Method::HEAD => {
                let recursive = address.flag("recursive");
                let items = blocking(move || disk.list(&path, recursive)).await??;
                let items: Vec<_> = items
                    .iter()
                    .filter(|item| !address::is_reserved(&item.path))
                    .map(|item| item::view(item, &self.base))
                    .collect();
                Ok(json(&items))
            }
            Method::POST => {
                address.check_new()?;
                blocking(move || disk.make_dir(&path)).await??;
                Ok(StatusCode::CREATED.into_response())
            }
            _ => Ok(No::verb("GET, POST")),
        }
    }

    /// `metadata`: describes or annotates one item.
    async fn metadata(&self, request: Request, address: Address) -> Result<Response, No> {
        let (disk, path) = (self.disk.clone(), address.path.clone());
        match *request.method() {
            Method::GET | Method::HEAD => {
                if address::is_reserved(&path) {
                    return Err(NOT_FOUND);
                }
                let item = blocking(move || disk.get(&path)).await??.ok_or(NOT_FOUND)?;
                Ok(json(&item::view(&item, &self.base)))
            }
            Method::POST => {
                if !media_of(request.headers()).is_some_and(|media| media.contains("json")) {
                    return Err(No(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON is expected."));
                }
                let body = to_bytes(request.into_body(), UPDATE_MAX).await;
                let body = body.map_err(|_| No::bad("The body could not be read."))?;
                let update = item::Update::parse(&body).ok_or(No::bad("Invalid metadata."))?;
                let found = blocking(move || disk.annotate(&path, |r| update.apply(r))).await??;
                if found {
                    Ok(StatusCode::OK.into_response())
                } else {
                    Err(NOT_FOUND)
                }
            }
            _ => Ok(No::verb("GET, POST")),
        }
    }

    /// `delete`: a file or a folder.
    async fn delete(&self, request: Request, address: Address) -> Result<Response, No> {
        if request.method() != Method::POST {
            return Ok(No::verb("POST"));
        }
        if address.path.is_empty() {
            return Err(No::bad("The path is empty."));
        }
        let target = match address.flag("recursive") {
            true => Target::Anything,
            false => Target::FileOrEmptyFolder,
        };
        let (disk, path) = (self.disk.clone(), address.path);
        blocking(move || disk.remove(&path, target)).await??;
        Ok(StatusCode::OK.into_response())
    }
}

/// The `Content-Type` of a request, word for word.
fn media_of(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::CONTENT_TYPE)?
        .to_str()
        .ok()
        .filter(|media| !media.is_empty())
}

fn json<T: serde::Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let kind = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
            (kind, Body::from(bytes)).into_response()
        }
        Err(e) => No::from(io::Error::other(e)).into_response(),
    }
}

/// What the request says its body is long.
fn length_of(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}
