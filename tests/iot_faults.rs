//! The IoT File Service where things go wrong: what each refusal means (spec, section 10), and how writes
//! find out what became of them (sections 5.5 and 6.3).
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::{Error, Kind};
use assetfs::http::{Credential, Secret, Url};
use assetfs::serve::{Action, Rule};
use assetfs::store::iotfile::Auth;
use assetfs::store::{Addr, Store};
use common::iot::{Iot, Setup};
use common::*;
use std::sync::Arc;
use std::time::Duration;

/// Which call a row of the table makes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Stat,
    List,
    Read,
    ReadRange,
    Put,
    Replace,
    PutExclusive,
    Start,
    Parts,
    Finish,
    Remove,
}

use Call::*;

const ALL: [Call; 11] = [
    Stat,
    List,
    Read,
    ReadRange,
    Put,
    Replace,
    PutExclusive,
    Start,
    Parts,
    Finish,
    Remove,
];

async fn call(store: &Arc<dyn Store>, call: Call) -> Result<(), Error> {
    let root = Addr::from("");
    let (content, large) = (bytes(10, 2), bytes(3 * PART as usize + 5, 3));
    // The look at what is there must not meet the fault of the row: rows fault other requests.
    let entry = async |name: &str| store.stat(&place(&root, name)).await;
    match call {
        Stat => entry("old").await.map(drop),
        List => store.list(&root).await.map(drop),
        Read => read_all(store, &entry("old").await?).await.map(drop),
        ReadRange => read(store, &entry("large").await?, 5..10).await.map(drop),
        Put => common::store(store, &new(&root, "new", &content), &content)
            .await
            .map(drop),
        Replace => {
            let mut new = new(&root, "old", &content);
            new.replaces = Some(entry("old").await?);
            common::store(store, &new, &content).await.map(drop)
        }
        PutExclusive => {
            let mut new = new(&root, "new", &content);
            new.exclusive = true;
            common::store(store, &new, &content).await.map(drop)
        }
        Start | Parts | Finish => common::store(store, &new(&root, "new", &large), &large)
            .await
            .map(drop),
        Remove => store.remove(&entry("old").await?).await,
    }
}

/// The request that carries a call out.
fn aimed(rule: Rule, call: Call) -> Rule {
    let on_file = |rule: Rule| rule.path("/api/iotfile/v3/files/*/**");
    match call {
        Stat | List => rule.method("GET").path("/api/iotfile/v3/files/*"),
        Read | ReadRange => on_file(rule.method("GET")),
        Put | Replace | PutExclusive => on_file(rule.method("PUT")),
        Start => rule.method("PUT").query("upload=start"),
        Parts => rule.method("PUT").query("part="),
        Finish => rule.method("PUT").query("upload=complete"),
        Remove => rule.method("DELETE"),
    }
}

async fn filled(at: &Iot) {
    let root = Addr::from("");
    for (name, size) in [("old", 100), ("large", 300_000)] {
        let content = bytes(size, 1);
        common::store(&at.store, &new(&root, name, &content), &content)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_meaning() {
    let at = Setup::new().go().await;
    filled(&at).await;
    let mut rows: Vec<(Call, u16, Kind)> = vec![
        (Stat, 400, Kind::Invalid),
        // The entity, not the file: nothing may be taken for gone.
        (Stat, 404, Kind::Protocol),
        (List, 404, Kind::Protocol),
        (Read, 400, Kind::Invalid),
        (Read, 404, Kind::NotFound),
        (ReadRange, 416, Kind::Stale),
        (Put, 400, Kind::Invalid),
        (Put, 404, Kind::Protocol),
        (Put, 409, Kind::Conflict),
        (Replace, 409, Kind::Conflict),
        (Put, 413, Kind::TooLarge),
        (Put, 507, Kind::Full),
        (Start, 400, Kind::Invalid),
        (Start, 404, Kind::Protocol),
        (Start, 409, Kind::Conflict),
        (Parts, 400, Kind::Restart),
        (Parts, 404, Kind::Restart),
        (Parts, 409, Kind::Restart),
        (Parts, 413, Kind::TooLarge),
        (Finish, 400, Kind::Restart),
        (Finish, 404, Kind::Restart),
        (Remove, 400, Kind::Invalid),
        (Remove, 404, Kind::NotFound),
    ];
    for call in ALL {
        for (status, kind) in [
            (302, Kind::Protocol),
            (401, Kind::Denied),
            (403, Kind::Denied),
            (408, Kind::Timeout),
            (429, Kind::Later),
            (500, Kind::Broken),
            (502, Kind::Broken),
            (503, Kind::Later),
        ] {
            rows.push((call, status, kind));
        }
    }
    for (what, status, want) in rows {
        // A file that was thought gone comes back with the next look.
        at.server.faults().set(vec![]).unwrap();
        assert_eq!(
            names(&at.store, &"".into()).await,
            ["large", "old"],
            "before {what:?} {status}"
        );
        let rule = aimed(Rule::answer(status), what);
        at.server.faults().set(vec![rule]).unwrap();
        let error = call(&at.store, what).await.expect_err("an error");
        assert_eq!(error.kind, want, "{what:?} {status}: {error}");
        let fired = at.server.faults().fired()[0];
        assert!(fired > 0, "{what:?} {status}");
        if matches!(status, 401 | 403) {
            // Two parts are on their way at once.
            let most = if what == Parts { 2 } else { 1 };
            assert!(fired <= most, "{what:?} {status} is not tried again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_survives_one_failure_of_any_kind_with_one_outcome() {
    let failures = [
        Rule::answer(503),
        Rule::answer(429),
        Rule::answer(502),
        Rule::new(Action::Reset { after: 0 }),
        Rule::new(Action::DropAnswer),
        Rule::new(Action::Truncate { after: 1 }),
    ];
    for what in ALL {
        for failure in &failures {
            let mut setup = Setup::new();
            setup.tries = 4;
            let at = setup.go().await;
            filled(&at).await;
            let rule = aimed(failure.clone(), what).times(1);
            at.server.faults().set(vec![rule]).unwrap();
            let done = call(&at.store, what).await;
            assert!(done.is_ok(), "{what:?} {failure:?}: {}", done.unwrap_err());
            assert_eq!(at.server.faults().fired(), [1], "{what:?} {failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_and_look_are_lost_is_not_taken_for_somebody_elses() {
    for (exclusive, size) in [(false, 10), (true, 10), (true, 3 * PART as usize)] {
        let mut setup = Setup::new();
        setup.tries = 5;
        let at = setup.go().await;
        let content = bytes(size, 3);
        let step = if size == 10 { "" } else { "upload=complete" };
        at.server
            .faults()
            .set(vec![
                Rule::new(Action::DropAnswer)
                    .method("PUT")
                    .query(step)
                    .times(1),
                // The look that should settle it fails too.
                Rule::new(Action::Reset { after: 0 })
                    .method("GET")
                    .path("/api/iotfile/v3/files/*/**")
                    .skip(u64::from(exclusive))
                    .times(1),
            ])
            .unwrap();
        let mut new = new(&"".into(), "lock", &content);
        new.exclusive = exclusive;
        common::store(&at.store, &new, &content)
            .await
            .unwrap_or_else(|e| panic!("{exclusive} {size}: {e}"));
        assert_eq!(at.server.faults().fired(), [1, 1]);
        if exclusive {
            let again = common::store(&at.store, &new, &content).await;
            assert_eq!(again.unwrap_err().kind, Kind::Exists);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_after_a_lost_answer_replaces_the_lost_one() {
    let at = Setup::new().go().await;
    let (first, second) = (bytes(10, 1), bytes(10, 2));
    at.server
        .faults()
        .set(vec![
            Rule::new(Action::DropAnswer).method("PUT").times(1),
            Rule::new(Action::Reset { after: 0 })
                .method("GET")
                .path("/api/iotfile/v3/files/*/**")
                .times(1),
        ])
        .unwrap();
    let lost = common::store(&at.store, &new(&"".into(), "f", &first), &first).await;
    assert_eq!(lost.unwrap_err().kind, Kind::Broken);
    let entry = common::store(&at.store, &new(&"".into(), "f", &second), &second)
        .await
        .unwrap();
    assert_eq!(read_all(&at.store, &entry).await.unwrap(), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_newer_version_is_a_conflict_and_stays() {
    for size in [10, 3 * PART as usize] {
        let at = Setup::new().go().await;
        filled(&at).await;
        let old = at.store.stat(&place(&"".into(), "old")).await.unwrap();
        std::fs::write(at.folder.path().join("old"), "theirs").unwrap();
        let content = bytes(size, 7);
        let mut new = new(&"".into(), "old", &content);
        new.replaces = Some(old);
        let done = common::store(&at.store, &new, &content).await;
        assert_eq!(done.unwrap_err().kind, Kind::Conflict);
        let now = at.store.stat(&place(&"".into(), "old")).await.unwrap();
        assert_eq!(read_all(&at.store, &now).await.unwrap(), b"theirs");
        // What was to be replaced and is gone is no reason to lose ours.
        std::fs::remove_file(at.folder.path().join("old")).unwrap();
        new.replaces = Some(now);
        let entry = common::store(&at.store, &new, &content).await.unwrap();
        assert!(read_all(&at.store, &entry).await.unwrap() == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_of_a_crash_is_given_up_and_the_upload_begins_anew() {
    let at = Setup::new().go().await;
    let content = bytes(3 * PART as usize, 3);
    let new = new(&"".into(), "big", &content);
    let up = at.store.start(&new).await.unwrap();
    let part = &up.cut.parts(new.size)[0];
    at.store
        .part(&up, &new, part, &Mem(content.clone()))
        .await
        .unwrap();
    // Another process, which knows nothing of it.
    let setup = Setup::new();
    let (other, _) = iot::store_on(setup.config(&at.server), 1);
    let entry = common::store(&other, &new, &content).await.unwrap();
    assert!(read_all(&other, &entry).await.unwrap() == content);
    let late = at.store.part(&up, &new, part, &Mem(content.clone())).await;
    assert_eq!(late.unwrap_err().kind, Kind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_of_a_path_is_under_way_at_a_time() {
    let at = Setup::new().go().await;
    let content = bytes(3 * PART as usize, 3);
    let new = new(&"".into(), "big", &content);
    let up = at.store.start(&new).await.unwrap();
    let second = tokio::spawn({
        let (store, new, content) = (at.store.clone(), new.clone(), content.clone());
        async move { common::store(&store, &new, &content).await }
    });
    assert_eq!(at.writes(), ["PUT files/big?upload=start"]);
    at.store.abort(&up, &new).await.unwrap();
    second.await.unwrap().unwrap();
    let writes = at.writes();
    assert_eq!(
        writes[..3],
        [
            "PUT files/big?upload=start",
            "PUT files/big?upload=abort",
            "PUT files/big?upload=start"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_lost_make_the_upload_start_over_and_parts_that_are_there_are_told() {
    let at = Setup::new().go().await;
    let content = bytes(3 * PART as usize, 3);
    let new = new(&"".into(), "big", &content);
    let source = Mem(content.clone());
    let up = at.store.start(&new).await.unwrap();
    let parts = up.cut.parts(new.size);
    let mut sent = Vec::new();
    for part in &parts[..2] {
        sent.push(at.store.part(&up, &new, part, &source).await.unwrap());
    }
    assert_eq!(at.store.receipts(&up, &new).await.unwrap(), sent);
    at.store.abort(&up, &new).await.unwrap();
    assert_eq!(
        at.store.receipts(&up, &new).await.unwrap_err().kind,
        Kind::Restart
    );
    let tail = Some((&parts[2], &source as &dyn assetfs::store::Source));
    let void = at.store.finish(&up, &new, &sent, tail).await;
    assert_eq!(void.unwrap_err().kind, Kind::Restart);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_beyond_999_is_too_large() {
    let at = Setup::new().go().await;
    let new = new(&"".into(), "big", &bytes(3 * PART as usize, 3));
    let up = at.store.start(&new).await.unwrap();
    let part = assetfs::store::Part {
        index: 999,
        range: 0..PART,
    };
    let done = at
        .store
        .part(&up, &new, &part, &Mem(bytes(PART as usize, 1)))
        .await;
    assert_eq!(done.unwrap_err().kind, Kind::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_once_when_it_is_refused_and_before_it_ends() {
    let mut setup = Setup::new();
    setup.client = true;
    let at = setup.go().await;
    filled(&at).await;
    let tokens = || {
        let is = |line: &&String| line.contains("oauth/token");
        at.seen().iter().filter(is).count()
    };
    assert_eq!(tokens(), 1);
    at.server
        .faults()
        .set(vec![Rule::answer(401).method("PUT").times(1)])
        .unwrap();
    let content = bytes(5 * PART as usize, 1);
    common::store(&at.store, &new(&"".into(), "big", &content), &content)
        .await
        .unwrap();
    assert_eq!(tokens(), 2);
    at.server
        .faults()
        .set(vec![Rule::answer(401).method("PUT")])
        .unwrap();
    let content = bytes(5, 1);
    let denied = common::store(&at.store, &new(&"".into(), "f", &content), &content).await;
    assert_eq!(denied.unwrap_err().kind, Kind::Denied);
    assert_eq!(at.server.faults().fired(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lives_a_moment_is_renewed_without_an_error() {
    let mut setup = Setup::new();
    setup.client = true;
    setup.server.iotfile.token_life = Duration::from_secs(1);
    setup.server.iotfile.token_told = Some(Duration::from_secs(1799));
    setup.server.rate = Some(400_000);
    let at = setup.go().await;
    let content = bytes(9 * PART as usize, 1);
    let entry = common::store(&at.store, &new(&"".into(), "big", &content), &content)
        .await
        .unwrap();
    assert!(read_all(&at.store, &entry).await.unwrap() == content);
    assert_eq!(at.stats.counts().retries, 0);
    let seen = at.seen();
    let tokens = seen.iter().filter(|line| line.contains("oauth/token"));
    assert!(tokens.count() > 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_a_wrong_entity_are_told_apart_when_mounting() {
    let mut setup = Setup::new();
    setup.server.key = None;
    let at = Iot {
        server: assetfs::serve::Server::start(setup.server.clone())
            .await
            .unwrap(),
        ..Setup::new().go().await
    };
    let (store, _) = iot::store_on(setup.config(&at.server), 1);
    assert_eq!(store.probe().await.unwrap_err().kind, Kind::Denied);
    setup.client = true;
    let (store, _) = iot::store_on(setup.config(&at.server), 1);
    let probe = store.probe().await.unwrap();
    assert_eq!(probe.account, "assetfs for tenant user");
    let mut config = setup.config(&at.server);
    config.auth = Auth::Tenant {
        id: "id".to_owned(),
        secret: Credential::fixed(Secret::new("secret")),
        tenant: "acme".to_owned(),
    };
    let url = format!("http://{}/oauth/token", at.server.addr());
    config.token_url = Some(Url::parse(&url).unwrap());
    let (store, _) = iot::store_on(config, 1);
    assert_eq!(store.probe().await.unwrap().account, "id of tenant acme");
    let mut config = setup.config(&at.server);
    config.entity = "f".repeat(32);
    let (store, _) = iot::store_on(config, 1);
    assert_eq!(store.probe().await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_tried_again_spares_what_somebody_stored_meanwhile() {
    let at = Setup::new().go().await;
    filled(&at).await;
    let entry = at.store.stat(&place(&"".into(), "old")).await.unwrap();
    let later = Rule::answer(503).method("DELETE").times(1);
    at.server.faults().set(vec![later]).unwrap();
    at.server.forget_requests();
    assert_eq!(at.store.remove(&entry).await.unwrap_err().kind, Kind::Later);
    assert_eq!(
        at.seen(),
        ["DELETE files/old"],
        "nothing is asked the first time"
    );
    std::fs::write(at.folder.path().join("old"), "theirs").unwrap();
    assert_eq!(
        at.store.remove(&entry).await.unwrap_err().kind,
        Kind::Conflict
    );
    assert_eq!(
        std::fs::read(at.folder.path().join("old")).unwrap(),
        b"theirs"
    );
    // What is known to be another one is not asked for either.
    let theirs = at.store.stat(&place(&"".into(), "old")).await.unwrap();
    assert_eq!(
        at.store.remove(&entry).await.unwrap_err().kind,
        Kind::Conflict
    );
    at.store.remove(&theirs).await.unwrap();
    assert!(!at.folder.path().join("old").exists());
}
