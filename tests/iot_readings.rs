//! The answers that the documentation leaves open: the store must live with each of them. Where the
//! embedded server cannot be made to answer so, one here answers from a table.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::Kind;
use assetfs::serve::ENTITY;
use assetfs::store::iotfile::{Auth, Config, IotFile};
use assetfs::store::{Kind as EntryKind, Store};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use common::iot::Setup;
use common::*;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Status, headers, body.
type Reply = (u16, Vec<(&'static str, String)>, String);

/// A store on a server that answers `METHOD path?query` below `files/ENTITY` as `answer` says.
async fn on(answer: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Arc<dyn Store> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(move |request: Request| {
        let target = request.uri().path_and_query().unwrap().as_str();
        let target = target.replacen(&format!("/api/iotfile/v3/files/{ENTITY}"), "", 1);
        let ranged = request.headers().contains_key("range");
        let mark = if ranged { " ranged" } else { "" };
        let (status, headers, body) = answer(&format!("{} {target}{mark}", request.method()));
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let response = response.body(Body::from(body)).unwrap();
        async move { response }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config = Config::at(&format!("http://{address}"), ENTITY, Auth::Anonymous).unwrap();
    Arc::new(IotFile::new(config).unwrap())
}

fn json(body: impl Into<String>) -> Reply {
    (200, vec![], body.into())
}

/// A search's answer, which begins to be empty where the offset is not 0.
fn rows(asked: &str, body: &str) -> Option<Reply> {
    let query = asked.strip_prefix("GET ?")?;
    Some(json(if query.contains("offset=0&") {
        body
    } else {
        "[]"
    }))
}

const TIME: &str = "2020-02-03T04:05:06.789Z";

const LARGE: usize = 300_000;

fn large_row(etag: u64) -> String {
    format!(
        r#"[{{"name":"f","path":"","size":{LARGE},"etag":{etag},"timestamp":"{TIME}","updated":"{TIME}"}}]"#
    )
}

#[tokio::test]
async fn a_ranged_answer_is_taken_in_any_form_that_says_what_was_asked() {
    let tag = |n: u64| vec![("etag", n.to_string()), ("timestamp", TIME.to_owned())];
    let part = |headers| (206, headers, "ell".to_owned());
    let whole = |n| (200, tag(n), format!("Hello{}", "x".repeat(LARGE - 5)));
    let range = |text: &str| vec![("content-range", text.to_owned())];
    let size = LARGE;
    for (ranged, head, want) in [
        (part(vec![]), whole(7), Ok(b"ell".to_vec())),
        (
            part(range(&format!("bytes 1-3/{size}"))),
            whole(7),
            Ok(b"ell".to_vec()),
        ),
        (
            part(vec![("etag", "\"7\"".into())]),
            whole(8),
            Ok(b"ell".to_vec()),
        ),
        (whole(7), whole(7), Ok(b"ell".to_vec())),
        (part(vec![]), whole(8), Err(Kind::Stale)),
        (part(vec![("etag", "8".into())]), whole(7), Err(Kind::Stale)),
        (
            part(range("bytes 0-2/300000")),
            whole(7),
            Err(Kind::Protocol),
        ),
        (part(range("bytes 1-3/300001")), whole(7), Err(Kind::Stale)),
        (
            part(vec![]),
            (404, vec![], String::new()),
            Err(Kind::NotFound),
        ),
        ((206, vec![], "el".to_owned()), whole(7), Err(Kind::Broken)),
        ((416, vec![], String::new()), whole(7), Err(Kind::Stale)),
        // Neither tells a version: the search does.
        (
            part(vec![]),
            (200, vec![], String::new()),
            Ok(b"ell".to_vec()),
        ),
    ] {
        let shown = format!("{:?} {:?}", (ranged.0, &ranged.1), (head.0, &head.1));
        let store = on(move |asked| match asked {
            "GET /f ranged" => ranged.clone(),
            "GET /f" => head.clone(),
            _ => rows(asked, &large_row(7)).unwrap(),
        })
        .await;
        let entry = store.stat(&place(&"".into(), "f")).await.unwrap();
        let got = read(&store, &entry, 1..4).await.map_err(|e| e.kind);
        assert_eq!(got, want, "{shown}");
    }
}

#[tokio::test]
async fn a_file_that_shares_its_name_with_a_directory_is_shown_beside_it_and_neither_is_harmed() {
    let body = r#"[{"name":"a","path":null,"size":3,"etag":1,"timestamp":"2020-02-03T04:05:06.789Z"},
        {"name":"b","path":"a/","size":3,"etag":2,"timestamp":"2020-02-03T04:05:06.789Z"}]"#;
    let writes = Arc::new(AtomicUsize::new(0));
    let count = writes.clone();
    let store = on(move |asked| match asked {
        "GET /a" => (200, vec![("etag", "1".into())], "one".into()),
        _ if asked.starts_with("GET") => rows(asked, body).unwrap(),
        "DELETE /a" => (204, vec![], String::new()),
        _ => {
            count.fetch_add(1, Ordering::SeqCst);
            (500, vec![], String::new())
        }
    })
    .await;
    let root = "".into();
    assert_eq!(names(&store, &root).await, ["a", "a (file)"]);
    let dir = store.stat(&place(&root, "a")).await.unwrap();
    assert_eq!(dir.kind, EntryKind::Dir);
    let file = store.stat(&place(&root, "a (file)")).await.unwrap();
    assert_eq!(read_all(&store, &file).await.unwrap(), b"one");
    let content = bytes(3, 1);
    for name in ["a", "a (file)"] {
        let mut new = new(&root, name, &content);
        new.replaces = (name != "a").then(|| file.clone());
        let refused = common::store(&store, &new, &content).await;
        assert_eq!(refused.unwrap_err().kind, Kind::IsDir, "{name}");
    }
    assert_eq!(store.remove(&dir).await.unwrap_err().kind, Kind::IsDir);
    assert_eq!(store.rmdir(&dir).await.unwrap_err().kind, Kind::NotEmpty);
    let below_a_file = new(&"a/b".into(), "c", &content);
    let refused = common::store(&store, &below_a_file, &content).await;
    assert_eq!(refused.unwrap_err().kind, Kind::NotDir);
    assert_eq!(writes.load(Ordering::SeqCst), 0);
    store.remove(&file).await.unwrap();
}

#[tokio::test]
async fn rows_may_lack_nearly_everything_and_be_of_either_form() {
    for (path, total) in [("d/", false), ("d", true)] {
        let body = format!(
            r#"[{{"name":"root","size":1,"tenantId":"x"}},
            {{"name":"f","path":"{path}","size":2,"etag":"3","type":"image"}},
            {{"name":"..","path":"{path}","size":2}},{{"size":5}}]"#
        );
        let store = on(move |asked| {
            let mut reply = rows(asked, &body).unwrap();
            if total {
                reply.1.push(("count", "4".to_owned()));
            }
            reply
        })
        .await;
        store.probe().await.unwrap();
        assert_eq!(names(&store, &"".into()).await, ["d", "root"]);
        assert_eq!(names(&store, &"d".into()).await, ["f"]);
        let entry = store.stat(&place(&"d".into(), "f")).await.unwrap();
        assert_eq!((entry.tag.as_deref(), entry.size), (Some("3"), 2));
    }
}

#[tokio::test]
async fn what_is_no_iot_file_service_is_recognised_when_mounting() {
    for answer in [json("<!DOCTYPE html>"), json("{}"), json("")] {
        let store = on(move |_| answer.clone()).await;
        let error = store.probe().await.unwrap_err();
        assert_eq!(error.kind, Kind::Protocol);
        assert!(error.to_string().contains("no IoT File Service"), "{error}");
    }
}

#[tokio::test]
async fn a_service_that_overwrites_unasked_is_not_asked_to_when_the_name_must_be_new() {
    let store = on(move |asked| match asked {
        "GET /lock" => (
            200,
            vec![("etag", "4".into()), ("timestamp", TIME.into())],
            "x".into(),
        ),
        _ if asked.starts_with("PUT") => (204, vec![("etag", "5".into())], String::new()),
        // The search does not know it yet.
        _ => json("[]"),
    })
    .await;
    let content = bytes(3, 1);
    let mut new = new(&"".into(), "lock", &content);
    new.exclusive = true;
    let done = common::store(&store, &new, &content).await;
    assert_eq!(done.unwrap_err().kind, Kind::Exists);
}

/// Puts `count` files into a directory, `step` milliseconds apart.
fn put_files(dir: &Path, count: u64, step: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    for n in 0..count {
        let file = File::create(dir.join(format!("f{n:05}"))).unwrap();
        file.set_modified(begin + Duration::from_millis(n * step))
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_the_search_gives_at_once_are_all_there() {
    for slash in [true, false] {
        let mut setup = Setup::new();
        setup.server.iotfile.ceiling = 400;
        setup.server.iotfile.slash = slash;
        put_files(&setup.folder.path().join("many/deep"), 900, 1);
        put_files(&setup.folder.path().join("few"), 3, 1);
        let at = setup.go().await;
        at.store.probe().await.unwrap();
        assert_eq!(names(&at.store, &"many/deep".into()).await.len(), 900);
        assert_eq!(names(&at.store, &"many".into()).await, ["deep"]);
        assert_eq!(names(&at.store, &"".into()).await, ["few", "many"]);
        assert_eq!(names(&at.store, &"few".into()).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_search_cannot_tell_apart_are_an_error_and_not_missing() {
    let mut setup = Setup::new();
    setup.server.iotfile.ceiling = 400;
    put_files(&setup.folder.path().join("same"), 500, 0);
    let at = setup.go().await;
    assert_eq!(at.store.probe().await.unwrap_err().kind, Kind::Protocol);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_large_entity_what_others_make_change_and_delete_is_seen() {
    let setup = Setup::new();
    put_files(&setup.folder.path().join("many"), 900, 1);
    put_files(&setup.folder.path().join("few"), 3, 1);
    let at = setup.go().await;
    at.store.probe().await.unwrap();
    let on_disk = |path: &str| at.folder.path().join(path);
    std::fs::create_dir(on_disk("fresh")).unwrap();
    std::fs::write(on_disk("fresh/new"), "x").unwrap();
    std::fs::write(on_disk("few/f00001"), "changed").unwrap();
    std::fs::remove_file(on_disk("few/f00002")).unwrap();
    std::fs::remove_file(on_disk("many/f00000")).unwrap();
    assert_eq!(names(&at.store, &"few".into()).await, ["f00000", "f00001"]);
    assert_eq!(names(&at.store, &"".into()).await, ["few", "fresh", "many"]);
    let stat = async |dir: &str, name: &str| at.store.stat(&place(&dir.into(), name)).await;
    assert_eq!(stat("few", "f00001").await.unwrap().size, 7);
    assert_eq!(
        stat("few", "f00002").await.unwrap_err().kind,
        Kind::NotFound
    );
    assert_eq!(stat("fresh", "new").await.unwrap().size, 1);
    // A directory whose last file somebody else has deleted goes with the rolling check.
    std::fs::remove_dir_all(on_disk("fresh")).unwrap();
    for _ in 0..10 {
        at.store.list(&"".into()).await.unwrap();
    }
    assert_eq!(names(&at.store, &"".into()).await, ["few", "many"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_every_file_of_a_large_entity_asks_a_few_questions() {
    let mut setup = Setup::new();
    setup.fresh_for = Duration::from_secs(3600);
    put_files(&setup.folder.path().join("many"), 900, 1);
    let at = setup.go().await;
    at.store.probe().await.unwrap();
    at.server.forget_requests();
    for entry in at.store.list(&"many".into()).await.unwrap() {
        let seen = at.store.stat(&place(&"many".into(), &entry.name)).await;
        assert_eq!(seen.unwrap().version, entry.version);
    }
    let asked = at.server.requests().len();
    assert!(asked <= 6, "{asked} requests");
}
