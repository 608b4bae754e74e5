//! The answers that the documentation leaves open (spec, sections 3 to 6): the store must live with
//! each of them. The server here answers from a table.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::Kind;
use assetfs::http::{Credential, Secret};
use assetfs::store::proget::{Auth, Config, ProGet};
use assetfs::store::{Addr, Store};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use common::*;
use std::sync::Arc;

const SHA1: &str = "f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0";
const OTHER: &str = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3";

/// Status, headers, body.
type Reply = (u16, Vec<(&'static str, String)>, String);

/// A store on a server that answers `GET operation/path` as `answer` says.
async fn on(answer: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Arc<dyn Store> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(move |request: Request| {
        let path = request.uri().path();
        let key = request.headers().get("x-apikey").map(|v| v.as_bytes());
        let known = key == Some(KEY.as_bytes());
        let (status, headers, body) = match path.strip_prefix("/pre/endpoints/files/") {
            _ if !known => (401, vec![], "no key".to_owned()),
            Some(path) => answer(path),
            None => (404, vec![], "outside".to_owned()),
        };
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let response = response.body(Body::from(body)).unwrap();
        async move { response }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let auth = Auth::Key(Credential::fixed(Secret::new(KEY)));
    let config = Config::at(&format!("http://{address}/pre/endpoints/files"), auth).unwrap();
    Arc::new(ProGet::new(config).unwrap())
}

fn item(sha1: &str, modified: &str) -> String {
    let sha1 = match sha1 {
        "" => String::new(),
        hex => format!(r#""sha1":"{hex}","#),
    };
    format!(
        r#"{{"name":"f","size":5,{sha1}"type":"text/plain","created":"2026-03-02T07:15:00Z","modified":"{modified}"}}"#
    )
}

const THEN: &str = "2026-03-02T07:15:41.4Z";
const LATER: &str = "2026-03-02T07:15:44Z";

/// What reading bytes 1 to 3 of `Hello` gives where content is answered so, and `metadata` says
/// `before` first and `after` later.
async fn read_with(reply: Reply, before: String, after: String) -> Result<Vec<u8>, Kind> {
    let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let store = on(move |path| match path {
        "metadata/f" => {
            let first = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            let item = if first { &before } else { &after };
            (200, vec![], item.clone())
        }
        _ => reply.clone(),
    })
    .await;
    let entry = store.stat(&place(&"".into(), "f")).await.unwrap();
    read(&store, &entry, 1..4).await.map_err(|e| e.kind)
}

fn reply(status: u16, tag: &str, range: &str, body: &str) -> Reply {
    let mut headers = Vec::new();
    if !tag.is_empty() {
        headers.push(("etag", tag.to_owned()));
    }
    if !range.is_empty() {
        headers.push(("content-range", range.to_owned()));
    }
    (status, headers, body.to_owned())
}

#[tokio::test]
async fn a_ranged_answer_is_checked_against_the_version_whatever_form_it_has() {
    let ok = Ok(b"ell".to_vec());
    let whole = item(SHA1, THEN);
    let part = "bytes 1-3/5";
    for (answer, want) in [
        (reply(206, SHA1, part, "ell"), ok.clone()),
        (
            reply(206, &format!("W/\"{SHA1}\""), part, "ell"),
            ok.clone(),
        ),
        (
            reply(206, &SHA1.to_uppercase(), "bytes 1-3/*", "ell"),
            ok.clone(),
        ),
        (reply(200, SHA1, "", "Hello"), ok.clone()),
        (reply(206, OTHER, part, "ell"), Err(Kind::Stale)),
        (reply(200, OTHER, "", "Hello"), Err(Kind::Stale)),
        (reply(200, SHA1, "", "Hell"), Err(Kind::Stale)),
        (reply(206, SHA1, "bytes 1-3/6", "ell"), Err(Kind::Stale)),
        (reply(206, SHA1, "bytes 0-2/5", "Hel"), Err(Kind::Protocol)),
        (reply(206, SHA1, "", "ell"), Err(Kind::Protocol)),
        (reply(206, SHA1, part, "el"), Err(Kind::Broken)),
        (reply(416, "", "bytes */2", ""), Err(Kind::Stale)),
        (reply(302, "", "", ""), Err(Kind::Protocol)),
    ] {
        let got = read_with(answer.clone(), whole.clone(), whole.clone()).await;
        assert_eq!(got, want, "{answer:?}");
    }
    let mut packed = reply(206, SHA1, part, "ell");
    packed.1.push(("content-encoding", "gzip".to_owned()));
    let got = read_with(packed, whole.clone(), whole).await;
    assert_eq!(got, Err(Kind::Protocol));
}

#[tokio::test]
async fn without_a_comparable_tag_the_item_decides_and_other_bytes_never_come_through() {
    let part = "bytes 1-3/5";
    for tag in ["", "0x8D5F", "\"5-1772435741\""] {
        for (before, after, fresh) in [
            (item(SHA1, THEN), item(SHA1, LATER), true),
            (item(SHA1, THEN), item(OTHER, LATER), false),
            (item("", THEN), item("", THEN), true),
            (item("", THEN), item("", LATER), false),
        ] {
            let got = read_with(reply(206, tag, part, "ell"), before, after.clone()).await;
            let want = if fresh {
                Ok(b"ell".to_vec())
            } else {
                Err(Kind::Stale)
            };
            assert_eq!(got, want, "{tag} {after}");
        }
    }
}

#[tokio::test]
async fn a_missing_folder_is_told_from_an_empty_one_whatever_the_version_answers() {
    for status in [200, 404] {
        let store = on(move |path| match path {
            "metadata/empty" => (200, vec![], r#"{"name":"empty","type":"dir"}"#.to_owned()),
            "metadata/f" => (200, vec![], item(SHA1, THEN)),
            _ if path.starts_with("dir/") => (status, vec![], "[]".to_owned()),
            _ => (404, vec![], "Asset not found.".to_owned()),
        })
        .await;
        let list = async |path: &str| store.list(&Addr::from(path)).await.map_err(|e| e.kind);
        assert_eq!(list("").await, Ok(vec![]));
        assert_eq!(list("empty").await, Ok(vec![]));
        assert_eq!(list("f").await, Err(Kind::NotDir));
        assert_eq!(list("gone").await, Err(Kind::NotFound));
    }
}

#[tokio::test]
async fn a_large_listing_is_whole_and_a_cut_one_is_an_error() {
    let store = on(|path| {
        let items: Vec<_> = (0..20_000)
            .map(|n| format!(r#"{{"name":"file {n}","size":{n},"sha1":"{SHA1}"}}"#))
            .collect();
        let body = format!("[{}]", items.join(","));
        match path {
            "dir/cut" => (200, vec![], body[..body.len() / 2].to_owned()),
            _ => (200, vec![], body),
        }
    })
    .await;
    assert_eq!(store.list(&"all".into()).await.unwrap().len(), 20_000);
    assert_eq!(
        store.list(&"cut".into()).await.unwrap_err().kind,
        Kind::Protocol
    );
}

#[tokio::test]
async fn what_is_no_proget_is_recognised_when_mounting() {
    for (answer, words) in [
        ((200, vec![], "<!DOCTYPE html>".to_owned()), "no ProGet"),
        ((200, vec![], String::new()), "no ProGet"),
        (
            (
                302,
                vec![(
                    "location",
                    "https://login.example/?token=verysecret".to_owned(),
                )],
                String::new(),
            ),
            "login.example",
        ),
    ] {
        let store = on(move |_| answer.clone()).await;
        let error = store.probe().await.unwrap_err();
        assert_eq!(error.kind, Kind::Protocol);
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error:?}").contains("verysecret"));
    }
    let store = on(|path| match path {
        "dir/" => (
            200,
            vec![("x-proget-version", "25.0.18.5".to_owned())],
            " \n[ ]".to_owned(),
        ),
        _ => (404, vec![], String::new()),
    })
    .await;
    let probe = store.probe().await.unwrap();
    assert!(
        probe.banner.starts_with("ProGet 25.0.18.5"),
        "{}",
        probe.banner
    );
}
