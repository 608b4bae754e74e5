//! A mount of an IoT File Service, by the programs that people use.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::bytes;
use common::mount::given_iot;
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Three numbered parts and a tail.
const BIG: usize = 3 * (5 << 20) + 1234;

#[test]
fn what_is_copied_in_comes_out_again_after_a_remount() {
    given_iot().part_size("5M").mounted(|m| {
        let (big, small) = (bytes(BIG, 1), bytes(1000, 2));
        m.make("big", &big);
        m.make("small", &small);
        m.sh("mkdir -p $M/d/e; cp -p big small $M/d/e; : > $M/empty; cp 'small' \"$M/it's 100% * ü\"");
        m.sh("cmp big $M/d/e/big; cmp small $M/d/e/small");
        assert!(m.stored("d/e/big").unwrap() == big);
        m.remount();
        m.sh("cmp big $M/d/e/big; cmp small $M/d/e/small; test ! -s $M/empty");
        m.sh("cmp small \"$M/it's 100% * ü\"; dd if=$M/d/e/big bs=64K skip=100 count=1 status=none | \
              cmp - <(dd if=big bs=64K skip=100 count=1 status=none)");
        assert_eq!(m.names("d/e"), ["big", "small"]);
        let ms = |path| {
            let meta = std::fs::metadata(path).unwrap();
            (meta.mtime(), meta.mtime_nsec() / 1_000_000)
        };
        assert_eq!(ms(m.at("d/e/big")), ms(m.here("big")));
        m.sh("mv $M/d/e/big $M/d/moved; cmp big $M/d/moved; mv $M/d/moved $M/d/e/big");
        assert_eq!(ms(m.at("d/e/big")), ms(m.here("big")));
        // Appends, truncation and replacement of what is on the store.
        m.sh("echo more >> $M/d/e/small; echo more >> small; cmp small $M/d/e/small");
        m.sh("truncate -s 100 $M/d/e/small; truncate -s 100 small; cmp small $M/d/e/small");
        m.sh("cp big $M/d/e/small; cmp big $M/d/e/small");
        assert!(m.stored("d/e/small").unwrap() == big);
    });
}

#[test]
fn rsync_has_nothing_to_do_the_second_time_nor_after_a_remount() {
    given_iot().mounted(|m| {
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
fn renames_and_directories_work_though_the_service_has_neither() {
    given_iot().mounted(|m| {
        m.sh("mkdir $M/d; rmdir $M/d; test ! -e $M/d; mkdir $M/d $M/d/e; ! rmdir $M/d 2>/dev/null");
        m.sh(
            "echo one > $M/d/e/f; mv $M/d/e/f $M/d/g; cat $M/d/g; echo two > $M/h; mv $M/h $M/d/g",
        );
        assert_eq!(m.read("d/g"), b"two\n");
        assert_eq!(m.stored_names(), ["d/", "d/g"]);
        m.sh("mv $M/d $M/moved; rm $M/moved/g; rmdir $M/moved/e");
        assert_eq!(m.names("moved"), Vec::<String>::new());
        m.sh("rmdir $M/moved");
        assert_eq!(m.names(""), Vec::<String>::new());
        assert_eq!(m.stored_names(), Vec::<String>::new());
        m.run("mkdir $M/x; ln $M/x/a $M/x/b").refused("");
        m.run("set -C; echo a > $M/once; echo b > $M/once")
            .refused("exist");
    });
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_long_upload_is_renewed_without_an_error() {
    let setup = given_iot().part_size("5M").server(|server| {
        server.iotfile.token_life = Duration::from_secs(1);
        server.iotfile.token_told = Some(Duration::from_secs(1799));
        server.rate = Some(8_000_000);
    });
    setup.mounted(|m| {
        let big = bytes(BIG, 1);
        m.make("big", &big);
        m.sh("cp big $M/big");
        assert!(m.stored("big").unwrap() == big);
        let seen = m.seen();
        let tokens = seen.iter().filter(|line| line.contains("oauth/token"));
        assert!(tokens.count() > 1, "{seen:?}");
    });
}

#[test]
fn what_was_promised_is_sent_after_a_kill_in_the_middle_of_its_upload() {
    let stall = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    let setup = given_iot().part_size("5M").with("commit", "spool");
    setup.mounted(|m| {
        let big = bytes(BIG, 1);
        m.make("big", &big);
        m.rules([stall.query("part=2")]);
        m.sh("cp big $M/big");
        m.sees("part=2");
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

#[test]
fn an_index_that_lags_does_not_show_what_was_before_our_own_changes() {
    let setup = given_iot()
        .with("attr_ttl", "0s")
        .with("negative_ttl", "0s")
        .server(|server| server.iotfile.index_delay = Duration::from_secs(3600));
    setup.mounted(|m| {
        m.sh("mkdir $M/d; echo one > $M/d/a; test -s $M/d/a; echo three > $M/d/a");
        assert_eq!(m.read("d/a"), b"three\n");
        assert_eq!(m.sh("stat -c %s $M/d/a"), "6");
        m.sh("rm $M/d/a; test ! -e $M/d/a; echo x > $M/d/b; mv $M/d/b $M/d/c; test ! -e $M/d/b");
        assert_eq!(m.names("d"), ["c"]);
    });
}

#[test]
fn what_was_stored_in_the_moment_of_a_crash_is_recognised_by_its_bytes() {
    given_iot().with("commit", "spool").mounted(|m| {
        for (name, theirs) in [("a", false), ("b", true)] {
            assert!(!m.names("").contains(&name.to_owned()));
            // The service stores it, and answers nothing that would confirm that.
            let silence = Rule::new(Action::Stall {
                after: None,
                seconds: None,
            });
            m.rules([silence.method("GET")]);
            m.forget();
            m.write(name, "promised");
            m.when(|seen| {
                let put = seen.iter().position(|line| line.starts_with("PUT"));
                put.is_some_and(|put| seen[put..].iter().any(|line| line.starts_with("GET")))
            });
            m.crash();
            if theirs {
                m.change_on_server(name, "theirs!!");
            }
            m.rules([]);
            m.forget();
            m.mount();
            let settled = m.settle("");
            assert_eq!(settled.status.code(), Some(0), "{settled:?}");
            let sent = m
                .seen()
                .iter()
                .filter(|line| line.starts_with("PUT"))
                .count();
            assert_eq!(sent, usize::from(theirs), "{:?}", m.seen());
        }
        assert_eq!(m.stored("a").unwrap(), b"promised");
        assert_eq!(m.stored("b").unwrap(), b"theirs!!");
        let beside = m.stored_names();
        assert_eq!(beside.len(), 3, "{beside:?}");
        assert_eq!(m.stored(&beside[2]).unwrap(), b"promised");
    });
}
