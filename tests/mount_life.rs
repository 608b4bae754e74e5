//! The life of a mount: how it begins, what it shows of others' changes, its settings, how it ends.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{KEY, errno, given};
use rustix::fs::OFlags;
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

#[test]
fn the_device_of_a_mount_is_known_though_its_process_does_not_answer() {
    given().with("attr_ttl", "0s").mounted(|m| {
        let root = m.at("");
        m.signal(Signal::STOP);
        let (major, minor) = assetfs::fuse::device_of(&root).unwrap();
        m.signal(Signal::CONT);
        let device = std::fs::metadata(&root).unwrap().dev();
        assert_eq!(rustix::fs::makedev(major, minor), device);
    });
}

#[test]
fn changes_of_others_become_visible_after_attr_ttl() {
    given()
        .with("attr_ttl", "0s")
        .with("negative_ttl", "0s")
        .on_server("a", "old")
        .mounted(|m| {
            assert_eq!(m.read("a"), b"old");
            m.change_on_server("a", "newer");
            assert_eq!(m.read("a"), b"newer");
            assert_eq!(m.sh("stat -c %s $M/a"), "5");
            assert!(!m.at("b").exists());
            m.change_on_server("b", "b");
            assert_eq!(m.read("b"), b"b");
            assert_eq!(m.names(""), ["a", "b"]);
            m.remove_on_server("a");
            assert_eq!(errno(File::open(m.at("a"))), libc::ENOENT);
            assert_eq!(m.names(""), ["b"]);
        });
}

#[test]
fn within_attr_ttl_nothing_is_asked_twice() {
    given()
        .with("attr_ttl", "10m")
        .with("negative_ttl", "10m")
        .on_server("d/a", "a")
        .mounted(|m| {
            m.sh("ls -lR $M; cat $M/d/a; test ! -e $M/none");
            m.forget();
            m.sh("ls -lR $M; cat $M/d/a; test ! -e $M/none; stat $M/d");
            assert_eq!(m.seen(), Vec::<String>::new());
        });
}

#[test]
fn a_rewrite_of_the_same_bytes_by_others_keeps_what_was_read() {
    given()
        .with("attr_ttl", "0s")
        .on_server("a", vec![1; 100_000])
        .mounted(|m| {
            m.read("a");
            m.forget();
            m.change_on_server("a", vec![1; 100_000]);
            m.read("a");
            assert_eq!(
                m.downloads(),
                Vec::<String>::new(),
                "the version is the content's digest"
            );
        });
}

#[test]
fn uid_gid_and_umask_are_what_was_asked_for() {
    let setup = given()
        .with("uid", "1234")
        .with("gid", "55")
        .with("umask", "027");
    setup.on_server("d/a", "a").mounted(|m| {
        for (path, mode) in [("d/a", 0o640), ("d", 0o750), ("", 0o750)] {
            let meta = std::fs::metadata(m.at(path)).unwrap();
            assert_eq!(
                (meta.uid(), meta.gid(), meta.mode() & 0o7777),
                (1234, 55, mode),
                "{path}"
            );
        }
    });
}

#[test]
fn a_read_only_mount_refuses_every_change_and_sends_none() {
    given()
        .with("read_only", "true")
        .on_server("a", "a")
        .mounted(|m| {
            assert_eq!(m.read("a"), b"a");
            assert_eq!(
                errno(m.open("b", OFlags::WRONLY | OFlags::CREATE)),
                libc::EROFS
            );
            assert_eq!(errno(m.open("a", OFlags::WRONLY)), libc::EROFS);
            assert_eq!(errno(std::fs::create_dir(m.at("d"))), libc::EROFS);
            assert_eq!(errno(std::fs::remove_file(m.at("a"))), libc::EROFS);
            assert_eq!(errno(std::fs::rename(m.at("a"), m.at("b"))), libc::EROFS);
            m.run("touch $M/a").refused("read-only");
            m.run("chmod 600 $M/a").refused("read-only");
            m.run("setfattr -n user.x -v 1 $M/a").refused("read-only");
            m.run("ln -s a $M/l").refused("read-only");
            assert_eq!(m.changes(), Vec::<String>::new());
        });
}

#[test]
fn statfs_answers_from_memory() {
    given().mounted(|m| {
        m.forget();
        let space = rustix::fs::statvfs(m.root()).unwrap();
        assert_eq!((space.f_namemax, space.f_frsize), (255, 4096));
        assert!(space.f_bavail > 0);
        assert_eq!(m.seen(), Vec::<String>::new());
    });
}

#[test]
fn umount_ends_the_process_and_a_remount_shows_the_same() {
    given().mounted(|m| {
        m.write("a", "a");
        let (ended, status) = m.unmount();
        assert_eq!(
            (ended.status.code(), status),
            (Some(0), Some(0)),
            "{ended:?}"
        );
        assert!(!m.at("a").exists());
        assert!(m.log().contains("everything is sent"), "{}", m.log());
        assert!(!m.log().contains(KEY));
        m.mount();
        assert_eq!(m.read("a"), b"a");
    });
}

#[test]
fn umount_is_refused_while_a_file_is_open_and_the_mount_goes_on() {
    given().mounted(|m| {
        let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
        file.write_all(b"one").unwrap();
        let (ended, _) = m.try_unmount();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        ended.refused("files open");
        file.write_all(b"two").unwrap();
        drop(file);
        assert_eq!(m.stored("a").unwrap(), b"onetwo");
    });
}

#[test]
fn umount_waits_for_an_upload_that_is_under_way() {
    let slow = Rule::new(Action::Slow { rate: 400_000 }).path("content/a");
    given().part_size("64K").rules([slow]).mounted(|m| {
        m.make("a", vec![1; 500_000]);
        // The shell's first flush publishes nothing: what is left is sent after the last close.
        let copying = m.start("cp a $M/a");
        m.sees_body("content/a?upload");
        let (ended, status) = m.unmount();
        assert_eq!(m.stored("a").unwrap().len(), 500_000);
        assert_eq!(
            (ended.status.code(), status),
            (Some(0), Some(0)),
            "{ended:?}"
        );
        let copied = m.ended(copying);
        assert!(copied.status.success(), "{copied:?}");
    });
}

#[test]
fn an_external_fusermount_ends_the_process_well() {
    given().mounted(|m| {
        m.write("a", "a");
        m.sh("fusermount3 -u $M");
        assert_eq!(m.wait_for_end(), Some(0));
        assert!(m.log().contains("was unmounted"), "{}", m.log());
        assert_eq!(m.stored("a").unwrap(), b"a");
        m.mount();
        m.sh("umount $M");
        assert_eq!(m.wait_for_end(), Some(0));
    });
}

#[test]
fn sigterm_sends_what_is_left_unmounts_and_ends_with_zero() {
    let slow = Rule::new(Action::Stall {
        after: None,
        seconds: Some(1.0),
    });
    given()
        .rules([slow.path("content/").times(1)])
        .mounted(|m| {
            // An empty file is committed after close(2) has answered.
            m.sh(": > $M/empty");
            m.signal(Signal::TERM);
            assert_eq!(m.wait_for_end(), Some(0));
            assert_eq!(m.stored("empty").unwrap(), b"");
            assert!(m.log().contains("everything is sent"), "{}", m.log());
            assert!(!m.at("empty").exists());
        });
}

#[test]
fn sigterm_ends_a_mount_that_is_in_use() {
    given().on_server("a", "a").mounted(|m| {
        let file = File::open(m.at("a")).unwrap();
        m.signal(Signal::TERM);
        assert_eq!(m.wait_for_end(), Some(0));
        assert!(!m.at("a").exists());
        drop(file);
    });
}

#[test]
fn the_log_tells_commits_and_never_the_key() {
    given()
        .with("log_level", "trace")
        .rules([Rule::answer(500).path("content/a").times(1)])
        .mounted(|m| {
            m.write("a", "hello");
            let log = m.log();
            assert!(log.contains("/a"), "{log}");
            assert!(log.contains("try 1 failed"), "{log}");
            assert!(!log.contains(KEY), "the key is in the log");
            let status = m.assetfs(&["status", m.root().to_str().unwrap(), "--json"]);
            assert!(status.status.success(), "{status:?}");
            assert!(!status.out.contains(KEY));
        });
}

#[test]
fn attributes_that_are_not_there_are_no_news_for_the_log() {
    let asked =
        "echo a > $M/a; ls -l $M; ! getfattr -n user.none $M/a; ! getfattr -n security.x $M/a";
    let told = |log: String| log.lines().filter(|line| line.contains("xattr")).count();
    given().mounted(|m| {
        m.sh(asked);
        assert_eq!(told(m.log()), 0, "{}", m.log());
    });
    given().with("log_level", "trace").mounted(|m| {
        m.sh(asked);
        assert!(told(m.log()) >= 2, "{}", m.log());
    });
}

#[test]
fn a_mount_in_the_background_answers_when_the_command_returns() {
    given().mounted(|m| {
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        let args = m.mount_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = m.assetfs(&args);
        assert!(ended.status.success(), "{ended:?}");
        assert!(ended.out.contains(" on "), "{ended:?}");
        m.write("a", "a");
        assert_eq!(m.stored("a").unwrap(), b"a");
        let again = m.assetfs(&args);
        assert!(!again.status.success(), "{again:?}");
        let ended = m.umount_background();
        assert!(ended.status.success(), "{ended:?}");
        assert!(!m.at("a").exists());
    });
}

#[test]
fn a_wrong_key_mounts_nothing_and_says_so() {
    given().mounted(|m| {
        let (ended, _) = m.unmount();
        assert!(ended.status.success());
        m.rules([Rule::answer(401)]);
        let args = m.mount_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = m.assetfs(&args);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        ended.refused("refuses the credentials (ASSETFS_API_KEY)");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(m.root().to_str().unwrap()), "{mounts}");
        assert!(!ended.err.contains(KEY));
    });
}

#[test]
fn the_mount_has_a_type_of_its_own_for_findmnt_and_df() {
    given().mounted(|m| {
        assert_eq!(m.sh("findmnt -n -o FSTYPE $M"), "fuse.assetfs");
        let shown = m.sh("df --output=fstype,source $M | tail -n 1");
        let mut shown = shown.split_whitespace();
        assert_eq!(shown.next(), Some("fuse.assetfs"));
        assert!(
            shown
                .next()
                .is_some_and(|source| source.starts_with("proget+http://"))
        );
    });
}
