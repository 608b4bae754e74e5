//! The digest of a whole content, taken along while it is written in order.

use crate::store::{Algo, Digests};
use md5::Md5;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use std::fmt;

/// A digest under way by the algorithm that the store reports.
#[derive(Clone)]
enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(algo: Algo) -> Self {
        match algo {
            Algo::Md5 => Hasher::Md5(Md5::new()),
            Algo::Sha1 => Hasher::Sha1(Sha1::new()),
            Algo::Sha256 => Hasher::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Md5(h) => h.update(bytes),
            Hasher::Sha1(h) => h.update(bytes),
            Hasher::Sha256(h) => h.update(bytes),
        }
    }

    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Hasher::Md5(h) => hex(&h.finalize()),
            Hasher::Sha1(h) => hex(&h.finalize()),
            Hasher::Sha256(h) => hex(&h.finalize()),
        }
    }
}

/// The digest of `bytes`; none without an algorithm.
#[must_use]
pub fn digests_of(algo: Option<Algo>, bytes: &[u8]) -> Digests {
    let mut running = Running::new(algo);
    running.wrote(0, bytes);
    running.digests()
}

/// The digest of the bytes before `at`. A write elsewhere is noted: one behind `at` makes it start
/// over, one ahead leaves a gap that is read when the content is sealed.
#[derive(Clone)]
pub(super) struct Running {
    algo: Option<Algo>,
    at: u64,
    hasher: Option<Hasher>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({:?} at {})", self.algo, self.at)
    }
}

impl Running {
    /// A digest of nothing yet; `None` keeps no digest.
    #[must_use]
    pub(super) fn new(algo: Option<Algo>) -> Self {
        Running {
            algo,
            at: 0,
            hasher: algo.map(Hasher::new),
        }
    }

    /// How many bytes from the start it covers.
    #[must_use]
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether it keeps a digest at all.
    #[must_use]
    pub(super) fn is_on(&self) -> bool {
        self.algo.is_some()
    }

    /// Takes what was written at `offset`, if it is the continuation.
    pub(super) fn wrote(&mut self, offset: u64, bytes: &[u8]) {
        let Some(hasher) = &mut self.hasher else {
            return;
        };
        if offset == self.at {
            hasher.update(bytes);
            self.at += bytes.len() as u64;
        } else if offset < self.at && !bytes.is_empty() {
            self.restart();
        }
    }

    /// Notes that bytes from `offset` on changed in some other way.
    pub(super) fn changed(&mut self, offset: u64) {
        if offset < self.at {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.at = 0;
        self.hasher = self.algo.map(Hasher::new);
    }

    /// The digest of everything taken so far.
    #[must_use]
    pub(super) fn digests(&self) -> Digests {
        let pair = self.algo.zip(self.hasher.clone());
        Digests(
            pair.map(|(algo, hasher)| (algo, hasher.hex()))
                .into_iter()
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_in_order_gives_the_digest_without_reading() {
        let mut running = Running::new(Some(Algo::Sha1));
        running.wrote(0, b"He");
        running.wrote(2, b"llo");
        assert_eq!(running.at(), 5);
        assert_eq!(
            running.digests().0[&Algo::Sha1],
            "f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0"
        );
    }

    #[test]
    fn a_rewrite_starts_over_and_a_gap_waits() {
        let mut running = Running::new(Some(Algo::Md5));
        running.wrote(0, b"test");
        running.wrote(9, b"later");
        assert_eq!(running.at(), 4);
        running.wrote(1, b"x");
        assert_eq!(running.at(), 0);
        running.wrote(0, b"test");
        assert_eq!(
            running.digests().0[&Algo::Md5],
            "098f6bcd4621d373cade4e832627b4f6"
        );
    }

    #[test]
    fn no_algorithm_means_no_digest() {
        let mut running = Running::new(None);
        running.wrote(0, b"test");
        assert!(running.digests().0.is_empty());
    }
}
