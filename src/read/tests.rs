//! What a program reads, what the store was asked for, and what it cost.
#![allow(clippy::single_range_in_vec_init)] // A list of requests may well be one range.

use super::fake::Fake;
use super::window::PIECE_MAX;
use super::*;
use crate::error::Kind;
use crate::store::Entry;
use futures_util::future::join_all;
use futures_util::{FutureExt, poll};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;

pub(super) const B: u64 = BLOCK;
pub(super) const M: u64 = 1024 * 1024;
const STALL: Duration = Duration::from_secs(600);

pub(super) fn cache(fake: &Arc<Fake>, budget: u64, downloads: usize) -> Arc<Cache> {
    Cache::new(fake.store(), Handle::current(), budget, downloads, STALL)
}

pub(super) fn reader(cache: &Arc<Cache>, entry: &Arc<Entry>) -> Reader {
    Reader::new(cache.clone(), entry.clone())
}

/// Reads from `from` to `to` in steps and compares.
pub(super) async fn stream(fake: &Fake, reader: &Reader, from: u64, to: u64, step: u64) {
    let mut at = from;
    while at < to {
        let end = (at + step).min(to);
        let bytes = match reader.read_now(at..end) {
            Some(bytes) => bytes,
            None => reader.read(at..end).await.unwrap(),
        };
        assert_eq!(bytes, fake.content(reader.entry(), at..end), "at {at}");
        at = end;
    }
}

/// A small generator, so that a seed is all it takes to see a failure again.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}

#[tokio::test]
async fn many_waiters_of_one_block_cost_one_request() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", B));
    let readers: Vec<_> = (0..50).map(|_| reader(&cache, &file)).collect();
    let mut reads: Vec<_> = (0..50)
        .map(|i| Box::pin(readers[i as usize].read(i * 10..i * 10 + 1000)))
        .collect();
    for read in &mut reads {
        assert!(poll!(read).is_pending());
    }
    fake.open(1);
    for (i, bytes) in join_all(reads).await.into_iter().enumerate() {
        let i = i as u64;
        assert_eq!(bytes.unwrap(), fake.content(&file, i * 10..i * 10 + 1000));
    }
    assert_eq!(fake.requests(), [0..B]);
}

#[tokio::test]
async fn a_waiter_for_the_first_block_does_not_wait_for_the_run() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", M));
    let (one, two) = (reader(&cache, &file), reader(&cache, &file));
    let mut whole = Box::pin(one.read(0..M));
    assert!(poll!(&mut whole).is_pending());
    fake.open(1);
    assert_eq!(
        two.read(5..4096).await.unwrap(),
        fake.content(&file, 5..4096)
    );
    assert!(poll!(&mut whole).is_pending());
    fake.open(7);
    assert_eq!(whole.await.unwrap(), fake.content(&file, 0..M));
    assert_eq!(fake.requests(), [0..M]);
}

#[tokio::test]
async fn a_failed_run_keeps_what_came_and_the_next_read_asks_for_the_rest() {
    let fake = Fake::new(50_000, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", M));
    fake.fail((2 * B + 100) as usize, Kind::Broken);
    let (one, two) = (reader(&cache, &file), reader(&cache, &file));
    let (a, b) = tokio::join!(one.read(0..M), two.read(3 * B..4 * B));
    assert_eq!(
        (a.unwrap_err().kind, b.unwrap_err().kind),
        (Kind::Broken, Kind::Broken)
    );
    assert_eq!(cache.bytes(), 2 * B);
    cache.lock().check();
    assert_eq!(
        one.read_now(0..2 * B).unwrap(),
        fake.content(&file, 0..2 * B)
    );
    assert!(one.read_now(2 * B..2 * B + 1).is_none());
    assert_eq!(one.read(0..M).await.unwrap(), fake.content(&file, 0..M));
    assert_eq!(fake.requests(), [0..M, 2 * B..M]);
}

#[tokio::test]
async fn a_store_that_sends_too_little_is_broken_and_nothing_short_is_kept() {
    let fake = Fake::new(50_000, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", M));
    fake.cut(M as usize - 5);
    let reader = reader(&cache, &file);
    assert_eq!(reader.read(0..M).await.unwrap_err().kind, Kind::Broken);
    assert_eq!(cache.bytes(), 7 * B);
    cache.lock().check();
}

#[tokio::test]
async fn random_small_reads_cost_one_block_each_and_nothing_ahead() {
    let fake = Fake::new(16_384, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 40 * M));
    let reader = reader(&cache, &file);
    let (mut random, mut blocks) = (Random(7), HashSet::new());
    for _ in 0..300 {
        let at = random.below(40 * M / 4096) * 4096;
        blocks.insert(at / B);
        assert_eq!(
            reader.read(at..at + 4096).await.unwrap(),
            fake.content(&file, at..at + 4096)
        );
    }
    let requests = fake.requests();
    assert_eq!(requests.len(), blocks.len());
    assert!(requests.iter().all(|r| r.end - r.start == B));
}

#[tokio::test]
async fn backwards_and_strided_reads_fetch_what_they_read() {
    let fake = Fake::new(16_384, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 16 * M));
    let back = reader(&cache, &file);
    for block in (64..128).rev() {
        back.read(block * B..(block + 1) * B).await.unwrap();
    }
    let strided = reader(&cache, &file);
    for block in (0..64).step_by(2) {
        strided.read(block * B..block * B + 4096).await.unwrap();
    }
    let requests = fake.requests();
    assert_eq!(requests.len(), 64 + 32);
    assert!(
        requests.iter().all(|r| r.end - r.start == B),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_stream_is_fetched_once_in_few_growing_requests() {
    let fake = Fake::new(65_536, false);
    let size = 100 * M + 777;
    let (cache, file) = (cache(&fake, 256 * M, 8), fake.file("a", "1", size));
    stream(&fake, &reader(&cache, &file), 0, size, B).await;
    let mut requests = fake.requests();
    requests.sort_by_key(|r| r.start);
    assert_eq!(requests[0], 0..B, "starts with what was asked");
    assert!(
        requests.windows(2).all(|pair| pair[0].end == pair[1].start),
        "{requests:?}"
    );
    assert_eq!(requests.last().unwrap().end, size);
    assert!(requests.len() < 60, "{} requests", requests.len());
    assert!(requests.iter().any(|r| r.end - r.start == PIECE_MAX));
    assert_eq!(cache.fetched(), size);
    assert!(fake.peak.load(Ordering::SeqCst) > 2, "several in flight");
}

#[tokio::test]
async fn a_small_file_read_in_kernel_readahead_order_costs_few_requests() {
    let fake = Fake::new(65_536, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 8 * B));
    let reader = reader(&cache, &file);
    join_all([1, 0, 3, 2, 5, 4, 7, 6].map(|b| reader.read(b * B..(b + 1) * B))).await;
    let mut requests = fake.requests();
    requests.sort_by_key(|r| r.start);
    assert!(
        requests.windows(2).all(|pair| pair[0].end == pair[1].start),
        "{requests:?}"
    );
    assert_eq!(cache.fetched(), 8 * B);
}

#[tokio::test]
async fn readers_in_lockstep_share_every_fetch_although_the_file_exceeds_the_budget() {
    let fake = Fake::new(65_536, false);
    let size = 48 * M;
    let (cache, file) = (cache(&fake, 16 * M, 8), fake.file("a", "1", size));
    let readers = [
        reader(&cache, &file),
        reader(&cache, &file),
        reader(&cache, &file),
    ];
    for at in (0..size).step_by(B as usize) {
        for reader in &readers {
            stream(&fake, reader, at, at + B, B).await;
        }
        cache.lock().check();
    }
    assert_eq!(cache.fetched(), size);
}

#[tokio::test]
async fn a_dropped_reader_stops_what_it_sent_for_and_keeps_what_is_complete() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 32 * M));
    let reader = reader(&cache, &file);
    fake.open(3);
    stream(&fake, &reader, 0, 3 * B, B).await;
    let requests = fake.requests().len();
    assert!(requests > 2, "something is ahead");
    fake.reached(requests).await;
    drop(reader);
    assert_eq!(cache.bytes(), 3 * B, "at once");
    assert_eq!(cache.lock().counts().0, 0);
    fake.ended(fake.requests().len()).await;
    fake.open(1000);
    cache.lock().check();
    assert_eq!((cache.bytes(), cache.fetched()), (3 * B, 3 * B));
}

#[tokio::test]
async fn what_another_reader_waits_for_goes_on_when_its_sender_is_dropped() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 32 * M));
    let (one, two) = (reader(&cache, &file), reader(&cache, &file));
    fake.open(3);
    stream(&fake, &one, 0, 3 * B, B).await;
    let requests = fake.requests().len();
    let mut read = Box::pin(two.read(3 * B..4 * B));
    assert!(poll!(&mut read).is_pending());
    drop(one);
    fake.open(100);
    assert_eq!(read.await.unwrap(), fake.content(&file, 3 * B..4 * B));
    assert_eq!(fake.requests().len(), requests);
}

#[tokio::test]
async fn a_read_that_was_given_up_leaves_the_books_in_order() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 64 * M, 1), fake.file("a", "1", 32 * M));
    let read = cache.read(&file, 0..4 * B).now_or_never();
    assert!(read.is_none());
    assert_eq!(
        cache.bytes(),
        0,
        "a windowless read takes its request along"
    );
    let reader = reader(&cache, &file);
    assert!(reader.read(0..4 * B).now_or_never().is_none());
    assert_eq!(cache.bytes(), 4 * B, "an open handle may come again");
    fake.open(4);
    assert_eq!(
        reader.read(0..4 * B).await.unwrap(),
        fake.content(&file, 0..4 * B)
    );
    drop(reader);
    cache.forget(&file);
    assert_eq!((cache.bytes(), cache.lock().counts()), (0, (0, 0)));
}

#[tokio::test]
async fn requests_in_flight_stay_below_the_bound_and_a_stream_leaves_one_to_others() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 256 * M, 4), fake.file("a", "1", 64 * M));
    let other = fake.file("b", "1", B);
    let (one, two) = (reader(&cache, &file), reader(&cache, &other));
    // Wide open, then stuck with everything it may have in flight.
    fake.open(200);
    let mut streamed = Box::pin(stream(&fake, &one, 0, 64 * M, B));
    let mut last = 0;
    loop {
        assert!(poll!(&mut streamed).is_pending());
        tokio::task::yield_now().await;
        let now = cache.fetched();
        if now == 200 * B && last == now {
            break;
        }
        last = now;
    }
    let requests = fake.requests().len();
    let mut read = Box::pin(two.read(0..B));
    assert!(poll!(&mut read).is_pending());
    fake.reached(requests + 1).await;
    assert_eq!(fake.requests().last(), Some(&(0..B)));
    fake.open(1000);
    tokio::join!(streamed, read.map(|bytes| bytes.unwrap()));
    assert_eq!(fake.peak.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_stream_of_thrice_the_budget_leaves_hot_blocks_in_memory() {
    for windowless in [false, true] {
        let fake = Fake::new(65_536, false);
        let cache = cache(&fake, 16 * M, 8);
        let (hot, big) = (fake.file("hot", "1", 4 * M), fake.file("big", "1", 48 * M));
        let random = reader(&cache, &hot);
        for block in [5, 20, 1, 28, 11] {
            random.read(block * B..block * B + 4096).await.unwrap();
        }
        if windowless {
            for at in (0..48 * M).step_by(M as usize) {
                let bytes = cache.read(&big, at..at + M).await.unwrap();
                assert_eq!(bytes, fake.content(&big, at..at + M));
            }
        } else {
            stream(&fake, &reader(&cache, &big), 0, 48 * M, B).await;
        }
        for block in [5, 20, 1, 28, 11] {
            assert!(
                random.read_now(block * B..block * B + 4096).is_some(),
                "{block}"
            );
        }
    }
}

#[tokio::test]
async fn after_stale_the_cached_blocks_are_served_and_nothing_more_is_asked() {
    let fake = Fake::new(B as usize, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 32 * M));
    let reader = reader(&cache, &file);
    reader.read(0..B).await.unwrap();
    fake.replace(&file);
    assert_eq!(
        reader.read(9 * B..10 * B).await.unwrap_err().kind,
        Kind::Stale
    );
    let requests = fake.requests().len();
    assert_eq!(
        reader.read(20 * B..20 * B + 1).await.unwrap_err().kind,
        Kind::Stale
    );
    assert_eq!(reader.read(0..2 * B).await.unwrap_err().kind, Kind::Stale);
    assert_eq!(reader.read_now(0..B).unwrap().len() as u64, B);
    assert_eq!(reader.read(5..B).await.unwrap().len() as u64, B - 5);
    assert_eq!(fake.requests().len(), requests);
    let new = fake.file("a", "2", 32 * M);
    let fresh = Reader::new(cache.clone(), new.clone());
    assert_eq!(fresh.read(0..B).await.unwrap(), fake.content(&new, 0..B));
}

#[tokio::test]
async fn a_failed_prefetch_is_not_sent_again_until_a_read_succeeds() {
    let fake = Fake::new(B as usize, false);
    let (cache, file) = (cache(&fake, 64 * M, 8), fake.file("a", "1", 16 * M));
    let (back, reader) = (reader(&cache, &file), reader(&cache, &file));
    for block in (0..40).rev() {
        back.read(block * B..(block + 1) * B).await.unwrap();
    }
    for _ in 0..50 {
        fake.fail(0, Kind::Unreachable);
    }
    for block in 0..40 {
        assert!(reader.read_now(block * B..(block + 1) * B).is_some());
        while cache.lock().counts().0 > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(
        fake.requests()[40..],
        [40 * B..41 * B],
        "one block ahead was tried, once"
    );
    let mut tries = 1;
    while reader.read(40 * B..41 * B).await.is_err() {
        tries += 1;
    }
    assert_eq!(tries, 50);
    stream(&fake, &reader, 41 * B, 16 * M, B).await;
    assert!(fake.requests().len() < 40 + 50 + 40);
}

#[tokio::test]
async fn while_a_read_waits_for_room_nothing_is_prefetched() {
    let fake = Fake::new(B as usize, true);
    let (cache, file) = (cache(&fake, 8 * B, 8), fake.file("a", "1", 4 * M));
    let (one, two, three) = (
        reader(&cache, &file),
        reader(&cache, &file),
        reader(&cache, &file),
    );
    let mut whole = Box::pin(one.read(0..8 * B));
    let mut hungry = Box::pin(two.read(20 * B..21 * B));
    assert!(poll!(&mut whole).is_pending() && poll!(&mut hungry).is_pending());
    fake.open(8);
    assert_eq!(whole.await.unwrap(), fake.content(&file, 0..8 * B));
    stream(&fake, &three, 4 * B, 8 * B, B).await;
    assert_eq!(cache.lock().counts().0, 0, "nothing on its way");
    fake.open(100);
    assert_eq!(hungry.await.unwrap(), fake.content(&file, 20 * B..21 * B));
    stream(&fake, &three, 8 * B, 12 * B, B).await;
    assert!(fake.requests().len() > 3);
}

#[tokio::test]
async fn readers_some_way_apart_share_every_fetch_beside_a_hot_set_of_the_whole_budget() {
    let fake = Fake::new(B as usize, false);
    let cache = cache(&fake, 32 * M, 8);
    let (hot, file) = (fake.file("hot", "1", 32 * M), fake.file("a", "1", 48 * M));
    let random = reader(&cache, &hot);
    for block in (0..256).rev() {
        random.read(block * B..block * B + 4096).await.unwrap();
    }
    let (one, two) = (reader(&cache, &file), reader(&cache, &file));
    for at in (0..48 * M).step_by(M as usize) {
        stream(&fake, &one, at, at + M, B).await;
        if at > 0 {
            stream(&fake, &two, at - M, at, B).await;
        }
    }
    assert_eq!(cache.fetched(), (32 + 48) * M);
}

#[tokio::test]
async fn a_store_that_does_not_move_is_a_timeout_and_leaves_nothing() {
    let fake = Fake::new(B as usize, true);
    let cache = Cache::new(
        fake.store(),
        Handle::current(),
        M,
        1,
        Duration::from_millis(5),
    );
    let file = fake.file("a", "1", 32 * M);
    let (one, two) = (reader(&cache, &file), reader(&cache, &file));
    // One sends, one queues for the permit, one has no room.
    let (a, b, c) = tokio::join!(
        one.read(0..M / 2),
        two.read(M..M + M / 2),
        two.read(2 * M..3 * M)
    );
    for outcome in [a, b, c] {
        assert_eq!(outcome.unwrap_err().kind, Kind::Timeout);
    }
    drop((one, two));
    assert_eq!((cache.bytes(), cache.lock().counts()), (0, (0, 0)));
}

#[tokio::test]
async fn a_read_larger_than_the_budget_is_served_in_turns() {
    let fake = Fake::new(B as usize, false);
    let (cache, file) = (cache(&fake, 2 * B, 8), fake.file("a", "1", 4 * M));
    let readers: Vec<_> = (0..4).map(|_| reader(&cache, &file)).collect();
    let reads = readers.iter().map(|r| r.read(7..4 * M - 7));
    for bytes in join_all(reads).await {
        assert_eq!(bytes.unwrap(), fake.content(&file, 7..4 * M - 7));
    }
    cache.lock().check();
}

#[tokio::test]
async fn ranges_are_clipped_and_tiny_files_pay_their_place() {
    let fake = Fake::new(B as usize, false);
    let cache = cache(&fake, 64 * M, 8);
    let (empty, tiny) = (fake.file("e", "1", 0), fake.file("t", "1", 3));
    assert!(
        reader(&cache, &empty)
            .read(0..100)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        cache.read(&tiny, 1..100).await.unwrap(),
        fake.content(&tiny, 1..3)
    );
    let reader = reader(&cache, &tiny);
    assert_eq!(
        reader.read_now(0..u64::MAX).unwrap(),
        fake.content(&tiny, 0..3)
    );
    assert_eq!(reader.read_now(3..9).unwrap().len(), 0);
    assert_eq!(reader.read(u64::MAX - 1..u64::MAX).await.unwrap().len(), 0);
    assert_eq!((fake.requests(), cache.bytes()), (vec![0..3], 4096));
}
