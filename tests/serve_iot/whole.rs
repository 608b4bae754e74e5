//! Files in one request: written, read, removed.

use crate::bench::{Bench, header};

#[tokio::test]
async fn a_file_is_made_replaced_and_removed_by_its_version() {
    let b = Bench::new().await;
    let made = b.put("d/a.txt", None, b"one").send().await.unwrap();
    assert_eq!(
        (made.status().as_u16(), header(&made, "etag")),
        (201, Some("0"))
    );
    assert_eq!(std::fs::read(b.disk("d/a.txt")).unwrap(), b"one");
    for tag in [None, Some(7)] {
        assert_eq!(b.puts("d/a.txt", tag, b"two").await, 409, "{tag:?}");
    }
    assert_eq!(b.text("d/a.txt").await, "one");
    let replaced = b.put("d/a.txt", Some(0), b"two").send().await.unwrap();
    let tag = header(&replaced, "etag").map(str::to_owned);
    assert_eq!(
        (replaced.status().as_u16(), tag.as_deref()),
        (204, Some("1"))
    );
    assert_eq!(b.puts("d/none", Some(0), b"x").await, 409);
    for want in [204, 404] {
        let gone = b.file("DELETE", "d/a.txt").send().await.unwrap();
        assert_eq!(gone.status(), want);
    }
    assert!(!b.disk("d").exists(), "a directory is only a piece of keys");
    assert_eq!(b.puts("d/a.txt", None, b"").await, 201);
}

#[tokio::test]
async fn if_match_is_a_bare_number() {
    let b = Bench::new().await;
    b.puts("a", None, b"x").await;
    for tag in ["\"0\"", "*", "W/0", "x"] {
        let put = b.put("a", None, b"y").header("if-match", tag);
        assert_eq!(put.send().await.unwrap().status(), 400, "{tag}");
    }
}

#[tokio::test]
async fn what_a_put_must_say_is_asked_for() {
    let b = Bench::new().await;
    let bare = b.file("PUT", "a").body("x").send().await.unwrap();
    assert_eq!(bare.status(), 415);
    for (name, value, want) in [
        ("timestamp", "yesterday", 400),
        ("description", &"d".repeat(101), 400),
        ("type", &"t".repeat(192), 400),
        ("timestamp", "2020-02-03T04:05:06.789Z", 201),
    ] {
        let put = b.put("a", None, b"x").header(name, value);
        assert_eq!(put.send().await.unwrap().status(), want, "{name} {value}");
    }
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>("x")]);
    let chunked = b
        .put("b", None, b"")
        .body(reqwest::Body::wrap_stream(stream));
    assert_eq!(chunked.send().await.unwrap().status(), 411);
    for method in ["HEAD", "POST", "PATCH"] {
        assert_eq!(b.file(method, "a").send().await.unwrap().status(), 405);
    }
    let error = b.file("GET", "none").send().await.unwrap();
    assert!(error.text().await.unwrap().contains("Resource not found."));
}

#[tokio::test]
async fn a_range_has_both_ends_and_its_answer_few_headers() {
    let b = Bench::new().await;
    b.puts("a", None, b"0123456789").await;
    b.puts("empty", None, b"").await;
    for (path, range, status, body) in [
        ("a", "bytes=2-4", 206, "234"),
        ("a", "bytes=8-100", 206, "89"),
        ("a", "bytes=10-10", 416, ""),
        ("empty", "bytes=0-0", 416, ""),
        ("a", "bytes=2-", 400, ""),
        ("a", "bytes=-2", 400, ""),
        ("a", "bytes=0-1,3-4", 400, ""),
        ("a", "bytes=00000000000000-00000000000001", 400, ""),
    ] {
        let get = b.file("GET", path).header("range", range);
        let answer = get.send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {range}");
        if status == 206 {
            assert_eq!(header(&answer, "etag"), None);
            assert_eq!(header(&answer, "content-range"), None);
            assert_eq!(answer.text().await.unwrap(), body);
        }
    }
}

#[tokio::test]
async fn a_whole_file_tells_version_and_time_and_not_its_length() {
    let b = Bench::new().await;
    let time = "2020-02-03T04:05:06.789Z";
    let put = b.put("a", None, b"x").header("timestamp", time);
    put.header("description", "words").send().await.unwrap();
    let answer = b.file("GET", "a").send().await.unwrap();
    assert_eq!(header(&answer, "etag"), Some("0"));
    assert_eq!(header(&answer, "timestamp"), Some(time));
    assert_eq!(header(&answer, "description"), Some("words"));
    assert_eq!(header(&answer, "content-length"), None);
    assert_eq!(answer.text().await.unwrap(), "x");
}

#[tokio::test]
async fn files_and_versions_survive_a_restart_and_a_change_by_hand_is_the_next_version() {
    let b = Bench::new().await;
    b.puts("a", None, b"one").await;
    b.puts("a", Some(0), b"two").await;
    let b = b.restart().await;
    let rows = b.rows("").await;
    assert_eq!((&rows[0]["etag"], &rows[0]["size"]), (&1.into(), &3.into()));
    std::fs::write(b.disk("a"), "by hand").unwrap();
    std::fs::write(b.disk("new"), "").unwrap();
    let rows = b.rows("order=name%20asc").await;
    let tags: Vec<_> = rows.iter().map(|row| row["etag"].as_u64()).collect();
    assert_eq!(tags, [Some(2), Some(0)]);
    assert_eq!(b.puts("a", Some(2), b"three").await, 204);
}

#[tokio::test]
async fn names_that_spring_refuses_are_refused_and_strange_ones_are_not() {
    let b = Bench::new().await;
    for path in ["a//b", "a/", "a%2Fb", "a%5Cb", "a%00", "%2E%2E/a"] {
        assert_eq!(b.puts(path, None, b"x").await, 400, "{path}");
    }
    for path in ["a%20b", "100%25", "s%3Bc", "it%27s", "%C3%A4"] {
        assert_eq!(b.puts(path, None, b"x").await, 201, "{path}");
    }
    assert_eq!(b.puts("100%25/below", None, b"x").await, 400);
    let other = b.request("GET", &format!("files/{}", "0".repeat(32)));
    assert_eq!(other.send().await.unwrap().status(), 404);
    let odd = b.request("GET", "files/ABC");
    assert_eq!(odd.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_in_502() {
    let b = Bench::with(|s| {
        s.iotfile.request_limit = std::time::Duration::from_millis(50);
        s.rate = Some(10_000);
    })
    .await;
    assert_eq!(b.puts("a", None, &vec![1; 20_000]).await, 502);
    assert_eq!(b.keys("").await, Vec::<String>::new());
}
