//! What is read: contents, items, listings.

use crate::bench::{Bench, HELLO_SHA1, HELLO_SHA256, header};
use serde_json::{Value, json};

#[tokio::test]
async fn a_file_comes_back_with_exactly_the_headers_of_the_recorded_answer() {
    let b = Bench::new().await;
    assert_eq!(b.upload("POST", "tools/demo/hello.bin", "Hello").await, 201);
    for method in ["GET", "HEAD"] {
        let response = b.send(method, "content/tools/demo/hello.bin").await;
        assert_eq!(response.status(), 200);
        let mut names: Vec<_> = response.headers().keys().map(|k| k.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cache-control",
                "content-length",
                "content-type",
                "date",
                "etag",
                "last-modified",
                "server",
                "vary",
                "x-proget-version"
            ]
        );
        for (name, value) in [
            ("content-length", "5"),
            ("content-type", "application/octet-stream"),
            ("server", "Kestrel"),
            ("cache-control", "public"),
            ("etag", HELLO_SHA1),
            ("vary", "Accept-Encoding, Authorization"),
            ("x-proget-version", "25.0.18.5"),
        ] {
            assert_eq!(header(&response, name), Some(value), "{method} {name}");
        }
        let body = response.text().await.unwrap();
        assert_eq!(body, if method == "GET" { "Hello" } else { "" });
    }
    assert_eq!(
        std::fs::read(b.disk("tools/demo/hello.bin")).unwrap(),
        b"Hello"
    );
}

#[tokio::test]
async fn an_item_is_described_as_in_the_spec() {
    let b = Bench::new().await;
    let typed = b
        .request("POST", "content/tools/demo/hello.bin")
        .body("Hello");
    typed
        .header("content-type", "text/x-odd; a=b")
        .send()
        .await
        .unwrap();
    let item = b.json("metadata/tools/demo/hello.bin").await;
    let keys: Vec<_> = item
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut want = vec![
        "name",
        "parent",
        "size",
        "type",
        "content",
        "sha1",
        "sha256",
        "created",
        "modified",
        "cacheHeader",
    ];
    want.sort_unstable();
    assert_eq!(keys, want);
    assert_eq!(item["name"], "hello.bin");
    assert_eq!(item["parent"], "tools/demo");
    assert_eq!(item["size"], 5);
    assert_eq!(item["type"], "text/x-odd; a=b");
    assert_eq!(item["sha1"], HELLO_SHA1);
    assert_eq!(item["sha256"], HELLO_SHA256);
    assert_eq!(item["cacheHeader"], json!({"type": "Inherit"}));
    let url = format!(
        "http://{}/endpoints/files/content/tools/demo/hello.bin",
        b.server.addr()
    );
    assert_eq!(item["content"], url);
    let modified: jiff::Timestamp = item["modified"].as_str().unwrap().parse().unwrap();
    assert!(
        [0, 3, 7].contains(&(modified.as_millisecond() % 10)),
        "{modified}"
    );
    let response = b.send("HEAD", "content/tools/demo/hello.bin").await;
    let last = httpdate::parse_http_date(header(&response, "last-modified").unwrap()).unwrap();
    let last = last
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(last, modified.as_second() as u64);

    let folder = b.json("metadata/tools").await;
    let keys: Vec<_> = folder
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["cacheHeader", "created", "modified", "name", "type"]);
    assert_eq!(folder["type"], "dir");
}

#[tokio::test]
async fn ranges_and_conditions_are_answered_as_in_the_table() {
    let b = Bench::new().await;
    b.upload("POST", "f", "0123456789").await;
    b.upload("POST", "e", "").await;
    let sha1 = b.json("metadata/f").await["sha1"]
        .as_str()
        .unwrap()
        .to_owned();
    type Row<'a> = (&'a str, &'a str, String, u16, Option<&'a str>, &'a str);
    let table: [Row<'_>; 16] = [
        (
            "f",
            "range",
            "bytes=2-5".into(),
            206,
            Some("bytes 2-5/10"),
            "2345",
        ),
        (
            "f",
            "range",
            "bytes=8-10".into(),
            206,
            Some("bytes 8-9/10"),
            "89",
        ),
        (
            "f",
            "range",
            "bytes=7-".into(),
            206,
            Some("bytes 7-9/10"),
            "789",
        ),
        (
            "f",
            "range",
            "bytes=-2".into(),
            206,
            Some("bytes 8-9/10"),
            "89",
        ),
        (
            "f",
            "range",
            "bytes=10-12".into(),
            416,
            Some("bytes */10"),
            "",
        ),
        ("e", "range", "bytes=0-0".into(), 416, Some("bytes */0"), ""),
        (
            "f",
            "range",
            "bytes=0-1,4-5".into(),
            200,
            None,
            "0123456789",
        ),
        ("f", "range", "bytes=x".into(), 200, None, "0123456789"),
        ("e", "accept", "*/*".into(), 200, None, ""),
        ("f", "if-none-match", sha1.clone(), 304, None, ""),
        ("f", "if-none-match", format!("\"{sha1}\""), 304, None, ""),
        ("f", "if-none-match", format!("W/\"{sha1}\""), 304, None, ""),
        (
            "f",
            "if-none-match",
            "\"other\"".into(),
            200,
            None,
            "0123456789",
        ),
        (
            "f",
            "if-modified-since",
            "Mon, 01 Jan 2001 00:00:00 GMT".into(),
            200,
            None,
            "0123456789",
        ),
        (
            "f",
            "if-modified-since",
            "Fri, 01 Jan 2100 00:00:00 GMT".into(),
            304,
            None,
            "",
        ),
        ("f", "if-range", "x".into(), 200, None, "0123456789"),
    ];
    for (path, name, value, status, range, body) in table {
        let request = b
            .request("GET", &format!("content/{path}"))
            .header(name, &value);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{name}: {value}");
        assert_eq!(header(&response, "content-range"), range, "{name}: {value}");
        assert_eq!(header(&response, "accept-ranges"), None);
        if status == 206 {
            assert_eq!(header(&response, "etag"), Some(sha1.as_str()));
        }
        assert_eq!(response.text().await.unwrap(), body, "{name}: {value}");
    }
    let head = b
        .request("HEAD", "content/f")
        .header("range", "bytes=1-2")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length")),
        (200, Some("10"))
    );
}

#[tokio::test]
async fn listings_are_flat_and_hide_what_is_the_servers_own() {
    let b = Bench::new().await;
    assert_eq!(b.json("dir/").await, json!([]));
    b.upload("POST", "a/b/f", "x").await;
    b.upload("POST", "g", "x").await;
    std::fs::create_dir(b.disk("a/._proget_file_history_")).unwrap();
    std::os::unix::fs::symlink("/etc", b.disk("link")).unwrap();
    assert_eq!(b.names("dir").await, ["a", "g"]);
    assert_eq!(b.names("dir/a?recursive=false").await, ["a/b"]);
    assert_eq!(
        b.names("dir/?recursive=true").await,
        ["a", "a/b", "a/b/f", "g"]
    );
    assert_eq!(b.json("dir/missing").await, json!([]));
    assert_eq!(b.json("dir/g").await, json!([]));
    assert_eq!(b.status("GET", "metadata/link").await, 404);
}

#[tokio::test]
async fn a_replaced_file_keeps_its_type_annotations_and_creation() {
    let b = Bench::new().await;
    b.request("POST", "content/f")
        .header("content-type", "a/b")
        .body("1")
        .send()
        .await
        .unwrap();
    let set = |body: Value| {
        let request = b
            .request("POST", "metadata/f")
            .header("content-type", "application/json");
        request.body(body.to_string()).send()
    };
    let stage = json!({"value": "test", "includeInResponseHeader": true});
    let update = json!({"userMetadata": {"owner": "ops", "X-Stage": stage},
                        "cacheHeader": {"type": "TTL", "value": 60}});
    assert_eq!(set(update).await.unwrap().status(), 200);
    let before = b.json("metadata/f").await;
    assert_eq!(
        before["userMetadata"],
        json!({"owner": "ops", "X-Stage": stage})
    );
    assert_eq!(before["cacheHeader"], json!({"type": "TTL", "value": 60}));
    assert_eq!(
        header(&b.send("GET", "content/f").await, "x-stage"),
        Some("test")
    );

    assert_eq!(b.upload("POST", "f", "22").await, 201);
    let after = b.json("metadata/f").await;
    for same in ["type", "created", "userMetadata", "cacheHeader"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_ne!(after["sha1"], before["sha1"]);

    let replace = json!({"type": "c/d", "userMetadataUpdateMode": "replace", "userMetadata": {}});
    assert_eq!(set(replace).await.unwrap().status(), 200);
    let last = b.json("metadata/f").await;
    assert_eq!(
        (&last["type"], last.get("userMetadata")),
        (&json!("c/d"), None)
    );
    assert_eq!(last["sha1"], after["sha1"]);
    assert_eq!(set(json!({"userMetadata": 1})).await.unwrap().status(), 400);
    let missing = b
        .request("POST", "metadata/n")
        .header("content-type", "application/json");
    assert_eq!(missing.body("{}").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_reader_sees_the_old_or_the_new_version_whole() {
    let b = Bench::new().await;
    let (old, new) = (vec![b'o'; 3_000_000], vec![b'n'; 2_000_000]);
    b.upload("POST", "f", old.clone()).await;
    let mut begun = b.send("GET", "content/f").await;
    let first = begun.chunk().await.unwrap().unwrap();
    assert_eq!(b.upload("POST", "f", new.clone()).await, 201);
    let mut read = first.to_vec();
    while let Some(chunk) = begun.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == old);
    assert!(b.send("GET", "content/f").await.bytes().await.unwrap() == new);
    // Many at once: length, tag and bytes always belong together.
    let writes = async {
        for n in 0..20 {
            b.upload("POST", "f", vec![b'a' + n; 1000 + n as usize])
                .await;
        }
    };
    let reads = async {
        for _ in 0..100 {
            let response = b.send("GET", "content/f").await;
            let tag = header(&response, "etag").unwrap().to_owned();
            let bytes = response.bytes().await.unwrap();
            use sha1::Digest;
            assert_eq!(format!("{:x}", sha1::Sha1::digest(&bytes)), tag);
        }
    };
    tokio::join!(writes, reads);
}

#[tokio::test]
async fn files_put_and_changed_by_hand_are_served_with_their_own_digests() {
    let b = Bench::new().await;
    std::fs::create_dir(b.disk("hand")).unwrap();
    std::fs::write(b.disk("hand/f.txt"), "Hello").unwrap();
    let item = b.json("dir/hand").await[0].clone();
    assert_eq!(
        (&item["sha256"], &item["type"]),
        (&json!(HELLO_SHA256), &json!("text/plain"))
    );
    b.upload("POST", "f", "old").await;
    std::fs::write(b.disk("f"), "Hello").unwrap();
    assert_eq!(
        header(&b.send("GET", "content/f").await, "etag"),
        Some(HELLO_SHA1)
    );
    std::fs::remove_file(b.disk("f")).unwrap();
    assert_eq!(b.status("GET", "metadata/f").await, 404);
}

#[tokio::test]
async fn names_that_differ_in_case_are_two_unless_told_otherwise() {
    let b = Bench::new().await;
    assert_eq!(
        (
            b.upload("PUT", "A/f", "1").await,
            b.upload("PUT", "a/F", "2").await
        ),
        (201, 201)
    );
    let b = Bench::with(|s| s.ignore_case = true).await;
    assert_eq!(
        (
            b.upload("PUT", "A/f", "1").await,
            b.upload("PUT", "a/F", "2").await
        ),
        (201, 400)
    );
    assert_eq!(b.text("a/F").await, "1");
    assert_eq!(b.names("dir/?recursive=true").await, ["A", "A/f"]);
}
