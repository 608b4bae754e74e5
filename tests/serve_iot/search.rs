//! The search: filters, order, pages, delay.

use crate::bench::{Bench, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

fn filter(text: &str) -> String {
    let text = utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!("order=name%20asc&filter={text}")
}

async fn filled(b: &Bench) {
    for key in ["a", "d/a", "d/b", "d/e/a"] {
        assert_eq!(b.puts(key, None, b"x").await, 201);
    }
}

#[tokio::test]
async fn a_filter_that_can_be_read_filters_and_another_is_silently_ignored() {
    let b = Bench::new().await;
    filled(&b).await;
    let all = ["a", "d/a", "d/e/a", "d/b"].as_slice();
    for (text, want) in [
        ("path eq 'd/'", ["d/a", "d/b"].as_slice()),
        ("path eq d/", &["d/a", "d/b"]),
        ("path eq 'd'", &[]),
        ("name eq 'a' and path eq 'd/'", &["d/a"]),
        ("path eq 'd*' and name eq a", &["d/a", "d/e/a"]),
        ("path eq ''", all),
        ("name  eq 'b'", all),
        ("color eq 'red'", all),
        ("name eq 'it's'", all),
    ] {
        assert_eq!(b.keys(&filter(text)).await, want, "{text}");
    }
}

#[tokio::test]
async fn a_path_has_a_slash_at_its_end_or_not() {
    for (slash, path, root) in [(true, "d/", Some("")), (false, "d", None)] {
        let b = Bench::with(|s| s.iotfile.slash = slash).await;
        filled(&b).await;
        let rows = b.rows(&filter(&format!("path eq '{path}'"))).await;
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["path"], path);
        let rows = b.rows("order=path%20asc").await;
        assert_eq!(rows[0]["path"].as_str(), root);
    }
}

#[tokio::test]
async fn pages_are_bounded_and_the_total_stands_in_one_of_two_headers() {
    for name in ["x-total-count", "count"] {
        let b = Bench::with(|s| {
            s.iotfile.count_header = name;
            s.iotfile.ceiling = 3;
            s.iotfile.page_max = 2;
        })
        .await;
        filled(&b).await;
        let answer = b.search("count=true&limit=1").await;
        assert_eq!(header(&answer, name), Some("4"));
        assert_eq!(header(&b.search("limit=1").await, name), None);
        assert_eq!(
            b.keys("order=name%20asc&offset=1&limit=2").await,
            ["d/a", "d/e/a"]
        );
        for odd in [
            "limit=0",
            "limit=3",
            "offset=2&limit=2",
            "offset=-1",
            "order=name",
            "order=size%20asc",
        ] {
            assert_eq!(b.search(odd).await.status(), 400, "{odd}");
        }
    }
}

#[tokio::test]
async fn rows_can_be_walked_by_time() {
    let b = Bench::new().await;
    filled(&b).await;
    b.puts("a", Some(0), b"newer").await;
    let rows = b.rows("order=updated%20asc").await;
    let last = rows.last().unwrap();
    assert_eq!(last["name"], "a");
    let since = last["updated"].as_str().unwrap();
    let found = b.keys(&filter(&format!("updated gte '{since}'"))).await;
    assert!(found.contains(&"a".to_owned()), "{found:?}");
}

#[tokio::test]
async fn the_search_lags_behind_and_reading_does_not() {
    let day = Duration::from_secs(24 * 3600);
    let b = Bench::with(|s| s.iotfile.index_delay = day).await;
    b.puts("new", None, b"x").await;
    assert_eq!(b.text("new").await, "x");
    assert_eq!(b.keys("").await, Vec::<String>::new());
    std::fs::write(b.disk("old"), "12").unwrap();
    b.puts("old", Some(0), b"1234").await;
    assert_eq!(b.rows("").await[0]["size"], 2);
    b.file("DELETE", "old").send().await.unwrap();
    assert_eq!(b.keys("").await, ["old"]);
    assert_eq!(b.file("GET", "old").send().await.unwrap().status(), 404);
}
