//! The HTTP client against small servers that misbehave.
#![allow(clippy::unwrap_used)]

use assetfs::error::{Error, Kind, Result};
use assetfs::http::{Answer, Body, Client, Method, Settings, Url};
use assetfs::store::{Sink, Source};
use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const STALL: Duration = Duration::from_millis(200);

/// A server with one handler; its address.
async fn serve<H, T>(handler: H) -> Url
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x?key=verysecret", listener.local_addr().unwrap());
    let app = Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Url::parse(&url).unwrap()
}

/// A server that says `answer` to anything, then keeps the connection open without a word.
async fn raw(answer: &'static str, close: bool) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x?key=verysecret", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(answer.as_bytes()).await;
            if !close {
                open.push(socket);
            }
        }
    });
    Url::parse(&url).unwrap()
}

fn client(url: &Url) -> Client {
    let settings = Settings {
        stall_timeout: STALL,
        ..Settings::default()
    };
    Client::new(&settings, url).unwrap()
}

async fn get(url: &Url) -> Result<Answer> {
    client(url)
        .request(Method::GET, url.clone(), "read", "a/b")
        .send()
        .await
}

struct Got(Vec<u8>);

impl Sink for Got {
    fn put(&mut self, bytes: Bytes) {
        self.0.extend_from_slice(&bytes);
    }
}

/// Zeros, but an error at one place.
struct Zeros {
    fails_at: u64,
    reads: AtomicUsize,
}

#[async_trait]
impl Source for Zeros {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if range.end > self.fails_at {
            let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::local("read spool", full));
        }
        Ok(vec![0; (range.end - range.start) as usize].into())
    }
}

async fn post(url: &Url, source: &Zeros, size: u64) -> Result<Answer> {
    client(url)
        .request(Method::POST, url.clone(), "upload", "a/b")
        .body(Body::of(source, 0..size))
        .send()
        .await
}

fn zeros(fails_at: u64) -> Zeros {
    Zeros {
        fails_at,
        reads: AtomicUsize::new(0),
    }
}

/// Neither the sentence nor its causes hold the query.
fn assert_no_secret(error: &Error) {
    assert!(
        !format!("{error} {error:?}").contains("verysecret"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_body_has_a_length_and_no_coding_is_asked_for() {
    let url = serve(async |request: Request| {
        let (head, body) = request.into_parts();
        let line = ["content-length", "transfer-encoding", "accept-encoding"]
            .map(|n| head.headers.get(n).map_or("", |v| v.to_str().unwrap()));
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        format!("{} {}", line.join("|"), body.len())
    })
    .await;
    let size = 3 * assetfs::store::PIECE + 5;
    let answer = post(&url, &zeros(u64::MAX), size).await.unwrap();
    let text = answer.bytes(1000).await.unwrap();
    assert_eq!(text, format!("{size}||identity {size}"));
}

#[tokio::test]
async fn a_source_that_fails_is_the_error_and_not_the_network() {
    let url = serve(async |request: Request| {
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        StatusCode::OK
    })
    .await;
    let size = 8 * assetfs::store::PIECE;
    let error = post(&url, &zeros(size / 2), size).await.unwrap_err();
    assert_eq!((error.kind, error.errno()), (Kind::Full, libc::ENOSPC));
}

#[tokio::test]
async fn an_early_refusal_ends_the_reading_of_the_source() {
    let url = serve(async || (StatusCode::PAYLOAD_TOO_LARGE, "too much")).await;
    let source = zeros(u64::MAX);
    let size = 1000 * assetfs::store::PIECE;
    match post(&url, &source, size).await {
        Ok(answer) => {
            let error = answer.into_error().await;
            assert_eq!(
                (error.kind, &*error.said),
                (Kind::TooLarge, "HTTP 413: too much")
            );
        }
        // The server's reset may overtake its answer.
        Err(error) => assert!(error.kind.worth_another_try(), "{error}"),
    }
    assert!(source.reads.load(Ordering::SeqCst) < 1000);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_a_timeout_before_and_in_the_body() {
    let url = raw("", false).await;
    let error = get(&url).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    assert_no_secret(&error);
    let url = raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", false).await;
    let mut got = Got(Vec::new());
    let answer = get(&url).await.unwrap();
    let error = answer.into_sink(0, 10, &mut got).await.unwrap_err();
    assert_eq!((error.kind, &*got.0), (Kind::Timeout, &b"123"[..]));
    assert_no_secret(&error);
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_a_timeout_of_the_upload() {
    let url = raw("", false).await;
    let error = post(&url, &zeros(u64::MAX), 1 << 30).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
}

#[tokio::test]
async fn a_body_that_is_cut_is_broken_and_what_came_is_kept() {
    let url = raw("HTTP/1.1 206 OK\r\nContent-Length: 10\r\n\r\n12345", true).await;
    let mut got = Got(Vec::new());
    let answer = get(&url).await.unwrap();
    let error = answer.into_sink(2, 8, &mut got).await.unwrap_err();
    assert!(error.kind.worth_another_try(), "{error}");
    assert_eq!(&*got.0, b"345");
    assert_no_secret(&error);
    let url = raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n123", true).await;
    let error = get(&url)
        .await
        .unwrap()
        .into_sink(0, 4, &mut got)
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Broken);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = Url::parse(&format!("http://{address}/?key=verysecret")).unwrap();
    let error = get(&url).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable, "{error}");
    assert_no_secret(&error);
}

#[tokio::test]
async fn no_redirect_is_followed_and_its_address_is_not_told() {
    let url = serve(async || {
        let to = [("location", "https://elsewhere.example/f?sig=verysecret")];
        (StatusCode::FOUND, to, "")
    })
    .await;
    let error = get(&url).await.unwrap().into_error().await;
    assert_eq!(error.kind, Kind::Protocol);
    assert_eq!(error.said, "HTTP 302, a redirect to elsewhere.example");
    assert_no_secret(&error);
}

#[tokio::test]
async fn of_an_error_the_first_words_are_kept_and_no_page_of_html() {
    let url = serve(async || (StatusCode::BAD_GATEWAY, "x".repeat(1 << 20))).await;
    let error = get(&url).await.unwrap().into_error().await;
    assert_eq!((error.kind, error.said.len()), (Kind::Broken, 200));
    let url = serve(async || {
        let kind = [("content-type", "text/html"), ("retry-after", "7")];
        (StatusCode::SERVICE_UNAVAILABLE, kind, "<html>sorry")
    })
    .await;
    let error = get(&url).await.unwrap().into_error().await;
    assert_eq!((error.kind, &*error.said), (Kind::Later, "HTTP 503"));
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn json_is_bounded_and_what_is_none_is_a_broken_word() {
    let url = serve(async || "[1, 2, 3]").await;
    let answer = get(&url).await.unwrap();
    assert_eq!(answer.json::<Vec<u8>>(100).await.unwrap(), [1, 2, 3]);
    let error = get(&url)
        .await
        .unwrap()
        .json::<Vec<u8>>(5)
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Protocol);
    let sum = |body: &mut dyn std::io::Read| {
        serde_json::from_reader::<_, Vec<u64>>(body).map(|n| n.iter().sum::<u64>())
    };
    assert_eq!(get(&url).await.unwrap().parse(sum).await.unwrap(), 6);
    let url = serve(async || "<html>").await;
    let error = get(&url).await.unwrap().parse(sum).await.unwrap_err();
    assert_eq!(error.kind, Kind::Protocol);
    let url = raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,", true).await;
    let error = get(&url).await.unwrap().parse(sum).await.unwrap_err();
    assert!(
        error.kind.worth_another_try(),
        "a cut body is not bad JSON: {error}"
    );
}

#[tokio::test]
async fn connections_are_kept_for_the_next_request() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let peers = seen.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let app = Router::new().fallback(
        async move |axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<
            std::net::SocketAddr,
        >| {
            peers.lock().unwrap().insert(peer);
            "0123456789"
        },
    );
    let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = client(&url);
    for round in 0..9 {
        let answer = client
            .request(Method::GET, url.clone(), "read", "")
            .send()
            .await
            .unwrap();
        match round % 3 {
            0 => answer.drain().await,
            1 => answer.into_sink(0, 10, &mut Got(Vec::new())).await.unwrap(),
            _ => drop(answer.bytes(100).await.unwrap()),
        }
        // The connection goes back to its pool on another task.
        tokio::task::yield_now().await;
    }
    assert!(
        seen.lock().unwrap().len() <= 2,
        "{:?}",
        seen.lock().unwrap()
    );
    let counters = client.counters();
    assert_eq!(counters.received.load(Ordering::Relaxed), 90);
    assert_eq!(counters.sent.load(Ordering::Relaxed), 0);
}

/// Answers with the length of the body and its first and last byte.
async fn measuring() -> Url {
    serve(async |request: Request| {
        let body = axum::body::to_bytes(request.into_body(), usize::MAX)
            .await
            .unwrap();
        format!("{} {:?} {:?}", body.len(), body.first(), body.last())
    })
    .await
}

#[tokio::test]
async fn a_source_can_be_framed_as_a_form_wants_it() {
    let url = measuring().await;
    let client = client(&url);
    let request = client.request(Method::POST, url.clone(), "upload", "a");
    let body = Body::Source {
        before: Bytes::from_static(b"<head>"),
        source: &zeros(u64::MAX),
        range: 5..300_005,
        after: Bytes::from_static(b"<tail>"),
    };
    let text = request
        .body(body)
        .send()
        .await
        .unwrap()
        .bytes(100)
        .await
        .unwrap();
    assert_eq!(text, format!("300012 {:?} {:?}", Some(b'<'), Some(b'>')));
}

#[tokio::test]
async fn a_rate_limit_slows_an_upload_down_and_is_no_stall() {
    let url = measuring().await;
    let settings = Settings {
        stall_timeout: Duration::from_millis(50),
        limit_up: 500_000,
        ..Settings::default()
    };
    let client = Client::new(&settings, &url).unwrap();
    let request = client.request(Method::POST, url.clone(), "upload", "a");
    let source = zeros(u64::MAX);
    let answer = request.body(Body::of(&source, 0..200_000)).send().await;
    let text = answer.unwrap().bytes(100).await.unwrap();
    assert_eq!(text, format!("200000 {:?} {:?}", Some(0), Some(0)));
}

#[tokio::test]
async fn a_header_that_cannot_be_sent_is_refused_by_name_alone() {
    let url = measuring().await;
    let client = client(&url);
    let secret = assetfs::http::Secret::new("two\nlines");
    let request = client.request(Method::GET, url.clone(), "read", "a");
    let error = request
        .secret_header("x-apikey", &secret)
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(!format!("{error:?}").contains("lines"), "{error:?}");
}
