//! Random work, a kill at a random moment, now and then somebody else's change, now and then another
//! kill on the way back.

use super::model::{Foreign, How, Model, Op};
use super::points::words;
use super::world::{Served, World, content};
use super::{act, settle};
use crate::common::mount::has_fuse;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many seeds a run tries, unless `ASSETFS_CRASH_SEEDS` says, or `ASSETFS_SOAK_MINUTES` how long.
const SEEDS: u64 = 60;

/// Names of the work; the last three are temporary ones.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "x.tmp", "y.part", ".z.Ab12Cd"];

struct Dice(TestRng);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Dice(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn len(&mut self) -> usize {
        let most = *self.pick(&[1, 100, 5000, 70_000, 200_000]);
        self.below(most + 1)
    }
}

/// An open file: its name, and whether something was written.
struct Slot {
    slot: u32,
    name: String,
}

/// Random work of `n` calls, such that each is legal if all before it were answered with 0.
fn ops(dice: &mut Dice, n: usize) -> Vec<Op> {
    let mut model = Model::default();
    let mut open: Vec<Slot> = Vec::new();
    let mut ops: Vec<Op> = Vec::new();
    let mut next = 0;
    while ops.len() < n {
        next += 1;
        let is_open = |name: &str| open.iter().any(|slot| slot.name == name);
        let closed: Vec<String> = (model.names())
            .filter(|name| !is_open(name))
            .cloned()
            .collect();
        let op = match dice.below(12) {
            0..=2 if open.len() < 3 => {
                let name = dice.pick(&NAMES).to_string();
                if is_open(&name) {
                    continue;
                }
                let how = match model.seen(&name) {
                    None => How::New,
                    Some(_) => *dice.pick(&[How::Cut, How::Append, How::In]),
                };
                open.push(Slot {
                    slot: next,
                    name: name.clone(),
                });
                Op::Open(next, name, how)
            }
            3..=5 if !open.is_empty() => {
                let slot = dice.pick(&open);
                let size = model.seen(&slot.name).map_or(0, Vec::len);
                match dice.below(4) {
                    0 => Op::WriteAt(slot.slot, dice.below(size + 1), next, dice.len().max(1)),
                    1 if dice.one_in(3) => Op::Resize(slot.slot, dice.below(size + 5000)),
                    _ => Op::Write(slot.slot, next, dice.len().max(1)),
                }
            }
            6 if !open.is_empty() => Op::Fsync(dice.pick(&open).slot),
            7..=8 if !open.is_empty() => {
                let at = dice.below(open.len());
                Op::Close(open.swap_remove(at).slot)
            }
            9..=10 if !closed.is_empty() => {
                let to = dice.pick(&NAMES).to_string();
                let from = dice.pick(&closed).clone();
                if from == to || is_open(&to) {
                    continue;
                }
                Op::Rename(from, to)
            }
            11 if !closed.is_empty() && dice.one_in(2) => Op::Unlink(dice.pick(&closed).clone()),
            _ => continue,
        };
        // With O_APPEND every write goes to the end, wherever that is: not modelled.
        if let Op::WriteAt(slot, ..) | Op::Resize(slot, _) = &op
            && ops
                .iter()
                .any(|other| matches!(other, Op::Open(s, _, How::Append) if s == slot))
        {
            continue;
        }
        model.begin(&op);
        model.done(&op);
        ops.push(op);
    }
    ops
}

/// How the process meets its end.
#[derive(Debug)]
enum End {
    /// At a failpoint.
    Point(String),
    /// From outside, so many microseconds after a call has begun.
    Within(usize, u64),
    /// From outside, when a call was answered.
    After(usize),
}

fn end(dice: &mut Dice, calls: usize) -> End {
    match dice.below(4) {
        0 if cfg!(debug_assertions) => End::Point(format!("spool:{}", 1 + dice.below(150))),
        1 if cfg!(debug_assertions) => End::Point(format!("http:{}", 1 + dice.below(60))),
        2 => End::Within(dice.below(calls), dice.below(20_000) as u64),
        _ => End::After(dice.below(calls)),
    }
}

fn one(served: &Served, seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let commit = *dice.pick(&["--commit=close", "--commit=spool"]);
    let n = 10 + dice.below(40);
    let ops = ops(&mut dice, n);
    let end = end(&mut dice, ops.len());
    let mut world = World::new(served, &format!("seed{seed}"), &[commit]);
    let mut model = Model::default();
    let story = format!("{commit}, {end:?}\n{}", told(&ops));
    let failpoint = match &end {
        End::Point(point) => Some(point.as_str()),
        End::Within(..) | End::After(_) => None,
    };
    if world.mount(failpoint) {
        let mut client = world.client();
        match end {
            End::Point(_) => {
                act(&mut world, &mut client, &mut model, &ops);
            }
            End::After(last) => {
                assert!(act(&mut world, &mut client, &mut model, &ops[..=last]));
            }
            End::Within(last, micros) => {
                assert!(act(&mut world, &mut client, &mut model, &ops[..last]));
                model.begin(&ops[last]);
                client.say(&ops[last].to_string());
                // No wait for anything: the moment of the kill is what is random here.
                std::thread::park_timeout(Duration::from_micros(micros));
                world.kill_only();
                // While the dead mount is still there: what is below it is nobody's business.
                if client.hear().is_ok() {
                    model.done(&ops[last]);
                }
            }
        }
        world.kill();
    }
    let foreign = (dice.one_in(3)).then(|| {
        let before = world.stored();
        let name = dice.pick(&NAMES[..5]).to_string();
        let over = before.get(&name).cloned();
        Foreign {
            name,
            content: content(99_999_999, 12_345),
            over,
        }
    });
    let foreign = foreign.filter(|foreign| !model.is_touched(&foreign.name));
    if let Some(foreign) = &foreign {
        world.foreign(&foreign.name, &foreign.content);
    }
    let mut again = Vec::new();
    if cfg!(debug_assertions) && dice.one_in(3) {
        again.push(format!(
            "{}:{}",
            dice.pick(&["spool", "http"]),
            1 + dice.below(25)
        ));
    }
    settle(&mut world, &model, foreign.as_ref(), &again)
        .map(drop)
        .map_err(|fault| format!("{story}then {again:?}, by others {foreign:?}: {fault}"))
}

fn told(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_kill_at_a_random_moment_loses_what_was_acknowledged() {
    if !has_fuse() {
        return;
    }
    let first = number("ASSETFS_CRASH_SEED");
    let wanted = number("ASSETFS_CRASH_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let first = first.unwrap_or(1);
    let until = number("ASSETFS_SOAK_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let begun = Instant::now();
    let over = |seed| match until {
        Some(until) => begun.elapsed() >= until,
        None => seed >= first + wanted,
    };
    let next = AtomicU64::new(first);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let served = Served::start(&["--rtt=1ms"]);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if over(seed) {
                        return;
                    }
                    let done = std::panic::catch_unwind(|| one(&served, seed));
                    let fault = match done {
                        Ok(Ok(())) => continue,
                        Ok(Err(fault)) => fault,
                        Err(why) => words(&*why),
                    };
                    faults.lock().unwrap().push(format!(
                        "ASSETFS_CRASH_SEED={seed} cargo test --test crash random\n{fault}"
                    ));
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    let seeds = next.into_inner() - first - 2;
    println!("random kills: {seeds} seeds from {first}");
    assert!(
        faults.is_empty(),
        "{} of {seeds} seeds:\n{}",
        faults.len(),
        faults.join("\n\n")
    );
}
