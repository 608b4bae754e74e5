//! A running server: listening, accepting, stopping.

use super::disk::Disk;
use super::exchange::Exchange;
use super::faults::Faults;
use super::log::{Log, Request};
use super::shape::Bucket;
use super::wire::{Line, Link, Wire};
use super::{Api, Settings, boxcom, iotfile, proget};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// An idle connection is closed after this; Kestrel's default.
const IDLE: Duration = Duration::from_secs(130);

/// How long [`Server::stop`] lets requests end.
const GRACE: Duration = Duration::from_secs(5);

/// The socket's receive buffer on a shaped link, in bytes: else the kernel takes megabytes at once
/// and a client's progress says nothing.
const SHAPED_BUFFER: u32 = 128 * 1024;

/// A server on the runtime that started it. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    faults: Arc<Faults>,
    log: Arc<Log>,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds, then serves in the background until [`Server::stop`] or drop.
    ///
    /// Fails if the address is taken, the folder cannot be made or is served already, or the rules
    /// cannot be read.
    pub async fn start(settings: Settings) -> io::Result<Server> {
        let faults = Arc::new(Faults::new(
            settings.faults.as_deref(),
            settings.rules.clone(),
        )?);
        let log = Arc::new(Log::open(settings.log.as_deref())?);
        let disk = Arc::new(open(&settings).await?);
        let listener = bind(&settings)?;
        let addr = listener.local_addr()?;
        let router = match settings.api {
            Api::Proget => proget::router(&settings, addr, disk),
            Api::Iotfile => iotfile::router(&settings, disk),
            Api::Box => boxcom::router(&settings, disk)?,
        };
        let exchange = Exchange::new(router, faults.clone(), log.clone(), settings.rtt);
        let link = settings.rate.map(|rate| {
            Arc::new(Link {
                up: Bucket::new(rate),
                down: Bucket::new(rate),
            })
        });
        let (stop, stopped) = watch::channel(false);
        let accept = Accept {
            listener,
            exchange,
            link,
            rtt: settings.rtt,
            stopped,
        };
        let accepting = Some(tokio::spawn(accept.run()));
        Ok(Server {
            addr,
            faults,
            log,
            stop,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The fault rules, to be changed at any time.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The requests seen so far (the last 100,000), in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.log.all()
    }

    /// Forgets the requests seen so far.
    pub fn forget_requests(&self) {
        self.log.clear();
    }

    /// Waits until `enough` is true of the requests seen so far, and returns them.
    pub async fn wait_for(&self, enough: impl FnMut(&[Request]) -> bool) -> Vec<Request> {
        self.log.wait(enough).await
    }

    /// Accepts no more, lets requests under way end (at most 5 s), closes everything.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// A server that was dropped a moment ago may still hold the folder for its last writes.
async fn open(settings: &Settings) -> io::Result<Disk> {
    for _ in 0..100 {
        match Disk::open(&settings.dir, settings.ignore_case) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
    let dir = settings.dir.display();
    Err(io::Error::new(
        io::ErrorKind::WouldBlock,
        format!("{dir} is served already"),
    ))
}

fn bind(settings: &Settings) -> io::Result<TcpListener> {
    let socket = match settings.listen {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if settings.rate.is_some() {
        socket.set_recv_buffer_size(SHAPED_BUFFER)?;
        socket.set_send_buffer_size(SHAPED_BUFFER)?;
    }
    socket.bind(settings.listen)?;
    socket.listen(1024)
}

struct Accept {
    listener: TcpListener,
    exchange: Arc<Exchange>,
    link: Option<Arc<Link>>,
    rtt: Duration,
    stopped: watch::Receiver<bool>,
}

impl Accept {
    async fn run(mut self) {
        let mut connections = JoinSet::new();
        let mut count = 0;
        loop {
            tokio::select! {
                _ = self.stopped.changed() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        count += 1;
                        connections.spawn(self.connection(socket, count));
                    }
                    Err(e) => {
                        // Out of descriptors, as a rule: others must end first.
                        ::log::warn!("accept: {e}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all).await;
        connections.shutdown().await;
    }

    fn connection(&self, socket: TcpStream, id: u64) -> impl Future<Output = ()> + use<> {
        let (exchange, link, rtt) = (self.exchange.clone(), self.link.clone(), self.rtt);
        let mut stopped = self.stopped.clone();
        async move {
            let _ = socket.set_nodelay(true);
            if !rtt.is_zero() {
                tokio::time::sleep(rtt).await;
            }
            let line = Arc::new(Line::new(id));
            let io = TokioIo::new(Wire::new(socket, line.clone(), link));
            let service = hyper::service::service_fn(move |request| {
                exchange.clone().run(request, line.clone())
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(IDLE);
            let mut connection = pin!(http.serve_connection(io, service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = ended {
                ::log::debug!("connection {id}: {e}");
            }
        }
    }
}
