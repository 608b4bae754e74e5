//! Programs that people use, on a real mount: what they leave on the server, and what it cost.
#![allow(clippy::unwrap_used)]

mod common;

use common::mount::{Mount, all, given, skipped};
use std::path::Path;
use std::time::Instant;

/// A local tree `t` with files, an empty folder, a mode, a time and a symbolic link.
fn tree(m: &Mount) {
    m.sh(
        "mkdir -p t/sub/empty && echo one > t/one && seq 1 20000 > t/sub/many && : > t/nothing \
          && ln -s sub/many t/link && chmod 750 t/one && touch -d '2001-02-03 04:05:06' t/sub/many",
    );
}

fn assert_same_tree(m: &Mount, a: &str, b: &str) {
    let told = m.run(&format!("diff -r --no-dereference {a} {b}"));
    assert!(told.status.success(), "{told:?}");
}

#[test]
fn cp_sends_a_small_file_with_one_request_and_reads_back_the_same() {
    given().mounted(|m| {
        m.make("a", b"hello");
        m.sh("cp a $M/a");
        assert_eq!(m.stored("a").unwrap(), b"hello");
        assert_eq!(m.changes(), ["PUT content/a"]);
        assert_eq!(m.sh("cat $M/a"), "hello");
        assert!(m.downloads().is_empty(), "{:?}", m.downloads());
    });
}

#[test]
fn cp_over_an_existing_file_replaces_it_without_reading_it() {
    given().on_server("a", [b'x'; 100_000]).mounted(|m| {
        m.make("a", b"new");
        m.sh("cp a $M/a");
        assert_eq!(m.stored("a").unwrap(), b"new");
        assert_eq!(m.uploads().len(), 1);
        assert!(m.downloads().is_empty(), "{:?}", m.downloads());
    });
}

#[test]
fn cp_p_keeps_mode_and_time_across_a_remount() {
    given().mounted(|m| {
        m.sh("echo x > a; chmod 640 a; touch -d '2001-02-03 04:05:06.123456789' a; cp -p a $M/a");
        let stat = "stat -c '%a %y' a; stat -c '%a %y' $M/a";
        for _ in 0..2 {
            let told = m.sh(stat);
            let (local, mounted) = told.split_once('\n').unwrap();
            assert_eq!(local, mounted);
            m.remount();
        }
    });
}

#[test]
fn cp_a_copies_a_tree_with_links_out_and_in() {
    given().mounted(|m| {
        tree(m);
        m.sh("cp -a t $M/t");
        m.remount();
        assert_same_tree(m, "t", "$M/t");
        assert_eq!(m.sh("readlink $M/t/link"), "sub/many");
        assert_eq!(
            m.sh("stat -c '%a %Y' $M/t/sub/many"),
            m.sh("stat -c '%a %Y' t/sub/many")
        );
        m.sh("cp -a $M/t back");
        assert_same_tree(m, "t", "back");
    });
}

#[test]
fn mv_works_within_and_across_directories_and_onto_what_exists() {
    given().on_server("old", "old").mounted(|m| {
        m.sh("mkdir $M/d; echo a > $M/a; mv $M/a $M/b; mv $M/b $M/d/; mv $M/d/b $M/old");
        assert_eq!(m.stored_names(), ["d/", "old"]);
        assert_eq!(m.stored("old").unwrap(), b"a\n");
        assert_eq!(m.names(""), ["d", "old"]);
        m.sh("mv $M/old $M/d/x; mv $M/d $M/e");
        assert_eq!(m.stored_names(), ["e/", "e/x"]);
        assert_eq!(m.sh("cat $M/e/x"), "a");
    });
}

#[test]
fn mv_of_a_file_that_is_only_on_the_server_copies_and_removes_it() {
    let content = common::bytes(200_000, 1);
    given()
        .part_size("64K")
        .on_server("a", &content)
        .mounted(|m| {
            m.sh("mv $M/a $M/b");
            assert_eq!(m.stored_names(), ["b"]);
            assert_eq!(m.stored("b").unwrap(), content);
            assert_eq!(
                m.changes().last().unwrap(),
                "DELETE content/a",
                "{:?}",
                m.changes()
            );
        });
}

#[test]
fn mv_in_and_out_moves_between_filesystems() {
    given().mounted(|m| {
        tree(m);
        m.sh("cp -a t t2; mv t2 $M/t; test ! -e t2");
        assert_same_tree(m, "t", "$M/t");
        m.sh("mv $M/t t3");
        assert_same_tree(m, "t", "t3");
        assert_eq!(m.stored_names(), Vec::<String>::new());
    });
}

#[test]
fn a_second_rsync_sends_nothing_not_even_after_a_remount() {
    given().mounted(|m| {
        tree(m);
        m.sh("rsync -a t/ $M/t/");
        assert_same_tree(m, "t", "$M/t");
        for _ in 0..2 {
            m.forget();
            let told = m.sh("rsync -ai t/ $M/t/ | grep -v '^\\.d' || true");
            assert_eq!(told, "");
            assert_eq!(m.uploads(), Vec::<String>::new());
            m.remount();
        }
    });
}

#[test]
fn rsync_sends_only_what_changed_and_deletes_what_went() {
    given().mounted(|m| {
        tree(m);
        m.sh("rsync -a t/ $M/t/; echo twice > t/one; rm t/nothing");
        m.forget();
        m.sh("rsync -a --delete t/ $M/t/");
        assert_eq!(m.stored("t/one").unwrap(), b"twice\n");
        assert_eq!(m.stored("t/nothing"), None);
        assert!(
            m.uploads().iter().all(|u| u.contains("one")),
            "{:?}",
            m.uploads()
        );
        m.sh("rsync -a --inplace --checksum t/ $M/t/; rsync -a $M/t/ back/");
        assert_same_tree(m, "t", "back");
    });
}

#[test]
fn rsync_in_place_sends_the_file_once_under_its_name() {
    given().on_server("a", [b'x'; 300_001]).mounted(|m| {
        m.make("a", common::bytes(300_000, 3));
        m.make("b", common::bytes(200_000, 4));
        m.sh("rsync --inplace a b $M/");
        assert_eq!(m.stored("a").unwrap(), common::bytes(300_000, 3));
        assert_eq!(m.stored("b").unwrap(), common::bytes(200_000, 4));
        let mut sent = m.uploads();
        sent.sort();
        assert_eq!(sent, ["POST content/a", "PUT content/b"]);
    });
}

#[test]
fn rsync_partial_goes_on_where_it_was_interrupted() {
    let content = common::bytes(6_000_000, 5);
    given().mounted(|m| {
        m.make("big", &content);
        let mut rsync = m.start("exec rsync --partial --bwlimit=2000 big $M/big");
        let begun = Instant::now();
        let is_there = |name: &String| {
            name.starts_with(".big.")
                && std::fs::metadata(m.at(name)).is_ok_and(|f| f.len() > 500_000)
        };
        while !m.names("").iter().any(is_there) {
            assert_eq!(rsync.try_wait().unwrap(), None, "it was too fast");
            assert!(
                begun.elapsed() < common::mount::PATIENCE,
                "{:?}",
                m.names("")
            );
        }
        let pid = rustix::process::Pid::from_child(&rsync);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = m.ended(rsync);
        assert!(!ended.status.success(), "{ended:?}");
        // Of its processes one may still be at work after the first has ended.
        while m.names("") != ["big"] {
            assert!(
                begun.elapsed() < common::mount::PATIENCE,
                "{:?}",
                m.names("")
            );
        }
        assert!(m.settle("").status.success());
        let part = m.stored("big").unwrap();
        assert!(
            !part.is_empty() && part.len() < content.len(),
            "{}",
            part.len()
        );
        assert!(content.starts_with(&part), "a part from its beginning");
        assert_eq!(m.stored_names(), ["big"]);
        m.forget();
        let told = m.sh("rsync --partial --no-whole-file --stats big $M/big");
        assert!(told.contains("Matched data"), "{told}");
        assert_eq!(m.stored("big").unwrap(), content);
        assert_eq!(m.uploads(), ["POST content/big"]);
        assert_eq!(m.stored_names(), ["big"]);
    });
}

#[test]
fn an_editor_that_writes_beside_and_renames_sends_the_file_once() {
    given().on_server("f", "one\n").mounted(|m| {
        m.sh("cat $M/f > $M/.f.tmp; echo two >> $M/.f.tmp; sync $M/.f.tmp; mv $M/.f.tmp $M/f");
        assert_eq!(m.stored("f").unwrap(), b"one\ntwo\n");
        assert_eq!(m.uploads(), ["POST content/f"]);
        assert_eq!(m.stored_names(), ["f"]);
    });
}

#[test]
fn vim_saves_a_file_once_whichever_way_it_keeps_the_old_one() {
    for (ways, left) in [
        ("backupcopy=no", vec!["f"]),
        ("backupcopy=yes", vec!["f"]),
        ("backupcopy=no backup", vec!["f", "f~"]),
    ] {
        given().on_server("f", "one\n").mounted(|m| {
            m.sh(&format!(
                "vim.tiny -u NONE -i NONE -es -N -c 'set writebackup backupdir=. backupskip= {ways}' -c 'cd {}' \
                 -c 'e f' -c 's/one/two/' -c 'wq' </dev/null",
                m.root().display()
            ));
            assert_eq!(m.stored("f").unwrap(), b"two\n", "{ways}");
            let sent = m.uploads();
            assert_eq!(sent.len(), 1, "{ways}: {sent:?}");
            assert!(sent[0].ends_with(" content/f"), "{ways}: {sent:?}");
            m.remount();
            assert_eq!(m.stored_names(), left, "{ways}");
        });
    }
}

#[test]
fn tar_unpacks_onto_the_mount_and_packs_from_it() {
    given().mounted(|m| {
        tree(m);
        m.sh("tar cf t.tar t; tar xf t.tar -C $M");
        assert_same_tree(m, "t", "$M/t");
        m.sh("tar cf $M/out.tar -C $M t; mkdir back; tar xf $M/out.tar -C back");
        assert_same_tree(m, "t", "back/t");
        assert_eq!(
            m.sh("stat -c %Y back/t/sub/many"),
            m.sh("stat -c %Y t/sub/many")
        );
    });
}

#[test]
fn dd_writes_with_dup_descriptors_in_place_and_directly() {
    given().mounted(|m| {
        m.sh("head -c 3000000 /dev/urandom > a; dd if=a of=$M/a bs=64k status=none");
        assert_eq!(m.uploads().len(), 1, "{:?}", m.uploads());
        m.sh("cmp a $M/a");
        m.sh("for f in a $M/a; do printf XYZ | dd of=$f bs=1 seek=1000 conv=notrunc status=none; done");
        m.sh("cmp a $M/a");
        m.sh("dd if=a of=$M/b bs=1M oflag=direct conv=fsync status=none 2>/dev/null || dd if=a of=$M/b bs=1M status=none");
        m.sh("cmp a $M/b; dd if=$M/b of=c bs=1M iflag=direct status=none; cmp a c");
        m.sh("exec 3>$M/d; exec 4>&3; echo one >&3; echo two >&4; exec 4>&-; echo three >&3; exec 3>&-");
        assert_eq!(m.stored("d").unwrap(), b"one\ntwo\nthree\n");
        m.sh("cmp a <(cat $M/b)");
    });
}

#[test]
fn a_shell_redirection_publishes_no_empty_file_first() {
    given().on_server("log", "one\n").mounted(|m| {
        m.sh("echo two >> $M/log");
        assert_eq!(m.stored("log").unwrap(), b"one\ntwo\n");
        assert_eq!(m.uploads().len(), 1, "{:?}", m.uploads());
        m.forget();
        m.sh("echo new > $M/f");
        assert_eq!(m.stored("f").unwrap(), b"new\n");
        assert_eq!(m.uploads(), ["PUT content/f"]);
        m.forget();
        m.sh("echo newer > $M/f; (echo a; echo b) >> $M/f");
        assert_eq!(m.stored("f").unwrap(), b"newer\na\nb\n");
        m.sh(": > $M/f");
        assert!(m.settle("f").status.success());
        assert_eq!(m.stored("f").unwrap(), b"");
    });
}

#[test]
fn touch_makes_an_empty_file_and_sets_times() {
    given().mounted(|m| {
        m.sh("touch $M/a");
        assert!(m.settle("a").status.success());
        assert_eq!(m.stored("a").unwrap(), b"");
        m.sh("touch -d '1999-12-31 23:59:59' $M/a; touch -r $M/a b");
        m.remount();
        assert_eq!(m.sh("stat -c %Y $M/a"), m.sh("stat -c %Y b"));
    });
}

#[test]
fn sums_agree_on_both_sides() {
    given().part_size("64K").mounted(|m| {
        m.make("a", common::bytes(1_000_000, 2));
        m.sh("cp a $M/a");
        m.remount();
        assert_eq!(m.sh("sha256sum < $M/a"), m.sh("sha256sum < a"));
        assert_eq!(
            m.sh("sha1sum < a").split(' ').next().unwrap(),
            m.xattr("a", "user.assetfs.sha1")
        );
    });
}

#[test]
fn git_commits_checks_and_clones_on_the_mount() {
    given().mounted(|m| {
        m.sh("git init -q $M/r; cd $M/r; git config user.email a@b; git config user.name n; echo 1 > f; git add f; \
              git commit -qm one; echo 2 >> f; git commit -qam two; git fsck --full --strict");
        assert_eq!(m.sh("git -C $M/r status --porcelain"), "");
        m.sh("git clone -q --no-hardlinks $M/r clone; git clone -q clone $M/r2");
        m.remount();
        m.sh("git -C $M/r2 fsck --full; git -C $M/r status --porcelain");
        assert_eq!(m.sh("git -C clone log --format=%s"), "two\none");
        assert_eq!(m.sh("cat $M/r2/f"), "1\n2");
    });
}

#[test]
fn sqlite_keeps_a_database_on_the_mount() {
    given().mounted(|m| {
        m.sh("sqlite3 $M/db 'create table t(x); insert into t values (1),(2)'");
        m.sh("sqlite3 $M/db 'insert into t values (3)'");
        m.remount();
        assert_eq!(
            m.sh("sqlite3 $M/db 'select sum(x) from t; pragma integrity_check'"),
            "6\nok"
        );
        assert_eq!(m.names(""), ["db"]);
    });
}

#[test]
fn zip_and_unzip_work_in_place() {
    given().mounted(|m| {
        tree(m);
        m.sh("cd t; zip -qr $M/t.zip one sub; cd $M; zip -q t.zip -j ../here/t/one; unzip -tq t.zip >&2; \
              mkdir x; cd x; unzip -q ../t.zip");
        m.sh("cmp t/sub/many $M/x/sub/many");
    });
}

#[test]
fn truncate_and_fallocate_do_what_they_say() {
    given().on_server("a", "0123456789").mounted(|m| {
        m.sh("truncate -s 4 $M/a");
        assert_eq!(m.stored("a").unwrap(), b"0123");
        m.sh("truncate -s 8 $M/a");
        assert_eq!(m.stored("a").unwrap(), b"0123\0\0\0\0");
        m.sh("fallocate -l 12 $M/a");
        assert_eq!(m.stored("a").unwrap(), b"0123\0\0\0\0\0\0\0\0");
        m.sh("fallocate -n -l 100 $M/a");
        assert_eq!(m.stored("a").unwrap().len(), 12);
        m.sh("fallocate -p -o 1 -l 2 $M/a");
        assert_eq!(&m.stored("a").unwrap()[..5], b"0\0\x003\0");
        m.sh("fallocate -z -o 3 -l 12 $M/a");
        assert_eq!(m.stored("a").unwrap(), [&b"0"[..], &[0; 14]].concat());
        m.sh("truncate -s 3M $M/new");
        assert!(m.settle("new").status.success());
        assert_eq!(m.stored("new").unwrap(), vec![0; 3 << 20]);
    });
}

#[test]
fn find_du_and_df_tell_what_is_there() {
    given()
        .on_server("d/a", [1; 5000])
        .on_server("d/e/b", [1; 100])
        .mounted(|m| {
            assert_eq!(
                m.sh("cd $M; find . | sort"),
                ".\n./d\n./d/a\n./d/e\n./d/e/b"
            );
            assert_eq!(m.sh("cd $M; find . -type f -size +4k"), "./d/a");
            assert_eq!(m.sh("du -sb --apparent-size $M/d/a | cut -f1"), "5000");
            assert!(m.sh("df -P $M").contains("proget+http"));
            let free = m.sh("df --output=avail -B1 $M | tail -1");
            assert!(free.trim().parse::<u64>().unwrap() > 1 << 40, "{free}");
        });
}

#[test]
fn links_nodes_and_pipes_are_refused_as_on_fat_but_symlinks_work() {
    given().on_server("a", "x").mounted(|m| {
        m.run("ln $M/a $M/b").refused("not permitted");
        m.run("mknod $M/n c 1 3").refused("not permitted");
        m.run("mkfifo $M/p").refused("not permitted");
        m.sh("ln -s a $M/l; ln -s /no/where $M/dangling");
        assert_eq!(m.sh("cat $M/l"), "x");
        m.remount();
        assert_eq!(m.sh("readlink $M/l $M/dangling"), "a\n/no/where");
        m.run("ln -s a $M/l").refused("exists");
        m.sh("ln -sf b $M/l; mv $M/l $M/l2");
        assert_eq!(m.sh("readlink $M/l2"), "b");
        m.sh("rm $M/l2 $M/dangling");
        assert_eq!(m.stored_names(), ["a"]);
    });
}

#[test]
fn chmod_is_kept_chown_is_accepted_and_neither_sends_bytes() {
    given().on_server("a", "x").mounted(|m| {
        m.sh("chmod 600 $M/a; chown 1234:1234 $M/a; chgrp 5 $M/a");
        assert_eq!(m.uploads(), Vec::<String>::new());
        m.remount();
        assert_eq!(m.sh("stat -c '%a %u' $M/a"), "600 0");
        m.sh("chmod +x $M/a; mkdir $M/d; chmod 700 $M/d");
        assert_eq!(m.sh("stat -c %a $M/a"), "711");
    });
}

#[test]
fn attributes_are_set_listed_and_removed_and_survive() {
    given().on_server("a", "x").mounted(|m| {
        m.sh("setfattr -n user.One -v 1 $M/a; setfattr -n user.two -v 0x00ff $M/a; setfattr -x user.One $M/a; \
              setfattr -n user.One -v uno $M/a");
        m.remount();
        assert_eq!(m.sh("getfattr --only-values -n user.One $M/a"), "uno");
        assert_eq!(m.sh("getfattr -e hex --absolute-names -n user.two $M/a | grep two"), "user.two=0x00ff");
        let names = m.sh("getfattr --absolute-names $M/a | grep -c ^user");
        assert_eq!(names, "2");
        m.run("setfattr -n trusted.x -v 1 $M/a").refused("not supported");
        m.run("setfattr -n user.assetfs.state -v x $M/a").refused("not permitted");
        m.run("getfattr -n user.none $M/a").refused("no such attribute");
        assert_eq!(m.xattr("a", "user.assetfs.state"), "clean");
    });
}

#[test]
fn fsx_finds_no_fault() {
    let fsx = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/fsx");
    let fsx = if fsx.exists() {
        fsx.display().to_string()
    } else if let Some(found) = in_path("fsx") {
        found
    } else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no fsx");
        skipped("no fsx: cargo install fsx --root target/tools");
        return;
    };
    let operations = if all() { 10_000 } else { 1_000 };
    given().part_size("64K").mounted(|m| {
        let config = m.make(
            "fsx.toml",
            "flen = 262144\n[weights]\ninvalidate = 0\nread = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\n\
             truncate = 2\nclose_open = 0.2\nfsync = 0.05\nfdatasync = 0.05\n",
        );
        let seed = 1 + u64::from(std::process::id());
        let config = config.display();
        let told = m.run(&format!("{fsx} -f {config} -N {operations} -S {seed} -P . $M/disk"));
        assert!(told.status.success(), "seed {seed}: {told:?}");
        assert_eq!(m.stored("disk").unwrap(), m.read("disk"));
    });
}

fn in_path(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
    Some(places.find(|p| p.exists())?.display().to_string())
}
