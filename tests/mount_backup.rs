//! Backup programs with their repository on a real mount: restic and borg, undisturbed and with the mount's
//! process killed in the middle of a backup.
#![allow(clippy::unwrap_used)]

mod common;

use common::mount::{Mount, given};

/// A few hundred files, 60 MB that no program can make smaller.
fn source(m: &Mount) {
    m.sh(
        "mkdir -p src/d/e && cd src && head -c 60M /dev/urandom | split -a 3 -b 300k - d/f \
          && seq 1 10000 > d/e/text && : > empty && ln -s d/e/text link && chmod 600 empty",
    );
}

/// What is new for the second backup.
fn more(m: &Mount) {
    m.sh("cp -a src old && cd src && head -c 40M /dev/urandom | split -a 3 -b 300k - d/g && rm d/faaa");
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no {program}");
        eprintln!("SKIPPED: no {program}");
    }
    there
}

/// Starts `script`, kills the mount's process once the server has seen `uploads` uploads of it, ends the
/// program and mounts again.
fn killed_during(m: &Mount, script: &str, uploads: usize) {
    m.forget();
    let mut program = m.start(script);
    m.when(|seen| {
        let content = |line: &&String| line.contains(" content/") && !line.starts_with("GET");
        seen.iter().filter(content).count() >= uploads
    });
    m.crash();
    // It may try for minutes what cannot succeed any more.
    program.kill().unwrap();
    let ended = m.ended(program);
    assert!(!ended.status.success(), "it was too fast: {ended:?}");
    // Nor is what it made below the mountpoint when nothing was mounted there.
    m.sh("find $M -mindepth 1 -delete");
    m.mount();
}

const RESTIC: &str =
    "export RESTIC_REPOSITORY=$M/restic RESTIC_PASSWORD=x RESTIC_CACHE_DIR=$PWD/cache;";

fn restic(commit: &str) {
    if !has("restic") {
        return;
    }
    // What was open at the kill stays in the spool, and is nobody's any more.
    let setup = given().with("commit", commit).leaves_unsent();
    setup.mounted(|m| {
        source(m);
        let restic = |script: &str| m.sh(&format!("{RESTIC} {script}"));
        restic("restic -q init; restic -q backup --tag one src; restic -q check --read-data");
        more(m);
        killed_during(m, &format!("{RESTIC} exec restic -q backup --tag two src"), 4);
        restic("restic -q unlock; restic -q check --read-data");
        restic("restic -q restore --tag one --target back latest; diff -r --no-dereference old back/src");
        restic("restic -q backup --tag two src; restic -q forget --tag one --keep-last 1 --prune");
        restic("restic -q forget --prune $(restic -q snapshots --tag one --json | grep -o '\"short_id\":\"[^\"]*' | cut -d'\"' -f4)");
        m.remount();
        restic("restic -q check --read-data; restic -q restore --target back2 latest; diff -r --no-dereference src back2/src");
        assert_eq!(restic("restic snapshots --json | grep -o short_id | wc -l"), "1");
    });
}

#[test]
fn restic_backs_up_survives_a_kill_checks_restores_and_prunes() {
    restic("close");
}

#[test]
#[ignore = "long"]
fn restic_does_so_when_the_spool_answers() {
    restic("spool");
}

const BORG: &str = "export BORG_REPO=$M/borg BORG_BASE_DIR=$PWD/borgbase BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes \
                    BORG_CHECK_I_KNOW_WHAT_I_AM_DOING=YES;";

fn borg(commit: &str) {
    if !has("borg") {
        return;
    }
    // What was open at the kill stays in the spool, and is nobody's any more.
    let setup = given().with("commit", commit).leaves_unsent();
    setup.mounted(|m| {
        source(m);
        let borg = |script: &str| m.sh(&format!("{BORG} {script}"));
        // Small segments, as a repository that has grown has many of them.
        borg("borg init -e none; borg config $BORG_REPO max_segment_size 5242880");
        borg("borg create -C none ::one src; borg check --verify-data");
        more(m);
        killed_during(m, &format!("{BORG} exec borg create -C none ::two src"), 5);
        borg("borg break-lock; borg check --verify-data");
        borg("mkdir back; cd back; borg extract ::one; diff -r --no-dereference ../old src");
        borg("borg create -C none ::three src; borg delete ::one; borg prune --keep-last 1; borg compact");
        m.remount();
        borg("borg check --verify-data; mkdir back2; cd back2; borg extract ::three; diff -r --no-dereference ../src src");
        assert_eq!(borg("borg list --short"), "three");
    });
}

#[test]
fn borg_backs_up_survives_a_kill_checks_extracts_and_prunes() {
    borg("close");
}

#[test]
#[ignore = "long"]
fn borg_does_so_when_the_spool_answers() {
    borg("spool");
}
