//! Sizes around the edges of parts, on a real mount: what is sent, in which pieces, and that it comes back.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Request, Rule};
use common::mount::{Mount, all, given, skipped};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const PART: u64 = 64 * 1024;

/// Sizes of the bodies of parts, as the server saw them, sorted.
fn parts(m: &Mount) -> Vec<u64> {
    let is_part = |r: &&Request| r.target.contains("multipart=upload");
    let mut sizes: Vec<u64> = m
        .requests()
        .iter()
        .filter(is_part)
        .map(|r| r.bytes_in)
        .collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn every_size_around_the_edge_of_a_part_is_sent_in_the_right_pieces_and_read_back() {
    given().part_size("64K").mounted(|m| {
        let cases: [(u64, &[u64]); 7] = [
            (0, &[]),
            (1, &[]),
            (PART - 1, &[]),
            (PART, &[]),
            (PART + 1, &[1, PART]),
            (3 * PART, &[PART, PART, PART]),
            (3 * PART + 1, &[1, PART, PART, PART]),
        ];
        for (size, wanted) in cases {
            m.forget();
            let content = common::bytes(size as usize, size);
            m.make("a", &content);
            m.sh(&format!("cp a $M/{size}"));
            if size == 0 {
                assert!(m.settle("0").status.success());
            }
            assert_eq!(m.stored(&size.to_string()).unwrap(), content, "{size}");
            assert_eq!(parts(m), wanted, "{size}: {:?}", m.seen());
            let completes = m
                .seen()
                .iter()
                .filter(|line| line.ends_with("?complete"))
                .count();
            assert_eq!(completes, usize::from(!wanted.is_empty()), "{size}");
            assert_eq!(
                m.uploads().len(),
                wanted.len().max(if wanted.is_empty() { 1 } else { 0 }) + completes
            );
        }
        m.remount();
        for (size, _) in cases {
            assert_eq!(
                m.read(&size.to_string()),
                common::bytes(size as usize, size),
                "{size}"
            );
        }
    });
}

#[test]
fn growing_and_shrinking_over_the_edge_of_a_part_sends_the_new_whole() {
    given()
        .part_size("64K")
        .on_server("a", common::bytes(PART as usize, 1))
        .mounted(|m| {
            let mut content = common::bytes(PART as usize, 1).to_vec();
            let file = m.update("a");
            file.write_all_at(b"+", PART).unwrap();
            drop(file);
            content.push(b'+');
            assert_eq!(m.stored("a").unwrap(), content);
            m.sh(&format!("truncate -s {} $M/a", PART - 1));
            content.truncate(PART as usize - 1);
            assert_eq!(m.stored("a").unwrap(), content);
            assert_eq!(parts(m), [1, PART]);
        });
}

#[test]
fn a_random_read_of_a_large_remote_file_fetches_a_part_of_it() {
    let content = common::bytes(40 << 20, 9);
    given().on_server("a", &content).mounted(|m| {
        let file = File::open(m.at("a")).unwrap();
        let mut seen = [0; 4096];
        for at in [0u64, 30 << 20, (40 << 20) - 4096, 12_345_678] {
            file.read_exact_at(&mut seen, at).unwrap();
            assert_eq!(
                seen[..],
                content[at as usize..at as usize + 4096],
                "at {at}"
            );
        }
        let fetched: u64 = m
            .requests()
            .iter()
            .filter(|r| r.range.is_some())
            .map(|r| r.bytes_out)
            .sum();
        assert!(fetched < 20 << 20, "{fetched} bytes for four reads");
        let mut beyond = [0; 10];
        assert_eq!(file.read_at(&mut beyond, 40 << 20).unwrap(), 0);
        drop(file);
        assert!(m.read("a") == content);
    });
}

#[test]
fn a_part_that_breaks_is_sent_again_alone() {
    let broken = Rule::answer(500).query("index=1&").times(1);
    given().part_size("64K").rules([broken]).mounted(|m| {
        let content = common::bytes(3 * PART as usize, 4);
        m.make("a", &content);
        m.sh("cp a $M/a");
        assert_eq!(m.stored("a").unwrap(), content);
        let uploads = m.uploads();
        assert_eq!(
            uploads.len(),
            5,
            "three parts, one again, one commit: {uploads:?}"
        );
    });
}

#[test]
fn a_file_beyond_four_gib_goes_there_and_back() {
    if !all() {
        skipped("long; ASSETFS_TEST_ALL=1 runs it");
        return;
    }
    given()
        .part_size("64M")
        .at_most(Duration::from_secs(1800))
        .mounted(|m| {
            m.sh("truncate -s 4G a; printf x >> a; cp --sparse=never a $M/a; cmp a $M/a");
            assert_eq!(m.sh("stat -c %s $M/a"), ((4u64 << 30) + 1).to_string());
            let sizes = parts(m);
            assert_eq!((sizes.len(), sizes[0]), (65, 1));
        });
}
