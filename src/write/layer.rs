//! What a file being written is made of: its own bytes over those of what lies below.
//!
//! Pure: no file is touched here. A hole made by writing past the end, or by cutting and growing again,
//! is zeros and never shows what lay below.

use super::ranges::Ranges;
use std::ops::Range;

/// Where a piece of a content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The spool file of this layer.
    Own,
    /// The content below, at the same offset.
    Below,
    /// Zeros.
    Zero,
}

/// One layer: `owned` bytes are in its spool file, the others below `below` come from the content
/// underneath unless they are `holes`, the rest up to `size` is zeros. Always `below <= size`; what is owned is
/// no hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    size: u64,
    owned: Ranges,
    holes: Ranges,
    below: u64,
}

impl Layer {
    /// A layer over a content of `below` bytes, not yet written.
    #[must_use]
    pub(super) fn over(below: u64) -> Self {
        Layer {
            size: below,
            owned: Ranges::default(),
            holes: Ranges::default(),
            below,
        }
    }

    /// Size of the content in bytes.
    #[must_use]
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes of `range` are not yet in this layer's spool file.
    #[must_use]
    pub(super) fn fresh(&self, range: Range<u64>) -> u64 {
        let pieces = self.owned.split(range);
        pieces
            .iter()
            .filter(|(_, own)| !own)
            .map(|(range, _)| range.end - range.start)
            .sum()
    }

    /// Notes a write of `range`; the file grows if needed.
    pub(super) fn write(&mut self, range: Range<u64>) {
        self.size = self.size.max(range.end);
        self.holes.remove(range.clone());
        self.owned.insert(range);
    }

    /// Makes zeros of `range`, clipped at the size. The same must be done to the spool file.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        self.owned.remove(range.clone());
        self.holes.insert(range.start..range.end.min(self.below));
    }

    /// Cuts or grows to `size`. The spool file must be cut as well, so that a later growth is zeros.
    pub(super) fn truncate(&mut self, size: u64) {
        self.owned.cut(size);
        self.holes.cut(size);
        self.below = self.below.min(size);
        self.size = size;
    }

    /// The pieces of `range`, clipped at the size, in order.
    #[must_use]
    pub(super) fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, From)> {
        let range = range.start.min(self.size)..range.end.min(self.size);
        let mut pieces = Vec::new();
        for (piece, own) in self.owned.split(range) {
            if own {
                pieces.push((piece, From::Own));
                continue;
            }
            let edge = self.below.clamp(piece.start, piece.end);
            for (piece, hole) in self.holes.split(piece.start..edge) {
                pieces.push((piece, if hole { From::Zero } else { From::Below }));
            }
            if edge < piece.end {
                pieces.push((edge..piece.end, From::Zero));
            }
        }
        pieces
    }

    /// The ranges that are still only below.
    #[must_use]
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        let pieces = self.pieces(0..self.below).into_iter();
        pieces
            .filter_map(|(range, from)| (from == From::Below).then_some(range))
            .collect()
    }

    /// The ranges that are zeros whatever lies below, in order.
    pub(super) fn holes(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.holes.iter()
    }

    /// The ranges in the spool file, in order.
    pub(super) fn owned(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.owned.iter()
    }

    /// Notes that everything missing was brought into the spool file.
    pub(super) fn completed(&mut self) {
        self.below = 0;
        self.holes = Ranges::default();
        self.owned.insert(0..self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u64, u64),
        Punch(u64, u64),
        Truncate(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0u64..60, 1u64..20).prop_map(|(s, l)| Op::Write(s, s + l)),
            1 => (0u64..60, 1u64..20).prop_map(|(s, l)| Op::Punch(s, s + l)),
            1 => (0u64..80).prop_map(Op::Truncate),
        ]
    }

    proptest! {
        #[test]
        fn a_layer_agrees_with_a_plain_vector(
            below in 0u64..50, ops in proptest::collection::vec(op(), 0..30),
        ) {
            // b: from below, o: own, z: zero
            let mut model = vec![b'b'; below as usize];
            let mut layer = Layer::over(below);
            for op in ops {
                match op {
                    Op::Write(s, e) => {
                        layer.write(s..e);
                        if model.len() < e as usize {
                            model.resize(e as usize, b'z');
                        }
                        model[s as usize..e as usize].fill(b'o');
                    }
                    Op::Punch(s, e) => {
                        layer.punch(s..e);
                        let e = model.len().min(e as usize);
                        if let Some(punched) = model.get_mut(s as usize..e) {
                            punched.fill(b'z');
                        }
                    }
                    Op::Truncate(len) => {
                        layer.truncate(len);
                        model.resize(len as usize, b'z');
                    }
                }
            }
            let mut seen = Vec::new();
            for (piece, from) in layer.pieces(0..1000) {
                prop_assert_eq!(piece.start as usize, seen.len());
                let mark = match from { From::Own => b'o', From::Below => b'b', From::Zero => b'z' };
                seen.resize(piece.end as usize, mark);
            }
            prop_assert_eq!(&seen, &model);
            let missing: u64 = layer.missing().iter().map(|r| r.end - r.start).sum();
            prop_assert_eq!(missing as usize, model.iter().filter(|m| **m == b'b').count());
            layer.completed();
            prop_assert!(layer.missing().is_empty());
            prop_assert_eq!(layer.size() as usize, model.len());
        }
    }
}
