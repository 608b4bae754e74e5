//! A spool that becomes full on a real mount: writers are slowed, wait while something moves, and are refused when
//! nothing does.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Given, errno, given, skipped};
use rustix::fs::OFlags;
use std::io::Write;
use std::time::{Duration, Instant};

/// A spool of 32 MiB.
fn small() -> Given {
    given().with("spool_max", "32M").part_size("2M")
}

/// Four writers of 20 MB each at once; their exit statuses.
const FOUR: &str = "for i in 1 2 3 4; do head -c 20000000 /dev/zero | tr '\\0' $i > $i; done
for i in 1 2 3 4; do (dd if=$i of=$M/$i bs=1M status=none; echo $i $? >> ended) & done; wait
sort ended";

#[test]
fn writers_larger_than_the_spool_together_wait_for_each_other_and_all_succeed() {
    let slow = Rule::new(Action::Slow { rate: 15_000_000 });
    let slow = slow.query("multipart=upload");
    small().rules([slow]).mounted(|m| {
        assert_eq!(m.sh(FOUR), "1 0\n2 0\n3 0\n4 0");
        for digit in b'1'..=b'4' {
            let name = char::from(digit).to_string();
            let stored = m.stored(&name).unwrap();
            assert!(stored.len() == 20_000_000 && stored.iter().all(|byte| *byte == digit));
        }
    });
}

#[test]
fn with_the_server_away_writers_get_enospc_after_stall_timeout_and_nothing_promised_is_lost() {
    let setup = small().with("commit", "spool").with("stall_timeout", "2s");
    setup.leaves_unsent().mounted(|m| {
        m.stop_server();
        m.make("first", vec![b'f'; 20_000_000]);
        m.sh("dd if=first of=$M/first bs=1M status=none");
        let mut file = m.open("second", OFlags::WRONLY | OFlags::CREATE).unwrap();
        let mut at = Instant::now();
        let refused = (0..20).find_map(|_| {
            at = Instant::now();
            file.write_all(&[0; 1 << 20]).err()
        });
        assert_eq!(errno(Err::<(), _>(refused.unwrap())), libc::ENOSPC);
        let waited = at.elapsed();
        assert!(waited >= Duration::from_secs(2), "it waited for {waited:?}");
        drop(file);
        m.sh("rm $M/second");
        m.start_server();
        let ended = m.assetfs(&["unsent", "retry", m.at("first").to_str().unwrap()]);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(m.stored("first").unwrap(), vec![b'f'; 20_000_000]);
        m.sh("dd if=first of=$M/second bs=1M status=none");
        m.settle("");
        assert_eq!(m.stored("second").unwrap().len(), 20_000_000);
    });
}

#[test]
fn a_file_larger_than_the_spool_is_enospc_without_waiting() {
    let setup = small()
        .with("stall_timeout", "10m")
        .at_most(Duration::from_secs(120));
    setup.leaves_unsent().mounted(|m| {
        let ended = m.run("dd if=/dev/zero of=$M/a bs=1M count=40 status=none");
        ended.refused("No space left on device");
        assert_eq!(m.stored("a"), None);
        m.sh("rm $M/a; echo x > $M/b");
        assert_eq!(m.stored("b").unwrap(), b"x\n");
    });
}

#[test]
fn files_under_temporary_names_leave_before_a_writer_is_refused() {
    let setup = small().with("temp_idle", "1h").with("stall_timeout", "30s");
    setup.mounted(|m| {
        m.make("part", vec![b'p'; 7_000_000]);
        m.sh("for i in 1 2 3 4; do cp part $M/$i.part; done");
        assert_eq!(m.uploads(), Vec::<String>::new(), "they are deferred");
        m.make("big", vec![b'b'; 20_000_000]);
        m.sh("cp big $M/big");
        assert_eq!(m.stored("big").unwrap().len(), 20_000_000);
        m.sh("for i in 1 2 3 4; do mv $M/$i.part $M/$i; done");
        assert_eq!(m.stored_names(), ["1", "2", "3", "4", "big"]);
    });
}

#[test]
fn a_disk_that_is_full_under_the_spool_is_enospc_and_harms_nothing_else() {
    given().leaves_unsent().mounted(|m| {
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        let state = m.dir().join("state");
        let mounted = m.run(&format!(
            "mount -t tmpfs -o size=8m none {}",
            state.display()
        ));
        if !mounted.status.success() {
            skipped("only root may mount a small disk");
            return m.mount();
        }
        m.mount();
        m.write("before", vec![1; 1_000_000]);
        let mut open = m.open("open", OFlags::WRONLY | OFlags::CREATE).unwrap();
        open.write_all(&[2; 1_000_000]).unwrap();
        let ended = m.run("dd if=/dev/zero of=$M/big bs=1M count=20 status=none");
        ended.refused("No space left on device");
        m.sh("rm $M/big");
        open.write_all(&[2; 1_000_000]).unwrap();
        drop(open);
        m.settle("");
        assert_eq!(m.stored("open").unwrap(), vec![2; 2_000_000]);
        assert_eq!(m.stored("before").unwrap(), vec![1; 1_000_000]);
        assert_eq!(m.stored("big"), None);
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        m.sh(&format!("umount {}", state.display()));
        m.mount();
    });
}
