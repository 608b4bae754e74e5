//! An answer whose head has come: its status and headers, and its body, bounded or streamed.

use super::client::{Cause, Counters, stall_error, transport};
use super::headers::{kind_of_status, opaque_tag, retry_after};
use super::pulse::Pulse;
use super::rate::Rate;
use crate::error::{Error, Kind, Result};
use crate::flow::Sink;
use bytes::{Buf, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// How much of an error's body is read, in bytes.
pub const ERROR_BODY_MAX: usize = 4096;

/// Most bytes of an uninteresting body that are read to keep its connection.
const DRAIN_MAX: usize = 64 * 1024;

/// An answer. Dropping it before its end closes its connection.
#[derive(Debug)]
pub struct Answer {
    inner: reqwest::Response,
    op: &'static str,
    path: String,
    pulse: Arc<Pulse>,
    down: Option<Arc<Rate>>,
    counters: Arc<Counters>,
    /// Keeps the request's body from ending early while the answer is read.
    _feeder: mpsc::Sender<Bytes>,
}

impl Answer {
    pub(super) fn new(
        inner: reqwest::Response,
        op: &'static str,
        path: String,
        pulse: Arc<Pulse>,
        down: Option<Arc<Rate>>,
        counters: Arc<Counters>,
        feeder: mpsc::Sender<Bytes>,
    ) -> Self {
        Answer {
            inner,
            op,
            path,
            pulse,
            down,
            counters,
            _feeder: feeder,
        }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.inner.status().is_success()
    }

    /// A header as text; `None` if absent or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// `Content-Length`.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// `ETag` as an opaque text.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        opaque_tag(self.header("etag")?)
    }

    /// `Retry-After`, counted from now.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(self.header("retry-after")?, SystemTime::now())
    }

    /// Whether the body is coded (gzip and the like), which was not asked for.
    #[must_use]
    pub fn is_coded(&self) -> bool {
        self.header("content-encoding")
            .is_some_and(|c| !c.trim().is_empty() && !c.trim().eq_ignore_ascii_case("identity"))
    }

    /// An error of this answer's operation and path.
    #[must_use]
    pub fn fault(&self, kind: Kind, words: &str) -> Error {
        Error::new(kind, self.op).at(self.path.as_str()).said(words)
    }

    /// The next piece of the body, as it comes; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.pulse.beat();
        let op = self.op;
        let got = tokio::select! {
            biased;
            got = self.inner.chunk() => got.map_err(|e| transport(op, e)),
            limit = self.pulse.stalled() => Err(stall_error(op, limit)),
        };
        let got = got.map_err(|e| e.at(self.path.as_str()))?;
        if let Some(bytes) = &got {
            let n = bytes.len() as u64;
            self.counters.received.fetch_add(n, Ordering::Relaxed);
            if let Some(rate) = &self.down {
                rate.take(n).await;
            }
        }
        Ok(got)
    }

    /// Skips `skip` bytes and gives the next `want` to `sink` as they come. A body that ends before
    /// is `Broken`; what was given by then is good.
    pub async fn into_sink(mut self, mut skip: u64, want: u64, sink: &mut dyn Sink) -> Result<()> {
        let mut left = want;
        while left > 0 {
            let Some(mut bytes) = self.chunk().await? else {
                return Err(self.fault(
                    Kind::Broken,
                    &format!("the answer ended {left} bytes too early"),
                ));
            };
            let over = skip.min(bytes.len() as u64);
            skip -= over;
            bytes.advance(over as usize);
            bytes.truncate(left.min(bytes.len() as u64) as usize);
            if !bytes.is_empty() {
                left -= bytes.len() as u64;
                sink.put(bytes);
            }
        }
        Ok(())
    }

    /// The whole body, at most `max` bytes (`Protocol` beyond).
    pub async fn bytes(mut self, max: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.chunk().await? {
            if all.len() + bytes.len() > max {
                return Err(self.fault(Kind::Protocol, &format!("more than {max} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// The body as JSON, at most `max` bytes.
    pub async fn json<T: DeserializeOwned>(self, max: usize) -> Result<T> {
        let (op, path) = (self.op, self.path.clone());
        let bytes = self.bytes(max).await?;
        serde_json::from_slice(&bytes).map_err(|e| not_json(op, &e).at(path))
    }

    /// Parses a JSON body of any length while it comes, on a thread that may block. Memory is what
    /// `parse` keeps.
    pub async fn parse<T: Send + 'static>(
        mut self,
        parse: impl FnOnce(&mut dyn Read) -> serde_json::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (op, path) = (self.op, self.path.clone());
        let (to, from) = mpsc::channel::<Bytes>(2);
        let parsing = tokio::task::spawn_blocking(move || {
            parse(&mut std::io::BufReader::with_capacity(
                32 * 1024,
                Chunks {
                    from,
                    now: Bytes::new(),
                },
            ))
        });
        let fed = async {
            while let Some(bytes) = self.chunk().await? {
                if to.send(bytes).await.is_err() {
                    break;
                }
            }
            drop(to);
            Ok::<_, Error>(())
        }
        .await;
        let parsed = parsing.await.map_err(|e| {
            Error::new(Kind::Local(libc::EIO), op)
                .at(path.as_str())
                .because(e)
        })?;
        fed?;
        parsed.map_err(|e| not_json(op, &e).at(path))
    }

    /// Reads the rest of an uninteresting body, so that the connection can be used again.
    pub async fn drain(mut self) {
        let mut seen = 0;
        while let Ok(Some(bytes)) = self.chunk().await {
            seen += bytes.len();
            if seen > DRAIN_MAX {
                return;
            }
        }
    }

    /// The first [`ERROR_BODY_MAX`] bytes of the body as text; empty for anything but text or JSON.
    pub async fn words(&mut self) -> String {
        let kind = self.header("content-type").unwrap_or("text/plain");
        let kind = kind.to_ascii_lowercase();
        let text = kind.starts_with("text/plain") || kind.contains("json");
        let mut all = BytesMut::new();
        while all.len() < ERROR_BODY_MAX {
            match self.chunk().await {
                Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                _ => break,
            }
        }
        all.truncate(ERROR_BODY_MAX);
        if text {
            String::from_utf8_lossy(&all).into_owned()
        } else {
            String::new()
        }
    }

    /// What this answer means, by its status alone, with the server's words.
    pub async fn into_error(mut self) -> Error {
        let words = self.words().await;
        let error = self.error_with(&words);
        self.drain().await;
        error
    }

    /// As [`Answer::into_error`], with words that the caller has picked from the body.
    #[must_use]
    pub fn error_with(&self, words: &str) -> Error {
        let status = self.status();
        let mut said = format!("HTTP {status}");
        if (300..400).contains(&status)
            && let Some(to) = self.header("location")
        {
            // Never the whole address: it may be signed.
            let host = self.inner.url().join(to).ok();
            let host = host.as_ref().and_then(|u| u.host_str()).unwrap_or("?");
            said.push_str(&format!(", a redirect to {host}"));
        } else if !words.trim().is_empty() {
            said.push_str(": ");
            said.push_str(words.trim());
        }
        self.fault(kind_of_status(status), &said)
            .after(self.retry_after())
    }
}

fn not_json(op: &'static str, error: &serde_json::Error) -> Error {
    Error::new(Kind::Protocol, op).because(Cause(format!(
        "not the JSON that was expected, line {} column {}",
        error.line(),
        error.column()
    )))
}

/// The blocking side of a body.
struct Chunks {
    from: mpsc::Receiver<Bytes>,
    now: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() {
            match self.from.blocking_recv() {
                Some(bytes) => self.now = bytes,
                None => return Ok(0),
            }
        }
        let n = into.len().min(self.now.len());
        into[..n].copy_from_slice(&self.now[..n]);
        self.now.advance(n);
        Ok(n)
    }
}
