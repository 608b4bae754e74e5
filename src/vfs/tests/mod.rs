//! The filesystem without FUSE: seeded random operations against a real directory, and what POSIX
//! promises on one mount.

mod debts;
mod machine;

use super::*;
use crate::store::memory::{Fault, Memory};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use tokio::sync::Semaphore;

struct Bench {
    store: Arc<Memory>,
    vfs: Arc<Vfs>,
    _dir: tempfile::TempDir,
}

fn options(dir: &std::path::Path) -> Options {
    Options {
        uid: 0,
        gid: 0,
        umask: 0o022,
        read_only: false,
        attr_ttl: Duration::from_secs(600),
        negative_ttl: Duration::from_secs(600),
        name_timeout: Duration::from_secs(600),
        stall_timeout: Duration::from_secs(60),
        uploads: 3,
        downloads: 4,
        memory: 8 << 20,
        spool_dir: dir.to_owned(),
        spool_max: None,
        commit: Promise::Store,
        commit_for: Vec::new(),
        temp_names: Vec::new(),
        temp_idle: Duration::from_secs(600),
        conflict: Conflict::KeepBoth,
        rename_max: 50,
        control: None,
    }
}

async fn bench_with(store: Memory, change: impl FnOnce(&mut Options)) -> Bench {
    let (store, dir) = (Arc::new(store), tempfile::tempdir().unwrap());
    let mut options = options(dir.path());
    change(&mut options);
    let probe = store.probe().await.unwrap();
    let rt = tokio::runtime::Handle::current();
    let vfs = Vfs::new(store.clone(), &probe, options, rt).unwrap();
    Bench {
        store,
        vfs,
        _dir: dir,
    }
}

async fn bench() -> Bench {
    bench_with(Memory::new(), |_| {}).await
}

const WRITE: OpenFlags = OpenFlags {
    write: true,
    truncate: false,
    exclusive: false,
};
const TRUNC: OpenFlags = OpenFlags {
    write: true,
    truncate: true,
    exclusive: false,
};
const READ: OpenFlags = OpenFlags {
    write: false,
    truncate: false,
    exclusive: false,
};

async fn close(vfs: &Vfs, fh: u64) -> Result<()> {
    let result = vfs.flush(fh).await;
    vfs.release(fh);
    result
}

async fn write_file(vfs: &Vfs, dir: u64, name: &str, bytes: &[u8]) -> u64 {
    let (attr, open) = vfs.create(dir, name, 0o644, TRUNC).await.unwrap();
    vfs.write(open.fh, 0, bytes).await.unwrap();
    close(vfs, open.fh).await.unwrap();
    attr.ino
}

async fn read_file(vfs: &Vfs, ino: u64) -> Result<Bytes> {
    let open = vfs.open(ino, READ).await?;
    let bytes = vfs.read(open.fh, 0, 1 << 20).await;
    close(vfs, open.fh).await?;
    bytes
}

use bytes::Bytes;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len() as u64) as usize]
    }
}

fn errno_of<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |e| e.raw_os_error().unwrap())
}

fn kind_of<T>(result: &Result<T>) -> i32 {
    result.as_ref().err().map_or(0, Error::errno)
}

/// The inode of a path, as the kernel would look it up.
async fn walk(vfs: &Vfs, path: &str) -> Result<u64> {
    let mut ino = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if vfs.getattr(ino).await?.kind != EntryKind::Dir {
            return Err(Kind::NotDir.into());
        }
        ino = vfs.lookup(ino, name).await?.ino;
        vfs.forget(ino, 1);
    }
    Ok(ino)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The same random operations here and on a real directory: same errno, same bytes, same names.
async fn run_seed(seed: u64) {
    let bench = bench().await;
    let (vfs, disk) = (&bench.vfs, tempfile::tempdir().unwrap());
    let real = |path: &str| disk.path().join(path);
    let mut dice = Dice(seed * 2_654_435_761 + 1);
    let paths = ["a", "b", "c", "d/a", "d/b", "d", "e", "e/a", "e/d", "e/d/a"];
    let mut open: Vec<(u64, std::fs::File)> = Vec::new();
    for step in 0..60 {
        let path = dice.pick(&paths);
        let (dir, name) = split(path);
        let context = format!("seed {seed}, step {step}, {path}");
        let parent = match walk(vfs, dir).await {
            Ok(parent) => parent,
            Err(error) => {
                assert_eq!(
                    error.errno(),
                    errno_of(std::fs::metadata(real(dir))),
                    "{context}"
                );
                continue;
            }
        };
        if !real(dir).is_dir() {
            continue;
        }
        match dice.roll(9) {
            0 | 1 => {
                let truncate = dice.roll(2) == 0;
                let mut how = std::fs::OpenOptions::new();
                how.read(true).write(true).create(true).truncate(truncate);
                let file = how.open(real(path));
                let flags = OpenFlags {
                    write: true,
                    truncate,
                    exclusive: false,
                };
                let made = vfs.create(parent, name, 0o644, flags).await;
                match (made, file) {
                    (Ok((_, opened)), Ok(file)) => open.push((opened.fh, file)),
                    (made, file) => assert_eq!(kind_of(&made), errno_of(file), "{context}"),
                }
            }
            2 | 3 if !open.is_empty() => {
                let which = dice.roll(open.len() as u64) as usize;
                let (fh, file) = &mut open[which];
                let (at, len) = (dice.roll(300), dice.roll(200) as usize + 1);
                let bytes = vec![dice.roll(255) as u8 + 1; len];
                vfs.write(*fh, at, &bytes).await.unwrap();
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&bytes).unwrap();
            }
            4 if !open.is_empty() => {
                let which = dice.roll(open.len() as u64) as usize;
                let (fh, file) = open.swap_remove(which);
                close(vfs, fh).await.unwrap();
                drop(file);
            }
            5 => {
                let made = vfs.mkdir(parent, name, 0o755).await;
                if kind_of(&made) == libc::EBUSY {
                    // An open file that had this name is not committed under its new one yet.
                    continue;
                }
                assert_eq!(
                    kind_of(&made),
                    errno_of(std::fs::create_dir(real(path))),
                    "{context}"
                );
            }
            6 => {
                if real(path).is_dir() {
                    let gone = vfs.rmdir(parent, name).await;
                    assert_eq!(
                        kind_of(&gone),
                        errno_of(std::fs::remove_dir(real(path))),
                        "{context}"
                    );
                } else {
                    let gone = vfs.unlink(parent, name).await;
                    assert_eq!(
                        kind_of(&gone),
                        errno_of(std::fs::remove_file(real(path))),
                        "{context}"
                    );
                }
            }
            7 => {
                let to = dice.pick(&paths);
                let (to_dir, to_name) = split(to);
                if !real(to_dir).is_dir() {
                    continue;
                }
                let to_parent = walk(vfs, to_dir).await.unwrap();
                let moved = vfs.rename(parent, name, to_parent, to_name, false).await;
                if kind_of(&moved) == libc::EXDEV && real(path).is_dir() {
                    // A file below is being written: left to the caller.
                    assert!(!open.is_empty(), "{context}");
                    continue;
                }
                if kind_of(&moved) == libc::EBUSY {
                    continue;
                }
                let really = errno_of(std::fs::rename(real(path), real(to)));
                assert_eq!(kind_of(&moved), really, "{context} to {to}: {moved:?}");
            }
            _ => {
                let ino = walk(vfs, path).await;
                assert_eq!(
                    kind_of(&ino),
                    errno_of(std::fs::metadata(real(path))),
                    "{context}: {ino:?}"
                );
                let Ok(ino) = ino else { continue };
                if real(path).is_dir() {
                    let rows = vfs.readdir(ino).await.unwrap();
                    let names: Vec<_> = rows.into_iter().map(|row| row.name).collect();
                    let mut really: Vec<String> = std::fs::read_dir(real(path))
                        .unwrap()
                        .map(|row| row.unwrap().file_name().into_string().unwrap())
                        .collect();
                    really.sort();
                    assert_eq!(names, really, "{context}");
                } else {
                    let bytes = read_file(vfs, ino).await.unwrap();
                    assert_eq!(bytes, std::fs::read(real(path)).unwrap(), "{context}");
                    let attr = vfs.getattr(ino).await.unwrap();
                    assert_eq!(attr.size, bytes.len() as u64, "{context}");
                }
            }
        }
        for (fh, file) in &mut open {
            let mut want = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut want).unwrap();
            let seen = vfs.read(*fh, 0, 1 << 20).await.unwrap();
            assert_eq!(seen, want, "{context}: an open file");
        }
    }
    for (fh, _) in open {
        close(vfs, fh).await.unwrap();
    }
    let left = vfs.drain(Duration::from_secs(600)).await;
    let none = Drained {
        kept: 0,
        refused: 0,
    };
    assert_eq!(left, none, "seed {seed}: {:?}", vfs.status());
    settle(&bench).await;
    let mut want = Vec::new();
    let mut dirs = vec![disk.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for row in std::fs::read_dir(dir).unwrap() {
            let row = row.unwrap().path();
            let path = row
                .strip_prefix(disk.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if row.is_dir() {
                dirs.push(row);
            } else {
                let content = bench.store.content(&path);
                assert_eq!(
                    content.unwrap_or_default(),
                    std::fs::read(row).unwrap(),
                    "seed {seed}, {path}"
                );
            }
            want.push(path);
        }
    }
    want.sort();
    assert_eq!(bench.store.paths(), want, "seed {seed}");
}

/// Waits until nothing is asked of the store any more.
async fn settle(bench: &Bench) {
    bench.vfs.landed().await;
    let mut before = 0;
    loop {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let now = bench.store.log.lock().unwrap().len();
        if now == before {
            return;
        }
        before = now;
    }
}

#[tokio::test]
async fn random_operations_do_what_a_local_directory_does() {
    for seed in 0..400 {
        run_seed(seed).await;
    }
}

#[tokio::test]
async fn a_listing_answers_every_stat_below_it() {
    let bench = bench().await;
    for n in 0..100 {
        bench.store.plant(&format!("f{n}"), b"x");
    }
    let rows = bench.vfs.readdir(ROOT).await.unwrap();
    assert_eq!(rows.len(), 100);
    for row in &rows {
        let attr = bench.vfs.lookup(ROOT, &row.name).await.unwrap();
        bench.vfs.getattr(attr.ino).await.unwrap();
    }
    bench.vfs.lookup(ROOT, "absent").await.unwrap_err();
    assert_eq!(*bench.store.log.lock().unwrap(), ["list "]);
}

#[tokio::test]
async fn many_listings_at_once_are_one_request() {
    let bench = bench().await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("list", gate.clone()));
    let asks = (0..10).map(|_| bench.vfs.readdir(ROOT));
    let all = futures_util::future::join_all(asks);
    let (_, rows) = tokio::join!(async { gate.add_permits(10) }, all);
    assert!(rows.into_iter().all(|rows| rows.is_ok()));
    assert_eq!(bench.store.count("list"), 1);
}

#[tokio::test]
async fn many_listings_at_once_share_one_failure() {
    let bench = bench().await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("list", gate.clone()));
    let fault = Fault {
        op: "list",
        kind: Kind::Unreachable,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    let asks = (0..10).map(|_| bench.vfs.readdir(ROOT));
    let all = futures_util::future::join_all(asks);
    // They all wait before the first is answered.
    let (rows, ()) = tokio::join!(all, async { gate.add_permits(20) });
    for rows in rows {
        assert_eq!(rows.unwrap_err().kind, Kind::Unreachable);
    }
    assert_eq!(bench.store.count("list"), 1);
    bench.vfs.readdir(ROOT).await.unwrap();
}

#[tokio::test]
async fn a_new_file_costs_one_put_and_its_stat_nothing() {
    let bench = bench().await;
    bench.vfs.readdir(ROOT).await.unwrap();
    let ino = write_file(&bench.vfs, ROOT, "f", b"hello").await;
    assert_eq!(bench.vfs.getattr(ino).await.unwrap().size, 5);
    assert_eq!(read_file(&bench.vfs, ino).await.unwrap(), "hello");
    assert_eq!(*bench.store.log.lock().unwrap(), ["list ", "put f"]);
}

#[tokio::test]
async fn truncating_at_open_downloads_nothing() {
    let bench = bench().await;
    bench.store.plant("f", b"old content");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"new").await.unwrap();
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "new");
    assert_eq!(bench.store.count("read"), 0);
}

#[tokio::test]
async fn a_write_in_the_middle_fetches_the_rest_only_when_it_is_sealed() {
    let bench = bench().await;
    bench.store.plant("f", b"0123456789");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 3, b"abc").await.unwrap();
    assert_eq!(bench.store.count("read"), 0);
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("f").unwrap(), "012abc6789");
}

#[tokio::test]
async fn another_handle_reads_what_was_just_written() {
    let bench = bench().await;
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"hello").await.unwrap();
    assert_eq!(read_file(&bench.vfs, attr.ino).await.unwrap(), "hello");
    assert!(bench.store.content("f").is_none());
    close(&bench.vfs, open.fh).await.unwrap();
}

#[tokio::test]
async fn an_open_file_that_loses_its_name_can_still_be_read() {
    let bench = bench().await;
    bench.store.plant("f", b"still here");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, READ).await.unwrap();
    bench.vfs.unlink(ROOT, "f").await.unwrap();
    assert!(bench.store.content("f").is_none());
    assert_eq!(bench.vfs.read(open.fh, 0, 100).await.unwrap(), "still here");
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.vfs.write.spool.bytes(), 0);
}

/// A mount with a `name_timeout` of 10 s.
async fn hasty() -> Bench {
    let ten = Duration::from_secs(10);
    bench_with(Memory::new(), |options| options.name_timeout = ten).await
}

#[tokio::test(start_paused = true)]
async fn of_many_names_that_are_known_only_the_first_waits_for_a_store_that_is_silent() {
    let bench = bench_with(Memory::new(), |options| options.attr_ttl = Duration::ZERO).await;
    for name in ["a", "b", "c", "d"] {
        bench.store.plant(name, b"x");
    }
    assert_eq!(bench.vfs.readdir(ROOT).await.unwrap().len(), 4);
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("stat", gate.clone()));
    let begin = tokio::time::Instant::now();
    for name in ["a", "b", "c", "d"] {
        bench.vfs.lookup(ROOT, name).await.unwrap();
    }
    assert_eq!((begin.elapsed(), bench.store.count("stat")), (PATIENCE, 1));
    // It is asked again after a while, and believed when it answers.
    gate.add_permits(9);
    bench.store.plant("b", b"longer");
    tokio::time::advance(SILENT_FOR).await;
    assert_eq!(bench.vfs.lookup(ROOT, "b").await.unwrap().size, 6);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_does_not_wait_longer_than_name_timeout() {
    let bench = hasty().await;
    *bench.store.gate.lock().unwrap() = Some(("stat", Arc::new(Semaphore::new(0))));
    let asked = bench.vfs.lookup(ROOT, "f");
    let found = tokio::time::timeout(Duration::from_secs(600), asked).await;
    assert_eq!(found.unwrap().unwrap_err().kind, Kind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn an_open_file_loses_its_name_although_its_bytes_do_not_come() {
    for gone in [true, false] {
        let bench = hasty().await;
        bench.store.plant("f", b"slow");
        let ino = walk(&bench.vfs, "f").await.unwrap();
        let open = bench.vfs.open(ino, READ).await.unwrap();
        write_file(&bench.vfs, ROOT, "g", b"g").await;
        *bench.store.gate.lock().unwrap() = Some(("read", Arc::new(Semaphore::new(0))));
        if gone {
            bench.vfs.unlink(ROOT, "f").await.unwrap();
            assert_eq!(bench.store.paths(), ["g"]);
        } else {
            bench.vfs.rename(ROOT, "g", ROOT, "f", false).await.unwrap();
            assert_eq!(bench.store.content("f").unwrap(), "g");
        }
        close(&bench.vfs, open.fh).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_replaced_under_a_reader_is_estale_and_a_new_open_sees_the_new_one() {
    let bench = bench_with(Memory::new(), |options| options.attr_ttl = Duration::ZERO).await;
    bench.store.plant("f", b"version one");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, READ).await.unwrap();
    bench.store.plant("f", b"version two!");
    assert_eq!(
        bench.vfs.read(open.fh, 0, 100).await.unwrap_err().kind,
        Kind::Stale
    );
    let new = walk(&bench.vfs, "f").await.unwrap();
    assert_ne!(
        new, ino,
        "the kernel's pages of the old version must not be shown for the new one"
    );
    assert_eq!(read_file(&bench.vfs, new).await.unwrap(), "version two!");
    close(&bench.vfs, open.fh).await.unwrap();
}

#[tokio::test]
async fn pages_are_kept_while_the_version_stands() {
    let bench = bench_with(Memory::new(), |options| options.attr_ttl = Duration::ZERO).await;
    bench.store.plant("f", b"one");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    for (plant, keep) in [
        (None, false),
        (None, true),
        (Some(b"two"), false),
        (None, true),
    ] {
        if let Some(bytes) = plant {
            bench.store.plant("f", bytes);
        }
        let open = bench.vfs.open(ino, READ).await.unwrap();
        assert_eq!(open.keep_cache, keep);
        close(&bench.vfs, open.fh).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_at_close_is_remembered_by_the_next_create() {
    let bench = bench().await;
    let fault = Fault {
        op: "put",
        kind: Kind::Invalid,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    let (_, open) = bench.vfs.create(ROOT, "bad?", 0o644, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"x").await.unwrap();
    assert_eq!(
        close(&bench.vfs, open.fh).await.unwrap_err().kind,
        Kind::Invalid
    );
    bench.vfs.unlink(ROOT, "bad?").await.unwrap();
    let again = bench.vfs.create(ROOT, "bad?", 0o644, TRUNC).await;
    assert_eq!(again.unwrap_err().kind, Kind::Invalid);
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_at_create() {
    let bench = bench().await;
    let made = bench.vfs.create(ROOT, "a\\b", 0o644, TRUNC).await;
    assert_eq!(made.unwrap_err().kind, Kind::Invalid);
}

#[tokio::test]
async fn what_was_known_is_answered_while_the_store_is_away() {
    for op in ["stat", "list"] {
        let bench = bench_with(Memory::new(), |options| options.attr_ttl = Duration::ZERO).await;
        bench.store.plant("f", b"x");
        bench.vfs.readdir(ROOT).await.unwrap();
        for op in [op, "stat"] {
            let fault = Fault {
                op,
                kind: Kind::Unreachable,
                done: false,
            };
            bench.store.faults.lock().unwrap().push_back(fault);
        }
        match op {
            "stat" => assert_eq!(bench.vfs.lookup(ROOT, "f").await.unwrap().size, 1),
            _ => assert_eq!(bench.vfs.readdir(ROOT).await.unwrap().len(), 1),
        }
        let unknown = bench.vfs.lookup(ROOT, "g").await;
        assert_eq!(unknown.unwrap_err().kind, Kind::Unreachable);
    }
}

#[tokio::test]
async fn times_modes_and_attributes_go_with_the_commit_or_at_once() {
    let bench = bench().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o755, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"x").await.unwrap();
    let change = Change {
        mtime: Some(TimeSet::At(time)),
        ..Change::default()
    };
    bench
        .vfs
        .setattr(attr.ino, Some(open.fh), change)
        .await
        .unwrap();
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.count("set_attrs"), 0, "they went with the put");
    let place = crate::store::Place {
        dir: "".into(),
        name: "f".into(),
    };
    let kept = bench.store.stat(&place).await.unwrap().attrs;
    assert_eq!((kept.mode, kept.mtime), (Some(0o755), Some(time)));
    bench
        .vfs
        .setxattr(attr.ino, "user.color", b"red", true, false)
        .await
        .unwrap();
    assert_eq!(bench.store.count("set_attrs"), 1);
    assert_eq!(
        bench.vfs.getxattr(attr.ino, "user.color").await.unwrap(),
        b"red"
    );
    let again = bench
        .vfs
        .setxattr(attr.ino, "user.color", b"x", true, false)
        .await;
    assert_eq!(again.unwrap_err().kind, Kind::Exists);
    let acl = bench
        .vfs
        .setxattr(attr.ino, "system.posix_acl_access", b"x", false, false)
        .await;
    assert_eq!(acl.unwrap_err().kind, Kind::Unsupported);
    assert_eq!(
        bench
            .vfs
            .getxattr(attr.ino, "user.assetfs.state")
            .await
            .unwrap(),
        b"committed"
    );
}

#[tokio::test]
async fn truncate_by_name_commits_before_it_answers() {
    let bench = bench().await;
    bench.store.plant("f", b"0123456789");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    for (size, want) in [(4, &b"0123"[..]), (6, b"0123\0\0"), (0, b"")] {
        let change = Change {
            size: Some(size),
            ..Change::default()
        };
        bench.vfs.setattr(ino, None, change).await.unwrap();
        assert_eq!(bench.store.content("f").unwrap(), want);
    }
}

#[tokio::test]
async fn a_rename_of_what_was_just_written_is_sent_from_the_spool() {
    let bench = bench().await;
    write_file(&bench.vfs, ROOT, "tmp", b"content").await;
    bench
        .vfs
        .rename(ROOT, "tmp", ROOT, "final", false)
        .await
        .unwrap();
    assert_eq!(bench.store.paths(), ["final"]);
    assert_eq!(bench.store.content("final").unwrap(), "content");
    assert_eq!(bench.store.count("read"), 0);
}

#[tokio::test]
async fn a_rename_while_a_part_is_rewritten_keeps_the_rest() {
    let bench = bench().await;
    bench.store.plant("f", b"0123456789");
    let ino = walk(&bench.vfs, "f").await.unwrap();
    let open = bench.vfs.open(ino, WRITE).await.unwrap();
    bench.vfs.write(open.fh, 3, b"abc").await.unwrap();
    bench.vfs.rename(ROOT, "f", ROOT, "g", false).await.unwrap();
    let seen = bench.vfs.lookup(ROOT, "f").await;
    assert_eq!(
        seen.unwrap_err().kind,
        Kind::NotFound,
        "the old name is gone here at once"
    );
    assert!(
        bench.store.content("g").is_none(),
        "half a version is not published"
    );
    close(&bench.vfs, open.fh).await.unwrap();
    assert_eq!(bench.store.content("g").unwrap(), "012abc6789");
    assert_eq!(bench.store.paths(), ["g"]);
}

#[tokio::test]
async fn a_file_never_sent_that_took_a_name_takes_it_along_when_it_goes() {
    for gone in [true, false] {
        let bench = bench().await;
        bench.store.plant("f", b"old");
        let (_, open) = bench.vfs.create(ROOT, "new", 0o644, TRUNC).await.unwrap();
        bench
            .vfs
            .rename(ROOT, "new", ROOT, "f", false)
            .await
            .unwrap();
        if gone {
            bench.vfs.unlink(ROOT, "f").await.unwrap();
        } else {
            bench.vfs.rename(ROOT, "f", ROOT, "g", false).await.unwrap();
        }
        let seen = bench.vfs.lookup(ROOT, "f").await;
        assert_eq!(seen.unwrap_err().kind, Kind::NotFound);
        close(&bench.vfs, open.fh).await.unwrap();
        settle(&bench).await;
        assert!(bench.store.content("f").is_none());
    }
}

#[tokio::test]
async fn a_rename_of_what_only_the_store_has_copies_verifies_and_removes() {
    let bench = bench().await;
    bench.store.plant("old", &[7; 300]);
    bench
        .vfs
        .rename(ROOT, "old", ROOT, "new", false)
        .await
        .unwrap();
    assert_eq!(bench.store.paths(), ["new"]);
    assert_eq!(bench.store.content("new").unwrap(), vec![7; 300]);
    let log = bench.store.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|line| line.starts_with(what)).unwrap();
    assert!(at("finish") < at("remove"), "never neither: {log:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_rename_that_went_on_in_the_background_is_told_at_the_next_open() {
    let bench = hasty().await;
    bench.store.plant("old", &[7; 300]);
    let ino = walk(&bench.vfs, "old").await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock().unwrap() = Some(("finish", gate.clone()));
    let moved = bench.vfs.rename(ROOT, "old", ROOT, "new", false);
    moved.await.unwrap();
    let fault = Fault {
        op: "finish",
        kind: Kind::Denied,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    gate.add_permits(100);
    settle(&bench).await;
    let told = bench.vfs.open(ino, READ).await.unwrap_err();
    assert_eq!(told.kind, Kind::Denied);
    assert_eq!(read_file(&bench.vfs, ino).await.unwrap(), vec![7; 300]);
}

#[tokio::test]
async fn a_rename_does_not_overwrite_what_others_stored_since_the_last_look() {
    for known in [true, false] {
        let bench = bench().await;
        if known {
            bench.store.plant("report", b"old");
        }
        bench.vfs.readdir(ROOT).await.unwrap();
        {
            let mut tree = bench.vfs.tree();
            let before = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
            tree.get_mut(ROOT).unwrap().listed = Some(before);
            if let Some(report) = tree.child(ROOT, "report") {
                tree.get_mut(report).unwrap().checked = before;
            }
        }
        write_file(&bench.vfs, ROOT, "report.part", b"ours").await;
        bench.store.plant("report", b"theirs");
        let moved = bench.vfs.rename(ROOT, "report.part", ROOT, "report", false);
        assert_eq!(moved.await.unwrap_err().kind, Kind::Conflict);
        settle(&bench).await;
        assert_eq!(bench.store.content("report").unwrap(), "theirs");
        let paths = bench.store.paths();
        assert_eq!(paths.len(), 2, "{paths:?}");
        assert_eq!(bench.store.content(&paths[1]).unwrap(), "ours");
    }
}

#[tokio::test]
async fn noreplace_keeps_the_target() {
    let bench = bench().await;
    write_file(&bench.vfs, ROOT, "a", b"a").await;
    write_file(&bench.vfs, ROOT, "b", b"b").await;
    let moved = bench.vfs.rename(ROOT, "a", ROOT, "b", true).await;
    assert_eq!(moved.unwrap_err().kind, Kind::Exists);
    assert_eq!(bench.store.content("b").unwrap(), "b");
}

#[tokio::test]
async fn a_directory_with_more_below_than_the_limit_is_left_to_the_caller() {
    let bench = bench_with(Memory::new(), |options| options.rename_max = 3).await;
    let dir = bench.vfs.mkdir(ROOT, "d", 0o755).await.unwrap().ino;
    for name in ["1", "2", "3"] {
        write_file(&bench.vfs, dir, name, b"x").await;
    }
    bench.vfs.rename(ROOT, "d", ROOT, "e", false).await.unwrap();
    assert_eq!(bench.store.paths(), ["e", "e/1", "e/2", "e/3"]);
    write_file(&bench.vfs, dir, "4", b"x").await;
    let moved = bench.vfs.rename(ROOT, "e", ROOT, "d", false).await;
    assert_eq!(moved.unwrap_err().kind, Kind::CrossDevice);
    assert_eq!(bench.store.paths(), ["e", "e/1", "e/2", "e/3", "e/4"]);
}

#[tokio::test]
async fn a_directory_with_a_temporary_name_in_it_is_moved_whole() {
    let bench = bench_with(Memory::new(), |options| {
        options.temp_names = vec![Glob::new("*~").unwrap()];
    })
    .await;
    let dir = bench.vfs.mkdir(ROOT, "d", 0o755).await.unwrap().ino;
    write_file(&bench.vfs, dir, "x", b"x").await;
    bench.vfs.rename(dir, "x", dir, "x~", false).await.unwrap();
    write_file(&bench.vfs, dir, "y", b"y").await;
    bench.vfs.rename(ROOT, "d", ROOT, "e", false).await.unwrap();
    assert_eq!(bench.store.paths(), ["e", "e/x~", "e/y"]);
    assert_eq!(bench.store.content("e/x~").unwrap(), "x");
}

#[tokio::test]
async fn what_is_made_in_a_directory_while_it_is_moved_goes_along() {
    for op in ["put", "rmdir"] {
        let bench = bench().await;
        let dir = bench.vfs.mkdir(ROOT, "d", 0o755).await.unwrap().ino;
        write_file(&bench.vfs, dir, "a", b"a").await;
        let (gate, before) = (Arc::new(Semaphore::new(0)), bench.store.count(op));
        *bench.store.gate.lock().unwrap() = Some((op, gate.clone()));
        let (moved, open) = tokio::join!(bench.vfs.rename(ROOT, "d", ROOT, "e", false), async {
            while bench.store.count(op) == before {
                tokio::task::yield_now().await;
            }
            let (_, open) = bench.vfs.create(dir, "b", 0o644, TRUNC).await.unwrap();
            bench.vfs.write(open.fh, 0, b"b").await.unwrap();
            gate.add_permits(100);
            open
        });
        moved.unwrap();
        close(&bench.vfs, open.fh).await.unwrap();
        assert_eq!(bench.store.paths(), ["e", "e/a", "e/b"]);
        let made = walk(&bench.vfs, "e/b").await.unwrap();
        assert_eq!(read_file(&bench.vfs, made).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn a_directory_that_others_have_filled_is_not_replaced() {
    let bench = bench().await;
    for name in ["d", "e"] {
        bench.vfs.mkdir(ROOT, name, 0o755).await.unwrap();
    }
    bench.store.plant("e/theirs", b"theirs");
    let moved = bench.vfs.rename(ROOT, "d", ROOT, "e", false).await;
    assert_eq!(moved.unwrap_err().kind, Kind::NotEmpty);
    assert_eq!(bench.store.paths(), ["d", "e", "e/theirs"]);
}

#[tokio::test]
async fn a_symlink_keeps_its_target_through_a_rename() {
    let bench = bench().await;
    let link = bench.vfs.symlink(ROOT, "l", "some/where").await.unwrap();
    bench.vfs.rename(ROOT, "l", ROOT, "m", false).await.unwrap();
    assert_eq!(bench.vfs.readlink(link.ino).await.unwrap(), "some/where");
    assert_eq!(bench.store.paths(), ["m"]);
}

#[tokio::test]
async fn a_failed_close_is_shown_and_the_next_sync_can_still_succeed() {
    let bench = bench().await;
    let fault = Fault {
        op: "put",
        kind: Kind::Denied,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"x").await.unwrap();
    assert_eq!(
        bench.vfs.flush(open.fh).await.unwrap_err().errno(),
        libc::EACCES
    );
    assert_eq!(
        bench
            .vfs
            .getxattr(attr.ino, "user.assetfs.state")
            .await
            .unwrap(),
        b"failed"
    );
    assert!(bench.vfs.status().files[0].error.is_some());
    bench.vfs.fsync(open.fh).await.unwrap();
    bench.vfs.release(open.fh);
    assert_eq!(bench.store.content("f").unwrap(), "x");
}

#[tokio::test]
async fn an_error_after_the_last_close_is_told_at_the_next_open() {
    let bench = bench().await;
    let fault = Fault {
        op: "put",
        kind: Kind::Quota,
        done: false,
    };
    bench.store.faults.lock().unwrap().push_back(fault);
    let (attr, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    // Created and not written: committed after the last close, whose answer is out.
    close(&bench.vfs, open.fh).await.unwrap();
    settle(&bench).await;
    assert_eq!(
        bench.vfs.open(attr.ino, READ).await.unwrap_err().kind,
        Kind::Quota
    );
    assert!(bench.vfs.open(attr.ino, READ).await.is_ok());
    assert!(bench.vfs.status().files[0].error.is_some());
    let left = bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(
        left,
        Drained {
            kept: 0,
            refused: 0
        },
        "it was owed, and is sent at the end"
    );
    assert_eq!(bench.store.content("f").unwrap(), "");
}

#[tokio::test]
async fn drain_takes_no_new_writes_and_leaves_what_is_open_alone() {
    let bench = bench().await;
    let (_, open) = bench.vfs.create(ROOT, "f", 0o644, TRUNC).await.unwrap();
    bench.vfs.write(open.fh, 0, b"half").await.unwrap();
    let left = bench.vfs.drain(Duration::from_secs(600)).await;
    assert_eq!(
        left,
        Drained {
            kept: 0,
            refused: 1
        }
    );
    assert_eq!(
        bench.vfs.write(open.fh, 4, b"x").await.unwrap_err().errno(),
        libc::EROFS
    );
    assert!(bench.store.content("f").is_none());
}
