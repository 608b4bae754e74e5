//! Uploads in parts.

use crate::bench::{Bench, PART, Said, content, digest, no, send, with_json};
use serde_json::{Value, json};
use std::time::Duration;

struct Session {
    view: Value,
}

impl Session {
    fn url(&self, name: &str) -> String {
        self.view["session_endpoints"][name]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

async fn begin(b: &Bench, size: usize) -> Session {
    let said = try_begin(
        b,
        json!({"folder_id": "0", "file_size": size, "file_name": "f"}),
    )
    .await;
    assert_eq!(said.status, 201, "{said:?}");
    Session { view: said.json() }
}

async fn try_begin(b: &Bench, body: Value) -> Said {
    b.tell("POST", "api/2.0/files/upload_sessions", body).await
}

/// Sends a range of a content with whatever headers.
async fn raw(b: &Bench, session: &Session, range: String, digest: String, body: &[u8]) -> Said {
    let put = b.request("PUT", &session.url("upload_part"));
    let put = put.header("content-type", "application/octet-stream");
    let put = put.header("digest", digest).header("content-range", range);
    send(put.body(body.to_vec())).await
}

async fn part(b: &Bench, session: &Session, bytes: &[u8], n: usize) -> Said {
    let (from, end) = (n * PART, bytes.len().min((n + 1) * PART));
    let body = &bytes[from..end];
    let range = format!("bytes {from}-{}/{}", end - 1, bytes.len());
    raw(b, session, range, digest(body), body).await
}

/// All parts, the last first; in order of offset for the commit.
async fn all(b: &Bench, session: &Session, bytes: &[u8]) -> Vec<Value> {
    let mut parts = Vec::new();
    for n in (0..bytes.len().div_ceil(PART)).rev() {
        let said = part(b, session, bytes, n).await;
        assert_eq!(said.status, 200, "{said:?}");
        parts.push(said.json()["part"].clone());
    }
    parts.reverse();
    parts
}

async fn commit(b: &Bench, session: &Session, bytes: &[u8], parts: &[Value]) -> Said {
    commit_over(b, session, bytes, parts, None).await
}

async fn commit_over(
    b: &Bench,
    session: &Session,
    bytes: &[u8],
    parts: &[Value],
    tag: Option<&str>,
) -> Said {
    let body = json!({"parts": parts,
        "attributes": {"content_modified_at": "2017-04-08T00:58:08Z"}});
    let mut post = with_json(b.request("POST", &session.url("commit")), &body);
    if let Some(tag) = tag {
        post = post.header("if-match", tag);
    }
    send(post.header("digest", digest(bytes))).await
}

#[tokio::test]
async fn parts_in_any_order_become_a_file_with_the_commit() {
    let b = Bench::new().await;
    let bytes = content(2 * PART + 500);
    let session = begin(&b, bytes.len()).await;
    assert_eq!(
        (&session.view["part_size"], &session.view["total_parts"]),
        (&json!(PART), &json!(3))
    );
    assert!(
        session.view["session_expires_at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let parts = all(&b, &session, &bytes).await;
    assert_eq!(b.names("0").await, Vec::<String>::new());
    // Nothing is known from elsewhere.
    let planned = json!([{"offset": 0, "size": PART, "sha512": "00"}]);
    let plan = b
        .tell("POST", &session.url("plan"), json!({"parts": planned}))
        .await
        .json();
    assert_eq!((&plan["hits"], &plan["misses"]), (&json!([]), &planned));
    let seen = b.ask("GET", &session.url("status")).await.json();
    assert_eq!(seen["num_parts_processed"], 3);
    let said = commit(&b, &session, &bytes, &parts).await;
    assert_eq!((said.status, &said.json()["total_count"]), (201, &json!(1)));
    let entry = &said.json()["entries"][0];
    assert_eq!(entry["content_modified_at"], "2017-04-07T16:58:08-08:00");
    assert_eq!(std::fs::read(b.disk("f")).unwrap(), bytes);
    assert_eq!(commit(&b, &session, &bytes, &parts).await.status, 404);
}

#[tokio::test]
async fn a_session_needs_size_name_and_folder() {
    let b = Bench::new().await;
    let (size, name, folder) = (json!(PART), json!("f"), json!("0"));
    for (file_size, file_name, folder_id, status, code) in [
        (&json!(PART - 1), &name, &folder, 400, "file_size_too_small"),
        (&Value::Null, &name, &folder, 400, "missing_file_size"),
        (&json!("5000"), &name, &folder, 400, "invalid_file_size"),
        (&size, &Value::Null, &folder, 400, "missing_file_name"),
        (&size, &name, &Value::Null, 400, "missing_destination"),
        (&size, &name, &json!("x"), 400, "invalid_folder_id"),
        (&size, &name, &json!("9"), 404, "invalid_parameter"),
        (&size, &json!("a/b"), &folder, 400, "item_name_invalid"),
    ] {
        let body = json!({"folder_id": folder_id, "file_size": file_size, "file_name": file_name});
        assert_eq!(try_begin(&b, body).await.refusal(), no(status, code));
    }
    let id = b.put("0", "F", b"x").await.id();
    let body = json!({"folder_id": "0", "file_size": PART, "file_name": "f"});
    let said = try_begin(&b, body).await;
    assert_eq!(said.refusal(), no(409, "item_name_in_use"));
    assert_eq!(said.json()["context_info"]["conflicts"]["id"], id.as_str());
}

#[tokio::test]
async fn a_part_has_its_place_its_length_and_its_digest() {
    let b = Bench::new().await;
    let bytes = content(2 * PART + 500);
    let session = begin(&b, bytes.len()).await;
    let (one, total) = (&bytes[..PART], bytes.len());
    for (range, body) in [
        (format!("bytes 500-1499/{total}"), &bytes[500..1500]),
        (format!("bytes 0-499/{total}"), &bytes[..500]),
        (format!("bytes 0-999/{}", total + 1), one),
        (format!("bytes 2000-2999/{total}"), one),
        (format!("bytes 3000-3999/{total}"), one),
        ("bytes 0-999/*".to_owned(), one),
    ] {
        let said = raw(&b, &session, range.clone(), digest(body), body).await;
        assert_eq!(said.refusal(), no(416, "range_not_satisfiable"), "{range}");
    }
    let place = || format!("bytes 0-999/{total}");
    let said = raw(&b, &session, place(), digest(one), &bytes[..999]).await;
    assert_eq!(said.refusal(), no(400, "request_size_mismatch"));
    let said = raw(&b, &session, place(), digest(b"x"), one).await;
    assert_eq!(said.refusal(), no(412, "precondition_failed"));
    assert_eq!(
        raw(&b, &session, place(), "sha=x".to_owned(), one)
            .await
            .status,
        400
    );
    let listed = b.ask("GET", &session.url("list_parts")).await.json();
    assert_eq!(listed["total_count"], 0);
    let said = part(&b, &session, &bytes, 0).await;
    let stored = said.json()["part"].clone();
    assert_eq!(
        (&stored["offset"], &stored["size"]),
        (&json!(0), &json!(PART))
    );
    // Even an identical one overlaps.
    let said = part(&b, &session, &bytes, 0).await;
    assert_eq!(said.refusal(), no(416, "range_overlaps_existing_part"));
    assert_eq!(said.json()["context_info"]["conflicting_part"], stored);
}

#[tokio::test]
async fn parts_are_listed_in_pages_by_offset() {
    let b = Bench::new().await;
    let bytes = content(4 * PART);
    let session = begin(&b, bytes.len()).await;
    for n in [3, 0, 2] {
        part(&b, &session, &bytes, n).await;
    }
    let at = session.url("list_parts");
    let page = b.ask("GET", &format!("{at}?offset=1&limit=1")).await.json();
    assert_eq!(
        (&page["total_count"], &page["entries"][0]["offset"]),
        (&json!(3), &json!(2000))
    );
    assert_eq!(b.ask("GET", &format!("{at}?limit=1001")).await.status, 400);
    assert_eq!(
        b.ask("GET", &format!("{at}?offset=10001")).await.status,
        400
    );
}

#[tokio::test]
async fn a_commit_must_list_all_parts_and_have_the_digest() {
    let b = Bench::new().await;
    let bytes = content(2 * PART);
    let session = begin(&b, bytes.len()).await;
    let first = part(&b, &session, &bytes, 0).await.json()["part"].clone();
    let said = commit(&b, &session, &bytes, std::slice::from_ref(&first)).await;
    assert_eq!(said.refusal(), no(400, "parts_mismatch"));
    let second = part(&b, &session, &bytes, 1).await.json()["part"].clone();
    let swapped = [second.clone(), first.clone()];
    assert_eq!(
        commit(&b, &session, &bytes, &swapped).await.refusal(),
        no(400, "parts_mismatch")
    );
    let parts = [first, second];
    let said = commit(&b, &session, b"other", &parts).await;
    assert_eq!(said.refusal(), no(400, "digest_mismatch"));
    assert_eq!(commit(&b, &session, &bytes, &parts).await.status, 201);
}

#[tokio::test]
async fn a_commit_comes_later_as_often_as_wanted() {
    let b = Bench::with(|s| {
        s.boxcom.parts_mismatch = 1;
        s.boxcom.commit_waits = 2;
    })
    .await;
    let bytes = content(PART);
    let session = begin(&b, bytes.len()).await;
    let parts = all(&b, &session, &bytes).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let said = commit(&b, &session, &bytes, &parts).await;
        seen.push((said.status, said.header("retry-after").map(str::to_owned)));
    }
    let later = || (202, Some("1".to_owned()));
    assert_eq!(seen, [(400, None), later(), later(), (201, None)]);
}

#[tokio::test]
async fn a_new_version_is_committed_over_the_tag_and_an_unchanged_one_is_a_202() {
    let b = Bench::new().await;
    let bytes = content(PART);
    let id = b.put("0", "f", b"old").await.id();
    let start = async || {
        let at = format!("api/2.0/files/{id}/upload_sessions");
        let said = b.tell("POST", &at, json!({"file_size": PART})).await;
        Session { view: said.json() }
    };
    let session = start().await;
    let parts = all(&b, &session, &bytes).await;
    let said = commit_over(&b, &session, &bytes, &parts, Some("7")).await;
    assert_eq!(said.refusal(), no(412, "precondition_failed"));
    // The session is still good.
    let said = commit_over(&b, &session, &bytes, &parts, Some("0")).await;
    assert_eq!((said.status, said.id()), (201, id.clone()));
    let session = start().await;
    let parts = all(&b, &session, &bytes).await;
    let said = commit(&b, &session, &bytes, &parts).await;
    assert_eq!((said.status, said.header("retry-after")), (202, None));
    assert_eq!(
        b.ask("GET", &format!("2.0/files/{id}")).await.json()["etag"],
        "1"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_meanwhile_stops_a_commit() {
    let b = Bench::new().await;
    let bytes = content(PART);
    let session = begin(&b, bytes.len()).await;
    let parts = all(&b, &session, &bytes).await;
    b.put("0", "F", b"other").await;
    let said = commit(&b, &session, &bytes, &parts).await;
    assert_eq!(said.refusal(), no(409, "item_name_in_use"));
}

#[tokio::test]
async fn a_session_is_given_up_ends_and_excludes_another() {
    let b = Bench::new().await;
    let session = begin(&b, PART).await;
    let again = json!({"folder_id": "0", "file_size": PART, "file_name": "f"});
    let said = try_begin(&b, again).await;
    assert_eq!(said.refusal(), no(409, "session_conflict"));
    let other = &said.json()["context_info"]["session"];
    assert_eq!(
        other["session_endpoints"]["abort"],
        session.url("abort").as_str()
    );
    assert_eq!(b.ask("DELETE", &session.url("abort")).await.status, 204);
    assert_eq!(b.ask("DELETE", &session.url("abort")).await.status, 404);
    assert_eq!(part(&b, &session, &content(PART), 0).await.status, 404);
    begin(&b, PART).await;
    let b = Bench::with(|s| s.boxcom.session_life = Duration::ZERO).await;
    let session = begin(&b, PART).await;
    let said = part(&b, &session, &content(PART), 0).await;
    assert_eq!(said.refusal(), no(410, "session_expired"));
}
