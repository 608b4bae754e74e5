//! The embedded ProGet server, through a plain HTTP client: each rule of the spec at least once.

use assetfs::serve::{Action, Rule, Server, Settings};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A server, its folder, a client.
struct Bench {
    dir: TempDir,
    server: Server,
    client: Client,
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        change(&mut settings);
        let server = Server::start(settings).await.unwrap();
        Bench {
            dir,
            server,
            client: Client::new(),
        }
    }

    async fn restart(self) -> Bench {
        let Bench {
            dir,
            server,
            client,
        } = self;
        drop(server);
        let server = Server::start(Settings::new(dir.path())).await.unwrap();
        Bench {
            dir,
            server,
            client,
        }
    }

    fn request(&self, method: &str, target: &str) -> RequestBuilder {
        let url = format!("http://{}/endpoints/files/{target}", self.server.addr());
        self.client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    async fn send(&self, method: &str, target: &str) -> Response {
        self.request(method, target).send().await.unwrap()
    }

    async fn status(&self, method: &str, target: &str) -> u16 {
        self.send(method, target).await.status().as_u16()
    }

    async fn upload(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> u16 {
        let request = self.request(method, &format!("content/{path}")).body(body);
        request.send().await.unwrap().status().as_u16()
    }

    async fn text(&self, path: &str) -> String {
        self.send("GET", &format!("content/{path}"))
            .await
            .text()
            .await
            .unwrap()
    }

    async fn json(&self, target: &str) -> Value {
        let response = self.send("GET", target).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn names(&self, target: &str) -> Vec<String> {
        let items = self.json(target).await;
        let name = |item: &Value| match item["parent"].as_str() {
            Some(parent) => format!("{parent}/{}", item["name"].as_str().unwrap()),
            None => item["name"].as_str().unwrap().to_owned(),
        };
        let mut names: Vec<_> = items.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }

    fn disk(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Sends part `index` of `size / parts` bytes each, all zeros but for `fill`.
    async fn part(&self, path: &str, id: &str, part: &Part<'_>) -> u16 {
        let Part {
            index,
            offset,
            total,
            count,
            bytes,
        } = *part;
        let target = format!(
            "{path}?multipart=upload&id={id}&index={index}&offset={offset}&totalSize={total}\
             &partSize={}&totalParts={count}",
            bytes.len()
        );
        self.upload("POST", &target, bytes.to_vec()).await
    }

    async fn complete(&self, path: &str, id: &str) -> u16 {
        self.upload("POST", &format!("{path}?multipart=complete&id={id}"), "")
            .await
    }
}

#[derive(Clone, Copy)]
struct Part<'a> {
    index: u32,
    offset: u64,
    total: u64,
    count: u32,
    bytes: &'a [u8],
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

const HELLO_SHA1: &str = "f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0";
const HELLO_SHA256: &str = "185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969";

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

/// One request against a folder with `f` (5 bytes, "Hello"), `e` (empty), `d/` and `d/x/g`.
#[tokio::test]
async fn the_strictness_table_holds() {
    const UPLOAD: &str = "content/n?multipart=upload&id=1&index=0&offset=0&totalSize=2&partSize=2";
    let upload = |rest: &str| format!("{UPLOAD}{rest}");
    let table: &[(&str, String, &str, u16)] = &[
        // Uploads in one request.
        ("POST", "content/n".into(), "hi", 201),
        ("POST", "content/f".into(), "hi", 201),
        ("POST", "content/p/q/r/n".into(), "hi", 201),
        ("POST", "content/d".into(), "hi", 400),
        ("POST", "content/f/n".into(), "hi", 400),
        ("POST", "content/".into(), "hi", 400),
        ("POST", "content/empty".into(), "", 201),
        ("PUT", "content/n".into(), "hi", 201),
        ("PUT", "content/f".into(), "hi", 400),
        ("PUT", "content/d".into(), "hi", 400),
        ("PATCH", "content/f".into(), "hi", 201),
        ("PATCH", "content/n".into(), "hi", 404),
        // Names.
        ("POST", "content/a%2Fb".into(), "hi", 400),
        ("POST", "content/a%5Cb".into(), "hi", 400),
        ("POST", "content/a%00b".into(), "hi", 400),
        ("POST", "content/%FF".into(), "hi", 400),
        ("POST", format!("content/{}", "x".repeat(255)), "hi", 201),
        ("POST", format!("content/{}", "x".repeat(256)), "hi", 400),
        ("POST", format!("content/{}f", "x/".repeat(4090)), "hi", 414),
        ("POST", "content/._proget_file_history_".into(), "hi", 400),
        (
            "POST",
            "content/d/._proget_file_history_/x".into(),
            "hi",
            400,
        ),
        ("POST", "dir/._proget_file_history_".into(), "", 400),
        ("GET", "content/._proget_file_history_".into(), "", 404),
        ("GET", "content/.assetfs-serve/records".into(), "", 400),
        (
            "POST",
            "delete/.assetfs-serve?recursive=true".into(),
            "",
            400,
        ),
        // Reading.
        ("GET", "content/f".into(), "", 200),
        ("GET", "content/n".into(), "", 404),
        ("GET", "content/f/n".into(), "", 404),
        ("GET", "content/d".into(), "", 400),
        ("GET", "content/".into(), "", 400),
        ("HEAD", "content/f".into(), "", 200),
        ("HEAD", "content/d".into(), "", 400),
        ("HEAD", "content/n".into(), "", 404),
        ("GET", "metadata/f".into(), "", 200),
        ("GET", "metadata/d".into(), "", 200),
        ("GET", "metadata/n".into(), "", 404),
        ("GET", "metadata/".into(), "", 404),
        ("GET", "metadata/f/n".into(), "", 404),
        ("GET", "dir/".into(), "", 200),
        ("GET", "dir".into(), "", 200),
        ("GET", "dir/n".into(), "", 200),
        ("GET", "dir/f".into(), "", 200),
        // Folders and deleting.
        ("POST", "dir/a/b/c".into(), "", 201),
        ("POST", "dir/d".into(), "", 201),
        ("POST", "dir/f".into(), "", 400),
        ("POST", "dir/f/n".into(), "", 400),
        ("DELETE", "content/f".into(), "", 200),
        ("DELETE", "content/n".into(), "", 200),
        ("DELETE", "content/d".into(), "", 400),
        ("POST", "delete/f".into(), "", 200),
        ("POST", "delete/n".into(), "", 200),
        ("POST", "delete/d?recursive=false".into(), "", 400),
        ("POST", "delete/d?recursive=false)".into(), "", 400),
        ("POST", "delete/d?recursive=True".into(), "", 200),
        ("POST", "delete/d/x/y".into(), "", 200),
        ("POST", "delete/".into(), "", 400),
        // Verbs and operations.
        ("DELETE", "dir/d".into(), "", 405),
        ("PUT", "dir/d".into(), "", 405),
        ("PUT", "metadata/f".into(), "", 405),
        ("GET", "delete/f".into(), "", 405),
        ("OPTIONS", "content/f".into(), "", 405),
        ("GET", "nothing/f".into(), "", 404),
        // Parts.
        ("POST", upload("&totalParts=1"), "hi", 200),
        ("POST", upload(""), "hi", 400),
        ("POST", upload("&totalParts=0"), "hi", 400),
        ("POST", upload("&totalParts=1"), "h", 400),
        ("POST", upload("&totalParts=1"), "hi!", 400),
        ("POST", upload("&totalParts=2147483648"), "hi", 400),
        ("PUT", upload("&totalParts=1"), "hi", 400),
        (
            "POST",
            upload("&totalParts=1").replace("index=0", "index=1"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("index=0", "index=-1"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("offset=0", "offset=1"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("Size=2", "Size=x"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("id=1", "id="),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("upload", "other"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("content/n", "content/d"),
            "hi",
            400,
        ),
        (
            "POST",
            upload("&totalParts=1").replace("content/n", "content/f/n"),
            "hi",
            400,
        ),
        ("POST", "content/n?multipart=complete".into(), "", 400),
        (
            "POST",
            "content/n?multipart=complete&id=unknown".into(),
            "",
            400,
        ),
    ];
    for (method, target, body, want) in table {
        let b = Bench::new().await;
        std::fs::create_dir_all(b.disk("d/x")).unwrap();
        std::fs::write(b.disk("f"), "Hello").unwrap();
        std::fs::write(b.disk("e"), "").unwrap();
        std::fs::write(b.disk("d/x/g"), "g").unwrap();
        let response = b.request(method, target).body(*body).send().await.unwrap();
        assert_eq!(response.status(), *want, "{method} {target} {body:?}");
        assert_eq!(
            header(&response, "x-proget-version").is_some(),
            *want != 414,
            "{target}"
        );
        if *want >= 400 && *want != 414 && *method != "HEAD" {
            assert_eq!(
                header(&response, "content-type"),
                Some("text/plain"),
                "{target}"
            );
        }
        // What was refused has changed nothing.
        if *want >= 400 {
            assert_eq!(b.text("f").await, "Hello");
            assert_eq!(
                b.names("dir/?recursive=true").await,
                ["d", "d/x", "d/x/g", "e", "f"]
            );
        }
    }
}

#[tokio::test]
async fn the_two_ways_to_say_not_found_differ() {
    let b = Bench::new().await;
    assert_eq!(b.text("n").await, "The specified asset was not found.");
    let response = b.send("GET", "metadata/n").await;
    assert_eq!(response.text().await.unwrap(), "Asset not found.");
}

#[tokio::test]
async fn forms_are_refused() {
    let b = Bench::new().await;
    for media in [
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ] {
        let request = b
            .request("POST", "content/n")
            .header("content-type", media)
            .body("x");
        assert_eq!(request.send().await.unwrap().status(), 400, "{media}");
    }
    assert_eq!(b.status("GET", "content/n").await, 404);
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
    let table: [(&str, &str, String, u16, Option<&str>, &str); 16] = [
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
async fn every_form_of_a_credential_opens_and_nothing_else_does() {
    let b = Bench::with(|s| {
        s.key = Some("abc".into());
        s.login = Some(("user".into(), "pass".into()));
    })
    .await;
    let get = |query: &str| b.request("GET", &format!("dir/{query}"));
    let table = [
        (get(""), 401),
        (get("").header("x-apikey", "abc"), 200),
        (get("").header("x-apikey", "abd"), 401),
        (get("").header("x-apikey", "user:pass"), 200),
        (get("").header("x-apikey", "user:nopass"), 401),
        (get("?key=abc"), 200),
        (get("?key=abd"), 401),
        (get("").basic_auth("api", Some("abc")), 200),
        (get("").basic_auth("api", Some("abd")), 401),
        (get("").basic_auth("user", Some("pass")), 200),
        (get("").basic_auth("user", Some("abc")), 401),
        (get("").header("authorization", "Bearer abc"), 401),
        (get("").header("x-proget-apikey", "abc"), 401),
    ];
    for (n, (request, want)) in table.into_iter().enumerate() {
        assert_eq!(request.send().await.unwrap().status(), want, "row {n}");
    }
    let url = |path: &str| format!("http://{}{path}", b.server.addr());
    let health = b.client.get(url("/health")).send().await.unwrap();
    assert_eq!(health.status(), 200);
    let other = b
        .client
        .get(url("/endpoints/other/dir/"))
        .header("x-apikey", "abc");
    assert_eq!(other.send().await.unwrap().status(), 404);
    let seen = format!("{:?}", b.server.requests());
    assert!(!seen.contains("abc") && !seen.contains("abd"), "{seen}");
}

/// `count` parts of a content that differs everywhere.
fn content(size: usize) -> Vec<u8> {
    (0..size as u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9)).to_le_bytes())
        .take(size)
        .collect()
}

fn cut(bytes: &[u8], size: usize) -> Vec<Part<'_>> {
    let count = bytes.len().div_ceil(size) as u32;
    let part = |(index, piece)| Part {
        index: index as u32,
        offset: (index * size) as u64,
        total: bytes.len() as u64,
        count,
        bytes: piece,
    };
    bytes.chunks(size).enumerate().map(part).collect()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(bytes))
}

#[tokio::test]
async fn parts_in_any_order_make_the_file_and_nothing_shows_before() {
    let b = Bench::new().await;
    b.upload("POST", "big", "old").await;
    let bytes = content(1_000_000);
    let mut parts = cut(&bytes, 70_000);
    parts.reverse();
    parts.swap(0, 7);
    for part in &parts {
        assert_eq!(b.part("big", "id", part).await, 200);
        assert_eq!(b.text("big").await, "old");
    }
    assert_eq!(b.complete("big", "id").await, 200);
    assert_eq!(b.json("metadata/big").await["sha256"], sha256(&bytes));
    assert_eq!(std::fs::read(b.disk("big")).unwrap(), bytes);
    assert_eq!(b.complete("big", "id").await, 400);
}

#[tokio::test]
async fn parts_in_parallel_make_the_file() {
    let b = Bench::new().await;
    let bytes = content(8_000_000);
    let parts = cut(&bytes, 250_000);
    let all = futures_util::future::join_all(parts.iter().map(|part| b.part("big", "id", part)));
    assert!(all.await.iter().all(|status| *status == 200));
    assert_eq!(b.complete("big", "id").await, 200);
    assert_eq!(b.json("metadata/big").await["sha256"], sha256(&bytes));
    assert_eq!(std::fs::read(b.disk("big")).unwrap(), bytes);
}

#[tokio::test]
async fn a_part_sent_again_replaces_the_first_one() {
    let b = Bench::new().await;
    let (bytes, mut wrong) = (content(300_000), content(300_000));
    wrong[100_000..200_000].fill(7);
    for part in &cut(&wrong, 100_000) {
        assert_eq!(b.part("big", "id", part).await, 200);
    }
    assert_eq!(b.part("big", "id", &cut(&bytes, 100_000)[1]).await, 200);
    assert_eq!(b.complete("big", "id").await, 200);
    assert_eq!(b.json("metadata/big").await["sha256"], sha256(&bytes));
    assert_eq!(std::fs::read(b.disk("big")).unwrap(), bytes);
}

#[tokio::test]
async fn parts_that_do_not_fit_together_are_refused() {
    let b = Bench::new().await;
    let first = Part {
        index: 0,
        offset: 0,
        total: 10,
        count: 2,
        bytes: b"01234",
    };
    let last = Part {
        index: 1,
        offset: 5,
        bytes: b"56789",
        ..first
    };
    assert_eq!(b.part("f", "id", &first).await, 200);
    assert_eq!(b.complete("f", "id").await, 400);
    for (what, part) in [
        ("overlap", Part { offset: 4, ..last }),
        ("same index elsewhere", Part { index: 0, ..last }),
        ("other total", Part { total: 11, ..last }),
        ("other count", Part { count: 3, ..last }),
    ] {
        assert_eq!(b.part("f", "id", &part).await, 400, "{what}");
    }
    assert_eq!(b.part("other", "id", &last).await, 400);
    // Too short a sum.
    assert_eq!(
        b.part(
            "f",
            "id",
            &Part {
                bytes: b"5678",
                ..last
            }
        )
        .await,
        200
    );
    assert_eq!(b.complete("f", "id").await, 400);
    assert_eq!(b.status("GET", "content/f").await, 404);
    // A new id is not touched by it.
    assert_eq!(b.part("f", "new", &first).await, 200);
    assert_eq!(b.part("f", "new", &last).await, 200);
    assert_eq!(b.complete("other", "new").await, 400);
    assert_eq!(b.complete("f", "new").await, 200);
    assert_eq!(b.text("f").await, "0123456789");
}

#[tokio::test]
async fn the_type_of_a_multipart_upload_is_that_of_the_first_part_or_of_complete() {
    let b = Bench::new().await;
    let args = "multipart=upload&id=1&index=0&offset=0&totalSize=2&partSize=2&totalParts=1";
    let part = || b.request("POST", &format!("content/f?{args}")).body("hi");
    let complete = || b.request("POST", "content/f?multipart=complete&id=1");
    let media = || async { b.json("metadata/f").await["type"].clone() };
    part()
        .header("content-type", "a/first")
        .send()
        .await
        .unwrap();
    complete().send().await.unwrap();
    assert_eq!(media().await, "a/first");
    part().send().await.unwrap();
    complete().send().await.unwrap();
    assert_eq!(media().await, "a/first");
    part().send().await.unwrap();
    complete()
        .header("content-type", "a/last")
        .send()
        .await
        .unwrap();
    assert_eq!(media().await, "a/last");
}

#[tokio::test]
async fn an_incomplete_body_is_never_committed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let b = Bench::new().await;
    b.upload("POST", "f", "old").await;
    let args = "multipart=upload&id=1&index=0&offset=0&totalSize=100&partSize=100&totalParts=1";
    for target in ["f".to_owned(), format!("f?{args}")] {
        for framing in [
            "Content-Length: 100\r\n\r\nhalf",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let mut socket = tokio::net::TcpStream::connect(b.server.addr())
                .await
                .unwrap();
            let head =
                format!("POST /endpoints/files/content/{target} HTTP/1.1\r\nHost: x\r\n{framing}");
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer).await;
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
    }
    let all = b
        .server
        .wait_for(|all| all.iter().all(|request| request.ended))
        .await;
    assert_eq!(all.len(), 5);
    assert_eq!(b.complete("f", "1").await, 400);
    assert_eq!(b.text("f").await, "old");
    // The part can be sent again.
    let part = Part {
        index: 0,
        offset: 0,
        total: 100,
        count: 1,
        bytes: &[b'x'; 100],
    };
    assert_eq!(b.part("f", "1", &part).await, 200);
    assert_eq!(b.complete("f", "1").await, 200);
    assert_eq!(b.text("f").await, "x".repeat(100));
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
async fn a_restart_keeps_files_and_metadata_and_forgets_half_uploads() {
    let b = Bench::new().await;
    b.request("POST", "content/a/f")
        .header("content-type", "a/b")
        .body("one")
        .send()
        .await
        .unwrap();
    let part = Part {
        index: 0,
        offset: 0,
        total: 10,
        count: 2,
        bytes: b"01234",
    };
    assert_eq!(b.part("a/f", "id", &part).await, 200);
    let before = b.json("dir/?recursive=true").await;
    assert_eq!(
        std::fs::read_dir(b.disk(".assetfs-serve/staging"))
            .unwrap()
            .count(),
        1
    );
    // As after kill -9: a staged file that nobody removed, a record cut in the middle.
    std::fs::write(b.disk(".assetfs-serve/staging/left"), "x").unwrap();
    let b = b.restart().await;
    assert_eq!(
        std::fs::read_dir(b.disk(".assetfs-serve/staging"))
            .unwrap()
            .count(),
        0
    );
    let mut after = b.json("dir/?recursive=true").await;
    for item in after.as_array_mut().unwrap() {
        if item["type"] != "dir" {
            item["content"] = before.as_array().unwrap()[1]["content"].clone();
        }
    }
    assert_eq!(after, before);
    assert_eq!(b.complete("a/f", "id").await, 400);
    assert_eq!(b.text("a/f").await, "one");
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

#[tokio::test]
async fn thirty_two_connections_at_once_are_served() {
    let b = Bench::new().await;
    let one = |n: usize| {
        let b = &b;
        async move {
            let client = Client::new();
            let url = format!("http://{}/endpoints/files/content/f{n}", b.server.addr());
            let bytes = content(500_000 + n);
            let sent = client.post(&url).body(bytes.clone()).send().await.unwrap();
            assert_eq!(sent.status(), 201);
            assert!(
                client
                    .get(&url)
                    .send()
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap()
                    == bytes
            );
        }
    };
    futures_util::future::join_all((0..32).map(one)).await;
    assert_eq!(b.names("dir").await.len(), 32);
}

#[tokio::test]
async fn a_second_server_on_one_folder_is_refused() {
    let b = Bench::new().await;
    let other = Server::start(Settings::new(b.dir.path())).await;
    assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn the_log_has_one_line_per_request_and_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let b = Bench::with(|s| {
        s.key = Some("s3cret".into());
        s.log = Some(log.clone());
    })
    .await;
    b.upload("POST", "f?key=s3cret", "Hello").await;
    let ranged = b.request("GET", "content/f").header("x-apikey", "s3cret");
    ranged
        .header("range", "bytes=1-2")
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    b.server
        .wait_for(|all| all.iter().all(|request| request.ended))
        .await;
    b.server.stop().await;
    let text = std::fs::read_to_string(log).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let get = |n: usize, field: &str| lines[n][field].clone();
    assert_eq!(get(0, "target"), "/endpoints/files/content/f?key=***");
    assert_eq!(
        (get(0, "bytes_in"), get(0, "status")),
        (json!(5), json!(201))
    );
    assert_eq!(
        (get(1, "range"), get(1, "bytes_out")),
        (json!("bytes=1-2"), json!(2))
    );
    assert_eq!(get(1, "connection"), 1);
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let b = Bench::new().await;
    let bytes = content(1_000_000);
    b.upload("POST", "f", bytes.clone()).await;
    let set = |action: Action| {
        b.server
            .faults()
            .set(vec![Rule::new(action).times(1)])
            .unwrap()
    };
    let get = || b.request("GET", "content/f").send();

    let rule = r#"[{"action": {"answer": {"status": 503, "retry_after": 7, "body": "Later."}}}]"#;
    b.server
        .faults()
        .set(serde_json::from_str(rule).unwrap())
        .unwrap();
    let response = get().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), header(&response, "retry-after")),
        (503, Some("7"))
    );
    assert_eq!(response.text().await.unwrap(), "Later.");

    set(Action::Reset { after: 0 });
    assert!(get().await.is_err());

    set(Action::Reset { after: 600_000 });
    let broken = b
        .request("POST", "content/n")
        .body(bytes.clone())
        .send()
        .await;
    assert!(broken.is_err());
    assert_eq!(b.status("GET", "content/n").await, 404);

    for after in [0, 1, 600_000] {
        set(Action::Truncate { after });
        let mut response = get().await.unwrap();
        assert_eq!(header(&response, "content-length"), Some("1000000"));
        let mut got = 0;
        let broken = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => got += chunk.len() as u64,
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert_eq!((got, broken), (after, true));
    }

    set(Action::Corrupt { at: 700_000 });
    let got = get().await.unwrap().bytes().await.unwrap();
    let differing: Vec<_> = (0..bytes.len()).filter(|n| got[*n] != bytes[*n]).collect();
    assert_eq!(differing, [700_000]);

    set(Action::DropAnswer);
    assert!(
        b.request("POST", "content/kept")
            .body("kept")
            .send()
            .await
            .is_err()
    );
    assert_eq!(b.text("kept").await, "kept");

    // Stalls end when the client loses patience, or when their time is over.
    set(Action::Stall {
        after: None,
        seconds: None,
    });
    let patience = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(patience, get()).await.is_err());
    set(Action::Stall {
        after: Some(10),
        seconds: None,
    });
    let mut response = get().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap().len(), 10);
    assert!(
        tokio::time::timeout(patience, response.chunk())
            .await
            .is_err()
    );
    set(Action::Stall {
        after: Some(10),
        seconds: Some(0.01),
    });
    assert!(get().await.unwrap().bytes().await.unwrap() == bytes);

    set(Action::Slow { rate: 100_000_000 });
    assert!(get().await.unwrap().bytes().await.unwrap() == bytes);
    let faults = b
        .server
        .requests()
        .iter()
        .filter(|request| request.fault.is_some())
        .count();
    assert_eq!(faults, 12);
}

#[tokio::test]
async fn a_rule_file_works_and_a_bad_one_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("faults.json");
    std::fs::write(
        &rules,
        r#"[{"method": "GET", "action": {"answer": {"status": 500}}}]"#,
    )
    .unwrap();
    let b = Bench::with(|s| s.faults = Some(rules.clone())).await;
    assert_eq!(b.status("GET", "dir/").await, 500);
    assert_eq!(b.status("HEAD", "content/x").await, 404);
    std::fs::write(&rules, "[]").unwrap();
    assert_eq!(b.status("GET", "dir/").await, 200);
    std::fs::write(&rules, "[{}]").unwrap();
    let other = tempfile::tempdir().unwrap();
    let settings = Settings {
        faults: Some(rules),
        ..Settings::new(other.path())
    };
    assert!(Server::start(settings).await.is_err());
}

#[tokio::test]
async fn a_refused_upload_hears_why_and_keeps_its_connection() {
    let b = Bench::new().await;
    b.upload("POST", "f", "old").await;
    assert_eq!(b.upload("PUT", "f", content(20_000_000)).await, 400);
    assert_eq!(b.text("f").await, "old");
    assert!(
        b.server
            .requests()
            .iter()
            .all(|request| request.connection == 1)
    );
}

#[tokio::test]
async fn shaping_keeps_the_bytes() {
    let b = Bench::with(|s| {
        s.rate = Some(50_000_000);
        s.rtt = std::time::Duration::from_millis(1);
    })
    .await;
    let bytes = content(3_000_000);
    assert_eq!(b.upload("POST", "f", bytes.clone()).await, 201);
    assert!(b.send("GET", "content/f").await.bytes().await.unwrap() == bytes);
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn upload_zeros(dir: &Path, total: u64, part: u64) {
    let server = Server::start(Settings::new(dir)).await.unwrap();
    let client = Client::new();
    let base = format!("http://{}/endpoints/files", server.addr());
    let zeros = bytes::Bytes::from(vec![0u8; part as usize]);
    let count = total.div_ceil(part);
    let before = resident();
    // The last part first: its offset is beyond 4 GiB in the large case.
    for index in [count - 1].into_iter().chain(0..count - 1) {
        let offset = index * part;
        let size = part.min(total - offset);
        let url = format!(
            "{base}/content/big?multipart=upload&id=1&index={index}&offset={offset}\
             &totalSize={total}&partSize={size}&totalParts={count}"
        );
        let sent = client
            .post(url)
            .body(zeros.slice(..size as usize))
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 200);
    }
    let url = format!("{base}/content/big?multipart=complete&id=1");
    assert_eq!(client.post(url).send().await.unwrap().status(), 200);
    let url = format!("{base}/content/big");
    let mut response = client.get(&url).send().await.unwrap();
    assert_eq!(response.content_length(), Some(total));
    let mut got = 0;
    while let Some(chunk) = response.chunk().await.unwrap() {
        got += chunk.len() as u64;
    }
    assert_eq!(got, total);
    let end = client
        .get(&url)
        .header("range", format!("bytes={}-", total - 1));
    assert_eq!(end.send().await.unwrap().bytes().await.unwrap(), [0u8][..]);
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "memory grew by {grown} bytes");
    server.stop().await;
}

#[tokio::test]
async fn a_large_file_passes_with_flat_memory() {
    let dir = tempfile::tempdir().unwrap();
    upload_zeros(dir.path(), (200 << 20) + 1, 8 << 20).await;
}

#[tokio::test]
#[ignore = "writes 4 GiB"]
async fn a_file_beyond_four_gibibytes_passes_with_flat_memory() {
    let dir = tempfile::tempdir().unwrap();
    upload_zeros(dir.path(), (4 << 30) + 1, 16 << 20).await;
}
