//! One request's way through a server: delay, fault, the API's router, log.
//!
//! It knows HTTP in general and no API. Request and answer bodies go through the two wrappers at the
//! end, which count, and which do the faults that happen in the middle of a body.

use super::faults::{Action, Asked, Faults};
use super::log::{Entry, Log, Request as Seen, redact};
use super::shape::Bucket;
use super::wire::Line;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The longest request target, in bytes: Kestrel's 8 KiB for the request line, less verb and version.
const TARGET_MAX: usize = 8 * 1024 - 32;

/// What is read of a body that an API did not want, so that the client hears the answer: bytes, time.
const DRAIN: (u64, Duration) = (64 << 20, Duration::from_secs(5));

/// What all requests share.
#[derive(Debug)]
pub(super) struct Exchange {
    router: TowerToHyperService<Router>,
    faults: Arc<Faults>,
    log: Arc<Log>,
    rtt: Duration,
}

/// The connection is to break.
#[derive(Debug, thiserror::Error)]
#[error("broken on purpose")]
pub(super) struct Broken;

impl Exchange {
    pub(super) fn new(
        router: Router,
        faults: Arc<Faults>,
        log: Arc<Log>,
        rtt: Duration,
    ) -> Arc<Exchange> {
        Arc::new(Exchange {
            router: TowerToHyperService::new(router),
            faults,
            log,
            rtt,
        })
    }

    /// Answers one request.
    pub(super) async fn run(
        self: Arc<Self>,
        request: Request<Incoming>,
        line: Arc<Line>,
    ) -> Result<Response<Outgoing>, Broken> {
        let started = Instant::now();
        let uri = request.uri();
        let text = |name| {
            request
                .headers()
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
        };
        let action = self.faults.decide(&Asked {
            method: request.method().as_str(),
            path: uri.path(),
            query: uri.query().unwrap_or(""),
            length: text(header::CONTENT_LENGTH).and_then(|n| n.parse().ok()),
        });
        let entry = self.log.begin(Seen {
            time: jiff::Timestamp::now().to_string(),
            method: request.method().to_string(),
            target: redact(uri.path_and_query().map_or("/", |t| t.as_str())),
            range: text(header::RANGE).map(str::to_owned),
            connection: line.id,
            fault: action.as_ref().map(Action::word),
            ..Seen::default()
        });
        let seen = Ended {
            log: self.log.clone(),
            entry,
            started,
            out: 0,
        };
        if !self.rtt.is_zero() {
            sleep(self.rtt).await;
        }
        match &action {
            Some(Action::Reset { after: 0 }) => {
                line.reset();
                return Err(Broken);
            }
            Some(Action::Stall {
                after: None,
                seconds,
            }) => {
                sleep(Action::stall_for(*seconds)).await;
            }
            _ => {}
        }
        let too_long = uri.path_and_query().map_or(0, |t| t.as_str().len()) > TARGET_MAX;
        let expects = request.headers().contains_key(header::EXPECT);
        let slot = Arc::new(Slot::default());
        let (parts, body) = request.into_parts();
        let incoming = Arriving::new(body, slot.clone(), seen.reach(), &line, action.as_ref());
        let (answer, early) = match &action {
            Some(Action::Answer {
                status,
                retry_after,
                headers,
                body,
                early,
            }) => {
                drop(incoming);
                (other_answer(*status, *retry_after, headers, body), *early)
            }
            _ if too_long => {
                drop(incoming);
                (StatusCode::URI_TOO_LONG.into_answer(), false)
            }
            _ => {
                let request = Request::from_parts(parts, Body::new(incoming));
                let Ok(answer) = self.router.call(request).await;
                (answer, false)
            }
        };
        if !early {
            slot.drain(expects).await;
        }
        if slot.broken() || matches!(action, Some(Action::DropAnswer)) {
            line.reset();
            return Err(Broken);
        }
        let status = answer.status().as_u16();
        seen.log.amend(&seen.entry, |s| s.status = Some(status));
        Ok(answer.map(|body| Outgoing::new(body, seen, line, action.as_ref())))
    }
}

trait IntoAnswer {
    fn into_answer(self) -> Response<Body>;
}

impl IntoAnswer for StatusCode {
    fn into_answer(self) -> Response<Body> {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = self;
        answer
    }
}

fn other_answer(
    status: u16,
    retry_after: Option<u64>,
    headers: &std::collections::BTreeMap<String, String>,
    body: &str,
) -> Response<Body> {
    let mut answer = Response::builder().status(status);
    if let Some(seconds) = retry_after {
        answer = answer.header(header::RETRY_AFTER, seconds);
    }
    if !body.is_empty() {
        answer = answer.header(header::CONTENT_TYPE, "text/plain");
    }
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    answer
        .body(Body::from(body.to_owned()))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_answer())
}

/// Ends the record of a request, whatever becomes of it.
#[derive(Debug)]
struct Ended {
    log: Arc<Log>,
    entry: Arc<Entry>,
    started: Instant,
    out: u64,
}

impl Ended {
    fn reach(&self) -> (Arc<Log>, Arc<Entry>) {
        (self.log.clone(), self.entry.clone())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let (out, ms) = (self.out, self.started.elapsed().as_millis() as u64);
        self.log
            .end(&self.entry, |seen| (seen.bytes_out, seen.ms) = (out, ms));
    }
}

/// Where a request's body comes back to when the API drops it.
#[derive(Debug, Default)]
struct Slot(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    body: Option<Incoming>,
    polled: bool,
    broken: bool,
}

impl Slot {
    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> bool {
        self.left().broken
    }

    /// Reads what is left, within bounds. A client that waits for `100 Continue` sends nothing.
    async fn drain(&self, expects: bool) {
        let left = std::mem::take(&mut *self.left());
        self.left().broken = left.broken;
        let Some(mut body) = left.body else { return };
        if left.broken || (expects && !left.polled) {
            return;
        }
        let all = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > DRAIN.0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN.1, all).await;
    }
}

/// A request's body on its way in.
#[derive(Debug)]
struct Arriving {
    body: Option<Incoming>,
    slot: Arc<Slot>,
    seen: (Arc<Log>, Arc<Entry>),
    line: Arc<Line>,
    read: u64,
    reset_after: Option<u64>,
    pace: Pace,
}

impl Arriving {
    fn new(
        body: Incoming,
        slot: Arc<Slot>,
        seen: (Arc<Log>, Arc<Entry>),
        line: &Arc<Line>,
        action: Option<&Action>,
    ) -> Arriving {
        let reset_after = match action {
            Some(Action::Reset { after }) => Some(*after),
            _ => None,
        };
        let (line, pace) = (line.clone(), Pace::new(action));
        Arriving {
            body: Some(body),
            slot,
            seen,
            line,
            read: 0,
            reset_after,
            pace,
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        ready!(this.pace.poll_ready(cx));
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.slot.left().polled = true;
        let frame = ready!(Pin::new(body).poll_frame(cx));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        this.read += bytes as u64;
        this.pace.moved(bytes);
        if this.reset_after.is_some_and(|after| this.read >= after) {
            this.slot.left().broken = true;
            this.line.reset();
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let read = self.read;
        self.seen.0.amend(&self.seen.1, |seen| seen.bytes_in = read);
        self.slot.left().body = self.body.take().filter(|body| !body.is_end_stream());
    }
}

/// The answer's body on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    seen: Ended,
    line: Arc<Line>,
    pace: Pace,
    truncate: Option<u64>,
    stall: Option<(u64, Duration)>,
    corrupt: Option<u64>,
    /// Of a frame that was cut by a fault.
    rest: Option<Bytes>,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Flushes seen when the last byte before a truncation had been given.
    flushed: Option<u64>,
}

impl Outgoing {
    fn new(body: Body, seen: Ended, line: Arc<Line>, action: Option<&Action>) -> Outgoing {
        let (mut truncate, mut stall, mut corrupt) = (None, None, None);
        match action {
            Some(Action::Truncate { after }) => truncate = Some(*after),
            Some(Action::Stall {
                after: Some(after),
                seconds,
            }) => {
                stall = Some((*after, Action::stall_for(*seconds)));
            }
            Some(Action::Corrupt { at }) => corrupt = Some(*at),
            _ => {}
        }
        let pace = Pace::new(action);
        let (rest, stalled, flushed) = (None, None, None);
        Outgoing {
            body,
            seen,
            line,
            pace,
            truncate,
            stall,
            corrupt,
            rest,
            stalled,
            flushed,
        }
    }

    /// The next bytes of the body itself.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(rest)));
        }
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(io::Error::other(e)))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        ready!(this.pace.poll_ready(cx));
        if let Some(sleep) = &mut this.stalled {
            ready!(sleep.as_mut().poll(cx));
            this.stalled = None;
        }
        let at = this.seen.out;
        if this.truncate == Some(at) {
            // What was given must have left the HTTP library's buffer before the connection ends.
            let before = *this.flushed.get_or_insert(this.line.flushes());
            ready!(this.line.poll_flushed(cx, before));
            return Poll::Ready(Some(Err(io::Error::other(Broken))));
        }
        if let Some((_, time)) = this.stall.take_if(|(after, _)| *after == at) {
            let mut sleep = Box::pin(sleep(time));
            let pending = sleep.as_mut().poll(cx).is_pending();
            this.stalled = Some(sleep);
            if pending {
                return Poll::Pending;
            }
        }
        let mut bytes = match ready!(this.poll_bytes(cx)) {
            Some(Ok(bytes)) => bytes,
            Some(Err(e)) => return Poll::Ready(Some(Err(e))),
            None => return Poll::Ready(None),
        };
        let stop = [this.truncate, this.stall.map(|(after, _)| after)]
            .into_iter()
            .flatten()
            .min();
        let most = stop
            .map_or(u64::MAX, |stop| stop - at)
            .min(this.pace.quantum());
        if bytes.len() as u64 > most {
            this.rest = Some(bytes.split_off(most as usize));
        }
        if let Some(place) = this
            .corrupt
            .filter(|p| (at..at + bytes.len() as u64).contains(p))
        {
            let mut changed = BytesMut::from(&bytes[..]);
            changed[(place - at) as usize] ^= 0xff;
            bytes = changed.freeze();
        }
        this.seen.out += bytes.len() as u64;
        this.pace.moved(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.truncate.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The `slow` fault: one body's own speed.
#[derive(Debug, Default)]
struct Pace {
    bucket: Option<Bucket>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(action: Option<&Action>) -> Pace {
        let bucket = match action {
            Some(Action::Slow { rate }) => Some(Bucket::new(*rate)),
            _ => None,
        };
        Pace { bucket, wait: None }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    fn moved(&mut self, bytes: usize) {
        if let Some(bucket) = self.bucket.as_ref().filter(|_| bytes > 0) {
            self.wait = Some(Box::pin(sleep_until(bucket.take(bytes, Instant::now()))));
        }
    }

    fn quantum(&self) -> u64 {
        self.bucket
            .as_ref()
            .map_or(u64::MAX, |bucket| (bucket.rate() / 20).max(1))
    }
}
