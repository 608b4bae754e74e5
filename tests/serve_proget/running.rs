//! The server as a process: restarts, many connections, its log.

use crate::bench::{Bench, Part, content};
use assetfs::serve::{Server, Settings};
use reqwest::Client;
use serde_json::{Value, json};

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
    // As after kill -9: a staged file that nobody removed.
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
