//! What system calls mean on a real mount: offsets, sizes, descriptors, holes, mapped pages.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{errno, given};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Bodies to the server at this rate, in bytes per second.
fn slow(path: &str, rate: u64) -> Rule {
    Rule::new(Action::Slow { rate }).path(path)
}

fn stalled(method: &str, path: &str, seconds: f64) -> Rule {
    Rule::new(Action::Stall {
        after: None,
        seconds: Some(seconds),
    })
    .method(method)
    .path(path)
}

#[test]
fn random_writes_into_an_existing_file_change_exactly_these_bytes() {
    let mut content = common::bytes(300_000, 3).to_vec();
    given()
        .part_size("64K")
        .on_server("a", &content)
        .mounted(|m| {
            let file = m.update("a");
            let mut x = 7u64;
            for _ in 0..200 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (x >> 33) as usize % content.len();
                let len = 1 + (x >> 20) as usize % 3000;
                let bytes = common::bytes(len, x);
                file.write_all_at(&bytes, at as u64).unwrap();
                content.resize(content.len().max(at + len), 0);
                content[at..at + len].copy_from_slice(&bytes);
            }
            drop(file);
            assert_eq!(m.stored("a").unwrap(), content);
            assert_eq!(m.read("a"), content);
        });
}

#[test]
fn an_append_goes_to_the_end_whoever_moved_it() {
    given().on_server("a", "1").mounted(|m| {
        let mut one = m.open("a", OFlags::WRONLY | OFlags::APPEND).unwrap();
        let mut two = m.open("a", OFlags::WRONLY | OFlags::APPEND).unwrap();
        one.write_all(b"2").unwrap();
        two.write_all(b"3").unwrap();
        one.write_all(b"4").unwrap();
        drop((one, two));
        assert!(m.settle("a").status.success());
        assert_eq!(m.stored("a").unwrap(), b"1234");
    });
}

#[test]
fn a_cut_then_a_growth_reads_as_zeros() {
    given().on_server("a", [b'x'; 10_000]).mounted(|m| {
        let file = m.update("a");
        file.set_len(5000).unwrap();
        file.set_len(9000).unwrap();
        file.write_all_at(b"end", 8997).unwrap();
        let mut seen = vec![1; 9000];
        file.read_exact_at(&mut seen, 0).unwrap();
        let mut wanted = [vec![b'x'; 5000], vec![0; 4000]].concat();
        wanted[8997..].copy_from_slice(b"end");
        assert!(seen == wanted);
        assert_eq!(file.metadata().unwrap().len(), 9000);
        drop(file);
        assert!(m.stored("a").unwrap() == wanted);
    });
}

#[test]
fn holes_are_zeros_and_cost_no_read() {
    given().mounted(|m| {
        let file = m.open("a", OFlags::RDWR | OFlags::CREATE).unwrap();
        file.write_all_at(b"end", 1_000_000).unwrap();
        file.write_all_at(b"mid", 500_000).unwrap();
        rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            500_001,
            1,
        )
        .unwrap();
        drop(file);
        let mut wanted = vec![0; 1_000_003];
        wanted[500_000] = b'm';
        wanted[500_002] = b'd';
        wanted[1_000_000..].copy_from_slice(b"end");
        assert!(m.stored("a").unwrap() == wanted);
        assert!(m.downloads().is_empty());
        let e = rustix::fs::fallocate(m.update("a"), FallocateFlags::COLLAPSE_RANGE, 0, 4096)
            .unwrap_err();
        assert_eq!(e, rustix::io::Errno::OPNOTSUPP);
    });
}

#[test]
fn seek_finds_data_and_the_end() {
    given().on_server("a", [1; 1000]).mounted(|m| {
        let mut file = File::open(m.at("a")).unwrap();
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(10)).unwrap(), 10);
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(10)).unwrap(), 1000);
        assert_eq!(file.seek(std::io::SeekFrom::End(-1)).unwrap(), 999);
    });
}

#[test]
fn mapped_writes_arrive_with_msync_and_at_the_last_close() {
    given().on_server("a", vec![b'.'; 20_000]).mounted(|m| {
        m.python(
            "f = os.open(M + 'a', os.O_RDWR)\np = mmap.mmap(f, 20000)\np[5000:5003] = b'one'\np.flush()\nos.fsync(f)\n\
             assert open(M + 'a', 'rb').read()[5000:5003] == b'one'\np[9000:9003] = b'two'\nos.close(f)\n\
             p[100:105] = b'three'\np.close()",
        );
        assert!(m.settle("a").status.success());
        let stored = m.stored("a").unwrap();
        assert_eq!(&stored[5000..5003], b"one");
        assert_eq!(&stored[9000..9003], b"two");
        assert_eq!(&stored[100..105], b"three");
        assert_eq!(stored.iter().filter(|&&b| b == b'.').count(), 20_000 - 11);
    });
}

#[test]
fn o_excl_is_refused_where_something_is_and_o_trunc_fetches_nothing() {
    given().on_server("a", [1; 100_000]).mounted(|m| {
        let excl = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        assert_eq!(errno(m.open("a", excl)), libc::EEXIST);
        let mut new = m.open("b", excl).unwrap();
        assert_eq!(errno(m.open("b", excl)), libc::EEXIST);
        new.write_all(b"b").unwrap();
        drop(new);
        let mut file = m.open("a", OFlags::WRONLY | OFlags::TRUNC).unwrap();
        assert_eq!(std::fs::metadata(m.at("a")).unwrap().len(), 0);
        assert_eq!(
            m.stored("a").unwrap().len(),
            100_000,
            "others see the old one until the close"
        );
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(m.stored("a").unwrap(), b"new");
        assert!(m.downloads().is_empty());
        assert_eq!(errno(m.open("none", OFlags::RDONLY)), libc::ENOENT);
        assert_eq!(errno(m.open("a/x", OFlags::RDONLY)), libc::ENOTDIR);
        assert_eq!(errno(m.open("", OFlags::WRONLY)), libc::EISDIR);
    });
}

#[test]
fn o_excl_of_two_mounts_is_decided_by_the_server() {
    given().mounted(|m| {
        let excl = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = m.open("a", excl).unwrap();
        m.change_on_server("a", "theirs");
        file.write_all(b"ours").unwrap();
        let closed = file.sync_all();
        assert_eq!(errno(closed), libc::EEXIST);
        assert_eq!(m.stored("a").unwrap(), b"theirs");
        drop(file);
        assert_eq!(m.stored("a").unwrap(), b"theirs");
        drop(std::fs::remove_file(m.at("a")));
    });
}

#[test]
fn direct_io_reads_what_was_written_directly() {
    given().mounted(|m| {
        m.python(
            "b = mmap.mmap(-1, 1 << 20)\nb.write(bytes(range(256)) * 4096)\n\
             f = os.open(M + 'a', os.O_RDWR | os.O_CREAT | os.O_DIRECT)\nassert os.writev(f, [b]) == 1 << 20\n\
             c = mmap.mmap(-1, 1 << 20)\nassert os.preadv(f, [c], 0) == 1 << 20\nassert b[:] == c[:]\nos.close(f)\n\
             f = os.open(M + 'a', os.O_RDONLY | os.O_DIRECT)\nc = mmap.mmap(-1, 1 << 20)\n\
             assert os.preadv(f, [c], 0) == 1 << 20 and b[:] == c[:]",
        );
        assert_eq!(m.stored("a").unwrap().len(), 1 << 20);
    });
}

#[test]
fn what_was_written_is_read_by_another_process_before_the_close() {
    given().mounted(|m| {
        let mut writer = m.talk(
            "exec python3 -c 'import os, sys\nf = os.open(os.environ[\"M\"] + \"/a\", os.O_WRONLY | os.O_CREAT)\n\
             for w in sys.stdin: os.write(f, w.strip().encode()); print(1, flush=True)'",
        );
        for round in 1..4 {
            writer.say("more");
            assert_eq!(m.read("a"), b"more".repeat(round));
            let size = std::fs::metadata(m.at("a")).unwrap().len();
            assert_eq!(size, 4 * round as u64);
        }
        assert!(m.uploads().is_empty());
        assert_eq!(m.xattr("a", "user.assetfs.state"), "dirty");
        writer.end();
        assert!(m.settle("a").status.success());
        assert_eq!(m.xattr("a", "user.assetfs.state"), "committed");
        assert_eq!(m.stored("a").unwrap(), b"moremoremore");
        assert_eq!(m.uploads().len(), 1);
    });
}

#[test]
fn fsync_puts_it_on_the_server_and_the_close_that_follows_sends_nothing() {
    given().mounted(|m| {
        let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
        file.write_all(b"one").unwrap();
        file.sync_all().unwrap();
        assert_eq!(m.stored("a").unwrap(), b"one");
        file.sync_data().unwrap();
        assert_eq!(m.uploads().len(), 1);
        file.write_all(b"two").unwrap();
        file.sync_data().unwrap();
        assert_eq!(m.stored("a").unwrap(), b"onetwo");
        drop(file);
        assert_eq!(m.uploads().len(), 2, "{:?}", m.uploads());
    });
}

#[test]
fn inherited_descriptors_commit_at_each_close_that_has_something_new() {
    given().mounted(|m| {
        let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
        file.write_all(b"1").unwrap();
        let second = file.try_clone().unwrap();
        drop(second);
        assert_eq!(m.stored("a").unwrap(), b"1");
        drop(file.try_clone().unwrap());
        assert_eq!(m.uploads().len(), 1, "nothing new, nothing sent");
        file.write_all(b"2").unwrap();
        drop(file);
        assert_eq!(m.stored("a").unwrap(), b"12");
        m.sh("exec 3> $M/b; (echo child >&3); echo parent >&3; exec 3>&-");
        assert_eq!(m.stored("b").unwrap(), b"child\nparent\n");
    });
}

#[test]
fn a_reader_only_descriptor_never_commits() {
    given().on_server("a", "x").mounted(|m| {
        let mut file = File::open(m.at("a")).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(errno((&file).write(b"x")), libc::EBADF);
        drop(file);
        assert_eq!((text.as_str(), m.changes().len()), ("x", 0));
    });
}

#[test]
fn a_write_while_an_upload_is_under_way_belongs_to_the_next_version() {
    given()
        .rules([stalled("PUT", "content/a", 1.0)])
        .mounted(|m| {
            let file = m.open("a", OFlags::RDWR | OFlags::CREATE).unwrap();
            file.write_all_at(b"first version", 0).unwrap();
            let second = file.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || drop(second));
                m.sees("PUT content/a");
                file.write_all_at(b"SECON", 0).unwrap();
                let mut seen = [0; 13];
                file.read_exact_at(&mut seen, 0).unwrap();
                assert_eq!(&seen, b"SECON version");
            });
            drop(file);
            assert_eq!(m.stored("a").unwrap(), b"SECON version");
            assert_eq!(m.uploads().len(), 2, "{:?}", m.uploads());
        });
}

#[test]
fn open_right_after_a_close_that_is_still_sending_sees_the_new_bytes() {
    given()
        .rules([stalled("PUT", "content/a", 1.0)])
        .mounted(|m| {
            let mut file = m.open("a", OFlags::WRONLY | OFlags::CREATE).unwrap();
            file.write_all(b"new").unwrap();
            let closing = std::thread::scope(|scope| {
                let closing = scope.spawn(move || drop(file));
                m.sees("PUT content/a");
                assert_eq!(m.read("a"), b"new");
                assert_eq!(m.xattr("a", "user.assetfs.state"), "uploading");
                assert_eq!(m.names(""), ["a"]);
                closing.join()
            });
            closing.unwrap();
            assert_eq!(m.stored("a").unwrap(), b"new");
        });
}

#[test]
fn others_are_served_while_a_close_waits_for_a_slow_upload() {
    given()
        .on_server("b", "b")
        .rules([slow("content/a", 200_000)])
        .mounted(|m| {
            m.make("big", vec![7; 400_000]);
            let copying = m.start("cp big $M/a");
            m.sees("content/a");
            assert_eq!(m.sh("cat $M/b; ls $M"), "ba\nb");
            m.sh("echo c > $M/c");
            assert_eq!(m.stored("a"), None, "it is still on its way");
            assert!(m.ended(copying).status.success());
            assert_eq!(m.stored("a").unwrap().len(), 400_000);
        });
}

#[test]
fn an_unlinked_open_file_lives_on_until_the_last_close_and_leaves_nothing() {
    given().on_server("a", "old bytes").mounted(|m| {
        let file = m.update("a");
        let reader = File::open(m.at("a")).unwrap();
        std::fs::remove_file(m.at("a")).unwrap();
        assert_eq!(m.stored("a"), None);
        file.write_all_at(b"NEW", 0).unwrap();
        let mut seen = [0; 9];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"NEW bytes");
        assert_eq!(file.metadata().unwrap().len(), 9);
        drop((file, reader));
        assert_eq!(m.stored_names(), Vec::<String>::new());
        assert!(m.names("").is_empty());
    });
}

#[test]
fn a_file_unlinked_before_its_first_close_is_never_sent() {
    given().mounted(|m| {
        m.python(
            "f = os.open(M + 'a', os.O_RDWR | os.O_CREAT)\nos.write(f, b'secret')\nos.unlink(M + 'a')\n\
             assert os.pread(f, 10, 0) == b'secret'\nos.fsync(f)\nos.close(f)",
        );
        assert_eq!(m.uploads(), Vec::<String>::new());
    });
}

#[test]
fn times_inodes_and_links_are_stable_and_blocks_tell_the_size() {
    given().mounted(|m| {
        m.write("a", b"12345");
        let one = std::fs::metadata(m.at("a")).unwrap();
        let file = File::open(m.at("a")).unwrap();
        let two = file.metadata().unwrap();
        assert_eq!((one.ino(), one.mtime_nsec()), (two.ino(), two.mtime_nsec()));
        assert_eq!((one.nlink(), one.blocks(), one.size()), (1, 1, 5));
        std::fs::rename(m.at("a"), m.at("b")).unwrap();
        let three = std::fs::metadata(m.at("b")).unwrap();
        assert_eq!(
            (one.ino(), one.mtime_nsec()),
            (three.ino(), three.mtime_nsec())
        );
    });
}
