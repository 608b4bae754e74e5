//! Many readers at once: the bytes are right, the budget holds, the books balance.

use super::fake::Fake;
use super::tests::{B, M, Random, cache, reader, stream};
use crate::error::Kind;
use futures_util::FutureExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn sixty_four_readers_stay_within_the_budget() {
    let fake = Fake::new(40_000, false);
    let (budget, size) = (6 * M, 3 * M + 5);
    let cache = cache(&fake, budget, 6);
    let files: Vec<_> = (0..16)
        .map(|i| fake.file(&i.to_string(), "1", size))
        .collect();
    let done = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64u64)
        .map(|i| {
            let (fake, cache, done) = (fake.clone(), cache.clone(), done.clone());
            let reader = reader(&cache, &files[i as usize % 16]);
            tokio::spawn(async move {
                if i % 3 == 0 {
                    let mut random = Random(i + 1);
                    for _ in 0..40 {
                        let at = random.below(size - 4096);
                        stream(&fake, &reader, at, at + 4096, 4096).await;
                        cache.lock().check();
                    }
                } else {
                    for at in (0..size).step_by(M as usize) {
                        stream(&fake, &reader, at, (at + M).min(size), B + i).await;
                        cache.lock().check();
                    }
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(done.load(Ordering::SeqCst), 64);
    assert!(fake.peak.load(Ordering::SeqCst) <= 6);
    for file in &files {
        cache.forget(file);
    }
    assert_eq!((cache.bytes(), cache.lock().counts()), (0, (0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_the_bytes_are_right_and_the_books_balance() {
    for seed in 1..=60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fake = Fake::new(1 + random.below(200_000) as usize, false);
        let budget = B * (1 + random.below(60));
        let cache = cache(&fake, budget, 1 + random.below(6) as usize);
        let sizes = [1, B - 1, B, B + 1, 3 * B, random.below(5 * M), 2 * M];
        let files: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, s)| fake.file(&i.to_string(), "1", *s))
            .collect();
        let tasks: Vec<_> = (0..6u64)
            .map(|task| {
                let (fake, cache, files) = (fake.clone(), cache.clone(), files.clone());
                let mut random = Random(random.below(u64::MAX) | 1);
                tokio::spawn(async move {
                    let mut at = 0;
                    let mut open = reader(&cache, &files[task as usize]);
                    for _ in 0..60 {
                        let size = open.entry().size;
                        at = if random.below(3) == 0 {
                            random.below(size)
                        } else {
                            at
                        };
                        let end = at + 1 + random.below(400_000);
                        let want = fake.content(open.entry(), at.min(size)..end.min(size));
                        match random.below(12) {
                            0 => open = reader(&cache, &files[random.below(7) as usize]),
                            1 => drop(open.read(at..end).now_or_never()),
                            2 => fake.fail(random.below(300_000) as usize, Kind::Broken),
                            3 => {
                                if let Ok(bytes) = cache.read(open.entry(), at..end).await {
                                    assert_eq!(bytes, want, "seed {seed}");
                                }
                            }
                            4 => cache.forget(open.entry()),
                            5 => {
                                if let Some(bytes) = open.read_now(at..end) {
                                    assert_eq!(bytes, want, "seed {seed}");
                                }
                            }
                            _ => match open.read(at..end).await {
                                Ok(bytes) => assert_eq!(bytes, want, "seed {seed}"),
                                Err(error) => assert_eq!(error.kind, Kind::Broken, "seed {seed}"),
                            },
                        }
                        at = end;
                        cache.lock().check();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        for file in &files {
            cache.forget(file);
        }
        cache.lock().check();
        assert_eq!(
            (cache.bytes(), cache.lock().counts()),
            (0, (0, 0)),
            "seed {seed}"
        );
    }
}
