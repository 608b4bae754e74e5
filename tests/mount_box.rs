//! A mount of a Box account, by the programs that people use.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::bytes;
use common::mount::given_box;
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// More than goes in one request: three parts.
const BIG: usize = 20_000_000;

#[test]
fn what_is_copied_in_comes_out_again_after_a_remount() {
    given_box().mounted(|m| {
        let (big, small) = (bytes(BIG, 1), bytes(BIG - 1, 2));
        m.make("big", &big);
        m.make("small", &small);
        m.sh("mkdir -p $M/d/e; cp -p big small $M/d/e; : > $M/empty; cp big \"$M/it's 100% * ü\"");
        m.sh("cmp big $M/d/e/big; cmp small $M/d/e/small");
        assert!(m.stored("d/e/big").unwrap() == big);
        let began = m
            .seen()
            .iter()
            .filter(|l| l.ends_with("/upload_sessions"))
            .count();
        assert_eq!(began, 2, "{:?}", m.seen());
        m.remount();
        m.sh("cmp big $M/d/e/big; cmp small $M/d/e/small; test ! -s $M/empty");
        m.sh(
            "cmp big \"$M/it's 100% * ü\"; dd if=$M/d/e/big bs=64K skip=100 count=1 status=none | \
              cmp - <(dd if=big bs=64K skip=100 count=1 status=none)",
        );
        assert_eq!(m.names("d/e"), ["big", "small"]);
        let seconds = |path| std::fs::metadata(path).unwrap().mtime();
        assert_eq!(seconds(m.at("d/e/big")), seconds(m.here("big")));
        // Appends, truncation and replacement of what is on the store.
        m.sh("echo more >> $M/d/e/small; echo more >> small; cmp small $M/d/e/small");
        m.sh("truncate -s 100 $M/d/e/small; truncate -s 100 small; cmp small $M/d/e/small");
        m.sh("cp big $M/d/e/small; cmp big $M/d/e/small");
        assert!(m.stored("d/e/small").unwrap() == big);
    });
}

#[test]
fn rsync_has_nothing_to_do_the_second_time_nor_after_a_remount() {
    given_box().mounted(|m| {
        m.sh("mkdir -p tree/a/b; seq 1000 > tree/a/one; seq 2000 > tree/a/b/two; touch -d 2001-02-03 tree/a/one");
        m.sh("rsync -a tree/ $M/tree/");
        let again = "rsync -ai --omit-dir-times tree/ $M/tree/";
        assert_eq!(m.sh(again), "");
        m.remount();
        assert_eq!(m.sh(again), "");
        assert_eq!(m.sh("stat -c %y $M/tree/a/one").split(' ').next(), Some("2001-02-03"));
        assert_eq!(m.stored_names(), ["tree/", "tree/a/", "tree/a/b/", "tree/a/b/two", "tree/a/one"]);
    });
}

#[test]
fn renames_are_the_services_own_and_send_nothing_again() {
    given_box().mounted(|m| {
        m.sh(
            "mkdir $M/d $M/d/e; ! rmdir $M/d 2>/dev/null; seq 1000 > $M/d/e/f; seq 2000 > $M/over",
        );
        m.remount();
        m.forget();
        m.sh("mv $M/d/e/f $M/d/g; mv $M/d $M/moved; mv $M/moved/g $M/over; mv $M/over $M/OVER");
        m.sh("seq 1000 | cmp - $M/OVER");
        assert_eq!(m.stored_names(), ["OVER", "moved/", "moved/e/"]);
        let sent = m
            .seen()
            .into_iter()
            .filter(|line| line.contains("/api/2.0/"));
        assert_eq!(sent.collect::<Vec<_>>(), Vec::<String>::new());
        // A directory goes over an empty one.
        m.sh("mkdir $M/empty; mv -T $M/moved $M/empty; rmdir $M/empty/e; rm -r $M/empty");
        m.run("mkdir $M/x; ln $M/x/a $M/x/b").refused("");
        m.run("set -C; echo a > $M/once; echo b > $M/once")
            .refused("exist");
        m.run("echo a > $M/ONCE").refused("exist");
        m.sh("rm -r $M/x $M/once $M/OVER");
        assert_eq!(m.stored_names(), Vec::<String>::new());
    });
}

#[test]
fn a_file_that_was_just_written_is_renamed_without_being_sent_again() {
    given_box().mounted(|m| {
        m.sh("seq 1000 > $M/f; seq 2000 > $M/over");
        m.forget();
        m.sh("exec 3<> $M/f; mv $M/f $M/g; exec 3>&-; mv $M/g $M/over; seq 1000 | cmp - $M/over");
        let sent = m
            .seen()
            .into_iter()
            .filter(|line| line.contains("/api/2.0/"));
        assert_eq!(sent.collect::<Vec<_>>(), Vec::<String>::new());
        let (ended, status) = m.unmount();
        assert!(ended.err.is_empty() && status == Some(0), "{ended:?}");
        m.mount();
    });
}

#[test]
fn a_file_that_is_renamed_while_it_is_open_is_written_under_its_new_name() {
    given_box().mounted(|m| {
        m.sh("echo one > $M/f");
        m.sh("exec 3<> $M/f; cat <&3 > /dev/null; mv $M/f $M/g; echo two >&3; exec 3>&-");
        assert_eq!(m.read("g"), b"one\ntwo\n");
        assert_eq!(m.stored_names(), ["g"]);
        assert_eq!(m.stored("g").unwrap(), b"one\ntwo\n");
    });
}

#[test]
fn what_is_written_under_a_temporary_name_is_a_new_version_of_what_it_replaces() {
    given_box().mounted(|m| {
        m.sh("echo one > $M/f");
        m.forget();
        m.sh("echo two > $M/f.tmp; mv $M/f.tmp $M/f");
        assert_eq!(m.read("f"), b"two\n");
        let seen = m.seen();
        let version =
            |line: &String| line.starts_with("POST /api/2.0/files/") && line.ends_with("/content");
        assert_eq!(
            seen.iter().filter(|line| version(line)).count(),
            1,
            "{seen:?}"
        );
        assert!(
            !seen.iter().any(|line| line.starts_with("DELETE")),
            "{seen:?}"
        );
        assert_eq!(m.stored_names(), ["f"]);
    });
}

#[test]
fn git_works_in_it() {
    given_box().mounted(|m| {
        m.sh("cd $M; git init -q r; cd r; git config user.email a@b; git config user.name a; \
              seq 1000 > one; mkdir d; seq 2000 > d/two; git add .; git commit -qm first; \
              echo more >> one; git commit -qam second; git gc -q; git fsck --strict");
        m.remount();
        m.sh("cd $M/r; git status --porcelain | cmp - /dev/null; git log --oneline | wc -l | grep -qx 2; \
              git clone -q . $PWD-clone 2>/dev/null || git clone -q . ../clone; rm -rf $M/r");
    });
}

#[test]
fn df_shows_the_quota() {
    let setup = given_box().server(|server| server.boxcom.quota = Some(10 << 30));
    setup.mounted(|m| {
        // The first answer comes from memory, before the service has told.
        let want = 10u64 << 30;
        m.sh(&format!(
            "for n in $(seq 600); do test $(df -B1 --output=size $M | tail -1) != {want} || exit 0; \
             sleep .1; done; exit 1"
        ));
    });
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_long_upload_is_renewed_without_an_error() {
    let setup = given_box().server(|server| {
        server.boxcom.token_life = Duration::from_secs(1);
        server.boxcom.token_told = Some(Duration::from_secs(3600));
        server.rate = Some(8_000_000);
    });
    setup.mounted(|m| {
        let big = bytes(BIG, 1);
        m.make("big", &big);
        m.sh("cp big $M/big");
        assert!(m.stored("big").unwrap() == big);
        let seen = m.seen();
        let tokens = seen.iter().filter(|line| line.contains("oauth2/token"));
        assert!(tokens.count() > 1, "{seen:?}");
    });
}

#[test]
fn what_was_promised_is_sent_after_a_kill_in_the_middle_of_its_session() {
    let stall = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    given_box().with("commit", "spool").mounted(|m| {
        let big = bytes(BIG, 1);
        m.make("big", &big);
        // The second part; the session stays behind, and is in the way of the next one.
        m.rules([stall.method("PUT").path("upload_sessions/").skip(1)]);
        m.sh("cp big $M/big");
        m.when(|seen| seen.iter().filter(|line| line.starts_with("PUT ")).count() > 1);
        m.signal(Signal::KILL);
        m.wait_for_end();
        let _ = rustix::mount::unmount(m.root(), rustix::mount::UnmountFlags::DETACH);
        m.rules([]);
        m.mount();
        let ended = m.settle("");
        assert!(ended.status.success(), "{ended:?}");
        assert!(m.stored("big").unwrap() == big);
        m.sh("cmp big $M/big");
        assert_eq!(m.names(""), ["big"]);
    });
}
