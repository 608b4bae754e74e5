//! Progress of one request, so that a stall can be told from a slow line.

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// When bytes last moved, and how long none may move from there.
#[derive(Debug)]
pub(super) struct Pulse {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Instant,
    limit: Duration,
    held: u32,
}

/// While it lives the line is not to blame for the silence (a source is being read, a rate limit
/// waits).
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Pulse);

impl Pulse {
    pub(super) fn new(limit: Duration) -> Self {
        Pulse {
            state: Mutex::new(State {
                last: Instant::now(),
                limit,
                held: 0,
            }),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Bytes moved.
    pub(super) fn beat(&self) {
        self.with(|s| s.last = Instant::now());
    }

    /// Bytes moved, and from here on silence may last `limit`.
    pub(super) fn expect_within(&self, limit: Duration) {
        self.with(|s| {
            s.last = Instant::now();
            s.limit = limit;
        });
    }

    pub(super) fn hold(&self) -> Held<'_> {
        self.with(|s| s.held += 1);
        Held(self)
    }

    /// Returns when nothing has moved for the limit; the limit is the result.
    pub(super) async fn stalled(&self) -> Duration {
        loop {
            let (until, limit) = self.with(|s| {
                if s.held > 0 {
                    s.last = Instant::now();
                }
                (s.last + s.limit, s.limit)
            });
            if until <= Instant::now() {
                return limit;
            }
            sleep_until(until).await;
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.with(|s| {
            s.held -= 1;
            s.last = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_for_the_limit_is_a_stall_and_a_beat_in_time_is_not() {
        let pulse = Pulse::new(LIMIT);
        let begin = Instant::now();
        advance(LIMIT / 2).await;
        pulse.beat();
        assert_eq!(pulse.stalled().await, LIMIT);
        assert!(Instant::now() - begin >= LIMIT + LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_that_a_source_or_a_rate_limit_makes_is_no_stall() {
        let pulse = Pulse::new(LIMIT);
        let held = pulse.hold();
        let waited = tokio::time::timeout(LIMIT * 10, pulse.stalled()).await;
        assert!(waited.is_err());
        drop(held);
        assert_eq!(pulse.stalled().await, LIMIT);
    }
}
