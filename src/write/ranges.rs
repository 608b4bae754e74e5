//! A set of byte positions, kept as disjoint, non-adjacent ranges in order.

use std::collections::BTreeMap;
use std::ops::Range;

/// Which bytes of a file are meant. Adjacent ranges are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; empty ones change nothing.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.0.range(..=start).next_back()
            && e >= start
        {
            if e >= end {
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Takes a range away.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        for (piece, inside) in self.split(range) {
            let around = self
                .0
                .range(..=piece.start)
                .next_back()
                .map(|(&start, &end)| start..end);
            if let Some(around) = around.filter(|_| inside) {
                self.0.remove(&around.start);
                self.insert(around.start..piece.start);
                self.insert(piece.end..around.end);
            }
        }
    }

    /// Forgets everything from `len` on.
    pub(super) fn cut(&mut self, len: u64) {
        self.0.split_off(&len);
        if let Some((_, end)) = self.0.range_mut(..len).next_back() {
            *end = (*end).min(len);
        }
    }

    /// The ranges in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Cuts `range` into pieces that are wholly in the set (`true`) or wholly outside, in order.
    #[must_use]
    pub(super) fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut pieces = Vec::new();
        if range.is_empty() {
            return pieces;
        }
        let mut at = range.start;
        let first = self
            .0
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(&s, _)| s);
        for (&start, &end) in self.0.range(first..) {
            if start >= range.end {
                break;
            }
            if end <= at {
                continue;
            }
            if start > at {
                pieces.push((at..start, false));
                at = start;
            }
            let stop = end.min(range.end);
            pieces.push((at..stop, true));
            at = stop;
        }
        if at < range.end {
            pieces.push((at..range.end, false));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64),
        Remove(u64, u64),
        Cut(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u64..64, 0u64..20).prop_map(|(s, l)| Op::Insert(s, s + l)),
            2 => (0u64..64, 0u64..20).prop_map(|(s, l)| Op::Remove(s, s + l)),
            1 => (0u64..70).prop_map(Op::Cut),
        ]
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_vector_of_flags(
            ops in proptest::collection::vec(op(), 0..40), a in 0u64..90, b in 0u64..90,
        ) {
            let mut set = Ranges::default();
            let mut flags = [false; 100];
            for op in ops {
                match op {
                    Op::Insert(s, e) => {
                        set.insert(s..e);
                        flags[s as usize..e as usize].fill(true);
                    }
                    Op::Remove(s, e) => {
                        set.remove(s..e);
                        flags[s as usize..e as usize].fill(false);
                    }
                    Op::Cut(len) => {
                        set.cut(len);
                        flags[len as usize..].fill(false);
                    }
                }
            }
            let (a, b) = (a.min(b), a.max(b));
            let mut at = a;
            for (piece, inside) in set.split(a..b) {
                prop_assert_eq!(piece.start, at);
                prop_assert!(!piece.is_empty());
                prop_assert!(flags[piece.start as usize..piece.end as usize].iter().all(|f| *f == inside));
                at = piece.end;
            }
            prop_assert_eq!(at, b);
            let listed: Vec<_> = set.iter().collect();
            prop_assert!(listed.windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
