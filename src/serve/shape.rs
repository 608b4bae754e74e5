//! A link of limited speed: one bucket per direction, shared by all connections.
//!
//! It works by debt: bytes are taken after they have moved, and whoever took them waits until the
//! link would have carried them. It knows nothing of sockets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What may go at once after a silence; more than a timer on a busy machine is late, so that
/// lateness does not cost speed.
const BURST: Duration = Duration::from_millis(20);

/// One direction of the link.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    /// When the link is free again.
    free: Mutex<Instant>,
}

impl Bucket {
    /// A link of `rate` bytes per second, at least 1.
    pub(super) fn new(rate: u64) -> Bucket {
        Bucket {
            rate: rate.max(1),
            free: Mutex::new(Instant::now()),
        }
    }

    /// Takes `bytes` that have moved by `now`: the time at which the link will have carried them.
    pub(super) fn take(&self, bytes: usize, now: Instant) -> Instant {
        let took = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = match now.checked_sub(BURST) {
            Some(earliest) => earliest.max(*free),
            None => *free,
        };
        *free = start + took;
        *free
    }

    /// Bytes per second.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// How much to move in one go, in bytes: about 5 ms, so that connections take turns.
    pub(super) fn quantum(&self) -> usize {
        (self.rate / 200).clamp(4 * 1024, 256 * 1024) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second_whoever_takes_them() {
        let link = Bucket::new(1_000_000);
        let begin = Instant::now();
        let frees: Vec<_> = (0..100).map(|_| link.take(10_000, begin)).collect();
        let took = frees[99] - begin;
        assert!(
            took > Duration::from_millis(975) && took <= Duration::from_secs(1),
            "{took:?}"
        );
        assert!(frees.is_sorted());
    }

    #[test]
    fn a_silence_is_not_saved_up() {
        let link = Bucket::new(1_000_000);
        let later = Instant::now() + Duration::from_secs(60);
        assert!(link.take(1_000_000, later) - later > Duration::from_millis(975));
    }
}
