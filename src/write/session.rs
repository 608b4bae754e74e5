//! The write session: when a file's bytes are sealed, sent, answered for and kept. Pure: events in,
//! actions out, no I/O, no clock.
//!
//! ```text
//!              write                 close              sealed                  sent, digest agrees
//!    Clean ───────────▶ Dirty ───────────────▶ Sealing ─────────▶ Uploading ───────────────▶ Committed
//!                         ▲                      │                   │                           │
//!                         │        write         └────── broke ──────┴──▶ Failed ── last close ──▶ kept
//!                         └───────────────────────────────────────────────────┘◀──── write ──────┘
//! ```
//!
//! A sealed version is frozen. What is written while it is on its way belongs to the next version, so the
//! state has two sides: `top`, the version being written, and `flight`, the one on its way. All closes
//! that arrive while one is on its way share one next commit.

use crate::error::{Error, Kind, Result};

/// How much the version being written differs from the last one sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// Not at all.
    Same,
    /// Created or cut by open(2), and nothing else: not published before the last close, so that a
    /// shell's first FLUSH does not publish an empty file.
    Touched,
    /// Written.
    Written,
}

/// What happens to the sealed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// Nothing.
    Idle,
    /// Being completed and digested.
    Sealing,
    /// Being sent.
    Uploading,
}

/// How the last commit ended.
#[derive(Clone, Debug)]
pub enum Last {
    /// There was none.
    None,
    /// The store has it.
    Committed,
    /// It failed; `told` if some call was answered with the error.
    Failed {
        /// Why.
        error: Error,
        /// Whether a program was told.
        told: bool,
    },
}

/// What happened. `W` is whoever waits for an answer.
#[derive(Debug)]
pub(super) enum Event<W> {
    /// A handle that can write was opened.
    Opened,
    /// open(2) created or cut the file.
    Touched,
    /// Bytes or the size changed.
    Wrote,
    /// A descriptor was closed (FLUSH).
    Close(W),
    /// The program wants it on the store now (fsync).
    Sync(W),
    /// To be sent whether it was written or not (a rename by copy).
    Force(W),
    /// The last handle that can write is gone.
    Released,
    /// The frozen version is complete and digested.
    Sealed,
    /// The store has the frozen version.
    Sent,
    /// Sealing or sending failed.
    Broke(Error),
    /// The name was removed.
    Unlinked,
    /// The name changed.
    Moved,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action<W> {
    /// Freeze the version being written and complete it.
    Seal,
    /// Send the frozen version to the present target.
    Send,
    /// Stop sending, if the commit has not begun; its end is reported as `Sent` or `Broke`.
    Cancel,
    /// Answer these.
    Answer(Vec<W>, Result<()>),
    /// Nobody has it open and the commit failed: keep the bytes as unsent.
    Keep(Error),
    /// Nobody has it open and the store has it: the spool file is only a cache now.
    Rest,
    /// The name is gone and nobody has it open: drop the bytes.
    Drop,
}

/// One file's write session.
#[derive(Debug)]
pub(super) struct Session<W> {
    top: Top,
    flight: Flight,
    last: Last,
    /// Waiting for the version on its way.
    waiting: Vec<W>,
    /// Waiting for the version after it.
    next: Vec<W>,
    open: bool,
    moved: bool,
    gone: bool,
}

impl<W> Default for Session<W> {
    fn default() -> Self {
        Session {
            top: Top::Same,
            flight: Flight::Idle,
            last: Last::None,
            waiting: Vec::new(),
            next: Vec::new(),
            open: false,
            moved: false,
            gone: false,
        }
    }
}

impl<W> Session<W> {
    /// The version being written.
    #[must_use]
    pub(super) fn top(&self) -> Top {
        self.top
    }

    /// The version on its way.
    #[must_use]
    pub(super) fn flight(&self) -> Flight {
        self.flight
    }

    /// How the last commit ended.
    #[must_use]
    pub(super) fn last(&self) -> &Last {
        &self.last
    }

    /// Whether a handle that can write is open.
    #[must_use]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the name was removed.
    #[must_use]
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether an upload is still to be sent elsewhere: it is not known yet which name it landed under.
    #[must_use]
    pub(super) fn is_moving(&self) -> bool {
        self.moved
    }

    /// Whether nothing is written, on its way or failed: what is here is what the store has.
    #[must_use]
    pub(super) fn is_settled(&self) -> bool {
        self.top == Top::Same
            && self.flight == Flight::Idle
            && !matches!(self.last, Last::Failed { .. })
    }

    /// An error that no call was answered with yet; asking tells it.
    pub(super) fn tell(&mut self) -> Option<Error> {
        match &mut self.last {
            Last::Failed { error, told } if !*told => {
                *told = true;
                Some(error.clone())
            }
            _ => None,
        }
    }

    /// Takes an event, says what is to be done, in order.
    pub(super) fn on(&mut self, event: Event<W>) -> Vec<Action<W>> {
        match event {
            Event::Opened => {
                self.open = true;
                Vec::new()
            }
            Event::Touched => {
                if self.top == Top::Same {
                    self.top = Top::Touched;
                }
                Vec::new()
            }
            Event::Wrote => {
                self.top = Top::Written;
                Vec::new()
            }
            Event::Close(waiter) => self.on_close(waiter),
            Event::Sync(waiter) => {
                if self.top == Top::Same && !self.failed() {
                    return self.on_close(waiter);
                }
                self.seal_for(waiter)
            }
            Event::Force(waiter) => self.seal_for(waiter),
            Event::Released => {
                self.open = false;
                self.rest()
            }
            Event::Sealed if self.gone => self.on_broke(Kind::Cancelled.into()),
            Event::Sealed => {
                self.flight = Flight::Uploading;
                // Only now is the target read: a move while sealing needs nothing more.
                self.moved = false;
                vec![Action::Send]
            }
            Event::Sent => self.on_sent(),
            Event::Broke(error) => self.on_broke(error),
            Event::Unlinked => {
                self.gone = true;
                let mut actions = Vec::new();
                if self.flight == Flight::Uploading {
                    actions.push(Action::Cancel);
                }
                let mut all = std::mem::take(&mut self.waiting);
                all.append(&mut self.next);
                if !all.is_empty() {
                    actions.push(Action::Answer(all, Ok(())));
                }
                actions.extend(self.rest());
                actions
            }
            Event::Moved => {
                if self.flight == Flight::Uploading && !self.gone {
                    self.moved = true;
                    return vec![Action::Cancel];
                }
                Vec::new()
            }
        }
    }

    fn failed(&self) -> bool {
        matches!(self.last, Last::Failed { .. })
    }

    fn on_close(&mut self, waiter: W) -> Vec<Action<W>> {
        if self.gone {
            return vec![Action::Answer(vec![waiter], Ok(()))];
        }
        match (self.top, self.flight) {
            (Top::Written, _) => self.seal_for(waiter),
            (Top::Same, Flight::Sealing | Flight::Uploading) => {
                self.waiting.push(waiter);
                Vec::new()
            }
            (Top::Touched, _) => vec![Action::Answer(vec![waiter], Ok(()))],
            (Top::Same, Flight::Idle) => {
                let answer = match &mut self.last {
                    Last::Failed { error, told } => {
                        *told = true;
                        Err(error.clone())
                    }
                    Last::None | Last::Committed => Ok(()),
                };
                vec![Action::Answer(vec![waiter], answer)]
            }
        }
    }

    /// Seals for `waiter` now, or as soon as the version on its way has landed.
    fn seal_for(&mut self, waiter: W) -> Vec<Action<W>> {
        if self.gone {
            return vec![Action::Answer(vec![waiter], Ok(()))];
        }
        self.next.push(waiter);
        self.rest()
    }

    fn on_sent(&mut self) -> Vec<Action<W>> {
        if self.gone {
            // Whoever removed the name waits for this, and removes it from the store.
            self.flight = Flight::Idle;
            return self.rest();
        }
        if self.moved {
            // Committed under the old name: once more under the new one; the executor removes the old.
            self.moved = false;
            return vec![Action::Send];
        }
        self.flight = Flight::Idle;
        self.last = Last::Committed;
        let mut actions = Vec::new();
        if !self.waiting.is_empty() {
            actions.push(Action::Answer(std::mem::take(&mut self.waiting), Ok(())));
        }
        actions.extend(self.rest());
        actions
    }

    fn on_broke(&mut self, error: Error) -> Vec<Action<W>> {
        if self.gone {
            self.flight = Flight::Idle;
            return self.rest();
        }
        if self.moved && error.kind == Kind::Cancelled {
            self.moved = false;
            return vec![Action::Send];
        }
        self.moved = false;
        self.flight = Flight::Idle;
        let told = !self.waiting.is_empty();
        self.last = Last::Failed {
            error: error.clone(),
            told,
        };
        let mut actions = Vec::new();
        if told {
            actions.push(Action::Answer(
                std::mem::take(&mut self.waiting),
                Err(error),
            ));
        }
        actions.extend(self.rest());
        actions
    }

    /// What follows when nothing is on its way: the next commit, or rest.
    fn rest(&mut self) -> Vec<Action<W>> {
        if self.flight != Flight::Idle {
            return Vec::new();
        }
        if self.gone {
            return if self.open {
                Vec::new()
            } else {
                vec![Action::Drop]
            };
        }
        if !self.next.is_empty() || (!self.open && self.top != Top::Same) {
            self.waiting = std::mem::take(&mut self.next);
            self.top = Top::Same;
            self.flight = Flight::Sealing;
            return vec![Action::Seal];
        }
        if self.open {
            return Vec::new();
        }
        match &self.last {
            Last::Failed { error, .. } => vec![Action::Keep(error.clone())],
            Last::None | Last::Committed => vec![Action::Rest],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(actions: &[Action<u32>]) -> String {
        let words: Vec<String> = actions
            .iter()
            .map(|action| match action {
                Action::Seal => "seal".into(),
                Action::Send => "send".into(),
                Action::Cancel => "cancel".into(),
                Action::Answer(who, Ok(())) => format!("ok{who:?}"),
                Action::Answer(who, Err(error)) => format!("{:?}{who:?}", error.kind),
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
            Wrote,
            Close(2),
            Sealed,
            Sent,
            Released,
        ]);
        assert_eq!(said, ["", "", "ok[1]", "", "seal", "send", "ok[2]", "rest"]);
    }

    #[test]
    fn a_file_that_was_only_created_is_committed_at_the_last_close() {
        let said = run(vec![Opened, Touched, Close(1), Released, Sealed, Sent]);
        assert_eq!(said, ["", "", "ok[1]", "seal", "send", "rest"]);
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
        for event in [Opened, Wrote, Released, Sealed, broke(Kind::Full)] {
            session.on(event);
        }
        assert_eq!(session.tell().map(|e| e.kind), Some(Kind::Full));
        assert!(session.tell().is_none());
    }

    #[test]
    fn unlink_while_uploading_cancels_and_the_close_succeeds() {
        let said = run(vec![
            Opened,
            Wrote,
            Close(1),
            Sealed,
            Unlinked,
            broke(Kind::Cancelled),
            Released,
        ]);
        assert_eq!(said, ["", "", "seal", "send", "cancel ok[1]", "", "drop"]);
    }

    #[test]
    fn a_commit_that_won_against_an_unlink_ends_the_flight() {
        let said = run(vec![Opened, Wrote, Released, Sealed, Unlinked, Sent]);
        assert_eq!(said, ["", "", "seal", "send", "cancel", "drop"]);
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
    fn pages_written_after_the_last_flush_are_sent_at_release() {
        let said = run(vec![
            Opened,
            Wrote,
            Close(1),
            Sealed,
            Sent,
            Wrote,
            Released,
            Sealed,
            Sent,
        ]);
        assert_eq!(
            said,
            ["", "", "seal", "send", "ok[1]", "", "seal", "send", "rest"]
        );
    }

    #[test]
    fn unlink_of_an_idle_file_drops_it_at_the_last_close() {
        assert_eq!(
            run(vec![Opened, Wrote, Unlinked, Close(1), Released]),
            ["", "", "", "ok[1]", "drop"]
        );
    }
}
