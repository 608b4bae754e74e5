//! Box where things go wrong: what each refusal means (spec, section 6), and how writes find out what became
//! of them (sections 7 and 12).
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::{Error, Kind};
use assetfs::http::Secret;
use assetfs::serve::{Action, Rule, Server};
use assetfs::store::boxcom::{Auth, Config, Root};
use assetfs::store::{Addr, Attrs, Store};
use common::boxcom::{Boxed, Setup, at, secret, store_on};
use common::*;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Which call a row of the table makes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Stat,
    List,
    Read,
    Put,
    Replace,
    PutExclusive,
    Start,
    Parts,
    Finish,
    FinishExclusive,
    Remove,
    Mkdir,
    Rmdir,
    Rename,
    RenameOver,
    SetAttrs,
    Space,
}

use Call::*;

const ALL: [Call; 17] = [
    Stat,
    List,
    Read,
    Put,
    Replace,
    PutExclusive,
    Start,
    Parts,
    Finish,
    FinishExclusive,
    Remove,
    Mkdir,
    Rmdir,
    Rename,
    RenameOver,
    SetAttrs,
    Space,
];

fn root() -> Addr {
    Addr::from("folder/0")
}

async fn call(store: &Arc<dyn Store>, call: Call) -> Result<(), Error> {
    let root = root();
    let (content, large) = (bytes(10, 2), bytes(3 * PART as usize + 5, 3));
    // The look at what is there must not meet the fault of the row: rows fault other requests.
    let entry = async |name: &str| store.stat(&place(&root, name)).await;
    match call {
        Stat => entry("old").await.map(drop),
        List => store.list(&root).await.map(drop),
        Read => read_all(store, &entry("old").await?).await.map(drop),
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
        FinishExclusive => {
            let mut new = new(&root, "new", &large);
            new.exclusive = true;
            common::store(store, &new, &large).await.map(drop)
        }
        Remove => store.remove(&entry("old").await?).await,
        Mkdir => store.mkdir(&place(&root, "made")).await.map(drop),
        Rmdir => store.rmdir(&entry("dir").await?).await,
        Rename => {
            let old = entry("old").await?;
            store
                .rename(&old, &place(&root, "new"), None)
                .await
                .map(drop)
        }
        RenameOver => {
            let (old, other) = (entry("old").await?, entry("other").await?);
            let to = place(&root, "other");
            store.rename(&old, &to, Some(&other)).await.map(drop)
        }
        SetAttrs => {
            let attrs = Attrs {
                mtime: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)),
                ..Attrs::default()
            };
            let old = entry("old").await?;
            store.set_attrs(&old, &attrs).await.map(drop)
        }
        Space => store.space().await.map(drop),
    }
}

/// The request that carries a call out.
fn aimed(rule: Rule, call: Call) -> Rule {
    match call {
        Stat => rule.method("GET").path("/2.0/files/*"),
        List => rule.method("GET").path("/2.0/folders/*/items"),
        Read => rule.method("GET").path("/2.0/files/*/content"),
        Put | PutExclusive => rule.method("POST").path("/api/2.0/files/content"),
        Replace => rule.method("POST").path("/api/2.0/files/*/content"),
        Start => rule.method("POST").path("/api/2.0/files/upload_sessions"),
        Parts => rule.method("PUT").path("/api/2.0/files/upload_sessions/*"),
        Finish | FinishExclusive => rule
            .method("POST")
            .path("/api/2.0/files/upload_sessions/*/commit"),
        Remove => rule.method("DELETE").path("/2.0/files/*"),
        Mkdir => rule.method("POST").path("/2.0/folders"),
        Rmdir => rule.method("DELETE").path("/2.0/folders/*"),
        Rename | RenameOver | SetAttrs => rule.method("PUT").path("/2.0/files/*"),
        Space => rule.path("/2.0/users/me"),
    }
}

/// An answer with the service's error body.
fn says(status: u16, code: &str) -> Rule {
    let body = match code {
        "" => String::new(),
        code => {
            json!({"type": "error", "status": status, "code": code, "message": "No"}).to_string()
        }
    };
    Rule::new(Action::Answer {
        status,
        retry_after: None,
        headers: [].into(),
        body,
        early: false,
    })
}

async fn filled(at: &Boxed) {
    let root = root();
    for name in ["old", "other"] {
        let content = bytes(100, 1);
        common::store(&at.store, &new(&root, name, &content), &content)
            .await
            .unwrap();
    }
    at.store.mkdir(&place(&root, "dir")).await.unwrap();
    // Names are known from here on, so that each call makes few requests.
    at.store.list(&root).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_meaning() {
    let mut rows: Vec<(Call, u16, &str, Kind)> = vec![
        (Stat, 404, "not_found", Kind::NotFound),
        (Stat, 404, "trashed", Kind::NotFound),
        (Stat, 405, "method_not_allowed", Kind::Protocol),
        (List, 404, "not_found", Kind::NotFound),
        (List, 400, "invalid_limit", Kind::Invalid),
        (Put, 400, "bad_request", Kind::Invalid),
        (Put, 400, "item_name_invalid", Kind::Invalid),
        (Put, 400, "item_name_too_long", Kind::NameTooLong),
        (Put, 400, "bad_digest", Kind::Mismatch),
        (Put, 403, "storage_limit_exceeded", Kind::Quota),
        (Put, 403, "file_size_limit_exceeded", Kind::TooLarge),
        (Put, 404, "not_found", Kind::NotFound),
        (Put, 409, "name_temporarily_reserved", Kind::Busy),
        (Put, 409, "operation_blocked_temporary", Kind::Busy),
        (Put, 411, "length_required", Kind::Protocol),
        (Put, 413, "request_entity_too_large", Kind::TooLarge),
        (Start, 400, "missing_file_size", Kind::Invalid),
        (Start, 403, "storage_limit_exceeded", Kind::Quota),
        (Start, 404, "invalid_parameter", Kind::NotFound),
        (Start, 409, "session_conflict", Kind::Conflict),
        (Parts, 404, "not_found", Kind::Restart),
        (Parts, 410, "session_expired", Kind::Restart),
        (Parts, 412, "precondition_failed", Kind::Mismatch),
        (Parts, 400, "digest_mismatch", Kind::Mismatch),
        (Parts, 416, "range_not_satisfiable", Kind::Restart),
        (Parts, 416, "range_overlaps_existing_part", Kind::Restart),
        (Parts, 403, "forbidden", Kind::Denied),
        (Finish, 400, "parts_mismatch", Kind::Restart),
        (Finish, 400, "digest_mismatch", Kind::Restart),
        (Finish, 404, "not_found", Kind::Restart),
        (Finish, 410, "upload_failed", Kind::Restart),
        (FinishExclusive, 409, "item_name_in_use", Kind::Exists),
        (Remove, 404, "not_found", Kind::NotFound),
        (Remove, 403, "access_denied_item_locked", Kind::Denied),
        (Mkdir, 409, "item_name_in_use", Kind::Exists),
        (Mkdir, 404, "not_found", Kind::NotFound),
        (Rmdir, 400, "folder_not_empty", Kind::NotEmpty),
        (Rename, 409, "item_name_in_use", Kind::Exists),
        (Rename, 400, "cyclical_folder_structure", Kind::Invalid),
        (Rename, 404, "not_found", Kind::NotFound),
        (Rename, 409, "operation_blocked_temporary", Kind::Busy),
        (RenameOver, 403, "forbidden", Kind::Denied),
    ];
    for call in ALL {
        for (status, code, kind) in [
            (302, "", Kind::Protocol),
            (401, "", Kind::Denied),
            (403, "access_denied_insufficient_permissions", Kind::Denied),
            (429, "rate_limit_exceeded", Kind::Later),
            (500, "", Kind::Broken),
            (502, "", Kind::Broken),
            (503, "unavailable", Kind::Later),
        ] {
            // A download is a redirect, and permissions are a sign of a plan without versions.
            if call != Read || !matches!(status, 302 | 403) {
                rows.push((call, status, code, kind));
            }
        }
    }
    for (what, status, code, want) in rows {
        let at = Setup::new().go().await;
        filled(&at).await;
        let rule = aimed(says(status, code), what);
        at.server.faults().set(vec![rule]).unwrap();
        let error = call(&at.store, what).await.expect_err("an error");
        assert_eq!(error.kind, want, "{what:?} {status} {code}: {error}");
        let fired = at.server.faults().fired()[0];
        assert!(fired > 0, "{what:?} {status} {code}");
        if status == 401 {
            // Two parts are on their way at once.
            let most = if what == Parts { 2 } else { 1 };
            assert!(fired <= most, "{what:?} {status} is not tried again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_survives_one_failure_of_any_kind_with_one_outcome() {
    let failures = [
        says(503, ""),
        says(429, "rate_limit_exceeded"),
        says(502, ""),
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
            at.server.faults().set(vec![]).unwrap();
            let mut want = vec!["dir", "old", "other"];
            match what {
                Put | PutExclusive | Start | Parts | Finish | FinishExclusive => want.push("new"),
                Remove | RenameOver => want.retain(|name| *name != "old"),
                Rename => want = vec!["dir", "new", "other"],
                Mkdir => want.push("made"),
                Rmdir => want.retain(|name| *name != "dir"),
                _ => {}
            }
            want.sort_unstable();
            let there = names(&at.store, &root()).await;
            assert_eq!(there, want, "{what:?} {failure:?}");
        }
    }
}

/// A large upload against a rule, and what it has sent.
async fn large(rules: Vec<Rule>) -> (Boxed, Result<(), Error>) {
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    at.server.faults().set(rules).unwrap();
    let done = call(&at.store, Start).await;
    (at, done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_stored_without_an_answer_is_found_and_not_sent_again() {
    for failure in [
        Rule::new(Action::DropAnswer),
        Rule::new(Action::Truncate { after: 3 }),
    ] {
        let (at, done) = large(vec![aimed(failure, Parts).times(1)]).await;
        done.unwrap();
        let seen = at.uploads();
        let count = |what: &str| seen.iter().filter(|line| *line == what).count();
        assert_eq!(count("PUT upload_sessions/S"), 4, "{seen:?}");
        assert_eq!(count("GET upload_sessions/S/parts"), 1, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_overlaps_our_own_is_taken_for_sent() {
    // The list that would tell fails as well.
    let list = says(500, "")
        .path("/api/2.0/files/upload_sessions/*/parts")
        .times(1);
    let (at, done) = large(vec![
        aimed(Rule::new(Action::DropAnswer), Parts).times(1),
        list,
    ])
    .await;
    done.unwrap();
    let seen = at.uploads();
    let sent = seen.iter().filter(|line| *line == "PUT upload_sessions/S");
    assert_eq!(sent.count(), 5, "{seen:?}");
    let began = seen.iter().filter(|line| *line == "POST upload_sessions");
    assert_eq!(began.count(), 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_arrive_changed_are_sent_again_twice_at_most() {
    let (at, done) = large(vec![
        aimed(says(412, "precondition_failed"), Parts).times(2),
    ])
    .await;
    done.unwrap();
    assert_eq!(at.server.faults().fired(), [2]);
    let mut setup = Setup::new();
    setup.tries = 4;
    let at = setup.go().await;
    let bad = aimed(says(400, "bad_digest"), Put).times(2);
    at.server.faults().set(vec![bad]).unwrap();
    call(&at.store, Put).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_repeated_while_it_is_told_to_come_later() {
    let mut setup = Setup::new();
    setup.server.boxcom.commit_waits = 20;
    setup.server.boxcom.parts_mismatch = 2;
    let at = setup.go().await;
    call(&at.store, Finish).await.unwrap();
    let commits = |seen: Vec<String>| seen.iter().filter(|l| l.ends_with("/commit")).count();
    assert_eq!(commits(at.uploads()), 23);
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_settled_by_looking() {
    let (at, done) = large(vec![aimed(Rule::new(Action::DropAnswer), Finish).times(1)]).await;
    done.unwrap();
    let commits = at
        .uploads()
        .iter()
        .filter(|l| l.ends_with("/commit"))
        .count();
    assert_eq!(commits, 1);
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_version_is_a_success_with_the_time_that_was_asked_for() {
    let at = Setup::new().go().await;
    let content = bytes(2 * PART as usize, 1);
    let mut new = new(&root(), "f", &content);
    let first = common::store(&at.store, &new, &content).await.unwrap();
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    new.attrs.mtime = Some(mtime);
    new.replaces = Some(first.clone());
    let second = common::store(&at.store, &new, &content).await.unwrap();
    assert_eq!(
        (second.version, second.attrs.mtime),
        (first.version, Some(mtime))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_newer_version_is_a_conflict_and_stays() {
    for size in [20, 2 * PART as usize] {
        let at = Setup::new().go().await;
        let (one, two, three) = (bytes(size, 1), bytes(size, 2), bytes(size, 3));
        let first = new(&root(), "f", &one);
        let first = common::store(&at.store, &first, &one).await.unwrap();
        let mut other = new(&root(), "f", &two);
        other.replaces = Some(first.clone());
        common::store(&at.store, &other, &two).await.unwrap();
        let mut late = new(&root(), "f", &three);
        late.replaces = Some(first);
        let refused = common::store(&at.store, &late, &three).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict, "{size}");
        assert_eq!(std::fs::read(at.folder.path().join("f")).unwrap(), two);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_or_time_is_no_conflict_and_a_file_that_is_gone_is_made_anew() {
    for size in [20, 2 * PART as usize] {
        let at = Setup::new().go().await;
        let (one, two) = (bytes(size, 1), bytes(size, 2));
        let first = common::store(&at.store, &new(&root(), "f", &one), &one)
            .await
            .unwrap();
        let attrs = Attrs {
            mtime: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5)),
            ..Attrs::default()
        };
        at.store.set_attrs(&first, &attrs).await.unwrap();
        let mut over = new(&root(), "f", &two);
        over.replaces = Some(first.clone());
        let second = common::store(&at.store, &over, &two).await.unwrap();
        assert_eq!(second.addr, first.addr);
        // Moved away by somebody: what is there is not touched.
        at.store
            .rename(&second, &place(&root(), "elsewhere"), None)
            .await
            .unwrap();
        over.replaces = Some(second.clone());
        let third = common::store(&at.store, &over, &two).await.unwrap();
        assert_ne!(third.addr, second.addr);
        assert_eq!(names(&at.store, &root()).await, ["elsewhere", "f"]);
        at.store.remove(&third).await.unwrap();
        over.replaces = Some(third);
        common::store(&at.store, &over, &two).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_during_a_session_is_replaced_by_a_version_unless_it_must_be_new() {
    for exclusive in [false, true] {
        let at = Setup::new().go().await;
        let (content, other) = (bytes(2 * PART as usize, 1), bytes(20, 2));
        let mut new = new(&root(), "f", &content);
        new.exclusive = exclusive;
        let up = at.store.start(&new).await.unwrap();
        let source = Mem(content.clone());
        let mut receipts = Vec::new();
        for part in up.cut.parts(new.size) {
            receipts.push(at.store.part(&up, &new, &part, &source).await.unwrap());
        }
        let mut theirs = common::new(&root(), "f", &other);
        theirs.exclusive = true;
        common::store(&at.store, &theirs, &other).await.unwrap();
        let refused = at
            .store
            .finish(&up, &new, &receipts, None)
            .await
            .unwrap_err();
        let want = if exclusive {
            Kind::Exists
        } else {
            Kind::Restart
        };
        assert_eq!(refused.kind, want);
        at.store.abort(&up, &new).await.unwrap();
        if !exclusive {
            common::store(&at.store, &new, &content).await.unwrap();
            assert_eq!(std::fs::read(at.folder.path().join("f")).unwrap(), content);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_of_a_crash_is_given_up_and_the_upload_begins_anew() {
    let at = Setup::new().go().await;
    let content = bytes(2 * PART as usize, 1);
    let new = new(&root(), "f", &content);
    at.store.start(&new).await.unwrap();
    common::store(&at.store, &new, &content).await.unwrap();
    let seen = at.uploads();
    assert_eq!(
        seen[..4],
        [
            "POST upload_sessions",
            "POST upload_sessions",
            "DELETE upload_sessions/S",
            "POST upload_sessions",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_with_the_parts_that_are_there() {
    let at = Setup::new().go().await;
    let content = bytes(3 * PART as usize + 7, 1);
    let (new, source) = (new(&root(), "f", &content), Mem(content.clone()));
    let up = at.store.start(&new).await.unwrap();
    let parts = up.cut.parts(new.size);
    for n in [2, 0] {
        at.store.part(&up, &new, &parts[n], &source).await.unwrap();
    }
    // What was recorded is all that another process needs.
    let text = serde_json::to_string(&up).unwrap();
    let up = serde_json::from_str(&text).unwrap();
    let mut receipts = at.store.receipts(&up, &new).await.unwrap();
    let there: Vec<u32> = receipts.iter().map(|receipt| receipt.part.index).collect();
    assert_eq!(there, [0, 2]);
    for n in [1, 3] {
        receipts.push(at.store.part(&up, &new, &parts[n], &source).await.unwrap());
    }
    receipts.sort_by_key(|receipt| receipt.part.index);
    at.store.finish(&up, &new, &receipts, None).await.unwrap();
    assert_eq!(std::fs::read(at.folder.path().join("f")).unwrap(), content);
    assert_eq!(
        at.store.receipts(&up, &new).await.unwrap_err().kind,
        Kind::Restart
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_ended_is_begun_anew() {
    let at = Setup::new().go().await;
    let gone = aimed(says(410, "session_expired"), Parts).skip(1).times(1);
    at.server.faults().set(vec![gone]).unwrap();
    call(&at.store, Parts).await.unwrap();
    let began = at
        .uploads()
        .iter()
        .filter(|l| *l == "POST upload_sessions")
        .count();
    assert_eq!(began, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_takes_no_session_for_goes_in_one_request() {
    let mut setup = Setup::new();
    setup.server.boxcom.session_min = 100 * PART;
    let at = setup.go().await;
    call(&at.store, Start).await.unwrap();
    assert_eq!(at.uploads(), ["POST upload_sessions", "POST content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_over_a_file_that_fails_gives_the_old_one_its_name_back() {
    let at = Setup::new().go().await;
    filled(&at).await;
    // The second of the three requests.
    let fails = aimed(says(403, "forbidden"), RenameOver).skip(1).times(1);
    at.server.faults().set(vec![fails]).unwrap();
    let error = call(&at.store, RenameOver).await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert_eq!(names(&at.store, &root()).await, ["dir", "old", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_over_a_file_survives_the_loss_of_each_answer() {
    for skip in 0..2 {
        let at = Setup::new().go().await;
        filled(&at).await;
        let lost = aimed(Rule::new(Action::DropAnswer), RenameOver)
            .skip(skip)
            .times(1);
        at.server.faults().set(vec![lost]).unwrap();
        call(&at.store, RenameOver).await.unwrap();
        assert_eq!(at.server.faults().fired(), [1]);
        assert_eq!(names(&at.store, &root()).await, ["dir", "other"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_over_a_file_goes_on_when_nobody_waits_for_it_any_more() {
    let at = Setup::new().go().await;
    filled(&at).await;
    let stall = Rule::new(Action::Stall {
        after: None,
        seconds: Some(0.3),
    });
    let stall = aimed(stall, RenameOver).skip(1).times(1);
    at.server.faults().set(vec![stall]).unwrap();
    let store = at.store.clone();
    let waiting = tokio::spawn(async move { call(&store, RenameOver).await });
    let count = |seen: &[assetfs::serve::Request], verb: &str| {
        seen.iter().filter(|request| request.method == verb).count()
    };
    at.server.wait_for(|seen| count(seen, "PUT") == 2).await;
    waiting.abort();
    at.server
        .wait_for(|seen| count(seen, "DELETE") == 1 && seen.iter().all(|r| r.ended))
        .await;
    assert_eq!(names(&at.store, &root()).await, ["dir", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_by_others_or_moved_away_is_not_removed() {
    let at = Setup::new().go().await;
    filled(&at).await;
    let old = at.store.stat(&place(&root(), "old")).await.unwrap();
    let content = bytes(7, 7);
    let newer = common::store(&at.store, &new(&root(), "old", &content), &content)
        .await
        .unwrap();
    assert_eq!(
        at.store.remove(&old).await.unwrap_err().kind,
        Kind::Conflict
    );
    let dir = at.store.stat(&place(&root(), "dir")).await.unwrap();
    at.store
        .rename(&newer, &place(&dir.addr, "old"), None)
        .await
        .unwrap();
    assert_eq!(
        at.store.remove(&newer).await.unwrap_err().kind,
        Kind::NotFound
    );
    assert_eq!(names(&at.store, &dir.addr).await, ["old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_is_renewed_without_an_error() {
    let mut setup = Setup::new();
    setup.client = true;
    let at = setup.go().await;
    // Before each of the requests of a large upload.
    for skip in 0..8 {
        let ended = says(401, "").path("2.0/").skip(skip).times(1);
        at.server.faults().set(vec![ended]).unwrap();
        call(&at.store, Finish).await.unwrap();
        at.server.faults().set(vec![]).unwrap();
        let new = at.store.stat(&place(&root(), "new")).await.unwrap();
        at.store.remove(&new).await.unwrap();
    }
    let tokens = at
        .seen()
        .iter()
        .filter(|l| l.contains("oauth2/token"))
        .count();
    assert!(tokens > 6, "{tokens}");
    assert_eq!(at.stats.counts().retries, 0);
}

/// A store with a refresh token whose file is in `dir`.
fn refreshing(server: &Server, dir: &std::path::Path, first: Option<&str>) -> Arc<dyn Store> {
    let auth = Auth::Refresh {
        id: "id".to_owned(),
        secret: secret("secret"),
        first: first.map(Secret::new),
        keep: dir.join("client.json"),
    };
    let root = Root {
        id: "0".to_owned(),
        path: String::new(),
    };
    let mut config = Config::new(root, auth).unwrap();
    at(&mut config, &server.addr().to_string());
    store_on(config, 1).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_used_once_by_all_and_the_next_one_is_found_after_a_restart() {
    let mut setup = Setup::new();
    setup.server.boxcom.refresh_token = Some("first".to_owned());
    let at = setup.go().await;
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..4)
        .map(|_| refreshing(&at.server, dir.path(), Some("first")))
        .collect();
    let probes = stores.iter().map(|store| store.probe());
    for done in futures_util::future::join_all(probes).await {
        done.unwrap();
    }
    let asked = |at: &Boxed| {
        at.seen()
            .iter()
            .filter(|l| l.contains("oauth2/token"))
            .count()
    };
    assert_eq!(asked(&at), 1);
    // The token is refused: one of them has the next one, with the refresh token that was kept.
    at.server
        .faults()
        .set(vec![says(401, "").path("/2.0/users/me").times(1)])
        .unwrap();
    stores[0].probe().await.unwrap();
    assert_eq!(asked(&at), 2);
    refreshing(&at.server, dir.path(), Some("first"))
        .probe()
        .await
        .unwrap();
    refreshing(&at.server, dir.path(), None)
        .probe()
        .await
        .unwrap();
    assert_eq!(asked(&at), 2);
    // Another first token, which the service does not know, is not replaced by what is kept.
    let other = refreshing(&at.server, dir.path(), Some("other"));
    let error = other.probe().await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.said.contains("log in again"), "{error}");
    refreshing(&at.server, dir.path(), Some("first"))
        .probe()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_refresh_token_that_cannot_be_kept_is_not_used() {
    let mut setup = Setup::new();
    setup.server.boxcom.refresh_token = Some("first".to_owned());
    let at = setup.go().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("client.new")).unwrap();
    let store = refreshing(&at.server, dir.path(), Some("first"));
    store.probe().await.unwrap_err();
    let others = at
        .seen()
        .into_iter()
        .filter(|line| !line.contains("oauth2/token"));
    assert_eq!(others.count(), 0);
}
