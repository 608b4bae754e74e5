//! With which status the commands and the mount's process end.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Given, Mount, PROGRAM, given};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};

/// Everything is acknowledged when it is in the spool, and the server never answers to `a`.
fn spooling() -> Given {
    let silence = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    let silence = silence.method("PUT").path("content/a");
    let setup = given().with("commit", "spool").rules([silence]);
    setup.leaves_unsent()
}

/// `a` is promised and on its way.
fn owe(m: &Mount) {
    m.write("a", "promised");
    m.sees("PUT content/a");
}

/// With a server that answers, the next mount sends it, and everything ends well.
fn pay(m: &Mount) {
    assert_eq!(m.spooled().len(), 1, "it is kept");
    assert!(!m.at("a").exists(), "it is unmounted");
    assert_eq!(m.stored("a"), None);
    m.stop_server();
    m.start_server();
    m.mount();
    let settled = m.settle("");
    assert_eq!(settled.status.code(), Some(0), "{settled:?}");
    assert_eq!(m.stored("a").unwrap(), b"promised");
    let (ended, status) = m.unmount();
    assert_eq!(
        (ended.status.code(), status),
        (Some(0), Some(0)),
        "{ended:?}"
    );
    assert_eq!(m.spooled(), Vec::<String>::new());
}

#[test]
fn umount_exits_3_when_acknowledged_files_stay_in_the_spool() {
    spooling().mounted(|m| {
        owe(m);
        let ended = m.assetfs(&["umount", "--timeout=1s", m.root().to_str().unwrap()]);
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        ended.refused("is unmounted; kept in the spool: 1 file, to be sent at the next mount");
        assert_eq!(m.wait_for_end(), Some(3), "the process says the same");
        pay(m);
    });
}

#[test]
fn sigterm_exits_3_when_drain_timeout_is_over() {
    spooling().with("drain_timeout", "1s").mounted(|m| {
        owe(m);
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(3));
        pay(m);
    });
}

#[test]
fn a_second_signal_leaves_at_once_and_exits_3() {
    spooling().with("drain_timeout", "1h").mounted(|m| {
        owe(m);
        m.signal(Signal::TERM);
        m.logs("a signal asks to end");
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(3));
        pay(m);
    });
}

#[test]
fn signals_are_heard_while_umount_sends_what_is_left() {
    spooling().with("drain_timeout", "1h").mounted(|m| {
        owe(m);
        let asked = m.start(&format!("{PROGRAM} umount $M"));
        m.logs("asked to unmount");
        m.signal(Signal::TERM);
        m.logs("a signal asks to end");
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(3));
        assert!(!m.ended(asked).status.success());
        pay(m);
    });
}

#[test]
fn a_signal_during_umount_bounds_it_and_whoever_asked_is_told() {
    spooling().with("drain_timeout", "1h").mounted(|m| {
        owe(m);
        let asked = m.start(&format!("{PROGRAM} umount $M"));
        m.logs("asked to unmount");
        m.signal(Signal::TERM);
        m.logs("a signal asks to end");
        m.rules([]);
        assert_eq!(m.wait_for_end(), Some(0));
        let ended = m.ended(asked);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(m.stored("a").unwrap(), b"promised");
    });
}

#[test]
fn signals_are_heard_while_what_is_left_is_sent_after_an_external_unmount() {
    spooling().with("drain_timeout", "1h").mounted(|m| {
        owe(m);
        m.sh("fusermount3 -u $M");
        m.logs("was unmounted");
        m.signal(Signal::TERM);
        m.logs("a signal asks to end");
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(3));
        pay(m);
    });
}

#[test]
fn an_external_unmount_exits_3_when_drain_timeout_is_over() {
    spooling().with("drain_timeout", "1s").mounted(|m| {
        owe(m);
        m.sh("fusermount3 -u $M");
        assert_eq!(m.wait_for_end(), Some(3));
        pay(m);
    });
}

#[test]
fn umount_exits_3_when_only_what_was_refused_stays_and_nobody_says_that_everything_is_sent() {
    let full = Rule::answer(507).path("content/a");
    given().rules([full]).leaves_unsent().mounted(|m| {
        assert_eq!(m.put("a", "x"), "close ENOSPC");
        let (ended, status) = m.unmount();
        assert_eq!(
            (ended.status.code(), status),
            (Some(3), Some(3)),
            "{ended:?}"
        );
        ended.refused(
            "is unmounted; kept in the spool: 1 file, failed or not closed: assetfs unsent list",
        );
        let log = m.log();
        assert!(log.contains("kept in the spool: 1 file"), "{log}");
        assert!(!log.contains("everything is sent"), "{log}");
        assert_eq!(m.spooled().len(), 1, "the bytes are kept");
        m.mount();
        let (ended, status) = m.unmount();
        let codes = (ended.status.code(), status);
        assert_eq!(codes, (Some(0), Some(0)), "nothing was left by this one");
        assert!(m.log().contains("everything is sent"));
    });
}

#[test]
fn sigterm_exits_3_when_a_file_is_written_and_not_closed() {
    given().leaves_unsent().mounted(|m| {
        m.make(
            "hold.py",
            "import os,sys
f=os.open(os.environ['M']+'/a',os.O_WRONLY|os.O_CREAT,0o644)
os.write(f,b'half')
for line in sys.stdin: print('yes',flush=True)
",
        );
        let mut program = m.talk("exec python3 hold.py");
        program.say("is it written?");
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(3));
        let log = m.log();
        assert!(log.contains("1 file, failed or not closed"), "{log}");
        assert_eq!(m.stored("a"), None);
        program.end();
    });
}

#[test]
fn wait_exits_124_when_it_is_not_there_in_time_and_0_when_it_is() {
    spooling().mounted(|m| {
        owe(m);
        let root = m.root().display().to_string();
        for path in [format!("{root}/a"), root] {
            let ended = m.assetfs(&["wait", "--timeout=300ms", &path]);
            assert_eq!(ended.status.code(), Some(124), "{ended:?}");
            assert_eq!(ended.err, "assetfs: /a is still uploading\n");
        }
        m.stop_server();
        m.start_server();
        let ended = m.settle("a");
        assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
        assert_eq!(m.stored("a").unwrap(), b"promised");
    });
}

#[test]
fn wait_exits_1_when_a_file_failed_and_says_why() {
    let full = Rule::answer(507).path("content/a");
    given().rules([full]).leaves_unsent().mounted(|m| {
        assert_eq!(m.put("a", "x"), "close ENOSPC");
        let ended = m.settle("a");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        ended.refused("/a is unsent: ");
        ended.refused("no space left");
        ended.refused("it is not sent by itself: assetfs unsent list");
    });
}

#[test]
fn a_shell_does_not_hear_what_close_answers_and_wait_says_it() {
    let full = Rule::answer(507).path("content/a");
    given().rules([full]).leaves_unsent().mounted(|m| {
        assert_eq!(m.sh("echo x > $M/a; echo $?"), "0");
        let late = m.assetfs(&["wait", "--timeout=300ms", m.at("a").to_str().unwrap()]);
        assert_eq!(late.status.code(), Some(124), "{late:?}");
        late.refused("no space left");
        m.rules([]);
        assert_eq!(m.settle("a").status.code(), Some(0));
        assert_eq!(m.stored("a").unwrap(), b"x\n");
    });
}

#[test]
fn wait_goes_on_while_a_file_is_owed_and_tells_in_the_end_what_is_not_sent_by_itself() {
    let full = || Rule::answer(507).path("content/");
    let setup = given()
        .with("commit", "spool")
        .with("commit_for", "refused=close");
    setup.rules([full()]).leaves_unsent().mounted(|m| {
        m.write("owed", "promised");
        assert_eq!(m.put("refused", "x"), "close ENOSPC");
        m.logs("/owed: owed, tried again in");
        assert_eq!(m.xattr("owed", "user.assetfs.state"), "owed");
        for path in [m.at("owed"), m.root()] {
            let ended = m.assetfs(&["wait", "--timeout=300ms", path.to_str().unwrap()]);
            assert_eq!(ended.status.code(), Some(124), "{ended:?}");
            ended.refused("/owed is owed, and tried again by itself: ");
            ended.refused("no space left");
        }
        let mut waiting = m.start(&format!("{PROGRAM} wait $M"));
        let mut told = BufReader::new(waiting.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.contains("/owed is owed"), "{line}");
        m.rules([]);
        let ended = m.ended(waiting);
        assert_eq!(ended.status.code(), Some(1), "one was refused");
        assert_eq!(m.stored("owed").unwrap(), b"promised");
        line.clear();
        told.read_line(&mut line).unwrap();
        assert!(line.starts_with("assetfs: /refused is unsent: "), "{line}");
        assert_eq!(m.settle("owed").status.code(), Some(0));
    });
}

#[test]
fn a_dead_mount_is_told_with_its_mountpoint_and_what_to_do() {
    given().on_server("d/a", "a").mounted(|m| {
        assert_eq!(m.read("d/a"), b"a");
        m.signal(Signal::KILL);
        assert_eq!(m.wait_for_end(), None, "ended by a signal");
        let root = m.root().display().to_string();
        let deep = m.at("d/a").display().to_string();
        let advice = format!("{root} is a dead mount");
        for args in [
            ["status", &root],
            ["umount", &root],
            ["wait", &root],
            ["wait", &deep],
        ] {
            let ended = m.assetfs(&args);
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            ended.refused(&advice);
            ended.refused(&format!("fusermount3 -u -z {root}"));
            assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
            assert!(!ended.err.contains("os error"), "{ended:?}");
        }
        let all = m.assetfs(&["status"]);
        all.refused(&advice);
        let args = m.mount_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        m.assetfs(&args).refused(&advice);
        m.sh("fusermount3 -u -z $M");
        m.mount();
        assert_eq!(m.read("d/a"), b"a");
    });
}
