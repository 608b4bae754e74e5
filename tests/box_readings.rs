//! Box where its documentation is open, or other clients have seen something else than it says: every reading
//! is survived.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::Kind;
use assetfs::serve::{Action, Rule};
use assetfs::store::{Addr, Kind as EntryKind, Store};
use common::boxcom::{Boxed, Setup};
use common::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn root() -> Addr {
    Addr::from("folder/0")
}

/// Another answer, and nothing is done.
fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Rule {
    Rule::new(Action::Answer {
        status,
        retry_after: None,
        headers: (headers.iter())
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_owned(),
        early: false,
    })
}

fn says(body: &Value) -> Rule {
    answer(200, &[], &body.to_string())
}

fn listing(rule: Rule) -> Rule {
    rule.method("GET").path("/2.0/folders/0/items")
}

async fn stored(at: &Boxed, name: &str, size: usize) -> assetfs::store::Entry {
    let content = bytes(size, 1);
    let new = new(&root(), name, &content);
    common::store(&at.store, &new, &content).await.unwrap()
}

async fn kinds(store: &Arc<dyn Store>) -> Vec<(String, EntryKind, u64)> {
    let mut all: Vec<_> = (store.list(&root()).await.unwrap().into_iter())
        .map(|entry| (entry.name, entry.kind, entry.size))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_may_hold_numbers_links_duplicates_and_names_that_cannot_be_shown() {
    let at = Setup::new().go().await;
    let long = "é".repeat(200);
    let page = json!({"entries": [
        {"type": "file", "id": 12, "etag": 3, "name": "big", "size": 1.2318237429383e31},
        {"type": "file", "id": "101", "etag": "0", "name": "twice", "size": 1},
        {"type": "file", "id": "99", "etag": "0", "name": "twice", "size": 2},
        {"type": "web_link", "id": "5", "name": "link"},
        {"type": "something new", "id": "6", "name": "new"},
        {"type": "file", "id": "7", "etag": "0", "name": long, "size": 1},
        {"type": "file", "id": "8", "etag": "0", "name": "a/b", "size": 1},
        {"type": "file", "id": "9", "etag": "0", "name": "gone", "size": 1, "item_status": "trashed"},
        {"type": "folder", "id": "12", "etag": null, "name": "dir", "unknown": {"x": 1}},
    ], "order": {"by": "x"}});
    at.server.faults().set(vec![listing(says(&page))]).unwrap();
    assert_eq!(
        kinds(&at.store).await,
        [
            ("big".to_owned(), EntryKind::File, i64::MAX as u64),
            ("dir".to_owned(), EntryKind::Dir, 0),
            ("twice".to_owned(), EntryKind::File, 2),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_end_with_a_marker_that_is_null_empty_or_missing_and_never_go_in_a_circle() {
    let at = Setup::new().go().await;
    let file = |n: u32| json!({"type": "file", "id": n.to_string(), "etag": "0", "name": format!("f{n}"), "size": 1});
    for end in [
        json!({"next_marker": null}),
        json!({"next_marker": ""}),
        json!({}),
    ] {
        // An empty page with a marker is not the end.
        let first = json!({"entries": [file(1)], "next_marker": "a b&c"});
        let empty = json!({"entries": [], "next_marker": "d"});
        let mut last = end;
        last["entries"] = json!([file(2)]);
        let rules = vec![
            listing(says(&last)).query("marker=d"),
            listing(says(&empty)).query("marker=a%20b%26c"),
            listing(says(&first)),
        ];
        at.server.faults().set(rules).unwrap();
        assert_eq!(names(&at.store, &root()).await, ["f1", "f2"]);
    }
    let circle = json!({"entries": [file(1)], "next_marker": "same"});
    at.server
        .faults()
        .set(vec![listing(says(&circle))])
        .unwrap();
    assert_eq!(
        at.store.list(&root()).await.unwrap_err().kind,
        Kind::Protocol
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_numbers_are_read_everywhere() {
    let mut setup = Setup::new();
    setup.server.boxcom.bare_numbers = true;
    setup.server.boxcom.last_marker = None;
    let at = setup.go().await;
    let small = stored(&at, "small", 10).await;
    let large = stored(&at, "large", 2 * PART as usize).await;
    assert_eq!(kinds(&at.store).await.len(), 2);
    assert_eq!(read_all(&at.store, &small).await.unwrap(), bytes(10, 1));
    assert_eq!(
        read_all(&at.store, &large).await.unwrap(),
        bytes(2 * PART as usize, 1)
    );
    at.store.remove(&small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_us_is_seen_whatever_an_older_listing_says() {
    let at = Setup::new().go().await;
    let dir = at.store.mkdir(&place(&root(), "dir")).await.unwrap();
    let (kept, gone) = (stored(&at, "kept", 10).await, stored(&at, "gone", 10).await);
    let moved = stored(&at, "moved", 10).await;
    let item = |entry: &assetfs::store::Entry| {
        json!({"type": "file", "id": entry.addr.0.strip_prefix("file/"), "etag": "0", "size": 10,
            "name": entry.name, "file_version": {"id": &*entry.version.0}})
    };
    let before = json!({"entries": [item(&kept), item(&gone), item(&moved)]});
    let content = bytes(20, 2);
    let mut new = new(&root(), "kept", &content);
    new.replaces = Some(kept);
    common::store(&at.store, &new, &content).await.unwrap();
    at.store.remove(&gone).await.unwrap();
    at.store
        .rename(&moved, &place(&dir.addr, "moved"), None)
        .await
        .unwrap();
    stored(&at, "made", 30).await;
    at.server
        .faults()
        .set(vec![listing(says(&before))])
        .unwrap();
    assert_eq!(
        kinds(&at.store).await,
        [
            ("dir".to_owned(), EntryKind::Dir, 0),
            ("kept".to_owned(), EntryKind::File, 20),
            ("made".to_owned(), EntryKind::File, 30),
        ]
    );
    // What others did to it since counts all the same.
    std::fs::remove_file(at.folder.path().join("made")).unwrap();
    assert_eq!(names(&at.store, &root()).await, ["dir", "kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_found_by_the_check_before_an_upload_or_by_a_listing_where_that_is_mute() {
    for rule in [
        None,
        Some(answer(405, &[], "")),
        Some(answer(
            403,
            &[],
            r#"{"code": "access_denied_insufficient_permissions"}"#,
        )),
        Some(answer(409, &[], r#"{"code": "item_name_in_use"}"#)),
        Some(answer(409, &[], r#"{"code": "name_temporarily_reserved"}"#)),
        Some(answer(400, &[], "<html>")),
    ] {
        let at = Setup::new().go().await;
        std::fs::write(at.folder.path().join("f"), "by hand").unwrap();
        let rules = rule.clone().map(|rule| rule.method("OPTIONS"));
        at.server.faults().set(rules.into_iter().collect()).unwrap();
        let entry = at.store.stat(&place(&root(), "f")).await.unwrap();
        assert_eq!(entry.size, 7);
        for absent in ["F", "g", "odd ", "back\\slash"] {
            let error = at.store.stat(&place(&root(), absent)).await.unwrap_err();
            assert_eq!(error.kind, Kind::NotFound, "{absent} {rule:?}");
        }
        let listed = at.seen().iter().any(|line| line.ends_with("/items"));
        assert_eq!(listed, rule.is_some());
        // An id that is known is asked about.
        at.server.forget_requests();
        at.store.stat(&place(&root(), "f")).await.unwrap();
        assert_eq!(at.seen(), ["GET 2.0/files/N"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_serves_many_ranges_and_is_asked_for_anew_when_it_has_ended() {
    let at = Setup::new().go().await;
    let entry = stored(&at, "f", 1000).await;
    let content = bytes(1000, 1);
    at.server.forget_requests();
    for range in [0..10, 500..1000, 20..30] {
        let got = read(&at.store, &entry, range.clone()).await.unwrap();
        assert_eq!(got, content[range.start as usize..range.end as usize]);
    }
    let links = |at: &Boxed| at.seen().iter().filter(|l| l.ends_with("/content")).count();
    assert_eq!(links(&at), 1);
    for status in [401, 403, 404, 410] {
        at.server.forget_requests();
        let ended = answer(status, &[], "").path("/d/1/").times(1);
        at.server.faults().set(vec![ended]).unwrap();
        assert_eq!(read(&at.store, &entry, 1..9).await.unwrap(), content[1..9]);
        assert_eq!(links(&at), 1, "{status}");
    }
    // A fresh one that leads nowhere is an error.
    at.server
        .faults()
        .set(vec![answer(403, &[], "").path("/d/1/")])
        .unwrap();
    let error = read(&at.store, &entry, 1..9).await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_ready_yet_is_waited_for() {
    let mut setup = Setup::new();
    setup.tries = 5;
    setup.server.boxcom.not_ready = 3;
    let at = setup.go().await;
    let entry = stored(&at, "f", 100).await;
    assert_eq!(read_all(&at.store, &entry).await.unwrap(), bytes(100, 1));
    assert_eq!(at.stats.counts().retries, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranged_answer_is_believed_only_if_it_says_what_was_asked() {
    let at = Setup::new().go().await;
    let entry = stored(&at, "f", 100).await;
    let content = bytes(100, 1);
    let text = "x".repeat(10);
    let whole = "y".repeat(100);
    let rows: [(Rule, Result<Vec<u8>, Kind>); 7] = [
        // The bytes from the API itself, and the whole file in place of a range.
        (
            answer(206, &[("content-range", "bytes 10-19/100")], &text)
                .path("/2.0/files/*/content"),
            Ok(text.clone().into_bytes()),
        ),
        (
            answer(200, &[], &whole).path("/d/1/"),
            Ok(whole.as_bytes()[10..20].to_vec()),
        ),
        (
            answer(206, &[("content-range", "bytes 0-9/100")], &text).path("/d/1/"),
            Err(Kind::Protocol),
        ),
        (
            answer(206, &[("content-range", "bytes 10-19/101")], &text).path("/d/1/"),
            Err(Kind::Stale),
        ),
        (answer(206, &[], &text).path("/d/1/"), Err(Kind::Protocol)),
        (
            answer(200, &[("content-encoding", "gzip")], &whole).path("/d/1/"),
            Err(Kind::Protocol),
        ),
        (
            answer(302, &[], "").path("/2.0/files/*/content"),
            Err(Kind::Protocol),
        ),
    ];
    for (rule, want) in rows {
        let store = common::boxcom::store_on(Setup::new().config(&at.server), 1).0;
        at.server.faults().set(vec![rule.clone()]).unwrap();
        let got = read(&store, &entry, 10..20).await.map_err(|e| e.kind);
        assert_eq!(got, want, "{rule:?}");
    }
    at.server.faults().set(vec![]).unwrap();
    assert_eq!(
        read(&at.store, &entry, 10..20).await.unwrap(),
        content[10..20]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_versions_a_file_that_is_replaced_is_stale_and_never_a_mixture() {
    let at = Setup::new().go().await;
    let first = stored(&at, "f", 1000).await;
    // The parameter is refused although the version is the current one.
    let refused = answer(
        403,
        &[],
        r#"{"code": "access_denied_insufficient_permissions"}"#,
    );
    at.server
        .faults()
        .set(vec![refused.query("version=")])
        .unwrap();
    assert_eq!(
        read(&at.store, &first, 0..10).await.unwrap(),
        bytes(1000, 1)[..10]
    );
    let content = bytes(1000, 2);
    let mut other = new(&root(), "f", &content);
    other.replaces = Some(first.clone());
    common::store(&at.store, &other, &content).await.unwrap();
    let error = read(&at.store, &first, 0..10).await.unwrap_err();
    assert_eq!(error.kind, Kind::Stale);
    let now = at.store.stat(&place(&root(), "f")).await.unwrap();
    assert_eq!(read(&at.store, &now, 0..10).await.unwrap(), content[..10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_any_form_are_survived() {
    let at = Setup::new().go().await;
    let entry = stored(&at, "f", 10).await;
    let huge = format!("{{\"code\": \"{}\"}}", "x".repeat(100_000));
    for body in [
        "",
        "<html>",
        "[]",
        "null",
        "{\"code\": 5, \"context_info\": []}",
        &huge,
    ] {
        let rule = answer(403, &[("content-type", "text/html")], body);
        at.server
            .faults()
            .set(vec![rule.path("/2.0/files/")])
            .unwrap();
        let error = at.store.remove(&entry).await.unwrap_err();
        assert_eq!(error.kind, Kind::Denied, "{body:.20}");
        assert!(error.said.len() <= 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_file_is_that_of_its_content_or_else_of_the_item() {
    let at = Setup::new().go().await;
    let file = |name: &str, content: Value| {
        json!({"type": "file", "id": name.len().to_string(), "etag": "0", "name": name, "size": 1,
            "content_modified_at": content, "modified_at": "2017-11-02T15:04:38-07:00"})
    };
    let page =
        json!({"entries": [file("a", json!("2001-01-01T00:00:00Z")), file("bb", Value::Null)]});
    at.server.faults().set(vec![listing(says(&page))]).unwrap();
    let mut all = at.store.list(&root()).await.unwrap();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let times: Vec<_> = all.iter().map(|entry| entry.mtime()).collect();
    assert_eq!(times, [at(978_307_200), at(1_509_660_278)]);
}
