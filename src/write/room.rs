//! Room in the spool: how much is taken, how much of that cannot leave yet because a program is still
//! writing it, and whose turn it is when room becomes short. Knows no files and waits for nobody.
//!
//! By how much of the budget, `max`, is taken:
//!
//! ```text
//!  0        1/4                          3/4         max
//!  ├─ free ──┼─ one large file at a time ─┼─ slower ──┤ full
//! ```
//!
//! A version leaves when it was closed and sent. Of many that are half written none ever can, and so
//! above a quarter of the budget one writer at a time has the *turn*: it goes on and can finish, the
//! others wait. A turn ends with the close, an error, or a second without a write. Small files pass.

use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// How long a turn lasts without a write.
const TURN: Duration = Duration::from_secs(1);

/// How long the last MiB before the end is held up.
const SLOWEST: Duration = Duration::from_millis(100);

/// What a program's write past the budget is told.
const FULL: &str = "the spool is full (spool_max)";

/// Whether a write finds room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Free,
    /// It does, and is to be held up for so long if others are on their way out.
    Slow(Duration),
    /// Another file is being finished first.
    Turn,
    /// Not before something else leaves.
    Full,
    /// Not even then: what it belongs to is larger than the budget.
    Never,
}

/// What is taken of the spool's budget.
#[derive(Debug, Default)]
pub(super) struct Budget {
    max: Option<u64>,
    taken: AtomicU64,
    /// What of it belongs to versions that are being written.
    open: AtomicU64,
    /// Counts whatever shows that things move.
    stirred: AtomicU64,
    turn: Mutex<Option<(u64, Instant)>>,
    freed: Notify,
}

impl Budget {
    pub(super) fn new(max: Option<u64>) -> Self {
        Budget {
            max,
            ..Budget::default()
        }
    }

    /// Bytes taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes `more` bytes; `Full` beyond the budget. `open`: for a version that is being written.
    pub(super) fn take(&self, more: u64, open: bool) -> Result<()> {
        let before = self.taken.fetch_add(more, Ordering::Relaxed);
        if self
            .max
            .is_some_and(|max| before.saturating_add(more) > max)
        {
            self.taken.fetch_sub(more, Ordering::Relaxed);
            return Err(Error::new(Kind::Full, "write to spool").said(FULL));
        }
        if open {
            self.open.fetch_add(more, Ordering::Relaxed);
        }
        self.stir();
        Ok(())
    }

    /// Takes what is there already, whether it fits or not.
    pub(super) fn found(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back.
    pub(super) fn give(&self, bytes: u64, open: bool) {
        if bytes == 0 {
            return;
        }
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        if open {
            self.open.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.stir();
        self.freed.notify_waiters();
    }

    /// What was taken for `bytes` bytes begins or ends to be written.
    pub(super) fn set_open(&self, bytes: u64, open: bool) {
        if open {
            self.open.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.open.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Something is on its way out.
    pub(super) fn stir(&self) {
        self.stirred.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever something moves.
    pub(super) fn stirred(&self) -> u64 {
        self.stirred.load(Ordering::Relaxed)
    }

    /// Resolves when room was given back, or a turn ended, after this call.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Whether `more` bytes are out of question: far from every bound.
    pub(super) fn is_roomy(&self, more: u64) -> bool {
        (self.max).is_none_or(|max| self.taken().saturating_add(more) <= max / 4)
    }

    /// Whether `who`, whose version has taken `own` bytes, finds room for `more`. Asking keeps its turn.
    pub(super) fn ask(&self, who: u64, own: u64, more: u64) -> Room {
        let Some(max) = self.max else {
            return Room::Free;
        };
        let taken = self.taken().saturating_add(more);
        let own = own.saturating_add(more);
        if more == 0 || taken <= max / 4 {
            return Room::Free;
        }
        if own > max {
            return Room::Never;
        }
        let open = self.open.load(Ordering::Relaxed).saturating_add(more);
        let passes = open <= max / 4 || (own <= max / 32 && open <= max / 2);
        let goes_on = passes || self.has_turn(who);
        if taken > max {
            Room::Full
        } else if !goes_on {
            Room::Turn
        } else if taken > max - max / 4 {
            let over = (taken - (max - max / 4)) as f64 / (max / 4) as f64;
            Room::Slow(SLOWEST.mul_f64(over * (more as f64 / f64::from(1 << 20)).min(4.0)))
        } else {
            Room::Free
        }
    }

    /// Keeps, or takes if it is free, the turn.
    fn has_turn(&self, who: u64) -> bool {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let free = turn.is_none_or(|(holder, at)| holder == who || at.elapsed() > TURN);
        if free {
            *turn = Some((who, Instant::now()));
        }
        free
    }

    /// Whether somebody else than `who` is finishing a file.
    pub(super) fn is_anothers_turn(&self, who: u64) -> bool {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.is_some_and(|(holder, at)| holder != who && at.elapsed() <= TURN)
    }

    /// `who` has finished, or given up.
    pub(super) fn end_turn(&self, who: u64) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_some_and(|(holder, _)| holder == who) {
            *turn = None;
            self.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 3200;

    /// A budget of which so much is taken for versions being written, and so much for others.
    fn budget(open: u64, sealed: u64) -> Budget {
        let budget = Budget::new(Some(MAX));
        budget.take(open, true).unwrap();
        budget.take(sealed, false).unwrap();
        budget
    }

    #[test]
    fn below_a_quarter_everybody_finds_room() {
        let budget = budget(600, 0);
        assert!(budget.is_roomy(200));
        assert!((1..9).all(|who| budget.ask(who, 100, 200) == Room::Free));
        assert!(!budget.is_roomy(201));
        assert!(Budget::new(None).is_roomy(u64::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn above_a_quarter_one_writer_goes_on_until_it_is_done_or_pauses() {
        let budget = budget(800, 0);
        assert_eq!(budget.ask(1, 400, 10), Room::Free);
        assert_eq!(budget.ask(2, 400, 10), Room::Turn);
        assert!(budget.is_anothers_turn(2) && !budget.is_anothers_turn(1));
        let freed = budget.freed();
        budget.end_turn(1);
        freed.await;
        assert_eq!(budget.ask(2, 400, 10), Room::Free);
        assert_eq!(budget.ask(1, 400, 10), Room::Turn);
        tokio::time::advance(TURN * 2).await;
        assert_eq!(budget.ask(1, 400, 10), Room::Free);
    }

    #[test]
    fn small_files_pass_and_what_was_closed_counts_for_nobodys_turn() {
        let half = budget(1500, 0);
        assert_eq!(half.ask(1, 700, 10), Room::Free);
        assert_eq!(half.ask(2, 0, 100), Room::Free, "small");
        assert_eq!(half.ask(2, 100, 1), Room::Turn, "no longer small");
        let sealed = budget(100, 1500);
        assert!((1..9).all(|who| sealed.ask(who, 100, 200) == Room::Free));
    }

    #[test]
    fn the_last_quarter_is_slower_and_slower_and_then_it_is_full() {
        let at = |taken| match budget(0, taken).ask(1, 0, 1 << 5) {
            Room::Slow(pause) => pause,
            other => panic!("{other:?}"),
        };
        assert!(at(2500) < at(3100));
        assert_eq!(budget(0, 3199).ask(1, 0, 2), Room::Full);
        assert_eq!(budget(10, 3190).ask(1, 10, 1), Room::Full);
        assert_eq!(budget(3200, 0).ask(1, 3200, 1), Room::Never);
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let budget = budget(3200, 0);
        assert_eq!(budget.take(1, true).unwrap_err().kind, Kind::Full);
        budget.set_open(1200, false);
        budget.give(1200, false);
        let before = budget.stirred();
        budget.give(2000, true);
        assert_ne!(budget.stirred(), before);
        assert_eq!((budget.taken(), budget.open.into_inner()), (0, 0));
    }
}
