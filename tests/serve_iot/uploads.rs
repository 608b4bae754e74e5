//! Uploads in parts.

use crate::bench::{Bench, PART, content, header};
use assetfs::serve::ENTITY;
use serde_json::Value;

#[tokio::test]
async fn parts_in_any_order_and_a_small_tail_make_the_file_and_nothing_shows_before() {
    let b = Bench::new().await;
    let bytes = content(3 * PART + 7);
    assert_eq!(b.puts("d/big?upload=start", None, b"").await, 201);
    for number in [2, 1, 3] {
        let piece = &bytes[(number - 1) * PART..number * PART];
        let target = format!("d/big?part={number}");
        assert_eq!(b.puts(&target, None, piece).await, 200);
        assert_eq!(b.keys("").await, Vec::<String>::new());
    }
    let end = b.put("d/big?upload=complete", None, &bytes[3 * PART..]);
    let end = end.send().await.unwrap();
    assert_eq!((end.status().as_u16(), header(&end, "etag")), (201, None));
    assert_eq!(std::fs::read(b.disk("d/big")).unwrap(), bytes);
    assert_eq!(b.puts("d/big?upload=complete", None, b"").await, 404);
}

#[tokio::test]
async fn an_update_says_its_version_in_every_request() {
    let b = Bench::new().await;
    b.puts("f", None, b"old").await;
    let part = content(PART);
    assert_eq!(b.puts("f?upload=start", None, b"").await, 409);
    assert_eq!(b.puts("f?upload=start", Some(0), b"").await, 201);
    assert_eq!(b.puts("f?part=1", None, &part).await, 409);
    assert_eq!(b.puts("f?part=1", Some(0), &part).await, 200);
    assert_eq!(b.text("f").await, "old");
    assert_eq!(b.puts("f", Some(0), b"somebody else").await, 204);
    assert_eq!(b.puts("f?upload=complete", Some(0), b"").await, 409);
    assert_eq!(b.text("f").await, "somebody else");
    assert_eq!(b.puts("f?upload=abort", Some(1), b"").await, 204);
}

#[tokio::test]
async fn a_number_sent_twice_replaces_the_first_and_gaps_and_small_parts_are_refused() {
    let b = Bench::new().await;
    let (one, two) = (content(PART), vec![7; PART]);
    assert_eq!(b.puts("f?part=1", None, &one).await, 404);
    b.puts("f?upload=start", None, b"").await;
    assert_eq!(b.puts("f?upload=start", None, b"").await, 409);
    assert_eq!(b.puts("f?upload=complete", None, b"x").await, 400);
    assert_eq!(b.puts("f?part=1", None, &two).await, 200);
    assert_eq!(b.puts("f?part=1", None, &one).await, 200);
    for (number, size) in [("0", PART), ("1001", PART), ("x", PART), ("2", PART - 1)] {
        let target = format!("f?part={number}");
        assert_eq!(b.puts(&target, None, &content(size)).await, 400, "{number}");
    }
    assert_eq!(b.puts("f?part=3", None, &two).await, 200);
    assert_eq!(b.puts("f?upload=complete", None, b"").await, 400);
    assert_eq!(b.puts("f?part=2", None, &two).await, 200);
    assert_eq!(b.puts("f?upload=complete", None, b"").await, 201);
    let want = [one, two.clone(), two].concat();
    assert_eq!(std::fs::read(b.disk("f")).unwrap(), want);
}

#[tokio::test]
async fn an_upload_is_listed_until_it_is_given_up() {
    let b = Bench::new().await;
    let list = async || {
        let target = format!("fileslist/{ENTITY}/d/f");
        let answer = b.request("GET", &target).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (status, body)
    };
    assert_eq!(list().await.0, 404);
    b.puts("d/f?upload=start", None, b"").await;
    b.puts("d/f?part=1", None, &content(PART)).await;
    let (status, rows) = list().await;
    assert_eq!((status, &rows[0]["partNo"]), (200, &1.into()));
    assert!(rows[0]["objectKey"].as_str().unwrap().ends_with("/d/f"));
    assert!(rows[0]["created"].is_number());
    assert_eq!(b.puts("d/f?upload=abort", None, b"").await, 204);
    assert_eq!(b.puts("d/f?upload=abort", None, b"").await, 404);
    assert_eq!(list().await.0, 404);
}
