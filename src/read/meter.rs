//! How fast the link is: bytes per second over the time in which something was asked for.
//!
//! Also how soon it answers, and with both how much must be on its way to keep it busy. Pure; the caller
//! tells the time. On a slow link it keeps windows from filling the link with seconds of
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
    latency: Option<Duration>,
}

/// So many times what the link holds is on its way at most: requests end at their own pace.
const REACH: f64 = 4.0;

/// The least that is worth it on any link, in bytes: a few requests of full size.
const REACH_MIN: u64 = 16 * 1024 * 1024;

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Meter {
            since: now,
            bytes: 0,
            rate: None,
            latency: None,
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

    /// A request was answered after so long. The quickest answers of late count: the others waited in line.
    pub(super) fn answered(&mut self, after: Duration) {
        let slower = self.latency.map_or(after, |latency| latency.mul_f64(1.05));
        self.latency = Some(after.min(slower));
    }

    /// How much on its way keeps the link busy, in bytes; no bound until rate and latency are known.
    pub(super) fn reach(&self) -> u64 {
        let (Some(rate), Some(latency)) = (self.rate, self.latency) else {
            return u64::MAX;
        };
        REACH_MIN.max((rate as f64 * latency.as_secs_f64() * REACH) as u64)
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
    fn the_reach_grows_with_rate_and_latency_and_forgets_a_quick_answer() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        assert_eq!(meter.reach(), u64::MAX);
        meter.arrived(100_000_000, after(100, start));
        meter.answered(Duration::from_micros(200));
        assert_eq!(meter.reach(), REACH_MIN);
        for _ in 0..200 {
            meter.answered(Duration::from_millis(50));
        }
        assert_eq!(meter.reach(), 200_000_000);
        meter.answered(Duration::from_secs(3));
        assert!(meter.reach() < 220_000_000);
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
