//! Request bodies: bytes in hand, or a place in a source that is read while it is sent.

use super::client::Counters;
use super::pulse::Pulse;
use super::rate::Rate;
use crate::error::{Error, Kind, Result};
use crate::flow::{PIECE, Source};
use bytes::Bytes;
use futures_util::Stream;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes given to the connection at once: small enough that progress shows on a slow line.
const FRAME: usize = 64 * 1024;

/// What a request carries; a clone reads its source again. Every body has a `Content-Length`, none is chunked.
#[derive(Clone)]
pub enum Body<'a> {
    /// Nothing, as in GET: no `Content-Length`.
    None,
    /// Zero bytes, as in a POST without content: `Content-Length: 0`.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A range of a source, read piece by piece as it is sent; `before` and `after` frame it (a form).
    Source {
        /// Bytes before it.
        before: Bytes,
        /// What is read.
        source: &'a dyn Source,
        /// Which bytes of it.
        range: Range<u64>,
        /// Bytes after it.
        after: Bytes,
    },
}

impl<'a> Body<'a> {
    /// A range of a source, raw.
    #[must_use]
    pub fn of(source: &'a dyn Source, range: Range<u64>) -> Self {
        Body::Source {
            before: Bytes::new(),
            source,
            range,
            after: Bytes::new(),
        }
    }

    /// Its `Content-Length`; `None`: no such header.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::None => None,
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Source {
                before,
                range,
                after,
                ..
            } => Some(before.len() as u64 + (range.end - range.start) + after.len() as u64),
        }
    }

    /// Whether it carries no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len().unwrap_or(0) == 0
    }

    /// Gives the bytes to the connection, in order, as fast as it takes them. The error is the
    /// source's own; a connection that wants no more is success (its answer tells why).
    pub(super) async fn feed(
        &self,
        to: &mpsc::Sender<Bytes>,
        pulse: &Pulse,
        rate: Option<&Rate>,
    ) -> Result<()> {
        match self {
            Body::None | Body::Empty => {}
            Body::Bytes(bytes) => {
                give(bytes.clone(), to, pulse, rate).await;
            }
            Body::Source {
                before,
                source,
                range,
                after,
            } => {
                if !give(before.clone(), to, pulse, rate).await {
                    return Ok(());
                }
                let mut at = range.start;
                while at < range.end {
                    let want = at..range.end.min(at + PIECE);
                    let held = pulse.hold();
                    let piece = source.read(want.clone()).await?;
                    drop(held);
                    if piece.len() as u64 != want.end - want.start {
                        return Err(Error::new(Kind::Local(libc::EIO), "read source")
                            .said("it ended early"));
                    }
                    at = want.end;
                    if !give(piece, to, pulse, rate).await {
                        return Ok(());
                    }
                }
                give(after.clone(), to, pulse, rate).await;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?} bytes)", self.len())
    }
}

/// False if the connection takes no more.
async fn give(
    mut bytes: Bytes,
    to: &mpsc::Sender<Bytes>,
    pulse: &Pulse,
    rate: Option<&Rate>,
) -> bool {
    while !bytes.is_empty() {
        let frame = bytes.split_to(bytes.len().min(FRAME));
        if let Some(rate) = rate {
            let held = pulse.hold();
            rate.take(frame.len() as u64).await;
            drop(held);
        }
        if to.send(frame).await.is_err() {
            return false;
        }
    }
    true
}

/// The connection's side of a body: what it takes counts as progress; once it has taken all, the
/// answer is due.
pub(super) struct Taken {
    pub(super) from: mpsc::Receiver<Bytes>,
    pub(super) left: u64,
    pub(super) pulse: Arc<Pulse>,
    pub(super) answer_within: Duration,
    pub(super) counters: Arc<Counters>,
}

impl Stream for Taken {
    type Item = std::result::Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match self.from.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(frame)) => {
                let n = frame.len() as u64;
                self.left = self.left.saturating_sub(n);
                self.counters.sent.fetch_add(n, Ordering::Relaxed);
                if self.left == 0 {
                    self.pulse.expect_within(self.answer_within);
                } else {
                    self.pulse.beat();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => Poll::Ready(Some(Err(std::io::Error::other("given up")))),
        }
    }
}
