//! The power is cut: the spool lies on a filesystem of its own, in a file, and what the next mount finds is
//! a copy of that file, taken while everything that was not synced is still in memory only.
//!
//! With the process killed at a point of the scenario the copy holds what a disk would hold then.
//! Removals are not synced: a name that was removed or moved away may come back, with a version that
//! it had.

use super::model::{Model, Op};
use super::points::{FULL, can_run, every, scenario};
use super::world::{Served, World};
use super::{act, look_after_power_cut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the filesystem.
const SIZE: u64 = 48 << 20;

fn run(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A mounted ext4 in a file.
struct Disk {
    image: PathBuf,
    root: PathBuf,
}

impl Disk {
    /// An empty one; `None` where this process may not mount one.
    fn new(dir: &Path) -> Option<Self> {
        let image = dir.join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(SIZE)
            .unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        if !made {
            return None;
        }
        Disk::mounted(image, dir.join("disk"))
    }

    fn mounted(image: PathBuf, root: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&root).unwrap();
        // The journal is committed when a program asks for it, and never by the clock.
        let how = ["-t", "ext4", "-o", "loop,commit=600"];
        let args = [&how[..], &[image.to_str().unwrap(), root.to_str().unwrap()]].concat();
        run("mount", &args).then_some(Disk { image, root })
    }

    /// What a power cut would leave, mounted. A file that was not synced is not whole there.
    fn cut(&self, dir: &Path) -> Self {
        let control = vec![b'c'; 10_000];
        std::fs::write(self.root.join("control"), &control).unwrap();
        let image = dir.join("copy");
        std::fs::copy(&self.image, &image).unwrap();
        let copy = Disk::mounted(image, dir.join("disk2")).expect("the journal is replayed");
        let there = std::fs::read(copy.root.join("control")).unwrap_or_default();
        assert_ne!(there, control, "the copy has what was never synced");
        copy
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let root = self.root.to_str().unwrap().to_owned();
        if !run("umount", &[&root]) {
            run("umount", &["-l", &root]);
        }
    }
}

/// The scenario, killed at `failpoint`, and the power cut in that moment. The server takes nothing before:
/// whatever was acknowledged is in the spool alone. Whether it was killed, and how many files were owed.
fn one(
    served: &Served,
    folder: &str,
    failpoint: &str,
    ops: &[Op],
) -> Result<(bool, usize), String> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path()).expect("a disk");
    let mut world = World::new(served, folder, &["--commit=spool"]);
    world.set_state(&disk.root.join("state"));
    let mut model = Model::default();
    served.faults(FULL);
    let ended = world.mount(Some(failpoint)) && {
        let mut client = world.client();
        act(&mut world, &mut client, &mut model, ops)
    };
    world.kill();
    served.faults("[]");
    assert!(world.stored().is_empty(), "the server took something");
    let copy = disk.cut(dir.path());
    world.set_state(&copy.root.join("state"));
    let owed = world.acknowledged();
    assert!(world.mount(None) && world.umount());
    look_after_power_cut(&world, &model)?;
    drop((copy, disk));
    Ok((!ended, owed))
}

#[test]
fn no_power_cut_loses_what_the_spool_acknowledged() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if Disk::new(dir.path()).is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no loop device");
        eprintln!("SKIPPED: no filesystem can be mounted from a file here (root, loop, mkfs.ext4)");
        return;
    }
    let points: Vec<usize> = (1..=250).step_by(every(6)).collect();
    let next = AtomicUsize::new(0);
    let cuts = AtomicUsize::new(0);
    let with_debts = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let served = Served::start(&[]);
                while let Some(n) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failpoint = format!("spool:{n}");
                    match one(&served, &format!("p{n}"), &failpoint, &scenario()) {
                        Ok((killed, owed)) => {
                            cuts.fetch_add(usize::from(killed), Ordering::Relaxed);
                            with_debts.fetch_add(usize::from(owed > 0), Ordering::Relaxed);
                        }
                        Err(fault) => {
                            (faults.lock().unwrap()).push(format!("{failpoint}: {fault}"))
                        }
                    }
                }
            });
        }
    });
    let (faults, cuts) = (faults.into_inner().unwrap(), cuts.into_inner());
    let with_debts = with_debts.into_inner();
    println!(
        "power cut at {cuts} of {} points, {with_debts} with something owed",
        points.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(cuts * 2 >= points.len(), "only {cuts}");
    assert!(with_debts * 4 >= points.len() * 3, "only {with_debts}");
}
