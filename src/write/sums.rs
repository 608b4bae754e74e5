//! A checksum per block of a spool file, taken when bytes are written and compared when they are read, so
//! that bytes that rotted on the local disk are noticed before they are sent. Pure but for the reads
//! that it asks for.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 64 * 1024;

/// Bytes of one block's row on the disk.
const ROW: usize = 16;

/// The checksum of the first `len` bytes of a block; what follows in it was never written (zeros).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) len: u32,
    pub(super) crc: u32,
}

/// The checksums of a file's blocks, by block number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums(BTreeMap<u64, Sum>);

impl Sum {
    /// Whether `bytes`, the first ones of the block, are those that were written.
    pub(super) fn agrees(self, bytes: &[u8]) -> bool {
        bytes
            .get(..self.len as usize)
            .is_some_and(|bytes| crc(bytes) == self.crc)
    }
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn extend(sum: Sum, bytes: &[u8]) -> Sum {
    let mut hasher = crc32fast::Hasher::new_with_initial_len(sum.crc, u64::from(sum.len));
    hasher.update(bytes);
    Sum {
        len: sum.len + bytes.len() as u32,
        crc: hasher.finalize(),
    }
}

/// The pieces of `range` by block: block number, range within the block.
pub(super) fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
    blocks.map(move |block| {
        let start = range.start.max(block * BLOCK) - block * BLOCK;
        let end = range.end.min((block + 1) * BLOCK) - block * BLOCK;
        (block, start as usize..end as usize)
    })
}

impl Sums {
    /// The checksum of a block; of length 0 if nothing was written there.
    pub(super) fn get(&self, block: u64) -> Sum {
        self.0.get(&block).copied().unwrap_or_default()
    }

    /// The blocks that were written, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Sum)> + '_ {
        self.0.iter().map(|(&block, &sum)| (block, sum))
    }

    /// Takes a block's bytes for what they are now.
    pub(super) fn renew(&mut self, block: u64, bytes: &[u8]) {
        self.set(
            block,
            Sum {
                len: bytes.len() as u32,
                crc: crc(bytes),
            },
        );
    }

    fn set(&mut self, block: u64, sum: Sum) {
        self.0.insert(block, sum);
    }

    /// The checksum of `block` after `bytes` are written at `at` in it. `old` gives the block's present
    /// bytes, checked against the sum; it is asked only if they are needed.
    pub(super) fn write<E>(
        &mut self,
        block: u64,
        at: usize,
        bytes: &[u8],
        old: impl FnOnce(Sum) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let sum = self.get(block);
        let (len, end) = (sum.len as usize, at + bytes.len());
        let new = if at == len {
            extend(sum, bytes)
        } else if at == 0 && end >= len {
            Sum {
                len: end as u32,
                crc: crc(bytes),
            }
        } else {
            let mut all = old(sum)?;
            all.resize(len.max(end), 0);
            all[at..end].copy_from_slice(bytes);
            Sum {
                len: all.len() as u32,
                crc: crc(&all),
            }
        };
        self.set(block, new);
        Ok(())
    }

    /// Cuts at `len` bytes of the file. `old` as in [`Sums::write`], for the block that is cut.
    pub(super) fn cut<E>(
        &mut self,
        len: u64,
        old: impl FnOnce(u64, Sum) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let (block, within) = (len / BLOCK, (len % BLOCK) as usize);
        let sum = self.get(block);
        self.0.split_off(&(block + 1));
        if (sum.len as usize) > within {
            let all = old(block, sum)?;
            self.set(
                block,
                Sum {
                    len: within as u32,
                    crc: crc(&all[..within]),
                },
            );
        }
        Ok(())
    }

    /// Makes zeros of `range`. `old` as in [`Sums::write`], for the blocks of which a part stays.
    pub(super) fn punch<E>(
        &mut self,
        range: Range<u64>,
        old: impl Fn(u64, Sum) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let written: Vec<(u64, Sum)> = self
            .0
            .range(blocks)
            .map(|(&block, &sum)| (block, sum))
            .collect();
        for (block, sum) in written {
            let len = u64::from(sum.len);
            let within = |at: u64| at.saturating_sub(block * BLOCK).min(len) as usize;
            let (start, end) = (within(range.start), within(range.end));
            if end - start == len as usize {
                self.0.remove(&block);
            } else if start < end {
                let mut bytes = old(block, sum)?;
                bytes[start..end].fill(0);
                self.renew(block, &bytes);
            }
        }
        Ok(())
    }

    /// For the disk.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * ROW + 4);
        for (block, sum) in &self.0 {
            bytes.extend_from_slice(&block.to_le_bytes());
            bytes.extend_from_slice(&sum.len.to_le_bytes());
            bytes.extend_from_slice(&sum.crc.to_le_bytes());
        }
        bytes.extend_from_slice(&crc(&bytes).to_le_bytes());
        bytes
    }

    /// From the disk; `None` if it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (rows, check) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc(rows).to_le_bytes() != check || rows.len() % ROW != 0 {
            return None;
        }
        let word = |row: &[u8], at: usize| {
            u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
        };
        let block = |row: &[u8]| u64::from(word(row, 0)) | u64::from(word(row, 4)) << 32;
        let sum = |row: &[u8]| Sum {
            len: word(row, 8),
            crc: word(row, 12),
        };
        let rows: BTreeMap<u64, Sum> = rows.chunks(ROW).map(|row| (block(row), sum(row))).collect();
        Some(Sums(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_follow_writes_cuts_and_holes(
            ops in proptest::collection::vec((0usize..3000, 0usize..600, any::<u8>(), 0u8..6), 1..40),
        ) {
            // Two blocks' worth of a scaled model: positions are multiplied so that blocks are crossed.
            let scale = (BLOCK as usize * 2) / 3600;
            let mut file: Vec<u8> = Vec::new();
            let mut sums = Sums::default();
            for (at, len, byte, kind) in ops {
                let (at, len) = (at * scale, len * scale);
                if kind == 0 {
                    let old = file.clone();
                    sums.cut::<()>(at as u64, |block, sum| {
                        let start = (block * BLOCK) as usize;
                        Ok(old.iter().skip(start).take(sum.len as usize).copied().collect())
                    }).unwrap();
                    file.truncate(at);
                    continue;
                }
                if kind == 1 {
                    let old = file.clone();
                    sums.punch::<()>(at as u64..(at + len) as u64, |block, sum| {
                        let start = (block * BLOCK) as usize;
                        Ok(old.iter().skip(start).take(sum.len as usize).copied().collect())
                    }).unwrap();
                    let end = file.len().min(at + len);
                    if let Some(punched) = file.get_mut(at..end) {
                        punched.fill(0);
                    }
                    continue;
                }
                let bytes = vec![byte; len];
                let old = file.clone();
                for (block, piece) in pieces(at as u64..(at + len) as u64) {
                    let start = (block * BLOCK) as usize;
                    let from = start + piece.start - at;
                    let part = &bytes[from..from + piece.len()];
                    sums.write::<()>(block, piece.start, part, |sum| {
                        Ok(old.iter().skip(start).take(sum.len as usize).copied().collect())
                    }).unwrap();
                }
                if file.len() < at + len { file.resize(at + len, 0); }
                file[at..at + len].copy_from_slice(&bytes);
            }
            for block in 0..=(file.len() as u64 / BLOCK) {
                let start = ((block * BLOCK) as usize).min(file.len());
                let bytes = &file[start..file.len().min(start + BLOCK as usize)];
                prop_assert!(sums.get(block).agrees(bytes));
            }
            prop_assert_eq!(Sums::from_bytes(&sums.to_bytes()), Some(sums));
        }

        #[test]
        fn damaged_bytes_are_no_sums_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Sums::from_bytes(&bytes).is_none_or(|sums| sums.to_bytes().len() <= bytes.len()));
        }
    }

    #[test]
    fn a_changed_bit_is_noticed() {
        let mut sums = Sums::default();
        sums.write::<()>(0, 0, b"hello", |_| unreachable!())
            .unwrap();
        assert!(sums.get(0).agrees(b"hello"));
        assert!(!sums.get(0).agrees(b"hellp"));
        assert!(!sums.get(0).agrees(b"hell"));
    }
}
