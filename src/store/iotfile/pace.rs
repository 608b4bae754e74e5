//! How fast single requests were, and what follows: a request must end within a minute (spec, sections 4
//! and 6.4). Pure but for two numbers.

use super::super::Cut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a request may take, of the service's 60 s.
const SECONDS: u64 = 45;

/// Less says nothing about the line, in bytes.
const LEAST: u64 = 256 * 1024;

const MIB: u64 = 1 << 20;

/// The largest part that S3 takes.
pub(super) const PART_MAX: u64 = 5 << 30;

/// The numbers of parts that are used; the piece of the commit is one more.
pub(super) const NUMBERED: u32 = 999;

/// The speed of a request in one direction, as it is among those beside it.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    /// A request has moved so many bytes in this time.
    pub(super) fn note(&self, bytes: u64, took: Duration) {
        if bytes < LEAST {
            return;
        }
        let now = (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
        let old = self.0.load(Ordering::Relaxed);
        let new = if old == 0 { now } else { old / 2 + now / 2 };
        self.0.store(new.max(1), Ordering::Relaxed);
    }

    /// The most bytes for one request; `unknown` before anything was measured.
    pub(super) fn most(&self, unknown: u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            0 => unknown,
            speed => speed.saturating_mul(SECONDS).clamp(MIB, PART_MAX),
        }
    }
}

/// How a content is cut of which `known` bytes are known: parts of `first` bytes or, where 999 of these
/// are not enough, larger ones; growing up to `most`, so that it may become larger than known.
pub(super) fn plan(known: u64, first: u64, most: u64) -> Cut {
    let needed = known.div_ceil(u64::from(NUMBERED));
    let size = if needed <= first {
        first
    } else {
        needed.next_multiple_of(MIB)
    };
    let doublings = (most / size.max(1)).checked_ilog2().unwrap_or(0).min(9);
    Cut {
        first: size,
        double_every: (doublings > 0).then(|| 1000u32.div_ceil(doublings + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_grow_as_the_tables_of_the_spec_say() {
        let cut = plan(0, 8 * MIB, 64 * MIB);
        assert_eq!((cut.first, cut.double_every), (8 * MIB, Some(250)));
        assert_eq!(cut.part(999).end >> 20, 30_000);
        let cut = plan(0, 8 * MIB, 4 << 30);
        assert_eq!(cut.double_every, Some(100));
        assert_eq!(cut.part(999).end >> 20, 100 * 8 * 1023);
        assert_eq!(plan(50 << 30, 8 * MIB, 64 * MIB).first, 52 * MIB);
        assert_eq!(plan(0, 8 * MIB, MIB).double_every, None);
    }

    #[test]
    fn the_measured_speed_bounds_a_request() {
        let pace = Pace::default();
        assert_eq!(pace.most(7), 7);
        pace.note(100, Duration::from_secs(100));
        assert_eq!(pace.most(7), 7, "too little to tell");
        pace.note(MIB, Duration::from_secs(1));
        assert_eq!(pace.most(7), SECONDS * MIB);
        pace.note(LEAST, Duration::from_secs(60));
        assert!(pace.most(7) < 30 * MIB);
    }

    proptest! {
        #[test]
        fn every_known_size_fits_into_999_parts_and_a_tail(
            known in 0u64..(4u64 << 40), most in 1u64..(5u64 << 30),
        ) {
            let cut = plan(known, 8 * MIB, most);
            prop_assert!(cut.part(NUMBERED).start >= known);
        }
    }
}
