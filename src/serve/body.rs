//! Bodies between HTTP and disk, with flat memory: a file's range going out, a request coming in.

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// What is read from a file in one go, in bytes.
const CHUNK: u64 = 512 * 1024;

/// What is written to a file in one go, in bytes.
const BATCH: usize = 1 << 20;

/// A request's body that is silent for so long is given up. Kestrel wants 240 bytes/s after 5 s.
const SILENCE: Duration = Duration::from_secs(10);

/// The bytes `range` of `file`; one chunk is read while the one before is on its way.
#[derive(Debug)]
pub(super) struct FileBody {
    file: Arc<File>,
    /// What is not yet being read.
    range: Range<u64>,
    /// What is not yet given.
    left: u64,
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(super) fn new(file: File, range: Range<u64>) -> FileBody {
        let left = range.end - range.start;
        FileBody {
            file: Arc::new(file),
            range,
            left,
            next: None,
        }
    }

    fn read_ahead(&mut self) {
        let from = self.range.start;
        let size = CHUNK.min(self.range.end - from);
        if size == 0 {
            return;
        }
        self.range.start += size;
        let file = self.file.clone();
        self.next = Some(tokio::task::spawn_blocking(move || {
            read(&file, from, size as usize)
        }));
    }
}

fn read(file: &File, from: u64, size: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = from + bytes.len() as u64;
        // Into the spare capacity: zeroing it first would cost a tenth.
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bytes.truncate(size);
    Ok(bytes.into())
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.next.is_none() {
            this.read_ahead();
        }
        let Some(next) = &mut this.next else {
            return Poll::Ready(None);
        };
        let read = ready!(Pin::new(next).poll(cx)).map_err(io::Error::other)?;
        this.next = None;
        let bytes = read?;
        this.left -= bytes.len() as u64;
        this.read_ahead();
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Why a body was not taken.
#[derive(Debug)]
pub(super) enum Unreceived {
    /// The client went away, or broke the framing.
    Cut,
    /// Nothing came for too long.
    Silent,
    /// More than was agreed.
    TooMuch,
    /// The sink's error.
    Io(io::Error),
}

/// Feeds a body to `sink`, in batches and off the async threads: one is written while the next
/// arrives. At most `most` bytes. Returns the sink and the number of bytes.
pub(super) async fn receive<S: Send + 'static>(
    mut body: Body,
    sink: S,
    most: u64,
    put: fn(&mut S, &[Bytes]) -> io::Result<()>,
) -> Result<(S, u64), Unreceived> {
    let (mut idle, mut busy) = (Some(sink), None);
    let mut total = 0;
    loop {
        let (batch, ended) = gather(&mut body).await?;
        total += batch.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if total > most {
            return Err(Unreceived::TooMuch);
        }
        if let Some(job) = busy.take() {
            idle = Some(finished(job).await?);
        }
        let Some(mut sink) = idle.take() else {
            unreachable!("idle or busy")
        };
        if batch.is_empty() && ended {
            return Ok((sink, total));
        }
        let job = tokio::task::spawn_blocking(move || put(&mut sink, &batch).map(|()| sink));
        if ended {
            return Ok((finished(job).await?, total));
        }
        busy = Some(job);
    }
}

async fn finished<S>(job: JoinHandle<io::Result<S>>) -> Result<S, Unreceived> {
    job.await
        .map_err(io::Error::other)
        .and_then(|put| put)
        .map_err(Unreceived::Io)
}

/// The next batch, and whether the body has ended.
async fn gather(body: &mut Body) -> Result<(Vec<Bytes>, bool), Unreceived> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH {
        let next = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let next = tokio::time::timeout(SILENCE, next)
            .await
            .map_err(|_| Unreceived::Silent)?;
        match next {
            None => return Ok((batch, true)),
            Some(Err(_)) => return Err(Unreceived::Cut),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    bytes += data.len();
                    batch.push(data);
                }
            }
        }
    }
    Ok((batch, false))
}
