//! One client: connections, trust, waiting times, rates; and one request on its way.

use super::answer::Answer;
use super::body::{Body, Taken};
use super::credential::Secret;
use super::pulse::Pulse;
use super::rate::Rate;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Group};
use base64::Engine;
use bytes::Bytes;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a kernel and hyper may hold of a body that they have taken but not yet sent: hyper's buffer
/// (about 400 KiB) and the largest send buffer that Linux grows to by default (`tcp_wmem`, 4 MiB).
const UNSEEN: u64 = 4 * 1024 * 1024 + 400 * 1024;

/// The slowest line for which [`UNSEEN`] bytes are waited for, in bytes per second.
const SLOWEST: u64 = 64 * 1024;

/// How a client behaves. Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A file of further trusted certificates (PEM).
    pub ca_file: Option<PathBuf>,
    /// Bound of name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Longest time in which no byte moves, in either direction.
    pub stall_timeout: Duration,
    /// Bytes per second of all request bodies together; 0: unlimited.
    pub limit_up: u64,
    /// Bytes per second of all answers' bodies together; 0: unlimited.
    pub limit_down: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            limit_up: 0,
            limit_down: 0,
        }
    }
}

/// Bytes of bodies that went over the wire since the client was made, repeated ones included.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of requests.
    pub sent: AtomicU64,
    /// Of answers.
    pub received: AtomicU64,
}

/// A pool of connections with its rules. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
    stall_timeout: Duration,
    up: Option<Arc<Rate>>,
    down: Option<Arc<Rate>>,
    counters: Arc<Counters>,
}

impl Client {
    /// A client for a service at `base`: no proxy if that is this machine, no need for trusted
    /// certificates if it is plain `http`.
    pub fn new(settings: &Settings, base: &Url) -> Result<Self> {
        let invalid = |what: &str| Error::new(Kind::Invalid, "set up HTTP").said(what);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("assetfs/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(settings.connect_timeout)
            // Below Kestrel's 130 s, so that a pooled connection is rarely found closed.
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_user_timeout(settings.stall_timeout);
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.ca_file {
            let pem = std::fs::read(path)
                .map_err(|e| Error::local("read ca_file", e).at(path.display().to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|c| !c.is_empty())
                .ok_or_else(|| {
                    invalid("ca_file holds no certificate").at(path.display().to_string())
                })?;
            builder = builder.tls_certs_merge(certificates);
        } else if base.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let inner = builder.build().map_err(|e| invalid(&cause_of(e)))?;
        let rate = |n| std::num::NonZeroU64::new(n).map(|n| Arc::new(Rate::new(n)));
        Ok(Client {
            inner,
            stall_timeout: settings.stall_timeout,
            up: rate(settings.limit_up),
            down: rate(settings.limit_down),
            counters: Arc::default(),
        })
    }

    /// Bytes moved so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// A request for `op` on `path` (both for people: they stand in errors and in the log, in place
    /// of the address).
    #[must_use]
    pub fn request<'a>(
        &'a self,
        method: Method,
        url: Url,
        op: &'static str,
        path: &'a str,
    ) -> Request<'a> {
        let mut inner = reqwest::Request::new(method, url);
        inner.headers_mut().insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        Request {
            client: self,
            inner,
            op,
            path,
            body: Body::None,
            answer_within: None,
            wrong: None,
        }
    }
}

/// Whether `url` is on this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// One request, not yet sent.
#[derive(Debug)]
pub struct Request<'a> {
    client: &'a Client,
    inner: reqwest::Request,
    op: &'static str,
    path: &'a str,
    body: Body<'a>,
    answer_within: Option<Duration>,
    wrong: Option<&'static str>,
}

impl<'a> Request<'a> {
    /// Adds a header.
    #[must_use]
    pub fn header(self, name: &'static str, value: &str) -> Self {
        self.put(name, value, false)
    }

    /// Adds a header that is a credential.
    #[must_use]
    pub fn secret_header(self, name: &'static str, value: &Secret) -> Self {
        self.put(name, value.reveal(), true)
    }

    /// `Authorization: Bearer ...`
    #[must_use]
    pub fn bearer(self, token: &Secret) -> Self {
        let value = format!("Bearer {}", token.reveal());
        self.put("authorization", &value, true)
    }

    /// `Authorization: Basic ...`
    #[must_use]
    pub fn basic(self, user: &str, password: &Secret) -> Self {
        let pair = format!("{user}:{}", password.reveal());
        let value = format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        );
        self.put("authorization", &value, true)
    }

    /// `Range: bytes=a-b`, both ends; `range` is not empty.
    #[must_use]
    pub fn range(self, range: &Range<u64>) -> Self {
        let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        self.put("range", &value, false)
    }

    /// Carries `body`.
    #[must_use]
    pub fn body(mut self, body: Body<'a>) -> Self {
        self.body = body;
        self
    }

    /// The server may think for so long before it answers (default: `stall_timeout`).
    #[must_use]
    pub fn answer_within(mut self, limit: Duration) -> Self {
        self.answer_within = Some(limit);
        self
    }

    fn put(mut self, name: &'static str, value: &str, secret: bool) -> Self {
        match HeaderValue::from_bytes(value.as_bytes()) {
            Ok(mut value) => {
                value.set_sensitive(secret);
                let name = HeaderName::from_static(name);
                self.inner.headers_mut().insert(name, value);
            }
            Err(_) => self.wrong = Some(name),
        }
        self
    }

    /// Sends it and waits for the head of the answer, whatever its status.
    ///
    /// Errors are those of the transport or the source's own. `Unreachable`: there was no connection, the
    /// request surely has done nothing; `Timeout`, `Broken`: it may have been carried out.
    pub async fn send(self) -> Result<Answer> {
        let Request {
            client,
            mut inner,
            op,
            path,
            body,
            answer_within,
            wrong,
        } = self;
        if let Some(name) = wrong {
            return Err(Error::new(Kind::Invalid, op)
                .at(path)
                .said(&format!("not a possible value of the header {name}")));
        }
        let begin = Instant::now();
        let label = format!(
            "{} {}",
            inner.method(),
            inner.url().host_str().unwrap_or("")
        );
        let stall = client.stall_timeout;
        let answer_within = answer_within.unwrap_or(stall).max(stall);
        let pulse = Arc::new(Pulse::new(stall));
        let (feeder, from) = mpsc::channel(1);
        if let Some(len) = body.len() {
            inner
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from(len));
            let unseen = Duration::from_secs(len.min(UNSEEN) / SLOWEST);
            if len == 0 {
                *inner.body_mut() = Some(reqwest::Body::from(Bytes::new()));
                pulse.expect_within(answer_within);
            } else {
                *inner.body_mut() = Some(reqwest::Body::wrap_stream(Taken {
                    from,
                    left: len,
                    pulse: pulse.clone(),
                    answer_within: answer_within + unseen,
                    counters: client.counters.clone(),
                }));
            }
        } else {
            pulse.expect_within(answer_within);
        }
        failpoint::cross(Group::Http, &label);
        let answer = {
            let sending = client.inner.execute(inner);
            let feeding = body.feed(&feeder, &pulse, client.up.as_deref());
            let stalled = pulse.stalled();
            tokio::pin!(sending, feeding, stalled);
            let mut fed = false;
            loop {
                tokio::select! {
                    biased;
                    done = &mut feeding, if !fed => {
                        done.map_err(|e| if e.path.is_empty() { e.at(path) } else { e })?;
                        fed = true;
                    }
                    answer = &mut sending => break answer,
                    limit = &mut stalled => break_stalled(op, path, limit)?,
                }
            }
        };
        failpoint::cross(Group::Http, "a look at the answer");
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => return Err(transport(op, e).at(path)),
        };
        log::trace!(
            "{label} {op} {path}: {} in {} ms",
            answer.status().as_u16(),
            begin.elapsed().as_millis()
        );
        pulse.expect_within(stall);
        Ok(Answer::new(
            answer,
            op,
            path.to_owned(),
            pulse,
            client.down.clone(),
            client.counters.clone(),
            feeder,
        ))
    }
}

fn break_stalled(op: &'static str, path: &str, limit: Duration) -> Result<()> {
    Err(stall_error(op, limit).at(path))
}

/// No byte moved for `limit`.
pub(super) fn stall_error(op: &'static str, limit: Duration) -> Error {
    Error::new(Kind::Timeout, op).because(Cause(format!(
        "nothing moved for {:.0} s",
        limit.as_secs_f64()
    )))
}

/// A failure of the transport. Its text never holds an address with query or userinfo.
///
/// `Unreachable` means that there was no connection, so that the request surely has done nothing; once
/// it was on its way, a failure is `Broken` or `Timeout`.
pub(super) fn transport(op: &'static str, error: reqwest::Error) -> Error {
    let kind = if error.is_builder() || error.is_redirect() {
        Kind::Invalid
    } else if error.is_connect() {
        Kind::Unreachable
    } else if error.is_timeout() {
        Kind::Timeout
    } else {
        Kind::Broken
    };
    Error::new(kind, op).because(Cause(cause_of(error)))
}

/// What lies below, from the top down, without the address.
fn cause_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(e) = next {
        let words = e.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = e.source();
    }
    text
}

#[derive(Debug)]
pub(super) struct Cause(pub(super) String);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}
