//! The process is killed at each point of a fixed scenario: before every change of the spool, and around
//! every request.

use super::model::{How, Model, Op};
use super::world::{Served, World};
use super::{act, look, settle};
use crate::common::mount::{all, has_fuse};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Failpoints are compiled into builds with debug assertions only.
pub(crate) fn can_run() -> bool {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: a release build has no failpoints");
    }
    cfg!(debug_assertions) && has_fuse()
}

/// Of many points the quick run takes each `step`th, the long one all.
pub(crate) fn every(step: usize) -> usize {
    if all() { 1 } else { step }
}

fn open(slot: u32, name: &str, how: How) -> Op {
    Op::Open(slot, name.to_owned(), how)
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename(from.to_owned(), to.to_owned())
}

/// Two versions of one file, a rename, a replacement by rename from a temporary name, an append, a new
/// mode, a change in the middle, a cut, an empty file, an unlink.
pub(crate) fn scenario() -> Vec<Op> {
    vec![
        open(1, "a", How::New),
        Op::Write(1, 11, 100_000),
        Op::Fsync(1),
        Op::Write(1, 12, 1000),
        Op::Close(1),
        open(2, "b", How::Cut),
        Op::Write(2, 21, 5000),
        Op::Close(2),
        rename("b", "c"),
        open(3, "a.tmp", How::New),
        Op::Write(3, 31, 70_000),
        Op::Close(3),
        rename("a.tmp", "a"),
        open(4, "c", How::Append),
        Op::Write(4, 41, 300),
        Op::Close(4),
        Op::Chmod("c".to_owned(), 0o600),
        open(5, "a", How::In),
        Op::WriteAt(5, 65_530, 51, 20),
        Op::Close(5),
        open(6, "empty", How::New),
        Op::Close(6),
        open(7, "d", How::New),
        Op::Write(7, 71, 100),
        Op::Close(7),
        Op::Unlink("d".to_owned()),
        open(8, "a", How::Cut),
        Op::Write(8, 81, 2000),
        Op::Close(8),
        open(9, "c", How::In),
        Op::Resize(9, 1000),
        Op::Close(9),
    ]
}

/// What is owed when the server takes nothing: several files, one under a temporary name, one that was
/// renamed from one, two versions of one.
fn owed() -> Vec<Op> {
    vec![
        open(1, "a", How::New),
        Op::Write(1, 11, 100_000),
        Op::Close(1),
        open(2, "x.tmp", How::New),
        Op::Write(2, 21, 3000),
        Op::Close(2),
        open(3, "y.tmp", How::New),
        Op::Write(3, 31, 4000),
        Op::Close(3),
        rename("y.tmp", "y"),
        open(4, "empty", How::New),
        Op::Close(4),
    ]
}

/// A file that is owed is replaced by rename, twice: by one under a temporary name, and by one that had
/// replaced another.
fn replacements() -> Vec<Op> {
    vec![
        open(1, "a", How::New),
        Op::Write(1, 11, 3000),
        Op::Close(1),
        open(2, "a.tmp", How::New),
        Op::Write(2, 21, 4000),
        Op::Close(2),
        rename("a.tmp", "a"),
        open(3, "x.tmp", How::New),
        Op::Write(3, 31, 5000),
        Op::Close(3),
        open(4, "y.tmp", How::New),
        Op::Write(4, 41, 6000),
        Op::Close(4),
        rename("y.tmp", "x.tmp"),
        rename("x.tmp", "a"),
    ]
}

/// Every content is refused for good, so that it waits for a later try.
pub(crate) const FULL: &str = r#"[
    {"method": "PUT", "path": "/content/", "action": {"answer": {"status": 507}}},
    {"method": "POST", "path": "/content/", "action": {"answer": {"status": 507}}}
]"#;

/// No content is taken: it comes again later.
const AWAY: &str = r#"[
    {"method": "PUT", "path": "/content/", "action": {"answer": {"status": 503, "retry_after": 60}}},
    {"method": "POST", "path": "/content/", "action": {"answer": {"status": 503, "retry_after": 60}}}
]"#;

/// The crossings that `run` makes when it may count them, by what they are.
fn count(
    group: &str,
    served: &Served,
    folder: &str,
    flag: &str,
    run: impl Fn(&mut World, &str) -> Result<bool, String>,
) -> BTreeMap<String, usize> {
    let mut world = World::new(served, folder, &[flag]);
    let counts = world.beside("counts");
    let ended = run(&mut world, &format!("count:{}", counts.display()));
    assert_eq!(ended, Ok(true), "without a crash");
    let mut seen = BTreeMap::new();
    for line in std::fs::read_to_string(counts).unwrap().lines() {
        if let Some(what) = line.strip_prefix(group) {
            *seen.entry(what.trim().to_owned()).or_default() += 1;
        }
    }
    seen
}

/// Counts the points of `group` that `run` crosses, then has it killed at each of them. `run` returns
/// whether it came to its end. Prints how many points were reached.
fn at_every_point(
    name: &str,
    group: &str,
    flag: &str,
    must: &[&str],
    run: impl Fn(&mut World, &str) -> Result<bool, String> + Sync,
) {
    if !can_run() {
        return;
    }
    let served = Served::start(&[]);
    let seen = count(group, &served, "count", flag, &run);
    for what in must {
        assert!(
            seen.keys().any(|key| key.contains(what)),
            "{what}: {seen:?}"
        );
    }
    let points: usize = seen.values().sum();
    let next = AtomicUsize::new(1);
    let reached = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let served = Served::start(&[]);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n > points {
                        return;
                    }
                    let mut world = World::new(&served, &format!("p{n}"), &[flag]);
                    let failpoint = format!("{group}:{n}");
                    let done = catch_unwind(AssertUnwindSafe(|| run(&mut world, &failpoint)));
                    match done.unwrap_or_else(|why| Err(words(&*why))) {
                        Ok(ended) => {
                            reached.fetch_add(usize::from(!ended), Ordering::Relaxed);
                        }
                        Err(fault) => {
                            let killed = world.log();
                            let killed = (killed.lines())
                                .find(|line| line.contains("ASSETFS_FAILPOINT"))
                                .unwrap_or("not killed")
                                .to_owned();
                            (faults.lock().unwrap())
                                .push(format!("{failpoint} ({flag}): {killed}\n{fault}"));
                        }
                    }
                }
            });
        }
    });
    let (faults, reached) = (faults.into_inner().unwrap(), reached.into_inner());
    println!("{name}: killed at {reached} of {points} points: {seen:?}");
    assert!(
        faults.is_empty(),
        "{} of {points} points:\n{}",
        faults.len(),
        faults.join("\n")
    );
    // Threads share the work differently each time: the last few may not come.
    assert!(reached * 10 >= points * 9, "only {reached} of {points}");
}

/// What a panic said.
pub(crate) fn words(why: &(dyn Any + Send)) -> String {
    match why.downcast_ref::<String>() {
        Some(words) => words.clone(),
        None => "a panic".to_owned(),
    }
}

/// The scenario, killed at `failpoint`; then a mount that must bring everything in order.
fn work(world: &mut World, failpoint: &str) -> Result<bool, String> {
    let mut model = Model::default();
    let ended = world.mount(Some(failpoint)) && {
        let mut client = world.client();
        act(world, &mut client, &mut model, &scenario()) && {
            drop(client);
            world.umount()
        }
    };
    if ended {
        look(world, &model, None)?;
    } else {
        settle(world, &model, None, &[])?;
    }
    Ok(ended)
}

/// What is owed is replaced while the server takes nothing; killed at `failpoint`.
fn replace(world: &mut World, failpoint: &str) -> Result<bool, String> {
    let mut model = Model::default();
    world.served().faults(FULL);
    let mut ended = world.mount(Some(failpoint));
    if ended {
        let mut client = world.client();
        ended = act(world, &mut client, &mut model, &replacements());
    }
    world.kill();
    world.served().faults("[]");
    settle(world, &model, None, &[])?;
    Ok(ended)
}

/// Much is owed, the process is killed; the next one, that takes it up, is killed at `failpoint`.
fn take_up(world: &mut World, failpoint: &str) -> Result<bool, String> {
    let mut model = Model::default();
    world.served().faults(AWAY);
    assert!(world.mount(None));
    let mut client = world.client();
    assert!(act(world, &mut client, &mut model, &owed()));
    drop(client);
    world.kill();
    world.served().faults("[]");
    let mut owed: Vec<String> = (world.spooled().into_iter())
        .filter(|left| left.class == "acknowledged")
        .map(|left| left.path)
        .collect();
    owed.sort();
    assert_eq!(owed, ["/a", "/empty", "/x.tmp", "/y"]);
    let reached = settle(world, &model, None, &[failpoint.to_owned()])?;
    Ok(reached == 0)
}

const CHANGES: [&str; 10] = [
    "create data",
    "write data",
    "write sums",
    "write json",
    "rename json.new to json",
    "sync data",
    "sync folder of json",
    "rename data to cache",
    "remove",
    "sync folder of removed",
];

#[test]
fn no_kill_at_a_change_of_the_spool_loses_what_the_store_acknowledged() {
    // Renames onto temporary names and empty files are kept in the spool here too.
    let (name, flag) = ("changes of the spool, commit=close", "--commit=close");
    at_every_point(name, "spool", flag, &CHANGES, work);
}

#[test]
fn no_kill_at_a_change_of_the_spool_loses_what_the_spool_acknowledged() {
    let (name, flag) = ("changes of the spool, commit=spool", "--commit=spool");
    at_every_point(name, "spool", flag, &CHANGES, work);
}

#[test]
fn no_kill_around_a_request_loses_what_the_store_acknowledged() {
    let (name, flag) = ("requests, commit=close", "--commit=close");
    at_every_point(
        name,
        "http",
        flag,
        &["put", "post", "delete", "answer"],
        work,
    );
}

#[test]
fn no_kill_around_a_request_loses_what_the_spool_acknowledged() {
    let (name, flag) = ("requests, commit=spool", "--commit=spool");
    at_every_point(
        name,
        "http",
        flag,
        &["put", "post", "delete", "answer"],
        work,
    );
}

#[test]
fn no_kill_while_what_is_owed_is_replaced_loses_either_version() {
    let (name, flag) = ("changes of the spool, replacements", "--commit=spool");
    at_every_point(name, "spool", flag, &CHANGES[..7], replace);
}

#[test]
fn no_second_kill_while_the_spool_is_taken_up_loses_anything() {
    let (name, flag) = ("changes of the spool, second start", "--commit=spool");
    let must = ["rename data to cache", "remove"];
    at_every_point(name, "spool", flag, &must, take_up);
    let name = "requests, second start";
    at_every_point(name, "http", flag, &["put", "post", "answer"], take_up);
}
