//! Faults on request.

use crate::bench::{Bench, content, header};
use assetfs::serve::{Action, Rule, Server, Settings};

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
