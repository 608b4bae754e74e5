//! The session as a table: events in, actions out.

use super::*;

fn say(actions: &[Action<u32>]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::Seal => "seal".into(),
            Action::Unseal => "unseal".into(),
            Action::Persist => "persist".into(),
            Action::Send => "send".into(),
            Action::Cancel => "cancel".into(),
            Action::Answer(who, Ok(())) => format!("ok{who:?}"),
            Action::Answer(who, Err(error)) => format!("{:?}{who:?}", error.kind),
            Action::Later(error) => format!("later({:?})", error.kind),
            Action::Keep(error) => format!("keep({:?})", error.kind),
            Action::Rest => "rest".into(),
            Action::Drop => "drop".into(),
        })
        .collect();
    words.join(" ")
}

fn run(events: Vec<Event<u32>>) -> Vec<String> {
    let mut session = Session::default();
    events
        .into_iter()
        .map(|event| say(&session.on(event)))
        .collect()
}

use Event::*;

fn broke(kind: Kind) -> Event<u32> {
    Broke(kind.into())
}

#[test]
fn a_write_is_answered_when_the_store_has_it() {
    let said = run(vec![
        Opened,
        Touched,
        Wrote,
        Close(1),
        Sealed,
        Sent,
        Released,
    ]);
    assert_eq!(said, ["", "", "", "seal", "send", "ok[1]", "rest"]);
}

#[test]
fn the_first_flush_of_a_shell_publishes_nothing() {
    let said = run(vec![
        Opened,
        Touched,
        Close(1),
        Sealed,
        Kept,
        Wrote,
        Close(2),
        Sealed,
        Sent,
        Released,
    ]);
    assert_eq!(
        said,
        [
            "", "", "seal", "persist", "ok[1]", "", "seal", "send", "ok[2]", "rest"
        ]
    );
}

#[test]
fn what_was_only_cut_and_is_open_is_not_sent_by_who_sends_what_is_parked() {
    let said = run(vec![
        Opened,
        Touched,
        Close(1),
        Sealed,
        Kept,
        Go,
        Wrote,
        Close(2),
        Sealed,
        Sent,
        Released,
    ]);
    assert_eq!(
        said[4..],
        ["ok[1]", "", "", "seal", "send", "ok[2]", "rest"]
    );
    let said = run(vec![
        Opened,
        Touched,
        Close(1),
        Sealed,
        Kept,
        Go,
        Sync(2),
        Sent,
    ]);
    assert_eq!(
        said[4..],
        ["ok[1]", "", "send", "ok[2]"],
        "who syncs means it"
    );
    let said = run(vec![
        Opened,
        Touched,
        Close(1),
        Sealed,
        Kept,
        Go,
        Released,
        Sent,
    ]);
    assert_eq!(said[4..], ["ok[1]", "", "send", "rest"]);
}

#[test]
fn a_file_that_was_only_created_is_committed_at_the_last_close() {
    let said = run(vec![
        Opened,
        Touched,
        Close(1),
        Sealed,
        Kept,
        Released,
        Sent,
    ]);
    assert_eq!(said, ["", "", "seal", "persist", "ok[1]", "send", "rest"]);
}

#[test]
fn a_close_of_nothing_written_costs_nothing() {
    assert_eq!(run(vec![Opened, Close(1), Released]), ["", "ok[1]", "rest"]);
}

#[test]
fn closes_during_an_upload_share_one_next_commit() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Wrote,
        Close(2),
        Sealed,
        Wrote,
        Close(3),
        Sent,
        Sealed,
        Sent,
    ]);
    assert_eq!(
        said,
        [
            "",
            "",
            "seal",
            "",
            "",
            "send",
            "",
            "",
            "ok[1] seal",
            "send",
            "ok[2, 3]"
        ]
    );
}

#[test]
fn a_second_close_without_a_write_waits_for_the_same_commit() {
    let said = run(vec![Opened, Wrote, Close(1), Close(2), Sealed, Sent]);
    assert_eq!(said, ["", "", "seal", "", "send", "ok[1, 2]"]);
}

#[test]
fn a_failure_is_told_to_every_close_and_kept_at_the_last() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        broke(Kind::Quota),
        Close(2),
        Released,
    ]);
    assert_eq!(
        said,
        [
            "",
            "",
            "seal",
            "send",
            "Quota[1]",
            "Quota[2]",
            "keep(Quota)"
        ]
    );
}

#[test]
fn fsync_after_a_failure_tries_again_and_a_write_makes_a_new_version() {
    let said = run(vec![
        Opened,
        Wrote,
        Sync(1),
        broke(Kind::Timeout),
        Sync(2),
        Sealed,
        Sent,
        Wrote,
        Close(3),
        Sealed,
        Sent,
    ]);
    assert_eq!(
        said,
        [
            "",
            "",
            "seal",
            "Timeout[1]",
            "seal",
            "send",
            "ok[2]",
            "",
            "seal",
            "send",
            "ok[3]"
        ]
    );
}

#[test]
fn an_error_that_nobody_was_told_is_told_once() {
    let mut session: Session<u32> = Session::default();
    for event in [Opened, Wrote, Released, Sealed, Kept, broke(Kind::Full)] {
        session.on(event);
    }
    assert_eq!(session.tell().map(|e| e.kind), Some(Kind::Full));
    assert!(session.tell().is_none());
}

#[test]
fn unlink_while_uploading_cancels_and_the_close_succeeds_when_the_name_is_gone() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Unlinked,
        broke(Kind::Cancelled),
        Removed,
        Released,
    ]);
    assert_eq!(
        said,
        ["", "", "seal", "send", "cancel", "", "ok[1]", "drop"]
    );
}

#[test]
fn a_commit_that_won_against_an_unlink_ends_the_flight() {
    let said = run(vec![
        Opened, Wrote, Released, Sealed, Kept, Unlinked, Sent, Removed,
    ]);
    assert_eq!(
        said,
        ["", "", "seal", "persist", "send", "cancel", "", "drop"]
    );
}

#[test]
fn an_fsync_of_a_file_that_another_took_the_name_of_is_answered_at_once() {
    let said = run(vec![
        Opened,
        Wrote,
        Released,
        Sealed,
        Kept,
        broke(Kind::Broken),
        Unlinked,
        Parted,
        Sync(1),
    ]);
    assert_eq!(said[5..], ["later(Broken)", "", "", "ok[1]"]);
}

#[test]
fn what_is_owed_is_sent_if_the_name_could_not_be_removed() {
    let said = run(vec![Adopted, Unlinked, Revived, Sent]);
    assert_eq!(said, ["", "", "send", "rest"]);
    let said = run(vec![
        Opened,
        Wrote,
        Released,
        Sealed,
        Kept,
        Unlinked,
        broke(Kind::Cancelled),
        Revived,
    ]);
    let kept = ["", "", "seal", "persist", "send", "cancel", "", "send"];
    assert_eq!(said, kept);
}

#[test]
fn a_close_of_a_vanishing_name_is_answered_by_the_next_commit_if_the_name_stays() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Unlinked,
        broke(Kind::Cancelled),
        Close(2),
        Revived,
        Sealed,
        Sent,
        Released,
    ]);
    assert_eq!(said[3..7], ["send", "cancel", "", ""]);
    assert_eq!(said[7..], ["seal", "send", "ok[1, 2]", "rest"]);
    let before_it_ended = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Unlinked,
        Revived,
        broke(Kind::Cancelled),
        Sent,
    ]);
    assert_eq!(before_it_ended[4..], ["cancel", "", "send", "ok[1]"]);
}

#[test]
fn a_close_of_a_vanishing_name_that_the_spool_answers_for_waits_for_the_spool_alone() {
    let said = run_as(
        Promise::Spool,
        false,
        vec![
            Opened,
            Wrote,
            Close(1),
            Sealed,
            Unlinked,
            Kept,
            Wrote,
            Close(2),
            Revived,
            Sent,
        ],
    );
    assert_eq!(said[3..], ["persist", "", "ok[1]", "", "", "send", "seal"]);
}

#[test]
fn closes_that_wait_behind_an_upload_learn_that_a_write_has_failed() {
    let full = Spoilt(Kind::Full.into());
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Wrote,
        Close(2),
        full,
        Sent,
    ]);
    assert_eq!(said[6..], ["", "ok[1] Full[2]"]);
}

#[test]
fn a_conflict_is_told_to_who_waits_and_once_to_who_opens_the_name() {
    let told = || Kind::Conflict.into();
    let mut session: Session<u32> = Session::default();
    for event in [Opened, Wrote, Close(1), Sealed, Wrote] {
        session.on(event);
    }
    let error = told();
    let said = say(&session.on(Diverted { error, open: true }));
    assert_eq!(said, "Conflict[1]");
    assert!(session.has_untold());
    assert_eq!(session.tell().unwrap().kind, Kind::Conflict);
    assert_eq!(
        say(&session.on(Close(2))),
        "seal",
        "what was written goes on"
    );
}

#[test]
fn a_rename_while_uploading_sends_again_under_the_new_name() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Moved,
        broke(Kind::Cancelled),
        Sent,
    ]);
    assert_eq!(said, ["", "", "seal", "send", "cancel", "send", "ok[1]"]);
    let said = run(vec![Opened, Wrote, Close(1), Sealed, Moved, Sent, Sent]);
    assert_eq!(said, ["", "", "seal", "send", "cancel", "send", "ok[1]"]);
}

#[test]
fn a_rename_right_after_the_commit_commits_under_the_new_name() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Sent,
        Moved,
        Sync(2),
        Sealed,
        Sent,
        Close(3),
    ]);
    assert_eq!(said[4..], ["ok[1]", "", "seal", "send", "ok[2]", "ok[3]"]);
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Sent,
        Moved,
        Close(2),
        Sealed,
        Sent,
    ]);
    assert_eq!(said[4..], ["ok[1]", "", "seal", "send", "ok[2]"]);
}

#[test]
fn pages_written_after_the_last_flush_are_kept_and_sent_at_release() {
    let said = run(vec![
        Opened,
        Wrote,
        Close(1),
        Sealed,
        Sent,
        Wrote,
        Released,
        Sealed,
        Kept,
        Sent,
    ]);
    assert_eq!(
        said,
        [
            "", "", "seal", "send", "ok[1]", "", "seal", "persist", "send", "rest"
        ]
    );
}

fn run_as(promise: Promise, deferred: bool, events: Vec<Event<u32>>) -> Vec<String> {
    let mut session = Session {
        promise,
        deferred,
        ..Session::default()
    };
    events
        .into_iter()
        .map(|event| say(&session.on(event)))
        .collect()
}

#[test]
fn with_the_spools_promise_a_close_is_answered_when_it_is_durable() {
    let said = run_as(
        Promise::Spool,
        false,
        vec![
            Opened,
            Wrote,
            Close(1),
            Sealed,
            Kept,
            Close(2),
            Released,
            Sent,
        ],
    );
    assert_eq!(
        said,
        ["", "", "seal", "persist", "ok[1] send", "ok[2]", "", "rest"]
    );
}

#[test]
fn what_is_owed_is_tried_again_until_the_store_has_it() {
    let mut session: Session<u32> = Session {
        promise: Promise::Spool,
        ..Session::default()
    };
    for event in [Opened, Wrote, Close(1), Sealed, Kept, Released] {
        session.on(event);
    }
    assert_eq!(say(&session.on(broke(Kind::Quota))), "later(Quota)");
    assert!(session.owes() && !session.is_settled());
    assert_eq!(
        session.tell().map(|e| e.kind),
        Some(Kind::Quota),
        "told at the next open"
    );
    assert_eq!(say(&session.on(Go)), "send");
    assert_eq!(say(&session.on(Sent)), "rest");
    assert!(!session.owes());
}

#[test]
fn a_later_version_supersedes_one_that_is_owed_once_it_is_durable() {
    let said = run_as(
        Promise::Spool,
        false,
        vec![
            Opened,
            Wrote,
            Close(1),
            Sealed,
            Kept,
            broke(Kind::Later),
            Wrote,
            Close(2),
            Go,
            Sealed,
            Kept,
            Sent,
        ],
    );
    assert_eq!(
        said,
        [
            "",
            "",
            "seal",
            "persist",
            "ok[1] send",
            "later(Later)",
            "",
            "seal",
            "",
            "persist",
            "ok[2] send",
            ""
        ]
    );
}

#[test]
fn a_temporary_name_is_durable_but_not_sent_until_it_is_final() {
    let mut session: Session<u32> = Session {
        deferred: true,
        ..Session::default()
    };
    let mut said = Vec::new();
    for event in [Opened, Touched, Wrote, Close(1), Sealed, Kept, Released] {
        said.push(say(&session.on(event)));
    }
    assert_eq!(said, ["", "", "", "seal", "persist", "ok[1]", ""]);
    assert_eq!(session.flight(), Flight::Parked);
    session.deferred = false;
    assert_eq!(say(&session.on(Sync(2))), "send");
    assert_eq!(say(&session.on(Sent)), "ok[2] rest");
}

#[test]
fn a_version_that_follows_an_owed_one_and_fails_is_owed() {
    let mut session: Session<u32> = Session::default();
    for event in [
        Opened,
        Wrote,
        Released,
        Sealed,
        Kept,
        broke(Kind::Timeout),
        Opened,
        Wrote,
    ] {
        session.on(event);
    }
    assert_eq!(say(&session.on(Close(1))), "seal");
    assert_eq!(say(&session.on(Sealed)), "send");
    assert_eq!(say(&session.on(broke(Kind::Quota))), "Quota[1] persist");
    assert_eq!(say(&session.on(Kept)), "later(Quota)");
    assert!(session.owes());
}

#[test]
fn what_is_owed_leaves_first_if_what_follows_it_cannot_be_made_durable() {
    let rewrite = || {
        vec![
            Opened,
            Wrote,
            Released,
            Sealed,
            Kept,
            broke(Kind::Broken),
            Opened,
            Wrote,
            Close(1),
        ]
    };
    for fails_at in ["sealing", "keeping"] {
        let mut session: Session<u32> = Session::default();
        for event in rewrite() {
            session.on(event);
        }
        if fails_at == "keeping" {
            assert_eq!(say(&session.on(Sealed)), "send");
            assert_eq!(say(&session.on(broke(Kind::Quota))), "Quota[1] persist");
            assert_eq!(say(&session.on(broke(Kind::Full))), "unseal later(Full)");
        } else {
            assert_eq!(
                say(&session.on(broke(Kind::Full))),
                "Full[1] unseal later(Full)"
            );
        }
        assert_eq!(say(&session.on(Released)), "", "nobody asks for it now");
        assert_eq!(say(&session.on(Go)), "send");
        assert!(session.owes());
        assert_eq!(say(&session.on(Sent)), "seal");
        assert_eq!(say(&session.on(Sealed)), "persist");
        assert_eq!(say(&session.on(Kept)), "send", "{fails_at}");
    }
}

/// A session that answers by the spool, after these events.
fn spool_session(events: Vec<Event<u32>>) -> Session<u32> {
    let mut session = Session {
        promise: Promise::Spool,
        ..Session::default()
    };
    for event in events {
        session.on(event);
    }
    session
}

#[test]
fn what_was_only_cut_waits_for_the_last_close_also_if_what_follows_it_cannot_be_kept() {
    let cut = || vec![Opened, Touched, Close(1), Sealed, Kept];
    let mut session = spool_session(cut());
    for _ in 0..2 {
        session.on(Wrote);
        assert_eq!(say(&session.on(Sync(2))), "seal");
        assert_eq!(say(&session.on(Sealed)), "persist");
        assert_eq!(
            say(&session.on(broke(Kind::Full))),
            "Full[2] unseal later(Full)"
        );
        assert_eq!(say(&session.on(Go)), "", "it is open");
    }
    assert_eq!(say(&session.on(Released)), "send");
    assert_eq!(say(&session.on(Sent)), "seal");

    // Closed since, or asked for: it is as good as written.
    let closed = vec![Released, broke(Kind::Broken), Opened];
    let synced = vec![Sync(3), broke(Kind::Broken)];
    let closed_late = vec![Wrote, Sync(3), Released, Opened, broke(Kind::Full)];
    for since in [closed, synced, closed_late] {
        let mut session = spool_session(cut().into_iter().chain(since).collect());
        for event in [Wrote, Sync(2), broke(Kind::Full)] {
            session.on(event);
        }
        assert_eq!(say(&session.on(Go)), "send");
    }
}

#[test]
fn what_was_written_while_a_cut_version_could_not_be_kept_is_answered_by_the_store() {
    for sealed in [false, true] {
        let mut session: Session<u32> = Session::default();
        for event in [Opened, Wrote, Released, Sealed, Kept, broke(Kind::Broken)] {
            session.on(event);
        }
        for event in [Opened, Touched, Close(1)] {
            session.on(event);
        }
        if sealed {
            assert_eq!(say(&session.on(Sealed)), "persist");
        }
        session.on(Wrote);
        let said = say(&session.on(broke(Kind::Full)));
        assert_eq!(said, "Full[1] unseal later(Full)");
        assert_eq!(session.top(), Top::Written);
        assert_eq!(say(&session.on(Close(2))), "seal");
        assert_eq!(say(&session.on(Sealed)), "send");
        assert_eq!(say(&session.on(Sent)), "ok[2]");
    }
}

#[test]
fn what_could_be_made_durable_at_last_and_lost_its_name_leaves_nothing_to_keep() {
    let mut session = spool_session(vec![Opened, Wrote, Close(1), Sealed, Kept]);
    for event in [broke(Kind::Broken), Wrote, Close(2), broke(Kind::Full)] {
        session.on(event);
    }
    assert_eq!(say(&session.on(Close(3))), "seal");
    assert_eq!(say(&session.on(Sealed)), "persist");
    assert_eq!(say(&session.on(Kept)), "ok[3] send");
    assert_eq!(say(&session.on(Released)), "");
    let error = Kind::Conflict.into();
    assert_eq!(say(&session.on(Diverted { error, open: false })), "rest");
    assert!(session.is_settled());
    assert_eq!(session.tell().map(|e| e.kind), Some(Kind::Conflict));
}

#[test]
fn what_follows_an_owed_version_goes_where_that_went_if_it_is_still_ours() {
    let mut session = spool_session(vec![Opened, Wrote, Close(1), Sealed, Kept]);
    for event in [broke(Kind::Broken), Wrote, Close(2), broke(Kind::Full)] {
        session.on(event);
    }
    assert_eq!(say(&session.on(Released)), "");
    assert_eq!(say(&session.on(Go)), "send");
    let error = Kind::Conflict.into();
    assert_eq!(say(&session.on(Diverted { error, open: true })), "seal");
    assert_eq!(say(&session.on(Sealed)), "persist");
    assert_eq!(say(&session.on(Kept)), "send");
    assert_eq!(say(&session.on(Sent)), "rest");
    assert_eq!(session.tell().map(|e| e.kind), Some(Kind::Conflict));
}

#[test]
fn what_follows_an_owed_version_that_lost_its_name_is_not_sent_over_the_winner() {
    let mut session: Session<u32> = Session::default();
    for event in [
        Opened,
        Wrote,
        Released,
        Sealed,
        Kept,
        broke(Kind::Broken),
        Opened,
        Wrote,
        Close(1),
    ] {
        session.on(event);
    }
    for event in [broke(Kind::Full), Released, Go] {
        session.on(event);
    }
    let error = Kind::Conflict.into();
    assert_eq!(
        say(&session.on(Diverted { error, open: false })),
        "keep(Conflict)"
    );
}

#[test]
fn a_final_name_is_sent_also_where_the_spool_answers() {
    let mut session: Session<u32> = Session {
        deferred: true,
        promise: Promise::Spool,
        ..Session::default()
    };
    for event in [Opened, Wrote, Close(1), Sealed, Kept, Released] {
        session.on(event);
    }
    session.deferred = false;
    assert_eq!(say(&session.on(Sync(2))), "ok[2] send");
}

#[test]
fn after_a_failed_write_nothing_is_published_until_it_is_cut_to_nothing() {
    let full = || Spoilt(Kind::Full.into());
    let said = run(vec![Opened, Wrote, full(), Close(1), Sync(2), Released]);
    assert_eq!(said, ["", "", "", "Full[1]", "Full[2]", "keep(Full)"]);
    let said = run(vec![
        Opened,
        Wrote,
        full(),
        Touched,
        Wrote,
        Close(1),
        Sealed,
    ]);
    assert_eq!(said, ["", "", "", "", "", "seal", "send"]);
}

#[test]
fn what_an_earlier_process_promised_is_sent() {
    assert_eq!(run(vec![Adopted, Go, Sent]), ["", "send", "rest"]);
    assert_eq!(run(vec![Adopted, Unlinked]), ["", ""]);
    assert_eq!(run(vec![Adopted, Unlinked, Removed]), ["", "", "drop"]);
}

#[test]
fn unlink_of_an_idle_file_drops_it_at_the_last_close() {
    assert_eq!(
        run(vec![Opened, Wrote, Unlinked, Removed, Close(1), Released]),
        ["", "", "", "", "ok[1]", "drop"]
    );
}
