//! One request each, against a folder with `f` (5 bytes), `e` (empty), `d/` and `d/x/g`.

use crate::bench::{Bench, header};

/// Verb, target, body (`-` is none), status.
const TABLE: &str = "
    uploads in one request
    POST content/n hi 201
    POST content/f hi 201
    POST content/p/q/r/n hi 201
    POST content/d hi 400
    POST content/f/n hi 400
    POST content/ hi 400
    POST content/empty - 201
    PUT content/n hi 201
    PUT content/f hi 400
    PUT content/d hi 400
    PATCH content/f hi 201
    PATCH content/n hi 404

    names
    POST content/a%2Fb hi 400
    POST content/a%5Cb hi 400
    POST content/a%00b hi 400
    POST content/%FF hi 400
    POST content/{255} hi 201
    POST content/{256} hi 400
    POST content/{8192} hi 414
    POST content/._proget_file_history_ hi 400
    POST content/d/._proget_file_history_/x hi 400
    POST dir/._proget_file_history_ - 400
    GET content/._proget_file_history_ - 404
    GET metadata/._proget_file_history_ - 404
    GET content/.assetfs-serve/records - 400
    POST delete/.assetfs-serve?recursive=true - 400

    reading
    GET content/f - 200
    GET content/n - 404
    GET content/f/n - 404
    GET content/d - 400
    GET content/ - 400
    HEAD content/f - 200
    HEAD content/d - 400
    HEAD content/n - 404
    GET metadata/f - 200
    GET metadata/d - 200
    GET metadata/n - 404
    GET metadata/ - 404
    GET metadata/f/n - 404
    GET dir/ - 200
    GET dir - 200
    GET dir/n - 200
    GET dir/f - 200

    folders and deleting
    POST dir/a/b/c - 201
    POST dir/d - 201
    POST dir/f - 400
    POST dir/f/n - 400
    DELETE content/f - 200
    DELETE content/n - 200
    DELETE content/d - 400
    POST delete/f - 200
    POST delete/n - 200
    POST delete/d?recursive=false - 400
    POST delete/d?recursive=false) - 400
    POST delete/d?recursive=True - 200
    POST delete/d/x/y - 200
    POST delete/ - 400

    verbs and operations
    DELETE dir/d - 405
    PUT dir/d - 405
    PUT metadata/f - 405
    GET delete/f - 405
    OPTIONS content/f - 405
    GET nothing/f - 404

    parts
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi 200
    POST content/n{up}&totalParts=1&partSize=2&totalSize=2&offset=0&index=0 hi 200
    POST content/e{up}&index=0&offset=0&totalSize=0&partSize=0&totalParts=1 - 200
    POST content/n{up}&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=0&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2 hi 400
    POST content/n?multipart=upload&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=0 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=2147483648 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 h 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi! 400
    POST content/n{up}&index=0&offset=0&totalSize=2&partSize=0&totalParts=1 - 400
    POST content/n{up}&index=1&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=-1&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=1&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=18446744073709551615&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n{up}&index=0&offset=0&totalSize=x&partSize=2&totalParts=1 hi 400
    POST content/d{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/f/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    PUT content/n{up}&index=0&offset=0&totalSize=2&partSize=2&totalParts=1 hi 400
    POST content/n?multipart=other&id=1 - 400
    POST content/n?multipart=complete - 400
    POST content/n?multipart=complete&id=unknown - 400
";

#[tokio::test]
async fn the_strictness_table_holds() {
    let mut rows = 0;
    for line in TABLE.lines() {
        let [method, target, body, want] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(want) = want.parse::<u16>() else {
            continue;
        };
        rows += 1;
        let mut target = target.replace("{up}", "?multipart=upload&id=1");
        for size in [255, 256, 8192] {
            target = target.replace(&format!("{{{size}}}"), &"x".repeat(size));
        }
        let body = body.trim_start_matches('-').to_owned();
        let b = Bench::new().await;
        std::fs::create_dir_all(b.disk("d/x")).unwrap();
        std::fs::write(b.disk("f"), "Hello").unwrap();
        std::fs::write(b.disk("e"), "").unwrap();
        std::fs::write(b.disk("d/x/g"), "g").unwrap();
        let response = b.request(method, &target).body(body).send().await.unwrap();
        assert_eq!(response.status(), want, "{line}");
        if want == 414 {
            continue;
        }
        assert_eq!(
            header(&response, "x-proget-version"),
            Some("25.0.18.5"),
            "{line}"
        );
        if want >= 400 {
            // What was refused says why, and has changed nothing.
            assert_eq!(
                header(&response, "content-type"),
                Some("text/plain"),
                "{line}"
            );
            assert_eq!(b.text("f").await, "Hello");
            assert_eq!(
                b.names("dir/?recursive=true").await,
                ["d", "d/x", "d/x/g", "e", "f"]
            );
        }
    }
    let written = TABLE
        .lines()
        .filter(|line| line.trim().ends_with(char::is_numeric))
        .count();
    assert_eq!((rows, rows > 80), (written, true));
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
