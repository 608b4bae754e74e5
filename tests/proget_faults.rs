//! ProGet where things go wrong: what each refusal means (spec, section 16), and how uploads find
//! their way round what a server or proxy does not take (sections 7 and 8).
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::Kind;
use assetfs::serve::{Action, Rule};
use assetfs::store::{Addr, Place, Store};
use common::*;
use std::sync::Arc;

async fn started() -> Proget {
    Setup::new().go().await
}

/// Which call a row of the table makes.
#[derive(Clone, Copy, Debug)]
enum Call {
    Stat,
    List,
    Read,
    Put,
    Replace,
    PutExclusive,
    Parts,
    Mkdir,
    Rmdir,
    Remove,
    SetAttrs,
}

async fn call(store: &Arc<dyn Store>, call: Call) -> Result<(), assetfs::error::Error> {
    let root = Addr::from("");
    let content = bytes(10, 2);
    let large = bytes(3 * PART as usize, 3);
    let old = match call {
        Call::Rmdir => Place {
            dir: root.clone(),
            name: "empty".into(),
        },
        _ => place(&root, "old"),
    };
    // The look at what is there must not meet the fault of the row: rows fault other requests.
    let entry = async || store.stat(&old).await;
    match call {
        Call::Stat => store.stat(&old).await.map(drop),
        Call::List => store.list(&root).await.map(drop),
        Call::Read => read_all(store, &entry().await?).await.map(drop),
        Call::Put => common::store(store, &new(&root, "new", &content), &content)
            .await
            .map(drop),
        Call::Replace => {
            let mut new = new(&root, "old", &content);
            new.replaces = Some(entry().await?);
            common::store(store, &new, &content).await.map(drop)
        }
        Call::PutExclusive => {
            let mut new = new(&root, "new", &content);
            new.exclusive = true;
            common::store(store, &new, &content).await.map(drop)
        }
        Call::Parts => common::store(store, &new(&root, "new", &large), &large)
            .await
            .map(drop),
        Call::Mkdir => store.mkdir(&place(&root, "new dir")).await.map(drop),
        Call::Rmdir => store.rmdir(&entry().await?).await,
        Call::Remove => store.remove(&entry().await?).await,
        Call::SetAttrs => {
            let attrs = assetfs::store::Attrs {
                mode: Some(0o600),
                ..Default::default()
            };
            store.set_attrs(&entry().await?, &attrs).await.map(drop)
        }
    }
}

/// The request that carries a call out.
fn aimed(rule: Rule, call: Call) -> Rule {
    match call {
        Call::Stat => rule.method("GET").path("/endpoints/files/metadata/**"),
        Call::List => rule.method("GET").path("/endpoints/files/dir/**"),
        Call::Read => rule.method("GET").path("/endpoints/files/content/**"),
        Call::Put | Call::PutExclusive => rule.method("PUT"),
        Call::Replace => rule.method("POST").path("/endpoints/files/content/**"),
        Call::Parts => rule.method("POST").query("multipart=upload"),
        Call::Mkdir => rule.method("POST").path("/endpoints/files/dir/**"),
        Call::Rmdir => rule.method("POST").path("/endpoints/files/delete/**"),
        Call::Remove => rule.method("DELETE"),
        Call::SetAttrs => rule.method("POST").path("/endpoints/files/metadata/**"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_meaning() {
    use Call::*;
    let mut setup = Setup::new();
    setup.parallel = false;
    let at = setup.go().await;
    let root = Addr::from("");
    let old = bytes(100, 1);
    common::store(&at.store, &new(&root, "old", &old), &old)
        .await
        .unwrap();
    at.store.mkdir(&place(&root, "empty")).await.unwrap();
    let all = [
        Stat,
        List,
        Read,
        Put,
        Replace,
        PutExclusive,
        Parts,
        Mkdir,
        Rmdir,
        Remove,
        SetAttrs,
    ];
    let mut rows: Vec<(Call, u16, Kind)> = vec![
        (Read, 400, Kind::Invalid),
        (Put, 400, Kind::Invalid),
        (Replace, 400, Kind::Invalid),
        (PutExclusive, 400, Kind::Invalid),
        (Mkdir, 400, Kind::Invalid),
        (Rmdir, 400, Kind::Invalid),
        (Remove, 400, Kind::Invalid),
        (Stat, 404, Kind::NotFound),
        (Read, 404, Kind::NotFound),
        (Put, 404, Kind::Protocol),
        (Parts, 404, Kind::Protocol),
        (Put, 413, Kind::TooLarge),
        (Parts, 413, Kind::TooLarge),
        (Read, 416, Kind::Stale),
        (Put, 507, Kind::Full),
        (Parts, 507, Kind::Full),
        (Stat, 302, Kind::Protocol),
        (Read, 302, Kind::Protocol),
    ];
    for call in all {
        for (status, kind) in [
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
        let rule = aimed(Rule::answer(status), what);
        at.server.faults().set(vec![rule]).unwrap();
        let error = call(&at.store, what).await.expect_err("an error");
        assert_eq!(error.kind, want, "{what:?} {status}: {error}");
        let fired = at.server.faults().fired()[0];
        assert!(fired > 0, "{what:?} {status}");
        if matches!(status, 401 | 403) {
            assert_eq!(fired, 1, "{what:?} {status} is not tried again");
        }
        at.server.faults().set(vec![]).unwrap();
        assert_eq!(
            names(&at.store, &root).await,
            ["empty", "old"],
            "{what:?} {status}"
        );
    }
    let entry = at.store.stat(&place(&root, "old")).await.unwrap();
    assert_eq!(read_all(&at.store, &entry).await.unwrap(), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_survives_one_failure_of_any_kind_with_one_outcome() {
    use Call::*;
    let failures = [
        Rule::answer(503),
        Rule::answer(429),
        Rule::answer(500),
        Rule::new(Action::Reset { after: 0 }),
        Rule::new(Action::DropAnswer),
        Rule::new(Action::Truncate { after: 1 }),
    ];
    for what in [
        Stat,
        List,
        Read,
        Put,
        Replace,
        PutExclusive,
        Parts,
        Mkdir,
        Rmdir,
        Remove,
        SetAttrs,
    ] {
        for failure in &failures {
            let mut setup = Setup::new();
            setup.tries = 4;
            let at = setup.go().await;
            let root = Addr::from("");
            let old = bytes(100, 1);
            common::store(&at.store, &new(&root, "old", &old), &old)
                .await
                .unwrap();
            at.store.mkdir(&place(&root, "empty")).await.unwrap();
            let rule = aimed(failure.clone(), what).times(1);
            at.server.faults().set(vec![rule]).unwrap();
            let done = call(&at.store, what).await;
            assert!(done.is_ok(), "{what:?} {failure:?}: {}", done.unwrap_err());
            assert_eq!(at.server.faults().fired(), [1], "{what:?} {failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_made_is_ours_even_if_the_look_at_it_fails() {
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    let look = Rule::answer(503).path("new dir").skip(2).times(1);
    at.server.faults().set(vec![look]).unwrap();
    let done = call(&at.store, Call::Mkdir).await;
    assert!(done.is_ok(), "{}", done.unwrap_err());
    assert_eq!(at.server.faults().fired(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_settled_by_looking() {
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    let content = bytes(3 * PART as usize, 3);
    let lost = Rule::new(Action::DropAnswer)
        .query("multipart=complete")
        .times(1);
    at.server.faults().set(vec![lost]).unwrap();
    let mut new = new(&"".into(), "big", &content);
    new.exclusive = true;
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    assert!(read_all(&at.store, &entry).await.unwrap() == content);
    let completes = (at.seen().iter())
        .filter(|(l, _)| l.contains("multipart=complete"))
        .count();
    assert_eq!(completes, 1, "not repeated blindly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_is_sent_again() {
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    let content = bytes(3 * PART as usize, 3);
    let lost = Rule::new(Action::Reset { after: 0 })
        .query("multipart=complete")
        .times(3);
    at.server.faults().set(vec![lost]).unwrap();
    let new = new(&"".into(), "big", &content);
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    assert!(read_all(&at.store, &entry).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_tried_again_does_not_replace_what_somebody_else_has_put_there_meanwhile()
{
    let mut setup = Setup::new();
    setup.tries = 1;
    let at = setup.go().await;
    let content = bytes(2 * PART as usize, 3);
    let new_big = new(&"".into(), "big", &content);
    let source = Mem(content.clone());
    let up = at.store.start(&new_big).await.unwrap();
    let mut receipts = Vec::new();
    for part in up.cut.parts(new_big.size) {
        receipts.push(at.store.part(&up, &new_big, &part, &source).await.unwrap());
    }
    let lost = Rule::new(Action::Reset { after: 0 }).query("multipart=complete");
    at.server.faults().set(vec![lost]).unwrap();
    let finish = async || at.store.finish(&up, &new_big, &receipts, None).await;
    assert!(finish().await.unwrap_err().kind.worth_another_try());
    at.server.faults().set(Vec::new()).unwrap();
    let theirs = bytes(10, 4);
    let new_theirs = new(&"".into(), "big", &theirs);
    let entry = common::store(&at.store, &new_theirs, &theirs)
        .await
        .unwrap();
    assert_eq!(finish().await.unwrap_err().kind, Kind::Conflict);
    assert!(read_all(&at.store, &entry).await.unwrap() == theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_is_lost_twice_over_is_not_taken_for_somebody_elses() {
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    let content = bytes(10, 3);
    at.server
        .faults()
        .set(vec![
            Rule::new(Action::DropAnswer).method("PUT").times(1),
            // The look that should settle it fails too.
            Rule::new(Action::Reset { after: 0 }).method("GET").times(1),
        ])
        .unwrap();
    let mut new = new(&"".into(), "lock", &content);
    new.exclusive = true;
    common::store(&at.store, &new, &content).await.unwrap();
    let again = common::store(&at.store, &new, &content).await;
    assert_eq!(again.unwrap_err().kind, Kind::Exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_refused_in_parallel_makes_the_next_upload_sequential() {
    let at = started().await;
    let content = bytes(4 * PART as usize, 3);
    let new = new(&"".into(), "big", &content);
    // The first part is still under way when the second is refused.
    let stall = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    let refused = Rule::answer(400).query("index=1&").times(1);
    at.server
        .faults()
        .set(vec![stall.query("index=0&").times(1), refused])
        .unwrap();
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    assert!(read_all(&at.store, &entry).await.unwrap() == content);
    let up = at.store.start(&new).await.unwrap();
    assert!(up.sequential);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_parts_are_refused_the_file_goes_in_one_request() {
    let mut setup = Setup::new();
    setup.parallel = false;
    let at = setup.go().await;
    let refused = Rule::answer(400).query("multipart=");
    at.server.faults().set(vec![refused]).unwrap();
    for (name, seed) in [("one", 3), ("two", 4)] {
        let content = bytes(4 * PART as usize, seed);
        let new = new(&"".into(), name, &content);
        let entry = common::store(&at.store, &new, &content).await.unwrap();
        assert!(read_all(&at.store, &entry).await.unwrap() == content);
    }
    assert_eq!(at.server.faults().fired(), [1], "what was learned is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_size_is_halved_until_it_passes() {
    for status in [413, 404] {
        let mut setup = Setup::new();
        setup.part_size = 2 << 20;
        let at = setup.go().await;
        let limit = Rule {
            body_over: Some(600 * 1024),
            ..Rule::answer(status)
        };
        at.server.faults().set(vec![limit]).unwrap();
        for (name, size) in [("one shot", 2 << 20), ("parts", 5 << 20)] {
            let content = bytes(size, 3);
            let new = new(&"".into(), name, &content);
            let entry = common::store(&at.store, &new, &content)
                .await
                .unwrap_or_else(|e| panic!("{status} {name}: {e}"));
            assert!(read_all(&at.store, &entry).await.unwrap() == content);
        }
        let up = at
            .store
            .start(&new(&"".into(), "x", &bytes(5 << 20, 1)))
            .await
            .unwrap();
        assert_eq!(up.cut.first, 512 * 1024);
        assert_eq!(names(&at.store, &"".into()).await, ["one shot", "parts"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_size_does_not_explain_leave_the_size_alone() {
    let mut setup = Setup::new();
    setup.part_size = 1 << 20;
    let at = setup.go().await;
    at.server.faults().set(vec![Rule::answer(404)]).unwrap();
    let content = bytes(1 << 20, 3);
    let away = common::store(&at.store, &new(&"".into(), "a", &content), &content).await;
    assert_eq!(away.unwrap_err().kind, Kind::Protocol);
    at.server.faults().set(vec![]).unwrap();
    let content = bytes(3 << 20, 3);
    let new = new(&"".into(), "b", &content);
    let up = at.store.start(&new).await.unwrap();
    assert_eq!(up.cut.first, 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_server_refuses_is_invalid_however_large_the_file() {
    let mut setup = Setup::new();
    setup.parallel = false;
    let at = setup.go().await;
    at.server
        .faults()
        .set(vec![Rule::answer(400).path("**/odd:name")])
        .unwrap();
    for size in [10, 3 * PART as usize] {
        let content = bytes(size, 3);
        let refused =
            common::store(&at.store, &new(&"".into(), "odd:name", &content), &content).await;
        assert_eq!(refused.unwrap_err().kind, Kind::Invalid, "{size}");
        let fine = common::store(&at.store, &new(&"".into(), "even", &content), &content).await;
        assert!(fine.is_ok(), "{fine:?}");
    }
    let up = at
        .store
        .start(&new(&"".into(), "b", &bytes(3 * PART as usize, 1)))
        .await
        .unwrap();
    assert!(!up.whole, "one bad name says nothing about parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_part_that_is_not_found_makes_folder_and_then_an_empty_file() {
    let mut setup = Setup::new();
    setup.parallel = false;
    let at = setup.go().await;
    let dir = at.store.mkdir(&place(&"".into(), "d")).await.unwrap().addr;
    at.server.forget_requests();
    let refused = Rule::answer(404).query("multipart=upload").times(2);
    at.server.faults().set(vec![refused]).unwrap();
    let content = bytes(2 * PART as usize, 3);
    let mut new = new(&dir, "big", &content);
    new.exclusive = true;
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    assert!(read_all(&at.store, &entry).await.unwrap() == content);
    let verbs = at.verbs();
    let writes: Vec<_> = verbs.iter().filter(|v| !v.starts_with("GET")).collect();
    assert_eq!(
        writes,
        [
            "POST content",
            "POST dir",
            "POST content",
            "PUT content",
            "POST content",
            "POST content",
            "POST content"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_file_goes_when_the_upload_fails() {
    let mut setup = Setup::new();
    setup.parallel = false;
    let at = setup.go().await;
    let dir = at.store.mkdir(&place(&"".into(), "d")).await.unwrap().addr;
    let refused = Rule::answer(404).query("multipart=upload");
    at.server.faults().set(vec![refused]).unwrap();
    let content = bytes(2 * PART as usize, 3);
    let failed = common::store(&at.store, &new(&dir, "big", &content), &content).await;
    assert_eq!(failed.unwrap_err().kind, Kind::Protocol);
    assert_eq!(at.store.list(&dir).await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_blocks_put_and_delete_is_gone_round() {
    let at = started().await;
    at.server
        .faults()
        .set(vec![
            Rule::answer(405).method("PUT"),
            Rule::answer(405).method("DELETE"),
        ])
        .unwrap();
    let content = bytes(10, 3);
    let mut new = new(&"".into(), "a", &content);
    new.exclusive = true;
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    assert_eq!(
        common::store(&at.store, &new, &content)
            .await
            .unwrap_err()
            .kind,
        Kind::Exists
    );
    at.store.remove(&entry).await.unwrap();
    assert!(names(&at.store, &"".into()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_stored_is_compared_with_what_was_sent() {
    let at = started().await;
    let content = bytes(10, 3);
    let mut new = new(&"".into(), "a", &content);
    new.digests = digests(&bytes(10, 4));
    let error = common::store(&at.store, &new, &content).await.unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch, "{error}");
    let large = bytes(3 * PART as usize, 3);
    let mut new = common::new(&"".into(), "b", &large);
    new.digests = digests(&content);
    let error = common::store(&at.store, &new, &large).await.unwrap_err();
    assert_eq!(error.kind, Kind::Mismatch, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_on_from_the_byte_reached() {
    let mut setup = Setup::new();
    setup.tries = 2;
    let at = setup.go().await;
    let content = bytes(500_000, 3);
    let entry = common::store(&at.store, &new(&"".into(), "a", &content), &content)
        .await
        .unwrap();
    at.server.forget_requests();
    at.server
        .faults()
        .set(vec![
            Rule::new(Action::Truncate { after: 100_000 })
                .method("GET")
                .times(3),
            Rule::new(Action::Stall {
                after: Some(1000),
                seconds: None,
            })
            .method("GET")
            .times(1),
        ])
        .unwrap();
    assert!(read(&at.store, &entry, 10..500_000).await.unwrap() == content[10..]);
    let ranges: Vec<_> = (at.server.requests().into_iter())
        .filter_map(|r| r.range)
        .collect();
    assert_eq!(ranges.len(), 5);
    assert_eq!(ranges[0], "bytes=10-499999");
    assert_eq!(ranges[4], "bytes=301010-499999");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_wrong_directory_are_told_apart_with_what_to_do() {
    use assetfs::http::{Credential, Secret};
    use assetfs::store::proget::{Auth, Config, ProGet};
    let at = started().await;
    let probe = |directory: &str, key: &str| {
        let address = format!("http://{}/endpoints/{directory}", at.server.addr());
        let auth = Auth::Key(Credential::fixed(Secret::new(key)));
        let store = ProGet::new(Config::at(&address, auth).unwrap()).unwrap();
        async move { store.probe().await }
    };
    let error = probe("files", "wrong-key").await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.to_string().contains("check the API key"), "{error}");
    assert!(!format!("{error:?}").contains("wrong-key"));
    let error = probe("flies", KEY).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.to_string().contains("check its name"), "{error}");
    let error = probe("files/nowhere", KEY).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.to_string().contains("no such folder"), "{error}");
    let found = probe("files", KEY).await.unwrap();
    assert!(found.banner.starts_with("ProGet ") && found.account.starts_with("key "));
    assert!(!found.account.contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_read_again_once() {
    use assetfs::http::Credential;
    use assetfs::store::proget::{Auth, ProGet};
    use std::sync::atomic::{AtomicUsize, Ordering};
    let setup = Setup::new();
    let server = assetfs::serve::Server::start(setup.server.clone())
        .await
        .unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let count = reads.clone();
    let mut config = setup.config(&server);
    config.auth = Auth::Key(Credential::read_by(move || {
        Ok(match count.fetch_add(1, Ordering::SeqCst) {
            0 => "old-key".to_owned(),
            _ => format!("{KEY}\n"),
        })
    }));
    let store: Arc<dyn Store> = Arc::new(ProGet::new(config).unwrap());
    let content = bytes(10, 3);
    common::store(&store, &new(&"".into(), "a", &content), &content)
        .await
        .unwrap();
    assert_eq!(names(&store, &"".into()).await, ["a"]);
    assert_eq!(reads.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_password_is_as_good_as_a_key() {
    use assetfs::http::{Credential, Secret};
    use assetfs::store::proget::{Auth, ProGet};
    let mut setup = Setup::new();
    setup.server.key = None;
    setup.server.login = Some(("ann".into(), "pass word".into()));
    let server = assetfs::serve::Server::start(setup.server.clone())
        .await
        .unwrap();
    for (password, works) in [("pass word", true), ("other", false)] {
        let mut config = setup.config(&server);
        config.auth = Auth::User {
            name: "ann".into(),
            password: Credential::fixed(Secret::new(password)),
        };
        let probe = ProGet::new(config).unwrap().probe().await;
        assert_eq!(probe.is_ok(), works, "{probe:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_is_not_stuck_behind_uploads() {
    let at = started().await;
    let stall = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    })
    .method("PUT");
    at.server.faults().set(vec![stall]).unwrap();
    let uploads: Vec<_> = (0..8)
        .map(|n| {
            let store = at.store.clone();
            tokio::spawn(async move {
                let content = bytes(10, n);
                let new = new(&"".into(), &format!("f{n}"), &content);
                common::store(&store, &new, &content).await
            })
        })
        .collect();
    let four =
        |seen: &[assetfs::serve::Request]| seen.iter().filter(|r| r.method == "PUT").count() >= 4;
    at.server.wait_for(four).await;
    assert!(names(&at.store, &"".into()).await.is_empty());
    for upload in uploads {
        upload.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_tried_again_spares_what_somebody_stored_meanwhile() {
    let at = started().await;
    let content = bytes(100, 1);
    let new = new(&Addr::from(""), "a", &content);
    let entry = common::store(&at.store, &new, &content).await.unwrap();
    let later = Rule::answer(503).method("DELETE").times(1);
    at.server.faults().set(vec![later]).unwrap();
    assert_eq!(at.store.remove(&entry).await.unwrap_err().kind, Kind::Later);
    std::fs::write(at.folder.path().join("a"), "theirs").unwrap();
    assert_eq!(
        at.store.remove(&entry).await.unwrap_err().kind,
        Kind::Conflict
    );
    assert_eq!(
        std::fs::read(at.folder.path().join("a")).unwrap(),
        b"theirs"
    );
    let theirs = at.store.stat(&new.place).await.unwrap();
    at.store.remove(&theirs).await.unwrap();
    assert!(!at.folder.path().join("a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_has_its_attributes_though_they_were_refused_for_a_while() {
    let mut setup = Setup::new();
    setup.tries = 3;
    let at = setup.go().await;
    let content = bytes(100, 1);
    let mut new = new(&Addr::from(""), "a", &content);
    new.exclusive = true;
    new.attrs.mode = Some(0o600);
    let attributes = "/endpoints/files/metadata/**";
    for status in [429, 503, 500] {
        new.place.name = status.to_string();
        let refused = Rule::answer(status)
            .method("POST")
            .path(attributes)
            .times(1);
        at.server.faults().set(vec![refused]).unwrap();
        let entry = common::store(&at.store, &new, &content).await.unwrap();
        assert_eq!(entry.attrs, new.attrs, "{status}");
        assert_eq!(at.store.stat(&new.place).await.unwrap().attrs, new.attrs);
    }
}
