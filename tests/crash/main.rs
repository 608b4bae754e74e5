//! Nothing that was acknowledged is ever lost: the mount's process is killed, at every point of a fixed
//! scenario and at random ones of random work, and started again; the local disk loses its power.
//!
//! What may be on the server in the end follows from what the program was told (`model.rs`).
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod model;
mod points;
mod power;
mod random;
mod world;

use model::{Foreign, Model, Op};
use world::{Client, World};

/// Carries out `ops`; `false` if the mount's process has died meanwhile.
fn act(world: &mut World, client: &mut Client, model: &mut Model, ops: &[Op]) -> bool {
    for op in ops {
        model.begin(op);
        client.say(&op.to_string());
        let mut heard = client.hear();
        if matches!(op, Op::Open(..)) && heard.as_ref().is_err_and(|why| why == "ENOSPC") {
            // Told once: the store has not taken what is owed of it.
            client.say(&op.to_string());
            heard = client.hear();
        }
        match heard {
            Ok(_) => model.done(op),
            Err(_) if world.is_dead() => return false,
            Err(why) => panic!("{op}: {why}\n{}", world.log()),
        }
    }
    true
}

/// Mounts until the server has everything, and judges what it has. Each of `failpoints` is for one
/// more crash on the way. Returns how many of them were reached.
fn settle(
    world: &mut World,
    model: &Model,
    foreign: Option<&Foreign>,
    failpoints: &[String],
) -> Result<usize, String> {
    let mut reached = 0;
    for failpoint in failpoints {
        let ended = world.mount(Some(failpoint)) && world.umount();
        reached += usize::from(!ended);
    }
    assert!(world.mount(None), "killed without a failpoint");
    // What was taken up is on its way already; a file under a temporary name is not before the unmount.
    let temporary =
        |name: &String| name.ends_with(".tmp") || name.ends_with(".part") || name.starts_with('.');
    if !model.names().any(temporary) && foreign.is_none() && !world.wait() {
        return Err(format!(
            "wait does not say that all is well: {}",
            world.log()
        ));
    }
    assert!(world.umount(), "killed without a failpoint");
    look(world, model, foreign).map(|()| reached)
}

/// Judges what is on the server and in the spool after the last unmount.
fn look(world: &World, model: &Model, foreign: Option<&Foreign>) -> Result<(), String> {
    let told = |fault: String| format!("{fault}\n--- the log\n{}", world.log());
    let left = world.spooled();
    if let Some(owed) = left.iter().find(|left| left.class == "acknowledged") {
        return Err(told(format!("{} is still owed", owed.path)));
    }
    let kept: Vec<(String, Vec<u8>)> = (left.into_iter())
        .filter(|left| left.class == "refused")
        .map(|left| (left.path, left.content))
        .collect();
    let log = world.log();
    let odd = ["has no record", "damaged", "a record without", "panicked"];
    if let Some(odd) = odd.iter().find(|odd| log.contains(**odd)) {
        return Err(told(format!("the log says {odd:?}")));
    }
    model::judge(model, &world.stored(), foreign, &kept).map_err(told)
}

/// As [`look`] on a disk that lost what was not synced: names that were removed may be back, and an unsynced
/// record of bytes that nobody was promised may be damaged.
fn look_after_power_cut(world: &World, model: &Model) -> Result<(), String> {
    let told = |fault: String| format!("{fault}\n--- the log\n{}", world.log());
    if world.log().contains("panicked") {
        return Err(told("the mount panicked".to_owned()));
    }
    let mut stored = world.stored();
    stored.retain(|name, content| !model.is_ghost(name, content));
    model::judge(model, &stored, None, &[]).map_err(told)
}
