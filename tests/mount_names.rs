//! Names on a real mount: which there can be, and how they come, move and go.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{errno, given};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

fn stalled(method: &str, path: &str, seconds: f64) -> Rule {
    Rule::new(Action::Stall {
        after: None,
        seconds: Some(seconds),
    })
    .method(method)
    .path(path)
    .times(1)
}

#[test]
fn any_name_that_a_disk_takes_comes_back_as_it_was_given() {
    given().mounted(|m| {
        let mut names: Vec<String> = [
            "a b",
            " lead",
            "50%",
            "%41",
            "a+b",
            "a#b",
            "a?b",
            "a&b=c",
            "a;b",
            "it's",
            "say \"hi\"",
            "-n",
            "a:b",
            "a*b",
            "ünïcödé",
            "日本語",
            "e\u{301}",
            "😀",
            "~a",
            "$HOME",
            "`x`",
            "a@b",
            "(x)[y]{z}",
            "a|b<c>d",
            "...",
            ".hidden",
        ]
        .iter()
        .map(|&name| name.to_owned())
        .collect();
        names.push("x".repeat(255));
        names.push("é".repeat(127));
        for name in &names {
            m.write(name, name);
            assert_eq!(m.stored(name).unwrap(), name.as_bytes(), "{name}");
        }
        m.remount();
        names.sort();
        assert_eq!(m.names(""), names);
        for name in &names {
            assert_eq!(m.read(name), name.as_bytes(), "{name}");
            std::fs::rename(m.at(name), m.at("moved")).unwrap();
            std::fs::rename(m.at("moved"), m.at(name)).unwrap();
            std::fs::remove_file(m.at(name)).unwrap();
            std::fs::create_dir(m.at(name)).unwrap();
            m.write(&format!("{name}/x"), "x");
            std::fs::remove_file(m.at(&format!("{name}/x"))).unwrap();
            std::fs::remove_dir(m.at(name)).unwrap();
        }
        assert!(m.stored_names().is_empty(), "{:?}", m.stored_names());
    });
}

#[test]
fn names_that_cannot_be_are_refused_at_create_and_not_at_close() {
    given().mounted(|m| {
        let create = |name: &str| m.open(name, OFlags::WRONLY | OFlags::CREATE);
        assert_eq!(errno(create(&"x".repeat(256))), libc::ENAMETOOLONG);
        assert_eq!(errno(create("a\\b")), libc::EINVAL);
        assert_eq!(errno(create("a\nb")), libc::EINVAL);
        assert_eq!(errno(create("._proget_file_history_")), libc::EINVAL);
        assert_eq!(errno(std::fs::create_dir(m.at("a\\b"))), libc::EINVAL);
        m.write("a", "a");
        assert_eq!(
            errno(std::fs::rename(m.at("a"), m.at("b\\c"))),
            libc::EINVAL
        );
        assert_eq!(m.changes(), ["PUT content/a"]);
        assert_eq!(errno(File::open(m.at("a\\b"))), libc::ENOENT);
        let bad =
            m.python("print(fails(os.open, os.fsencode(M) + b'\\xff', os.O_CREAT | os.O_WRONLY))");
        assert_eq!(bad, "EINVAL");
    });
}

#[test]
fn a_name_that_the_server_refused_at_close_is_refused_by_the_next_create() {
    let refusal = || Rule::answer(400).path("content/CON");
    given().rules([refusal()]).leaves_unsent().mounted(|m| {
        assert_eq!(m.put("CON", "x"), "close EINVAL");
        m.forget();
        assert_eq!(
            m.put("CON2", "x"),
            "close EINVAL",
            "the rule is a piece of the path"
        );
        std::fs::remove_file(m.at("CON")).unwrap();
        assert_eq!(m.put("CON", "x"), "open EINVAL");
        assert_eq!(m.stored("CON"), None);
    });
}

#[test]
fn names_that_differ_only_in_case_do_not_meet() {
    given().on_server("Readme", "1").mounted(|m| {
        assert_eq!(m.names(""), ["Readme"]);
        let twin = m.open("README", OFlags::WRONLY | OFlags::CREATE);
        assert_eq!(errno(twin), libc::EEXIST);
        assert_eq!(m.stored_names(), ["Readme"]);
    });
}

#[test]
fn rename_replaces_and_never_leaves_neither() {
    given()
        .on_server("a", "new")
        .on_server("b", "old")
        .mounted(|m| {
            std::fs::rename(m.at("a"), m.at("b")).unwrap();
            assert_eq!(m.stored_names(), ["b"]);
            assert_eq!(m.stored("b").unwrap(), b"new");
            let changes = m.changes();
            let at = |words: &str| {
                changes
                    .iter()
                    .position(|line| line.contains(words))
                    .unwrap()
            };
            assert!(
                !changes.contains(&"DELETE content/b".to_owned()),
                "{changes:?}"
            );
            assert!(at("content/b") < at("DELETE content/a"), "{changes:?}");
            std::fs::rename(m.at("b"), m.at("b")).unwrap();
            assert_eq!(
                errno(std::fs::rename(m.at("none"), m.at("b"))),
                libc::ENOENT
            );
        });
}

#[test]
fn rename_flags_are_honoured_or_refused() {
    given()
        .on_server("a", "a")
        .on_server("b", "b")
        .mounted(|m| {
            let rename = |from: &str, to: &str, flags| {
                renameat_with(CWD, m.at(from), CWD, m.at(to), flags).map_err(std::io::Error::from)
            };
            assert_eq!(
                errno(rename("a", "b", RenameFlags::NOREPLACE)),
                libc::EEXIST
            );
            assert_eq!(errno(rename("a", "b", RenameFlags::EXCHANGE)), libc::EINVAL);
            assert_eq!(m.changes(), Vec::<String>::new());
            rename("a", "c", RenameFlags::NOREPLACE).unwrap();
            assert_eq!(m.stored_names(), ["b", "c"]);
        });
}

#[test]
fn an_open_file_that_is_renamed_commits_under_its_new_name_only() {
    given().mounted(|m| {
        m.python(
            "f = os.open(M + 'a', os.O_WRONLY | os.O_CREAT)\nos.write(f, b'one')\nos.rename(M + 'a', M + 'b')\n\
             os.write(f, b'two')\nos.close(f)",
        );
        assert_eq!(m.stored_names(), ["b"]);
        assert_eq!(m.stored("b").unwrap(), b"onetwo");
        assert_eq!(m.uploads(), ["PUT content/b"]);
    });
}

#[test]
fn an_open_file_that_is_renamed_after_a_change_keeps_the_bytes_below() {
    given().on_server("a", "old bytes").mounted(|m| {
        let file = m.update("a");
        file.write_all_at(b"NEW", 0).unwrap();
        std::fs::rename(m.at("a"), m.at("b")).unwrap();
        drop(file);
        assert!(m.settle("b").status.success());
        assert_eq!(m.stored("b").unwrap(), b"NEW bytes");
        assert_eq!(m.stored_names(), ["b"]);
    });
}

#[test]
fn a_rename_while_uploading_redirects_the_upload() {
    given()
        .rules([stalled("PUT", "content/a", 1.0)])
        .mounted(|m| {
            let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
            file.write_all(b"bytes").unwrap();
            std::thread::scope(|scope| {
                let closing = scope.spawn(move || drop(file));
                m.sees("PUT content/a");
                std::fs::rename(m.at("a"), m.at("b")).unwrap();
                closing.join().unwrap();
            });
            assert!(m.settle("").status.success());
            assert_eq!(m.stored_names(), ["b"]);
            assert_eq!(m.stored("b").unwrap(), b"bytes");
            assert_eq!(m.names(""), ["b"]);
        });
}

#[test]
fn an_unlink_while_uploading_cancels_the_upload_and_leaves_nothing() {
    let slow = Rule::new(Action::Slow { rate: 100_000 }).path("content/a");
    given().part_size("64K").rules([slow]).mounted(|m| {
        m.make("big", vec![7; 4_000_000]);
        let copying = m.start("cp big $M/a");
        m.sees_body("content/a?upload");
        std::fs::remove_file(m.at("a")).unwrap();
        let copied = m.ended(copying);
        assert!(copied.status.success(), "the close gets 0: {copied:?}");
        assert!(m.settle("").status.success());
        assert_eq!(m.stored_names(), Vec::<String>::new());
        assert!(!m.seen().contains(&"POST content/a?complete".to_owned()));
        assert!(m.names("").is_empty());
    });
}

#[test]
fn a_rename_of_a_large_remote_file_answers_within_name_timeout_and_goes_on() {
    let content = common::bytes(600_000, 5);
    let slow = Rule::new(Action::Slow { rate: 300_000 }).path("content/b");
    given()
        .part_size("64K")
        .with("name_timeout", "1s")
        .on_server("a", &content)
        .rules([slow])
        .mounted(|m| {
            std::fs::rename(m.at("a"), m.at("b")).unwrap();
            assert_eq!(m.names(""), ["b"]);
            assert!(m.read("b") == content);
            assert!(m.settle("b").status.success());
            m.rules([]);
            m.sees("DELETE content/a");
            assert_eq!(m.stored("b").unwrap(), content);
        });
}

#[test]
fn a_directory_below_the_limit_is_moved_and_one_above_is_left_to_mv() {
    given()
        .with("rename_max", "3")
        .on_server("s/a", "a")
        .on_server("s/d/b", "b")
        .on_server("l/1", "1")
        .on_server("l/2", "2")
        .on_server("l/3", "3")
        .on_server("l/4", "4")
        .mounted(|m| {
            std::fs::rename(m.at("s"), m.at("moved")).unwrap();
            assert_eq!(m.sh("cat $M/moved/a $M/moved/d/b"), "ab");
            assert!(!m.at("s").exists());
            assert_eq!(
                errno(std::fs::rename(m.at("l"), m.at("large"))),
                libc::EXDEV
            );
            m.sh("mv $M/l $M/large");
            assert_eq!(m.sh("cat $M/large/*"), "1234");
            m.sh("mkdir $M/empty; mv $M/empty $M/empty2");
            let wanted =
                "empty2/ large/ large/1 large/2 large/3 large/4 moved/ moved/a moved/d/ moved/d/b";
            assert_eq!(m.stored_names().join(" "), wanted);
        });
}

#[test]
fn directories_are_made_replaced_and_removed_as_posix_says() {
    given()
        .on_server("full/a", "a")
        .on_server("f", "f")
        .mounted(|m| {
            assert_eq!(errno(std::fs::remove_dir(m.at("full"))), libc::ENOTEMPTY);
            assert_eq!(errno(std::fs::create_dir(m.at("full"))), libc::EEXIST);
            assert_eq!(errno(std::fs::create_dir(m.at("f"))), libc::EEXIST);
            assert_eq!(errno(std::fs::create_dir(m.at("no/where"))), libc::ENOENT);
            assert_eq!(errno(std::fs::create_dir(m.at("f/x"))), libc::ENOTDIR);
            assert_eq!(errno(std::fs::remove_dir(m.at("f"))), libc::ENOTDIR);
            assert_eq!(errno(std::fs::remove_file(m.at("full"))), libc::EISDIR);
            assert_eq!(errno(std::fs::remove_dir(m.at("none"))), libc::ENOENT);
            std::fs::create_dir(m.at("d")).unwrap();
            assert_eq!(
                errno(std::fs::rename(m.at("d"), m.at("full"))),
                libc::ENOTEMPTY
            );
            assert_eq!(errno(std::fs::rename(m.at("d"), m.at("f"))), libc::ENOTDIR);
            assert_eq!(errno(std::fs::rename(m.at("f"), m.at("d"))), libc::EISDIR);
            assert_eq!(
                errno(std::fs::rename(m.at("full"), m.at("full/in"))),
                libc::EINVAL
            );
            std::fs::rename(m.at("full"), m.at("d")).unwrap();
            assert_eq!(m.stored_names(), ["d/", "d/a", "f"]);
            std::fs::remove_file(m.at("d/a")).unwrap();
            std::fs::remove_dir(m.at("d")).unwrap();
            assert_eq!(m.stored_names(), ["f"]);
        });
}

#[test]
fn a_directory_with_an_unsent_file_is_not_empty() {
    given().mounted(|m| {
        std::fs::create_dir(m.at("d")).unwrap();
        let mut file = m.open("d/a", OFlags::WRONLY | OFlags::CREATE).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(errno(std::fs::remove_dir(m.at("d"))), libc::ENOTEMPTY);
        drop(file);
        assert_eq!(m.stored_names(), ["d/", "d/a"]);
    });
}

#[test]
fn many_files_in_a_directory_are_all_listed_once_and_cost_one_request() {
    let mut setup = given();
    for n in 0..3000 {
        setup = setup.on_server(&format!("d/file-{n:05}"), "x");
    }
    setup.mounted(|m| {
        m.forget();
        let names = m.names("d");
        assert_eq!(names.len(), 3000);
        assert!(names.is_sorted());
        m.sh("ls -l $M/d > /dev/null");
        let lists = m
            .seen()
            .iter()
            .filter(|line| line.starts_with("GET dir/d"))
            .count();
        assert_eq!(lists, 1);
        let looks = m
            .seen()
            .iter()
            .filter(|line| line.contains("metadata/d/"))
            .count();
        assert_eq!(looks, 0, "a listing has everything that stat needs");
        m.sh("rm -r $M/d");
        assert!(m.stored_names().is_empty());
    });
}

#[test]
fn a_name_that_was_moved_away_and_is_written_again_with_the_same_bytes_stays() {
    given().mounted(|m| {
        m.write("b", "same");
        m.sh("mv $M/b $M/y.part");
        m.write("b", "same");
        m.sh("mv $M/y.part $M/e");
        m.remount();
        assert_eq!(m.stored_names(), ["b", "e"]);
    });
}
