//! Uploads in one request, and downloads.

use crate::bench::{Bench, content, no, send, sha1};
use assetfs::serve::{Action, Rule};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_file_is_uploaded_in_one_request_and_is_a_plain_file() {
    let b = Bench::new().await;
    let bytes = content(100_000);
    let attributes = json!({"name": "f", "parent": {"id": "0"},
        "content_created_at": "2001-01-01T00:00:00Z",
        "content_modified_at": "2017-04-08T00:58:08-00:00"});
    let form = b.form("api/2.0/files/content", &attributes, &bytes);
    let said = send(form.header("content-md5", sha1(&bytes))).await;
    assert_eq!((said.status, &said.json()["total_count"]), (201, &json!(1)));
    let entry = &said.json()["entries"][0];
    assert_eq!(
        (&entry["size"], &entry["sha1"]),
        (&json!(100_000), &json!(sha1(&bytes)))
    );
    assert_eq!(entry["content_modified_at"], "2017-04-07T16:58:08-08:00");
    assert_eq!(entry["content_created_at"], "2000-12-31T16:00:00-08:00");
    assert_eq!(std::fs::read(b.disk("f")).unwrap(), bytes);
    assert_eq!(b.content(&said.id()).await, bytes);
    let empty = b.put("0", "empty", b"").await;
    assert_eq!(b.content(&empty.id()).await, b"");
}

#[tokio::test]
async fn a_new_version_keeps_the_id_and_asks_for_the_old_tag() {
    let b = Bench::with(|s| s.boxcom.versions = true).await;
    let first = b.put("0", "f", b"one").await;
    let id = first.id();
    let at = format!("api/2.0/files/{id}/content");
    let put = |tag: &str, name: &str, text: &str| {
        let form = b.form(&at, &json!({"name": name}), text.as_bytes());
        send(form.header("if-match", tag.to_owned()))
    };
    assert_eq!(
        put("1", "f", "x").await.refusal(),
        no(412, "precondition_failed")
    );
    let said = put("0", "f", "two").await;
    let entry = &said.json()["entries"][0];
    assert_eq!((said.id(), &entry["etag"]), (id.clone(), &json!("1")));
    let version = |json: serde_json::Value| json["file_version"]["id"].clone();
    let old = version(first.json()["entries"][0].clone());
    assert_ne!(version(entry.clone()), old);
    assert_eq!(b.content(&id).await, b"two");
    // The old one can be asked for, and is listed.
    let at = format!("2.0/files/{id}/content?version={}", old.as_str().unwrap());
    let link = b
        .ask("GET", &at)
        .await
        .header("location")
        .unwrap()
        .to_owned();
    assert_eq!(b.ask("GET", &link).await.body, b"one");
    let versions = b
        .ask("GET", &format!("2.0/files/{id}/versions"))
        .await
        .json();
    assert_eq!(
        (&versions["total_count"], &versions["entries"][0]["id"]),
        (&json!(1), &old)
    );
    // Another name renames.
    assert_eq!(put("1", "g", "three").await.status, 201);
    assert_eq!(b.names("0").await, ["g"]);
    let form = b.form("api/2.0/files/77/content", &json!({"name": "x"}), b"");
    assert_eq!(send(form).await.status, 404);
}

#[tokio::test]
async fn uploads_that_are_not_as_they_must_be_are_refused() {
    let b = Bench::with(|s| s.boxcom.direct_max = 1000).await;
    let attributes = json!({"name": "f", "parent": {"id": "0"}});
    let at = "api/2.0/files/content";
    let said = send(
        b.form(at, &attributes, b"x")
            .header("content-md5", sha1(b"y")),
    )
    .await;
    assert_eq!(said.refusal(), no(400, "bad_digest"));
    let form = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\r\nx\r\n--B--\r\n";
    let kind = "multipart/form-data; boundary=B";
    let first = b
        .request("POST", at)
        .header("content-type", kind)
        .body(form);
    assert_eq!(
        send(first).await.refusal(),
        no(400, "metadata_after_file_contents")
    );
    assert_eq!(b.put("9", "f", b"x").await.status, 404);
    let large = b.put("0", "f", &content(70_000)).await;
    assert_eq!(large.refusal(), no(413, "request_entity_too_large"));
    assert_eq!(b.tell("POST", at, attributes.clone()).await.status, 400);
    let chunked =
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(form)]));
    let chunked = b
        .request("POST", at)
        .header("content-type", kind)
        .body(chunked);
    assert_eq!(send(chunked).await.refusal(), no(411, "length_required"));
    b.put("0", "F", b"x").await;
    assert_eq!(
        b.put("0", "f", b"x").await.refusal(),
        no(409, "item_name_in_use")
    );
    assert_eq!(b.names("0").await, ["F"]);
}

#[tokio::test]
async fn a_name_is_reserved_while_its_upload_is_under_way() {
    let b = Bench::new().await;
    let slow = Rule::new(Action::Slow { rate: 100_000 })
        .path("api/2.0/files/content")
        .times(1);
    b.server.faults().set(vec![slow]).unwrap();
    let bytes = content(100_000);
    let attributes = json!({"name": "f", "parent": {"id": "0"}});
    let first = tokio::spawn(b.form("api/2.0/files/content", &attributes, &bytes).send());
    b.server
        .wait_for(|seen| seen.iter().any(|r| r.method == "POST"))
        .await;
    let mut codes = Vec::new();
    while !first.is_finished() {
        // One that cannot succeed, so that the other is surely the first.
        let form = b.form("api/2.0/files/content", &attributes, b"x");
        codes.push(send(form.header("content-md5", sha1(b"y"))).await.code());
    }
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    assert!(
        codes.contains(&"name_temporarily_reserved".to_owned()),
        "{codes:?}"
    );
}

#[tokio::test]
async fn a_download_is_a_redirect_to_a_link_that_wants_no_token() {
    let b = Bench::with(|s| s.boxcom.versions = false).await;
    let bytes = content(5000);
    let id = b.put("0", "f", &bytes).await.id();
    let link = b.link(&id).await;
    assert!(
        link.starts_with("http://localhost:") && link.contains("/d/1/"),
        "{link}"
    );
    let get = |range: &str| send(b.request("GET", &link).header("range", range.to_owned()));
    let said = get("bytes=10-19").await;
    assert_eq!((said.status, said.body), (206, bytes[10..20].to_vec()));
    assert_eq!(said.headers["content-range"], "bytes 10-19/5000");
    let said = get("bytes=4990-9999").await;
    assert_eq!((said.status, said.body.len()), (206, 10));
    for outside in ["bytes=5000-5001", "bytes=-10"] {
        assert_eq!(get(outside).await.status, 416, "{outside}");
    }
    let with_token = b.request("GET", &link).header("authorization", "Bearer x");
    assert_eq!(send(with_token).await.status, 400);
    assert_eq!(
        b.ask("GET", &link.replace("token=", "token=x"))
            .await
            .status,
        404
    );
    // A link is for the version that it was made for.
    let form = b.form(
        &format!("api/2.0/files/{id}/content"),
        &json!({"name": "f"}),
        b"new",
    );
    send(form).await;
    assert_eq!(get("bytes=0-1").await.status, 404);
    assert_eq!(b.content(&id).await, b"new");
    let old = format!("2.0/files/{id}/content?version=1");
    assert_eq!(b.ask("GET", &old).await.status, 403);
}

#[tokio::test]
async fn content_can_be_not_ready_and_links_end() {
    let b = Bench::with(|s| {
        s.boxcom.not_ready = 2;
        s.boxcom.link_life = Duration::ZERO;
    })
    .await;
    let id = b.put("0", "f", b"x").await.id();
    let at = format!("2.0/files/{id}/content");
    for _ in 0..2 {
        let said = b.ask("GET", &at).await;
        assert_eq!((said.status, said.header("retry-after")), (202, Some("1")));
    }
    let link = b.link(&id).await;
    assert_eq!(b.ask("GET", &link).await.status, 403);
}
