//! One TCP connection as the HTTP library sees it: shaped, and able to break on purpose.
//!
//! It knows bytes only; requests are `exchange`'s.

use super::shape::Bucket;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// What a request may know of, and do to, the connection that it came by.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Counted from 1 in the order of acceptance.
    pub(super) id: u64,
    reset: AtomicBool,
    flushes: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl Line {
    pub(super) fn new(id: u64) -> Line {
        Line {
            id,
            ..Line::default()
        }
    }

    /// From now on nothing moves, and the connection ends in a reset (RST) rather than a FIN.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// How often everything written had gone to the kernel.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Ready when more than `before` flushes were seen.
    pub(super) fn poll_flushed(&self, cx: &mut Context<'_>, before: u64) -> Poll<()> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.flushes() > before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.reset.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

/// The two directions of the link, shared by all connections.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) up: Bucket,
    pub(super) down: Bucket,
}

/// One direction's wait for the link.
type Wait = Option<Pin<Box<Sleep>>>;

/// The socket.
#[derive(Debug)]
pub(super) struct Wire {
    socket: TcpStream,
    line: Arc<Line>,
    link: Option<Arc<Link>>,
    reading: Wait,
    writing: Wait,
}

impl Wire {
    pub(super) fn new(socket: TcpStream, line: Arc<Line>, link: Option<Arc<Link>>) -> Wire {
        Wire {
            socket,
            line,
            link,
            reading: None,
            writing: None,
        }
    }
}

/// Ready when the link is free.
fn poll_wait(wait: &mut Wait, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(sleep) = wait {
        ready!(sleep.as_mut().poll(cx));
        *wait = None;
    }
    Poll::Ready(())
}

fn debt(bucket: &Bucket, bytes: usize) -> Wait {
    let now = Instant::now();
    let free = bucket.take(bytes, now);
    (bytes > 0 && free > now).then(|| Box::pin(sleep_until(free)))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.line.check()?;
        ready!(poll_wait(&mut this.reading, cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        if let Some(link) = &this.link {
            this.reading = debt(&link.up, buf.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.line.check()?;
        let Some(link) = &this.link else {
            return Pin::new(&mut this.socket).poll_write(cx, buf);
        };
        ready!(poll_wait(&mut this.writing, cx));
        let some = &buf[..buf.len().min(link.down.quantum())];
        let n = ready!(Pin::new(&mut this.socket).poll_write(cx, some))?;
        this.writing = debt(&link.down, n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.link.is_some() {
            let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
            return self.poll_write(cx, first);
        }
        self.line.check()?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The HTTP library calls this when its own buffers are empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check()?;
        self.line.flushes.fetch_add(1, Ordering::AcqRel);
        let waiting = self
            .line
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = waiting {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check()?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.check().is_err() {
            // Without it the kernel would send a FIN when all that came in has been read.
            let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}
