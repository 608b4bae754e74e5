//! The window of one open handle: how far ahead of a reader the bytes should be on their way.
//!
//! Pure arithmetic over the ranges that a program reads. It knows no blocks in memory, no store and no
//! clock. A window starts with just what was asked, opens when reads follow each other, doubles
//! whenever a read had to wait, and closes at a jump. Linux may deliver the requests of one
//! readahead out of order, so a read somewhat off the front neither opens nor closes it.

use super::BLOCK;
use std::ops::Range;

/// The largest request, in bytes: long enough that its latency is small beside its transfer (32 ms at
/// 1 Gbit/s), short enough that several share the link.
pub(super) const PIECE_MAX: u64 = 4 * 1024 * 1024;

/// How far off the front a read may be and still count as reordered, in bytes: the largest FUSE read.
const SLACK: u64 = 1024 * 1024;

/// So many reads in a row off the front are not a reordering but a stride, or a walk backwards.
const STRAY_MAX: usize = 8;

/// The window splits into so many requests, so that the link stays busy while one of them ends.
const PIECES: u64 = 4;

/// What a read asks for beside its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Bytes that should be on their way too; starts and ends at block boundaries (or at the end of
    /// the file), is empty when nothing more is wanted, and leaves out what was wanted before.
    pub(super) ahead: Range<u64>,
    /// Requests are cut at multiples of this, in bytes; a multiple of [`BLOCK`].
    pub(super) piece: u64,
    /// The read follows the one before: its blocks will hardly be read again.
    pub(super) sequential: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    /// Size of the file, in bytes.
    file: u64,
    /// The front: everything before it since the last jump was read.
    next: Option<u64>,
    /// Ranges beyond the front that were read already.
    early: Vec<Range<u64>>,
    /// Reads in a row that did not move the front.
    strays: usize,
    /// Bytes read since the last jump.
    run: u64,
    /// Bytes to have on their way beyond the front; 0: closed.
    size: u64,
    /// What `size` was before the last jumps, fading.
    was: u64,
    /// The end of what was asked for ahead.
    sent: u64,
}

impl Window {
    /// A closed window over a file of so many bytes.
    pub(super) fn new(file: u64) -> Self {
        Window {
            file,
            next: None,
            early: Vec::new(),
            strays: 0,
            run: 0,
            size: 0,
            was: 0,
            sent: 0,
        }
    }

    /// Whether the window is open.
    pub(super) fn is_open(&self) -> bool {
        self.size > 0
    }

    /// A read of `range` (not empty, within the file) comes in; the window may have `cap` bytes.
    pub(super) fn want(&mut self, range: &Range<u64>, cap: u64) -> Want {
        let length = range.end - range.start;
        let asked = up(range.end, BLOCK).min(self.file);
        let front = match self.next {
            Some(next) if range.start > next.saturating_add(SLACK) => None,
            Some(next) if range.start.saturating_add(SLACK) < next => None,
            Some(next) => Some(next),
            None => None,
        };
        let sequential = match front {
            None => {
                self.jump(range);
                false
            }
            Some(next) if range.start <= next && range.end > next => {
                self.advance(range.end);
                self.run += length;
                if self.size == 0 && self.run >= BLOCK {
                    self.size = up((4 * length).max(self.was), BLOCK);
                    self.was = 0;
                    self.sent = asked;
                }
                true
            }
            Some(next) => {
                self.strays += 1;
                self.run += length;
                if range.start > next {
                    self.early.push(range.clone());
                }
                if self.strays > STRAY_MAX {
                    self.jump(range);
                }
                // A late read of what lies behind an open window belongs to its stream.
                self.size > 0
            }
        };
        self.size = self.size.min(down(cap, BLOCK));
        let piece = match self.size {
            0 => PIECE_MAX,
            size => up(size / PIECES, BLOCK).next_power_of_two().min(PIECE_MAX),
        };
        let ahead = if self.size == 0 {
            asked..asked
        } else {
            // The end moves in steps of a piece: a window that slides asks for whole pieces.
            let front = self.next.unwrap_or(range.end);
            let end = match front + self.size {
                end if end >= self.file => self.file,
                end => down(end, piece),
            };
            let start = self.sent.max(asked);
            start..end.max(start)
        };
        Want {
            ahead,
            piece,
            sequential,
        }
    }

    /// Everything ahead up to `end` is on its way; the next [`Window::want`] goes on from there.
    pub(super) fn sent(&mut self, end: u64) {
        self.sent = self.sent.max(end);
    }

    /// A read had to wait: an open window is too small for this reader and this link. It never opens
    /// wider than four times what was read, which bounds what is wasted on who stops early.
    pub(super) fn waited(&mut self) {
        self.size = (self.size * 2).min((4 * self.run).max(self.size));
    }

    fn jump(&mut self, range: &Range<u64>) {
        self.was = self.was.max(self.size) / 2;
        self.size = 0;
        self.sent = 0;
        self.next = Some(range.end);
        self.early.clear();
        self.strays = 0;
        self.run = range.end - range.start;
    }

    fn advance(&mut self, end: u64) {
        let mut next = end;
        while let Some(at) = self.early.iter().position(|r| r.start <= next) {
            next = next.max(self.early.swap_remove(at).end);
        }
        self.next = Some(next);
        self.strays = 0;
    }
}

/// `n` rounded up to a multiple of `step`.
pub(super) fn up(n: u64, step: u64) -> u64 {
    n.div_ceil(step).saturating_mul(step)
}

/// `n` rounded down to a multiple of `step`.
pub(super) fn down(n: u64, step: u64) -> u64 {
    n / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;
    const M: u64 = 1024 * K;
    const FILE: u64 = 1024 * M;

    /// Feeds reads `(start, length, waited)` and returns what was wanted ahead of each.
    fn run(window: &mut Window, reads: &[(u64, u64, bool)]) -> Vec<Range<u64>> {
        reads
            .iter()
            .map(|&(start, length, waited)| {
                let want = window.want(&(start..start + length), 64 * M);
                window.sent(want.ahead.end);
                if waited {
                    window.waited();
                }
                want.ahead
            })
            .collect()
    }

    fn lengths(ranges: &[Range<u64>]) -> Vec<u64> {
        ranges.iter().map(|r| (r.end - r.start) / K).collect()
    }

    fn stream(window: &mut Window, from: u64, count: u64, waited: bool) -> Vec<Range<u64>> {
        let reads: Vec<_> = (0..count)
            .map(|i| (from + i * 128 * K, 128 * K, waited))
            .collect();
        run(window, &reads)
    }

    #[test]
    fn a_table_of_patterns_and_what_they_open() {
        type Reads = &'static [(u64, u64)];
        let table: &[(&str, Reads, bool)] = &[
            ("one read", &[(0, 128)], false),
            ("two in a row", &[(0, 128), (128, 128)], true),
            (
                "two small in a row are too little to tell",
                &[(0, 4), (4, 4)],
                false,
            ),
            ("overlapping forwards", &[(0, 128), (64, 128)], true),
            ("the same again", &[(0, 128), (0, 128), (0, 128)], false),
            (
                "backwards",
                &[(512, 128), (384, 128), (256, 128), (128, 128), (0, 128)],
                false,
            ),
            (
                "strided, near",
                &[(0, 4), (64, 4), (128, 4), (192, 4), (256, 4), (320, 4)],
                false,
            ),
            (
                "strided, far",
                &[(0, 4), (4096, 4), (8192, 4), (12288, 4)],
                false,
            ),
            ("swapped pair", &[(0, 128), (256, 128), (128, 128)], true),
            (
                "first pair swapped",
                &[(128, 128), (0, 128), (256, 128)],
                true,
            ),
            (
                "readahead in disorder",
                &[(0, 128), (384, 128), (256, 128), (128, 128)],
                true,
            ),
            ("far away", &[(0, 128), (900_000, 128), (5000, 128)], false),
        ];
        for (name, reads, opens) in table {
            let mut window = Window::new(FILE);
            let reads: Vec<_> = reads.iter().map(|&(s, l)| (s * K, l * K, true)).collect();
            run(&mut window, &reads);
            assert_eq!(window.is_open(), *opens, "{name}");
        }
    }

    #[test]
    fn a_long_stride_inside_the_slack_never_opens() {
        let mut window = Window::new(FILE);
        for i in 0..1000 {
            let start = i * 48 * K;
            let want = window.want(&(start..start + 4 * K), 64 * M);
            assert!(want.ahead.is_empty() && !want.sequential, "read {i}");
            assert!(window.early.len() <= STRAY_MAX);
        }
    }

    #[test]
    fn it_doubles_while_reads_wait_and_holds_when_they_do_not() {
        let mut window = Window::new(FILE);
        let mut sizes = Vec::new();
        for i in 0..10 {
            stream(&mut window, i * 128 * K, 1, true);
            sizes.push(window.size / K);
        }
        assert_eq!(sizes[..6], [0, 1024, 1536, 2048, 2560, 3072]);
        let size = window.size;
        stream(&mut window, 10 * 128 * K, 50, false);
        assert_eq!(window.size, size);
        stream(&mut window, 60 * 128 * K, 1, true);
        assert_eq!(window.size, 2 * size);
    }

    #[test]
    fn a_sliding_window_asks_for_whole_pieces_without_gap_or_overlap() {
        let mut window = Window::new(FILE);
        let wanted = stream(&mut window, 0, 2000, true);
        let asked: Vec<_> = wanted.into_iter().filter(|r| !r.is_empty()).collect();
        for pair in asked.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        let lengths = lengths(&asked);
        assert_eq!(lengths.last(), Some(&(PIECE_MAX / K)));
        assert!(
            lengths.len() < 90,
            "{} times for 250 MiB: {lengths:?}",
            lengths.len()
        );
        stream(&mut window, 2000 * 128 * K, 1, false);
        assert_eq!(window.size, 64 * M);
    }

    #[test]
    fn it_never_asks_beyond_the_file_and_asks_for_its_tail() {
        let file = 3 * M + 1000;
        let mut window = Window::new(file);
        let wanted = stream(&mut window, 0, 24, true);
        assert_eq!(wanted.iter().map(|r| r.end).max(), Some(file));
    }

    #[test]
    fn a_jump_closes_and_the_next_run_resumes_at_half() {
        let mut window = Window::new(FILE);
        stream(&mut window, 0, 200, true);
        let before = window.size;
        stream(&mut window, 500 * M, 1, true);
        assert!(!window.is_open());
        stream(&mut window, 500 * M + 128 * K, 1, false);
        assert_eq!(window.size, before / 2);
    }

    #[test]
    fn many_jumps_forget_the_old_size() {
        let mut window = Window::new(FILE);
        stream(&mut window, 0, 200, true);
        for i in 0..20 {
            stream(&mut window, (900 - 20 * i) * M, 1, true);
        }
        stream(&mut window, (900 - 20 * 19) * M + 128 * K, 1, false);
        assert_eq!(window.size, 512 * K);
    }

    #[test]
    fn backwards_after_a_stream_closes() {
        let mut window = Window::new(FILE);
        stream(&mut window, 0, 100, true);
        for i in 1..=12 {
            let start = (100 - i) * 128 * K;
            assert!(
                window
                    .want(&(start..start + 128 * K), 64 * M)
                    .ahead
                    .is_empty()
            );
        }
        assert!(!window.is_open());
    }

    #[test]
    fn a_small_cap_is_kept_and_one_below_a_block_closes() {
        let mut window = Window::new(FILE);
        for i in 0..100 {
            window.want(&(i * 128 * K..(i + 1) * 128 * K), M);
            window.waited();
        }
        assert_eq!(window.want(&(12_800 * K..12_928 * K), M).piece, 256 * K);
        assert_eq!(window.size, M);
        window.want(&(12_928 * K..13_056 * K), 100 * K);
        assert!(!window.is_open());
    }
}
