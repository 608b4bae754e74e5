//! The writer against a plain byte vector, thousands of seeds; and what closing means under faults.

use super::*;
use crate::store::memory::{Fault, Memory};
use futures_util::FutureExt;
use std::time::Duration;
use tokio::sync::Semaphore;

#[derive(Debug, Default)]
struct Nobody;

impl Owner for Nobody {
    fn committed(&self, _: u64, _: &Entry, _: &Place) {}
    fn diverted(&self, _: u64, _: &Place, _: &Entry, _: &Entry, settle: &mut dyn FnMut(After)) {
        settle(After::Theirs);
    }
    fn failed(&self, _: u64, _: &Error) {}
    fn moved(&self) {}
    fn rested(&self, _: u64) {}
    fn dropped(&self, _: u64) {}
}

struct Bench {
    store: Arc<Memory>,
    writer: Arc<Writer>,
    _dir: tempfile::TempDir,
}

fn context(store: &Arc<Memory>, dir: &tempfile::TempDir, max: Option<u64>) -> Arc<Context> {
    let rt = tokio::runtime::Handle::current();
    let wrapped: Arc<dyn Store> = store.clone();
    let nobody: Weak<dyn Owner> = Weak::<Nobody>::new();
    Arc::new(Context {
        store: wrapped.clone(),
        cache: Cache::new(wrapped, rt.clone(), 1 << 20, 4, Duration::from_secs(60)),
        spool: Spool::open(dir.path(), max).unwrap().0,
        rt,
        uploads: 3,
        conflict: Conflict::KeepBoth,
        defer_max: u64::MAX,
        owner: nobody,
        sent_bytes: AtomicU64::new(0),
        committed_files: AtomicU64::new(0),
    })
}

async fn bench(old: Option<&[u8]>) -> Bench {
    bench_in(old, None).await
}

/// With room for `max` bytes in the spool.
async fn bench_in(old: Option<&[u8]>, max: Option<u64>) -> Bench {
    let (store, dir) = (Arc::new(Memory::new()), tempfile::tempdir().unwrap());
    let place = Place {
        dir: "".into(),
        name: "f".into(),
    };
    let base = match old {
        Some(bytes) => {
            store.plant("f", bytes);
            Some(Arc::new(store.stat(&place).await.unwrap()))
        }
        None => None,
    };
    let target = Target {
        attempts: Vec::new(),
        place,
        path: "/f".into(),
        replaces: base.as_deref().cloned(),
        looked: Some(Instant::now()),
        removes: Vec::new(),
        exclusive: false,
        attrs: Attrs::default(),
    };
    let writer = Writer::new(7, context(&store, &dir, max), target, base);
    writer.opened();
    Bench {
        store,
        writer,
        _dir: dir,
    }
}

async fn done(answer: Answer) -> Result<()> {
    answer.await.expect("an answer")
}

/// A small generator, so that a seed is a run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }
}

/// Random writes, cuts, reads, closes and faults; each answered close means that the store has exactly
/// what was written before it, and reads always see what was written last.
async fn run_seed(seed: u64) {
    let mut dice = Dice(seed * 2_654_435_761 + 1);
    let old: Option<Vec<u8>> =
        (dice.roll(2) == 0).then(|| (0..dice.roll(200)).map(|i| i as u8).collect());
    let bench = bench(old.as_deref()).await;
    let (store, writer) = (&bench.store, &bench.writer);
    let mut model = old.unwrap_or_default();
    let mut closes: Vec<(Answer, Vec<u8>)> = Vec::new();
    if dice.roll(3) == 0 {
        writer.touched().unwrap();
        model.clear();
    }
    for _ in 0..40 {
        match dice.roll(10) {
            0..=3 => {
                let at = dice.roll(220);
                let bytes: Vec<u8> = (0..dice.roll(90)).map(|_| dice.roll(256) as u8).collect();
                if !bytes.is_empty() {
                    let end = at as usize + bytes.len();
                    if model.len() < end {
                        model.resize(end, 0);
                    }
                    model[at as usize..end].copy_from_slice(&bytes);
                    writer.write(at, &bytes).unwrap();
                }
            }
            4 => {
                let size = dice.roll(260);
                writer.truncate(size).unwrap();
                model.resize(size as usize, 0);
            }
            5 => {
                let (a, b) = (dice.roll(260), dice.roll(260));
                let (a, b) = (a.min(b), a.max(b));
                writer.zero(a..b, false).unwrap();
                let b = (b as usize).min(model.len());
                if (a as usize) < b {
                    model[a as usize..b].fill(0);
                }
            }
            6 => closes.push((writer.close(), model.clone())),
            7 => closes.push((writer.sync(), model.clone())),
            8 => {
                let kind = [Kind::Broken, Kind::Denied, Kind::Restart][dice.roll(3) as usize];
                let op = ["put", "part", "finish", "read"][dice.roll(4) as usize];
                store.faults.lock().unwrap().push_back(Fault {
                    op,
                    kind,
                    done: false,
                });
            }
            _ => {
                // Let what is under way go on for a while.
                for _ in 0..dice.roll(20) {
                    tokio::task::yield_now().await;
                }
            }
        }
        assert_eq!(writer.size(), model.len() as u64, "seed {seed}");
        if dice.roll(4) == 0 {
            let (a, b) = (dice.roll(260), dice.roll(260));
            let range = a.min(b)..a.max(b);
            store.faults.lock().unwrap().clear();
            let seen = writer.read(range.clone()).await.unwrap();
            let end = (range.end as usize).min(model.len());
            let want = model.get(range.start as usize..end).unwrap_or(&[]);
            assert_eq!(&seen[..], want, "seed {seed}, {range:?}");
        }
    }
    for (answer, _) in closes {
        // Ok or not: the last word counts below.
        let _ = done(answer).await;
    }
    store.faults.lock().unwrap().clear();
    done(writer.sync()).await.unwrap();
    writer.released();
    assert_eq!(store.content("f").unwrap_or_default(), model, "seed {seed}");
}

#[tokio::test]
async fn whatever_is_written_in_whatever_order_the_store_has_it_in_the_end() {
    for seed in 0..3000 {
        run_seed(seed).await;
    }
}

#[tokio::test]
async fn close_answers_only_when_the_store_has_the_bytes() {
    let bench = bench(None).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    bench.writer.write(0, b"hello").unwrap();
    let mut answer = bench.writer.close();
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    assert!(answer.try_recv().is_err());
    assert!(bench.store.content("f").is_none());
    gate.add_permits(1);
    done(answer).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "hello");
}

#[tokio::test]
async fn what_is_written_during_an_upload_belongs_to_the_next_version() {
    let bench = bench(None).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("finish", gate.clone()));
    bench.writer.write(0, &[1; 100]).unwrap();
    let first = bench.writer.close();
    while bench.store.count("finish") == 0 {
        tokio::task::yield_now().await;
    }
    bench.writer.write(50, &[2; 10]).unwrap();
    let second = bench.writer.close();
    let third = bench.writer.close();
    gate.add_permits(1);
    done(first).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), vec![1; 100]);
    gate.add_permits(1);
    done(second).await.unwrap();
    done(third).await.unwrap();
    let mut want = vec![1; 100];
    want[50..60].fill(2);
    assert_eq!(bench.store.content("f").unwrap(), want);
    assert_eq!(
        bench.store.count("finish"),
        2,
        "the two closes share one commit"
    );
}

#[tokio::test]
async fn a_refused_commit_is_told_and_the_bytes_stay_in_the_spool() {
    let bench = bench(None).await;
    let fault = Fault {
        op: "put",
        kind: Kind::Quota,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    bench.writer.write(0, b"hello").unwrap();
    assert_eq!(
        done(bench.writer.close()).await.unwrap_err().kind,
        Kind::Quota
    );
    bench.writer.released();
    assert_eq!(bench.writer.read(0..5).await.unwrap(), "hello");
    let kept: Vec<_> = std::fs::read_dir(bench._dir.path()).unwrap().collect();
    assert_eq!(kept.len(), 1);
    drop(bench.writer);
    assert_eq!(
        std::fs::read_dir(bench._dir.path()).unwrap().count(),
        1,
        "kept on disk"
    );
}

#[tokio::test]
async fn an_upload_declared_void_starts_over_and_arrives() {
    let bench = bench(None).await;
    for op in ["part", "finish"] {
        let fault = Fault {
            op,
            kind: Kind::Restart,
            done: false,
        };
        bench.store.faults.lock().unwrap().push_back(fault);
    }
    bench.writer.write(0, &[9; 200]).unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(bench.store.count("start"), 3);
    assert_eq!(bench.store.content("f").unwrap(), vec![9; 200]);
}

#[tokio::test]
async fn a_store_that_has_something_else_is_a_mismatch() {
    let bench = bench(None).await;
    bench.writer.write(0, b"hello").unwrap();
    // The digest that was taken along is of other bytes than those that lie in the spool.
    {
        let inner = bench.writer.lock();
        inner
            .top
            .as_ref()
            .unwrap()
            .file
            .write_at(b"jello", 0, 0)
            .unwrap();
    }
    assert_eq!(
        done(bench.writer.close()).await.unwrap_err().kind,
        Kind::Mismatch
    );
}

#[tokio::test]
async fn unlink_during_a_commit_learns_what_the_store_has() {
    let bench = bench(None).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("finish", gate.clone()));
    bench.writer.write(0, &[1; 100]).unwrap();
    let answer = bench.writer.close();
    while bench.store.count("finish") == 0 {
        tokio::task::yield_now().await;
    }
    bench.writer.unlinked();
    gate.add_permits(1);
    // The commit could not be stopped any more: whoever unlinks learns what there is to remove.
    let entry = bench.writer.landed().await.unwrap().pop().unwrap().1;
    bench.writer.removed();
    done(answer).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap().len() as u64, entry.size);
}

#[tokio::test]
async fn a_rename_during_an_upload_arrives_under_the_new_name_alone() {
    for phase in ["part", "finish"] {
        let bench = bench(None).await;
        let gate = Arc::new(Semaphore::new(0));
        *bench.store.gate.lock().unwrap() = Some((phase, gate.clone()));
        bench.writer.write(0, &[1; 100]).unwrap();
        let answer = bench.writer.close();
        while bench.store.count(phase) == 0 {
            tokio::task::yield_now().await;
        }
        let moving = bench
            .writer
            .retarget(|target| target.place.name = "g".into());
        let (moved, ()) = tokio::join!(moving, async { gate.add_permits(100) });
        moved.unwrap();
        done(answer).await.unwrap();
        assert_eq!(bench.store.content("g").unwrap(), vec![1; 100]);
        assert_eq!(bench.store.paths(), ["g"], "{phase}");
    }
}

#[tokio::test]
async fn a_rename_that_comes_when_the_upload_has_just_ended_arrives_under_the_new_name_alone() {
    for in_parts in [false, true] {
        let bench = bench(None).await;
        let bytes = vec![1; if in_parts { 100 } else { 10 }];
        bench.writer.write(0, &bytes).unwrap();
        done(bench.writer.close()).await.unwrap();
        let place = |target: &mut Target| {
            let old = std::mem::replace(&mut target.place.name, "g".into());
            let old = Place {
                dir: "".into(),
                name: old,
            };
            target
                .removes
                .extend(target.replaces.take().map(|entry| (old, entry)));
        };
        bench.writer.retarget(place).await.unwrap();
        done(bench.writer.sync()).await.unwrap();
        assert_eq!(bench.store.content("g").unwrap(), bytes);
        assert_eq!(bench.store.paths(), ["g"]);
    }
}

/// The name of every file is on its way to another one.
#[derive(Debug, Default)]
struct Mover;

impl Owner for Mover {
    fn committed(&self, _: u64, _: &Entry, _: &Place) {}
    fn diverted(&self, _: u64, _: &Place, _: &Entry, _: &Entry, settle: &mut dyn FnMut(After)) {
        settle(After::Elsewhere);
    }
    fn failed(&self, _: u64, _: &Error) {}
    fn moved(&self) {}
    fn rested(&self, _: u64) {}
    fn dropped(&self, _: u64) {}
}

#[tokio::test]
async fn a_conflict_found_while_the_name_changes_does_not_end_the_close() {
    let mut bench = bench(Some(b"old")).await;
    let owner: Arc<dyn Owner> = Arc::new(Mover);
    let change = |context: &mut Context, target: &mut Target| {
        context.owner = Arc::downgrade(&owner);
        target.looked = None;
    };
    bench.writer = context_with(&bench.store, &bench._dir, change, &bench.writer.target());
    bench.writer.opened();
    bench.store.plant("f", b"theirs");
    let gate = gate(&bench, "put");
    bench.writer.write(0, b"hello").unwrap();
    let mut answer = bench.writer.close();
    asked(&bench, "put", 1).await;
    gate.add_permits(1);
    while bench.store.count("put") < 2 {
        assert!(
            answer.try_recv().is_err(),
            "it is answered under the new name"
        );
        tokio::task::yield_now().await;
    }
    let moving = bench.writer.retarget(|target| {
        target.place.name = "g".into();
        target.replaces = None;
    });
    let (moved, ()) = tokio::join!(moving, async { gate.add_permits(9) });
    moved.unwrap();
    done(answer).await.unwrap();
    assert_eq!(bench.store.content("g").unwrap(), "hello");
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    assert_eq!(
        bench.store.paths(),
        ["f", "g"],
        "the copies beside are gone"
    );
}

#[tokio::test]
async fn attributes_set_during_an_upload_are_set_after_it() {
    let bench = bench(None).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    bench.writer.write(0, b"x").unwrap();
    let answer = bench.writer.close();
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    let attrs = Attrs {
        mode: Some(0o600),
        ..Attrs::default()
    };
    assert!(bench.writer.set_attrs(&attrs));
    gate.add_permits(1);
    done(answer).await.unwrap();
    let place = Place {
        dir: "".into(),
        name: "f".into(),
    };
    assert_eq!(bench.store.stat(&place).await.unwrap().attrs, attrs);
}

#[tokio::test]
async fn an_upload_whose_parts_get_smaller_starts_over_as_often_as_that_takes() {
    let bench = bench(None).await;
    bench.store.part.store(4096, Ordering::Relaxed);
    bench.store.part_max.store(50, Ordering::Relaxed);
    bench.writer.write(0, &[9; 5000]).unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), vec![9; 5000]);
    assert_eq!(bench.store.count("start"), 8);
}

#[tokio::test]
async fn what_does_not_go_in_one_request_goes_in_parts() {
    let bench = bench(None).await;
    let fault = Fault {
        op: "put",
        kind: Kind::Restart,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    bench.writer.write(0, b"hello").unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(
        (bench.store.count("put"), bench.store.count("start")),
        (1, 1)
    );
    assert_eq!(bench.store.content("f").unwrap(), "hello");
}

#[tokio::test]
async fn an_upload_that_is_void_again_and_again_is_given_up() {
    let bench = bench(None).await;
    for _ in 0..50 {
        let fault = Fault {
            op: "part",
            kind: Kind::Restart,
            done: false,
        };
        bench.store.faults.lock().unwrap().push_back(fault);
    }
    bench.writer.write(0, &[9; 200]).unwrap();
    let told = done(bench.writer.close()).await;
    assert_eq!(told.unwrap_err().kind, Kind::Restart);
    assert!(bench.store.count("start") <= 5);
    assert_eq!(bench.store.count("abort"), bench.store.count("start"));
}

async fn asked(bench: &Bench, op: &str, times: usize) {
    while bench.store.count(op) < times {
        tokio::task::yield_now().await;
    }
}

/// The next request of this kind fails.
fn fail(bench: &Bench, op: &'static str, kind: Kind) {
    let done = false;
    bench
        .store
        .faults
        .lock()
        .unwrap()
        .push_back(Fault { op, kind, done });
}

fn gate(bench: &Bench, op: &'static str) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some((op, gate.clone()));
    gate
}

/// Begins to send 100 bytes to `f`, which has `old`; somebody else stores theirs while an hour goes by.
async fn overtaken(change: impl FnOnce(&mut Context, &mut Target)) -> (Bench, Result<()>) {
    let old: &[u8] = b"old";
    let mut bench = bench(Some(old)).await;
    let context = context_with(&bench.store, &bench._dir, change, &bench.writer.target());
    bench.writer = context;
    bench.writer.opened();
    let gate = gate(&bench, "part");
    bench.writer.write(0, &[1; 100]).unwrap();
    let answer = bench.writer.close();
    asked(&bench, "part", 3).await;
    bench.store.plant("f", b"theirs");
    tokio::time::advance(Duration::from_secs(3600)).await;
    gate.add_permits(100);
    let told = done(answer).await;
    (bench, told)
}

fn context_with(
    store: &Arc<Memory>,
    dir: &tempfile::TempDir,
    change: impl FnOnce(&mut Context, &mut Target),
    target: &Target,
) -> Arc<Writer> {
    let mut context = Arc::into_inner(context(store, dir, None)).unwrap();
    let mut target = target.clone();
    change(&mut context, &mut target);
    let base = target.replaces.clone().map(Arc::new);
    Writer::new(8, Arc::new(context), target, base)
}

#[tokio::test(start_paused = true)]
async fn what_somebody_stores_during_a_long_upload_is_not_overwritten() {
    let (bench, told) = overtaken(|_, _| {}).await;
    assert_eq!(told.unwrap_err().kind, Kind::Conflict);
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    let beside = bench.store.paths().pop().unwrap();
    assert!(beside.starts_with("f.conflict-"), "{beside}");
    assert_eq!(bench.store.content(&beside).unwrap(), vec![1; 100]);
    assert_eq!(
        bench.store.count("abort"),
        1,
        "the first upload is given up"
    );
    assert_eq!(bench.store.count("finish"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_found_after_the_upload_is_settled_as_the_settings_say() {
    let (bench, told) = overtaken(|context, _| context.conflict = Conflict::Fail).await;
    assert_eq!(told.unwrap_err().kind, Kind::Conflict);
    assert_eq!(bench.store.paths(), ["f"]);
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    let (bench, told) = overtaken(|context, _| context.conflict = Conflict::Overwrite).await;
    told.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), vec![1; 100]);
    assert_eq!(bench.store.count("start"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_must_be_new_and_is_taken_during_the_upload_is_eexist() {
    let (bench, told) = overtaken(|_, target| {
        target.replaces = None;
        target.exclusive = true;
    })
    .await;
    assert_eq!(told.unwrap_err().kind, Kind::Exists);
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
}

#[tokio::test]
async fn a_short_upload_is_not_looked_at_twice() {
    let bench = bench(Some(b"old")).await;
    let before = bench.store.count("stat");
    bench.writer.write(0, &[1; 100]).unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(bench.store.count("stat"), before);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_must_be_new_is_taken_even_by_the_same_bytes() {
    let bench = bench(None).await;
    bench.store.plant("f", b"");
    bench.writer.lock().target.exclusive = true;
    tokio::time::advance(Duration::from_secs(60)).await;
    bench.writer.touched().unwrap();
    let told = done(bench.writer.force().unwrap()).await;
    assert_eq!(told.unwrap_err().kind, Kind::Exists);
}

#[tokio::test]
async fn an_unlink_waits_for_a_request_that_the_server_has_in_full() {
    for bytes in [&b"hello"[..], b""] {
        let bench = bench(None).await;
        let gate = gate(&bench, "put");
        bench.writer.touched().unwrap();
        bench.writer.write(0, bytes).unwrap();
        let answer = bench.writer.close();
        asked(&bench, "put", 1).await;
        bench.writer.unlinked();
        let (left, ()) = tokio::join!(bench.writer.landed(), async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(1);
        });
        let names: Vec<_> = left.unwrap().into_iter().map(|(at, _)| at.name).collect();
        assert_eq!(names, ["f"]);
        bench.writer.removed();
        done(answer).await.unwrap();
    }
}

#[tokio::test]
async fn an_unlink_gives_up_a_request_that_the_server_has_not_in_full() {
    let bench = bench(None).await;
    let gate = gate(&bench, "body");
    bench.writer.write(0, b"hello").unwrap();
    let answer = bench.writer.close();
    sending(&bench).await;
    bench.writer.unlinked();
    assert_eq!(bench.writer.landed().await.unwrap(), []);
    bench.writer.removed();
    gate.add_permits(1);
    done(answer).await.unwrap();
    assert_eq!(bench.store.paths(), Vec::<String>::new());
    assert_eq!(bench.store.count("stat"), 0, "nothing is in doubt");
}

#[tokio::test]
async fn the_last_byte_is_not_given_away_once_an_upload_is_cancelled() {
    #[derive(Debug)]
    struct Zeros;
    #[async_trait::async_trait]
    impl crate::store::Source for Zeros {
        async fn read(&self, range: Range<u64>) -> Result<Bytes> {
            Ok(Bytes::from(vec![0; (range.end - range.start) as usize]))
        }
    }
    use crate::store::Source;
    let of = |progress| upload::Whole {
        source: &Zeros,
        size: 10,
        progress,
    };
    let progress = Progress::default();
    of(&progress).read(0..5).await.unwrap();
    progress.cancel();
    of(&progress).read(5..9).await.unwrap();
    let last = of(&progress).read(9..10).await;
    assert_eq!(last.unwrap_err().kind, Kind::Cancelled);
    assert!(!progress.may_be_stored());
    progress.stopped().await;

    let progress = Progress::default();
    of(&progress).read(0..10).await.unwrap();
    progress.cancel();
    // A connection that broke: the same once more.
    of(&progress).read(0..10).await.unwrap();
    assert!(progress.may_be_stored());
    assert!(progress.stopped().now_or_never().is_none());
}

#[tokio::test]
async fn a_rename_waits_for_a_request_that_is_a_commit_by_itself() {
    let bench = bench(None).await;
    let gate = gate(&bench, "put");
    bench.writer.write(0, b"hello").unwrap();
    let answer = bench.writer.close();
    asked(&bench, "put", 1).await;
    let moving = bench
        .writer
        .retarget(|target| target.place.name = "g".into());
    let (moved, ()) = tokio::join!(moving, async { gate.add_permits(2) });
    moved.unwrap();
    done(answer).await.unwrap();
    assert_eq!(bench.store.paths(), ["g"]);
}

#[tokio::test]
async fn what_is_completed_again_after_a_failure_is_counted_once() {
    let old = [7; 200];
    let bench = bench(Some(&old)).await;
    bench.writer.write(0, b"new").unwrap();
    for _ in 0..2 {
        // What it brought in stays in the file, even if nothing comes of it.
        let content = bench.writer.lock().newest().cloned().unwrap();
        content
            .complete(&bench.writer.context.cache, &bench.writer.target())
            .await
            .unwrap();
        assert_eq!(bench.writer.context.spool.bytes(), 200);
    }
}

#[tokio::test]
async fn what_is_kept_for_a_failure_is_not_said_of_bytes_written_since() {
    let bench = bench(None).await;
    let fault = Fault {
        op: "put",
        kind: Kind::Quota,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    bench.writer.write(0, b"hello").unwrap();
    assert!(done(bench.writer.close()).await.is_err());
    let (file, stamp) = {
        let inner = bench.writer.lock();
        let file = inner.frozen.as_ref().unwrap().file.clone();
        let stamp = file.stamp();
        (file, stamp)
    };
    // The last close asks for it to be kept; a program opens it and writes in place before that is done.
    bench.writer.write(5, b" world").unwrap();
    let record = Record::new(Class::Refused, bench.writer.target());
    assert_eq!(file.promise(&record, stamp).unwrap(), Noted::Void);
    assert_eq!(file.class(), Class::Torn);
}

#[tokio::test]
async fn what_is_about_to_be_replaced_is_waited_for() {
    let bench = bench(None).await;
    let gate = gate(&bench, "put");
    bench.writer.write(0, b"hello").unwrap();
    let answer = bench.writer.close();
    asked(&bench, "put", 1).await;
    bench.writer.unlinked();
    let (left, ()) = tokio::join!(bench.writer.landed(), async { gate.add_permits(1) });
    assert_eq!(left.unwrap().len(), 1);
    bench.writer.removed();
    done(answer).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "hello");
}

#[tokio::test]
async fn a_request_whose_outcome_is_unknown_is_looked_for_before_the_next() {
    let bench = bench(None).await;
    bench.writer.lock().target.exclusive = true;
    let gate = gate(&bench, "put");
    fail(&bench, "put", Kind::Broken);
    bench.writer.write(0, b"hello").unwrap();
    let mut answer = bench.writer.close();
    asked(&bench, "put", 1).await;
    bench.writer.unlinked();
    bench.store.plant("f", b"hello");
    gate.add_permits(9);
    bench.writer.landed().await.unwrap();
    assert!(answer.try_recv().is_err(), "the name may stay");
    bench.writer.revived();
    done(answer).await.unwrap();
    assert_eq!(bench.store.count("put"), 1, "it turned out to be there");
}

#[tokio::test]
async fn what_is_written_into_a_committed_file_is_recorded_and_counted_before_it_is_sent() {
    let bench = bench(None).await;
    let finish = gate(&bench, "finish");
    bench.writer.write(0, &[1; 100]).unwrap();
    let first = bench.writer.close();
    asked(&bench, "finish", 1).await;
    bench.writer.write(50, &[2; 10]).unwrap();
    finish.add_permits(1);
    done(first).await.unwrap();
    let _second = bench.writer.close();
    asked(&bench, "finish", 2).await;
    let files = std::fs::read_dir(&bench.writer.context.spool.folders()[0]).unwrap();
    let mut endings: Vec<_> = files
        .flatten()
        .filter_map(|row| row.path().extension().map(|e| e.to_owned()))
        .collect();
    endings.sort();
    assert_eq!(endings, ["data", "json"], "torn, if it ended here");
    assert!(bench.writer.context.spool.bytes() >= 100);
}

#[tokio::test]
async fn cutting_to_nothing_needs_no_room() {
    let bench = bench_in(None, Some(100)).await;
    bench.writer.write(0, &[1; 60]).unwrap();
    done(bench.writer.close()).await.unwrap();
    let spool = &bench.writer.context.spool;
    let full = spool.create(&bench.writer.target()).unwrap();
    full.charge(100).unwrap();
    bench.writer.touched().unwrap();
    assert_eq!(bench.writer.size(), 0);
    assert_eq!(spool.bytes(), 100);
    done(bench.writer.close()).await.unwrap();
    bench.writer.released();
    bench.writer.at_rest().await;
    assert_eq!(bench.store.content("f").unwrap(), "");
}

#[tokio::test]
async fn a_hole_needs_no_room_and_gives_back_what_it_takes() {
    let bench = bench_in(Some(&[7; 200]), Some(300)).await;
    let writer = &bench.writer;
    writer.write(0, &[1; 100]).unwrap();
    writer.truncate(1 << 40).unwrap();
    writer.zero(50..1 << 40, false).unwrap();
    assert_eq!(writer.context.spool.bytes(), 50);
    writer.zero(0..10, false).unwrap();
    writer.write(20, &[2; 10]).unwrap();
    writer.truncate(250).unwrap();
    done(writer.close()).await.unwrap();
    let want = [
        vec![0; 10],
        vec![1; 10],
        vec![2; 10],
        vec![1; 20],
        vec![0; 200],
    ]
    .concat();
    assert_eq!(bench.store.content("f").unwrap(), want);
    assert_eq!(bench.store.count("read"), 0, "nothing below is needed");
}

#[tokio::test]
async fn a_hole_over_a_committed_version_is_zeros_whichever_of_the_two_is_copied() {
    for (len, hole) in [(5, 10..90), (5, 40..45), (60, 70..90)] {
        let bench = bench(None).await;
        let finish = gate(&bench, "finish");
        bench.writer.write(0, &[1; 100]).unwrap();
        let first = bench.writer.close();
        asked(&bench, "finish", 1).await;
        bench.writer.write(0, &vec![2; len]).unwrap();
        bench.writer.zero(hole.clone(), false).unwrap();
        finish.add_permits(9);
        done(first).await.unwrap();
        done(bench.writer.close()).await.unwrap();
        let mut want = vec![1; 100];
        want[..len].fill(2);
        want[hole.start as usize..hole.end as usize].fill(0);
        assert_eq!(bench.store.content("f").unwrap(), want);
    }
}

#[tokio::test]
async fn what_is_written_on_after_a_name_was_taken_is_compared_with_what_the_store_has() {
    let bench = bench(Some(&[7; 100])).await;
    bench.writer.hold(1000).await.unwrap();
    assert!(
        !bench
            .writer
            .lock()
            .frozen
            .as_ref()
            .unwrap()
            .whole_digests()
            .0
            .is_empty()
    );
}

#[tokio::test]
async fn after_a_failed_write_a_file_that_is_cut_to_nothing_is_as_good_as_new() {
    let bench = bench(None).await;
    bench.writer.write(0, b"half").unwrap();
    bench.writer.spoilt(&Kind::Full.into());
    assert_eq!(
        done(bench.writer.close()).await.unwrap_err().kind,
        Kind::Full
    );
    bench.writer.truncate(2).unwrap();
    assert_eq!(
        done(bench.writer.close()).await.unwrap_err().kind,
        Kind::Full
    );
    bench.writer.truncate(0).unwrap();
    bench.writer.write(0, b"whole").unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "whole");
}

#[tokio::test]
async fn what_is_cut_to_nothing_is_as_old_as_that() {
    let bench = bench(Some(b"old")).await;
    let mtime = Some(SystemTime::UNIX_EPOCH);
    bench.writer.set_attrs(&Attrs {
        mtime,
        ..mode(0o600)
    });
    bench.writer.touched().unwrap();
    assert_eq!(bench.writer.attrs(), mode(0o600));
    assert!(bench.writer.written().is_some());
}

/// The records in the spool that promise something.
fn promised(bench: &Bench) -> Vec<Record> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(bench._dir.path()).unwrap().flatten() {
        for row in std::fs::read_dir(folder.path()).unwrap().flatten() {
            if row
                .path()
                .extension()
                .is_some_and(|ending| ending == "json")
            {
                let text = std::fs::read(row.path()).unwrap();
                let record: Record = serde_json::from_slice(&text).unwrap();
                found.extend(Some(record).filter(|r| r.class == Class::Acknowledged));
            }
        }
    }
    found
}

fn mode(mode: u32) -> Attrs {
    Attrs {
        mode: Some(mode),
        ..Attrs::default()
    }
}

/// `hello` at `f`, durable in the spool, and not on the store.
async fn owing() -> Bench {
    let bench = bench(None).await;
    bench.writer.set_promise(Promise::Spool);
    let _never = gate(&bench, "body");
    bench.writer.write(0, b"hello").unwrap();
    done(bench.writer.close()).await.unwrap();
    sending(&bench).await;
    bench
}

/// The writer has begun to send.
async fn sending(bench: &Bench) {
    while bench.writer.look().1 != Flight::Uploading {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_rewrite_for_which_there_is_no_room_does_not_keep_what_is_owed_from_being_sent() {
    let bench = bench_in(None, Some(100)).await;
    let writer = &bench.writer;
    writer.set_promise(Promise::Spool);
    fail(&bench, "put", Kind::Broken);
    writer.write(0, &[1; 60]).unwrap();
    done(writer.close()).await.unwrap();
    writer.at_rest().await;
    writer.write(0, &[2; 10]).unwrap();
    let told = done(writer.close()).await;
    assert_eq!(told.unwrap_err().kind, Kind::Full);
    let gate = gate(&bench, "put");
    assert!(writer.parked().is_some());
    writer.go();
    asked(&bench, "put", 2).await;
    gate.add_permits(1);
    writer.at_rest().await;
    assert_eq!(bench.store.content("f").unwrap(), vec![1; 60]);
    gate.add_permits(1);
    done(writer.close()).await.unwrap();
    writer.at_rest().await;
    assert_eq!(
        bench.store.content("f").unwrap(),
        [vec![2; 10], vec![1; 50]].concat()
    );
    assert!(!writer.owes());
}

#[tokio::test]
async fn a_version_that_cannot_be_completed_is_completed_in_its_own_file_by_the_next_try() {
    let bench = bench(Some(&[7; 100])).await;
    bench.writer.write(0, b"new").unwrap();
    let files = || {
        std::fs::read_dir(&bench.writer.context.spool.folders()[0])
            .unwrap()
            .count()
    };
    let before = files();
    for _ in 0..3 {
        fail(&bench, "read", Kind::Denied);
        assert!(done(bench.writer.sync()).await.is_err());
    }
    assert_eq!(files(), before);
    done(bench.writer.sync()).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap()[..4], *b"new\x07");
}

/// A version that is being made durable right now, with the spool's promise; that is over soon, and tried again
/// if it was missed.
async fn keeping() -> (Bench, Answer) {
    loop {
        let bench = bench(None).await;
        bench.writer.set_promise(Promise::Spool);
        let _never = gate(&bench, "put");
        bench.writer.write(0, b"hello").unwrap();
        let answer = bench.writer.close();
        while !bench.writer.owes() {
            if bench.writer.look().1 == Flight::Keeping {
                return (bench, answer);
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn new_attributes_do_not_make_an_older_version_the_newest_and_a_new_place_does() {
    let bench = owing().await;
    let before = promised(&bench).pop().unwrap();
    let younger = next_ms();
    assert!(bench.writer.set_attrs(&mode(0o600)));
    bench.writer.note_owed().await.unwrap();
    let noted = promised(&bench).pop().unwrap();
    assert_eq!(noted.target.attrs, mode(0o600));
    assert_eq!(noted.at_ms, before.at_ms);
    assert!(noted.at_ms < younger);
    // Nobody waits for the upload that has to end first.
    drop(
        bench
            .writer
            .retarget(|target| target.place.name = "g".into()),
    );
    bench.writer.note_owed().await.unwrap();
    let moved = promised(&bench).pop().unwrap();
    assert_eq!(moved.target.place.name, "g");
    assert!(moved.at_ms > younger);
}

#[tokio::test]
async fn attributes_set_while_a_version_is_made_durable_are_in_its_record() {
    let (bench, answer) = keeping().await;
    assert!(bench.writer.set_attrs(&mode(0o600)));
    done(answer).await.unwrap();
    assert_eq!(promised(&bench).pop().unwrap().target.attrs, mode(0o600));
}

#[tokio::test]
async fn a_promise_that_was_not_made_is_not_answered() {
    let (bench, answer) = keeping().await;
    let files = bench.writer.files();
    files.iter().for_each(|file| file.discard());
    assert_eq!(done(answer).await.unwrap_err().kind, Kind::Broken);
}

#[tokio::test]
async fn a_name_that_is_gone_leaves_no_record_behind_and_its_bytes_to_who_reads_them() {
    let bench = owing().await;
    assert_eq!(promised(&bench).len(), 1);
    bench.writer.unlinked();
    bench.writer.landed().await.unwrap();
    bench.writer.removed();
    bench.writer.note_owed().await.unwrap();
    assert!(promised(&bench).is_empty());
    assert!(
        bench
            .writer
            .files()
            .iter()
            .all(|file| !file.path().exists())
    );
    assert_eq!(bench.writer.read(0..5).await.unwrap(), "hello");
    bench.writer.write(5, b" world").unwrap();
    assert_eq!(bench.writer.read(0..11).await.unwrap(), "hello world");
    bench.writer.released();
    assert_eq!(bench.writer.context.spool.bytes(), 0);
}

#[tokio::test]
async fn a_name_that_goes_while_its_version_is_made_durable_is_not_promised() {
    let (bench, answer) = keeping().await;
    bench.writer.unlinked();
    bench.writer.removed();
    done(answer).await.unwrap();
    bench.writer.landed().await.unwrap();
    assert!(promised(&bench).is_empty());
    assert!(!bench.writer.owes());
}

#[tokio::test]
async fn bytes_that_the_store_has_already_get_their_new_attributes() {
    let bench = bench(Some(b"hello")).await;
    bench.writer.lock().target.looked = None;
    assert!(bench.writer.touched().is_ok());
    bench.writer.write(0, b"hello").unwrap();
    assert!(bench.writer.set_attrs(&mode(0o600)));
    let fault = Fault {
        op: "set_attrs",
        kind: Kind::Broken,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    assert!(done(bench.writer.close()).await.is_err());
    // The next try is so late that it looks again.
    bench.writer.lock().target.looked = None;
    done(bench.writer.sync()).await.unwrap();
    assert_eq!(bench.store.count("put"), 0);
    let place = bench.writer.target().place;
    assert_eq!(bench.store.stat(&place).await.unwrap().attrs, mode(0o600));
}

#[tokio::test]
async fn a_conflict_that_the_store_finds_at_the_commit_is_settled_like_any_other() {
    let bench = bench(Some(b"old")).await;
    let gate = gate(&bench, "finish");
    let fault = Fault {
        op: "finish",
        kind: Kind::Conflict,
        done: false,
    };
    bench.writer.write(0, &[1; 100]).unwrap();
    let answer = bench.writer.close();
    asked(&bench, "finish", 1).await;
    bench.store.plant("f", b"theirs");
    bench.store.faults.lock().unwrap().push_back(fault);
    gate.add_permits(9);
    let told = done(answer).await.unwrap_err();
    assert_eq!(told.kind, Kind::Conflict);
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    let beside = bench.store.paths().pop().unwrap();
    assert_eq!(bench.store.content(&beside).unwrap(), vec![1; 100]);
}

#[tokio::test]
async fn who_takes_an_old_name_waits_for_its_removal_and_is_not_removed() {
    let bench = bench(Some(b"old")).await;
    let (was, old) = {
        let target = bench.writer.target();
        (target.place, target.replaces.unwrap())
    };
    let moved = bench.writer.retarget(|target| {
        target.place.name = "g".into();
        target.replaces = None;
        target.removes.push((was.clone(), old));
    });
    moved.await.unwrap();
    let gate = gate(&bench, "remove");
    bench.writer.write(0, b"new").unwrap();
    let answer = bench.writer.close();
    asked(&bench, "remove", 1).await;
    bench.writer.strike(&was);
    let mut taken = Box::pin(bench.writer.struck(&was));
    assert!(
        futures_util::poll!(&mut taken).is_pending(),
        "it may remove what comes next"
    );
    bench.store.plant("f", b"theirs");
    gate.add_permits(9);
    taken.await.unwrap();
    done(answer).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    assert_eq!(bench.store.content("g").unwrap(), "new");
}

#[tokio::test]
async fn what_is_sent_late_has_the_time_of_its_last_write() {
    let then = SystemTime::now() - Duration::from_secs(3600);
    let sent = async |bench: &Bench| {
        let place = bench.writer.target().place;
        bench.store.stat(&place).await.unwrap().attrs.mtime
    };
    let bench = bench(None).await;
    fail(&bench, "put", Kind::Broken);
    bench.writer.write(0, b"hello").unwrap();
    done(bench.writer.close()).await.unwrap_err();
    bench.writer.lock().written = Some(then);
    done(bench.writer.sync()).await.unwrap();
    assert_eq!(sent(&bench).await, Some(then));
    // The store's own time will do for what is sent at once.
    bench.writer.write(5, b" world").unwrap();
    done(bench.writer.close()).await.unwrap();
    assert_eq!(sent(&bench).await, None);
}

#[tokio::test]
async fn what_an_earlier_process_promised_has_the_time_of_then() {
    let bench = owing().await;
    let context = bench.writer.context.clone();
    let file = bench.writer.files().remove(0);
    let mut record = Record::new(Class::Acknowledged, bench.writer.target());
    record.size = 5;
    record.at_ms = 1_000_000_000_000;
    *bench.store.gate.lock().unwrap() = None;
    let later = Writer::adopt(2, context, file, &record).await.unwrap();
    later.go();
    later.settled().await.unwrap();
    let entry = bench.store.stat(&record.target.place).await.unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    assert_eq!(entry.attrs.mtime, Some(then));
}
