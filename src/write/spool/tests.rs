//! The spool on a real disk: what vanishes, what stays, what the next start finds.

use super::*;
use crate::store::{Attrs, Place};

fn target(name: &str) -> Target {
    Target {
        attempts: Vec::new(),
        place: Place {
            dir: "".into(),
            name: name.into(),
        },
        path: format!("/{name}"),
        replaces: None,
        looked: None,
        removes: Vec::new(),
        exclusive: false,
        attrs: Attrs::default(),
    }
}

fn open(dir: &tempfile::TempDir, max: Option<u64>) -> (Arc<Spool>, Found) {
    Spool::open(&dir.path().join("spool"), max).unwrap()
}

#[test]
fn a_file_vanishes_with_its_last_holder_unless_something_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let (a, b) = (
        spool.create(&target("a")).unwrap(),
        spool.create(&target("b")).unwrap(),
    );
    let (pa, pb) = (a.path(), b.path());
    let record = Record::new(Class::Acknowledged, target("b"));
    let _ = b.promise(&record, b.stamp()).unwrap();
    drop((a, b));
    assert!(!pa.exists());
    assert!(pb.exists());
}

#[test]
fn what_an_earlier_process_left_stays_when_a_start_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let torn = spool.create(&target("torn")).unwrap();
    torn.write_at(b"half", 0, 4).unwrap();
    spool.freeze();
    drop((torn, spool));
    for _ in 0..2 {
        // Given up before anything was decided: all of it is dropped.
        let (spool, found) = open(&dir, None);
        let [(file, record)] = &found.files[..] else {
            panic!("{found:?}");
        };
        assert_eq!(record.class, Class::Torn);
        assert_eq!(&file.read_at(0..4).unwrap()[..], b"half");
        drop((found, spool));
    }
}

#[test]
fn bytes_come_back_and_past_the_end_are_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(b"abc", 2, 3).unwrap();
    assert_eq!(&file.read_at(0..8).unwrap()[..], b"\0\0abc\0\0\0");
    let other = spool.create(&target("b")).unwrap();
    other.copy_from(&file, 1..7).unwrap();
    assert_eq!(&other.read_at(0..7).unwrap()[..], b"\0\0abc\0\0");
}

#[test]
fn a_hole_is_zeros_and_what_is_around_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    let mut model = vec![7; 300_000];
    file.write_at(&model, 0, 300_000).unwrap();
    for hole in [10..20, 60_000..140_000, 131_072..196_608, 299_999..400_000] {
        file.punch(hole.clone()).unwrap();
        model[hole.start as usize..300_000.min(hole.end as usize)].fill(0);
        assert!(file.read_at(0..300_000).unwrap() == model, "{hole:?}");
    }
    blank(&file.file().unwrap(), 0..400_000).unwrap();
    assert_eq!(file.file().unwrap().metadata().unwrap().len(), 300_000);
    assert_eq!(file.read_at(0..1).unwrap_err().kind, Kind::Mismatch);
}

#[test]
fn after_a_failed_sync_nothing_is_promised_before_all_bytes_were_compared_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(&[7; 100_000], 0, 100_000).unwrap();
    let record = Record::new(Class::Acknowledged, target("a"));
    file.state().doubtful = true;
    file.file().unwrap().write_all_at(b"lost", 70_000).unwrap();
    assert_eq!(
        file.promise(&record, file.stamp()).unwrap_err().kind,
        Kind::Mismatch
    );
    file.file().unwrap().write_all_at(&[7; 4], 70_000).unwrap();
    assert_eq!(file.promise(&record, file.stamp()).unwrap(), Noted::Durable);
    assert!(!file.state().doubtful);
}

#[test]
fn bytes_that_are_written_again_after_a_failed_sync_can_be_read_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(&[7; 100_000], 0, 100_000).unwrap();
    let reader = file.sums.read().unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| done.send(file.rewrite()));
        // Only a rewrite that waits for the reader takes this long.
        let rewritten = is_done.recv_timeout(std::time::Duration::from_secs(20));
        drop(reader);
        rewritten.expect("it waits for a reader").unwrap();
    });
    assert!(file.read_at(0..100_000).unwrap() == [7; 100_000][..]);
}

#[test]
fn beyond_the_budget_a_write_is_enospc_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, Some(10));
    let file = spool.create(&target("a")).unwrap();
    file.write_at(&[1; 8], 0, 8).unwrap();
    assert_eq!(file.write_at(&[1; 8], 8, 8).unwrap_err().kind, Kind::Full);
    drop(file);
    assert_eq!(spool.bytes(), 0);
    spool
        .create(&target("a"))
        .unwrap()
        .write_at(&[1; 10], 0, 10)
        .unwrap();
}

#[test]
fn the_next_start_finds_what_was_promised_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(b"hello", 0, 5).unwrap();
    let mut record = Record::new(Class::Acknowledged, target("a"));
    record.size = 5;
    let _ = file.promise(&record, file.stamp()).unwrap();
    let torn = spool.create(&target("t")).unwrap();
    torn.write_at(b"half", 0, 4).unwrap();
    let (_other, found) = open(&dir, None);
    assert!(found.files.is_empty(), "it is locked");
    spool.freeze();
    drop((file, torn, spool));
    let (_spool, found) = open(&dir, None);
    let seen: Vec<_> = found
        .files
        .iter()
        .map(|(_, r)| (r.target.path.as_str(), r.class))
        .collect();
    assert!(seen.contains(&("/a", Class::Acknowledged)), "{seen:?}");
    assert!(seen.contains(&("/t", Class::Torn)), "{seen:?}");
    let (file, _) = found
        .files
        .iter()
        .find(|(_, r)| r.target.path == "/a")
        .unwrap();
    assert_eq!(&file.read_at(0..5).unwrap()[..], b"hello");
}

#[test]
fn what_cannot_be_understood_is_kept_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let folder = spool.dir.clone();
    drop(spool);
    std::fs::write(folder.join("7.data"), b"?").unwrap();
    std::fs::write(folder.join("8.data"), b"?").unwrap();
    std::fs::write(folder.join("8.json"), b"{\"format\":").unwrap();
    let (spool, found) = open(&dir, None);
    assert_eq!(
        (found.files.len(), found.odd.len()),
        (0, 2),
        "{:?}",
        found.odd
    );
    assert!(folder.join("7.data").exists() && folder.join("8.json").exists());
    let new = spool.create(&target("a")).unwrap();
    assert_eq!(new.id(), "9", "numbers are not used twice");
}

#[test]
fn bytes_that_rotted_on_the_disk_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(&[7; 200_000], 0, 200_000).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(file.path())
        .unwrap()
        .write_all_at(&[8], 150_000)
        .unwrap();
    assert!(file.read_at(0..131_072).is_ok());
    assert_eq!(
        file.read_at(140_000..141_000).unwrap_err().kind,
        Kind::Mismatch
    );
    assert_eq!(
        file.write_at(&[1], 160_000, 0).unwrap_err().kind,
        Kind::Mismatch
    );
}

fn record_of(dir: &tempfile::TempDir, file: &SpoolFile) -> Record {
    assert!(file.path().starts_with(dir.path()));
    serde_json::from_slice(&std::fs::read(file.stem.with_extension("json")).unwrap()).unwrap()
}

#[test]
fn a_record_of_what_a_file_no_longer_is_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(b"hello", 0, 5).unwrap();
    let mut record = Record::new(Class::Refused, target("a"));
    record.size = 5;
    let stamp = file.stamp();
    file.to_torn(&target("a"), 5).unwrap();
    assert_eq!(file.promise(&record, stamp).unwrap(), Noted::Void);
    assert_eq!(record_of(&dir, &file).class, Class::Torn);
    assert_eq!(file.promise(&record, file.stamp()).unwrap(), Noted::Durable);
    let stamp = file.stamp();
    file.to_cache();
    assert_eq!(file.note(&record, stamp).unwrap(), Noted::Void);
    assert!(!file.path().exists(), "a cache does not become a debt");
}

#[test]
fn a_record_drawn_up_earlier_does_not_replace_a_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    let (first, second) = (file.stamp(), file.stamp());
    let acknowledged = |name: &str| Record::new(Class::Acknowledged, target(name));
    let noted = file.note(&acknowledged("new"), second);
    assert_eq!(noted.unwrap(), Noted::Durable);
    let noted = file.note(&acknowledged("old"), first);
    assert_eq!(noted.unwrap(), Noted::Durable);
    assert_eq!(record_of(&dir, &file).target.path, "/new");
}

#[test]
fn what_stays_on_the_disk_stays_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let refused = spool.create(&target("r")).unwrap();
    refused.write_at(b"hello", 0, 5).unwrap();
    let record = Record::new(Class::Refused, target("r"));
    let _ = refused.promise(&record, refused.stamp()).unwrap();
    let left = spool.create(&target("t")).unwrap();
    left.write_at(b"half", 0, 4).unwrap();
    left.leave();
    drop((refused, left));
    assert_eq!(spool.bytes(), 9);
    spool.freeze();
    drop(spool);
    let (spool, found) = open(&dir, None);
    assert_eq!(found.files.len(), 2);
    assert_eq!(spool.bytes(), 9, "a torn one counts as what it has");
}

#[test]
fn a_promise_on_its_way_to_the_disk_keeps_nobody_else_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let (file, other) = (
        spool.create(&target("a")).unwrap(),
        spool.create(&target("b")).unwrap(),
    );
    let record = Record::new(Class::Refused, target("b"));
    let _ = other.promise(&record, other.stamp()).unwrap();
    let _syncing = (file.turn(), other.turn());
    let _ = file.stamp();
    file.to_cache();
    other.to_torn(&target("b"), 0).unwrap();
    assert_eq!(other.class(), Class::Torn);
    other.discard();
    assert!(!file.path().exists() && !other.path().exists());
}

#[test]
fn a_file_that_lost_its_names_is_promised_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.discard();
    let record = Record::new(Class::Acknowledged, target("a"));
    assert_eq!(file.promise(&record, file.stamp()).unwrap(), Noted::Void);
    let rows = std::fs::read_dir(&spool.dir).unwrap().flatten();
    let left: Vec<_> = rows.map(|row| row.file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn what_cannot_be_begun_anew_stays_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    let record = Record::new(Class::Refused, target("a"));
    let _ = file.promise(&record, file.stamp()).unwrap();
    let stamp = file.stamp();
    // The disk takes no new record.
    std::fs::create_dir(file.stem.with_extension("torn.new")).unwrap();
    assert!(file.to_torn(&target("a"), 0).is_err());
    assert_eq!(file.promise(&record, stamp).unwrap(), Noted::Durable);
}

#[test]
fn a_cache_that_cannot_be_written_to_again_is_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir, None);
    let file = spool.create(&target("a")).unwrap();
    file.write_at(b"hello", 0, 5).unwrap();
    file.to_cache();
    std::fs::create_dir(file.stem.with_extension("json")).unwrap();
    assert!(file.to_torn(&target("a"), 5).is_err());
    assert_eq!(spool.bytes(), 0);
}

#[test]
fn bytes_are_there_though_descriptors_are_few_and_though_the_name_went() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(&dir, None);
    Arc::get_mut(&mut spool).unwrap().handles = Handles::at_most(2);
    let make = |n: u64| {
        let file = spool.create(&target(&n.to_string())).unwrap();
        file.write_at(&[n as u8; 9], 0, 9).unwrap();
        file
    };
    let files: Vec<_> = (0..9).map(make).collect();
    files[0].discard();
    files[1].to_cache();
    let is_open = |file: &&Arc<SpoolFile>| file.handle.file().is_some();
    for file in &files[2..] {
        file.write_at(b"again", 0, 0).unwrap();
    }
    assert_eq!(
        files.iter().filter(is_open).count(),
        3,
        "two, and one that has no name"
    );
    assert_eq!(&files[0].read_at(0..9).unwrap()[..], &[0; 9]);
    assert_eq!(&files[1].read_at(0..9).unwrap()[..], &[1; 9]);
    assert_eq!(
        &files[2].read_at(0..9).unwrap()[..],
        b"again\x02\x02\x02\x02"
    );
    files[3].discard();
    assert_eq!(&files[3].read_at(0..5).unwrap()[..], b"again");
}
