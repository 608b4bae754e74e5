//! Errors on a real mount: which call tells them and how, what is left on the server and in the spool, and
//! that everything goes on afterwards.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Given, Mount, errno, given};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// A mount that gives up soon.
fn hasty() -> Given {
    given().part_size("64K").with("stall_timeout", "1s")
}

/// Nothing of `name` is on the server, the bytes are in the spool, the attributes say why, and when the
/// server is well again the program's next try succeeds.
fn assert_kept_and_mended(m: &Mount, name: &str, words: &str) {
    assert_eq!(m.stored(name), None);
    assert_eq!(m.xattr(name, "user.assetfs.state"), "unsent");
    let error = m.xattr(name, "user.assetfs.error");
    assert!(error.contains(words), "{error}");
    assert_eq!(m.spooled().len(), 1, "the bytes are kept");
    let told = m.settle(name);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.err.contains("unsent"), "{told:?}");
    m.rules([]);
    let again = m.put(name, "again");
    let again = if again == "ok" {
        again
    } else {
        m.put(name, "again")
    };
    assert_eq!(again, "ok", "an error is told once more, and then no more");
    assert_eq!(m.stored(name).unwrap(), b"again");
    assert_eq!(m.xattr(name, "user.assetfs.error"), "");
}

/// Final answers to a PUT of a new file.
fn refused(status: u16, errno: &str, words: &str) {
    hasty()
        .rules([Rule::answer(status).path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", "x"), format!("close {errno}"));
            assert_eq!(m.uploads().len(), 1, "final at once: {:?}", m.uploads());
            assert_kept_and_mended(m, "a", words);
        });
}

#[test]
fn a_401_at_close_is_eacces_at_once() {
    hasty()
        .rules([Rule::answer(401).path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", "x"), "close EACCES");
            assert!(m.uploads().len() <= 2, "{:?}", m.uploads());
            assert_kept_and_mended(m, "a", "refuses these credentials");
        });
}

#[test]
fn a_403_at_close_is_eacces_at_once() {
    refused(403, "EACCES", "refuses these credentials");
}

#[test]
fn a_507_at_close_is_enospc_at_once() {
    refused(507, "ENOSPC", "no space left");
}

#[test]
fn a_413_at_close_is_efbig_after_the_smaller_way() {
    hasty()
        .rules([Rule::answer(413).path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", vec![1; 200_000]), "close EFBIG");
            assert_kept_and_mended(m, "a", "too large");
        });
}

#[test]
fn a_400_of_a_multipart_starts_over_under_a_new_id_and_succeeds() {
    let once = Rule::answer(400).query("multipart=upload").times(1);
    hasty().rules([once]).mounted(|m| {
        assert_eq!(m.put("a", vec![1; 200_000]), "ok");
        assert_eq!(m.stored("a").unwrap(), vec![1; 200_000]);
        let mut ids: Vec<String> = (m.requests().iter())
            .filter_map(|r| r.target.split("id=").nth(1).map(|id| id[..8].to_owned()))
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2, "{:?}", m.seen());
    });
}

#[test]
fn a_400_of_every_multipart_is_eio_and_bounded() {
    hasty()
        .rules([Rule::answer(400).path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            let said = m.put("a", vec![1; 200_000]);
            assert!(
                ["close EIO", "close EINVAL"].contains(&said.as_str()),
                "{said}"
            );
            assert!(m.uploads().len() < 40, "{:?}", m.uploads().len());
            assert_eq!(m.stored("a"), None);
            assert_eq!(m.spooled().len(), 1);
        });
}

#[test]
fn a_lost_answer_to_a_commit_is_settled_by_looking() {
    let lost = |query: &str| Rule::new(Action::DropAnswer).query(query).times(1);
    hasty().rules([lost("multipart=complete")]).mounted(|m| {
        assert_eq!(m.put("a", vec![1; 200_000]), "ok");
        let completes = m
            .seen()
            .iter()
            .filter(|line| line.ends_with("?complete"))
            .count();
        assert_eq!(completes, 1, "{:?}", m.seen());
        m.rules([Rule::new(Action::DropAnswer).method("PUT").times(1)]);
        m.forget();
        assert_eq!(m.put("b", "small"), "ok");
        assert_eq!(m.uploads(), ["PUT content/b"]);
        assert_eq!(m.stored("b").unwrap(), b"small");
    });
}

#[test]
fn server_errors_resets_and_rate_limits_are_ridden_out() {
    let later = Rule::new(Action::Answer {
        status: 429,
        retry_after: Some(1),
        headers: [].into(),
        body: String::new(),
        early: false,
    });
    let once = |rule: Rule| rule.path("content/").times(1);
    let rules = [
        once(later),
        once(Rule::answer(503)),
        once(Rule::answer(500)),
        once(Rule::answer(408)),
        once(Rule::new(Action::Reset { after: 10 })),
    ];
    given()
        .with("stall_timeout", "30s")
        .part_size("64K")
        .rules(rules)
        .mounted(|m| {
            assert_eq!(m.put("a", vec![3; 100_000]), "ok");
            assert_eq!(m.stored("a").unwrap(), vec![3; 100_000]);
        });
}

#[test]
fn a_server_that_fails_for_ever_is_eio_or_etimedout_in_bounded_time() {
    hasty()
        .rules([Rule::answer(500).path("content/")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", "x"), "close EIO");
            let tries = m.uploads().len();
            assert!((2..=8).contains(&tries), "{tries}");
            assert_kept_and_mended(m, "a", "the server failed");
        });
}

#[test]
fn an_upload_that_stalls_is_given_up_after_stall_timeout() {
    // A part: the answer to a commit has its own, longer bound.
    let silent = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    hasty()
        .rules([silent.query("multipart=upload")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", vec![1; 200_000]), "close ETIMEDOUT");
            assert_kept_and_mended(m, "a", "timed out");
        });
}

#[test]
fn a_server_that_does_not_answer_to_a_small_file_holds_close_as_long_as_the_settings_say() {
    let silent = Rule::new(Action::Stall {
        after: None,
        seconds: None,
    });
    hasty()
        .rules([silent.method("PUT").path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", "x"), "close ETIMEDOUT");
            // Twice stall_timeout in all: a longer bound of its own would leave no time for a second.
            assert_eq!(m.uploads().len(), 2, "{:?}", m.uploads());
            assert_kept_and_mended(m, "a", "timed out");
        });
}

#[test]
fn a_refused_read_is_eacces_and_a_missing_file_enoent() {
    hasty()
        .with("attr_ttl", "0s")
        .with("negative_ttl", "0s")
        .on_server("a", [1; 1000])
        .mounted(|m| {
            assert_eq!(m.names(""), ["a"]);
            m.rules([Rule::answer(403).path("content/a")]);
            let file = File::open(m.at("a")).unwrap();
            assert_eq!(errno(file.read_at(&mut [0; 10], 0)), libc::EACCES);
            m.rules([]);
            assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
            assert_eq!(errno(File::open(m.at("b"))), libc::ENOENT);
            m.rules([Rule::answer(403)]);
            assert_eq!(errno(File::open(m.at("c"))), libc::EACCES);
            assert_eq!(errno(std::fs::create_dir(m.at("d"))), libc::EACCES);
            assert_eq!(errno(std::fs::remove_file(m.at("a"))), libc::EACCES);
            m.rules([]);
            assert_eq!(m.stored_names(), ["a"]);
        });
}

#[test]
fn a_read_survives_truncated_reset_and_failing_answers() {
    let content = common::bytes(3 << 20, 8);
    let rules = [
        Rule::new(Action::Truncate { after: 100_000 })
            .path("content/a")
            .times(2),
        Rule::new(Action::Reset { after: 0 })
            .path("content/a")
            .times(1),
        Rule::answer(502).path("content/a").times(1),
    ];
    given().on_server("a", &content).rules(rules).mounted(|m| {
        assert!(m.read("a") == content);
    });
}

#[test]
fn what_the_server_has_is_compared_with_what_was_written() {
    let look = Rule::new(Action::Stall {
        after: None,
        seconds: Some(0.5),
    });
    let look = look.method("GET").path("metadata/a");
    given().rules([look]).leaves_unsent().mounted(|m| {
        std::thread::scope(|scope| {
            let said = scope.spawn(|| m.put("a", "ours"));
            m.when(|seen| {
                let put = seen.iter().position(|line| line == "PUT content/a");
                put.is_some_and(|at| seen[at..].iter().any(|line| line == "GET metadata/a"))
            });
            m.change_on_server("a", "OURS");
            assert_eq!(said.join().unwrap(), "close EIO");
        });
        assert!(m.xattr("a", "user.assetfs.error").contains("differs"));
        assert_eq!(m.spooled().len(), 1);
    });
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_cp_fails_it_and_the_rest_answers_from_memory() {
    let slow = Rule::new(Action::Slow { rate: 100_000 }).path("content/big");
    hasty()
        .on_server("d/a", "a")
        .rules([slow])
        .leaves_unsent()
        .mounted(|m| {
            m.sh("ls -l $M $M/d; cat $M/d/a");
            m.make("big", vec![7; 3_000_000]);
            let copying = m.start("cp big $M/big");
            m.sees_body("content/big?upload");
            m.stop_server();
            assert_eq!(m.sh("ls $M/d; stat -c %s $M/d/a; cat $M/d/a"), "a\n1\na");
            m.sh("df $M > /dev/null");
            let ended = m.ended(copying);
            ended.refused("Connection timed out");
            assert_eq!(m.names("d"), ["a"]);
            m.start_server();
            m.make("small", "small");
            m.sh("cp small $M/small");
            assert_eq!(m.stored("small").unwrap(), b"small");
            assert_eq!(m.stored("big"), None);
            assert_eq!(m.xattr("big", "user.assetfs.state"), "unsent");
            let copied = m.run("cp big $M/big || cp big $M/big");
            assert!(copied.status.success(), "{copied:?}");
            assert_eq!(m.stored("big").unwrap().len(), 3_000_000);
        });
}

#[test]
fn a_server_that_is_away_for_a_moment_is_not_noticed() {
    given().mounted(|m| {
        m.write("a", "a");
        m.stop_server();
        let copying = m.start("echo hello > $M/b && cat $M/a");
        m.start_server();
        let ended = m.ended(copying);
        assert!(ended.status.success(), "{ended:?}");
        assert!(m.settle("b").status.success());
        assert_eq!(m.stored("b").unwrap(), b"hello\n");
    });
}

#[test]
fn a_server_that_refuses_connections_is_etimedout_whatever_is_called() {
    let setup = hasty()
        .with("name_timeout", "1s")
        .with("attr_ttl", "0s")
        .with("negative_ttl", "0s");
    let setup = setup.on_server("a", "a").on_server("d/x", "x");
    setup.leaves_unsent().mounted(|m| {
        assert_eq!(m.names(""), ["a", "d"]);
        let open = m.update("a");
        m.stop_server();
        let timed_out = |what: &str, told: std::io::Result<()>| {
            assert_eq!(errno(told), libc::ETIMEDOUT, "{what}");
        };
        let list = |name| {
            std::fs::read_dir(m.at(name))
                .and_then(|mut rows| rows.try_for_each(|row| row.map(drop)))
        };
        timed_out("list", list("d"));
        timed_out("look", std::fs::metadata(m.at("new")).map(drop));
        timed_out("read", open.read_at(&mut [0; 1], 0).map(drop));
        timed_out("mkdir", std::fs::create_dir(m.at("new")));
        timed_out("rmdir", std::fs::remove_dir(m.at("d")));
        timed_out("unlink", std::fs::remove_file(m.at("a")));
        timed_out("rename", std::fs::rename(m.at("a"), m.at("b")));
        timed_out("symlink", std::os::unix::fs::symlink("a", m.at("new")));
        timed_out("create", File::create(m.at("new")).map(drop));
        timed_out(
            "utimens",
            open.set_modified(std::time::SystemTime::UNIX_EPOCH),
        );
        open.write_all_at(b"b", 0).unwrap();
        timed_out("fsync", open.sync_all());
        drop(open);
        m.start_server();
    });
}

#[test]
fn names_answer_within_name_timeout_when_the_server_is_silent() {
    given()
        .with("name_timeout", "1s")
        .with("stall_timeout", "20s")
        .on_server("a", "a")
        .mounted(|m| {
            m.names("");
            let silent = Rule::new(Action::Stall {
                after: None,
                seconds: None,
            });
            m.rules([silent]);
            assert_eq!(errno(std::fs::create_dir(m.at("d"))), libc::ETIMEDOUT);
            assert_eq!(errno(std::fs::remove_file(m.at("a"))), libc::ETIMEDOUT);
            m.rules([]);
            assert_eq!(m.names(""), ["a"]);
        });
}

#[test]
fn a_file_replaced_under_a_reader_is_estale_and_never_a_mixture() {
    let (old, new) = (vec![b'o'; 40 << 20], vec![b'n'; 40 << 20]);
    given()
        .with("attr_ttl", "0s")
        .with("memory", "16M")
        .on_server("a", &old)
        .mounted(|m| {
            let file = File::open(m.at("a")).unwrap();
            let mut seen = vec![0; 4096];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen.iter().all(|&b| b == b'o'));
            m.change_on_server("a", &new);
            let mut stale = false;
            for at in (0..40u64).map(|n| n << 20) {
                match file.read_at(&mut seen, at) {
                    Ok(n) => assert!(seen[..n].iter().all(|&b| b == b'o'), "mixed at {at}"),
                    Err(e) => {
                        assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "at {at}");
                        stale = true;
                    }
                }
            }
            assert!(stale, "40 MiB cannot come from memory");
            assert!(m.read("a") == new, "who opens it now sees the new one");
            assert_eq!(
                errno(file.read_at(&mut seen, 39 << 20)),
                libc::ESTALE,
                "the old handle stays with its version"
            );
            drop(file);
        });
}

#[test]
fn a_file_replaced_by_somebody_else_while_it_is_changed_here_is_not_mixed() {
    let old = common::bytes(200_000, 1);
    given()
        .part_size("64K")
        .on_server("a", &old)
        .leaves_unsent()
        .mounted(|m| {
            let file = m.update("a");
            m.change_on_server("a", vec![b't'; 200_000]);
            file.write_all_at(b"ours", 0).unwrap();
            let told = file.sync_all();
            let stored = m.stored("a").unwrap();
            match told {
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::ESTALE));
                    assert_eq!(stored, vec![b't'; 200_000]);
                }
                Ok(()) => assert_eq!((&stored[..4], &stored[4..]), (&b"ours"[..], &old[4..])),
            }
        });
}

#[test]
fn a_full_spool_is_enospc_at_write_and_sends_nothing_torn() {
    given()
        .with("spool_max", "1M")
        .leaves_unsent()
        .mounted(|m| {
            let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
            file.write_all(&vec![1; 600_000]).unwrap();
            assert_eq!(errno(file.write_all(&vec![1; 600_000])), libc::ENOSPC);
            drop(file);
            assert!(!m.settle("a").status.success(), "wait says that it failed");
            assert!(m.stored("a").is_none(), "half a file is not published");
            m.sh("rm $M/a; echo x > $M/b");
            assert_eq!(m.stored("b").unwrap(), b"x\n");
        });
}

#[test]
fn a_delete_that_a_proxy_blocks_goes_the_other_way() {
    let blocked = Rule::answer(405).method("DELETE");
    hasty().on_server("a", "a").rules([blocked]).mounted(|m| {
        std::fs::remove_file(m.at("a")).unwrap();
        assert_eq!(m.changes(), ["DELETE content/a", "POST delete/a"]);
        assert!(m.stored_names().is_empty());
    });
}

#[test]
fn an_upload_that_is_answered_with_404_for_ever_is_eio() {
    hasty()
        .rules([Rule::answer(404).path("content/a")])
        .leaves_unsent()
        .mounted(|m| {
            assert_eq!(m.put("a", "x"), "close EIO");
            assert!(m.uploads().len() < 8, "{:?}", m.uploads());
            assert_kept_and_mended(m, "a", "404");
        });
}

#[test]
fn a_416_is_an_error_once_and_no_bytes_of_another_place() {
    hasty().on_server("a", [1; 1000]).mounted(|m| {
        let file = File::open(m.at("a")).unwrap();
        m.rules([Rule::answer(416).path("content/a")]);
        let told = errno(file.read_at(&mut [0; 10], 500));
        assert!([libc::EIO, libc::ESTALE].contains(&told), "{told}");
        m.rules([]);
        assert_eq!(m.read("a"), [1; 1000]);
    });
}

#[test]
fn what_others_made_of_a_name_meanwhile_is_told_with_its_own_errno() {
    let setup = hasty().with("attr_ttl", "10m").with("negative_ttl", "10m");
    let setup = setup.on_server("d/x", "x").on_server("e/x", "x");
    setup.leaves_unsent().mounted(|m| {
        m.sh("rm $M/d/x $M/e/x; mkdir $M/g; ls -lR $M");
        m.on_disk(|dir| {
            std::fs::create_dir(dir.join("d/dir")).unwrap();
            std::fs::remove_dir(dir.join("e")).unwrap();
            std::fs::write(dir.join("e"), "a file now").unwrap();
            std::fs::write(dir.join("g/new"), "new").unwrap();
        });
        assert_eq!(m.put("d/dir", "x"), "close EISDIR");
        assert_eq!(m.put("e/y", "x"), "close ENOTDIR");
        assert_eq!(errno(std::fs::remove_dir(m.at("g"))), libc::ENOTEMPTY);
        assert_eq!(m.stored_names(), ["d/", "d/dir/", "e", "g/", "g/new"]);
    });
}

#[test]
fn a_symbolic_link_whose_answer_was_lost_is_made() {
    let lost = Rule::new(Action::DropAnswer).method("PUT").times(1);
    hasty().rules([lost]).mounted(|m| {
        assert_eq!(m.sh("ln -s target $M/l; readlink $M/l"), "target");
        assert_eq!(m.uploads(), ["PUT content/l"]);
    });
}
