//! Speed of this room alone, over a store in memory that may be given a link (rate, round trip).
//! Run with `cargo test --release read::bench -- --ignored --nocapture`.

use super::fake::Fake;
use super::*;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const M: u64 = 1024 * 1024;
const STALL: Duration = Duration::from_secs(60);

async fn pass(reader: &Reader, from: u64, to: u64, step: u64) -> (f64, u64) {
    let (begun, mut late) = (Instant::now(), 0);
    let mut at = from;
    while at < to {
        let end = (at + step).min(to);
        let bytes = match reader.read_now(at..end) {
            Some(bytes) => bytes,
            None => {
                late += 1;
                reader.read(at..end).await.unwrap()
            }
        };
        assert_eq!(bytes.len() as u64, end - at);
        at = end;
    }
    (
        (to - from) as f64 / 1e6 / begun.elapsed().as_secs_f64(),
        late,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn speed() {
    let size = 256 * M;
    for (step, name) in [(4096, "4 KiB"), (128 * 1024, "128 KiB"), (M, "1 MiB")] {
        let fake = Fake::new(65_536, false);
        let file = fake.file("a", "1", size);
        let cache = Cache::new(fake.store(), Handle::current(), 2 * size, 8, STALL);
        let reader = Reader::new(cache.clone(), file.clone());
        let (cold, late) = pass(&reader, 0, size, step).await;
        println!(
            "{name}: streamed {cold:.0} MB/s, {late} waits, {} requests",
            fake.requests().len()
        );
        let (warm, _) = pass(&reader, 0, size, step).await;
        println!(
            "{name}: cached {warm:.0} MB/s, {:.0} reads/s",
            warm * 1e6 / step as f64
        );
    }
    for (rate, rtt_ms) in [
        (125_000_000, 20),
        (12_500_000, 50),
        (1_000_000, 50),
        (1_250_000_000, 1),
    ] {
        for readers in [1, 4] {
            let fake = Fake::linked(65_536, rate, Duration::from_millis(rtt_ms));
            let size = (rate * 4).clamp(8 * M, 256 * M);
            let cache = Cache::new(fake.store(), Handle::current(), 256 * M, 8, STALL);
            let open: Vec<_> = (0..readers)
                .map(|i| fake.file(&i.to_string(), "1", size / readers))
                .map(|file| Reader::new(cache.clone(), file))
                .collect();
            let begun = Instant::now();
            let tasks: Vec<_> = open
                .into_iter()
                .map(|reader| {
                    tokio::spawn(async move { pass(&reader, 0, size / readers, 128 * 1024).await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            println!(
                "{} MB/s link, {rtt_ms} ms, {readers} readers: {:.0} MB/s, {} requests",
                rate / 1_000_000,
                size as f64 / 1e6 / begun.elapsed().as_secs_f64(),
                fake.requests().len()
            );
        }
    }
}
