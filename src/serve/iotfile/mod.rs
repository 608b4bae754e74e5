//! The Siemens IoT File Service, one entity: `/api/iotfile/v3/{files,fileslist}/ENTITY/PATH`, and both of
//! the platform's token endpoints.
//!
//! As strict as the service where that is known; where the documentation leaves something open, it takes
//! the reading that costs a careless client most. Keys that are file and directory at once are refused
//! (400), because a disk cannot hold them. Not here: bulk deletion, scopes, browser sessions.

mod address;
mod content;
mod filter;
mod multipart;
mod shelf;
mod token;

use super::Settings;
use super::body::Unreceived;
use super::disk::{Disk, Refusal};
use address::{Address, Place};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use multipart::Uploads;
use serde_json::json;
use shelf::Shelf;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use token::Door;

/// The entity that is served unless told otherwise.
pub const ENTITY: &str = "0123456789abcdef0123456789abcdef";

/// What the documentation leaves open, or tests want smaller. All fields are public;
/// [`Ways::default`] is the strict reading.
#[derive(Clone, Debug)]
pub struct Ways {
    /// The least size of a numbered part, in bytes.
    pub part_min: u64,
    /// How long the search shows what was before a change.
    pub index_delay: Duration,
    /// How long a token is good.
    pub token_life: Duration,
    /// How long it is said to be good, if not `token_life`.
    pub token_told: Option<Duration>,
    /// Whether the `path` of a row ends in a slash. With it the root's is empty, without it is missing.
    pub slash: bool,
    /// The header of the total: `x-total-count` or `count`.
    pub count_header: &'static str,
    /// `offset + limit` of a search is at most this.
    pub ceiling: u64,
    /// The most rows of a page.
    pub page_max: u64,
    /// Whether the answer to `upload=complete` has an ETag.
    pub complete_tag: bool,
    /// Whether a 206 has an ETag.
    pub range_tag: bool,
    /// A request that takes longer ends in 502.
    pub request_limit: Duration,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            part_min: 5 << 20,
            index_delay: Duration::ZERO,
            token_life: Duration::from_secs(1799),
            token_told: None,
            slash: true,
            count_header: "x-total-count",
            ceiling: 10_000,
            page_max: 200,
            complete_tag: false,
            range_tag: false,
            request_limit: Duration::from_secs(60),
        }
    }
}

/// One entity.
#[derive(Debug)]
struct Service {
    entity: String,
    ways: Ways,
    door: Door,
    shelf: Shelf,
    uploads: Uploads,
}

/// The whole API over `disk`.
pub(super) fn router(settings: &Settings, disk: Arc<Disk>) -> Router {
    let ways = settings.iotfile.clone();
    let service = Service {
        entity: settings.name.clone(),
        door: Door::new(settings.key.clone(), settings.login.clone(), &ways),
        shelf: Shelf::new(disk, ways.index_delay),
        uploads: Uploads::default(),
        ways,
    };
    Router::new()
        .fallback(gateway)
        .with_state(Arc::new(service))
}

async fn gateway(State(service): State<Arc<Service>>, request: Request) -> Response {
    let limit = service.ways.request_limit;
    match tokio::time::timeout(limit, service.answer(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(no)) => no.into_response(),
        // The gateway's own page.
        Err(_) => (
            StatusCode::BAD_GATEWAY,
            [(header::CONTENT_TYPE, "text/html")],
            "<html><body>502 Bad Gateway</body></html>",
        )
            .into_response(),
    }
}

/// An answer that is not a success: status and message.
#[derive(Debug)]
struct No(StatusCode, &'static str);

const LOST: No = No(StatusCode::NOT_FOUND, "Resource not found.");
const CONFLICT: No = No(
    StatusCode::CONFLICT,
    "A newer resource version is available.",
);

impl No {
    fn bad(text: &'static str) -> No {
        No(StatusCode::BAD_REQUEST, text)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({ "id": id, "message": self.1 }).to_string();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (self.0, kind, body).into_response()
    }
}

impl From<io::Error> for No {
    fn from(e: io::Error) -> No {
        match e.kind() {
            io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
                No::bad("The request is not valid.")
            }
            _ => {
                ::log::warn!("serve: {e}");
                No(StatusCode::INTERNAL_SERVER_ERROR, "Internal error.")
            }
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        match refusal {
            Refusal::Exists => CONFLICT,
            Refusal::Missing => LOST,
            Refusal::Folder => No::bad("The path is a directory of other files."),
            Refusal::ParentIsFile => No::bad("A directory of the path is a file."),
            Refusal::NotEmpty => No::bad("The directory is not empty."),
            Refusal::Io(e) => e.into(),
        }
    }
}

impl From<Unreceived> for No {
    fn from(e: Unreceived) -> No {
        match e {
            Unreceived::Cut => No::bad("Unexpected end of the request."),
            Unreceived::Silent => No(StatusCode::REQUEST_TIMEOUT, "The request is too slow."),
            Unreceived::TooMuch => No::bad("The body is too long."),
            Unreceived::Io(e) => e.into(),
        }
    }
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request) -> Result<Response, No> {
        match request.uri().path() {
            "/oauth/token" => return self.door.tenant_token(request).await,
            "/api/technicaltokenmanager/v3/oauth/token" => {
                return self.door.application_token(request).await;
            }
            _ => {}
        }
        if !self.door.opens(request.headers()) {
            return Err(No(
                StatusCode::UNAUTHORIZED,
                "Not authorized to access this resource.",
            ));
        }
        let address = Address::parse(request.uri())?;
        if address.entity != self.entity {
            return Err(LOST);
        }
        match (request.method().clone(), &address.place) {
            (Method::GET, Place::Search) => self.search(&address).await,
            (Method::GET, Place::File(_)) => {
                let range = text(request.headers(), header::RANGE).map(str::to_owned);
                self.download(range, &address).await
            }
            (Method::PUT, Place::File(_)) => self.put(request, address).await,
            (Method::DELETE, Place::File(_)) => self.delete(&address).await,
            (Method::GET, Place::Parts(key)) => self.parts_of(key),
            _ => Err(No(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.")),
        }
    }
}

/// A header as text.
fn text(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    headers.get(name.into())?.to_str().ok()
}

/// What the request says its body is long.
fn length_of(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

fn json_answer(value: &serde_json::Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, value.to_string()).into_response()
}
