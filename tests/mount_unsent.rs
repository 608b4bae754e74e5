//! What stays in the spool: listed, sent again, copied out, discarded, by the real command, with the mount and
//! without it.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Ended, Given, Mount, given};
use rustix::process::Signal;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `assetfs unsent` over the spools of this mount alone.
fn unsent(m: &Mount, args: &[&str]) -> Ended {
    let state = format!("--state-dir={}", m.dir().join("state").display());
    let mut all = vec!["unsent"];
    all.extend(args);
    all.push(&state);
    m.assetfs(&all)
}

/// One that must succeed; what it printed.
fn does(m: &Mount, args: &[&str]) -> String {
    let ended = unsent(m, args);
    assert_eq!(ended.status.code(), Some(0), "{args:?} {ended:?}");
    ended.out
}

/// `state path size` of each version that stays, and its id and error.
fn listed(m: &Mount) -> (Vec<String>, Vec<(String, String)>) {
    let json = does(m, &["list", "--json"]);
    let mut rows: Vec<(String, (String, String))> = json
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
            let line = format!("{} {} {}", word("state"), word("path"), row["size"]);
            (line, (word("id"), word("error")))
        })
        .collect();
    rows.sort();
    rows.into_iter().unzip()
}

fn states(m: &Mount) -> Vec<String> {
    listed(m).0
}

fn full() -> Given {
    given()
        .rules([Rule::answer(507).path("content/")])
        .leaves_unsent()
}

fn spooling() -> Given {
    given().with("commit", "spool").leaves_unsent()
}

/// The path as an argument.
fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_refused_upload_is_listed_exported_and_sent_when_the_server_is_mended() {
    full().mounted(|m| {
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
        m.sh("mkdir $M/d");
        assert_eq!(m.put("d/a", &bytes), "close ENOSPC");
        m.logs("not sent, kept as");
        let (rows, more) = listed(m);
        assert_eq!(rows, ["refused /d/a 300000"]);
        assert!(more[0].1.contains("no space left"), "{more:?}");
        let people = does(m, &["list"]);
        assert!(
            people.contains("refused") && people.contains("/d/a"),
            "{people}"
        );
        let in_mount = m.assetfs(&["unsent", "list", word(&m.at("d"))]);
        assert!(in_mount.out.contains(&more[0].0), "{in_mount:?}");

        let target = m.here("copy");
        does(m, &["export", "/d/a", word(&target)]);
        assert_eq!(std::fs::read(&target).unwrap(), bytes);
        unsent(m, &["export", &more[0].0, word(&target)]).refused("exists");
        std::fs::write(&target, "old").unwrap();
        does(m, &["export", "--force", word(&m.at("d/a")), word(&target)]);
        assert_eq!(std::fs::read(&target).unwrap(), bytes);

        let still = unsent(m, &["retry", "d/a"]);
        assert_eq!(still.status.code(), Some(3), "{still:?}");
        still.refused("/d/a is not sent: ");
        m.logs("not sent, kept as");
        m.rules([]);
        let sent = does(m, &["retry", word(&m.at("d/a"))]);
        assert_eq!(sent, "/d/a: sent\n");
        assert_eq!(m.stored("d/a").unwrap(), bytes);
        assert_eq!(does(m, &["list"]), "nothing is unsent\n");
    });
}

#[test]
fn a_refusal_is_retried_or_discarded_after_a_remount_too() {
    let denied = Rule::answer(403).path("content/");
    given().rules([denied]).leaves_unsent().mounted(|m| {
        for name in ["a", "b", "c"] {
            assert_eq!(m.put(name, format!("mine {name}")), "close EACCES");
        }
        let (_, status) = m.unmount();
        assert_eq!(status, Some(3));
        m.mount();
        assert_eq!(states(m), ["refused /a 6", "refused /b 6", "refused /c 6"]);
        m.rules([]);
        m.change_on_server("b", "theirs");
        does(m, &["retry", "/a"]);
        assert_eq!(m.stored("a").unwrap(), b"mine a");
        assert_eq!(m.read("a"), b"mine a");
        let newer = unsent(m, &["retry", "b"]);
        assert_eq!(newer.status.code(), Some(3), "{newer:?}");
        newer.refused("another version");
        assert_eq!(m.stored("b").unwrap(), b"theirs");
        m.write("c", "newer");
        assert_eq!(
            states(m),
            ["refused /b 6"],
            "a later commit of the name ends it"
        );

        unsent(m, &["discard", "b"]).refused("--yes");
        assert_eq!(states(m), ["refused /b 6"]);
        let shown = does(m, &["discard", "--yes", "b"]);
        assert!(shown.contains("  refused "), "{shown}");
        let done = format!("\n{}: discarded\n", m.at("b").display());
        assert!(shown.ends_with(&done), "{shown}");
        assert_eq!(states(m), Vec::<String>::new());
        assert_eq!(m.spooled(), Vec::<String>::new());
        assert_eq!(m.read("b"), b"theirs");
    });
}

#[test]
fn a_refusal_of_this_mount_is_discarded_and_the_stores_version_shown_again() {
    let denied = Rule::answer(403).path("content/");
    let setup = given().on_server("old", "old").rules([denied]);
    setup.leaves_unsent().mounted(|m| {
        assert_eq!(m.put("old", "mine"), "close EACCES");
        assert_eq!(m.put("new", "mine"), "close EACCES");
        for name in ["old", "new"] {
            while !states(m).iter().any(|row| row.contains(name)) {}
            does(m, &["discard", "--yes", name]);
        }
        assert_eq!(m.spooled(), Vec::<String>::new());
        m.rules([]);
        assert_eq!(m.stored_names(), ["old"]);
        m.remount();
        assert_eq!(
            (m.read("old"), m.names("")),
            (b"old".to_vec(), vec!["old".into()])
        );
    });
}

/// Writes a part of `a` and holds it open.
const HOLD: &str = "import os,sys
f=os.open(os.environ['M']+'/a',os.O_WRONLY|os.O_CREAT,0o644)
os.write(f,b'\\x07'*100000)
for line in sys.stdin: print('yes',flush=True)
";

#[test]
fn what_was_open_at_a_crash_is_torn_exported_and_never_sent() {
    given().leaves_unsent().mounted(|m| {
        m.make("hold.py", HOLD);
        let mut program = m.talk("exec python3 hold.py");
        program.say("is it written?");
        assert_eq!(states(m), Vec::<String>::new(), "it is being written");
        m.signal(Signal::KILL);
        assert_eq!(m.wait_for_end(), None);
        program.end();
        m.sh("fusermount3 -u $M");
        let look = |m: &Mount| {
            assert_eq!(states(m), ["torn /a 100000"]);
            unsent(m, &["retry", "a"]).refused("torn");
        };
        look(m);
        m.mount();
        look(m);
        does(m, &["export", "a", word(&m.here(""))]);
        assert_eq!(std::fs::read(m.here("a")).unwrap(), [7; 100_000]);
        m.settle("");
        assert_eq!(m.stored("a"), None);
        m.remount();
        look(m);
        does(m, &["discard", "--yes", "a"]);
        assert_eq!(m.spooled(), Vec::<String>::new());
    });
}

#[test]
fn what_is_owed_is_listed_without_a_mount_and_sent_by_the_next() {
    let full = Rule::answer(507).path("content/");
    spooling().rules([full]).mounted(|m| {
        m.write("a", "promised");
        m.logs("/a: owed, tried again in");
        m.stop_server();
        assert_eq!(states(m), ["owed /a 8"]);
        let ended = m.assetfs(&["umount", "--timeout=1s", word(&m.root())]);
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        assert_eq!(m.wait_for_end(), Some(3));
        assert_eq!(states(m), ["owed /a 8"]);
        let why = &listed(m).1[0].1;
        assert!(why.contains("/a: no space left"), "{why}");
        let offline = unsent(m, &["retry", "a"]);
        assert_eq!(offline.status.code(), Some(3), "{offline:?}");
        offline.refused("the next mount");
        unsent(m, &["discard", "--yes", "a"]).refused("--force");
        does(m, &["export", "a", word(&m.here("copy"))]);
        assert_eq!(std::fs::read(m.here("copy")).unwrap(), b"promised");
        m.start_server();
        m.mount();
        assert_eq!(m.settle("").status.code(), Some(0));
        assert_eq!(m.stored("a").unwrap(), b"promised");
        assert_eq!(states(m), Vec::<String>::new());
    });
}

#[test]
fn what_is_owed_is_sent_at_once_by_retry_and_discarded_only_by_force() {
    let broken = Rule::answer(507).path("content/");
    spooling().rules([broken]).mounted(|m| {
        m.write("a", "promised");
        m.write("b", "promised");
        m.logs("/a: owed, tried again in");
        m.logs("/b: owed, tried again in");
        let (rows, more) = listed(m);
        assert_eq!(rows, ["owed /a 8", "owed /b 8"]);
        assert!(
            more.iter()
                .all(|(_, error)| error.contains("no space left"))
        );
        unsent(m, &["discard", "--yes", "b"]).refused("--force");
        does(m, &["discard", "--yes", "--force", "b"]);
        assert_eq!(states(m), ["owed /a 8"]);
        m.rules([]);
        does(m, &["retry", "--all"]);
        assert_eq!(m.stored("a").unwrap(), b"promised");
        assert_eq!(m.stored_names(), ["a"]);
        assert_eq!(m.names(""), ["a"]);
    });
}

/// The data files of a mount that has ended.
fn data_files(m: &Mount) -> Vec<PathBuf> {
    m.spooled().iter().map(PathBuf::from).collect()
}

#[test]
fn bytes_that_rotted_are_an_error_of_export_that_force_does_not_hide() {
    full().mounted(|m| {
        assert_eq!(m.put("a", vec![7; 200_000]), "close ENOSPC");
        let (_, status) = m.unmount();
        assert_eq!(status, Some(3));
        let data = &data_files(m)[0];
        let file = std::fs::File::options().write(true).open(data).unwrap();
        file.write_all_at(&[8], 70_000).unwrap();
        let target = m.make("copy", "old");
        let ended = unsent(m, &["export", "--force", "a", word(&target)]);
        ended.refused("the bytes 65536 to 131071 ");
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(
            std::fs::read_dir(m.here("")).unwrap().count(),
            2,
            "put, copy"
        );
    });
}

#[test]
fn an_export_keeps_the_time() {
    full().mounted(|m| {
        let copied = m.run("echo x > old; touch -d @981173106 old; cp -p old $M/a");
        copied.refused("No space left on device");
        m.logs("not sent, kept as");
        does(m, &["export", "a", word(&m.here("a"))]);
        assert_eq!(std::fs::metadata(m.here("a")).unwrap().mtime(), 981_173_106);
    });
}

#[test]
fn a_damaged_record_is_listed_as_odd_and_another_sources_spool_is_left_alone() {
    full().mounted(|m| {
        for name in ["a", "b"] {
            assert_eq!(m.put(name, "mine"), "close ENOSPC");
        }
        let (_, status) = m.unmount();
        assert_eq!(status, Some(3));
        let data = data_files(m);
        let record = |at: usize| data[at].with_extension("json");
        let is_a = std::fs::read_to_string(record(0))
            .unwrap()
            .contains("\"/a\"");
        let (a, b) = if is_a { (0, 1) } else { (1, 0) };
        std::fs::write(record(a), "{").unwrap();
        // The same record in the spool of another source.
        let store = data[b].parent().unwrap().parent().unwrap();
        let other = store.with_file_name("other-source/fedcba9876543210");
        std::fs::create_dir_all(&other).unwrap();
        for ending in ["json", "sums", "data"] {
            let file = other.join("1").with_extension(ending);
            std::fs::copy(data[b].with_extension(ending), file).unwrap();
        }
        m.rules([]);
        m.mount();
        let (rows, more) = listed(m);
        assert_eq!(rows, ["odd - 4", "refused /b 4", "refused /b 4"]);
        assert!(more[0].1.contains("damaged record"), "{more:?}");
        unsent(m, &["retry", "/b"]).refused("name one of");
        unsent(m, &["retry", &more[0].0]).refused("cannot be understood");
        does(m, &["retry", word(&m.at("b"))]);
        assert_eq!(m.stored("b").unwrap(), b"mine");
        assert_eq!(states(m), ["odd - 4", "refused /b 4"]);
        let offline = unsent(m, &["retry", "fedcba98-1"]);
        assert_eq!(offline.status.code(), Some(3), "{offline:?}");
        assert!(other.join("1.data").exists(), "it is not touched");
        does(m, &["export", &more[0].0, word(&m.here("odd"))]);
        assert_eq!(std::fs::read(m.here("odd")).unwrap(), b"mine");
        does(m, &["discard", "--yes", &more[0].0]);
        does(m, &["discard", "--yes", "fedcba98-1"]);
        assert_eq!(m.spooled(), Vec::<String>::new());
    });
}

#[test]
fn a_spool_that_a_process_holds_without_answering_is_told_and_not_touched() {
    full().mounted(|m| {
        assert_eq!(m.put("a", "mine"), "close ENOSPC");
        let (_, status) = m.unmount();
        assert_eq!(status, Some(3));
        let folder = data_files(m)[0].parent().unwrap().to_owned();
        let lock = std::fs::File::open(folder.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let ended = unsent(m, &["list"]);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        ended.refused("is in use by a process that does not answer");
        unsent(m, &["discard", "--yes", "a"]).refused("nothing of a is unsent");
        drop(lock);
        assert_eq!(states(m), ["refused /a 4"]);
    });
}

#[test]
fn a_stalled_first_upload_is_not_unsent_yet() {
    let silence = Rule::new(Action::Stall {
        after: None,
        seconds: Some(2.0),
    });
    let silence = silence.method("PUT").path("content/a").times(1);
    given().rules([silence]).mounted(|m| {
        let child = m.start("echo x > $M/a");
        m.sees("PUT content/a");
        assert_eq!(states(m), Vec::<String>::new());
        let ended = m.ended(child);
        assert!(ended.status.success(), "{ended:?}");
    });
}
