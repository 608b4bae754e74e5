//! How fast the link is: bytes per second over the time in which something was asked for.
//!
//! Pure; the caller tells the time. On a slow link it keeps windows from filling the link with seconds of
//! what a jump would make useless; on a fast one it never has a say.

use std::time::Duration;
use tokio::time::Instant;

/// A sample must be so long; shorter busy times, as on a fast link, measure latency and tell nothing.
const SAMPLE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    bytes: u64,
    rate: Option<u64>,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Meter {
            since: now,
            bytes: 0,
            rate: None,
        }
    }

    /// Something is asked for, after a time in which nothing was.
    pub(super) fn busy(&mut self, now: Instant) {
        self.since = now;
        self.bytes = 0;
    }

    /// So many bytes came.
    pub(super) fn arrived(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        let took = now.duration_since(self.since);
        if took >= SAMPLE {
            let sample = (self.bytes as f64 / took.as_secs_f64()) as u64;
            self.rate = Some(self.rate.map_or(sample, |rate| rate / 2 + sample / 2));
            self.busy(now);
        }
    }

    /// Bytes per second, if it is known.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ms: u64, from: Instant) -> Instant {
        from + Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_link_is_measured_while_it_is_busy_and_idle_time_does_not_count() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 1..=20 {
            meter.arrived(50_000, after(50 * i, start));
        }
        assert_eq!(meter.rate(), Some(1_000_000));
        meter.busy(after(60_000, start));
        meter.arrived(150_000, after(60_150, start));
        assert_eq!(meter.rate(), Some(1_000_000));
    }

    #[test]
    fn short_busy_times_tell_nothing() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 0..100 {
            meter.busy(after(1000 * i, start));
            meter.arrived(1_000_000, after(1000 * i + 30, start));
        }
        assert_eq!(meter.rate(), None);
    }
}
