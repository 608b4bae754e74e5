//! A spool that becomes full on a real mount: writers are slowed, wait while something moves, and are refused when
//! nothing does.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Given, given, given_iot, skipped};
use rustix::fs::OFlags;
use std::io::Write;
use std::time::Duration;

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

/// Writes 20 MB each into two files that it has open, and tells of the write that failed.
const FILL: &str = "import os,sys,time,errno
names=('first','second')
files=[os.open(os.environ['M']+'/'+n,os.O_WRONLY|os.O_CREAT,0o644) for n in names]
sys.stdin.readline(); print('yes',flush=True); sys.stdin.readline()
def fill(f):
    left=20000000
    while left: left-=os.write(f,b'f'*min(left,1000000))
for name,f in zip(names,files):
    begun=time.monotonic()
    try:
        fill(f); os.close(f)
    except OSError as e:
        waited=time.monotonic()-begun >= 2
        print(name,errno.errorcode[e.errno],'after at least 2 s:',waited,file=open('told','a'))
print('yes',flush=True)
";

#[test]
fn with_the_server_away_writers_get_enospc_after_stall_timeout_and_nothing_promised_is_lost() {
    let setup = small().with("commit", "spool").with("stall_timeout", "2s");
    setup.leaves_unsent().mounted(|m| {
        m.make("fill.py", FILL);
        let mut program = m.talk("exec python3 fill.py");
        program.say("are they open?");
        m.stop_server();
        program.say("are they written?");
        program.end();
        let told = std::fs::read_to_string(m.here("told")).unwrap();
        assert_eq!(told, "second ENOSPC after at least 2 s: True\n");
        m.start_server();
        let state = format!("--state-dir={}", m.dir().join("state").display());
        let ended = m.assetfs(&["unsent", "retry", "/first", &state]);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(m.stored("first").unwrap(), vec![b'f'; 20_000_000]);
        m.sh("rm $M/second; cp $M/first second; cp second $M/second");
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

/// Has 600 files open for writing at once, then makes 400 more, and closes every one of them well.
const THOUSAND: &str = "
files = [os.open(M + f'd/{i}', os.O_WRONLY | os.O_CREAT, 0o644) for i in range(600)]
for i, f in enumerate(files): os.write(f, b'%d' % i)
for f in files: os.close(f)
for i in range(600, 1000): open(M + f'd/{i}', 'wb', 0).write(b'%d' % i)
";

#[test]
fn more_files_than_descriptors_are_written_owed_and_sent_after_a_kill() {
    for setup in [given(), given_iot()] {
        let silence = Rule::new(Action::Stall {
            after: None,
            seconds: None,
        });
        let setup = setup.rules([silence.method("PUT")]);
        setup.with("commit", "spool").descriptors(256).mounted(|m| {
            m.sh("mkdir $M/d");
            m.python(THOUSAND);
            assert_eq!(m.spooled().len(), 1000);
            m.crash();
            m.stop_server();
            m.start_server();
            m.mount();
            let settled = m.settle("");
            assert_eq!(settled.status.code(), Some(0), "{settled:?}");
            for i in 0..1000 {
                let stored = m.stored(&format!("d/{i}"));
                assert_eq!(stored.unwrap(), i.to_string().into_bytes());
            }
            assert!(!m.log().contains("Too many open files"));
        });
    }
}
