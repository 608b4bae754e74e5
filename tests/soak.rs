//! One request in ten fails, in every way that a server or a network has, while programs work: they notice
//! nothing, and the server has what they wrote.
//!
//! `scripts/soak MINUTES SEED` runs it for longer.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Action, Rule};
use common::mount::{Mount, given};
use std::path::Path;
use std::time::{Duration, Instant};

/// Sixteen programs that write files of all sizes at once, in all ways, and stop at the first call that fails;
/// what they wrote lies in a local folder as well.
const WRITERS: &str = r#"
import random, shutil, sys
from concurrent.futures import ThreadPoolExecutor
seed, root = int(sys.argv[1]), sys.argv[2] + '/'
os.makedirs('w', exist_ok=True)
os.makedirs(root + 'w', exist_ok=True)
def write(path, rng_seed):
    r = random.Random(rng_seed)
    f = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(r.randrange(1, 5)):
        os.write(f, r.randbytes(r.choice((0, 1, 100, 4096, 70000, 300000))))
        if r.random() < 0.1:
            os.fsync(f)
    if r.random() < 0.3:
        os.pwrite(f, r.randbytes(1000), 10)
    os.close(f)
def writer(n):
    r = random.Random(seed * 1000 + n)
    for i in range(4):
        s, name = r.randrange(1 << 30), 'w/%d-%d' % (n, i % 3)
        for base in ('', root):
            if s % 3 == 0:
                write(base + name + '.tmp', s)
                os.rename(base + name + '.tmp', base + name)
            else:
                write(base + name, s)
with ThreadPoolExecutor(16) as pool:
    list(pool.map(writer, range(16)))
"#;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One request in ten: 3 answers of 503, 2 resets before and 1 in the middle of a body, 1 pause, 1 short
/// answer, 2 answers that are lost after the work was done.
fn faults(seed: u64) -> Vec<Rule> {
    let rule = |action: Action, chance: f64, n: u64| {
        let mut rule = Rule::new(action);
        rule.chance = Some(chance);
        rule.seed = seed * 100 + n;
        rule
    };
    let mut later = Rule::answer(503);
    later.chance = Some(0.03);
    later.seed = seed * 100;
    let pause = Action::Stall {
        after: None,
        seconds: Some(0.3),
    };
    vec![
        later,
        rule(Action::Reset { after: 0 }, 0.02, 1),
        rule(Action::Reset { after: 50_000 }, 0.01, 2),
        rule(pause, 0.01, 3),
        rule(Action::Truncate { after: 100 }, 0.01, 4),
        rule(Action::DropAnswer, 0.02, 5),
    ]
}

fn fsx() -> Option<String> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/fsx");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("fsx"));
    let found = [ours].into_iter().chain(found).find(|fsx| fsx.exists());
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no fsx");
        eprintln!("SKIPPED: fsx is not installed: the other programs run without it");
    }
    found.map(|fsx| fsx.display().to_string())
}

fn round(m: &Mount, seed: u64, operations: u32) {
    m.rules(faults(seed));
    let writers = m.make("writers.py", format!("import os\n{WRITERS}"));
    let mut all = vec![
        m.start(&format!("exec python3 {} {seed} $M", writers.display())),
        m.start("for i in 1 2 3; do head -c 400K /dev/urandom > t/f$i; rsync -a --delete t/ $M/t/; done"),
    ];
    if let Some(fsx) = fsx() {
        let config = m.make(
            "fsx.toml",
            "flen = 131072\n[weights]\ninvalidate = 0\nread = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\n\
             truncate = 2\nclose_open = 0.2\nfsync = 0.05\n",
        );
        let config = config.display();
        all.push(m.start(&format!(
            "exec {fsx} -f {config} -N {operations} -S {seed} -P . $M/disk"
        )));
    }
    for program in all {
        let ended = m.ended(program);
        assert!(
            ended.status.success(),
            "seed {seed}: {ended:?}\n{}",
            m.log()
        );
    }
    let waited = m.settle("");
    assert!(waited.status.success(), "seed {seed}: {waited:?}");
    let hit = m.requests().iter().filter(|r| r.fault.is_some()).count();
    println!(
        "seed {seed}: {hit} of {} requests failed",
        m.requests().len()
    );
    assert!(hit > 0, "no fault was injected");
    m.rules([]);
    m.on_disk(|served| {
        let served = served.display();
        m.sh(&format!("diff -r w {served}/w; diff -r t {served}/t"));
    });
    if m.here("../mnt/disk").exists() {
        assert_eq!(m.stored("disk").unwrap(), m.read("disk"));
    }
    m.forget();
}

#[test]
fn programs_notice_nothing_of_a_server_that_fails_one_request_in_ten() {
    let minutes = number("ASSETFS_SOAK_MINUTES");
    let seed = number("ASSETFS_SOAK_SEED").unwrap_or(1);
    let limit = Duration::from_secs(60 * minutes.unwrap_or(0));
    let begun = Instant::now();
    given()
        .part_size("64K")
        .at_most(limit + Duration::from_secs(240))
        .mounted(|m| {
            m.sh("mkdir -p t/d && seq 1 50000 > t/d/text && for i in $(seq 20); do echo $i > t/$i; done");
            let operations = if minutes.is_some() { 1000 } else { 300 };
            let mut seed = seed;
            loop {
                round(m, seed, operations);
                seed += 1;
                if begun.elapsed() >= limit {
                    break;
                }
            }
        });
}
