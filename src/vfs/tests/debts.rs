//! What is owed: temporary names, both promises, a start after a crash, a full spool.

use super::*;
use crate::write::unsent::Stays;
use globset::Glob;

fn temp(patterns: &[&str]) -> Vec<Glob> {
    patterns
        .iter()
        .map(|pattern| Glob::new(pattern).unwrap())
        .collect()
}

#[tokio::test]
async fn a_temporary_name_is_sent_once_under_its_final_one() {
    let bench = bench_with(Memory::new(), |options| {
        options.temp_names = temp(&[".*.tmp"])
    })
    .await;
    let ino = write_file(&bench.vfs, ROOT, ".f.tmp", &[5; 100]).await;
    assert_eq!(
        bench.vfs.getxattr(ino, "user.assetfs.state").await.unwrap(),
        b"deferred"
    );
    assert!(bench.store.paths().is_empty());
    assert_eq!(read_file(&bench.vfs, ino).await.unwrap(), vec![5; 100]);
    bench
        .vfs
        .rename(ROOT, ".f.tmp", ROOT, "f", false)
        .await
        .unwrap();
    assert_eq!(bench.store.content("f").unwrap(), vec![5; 100]);
    assert_eq!(bench.store.count("finish"), 1);
    assert_eq!(bench.store.count("remove"), 0);
}

#[tokio::test]
async fn what_stays_under_a_temporary_name_is_sent_at_the_end() {
    let bench = bench_with(Memory::new(), |options| {
        options.temp_names = temp(&["*.tmp"])
    })
    .await;
    write_file(&bench.vfs, ROOT, "f.tmp", b"x").await;
    let left = bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(
        left,
        Drained {
            kept: 0,
            refused: 0
        }
    );
    assert_eq!(bench.store.content("f.tmp").unwrap(), "x");
}

#[tokio::test]
async fn a_file_that_was_cut_and_is_still_open_is_published_empty_by_no_drain_and_no_rename() {
    let bench = bench().await;
    let vfs = &bench.vfs;
    let ino = write_file(vfs, ROOT, "report", b"old").await;
    let open = vfs.open(ino, TRUNC).await.unwrap();
    vfs.flush(open.fh).await.unwrap();
    vfs.rename(ROOT, "report", ROOT, "other", false)
        .await
        .unwrap();
    assert_eq!(bench.store.content("other"), None);
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.content("report").unwrap(), "old");
    assert_eq!(bench.store.content("other"), None);
}

#[tokio::test]
async fn with_the_spools_promise_close_does_not_wait_for_the_store() {
    let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    write_file(&bench.vfs, ROOT, "f", b"x").await;
    assert!(bench.store.content("f").is_none());
    gate.add_permits(1);
    bench.vfs.landed().await;
    assert_eq!(bench.store.content("f").unwrap(), "x");
}

#[tokio::test]
async fn the_first_pattern_that_matches_a_path_says_what_is_promised() {
    let bench = bench_with(Memory::new(), |options| {
        options.commit_for = vec![(Glob::new("**/*.log").unwrap(), Promise::Spool)];
    })
    .await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    write_file(&bench.vfs, ROOT, "a.log", b"x").await;
    assert!(bench.store.content("a.log").is_none());
    gate.add_permits(2);
    write_file(&bench.vfs, ROOT, "a.txt", b"x").await;
    assert!(bench.store.content("a.txt").is_some());
}

/// Writes `f` with the spool's promise, ends like a crash before it is sent, starts again.
async fn crash_with_a_debt(before: impl FnOnce(&Memory)) -> (Arc<Memory>, Arc<Vfs>, TakenUp) {
    crash_with_debts(&["f"], |store| before(store)).await
}

/// The same with several files.
async fn crash_with_debts(
    names: &[&str],
    before: impl FnOnce(&Arc<Memory>),
) -> (Arc<Memory>, Arc<Vfs>, TakenUp) {
    crash_with(names, None, before).await
}

/// The same with files that get a mode.
async fn crash_with(
    names: &[&str],
    mode: Option<u32>,
    before: impl FnOnce(&Arc<Memory>),
) -> (Arc<Memory>, Arc<Vfs>, TakenUp) {
    crash_with_options(names, mode, |_| {}, before).await
}

/// The same under other settings.
async fn crash_with_options(
    names: &[&str],
    mode: Option<u32>,
    set: impl FnOnce(&mut Options),
    before: impl FnOnce(&Arc<Memory>),
) -> (Arc<Memory>, Arc<Vfs>, TakenUp) {
    let spool = |options: &mut Options| {
        options.commit = Promise::Spool;
        set(options);
    };
    let work = async |store: &Arc<Memory>, vfs: &Vfs| {
        let never = Arc::new(Semaphore::new(0));
        *store.gate.lock().unwrap() = Some(("start", never));
        for name in names {
            let ino = write_file(vfs, ROOT, name, &[3; 100]).await;
            let change = Change {
                mode,
                ..Change::default()
            };
            vfs.setattr(ino, None, change).await.unwrap();
        }
        let (_, torn) = vfs.create(ROOT, "torn", 0o644, TRUNC).await.unwrap();
        vfs.write(torn.fh, 0, b"half").await.unwrap();
    };
    crash_after(spool, work, before).await
}

/// Waits until something is kept as refused; its id.
async fn refused(vfs: &Vfs) -> String {
    loop {
        let mut stays = vfs.unsent().unwrap().into_iter();
        if let Some(one) = stays.find(|one| one.state == Stays::Refused) {
            return one.id;
        }
        tokio::task::yield_now().await;
    }
}

/// Does `work` on one mount, ends it like a crash, does what happens `before` the next, starts that.
async fn crash_after(
    change: impl FnOnce(&mut Options),
    work: impl AsyncFnOnce(&Arc<Memory>, &Vfs),
    before: impl FnOnce(&Arc<Memory>),
) -> (Arc<Memory>, Arc<Vfs>, TakenUp) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::new());
    let probe = store.probe().await.unwrap();
    let mut options = options(dir.path());
    change(&mut options);
    let start = || {
        let rt = tokio::runtime::Handle::current();
        Vfs::new(store.clone(), &probe, options.clone(), rt).unwrap()
    };
    let first = start();
    work(&store, &first).await;
    first.close_spool();
    // The process is gone: its lock with it, its tasks never go on.
    let left = dir.path().join("left");
    std::fs::create_dir(&left).unwrap();
    for folder in std::fs::read_dir(dir.path()).unwrap() {
        let folder = folder.unwrap().path();
        if folder == left {
            continue;
        }
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "lock" {
                std::fs::rename(file.path(), left.join(file.file_name())).unwrap();
            }
        }
    }
    *store.gate.lock().unwrap() = None;
    before(&store);
    let second = start();
    let taken = tokio::time::timeout(Duration::from_secs(60), second.take_up());
    let taken = taken.await.unwrap();
    std::mem::forget((first, dir));
    (store, second, taken)
}

#[tokio::test]
async fn what_was_acknowledged_is_sent_by_the_next_start_and_what_was_torn_is_kept() {
    let (store, vfs, taken) = crash_with_a_debt(|_| {}).await;
    assert_eq!(
        (taken.sending, taken.kept, taken.odd.len()),
        (1, 1, 0),
        "{taken:?}"
    );
    vfs.landed().await;
    assert_eq!(store.content("f").unwrap(), vec![3; 100]);
    assert_eq!(
        store.paths(),
        ["f"],
        "what was torn is never sent by itself"
    );
}

#[tokio::test]
async fn what_was_refused_is_not_dropped_for_an_older_version_that_is_committed() {
    let temporary = |options: &mut Options| options.temp_names = temp(&["*.tmp"]);
    let refuse = |store: &Memory| {
        let fault = Fault {
            op: "start",
            kind: Kind::Quota,
            done: false,
        };
        store.faults.lock().unwrap().push_back(fault);
    };
    let work = async |store: &Arc<Memory>, vfs: &Vfs| {
        // Closed with 0, and then refused under its final name: it is owed.
        write_file(vfs, ROOT, "f.tmp", &[1; 100]).await;
        refuse(store);
        let moved = vfs.rename(ROOT, "f.tmp", ROOT, "f", false).await;
        assert_eq!(moved.unwrap_err().kind, Kind::Quota);
        let (_, newer) = vfs.create(ROOT, "g", 0o644, TRUNC).await.unwrap();
        vfs.write(newer.fh, 0, &[2; 100]).await.unwrap();
        vfs.rename(ROOT, "g", ROOT, "f", false).await.unwrap();
        refuse(store);
        assert_eq!(close(vfs, newer.fh).await.unwrap_err().kind, Kind::Quota);
        refused(vfs).await;
    };
    let (store, vfs, taken) = crash_after(temporary, work, |_| {}).await;
    assert_eq!((taken.sending, taken.kept), (1, 1), "{taken:?}");
    vfs.landed().await;
    assert_eq!(store.content("f").unwrap(), vec![1; 100]);
    let stays = vfs.unsent().unwrap();
    assert_eq!((stays.len(), stays[0].name()), (1, "/f"), "{stays:?}");
    // A newer one ends it.
    let ino = walk(&vfs, "f").await.unwrap();
    let open = vfs.open(ino, TRUNC).await.unwrap();
    vfs.write(open.fh, 0, b"newer").await.unwrap();
    close(&vfs, open.fh).await.unwrap();
    assert!(vfs.unsent().unwrap().is_empty());
}

#[tokio::test]
async fn a_start_with_many_debts_does_not_ask_about_one_after_the_other() {
    let (store, vfs, taken) = crash_with_debts(&["a", "b", "c", "d"], |store| {
        let gate = Arc::new(Semaphore::new(0));
        *store.gate.lock().unwrap() = Some(("stat", gate.clone()));
        let (store, asked) = (store.clone(), store.count("stat"));
        tokio::spawn(async move {
            while store.count("stat") < asked + 4 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(100);
        });
    })
    .await;
    assert_eq!(taken.sending, 4, "{taken:?}");
    vfs.landed().await;
    assert_eq!(store.paths(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn what_the_store_turns_out_to_have_is_not_sent_again() {
    let (store, _, taken) = crash_with_a_debt(|store| store.plant("f", &[3; 100])).await;
    assert_eq!((taken.sending, taken.there), (0, 1), "{taken:?}");
    assert_eq!(store.count("finish"), 0);
}

#[tokio::test]
async fn what_the_store_turns_out_to_have_gets_the_attributes_it_lacks() {
    let (store, vfs, taken) = crash_with(&["f"], Some(0o640), |store| {
        store.plant("f", &[3; 100]);
    })
    .await;
    assert_eq!((taken.sending, taken.there), (1, 0), "{taken:?}");
    vfs.landed().await;
    assert_eq!(store.count("finish"), 0);
    let ino = walk(&vfs, "f").await.unwrap();
    assert_eq!(vfs.getattr(ino).await.unwrap().mode, 0o640);
    let place = crate::store::Place {
        dir: "".into(),
        name: "f".into(),
    };
    assert_eq!(store.stat(&place).await.unwrap().attrs.mode, Some(0o640));
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
    let (store, vfs, taken) = crash_with_a_debt(|store| store.plant("f", b"theirs")).await;
    assert_eq!(taken.sending, 1);
    vfs.landed().await;
    assert_eq!(store.content("f").unwrap(), "theirs");
    let beside = store
        .paths()
        .into_iter()
        .find(|path| path.starts_with("f.conflict-"))
        .unwrap();
    assert_eq!(store.content(&beside).unwrap(), vec![3; 100]);
    let ino = walk(&vfs, "f").await.unwrap();
    assert_eq!(
        vfs.open(ino, READ).await.unwrap_err().errno(),
        libc::ESTALE,
        "told once"
    );
    assert_eq!(read_file(&vfs, ino).await.unwrap(), "theirs");
}

#[tokio::test]
async fn what_an_earlier_process_left_does_not_overwrite_what_others_made_even_where_that_is_allowed()
 {
    let set = |options: &mut Options| options.conflict = write::Conflict::Overwrite;
    let (store, vfs, _) =
        crash_with_options(&["f"], None, set, |store| store.plant("f", b"newer")).await;
    vfs.landed().await;
    assert_eq!(store.content("f").unwrap(), "newer");
    let paths = store.paths();
    let beside = paths
        .iter()
        .find(|path| path.starts_with("f.conflict-"))
        .unwrap();
    assert_eq!(store.content(beside).unwrap(), vec![3; 100]);
}

#[tokio::test]
async fn committed_spool_files_give_way_to_what_is_written() {
    let bench = bench_with(Memory::new(), |options| options.spool_max = Some(100)).await;
    for name in ["a", "b", "c"] {
        write_file(&bench.vfs, ROOT, name, &[1; 60]).await;
    }
    assert_eq!(bench.vfs.write.spool.bytes(), 0);
}

#[tokio::test]
async fn what_is_cut_off_is_given_back_to_the_budget() {
    let bench = bench_with(Memory::new(), |options| options.spool_max = Some(100)).await;
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    for _ in 0..5 {
        bench.vfs.write(open.fh, 0, &[1; 60]).await.unwrap();
        let change = Change {
            size: Some(0),
            ..Change::default()
        };
        bench
            .vfs
            .setattr(attr.ino, Some(open.fh), change)
            .await
            .unwrap();
    }
    close(&bench.vfs, open.fh).await.unwrap();
}

#[tokio::test]
async fn a_write_that_failed_is_not_published_by_the_close_that_follows() {
    let bench = bench_with(Memory::new(), |options| options.spool_max = Some(100)).await;
    bench.store.plant("f", b"old");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, &[1; 60]).await.unwrap();
    assert_eq!(
        bench
            .vfs
            .write(open.fh, 60, &[1; 60])
            .await
            .unwrap_err()
            .errno(),
        libc::ENOSPC
    );
    assert_eq!(
        close(&bench.vfs, open.fh).await.unwrap_err().errno(),
        libc::ENOSPC
    );
    settle(&bench).await;
    assert_eq!(bench.store.content("f").unwrap(), "old");
}

#[tokio::test]
async fn a_directory_with_a_file_being_written_is_left_to_the_caller() {
    let bench = bench().await;
    let dir = bench.vfs.mkdir(ROOT, "d", 0o755).await.unwrap().ino;
    write_file(&bench.vfs, dir, "f", b"old").await;
    let ino = walk(&bench.vfs, "d/f").await.unwrap();
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 0, b"new").await.unwrap();
    let moved = bench.vfs.rename(ROOT, "d", ROOT, "e", false).await;
    assert_eq!(moved.unwrap_err().kind, Kind::CrossDevice);
    close(&bench.vfs, open.fh).await.unwrap();
    bench.vfs.rename(ROOT, "d", ROOT, "e", false).await.unwrap();
    assert_eq!(bench.store.paths(), ["e", "e/f"]);
}

#[tokio::test]
async fn an_old_name_that_is_taken_again_does_not_take_the_bytes_with_it() {
    let bench = bench().await;
    bench.store.plant("log", &[1; 300]);
    let ino = walk(&bench.vfs, "log").await.unwrap();
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 300, b"line").await.unwrap();
    bench
        .vfs
        .rename(ROOT, "log", ROOT, "log.1", false)
        .await
        .unwrap();
    write_file(&bench.vfs, ROOT, "log", b"new").await;
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("log").unwrap(), "new");
    assert_eq!(
        bench.store.content("log.1").unwrap(),
        [&[1; 300][..], b"line"].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_leaves_nothing_here() {
    let bench = hasty().await;
    bench.store.plant("log", &[1; 300]);
    let ino = walk(&bench.vfs, "log").await.unwrap();
    let open = bench.vfs.open(ino, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, &[2; 100]).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("finish", gate.clone()));
    let work = async {
        while bench.store.count("finish") == 0 {
            tokio::task::yield_now().await;
        }
        // Its commit does not answer: it is not known yet what is under the old name.
        let moved = bench.vfs.rename(ROOT, "log", ROOT, "log.1", false);
        moved.await.unwrap();
        let made = bench.vfs.create(ROOT, "log", 0o644, TRUNC).await;
        assert_eq!(made.unwrap_err().kind, Kind::Timeout);
        assert_eq!(bench.vfs.tree().child(ROOT, "log"), None);
        gate.add_permits(100);
    };
    let (closed, ()) = tokio::join!(bench.vfs.flush(open.fh), work);
    closed.unwrap();
    bench.vfs.release(open.fh);
    settle(&bench).await;
    assert_eq!(bench.store.content("log.1").unwrap(), vec![2; 100]);
    assert_eq!(bench.store.paths(), ["log.1"]);
    let left = bench.vfs.drain(Duration::ZERO).await;
    assert_eq!((left.kept, left.refused), (0, 0));
}

#[tokio::test]
async fn a_backup_name_that_goes_leaves_the_new_file_alone() {
    let bench = bench_with(Memory::new(), |options| options.temp_names = temp(&["*~"])).await;
    write_file(&bench.vfs, ROOT, "f", b"old").await;
    bench
        .vfs
        .rename(ROOT, "f", ROOT, "f~", false)
        .await
        .unwrap();
    write_file(&bench.vfs, ROOT, "f", b"new").await;
    bench.vfs.unlink(ROOT, "f~").await.unwrap();
    settle(&bench).await;
    assert_eq!(bench.store.content("f").unwrap(), "new");
    assert_eq!(bench.store.paths(), ["f"]);
}

#[tokio::test]
async fn a_size_that_no_disk_has_is_efbig_and_changes_nothing() {
    let bench = bench_with(
        {
            let mut store = Memory::new();
            store.caps.size_max = None;
            store
        },
        |_| {},
    )
    .await;
    let ino = write_file(&bench.vfs, ROOT, "f", b"hello").await;
    let change = Change {
        size: Some(4 << 60),
        ..Change::default()
    };
    let grown = bench.vfs.setattr(ino, None, change).await;
    assert_eq!(grown.unwrap_err().errno(), libc::EFBIG);
    assert_eq!(bench.vfs.getattr(ino).await.unwrap().size, 5);
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 5, b"more").await.unwrap();
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "hellomore");
}

#[tokio::test]
async fn a_write_refused_while_the_mount_ends_publishes_nothing() {
    let bench = bench().await;
    bench.store.plant("f", b"old");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"half").await.unwrap();
    bench.vfs.drain(Duration::ZERO).await;
    assert_eq!(
        bench.vfs.write(open.fh, 4, b"x").await.unwrap_err().errno(),
        libc::EROFS
    );
    assert!(close(&bench.vfs, open.fh).await.is_err());
    settle(&bench).await;
    assert_eq!(bench.store.content("f").unwrap(), "old");
}

/// Opens `f` for `how` and writes over it; somebody else stores theirs; `during` happens while ours is on
/// its way beside it.
async fn conflict(during: impl AsyncFnOnce(&Bench, u64)) -> (Bench, u64) {
    let bench = bench().await;
    bench.store.plant("f", b"old");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 0, &[1; 100]).await.unwrap();
    bench.store.plant("f", b"theirs");
    let writer = bench.vfs.writer(ino).unwrap();
    writer
        .retarget(|target| target.looked = None)
        .await
        .unwrap();
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("finish", gate.clone()));
    let (told, ()) = tokio::join!(bench.vfs.flush(open.fh), async {
        while bench.store.count("finish") == 0 {
            tokio::task::yield_now().await;
        }
        during(&bench, open.fh).await;
        gate.add_permits(100);
    });
    assert_eq!(told.unwrap_err().errno(), libc::ESTALE);
    (bench, open.fh)
}

/// The name beside `f`, and the bytes there.
fn beside(bench: &Bench) -> Vec<(String, Bytes)> {
    let paths = bench.store.paths().into_iter();
    let paths = paths.filter(|path| path.starts_with("f.conflict-"));
    paths
        .map(|path| (path.clone(), bench.store.content(&path).unwrap()))
        .collect()
}

#[tokio::test]
async fn who_has_a_file_open_goes_on_with_ours_and_the_name_shows_theirs() {
    let (bench, fh) = conflict(async |_, _| {}).await;
    assert_eq!(bench.vfs.read(fh, 0, 1000).await.unwrap(), vec![1; 100]);
    let theirs = walk(&bench.vfs, "f").await.unwrap();
    assert_eq!(read_file(&bench.vfs, theirs).await.unwrap(), "theirs");
    let (name, _) = beside(&bench).pop().unwrap();
    let ours = walk(&bench.vfs, &name).await.unwrap();
    let told = bench.vfs.open(ours, READ).await.unwrap_err().errno();
    assert_eq!(told, libc::ESTALE, "who still takes it for f looks again");
    assert_eq!(read_file(&bench.vfs, ours).await.unwrap(), vec![1; 100]);
    bench.vfs.write(fh, 0, b"more").await.unwrap();
    close(&bench.vfs, fh).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    assert_eq!(&beside(&bench)[0].1[..5], b"more\x01");
}

#[tokio::test]
async fn a_reader_of_a_file_that_was_diverted_goes_on_reading_ours() {
    let reader = std::sync::Mutex::new(0);
    let (bench, fh) = conflict(async |bench, _| {
        let ino = walk(&bench.vfs, "f").await.unwrap();
        *reader.lock().unwrap() = bench.vfs.open(ino, READ).await.unwrap().fh;
    })
    .await;
    close(&bench.vfs, fh).await.unwrap();
    bench.vfs.shed_all();
    let reader = *reader.lock().unwrap();
    assert_eq!(bench.vfs.read(reader, 0, 1000).await.unwrap(), vec![1; 100]);
    close(&bench.vfs, reader).await.unwrap();
}

#[tokio::test]
async fn what_is_written_on_after_a_conflict_does_not_overwrite_theirs() {
    let (bench, fh) = conflict(async |bench, fh| {
        bench.vfs.write(fh, 100, b"and on").await.unwrap();
    })
    .await;
    close(&bench.vfs, fh).await.unwrap();
    settle(&bench).await;
    assert_eq!(bench.store.content("f").unwrap(), "theirs");
    let ours = beside(&bench);
    assert_eq!(ours.len(), 1, "one file goes on, not one for each close");
    assert_eq!(ours[0].1, [&[1; 100][..], b"and on"].concat());
}

#[tokio::test]
async fn an_error_that_was_not_told_outlives_the_cache() {
    let (store, vfs, _) = crash_with_a_debt(|store| store.plant("f", b"theirs")).await;
    vfs.landed().await;
    vfs.shed_all();
    let ino = walk(&vfs, "f").await.unwrap();
    let told = vfs.open(ino, READ).await.unwrap_err().errno();
    assert_eq!(told, libc::ESTALE);
    assert_eq!(store.content("f").unwrap(), "theirs");
}

#[tokio::test]
async fn an_error_that_was_not_told_outlives_their_next_version() {
    let (store, vfs, _) = crash_with_a_debt(|store| store.plant("f", b"theirs")).await;
    vfs.landed().await;
    store.plant("f", b"theirs again");
    let place = Place {
        dir: "".into(),
        name: "f".into(),
    };
    let ino = vfs.refresh(ROOT, &place).await.unwrap().unwrap();
    let told = vfs.open(ino, READ).await.unwrap_err().errno();
    assert_eq!(told, libc::ESTALE);
    assert_eq!(read_file(&vfs, ino).await.unwrap(), "theirs again");
    let open = vfs.open(ino, WRITE).await.unwrap();
    vfs.write(open.fh, 0, b"T").await.unwrap();
    close(&vfs, open.fh).await.unwrap();
    assert_eq!(store.content("f").unwrap(), "Theirs again");
}

/// A file that is owed and queued, over an older version on the store.
async fn owed() -> (Bench, u64) {
    let bench = bench_with(Memory::new(), |options| {
        options.commit = Promise::Spool;
        options.temp_names = temp(&["f"]);
    })
    .await;
    bench.store.plant("f", b"old");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"owed").await.unwrap();
    close(&bench.vfs, open.fh).await.unwrap();
    assert!(bench.vfs.writer(ino).unwrap().owes());
    (bench, ino)
}

#[tokio::test]
async fn what_is_owed_is_dropped_only_when_the_name_is_gone_from_the_store() {
    let (bench, ino) = owed().await;
    let fault = Fault {
        op: "remove",
        kind: Kind::Denied,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    let refused = bench.vfs.unlink(ROOT, "f").await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    assert_eq!(read_file(&bench.vfs, ino).await.unwrap(), "owed");
    bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.content("f").unwrap(), "owed");
}

#[tokio::test]
async fn what_was_owed_to_a_name_that_is_gone_is_owed_no_more() {
    let (bench, _) = owed().await;
    bench.vfs.unlink(ROOT, "f").await.unwrap();
    assert_eq!(bench.vfs.write.spool.bytes(), 0);
    let left = bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!((left.kept, left.refused), (0, 0));
    assert!(bench.store.paths().is_empty());
}

#[tokio::test]
async fn a_file_renamed_over_one_that_is_owed_takes_its_place() {
    let (bench, _) = owed().await;
    write_file(&bench.vfs, ROOT, "g", b"g").await;
    bench.vfs.rename(ROOT, "g", ROOT, "f", false).await.unwrap();
    bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.content("f").unwrap(), "g");
    assert_eq!(bench.store.paths(), ["f"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_does_not_go_before_the_upload_of_its_bytes_has_an_answer() {
    let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    write_file(&bench.vfs, ROOT, "f", b"x").await;
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    // Whoever looked now would find nothing, and the file would come a moment later.
    let told = bench.vfs.unlink(ROOT, "f").await;
    assert_eq!(told.unwrap_err().kind, Kind::Timeout);
    assert!(bench.vfs.lookup(ROOT, "f").await.is_ok());
    gate.add_permits(1);
    bench.vfs.unlink(ROOT, "f").await.unwrap();
    assert!(bench.store.paths().is_empty());
    assert_eq!(bench.vfs.write.spool.bytes(), 0);
}

#[tokio::test]
async fn a_close_of_a_replaced_file_does_not_wait_for_its_successor() {
    let bench = bench().await;
    let vfs = &bench.vfs;
    let (_, old) = vfs.create(ROOT, "a", 0o644, TRUNC).await.unwrap();
    let (_, new) = vfs.create(ROOT, "b", 0o644, TRUNC).await.unwrap();
    vfs.write(old.fh, 0, b"old").await.unwrap();
    vfs.write(new.fh, 0, b"new").await.unwrap();
    vfs.rename(ROOT, "b", ROOT, "a", false).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(60), close(vfs, old.fh));
    closed.await.unwrap().unwrap();
    close(vfs, new.fh).await.unwrap();
    assert_eq!(bench.store.content("a").unwrap(), "new");
    assert_eq!(bench.store.paths(), ["a"]);
}

#[tokio::test]
async fn a_start_while_the_store_is_away_sends_what_is_owed_later() {
    let (store, vfs, taken) = crash_with_debts(&["f"], |store| {
        let fault = Fault {
            op: "stat",
            kind: Kind::Unreachable,
            done: false,
        };
        store.faults.lock().unwrap().push_back(fault);
    })
    .await;
    assert_eq!((taken.sending, taken.odd.len()), (1, 0), "{taken:?}");
    vfs.landed().await;
    assert_eq!(store.content("f").unwrap(), vec![3; 100]);
}

#[tokio::test]
async fn what_is_owed_of_a_replaced_file_stays_until_its_successor_is_safe() {
    let bench = bench_with(Memory::new(), |options| {
        options.temp_names = temp(&["*.tmp"]);
    })
    .await;
    let full = |times| {
        let fault = || Fault {
            op: "start",
            kind: Kind::Full,
            done: false,
        };
        let mut faults = bench.store.faults.lock().unwrap();
        faults.extend((0..times).map(|_| fault()));
    };
    // Closed with 0, and then refused under its final name: it is owed.
    write_file(&bench.vfs, ROOT, "f.tmp", &[1; 100]).await;
    full(1);
    let moved = bench.vfs.rename(ROOT, "f.tmp", ROOT, "f", false).await;
    assert_eq!(moved.unwrap_err().kind, Kind::Full);
    bench.store.plant("g", &[2; 100]);
    full(1);
    let moved = bench.vfs.rename(ROOT, "g", ROOT, "f", false).await;
    assert_eq!(moved.unwrap_err().kind, Kind::Full);
    assert_eq!(bench.vfs.drain(Duration::ZERO).await.kept, 1);
    // The successor arrives after all: now the other may go.
    bench.vfs.undrain();
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, READ).await.unwrap();
    bench.vfs.fsync(open.fh).await.unwrap();
    bench.vfs.release(open.fh);
    assert_eq!(bench.store.content("f").unwrap(), vec![2; 100]);
    while bench.vfs.drain(Duration::ZERO).await.kept > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_written_while_an_older_version_is_taken_up_again_stays() {
    let bench = bench().await;
    bench.store.plant("f", b"old");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    assert_eq!(bench.vfs.claim(ROOT, "f").unwrap(), ino);
    let target = bench.vfs.writer(ino).unwrap().target();
    let older = Writer::new(ino, bench.vfs.write.clone(), target, None);
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 0, b"new").await.unwrap();
    let settled = bench.vfs.settle_claim(ino, Ok(older), &Attrs::default());
    assert_eq!(settled.unwrap_err().kind, Kind::Busy);
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "new");
}

#[tokio::test]
async fn a_retry_with_the_spools_promise_answers_for_the_store_all_the_same() {
    let bench = bench().await;
    let deny = || {
        let fault = Fault {
            op: "put",
            kind: Kind::Denied,
            done: false,
        };
        bench.store.faults.lock().unwrap().push_back(fault);
    };
    deny();
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"x").await.unwrap();
    close(&bench.vfs, open.fh).await.unwrap_err();
    let id = refused(&bench.vfs).await;
    bench
        .vfs
        .writer(attr.ino)
        .unwrap()
        .set_promise(Promise::Spool);
    deny();
    assert_eq!(bench.vfs.retry(&id).await.unwrap_err().kind, Kind::Denied);
    bench.vfs.retry(&id).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "x");
}

#[tokio::test]
async fn a_name_goes_though_it_has_a_version_that_was_not_known() {
    let bench = bench().await;
    write_file(&bench.vfs, ROOT, "f", b"ours").await;
    write_file(&bench.vfs, ROOT, "g", b"ours").await;
    bench.store.plant("f", b"theirs");
    let stats = bench.store.count("stat");
    bench.vfs.unlink(ROOT, "g").await.unwrap();
    assert_eq!(
        bench.store.count("stat"),
        stats,
        "what is known costs no question"
    );
    bench.vfs.unlink(ROOT, "f").await.unwrap();
    assert_eq!(bench.store.paths(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_others_gave_to_a_file_which_is_written_here_is_not_removed() {
    let bench = bench_with(Memory::new(), |options| {
        options.temp_names = temp(&["*.tmp"]);
        options.attr_ttl = Duration::ZERO;
        options.negative_ttl = Duration::ZERO;
    })
    .await;
    write_file(&bench.vfs, ROOT, "f", b"").await;
    bench.vfs.landed().await;
    // Under a temporary name it is put off; the old name is left to its commit.
    let moved = bench.vfs.rename(ROOT, "f", ROOT, "f.tmp", false).await;
    moved.unwrap();
    bench.store.plant("f", b"theirs");
    tokio::time::advance(Duration::from_secs(6)).await;
    // The same bytes as what is to be removed.
    let (_, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    close(&bench.vfs, open.fh).await.unwrap();
    bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.paths(), ["f", "f.tmp"]);
    assert_eq!(bench.store.content("f").unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_name_takes_over_what_may_have_been_stored_there() {
    let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
    let vfs = &bench.vfs;
    let fault = || Fault {
        op: "put",
        kind: Kind::Broken,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault());
    write_file(vfs, ROOT, "a", b"").await;
    vfs.landed().await;
    bench.store.faults.lock().unwrap().push_back(fault());
    vfs.rename(ROOT, "a", ROOT, "b", false).await.unwrap();
    vfs.landed().await;
    // The same bytes, under the name of which it is not known whether the store has them.
    write_file(vfs, ROOT, "a", b"").await;
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.paths(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_late_under_an_old_name_is_no_conflict_with_who_has_it_now() {
    let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
    let vfs = &bench.vfs;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    write_file(vfs, ROOT, "a", b"first").await;
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    let second = async {
        while vfs.lookup(ROOT, "b").await.is_err() {
            tokio::task::yield_now().await;
        }
        let arrives = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(1);
            while bench.store.content("a").is_none() {
                tokio::task::yield_now().await;
            }
        };
        let (made, ()) = tokio::join!(vfs.create(ROOT, "a", 0o644, TRUNC), arrives);
        let (_, open) = made.unwrap();
        vfs.write(open.fh, 0, b"second").await.unwrap();
        // What was seen before is not believed at the commit.
        tokio::time::advance(Duration::from_secs(6)).await;
        close(vfs, open.fh).await.unwrap();
        gate.add_permits(9);
    };
    let (moved, ()) = tokio::join!(vfs.rename(ROOT, "a", ROOT, "b", false), second);
    moved.unwrap();
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.content("a").unwrap(), "second");
    assert_eq!(bench.store.content("b").unwrap(), "first");
    assert_eq!(bench.store.paths(), ["a", "b"]);
}

#[tokio::test]
async fn a_rename_that_did_not_wait_for_a_hanging_upload_is_durable() {
    let set = |options: &mut Options| {
        options.commit = Promise::Spool;
        options.name_timeout = Duration::from_millis(100);
    };
    let work = async |store: &Arc<Memory>, vfs: &Vfs| {
        let never = Arc::new(Semaphore::new(0));
        *store.gate.lock().unwrap() = Some(("put", never));
        write_file(vfs, ROOT, "a", b"x").await;
        while store.count("put") == 0 {
            tokio::task::yield_now().await;
        }
        vfs.rename(ROOT, "a", ROOT, "b", false).await.unwrap();
    };
    for arrived in [false, true] {
        let before = |store: &Arc<Memory>| {
            if arrived {
                store.plant("a", b"x");
            }
        };
        let (store, vfs, taken) = crash_after(set, work, before).await;
        assert_eq!((taken.sending, taken.odd.len()), (1, 0), "{taken:?}");
        vfs.landed().await;
        assert_eq!(store.paths(), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_renamed_there_and_back_is_not_removed() {
    for fails in [true, false] {
        let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
        let vfs = &bench.vfs;
        bench.store.plant("a", b"old");
        vfs.readdir(ROOT).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
        write_file(vfs, ROOT, "a", b"new").await;
        while bench.store.count("put") == 0 {
            tokio::task::yield_now().await;
        }
        let (moved, ()) = tokio::join!(vfs.rename(ROOT, "a", ROOT, "b", false), async {
            gate.add_permits(1)
        });
        moved.unwrap();
        let mut held = None;
        if fails {
            bench.store.faults.lock().unwrap().push_back(Fault {
                op: "put",
                kind: Kind::Later,
                done: false,
            });
            gate.add_permits(1);
            vfs.landed().await;
        } else {
            let ino = vfs.lookup(ROOT, "b").await.unwrap().ino;
            held = Some(vfs.open(ino, WRITE).await.unwrap());
        }
        *bench.store.gate.lock().unwrap() = None;
        let (moved, ()) = tokio::join!(vfs.rename(ROOT, "b", ROOT, "a", false), async {
            gate.add_permits(9)
        });
        moved.unwrap();
        if let Some(open) = held {
            close(vfs, open.fh).await.unwrap();
        }
        vfs.drain(Duration::from_secs(600)).await;
        assert_eq!(bench.store.paths(), ["a"]);
        assert_eq!(bench.store.content("a").unwrap(), "new");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_arrived_under_an_old_name_is_no_conflict_with_who_takes_it_next() {
    let bench = bench_with(Memory::new(), |options| options.commit = Promise::Spool).await;
    let vfs = &bench.vfs;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    write_file(vfs, ROOT, "a", b"first").await;
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    let (moved, ()) = tokio::join!(vfs.rename(ROOT, "a", ROOT, "b", false), async {
        gate.add_permits(1)
    });
    moved.unwrap();
    let (_, open) = vfs.create(ROOT, "a", 0o644, TRUNC).await.unwrap();
    vfs.write(open.fh, 0, b"second").await.unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    close(vfs, open.fh).await.unwrap();
    gate.add_permits(9);
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.paths(), ["a", "b"]);
    assert_eq!(bench.store.content("a").unwrap(), "second");
}

#[tokio::test(start_paused = true)]
async fn a_file_renamed_to_where_an_older_upload_hangs_waits_for_it() {
    let bench = bench_with(Memory::new(), |options| {
        options.commit = Promise::Spool;
        options.name_timeout = Duration::from_secs(10);
    })
    .await;
    let vfs = &bench.vfs;
    let late = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", late.clone()));
    write_file(vfs, ROOT, "a", b"first").await;
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    vfs.rename(ROOT, "a", ROOT, "a.bak", false).await.unwrap();
    *bench.store.gate.lock().unwrap() = Some(("body", Arc::new(Semaphore::new(0))));
    write_file(vfs, ROOT, "c", b"second").await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    *bench.store.gate.lock().unwrap() = None;
    let (moved, ()) = tokio::join!(vfs.rename(ROOT, "c", ROOT, "a", false), async {
        for _ in 0..300 {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(1));
        }
        late.add_permits(9);
    });
    moved.unwrap();
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.paths(), ["a", "a.bak"]);
    assert_eq!(bench.store.content("a").unwrap(), "second");
}

/// A mount whose next upload has sent all of `a` and gets no answer; who may give it.
async fn hanging(commit: Promise) -> (Bench, Arc<Semaphore>) {
    let bench = bench_with(Memory::new(), |options| {
        options.commit = commit;
        options.name_timeout = Duration::from_secs(10);
    })
    .await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("put", gate.clone()));
    (bench, gate)
}

#[tokio::test(start_paused = true)]
async fn what_was_cancelled_before_its_last_byte_is_not_looked_for_under_the_old_name() {
    let (bench, _) = hanging(Promise::Spool).await;
    let vfs = &bench.vfs;
    let never = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("body", never));
    write_file(vfs, ROOT, "a", b"x").await;
    let ino = vfs.lookup(ROOT, "a").await.unwrap().ino;
    while vfs.writer(ino).unwrap().look().1 != write::Flight::Uploading {
        tokio::task::yield_now().await;
    }
    *bench.store.gate.lock().unwrap() = None;
    // Somebody else's, with the same bytes.
    bench.store.plant("a", b"x");
    vfs.rename(ROOT, "a", ROOT, "b", false).await.unwrap();
    vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(bench.store.paths(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_rename_back_does_not_wait_for_the_store() {
    let (bench, _) = hanging(Promise::Spool).await;
    let vfs = &bench.vfs;
    bench.store.plant("a", b"old");
    vfs.readdir(ROOT).await.unwrap();
    let never = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("body", never));
    let begin = tokio::time::Instant::now();
    vfs.rename(ROOT, "a", ROOT, "b", false).await.unwrap();
    vfs.rename(ROOT, "b", ROOT, "a", false).await.unwrap();
    assert!(begin.elapsed() < vfs.options.name_timeout);
    assert!(vfs.lookup(ROOT, "a").await.is_ok());
}

#[tokio::test]
async fn what_is_sent_again_on_request_removes_nothing_under_names_that_it_had() {
    let work = async |store: &Arc<Memory>, vfs: &Vfs| {
        let fail = || {
            let fault = Fault {
                op: "put",
                kind: Kind::Broken,
                done: false,
            };
            store.faults.lock().unwrap().push_back(fault);
        };
        let (_, open) = vfs.create(ROOT, "a", 0o644, TRUNC).await.unwrap();
        vfs.write(open.fh, 0, b"x").await.unwrap();
        fail();
        close(vfs, open.fh).await.unwrap_err();
        fail();
        vfs.rename(ROOT, "a", ROOT, "b", false).await.unwrap_err();
        refused(vfs).await;
        // The same bytes under the name of which it is not known whether the store has them.
        write_file(vfs, ROOT, "a", b"x").await;
    };
    let (store, vfs, _) = crash_after(|_| {}, work, |_| {}).await;
    let id = refused(&vfs).await;
    vfs.retry(&id).await.unwrap();
    vfs.landed().await;
    assert_eq!(store.paths(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_ends_after_a_rename_does_not_forget_what_it_left_under_the_old_name() {
    let (bench, _gate) = hanging(Promise::Spool).await;
    let vfs = &bench.vfs;
    write_file(vfs, ROOT, "d", b"").await;
    while bench.store.count("put") == 0 {
        tokio::task::yield_now().await;
    }
    let ino = vfs.lookup(ROOT, "d").await.unwrap().ino;
    let place = vfs.writer(ino).unwrap().target().place;
    vfs.rename(ROOT, "d", ROOT, "b", false).await.unwrap();
    bench.store.plant("d", b"");
    let entry = bench.store.stat(&place).await.unwrap();
    write::Owner::committed(&**vfs, ino, &entry, &place);
    assert!(vfs.tree().is_haunted(ROOT, "d"), "who takes it is to know");
}
