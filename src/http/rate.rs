//! A byte rate shared by all requests of a client, as a clock of when the next byte may go.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Unused time that may be caught up at once; more would make bursts, less would waste the line when
/// a task wakes late.
const SLACK: Duration = Duration::from_millis(100);

/// At most so many bytes per second, first come first served.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: NonZeroU64,
    next: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU64) -> Self {
        Rate {
            per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns when `bytes` more may pass.
    pub(super) async fn take(&self, bytes: u64) {
        let turn = self.book(bytes, Instant::now());
        sleep_until(turn).await;
    }

    fn book(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
        let turn = (*next).max(now.checked_sub(SLACK).unwrap_or(now));
        *next = turn + Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_takers_together_get_the_rate_and_no_more() {
        let rate = Rate::new(NonZeroU64::new(1000).unwrap());
        let begin = Instant::now();
        let mut last = begin;
        for _ in 0..11 {
            last = rate.book(500, begin);
        }
        // Ten takes of half a second lie before the last one.
        assert_eq!(last - begin, Duration::from_secs(5));
        // After an idle minute only the slack may be caught up.
        let later = begin + Duration::from_secs(65);
        assert_eq!(rate.book(500, later), later - SLACK);
        assert!(rate.book(1, later) > later);
    }
}
