//! The write session: when a file's bytes are sealed, kept, sent, answered for. Pure: events in, actions
//! out, no I/O, no clock.
//!
//! ```text
//!              write                 close              sealed                  sent, digest agrees
//!    Clean ───────────▶ Dirty ───────────────▶ Sealing ─────────▶ Uploading ───────────────▶ Committed
//!                         ▲                      │  │               ▲ │                          │
//!                         │        write         │  └─▶ Keeping ────┘ └─ broke ─▶ Failed ── last close ─▶ refused
//!                         └──────────────────────┴───────  │  ▲ again                  ◀─────────┘
//!                                                          ▼  │
//!                                                        Parked
//! ```
//!
//! A sealed version is frozen. What is written while it is on its way belongs to the next version, so the
//! state has two sides: `top`, the version being written, and `flight`, the one on its way. All closes
//! that arrive while one is on its way share one next commit.
//!
//! What is promised depends on [`Promise`]: by the store's answer, or by the spool's. A version whose
//! program cannot be told any more (sealed after the last close), and one under a temporary name, is
//! made durable in the spool first (`Keeping`). From then on it is a *debt*: it is sent until the
//! store has it, or something newer of the same file has been made durable in its place.

use crate::error::{Error, Kind, Result};

/// What a close or fsync answers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promise {
    /// The store has it.
    #[default]
    Store,
    /// It is durable in the spool, and will be sent.
    Spool,
}

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
    /// Being made durable in the spool.
    Keeping,
    /// Durable in the spool; waits for its final name, or for the next try.
    Parked,
    /// Being sent.
    Uploading,
}

impl Flight {
    /// Whether something is going on that will end by itself soon.
    #[must_use]
    pub fn is_moving(self) -> bool {
        matches!(self, Flight::Sealing | Flight::Keeping | Flight::Uploading)
    }
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
    /// A write failed: what is there is not what the program meant, and is not published until the
    /// file is cut to nothing.
    Spoilt(Error),
    /// A descriptor was closed (FLUSH).
    Close(W),
    /// The program wants it safe now (fsync).
    Sync(W),
    /// To be sent whether it was written or not (a rename by copy).
    Force(W),
    /// The last handle that can write is gone.
    Released,
    /// The frozen version is complete and digested.
    Sealed,
    /// The frozen version is durable in the spool.
    Kept,
    /// A parked version is to be sent now, unless it was only created or cut and is still open.
    Go,
    /// A version that an earlier process had promised is here, durable.
    Adopted,
    /// The store has the frozen version.
    Sent,
    /// The store has the frozen version under another name, because somebody else's has this one.
    Diverted {
        /// What is told.
        error: Error,
        /// Some handle has it open: it goes on under the other name, and who opens it next under the
        /// old one is told.
        open: bool,
    },
    /// Sealing, keeping or sending failed.
    Broke(Error),
    /// The name is being removed: nobody is answered, nothing is lost yet.
    Unlinked,
    /// Another file has the name: nobody waits for anything any more. What is owed is so until
    /// [`Event::Removed`].
    Parted,
    /// The name is gone for good.
    Removed,
    /// The name could not be removed after all.
    Revived,
    /// The name changed.
    Moved,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action<W> {
    /// Freeze the version being written and complete it.
    Seal,
    /// The frozen version is the one being written again; what is owed takes its place.
    Unseal,
    /// Make the frozen version durable in the spool, as acknowledged.
    Persist,
    /// Send the frozen version to the present target.
    Send,
    /// Stop sending, if the commit has not begun; its end is reported as `Sent` or `Broke`.
    Cancel,
    /// Answer these.
    Answer(Vec<W>, Result<()>),
    /// It stays owed: `Go` after a while.
    Later(Error),
    /// Nobody has it open and the commit failed: keep the bytes as refused.
    Keep(Error),
    /// Nobody has it open and the store has it: the spool file is only a cache now.
    Rest,
    /// The name is gone and nobody has it open: drop the bytes.
    Drop,
}

/// One file's write session.
#[derive(Debug)]
pub(super) struct Session<W> {
    /// What a close answers for.
    pub(super) promise: Promise,
    /// The name is a temporary one: nothing is sent under it.
    pub(super) deferred: bool,
    top: Top,
    flight: Flight,
    last: Last,
    /// To be told once, though nothing is left to keep.
    latched: Option<Error>,
    /// The frozen version is durable in the spool and owed.
    kept: bool,
    /// Some version is durable in the spool and owed: this one, or the one it follows.
    debt: bool,
    /// Once durable it waits for the next try.
    park: bool,
    /// What follows the version that is owed could not be made durable: unless somebody asks for it, it waits
    /// until that one has left.
    stuck: bool,
    /// Only created or cut, and closed once: durable in the spool, published at the last close.
    shy: bool,
    next_shy: bool,
    /// The version that is owed is so, and another was sealed after it.
    debt_shy: bool,
    /// Why the version being written is not what its program meant.
    spoilt: Option<Error>,
    /// Waiting for the version on its way.
    waiting: Vec<W>,
    /// Waiting for the version after it.
    next: Vec<W>,
    /// Handles that can write, and whoever holds the bytes.
    open: u32,
    moved: bool,
    gone: bool,
    parted: bool,
    removed: bool,
    /// It was told to stop because its name was going, and the name has stayed.
    stays: bool,
}

impl<W> Default for Session<W> {
    fn default() -> Self {
        Session {
            promise: Promise::Store,
            deferred: false,
            top: Top::Same,
            flight: Flight::Idle,
            last: Last::None,
            latched: None,
            kept: false,
            debt: false,
            park: false,
            stuck: false,
            shy: false,
            next_shy: false,
            debt_shy: false,
            spoilt: None,
            waiting: Vec::new(),
            next: Vec::new(),
            open: 0,
            moved: false,
            gone: false,
            parted: false,
            removed: false,
            stays: false,
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
        self.open > 0
    }

    /// Whether the name was removed.
    #[must_use]
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the name was removed, and is sure to be gone.
    #[must_use]
    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether something was promised that the store does not have yet.
    #[must_use]
    pub(super) fn owes(&self) -> bool {
        self.debt
    }

    /// Whether an upload is still to be sent elsewhere: it is not known yet which name it landed under.
    #[must_use]
    pub(super) fn is_moving(&self) -> bool {
        self.moved
    }

    /// Whether a version is being sealed or made durable.
    #[must_use]
    pub(super) fn is_kept_soon(&self) -> bool {
        matches!(self.flight, Flight::Sealing | Flight::Keeping)
    }

    /// Whether nothing is written, on its way, owed or failed: what is here is what the store has.
    #[must_use]
    pub(super) fn is_settled(&self) -> bool {
        self.top == Top::Same && self.flight == Flight::Idle && !self.failed()
    }

    /// Whether the frozen version may be written to in place: nobody reads it on its way, and
    /// nothing is owed by it.
    #[must_use]
    pub(super) fn may_overwrite(&self) -> bool {
        self.flight == Flight::Idle && !self.debt
    }

    /// Whether there is an error that no call was answered with yet.
    #[must_use]
    pub(super) fn has_untold(&self) -> bool {
        self.latched.is_some() || matches!(self.last, Last::Failed { told: false, .. })
    }

    /// An error that no call was answered with yet; asking tells it.
    pub(super) fn tell(&mut self) -> Option<Error> {
        if let Some(error) = self.latched.take() {
            return Some(error);
        }
        match &mut self.last {
            Last::Failed { error, told } if !*told => {
                *told = true;
                Some(error.clone())
            }
            _ => None,
        }
    }

    /// `error` was answered to nobody after all: it is told to whoever asks next.
    pub(super) fn untell(&mut self, error: &Error) {
        match &mut self.last {
            Last::Failed { told, .. } => *told = false,
            Last::None | Last::Committed => self.latched = Some(error.clone()),
        }
    }

    /// Takes an event, says what is to be done, in order.
    pub(super) fn on(&mut self, event: Event<W>) -> Vec<Action<W>> {
        match event {
            Event::Opened => {
                self.open += 1;
                Vec::new()
            }
            Event::Spoilt(error) => {
                self.top = Top::Written;
                self.spoilt = Some(error);
                Vec::new()
            }
            Event::Touched => {
                self.spoilt = None;
                if self.top == Top::Same {
                    self.top = Top::Touched;
                }
                Vec::new()
            }
            Event::Wrote => {
                (self.next_shy, self.stuck) = (false, false);
                self.top = Top::Written;
                Vec::new()
            }
            Event::Close(waiter) => self.on_close(waiter),
            Event::Sync(waiter) if self.parted || self.removed => self.on_close(waiter),
            Event::Sync(waiter) if self.top == Top::Same && self.flight == Flight::Parked => {
                if self.deferred {
                    return vec![Action::Answer(vec![waiter], Ok(()))];
                }
                self.shy = false;
                let mut actions = Vec::new();
                if self.promise == Promise::Spool {
                    actions.push(Action::Answer(vec![waiter], Ok(())));
                } else {
                    self.waiting.push(waiter);
                }
                actions.extend(self.on(Event::Go));
                actions
            }
            Event::Sync(waiter)
                if self.top == Top::Same && (self.flight.is_moving() || !self.failed()) =>
            {
                self.on_close(waiter)
            }
            Event::Sync(waiter) | Event::Force(waiter) => {
                self.next_shy = false;
                self.seal_for(waiter)
            }
            Event::Released => {
                self.open = self.open.saturating_sub(1);
                if self.open > 0 {
                    return Vec::new();
                }
                self.debt_shy = false;
                if std::mem::take(&mut self.shy) && self.flight == Flight::Parked && !self.deferred
                {
                    return self.on(Event::Go);
                }
                self.rest()
            }
            Event::Sealed if self.gone => self.end_gone(),
            Event::Sealed => self.on_sealed(),
            Event::Kept if self.gone => {
                (self.kept, self.debt) = (true, true);
                self.end_gone()
            }
            Event::Kept => self.on_kept(),
            Event::Adopted => {
                self.flight = Flight::Parked;
                (self.kept, self.debt) = (true, true);
                Vec::new()
            }
            Event::Go => {
                // Who has just created it, or cut it, is about to write it.
                let early = self.shy && self.open > 0;
                if self.flight != Flight::Parked || self.gone || early {
                    return Vec::new();
                }
                self.flight = Flight::Uploading;
                vec![Action::Send]
            }
            Event::Sent => self.on_sent(),
            Event::Diverted { error, open } => self.on_diverted(error, open),
            Event::Broke(error) => self.on_broke(error),
            Event::Unlinked => {
                // Who waits is answered when it is known whether the name goes.
                self.gone = true;
                if self.flight == Flight::Uploading {
                    return vec![Action::Cancel];
                }
                Vec::new()
            }
            Event::Parted => {
                (self.gone, self.parted) = (true, true);
                self.gather();
                answer(&mut self.next, Ok(()))
            }
            Event::Removed => {
                (self.gone, self.removed) = (true, true);
                (self.kept, self.debt) = (false, false);
                self.top = Top::Same;
                if self.flight == Flight::Parked {
                    self.flight = Flight::Idle;
                }
                self.gather();
                let mut actions = answer(&mut self.next, Ok(()));
                actions.extend(self.rest());
                actions
            }
            Event::Revived => self.on_revived(),
            Event::Moved => {
                if self.flight == Flight::Uploading && !self.gone {
                    self.moved = true;
                    return vec![Action::Cancel];
                }
                if self.is_settled() && !self.gone {
                    // The store has it under another name alone.
                    self.top = Top::Written;
                }
                Vec::new()
            }
        }
    }

    fn failed(&self) -> bool {
        matches!(self.last, Last::Failed { .. })
    }

    /// Whether closes of this file are answered by the spool.
    fn answered_by_spool(&self) -> bool {
        self.promise == Promise::Spool || self.deferred
    }

    fn on_close(&mut self, waiter: W) -> Vec<Action<W>> {
        if self.parted || self.removed {
            return vec![Action::Answer(vec![waiter], Ok(()))];
        }
        match (self.top, self.flight) {
            (Top::Written, _) => self.seal_for(waiter),
            (Top::Touched, _) => {
                self.next_shy = true;
                self.seal_for(waiter)
            }
            (Top::Same, Flight::Parked | Flight::Uploading)
                if self.kept && (self.shy || self.answered_by_spool()) =>
            {
                vec![Action::Answer(
                    vec![waiter],
                    self.tell().map_or(Ok(()), Err),
                )]
            }
            (Top::Same, Flight::Sealing | Flight::Keeping | Flight::Uploading) => {
                self.waiting.push(waiter);
                Vec::new()
            }
            (Top::Same, Flight::Idle | Flight::Parked) => {
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
        if self.parted || self.removed {
            return vec![Action::Answer(vec![waiter], Ok(()))];
        }
        if let Some(error) = &self.spoilt {
            return vec![Action::Answer(vec![waiter], Err(error.clone()))];
        }
        self.next.push(waiter);
        self.rest()
    }

    fn on_sealed(&mut self) -> Vec<Action<W>> {
        // Only now is the target read: a move while sealing needs nothing more.
        self.moved = false;
        if self.shy || self.answered_by_spool() || self.waiting.is_empty() {
            self.flight = Flight::Keeping;
            return vec![Action::Persist];
        }
        self.flight = Flight::Uploading;
        vec![Action::Send]
    }

    fn on_kept(&mut self) -> Vec<Action<W>> {
        (self.kept, self.debt) = (true, true);
        let mut actions = self.answer_kept();
        match &self.last {
            Last::Failed { error, .. } if self.park => {
                self.flight = Flight::Parked;
                actions.push(Action::Later(error.clone()));
            }
            _ if self.deferred || (self.shy && self.open > 0) => self.flight = Flight::Parked,
            _ => {
                self.flight = Flight::Uploading;
                actions.push(Action::Send);
            }
        }
        self.park = false;
        actions.extend(self.rest());
        actions
    }

    fn on_sent(&mut self) -> Vec<Action<W>> {
        (self.stays, self.stuck) = (false, false);
        if self.gone {
            // Whoever removed the name waits for this, and removes it from the store.
            return self.end_gone();
        }
        if self.moved {
            // Committed under the old name: once more under the new one; the executor removes the old.
            self.moved = false;
            return vec![Action::Send];
        }
        self.flight = Flight::Idle;
        (self.kept, self.debt) = (false, false);
        self.last = Last::Committed;
        let mut actions = answer(&mut self.waiting, Ok(()));
        actions.extend(self.rest());
        actions
    }

    fn on_broke(&mut self, error: Error) -> Vec<Action<W>> {
        if self.gone {
            return self.end_gone();
        }
        let stays = std::mem::take(&mut self.stays);
        if (self.moved || stays) && error.kind == Kind::Cancelled {
            self.moved = false;
            return vec![Action::Send];
        }
        (self.moved, self.park) = (false, false);
        let told = !self.waiting.is_empty();
        self.last = Last::Failed {
            error: error.clone(),
            told,
        };
        let mut actions = answer(&mut self.waiting, Err(error.clone()));
        if self.kept {
            self.flight = Flight::Parked;
            actions.push(Action::Later(error));
        } else if self.debt && self.flight == Flight::Uploading {
            // It follows a version that is owed, so it is owed now.
            self.flight = Flight::Keeping;
            self.park = true;
            actions.push(Action::Persist);
        } else if self.debt {
            // Its bytes may not fit beside those that are owed: these go first.
            if !self.shy {
                self.top = Top::Written;
            } else if self.top == Top::Same {
                self.top = Top::Touched;
            }
            self.shy = self.debt_shy;
            (self.flight, self.kept, self.stuck) = (Flight::Parked, true, true);
            actions.extend([Action::Unseal, Action::Later(error)]);
        } else {
            self.flight = Flight::Idle;
        }
        actions.extend(self.rest());
        actions
    }

    fn on_revived(&mut self) -> Vec<Action<W>> {
        if !self.gone || self.parted || self.removed {
            return Vec::new();
        }
        self.gone = false;
        match self.flight {
            Flight::Uploading => {
                // It was told to stop, and is not to.
                self.stays = true;
                Vec::new()
            }
            Flight::Parked => {
                let mut actions = self.answer_kept();
                actions.extend(if self.deferred || (self.shy && self.open > 0) {
                    self.rest()
                } else {
                    self.on(Event::Go)
                });
                actions
            }
            Flight::Idle | Flight::Sealing | Flight::Keeping => self.rest(),
        }
    }

    fn on_diverted(&mut self, error: Error, open: bool) -> Vec<Action<W>> {
        if self.gone {
            return self.end_gone();
        }
        (self.kept, self.debt, self.moved) = (false, false, false);
        self.flight = Flight::Idle;
        // The bytes are safe: nothing is left to keep. It is told all the same.
        let mut actions = Vec::new();
        self.last = Last::None;
        if self.waiting.is_empty() || open {
            self.latched = Some(error.clone());
        }
        if std::mem::take(&mut self.stuck) && !open {
            // It follows what has lost the name: kept, and sent on request alone.
            self.top = Top::Same;
            self.last = Last::Failed {
                error: error.clone(),
                told: true,
            };
        }
        actions.extend(answer(&mut self.waiting, Err(error)));
        actions.extend(self.rest());
        actions
    }

    /// What was on its way has ended while the name is being removed. If the name stays after all it is
    /// sent: so it waits, or counts as written, and who waited for it waits for that.
    fn end_gone(&mut self) -> Vec<Action<W>> {
        self.moved = false;
        self.flight = Flight::Idle;
        let mut actions = Vec::new();
        if self.removed {
            (self.kept, self.debt) = (false, false);
        } else if self.kept {
            self.flight = Flight::Parked;
            actions = self.answer_kept();
        } else {
            self.top = Top::Written;
            self.gather();
        }
        actions.extend(self.rest());
        actions
    }

    /// Who waits for the version on its way waits for the next one.
    fn gather(&mut self) {
        let mut all = std::mem::take(&mut self.waiting);
        all.append(&mut self.next);
        self.next = all;
    }

    /// The frozen version is durable in the spool: answers who was promised no more than that.
    fn answer_kept(&mut self) -> Vec<Action<W>> {
        if self.shy || self.answered_by_spool() {
            return answer(&mut self.waiting, Ok(()));
        }
        Vec::new()
    }

    /// What follows when nothing is on its way: the next commit, or rest.
    fn rest(&mut self) -> Vec<Action<W>> {
        if self.flight.is_moving() {
            return Vec::new();
        }
        if self.gone {
            return if self.open > 0 || !self.removed {
                Vec::new()
            } else {
                vec![Action::Drop]
            };
        }
        if let Some(error) = self.spoilt.clone() {
            let mut actions = answer(&mut self.next, Err(error.clone()));
            if self.open > 0 || self.top == Top::Same {
                return actions;
            }
            self.top = Top::Same;
            self.last = Last::Failed {
                error: error.clone(),
                told: true,
            };
            actions.push(Action::Keep(error));
            return actions;
        }
        if !self.next.is_empty() || (self.open == 0 && self.top != Top::Same && !self.stuck) {
            self.waiting = std::mem::take(&mut self.next);
            if self.kept {
                self.debt_shy = self.shy;
            }
            (self.top, self.kept, self.stuck) = (Top::Same, false, false);
            self.shy = std::mem::take(&mut self.next_shy);
            self.flight = Flight::Sealing;
            return vec![Action::Seal];
        }
        if self.open > 0 || self.flight == Flight::Parked {
            return Vec::new();
        }
        match &self.last {
            Last::Failed { .. } if self.debt => Vec::new(),
            Last::Failed { error, .. } => vec![Action::Keep(error.clone())],
            Last::None | Last::Committed => vec![Action::Rest],
        }
    }
}

/// Answers all who wait here.
fn answer<W>(waiting: &mut Vec<W>, answer: Result<()>) -> Vec<Action<W>> {
    if waiting.is_empty() {
        return Vec::new();
    }
    vec![Action::Answer(std::mem::take(waiting), answer)]
}

#[cfg(test)]
mod tests;
