//! The filesystem as a state machine: a program on a few names, with several open files, a store that refuses
//! or cannot be reached, somebody else, and a process that is killed in the middle of any request; against
//! a model of what the program was told. A failure prints the shortest program that shows it, and its seed.

use super::*;
use crate::write::unsent::Stays;
use globset::Glob;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const NAMES: [&str; 4] = ["a", "b", "c", "t.tmp"];
const SLOTS: usize = 3;
/// By the clock of the test, which stands still while anything goes on.
const FOR_EVER: Duration = Duration::from_secs(100_000);
/// Requests in which the process may be killed, or which may fail.
const REQUESTS: [&str; 7] = ["stat", "put", "start", "part", "finish", "remove", "read"];

#[derive(Clone, Debug)]
enum Step {
    /// Opens for writing; makes it if it is not there.
    Open {
        slot: usize,
        name: usize,
        cut: bool,
    },
    Write {
        slot: usize,
        at: u64,
        len: usize,
    },
    Resize {
        slot: usize,
        size: u64,
    },
    Fsync {
        slot: usize,
    },
    Close {
        slot: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Unlink {
        name: usize,
    },
    Read {
        name: usize,
    },
    /// Somebody else stores a file there.
    Foreign {
        name: usize,
    },
    /// The next request of this kind fails; with `done`, after its work.
    Fault {
        request: usize,
        kind: usize,
        done: bool,
    },
    /// The process is killed when it next makes this request.
    Snag {
        request: usize,
    },
    /// The process is killed.
    Kill,
    /// All is closed, sent, and mounted again.
    Remount,
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, name) = (0..SLOTS, 0..NAMES.len());
    let request = 0..REQUESTS.len();
    prop_oneof![
        6 => (slot.clone(), name.clone(), any::<bool>()).prop_map(|(slot, name, cut)| Step::Open { slot, name, cut }),
        6 => (slot.clone(), 0..200u64, 1..150usize).prop_map(|(slot, at, len)| Step::Write { slot, at, len }),
        1 => (slot.clone(), 0..300u64).prop_map(|(slot, size)| Step::Resize { slot, size }),
        2 => slot.clone().prop_map(|slot| Step::Fsync { slot }),
        6 => slot.prop_map(|slot| Step::Close { slot }),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => name.clone().prop_map(|name| Step::Unlink { name }),
        2 => name.clone().prop_map(|name| Step::Read { name }),
        1 => name.prop_map(|name| Step::Foreign { name }),
        2 => (request.clone(), 0..FAULTS.len(), any::<bool>())
            .prop_map(|(request, kind, done)| Step::Fault { request, kind, done }),
        1 => request.prop_map(|request| Step::Snag { request }),
        1 => Just(Step::Kill),
        1 => Just(Step::Remount),
    ]
}

const FAULTS: [Kind; 4] = [Kind::Unreachable, Kind::Later, Kind::Broken, Kind::Quota];

/// A content, or that there is no file.
type Version = Option<Vec<u8>>;

/// What the program sees, and what it was told.
#[derive(Clone, Debug, Default)]
struct File {
    now: Vec<u8>,
    dirty: bool,
    /// What may be there after a kill: one of these.
    safe: Vec<Version>,
}

/// What one life of the process has done, as far as its program knows.
#[derive(Debug, Default)]
struct Model {
    files: Vec<File>,
    names: BTreeMap<&'static str, usize>,
    /// What a name may also have: it was moved away, removed in doubt, or somebody else's.
    also: BTreeMap<&'static str, Vec<Version>>,
    /// Contents of somebody else under a name that nobody here has touched since.
    foreign: BTreeMap<&'static str, Vec<u8>>,
    /// Of these, where something of ours is on its way.
    contested: BTreeSet<&'static str>,
    /// What a name had that was moved away: who takes the name over answers for its removal, from the
    /// first close on.
    moved: BTreeMap<&'static str, Vec<Version>>,
}

impl Model {
    /// All is as the store has it.
    fn of(stored: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut model = Model::default();
        for name in NAMES {
            if let Some(bytes) = stored.get(name) {
                model.names.insert(name, model.files.len());
                model.files.push(File {
                    now: bytes.clone(),
                    dirty: false,
                    safe: vec![Some(bytes.clone())],
                });
            }
        }
        model
    }

    fn also(&mut self, name: &'static str, versions: impl IntoIterator<Item = Version>) {
        self.also.entry(name).or_default().extend(versions);
    }

    /// What a name may have.
    fn may(&self, name: &str) -> Vec<Version> {
        let mut may = self.also.get(name).cloned().unwrap_or_default();
        match self.names.get(name) {
            Some(&file) => may.extend(self.files[file].safe.iter().cloned()),
            None => may.push(None),
        }
        may
    }

    /// The program has seen what somebody else put there.
    fn saw(&mut self, name: &'static str) {
        if let Some(bytes) = self.foreign.remove(name) {
            self.also.remove(name);
            self.names.insert(name, self.files.len());
            self.files.push(File {
                now: bytes.clone(),
                dirty: false,
                safe: vec![Some(bytes)],
            });
        }
    }

    fn answered(&mut self, file: usize, ok: bool) {
        let known = &mut self.files[file];
        if ok && std::mem::take(&mut known.dirty) {
            known.safe = vec![Some(known.now.clone())];
            let name = self.names.iter().find(|(_, other)| **other == file);
            if let Some((name, _)) = name.filter(|(name, _)| !self.foreign.contains_key(*name)) {
                self.also.remove(name);
            }
        }
    }

    fn renamed(&mut self, from: &'static str, to: &'static str, done: bool) {
        let moved = self.names[from];
        let before = self.may(to);
        let old = self.may(from);
        let whole = matches!(&self.files[moved].safe[..], [Some(_)]) && !self.files[moved].dirty;
        // What an older file of the new name may have left there.
        let ghost = self.moved.get(to).cloned().unwrap_or_default();
        if !done {
            // Never neither, which the judge looks at by the content.
            self.also(to, self.files[moved].safe.clone());
            self.also(to, ghost);
            self.also(from, [None]);
            self.also(from, before);
            return;
        }
        if from == to {
            return;
        }
        self.names.remove(from);
        self.names.insert(to, moved);
        self.moved
            .entry(from)
            .or_default()
            .extend(old.iter().cloned());
        self.moved.remove(to);
        self.also.remove(to);
        if whole {
            self.also.remove(from);
        } else {
            self.also(from, old);
            self.also(to, before);
            self.also(to, ghost);
        }
    }
}

/// One process.
struct Life {
    rt: tokio::runtime::Runtime,
    vfs: Arc<Vfs>,
    slots: [Option<(u64, usize)>; SLOTS],
    /// The process is killed when the store was asked so often for so and so.
    snag: Option<(&'static str, usize)>,
}

struct World {
    store: Arc<Memory>,
    home: tempfile::TempDir,
    lives: usize,
    promise: Promise,
    life: Option<Life>,
    model: Model,
    writes: u8,
    /// Files in the spool that nobody sends by itself.
    kept: BTreeSet<(String, Vec<u8>)>,
    trace: Vec<String>,
}

enum Ended<T> {
    So(Result<T>),
    Killed,
}

impl Life {
    fn start(store: &Arc<Memory>, spool: &Path, promise: Promise) -> Self {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let mut options = options(spool);
        options.commit = promise;
        options.attr_ttl = Duration::ZERO;
        options.negative_ttl = Duration::ZERO;
        options.temp_names = vec![Glob::new("*.tmp").unwrap()];
        let vfs = rt.block_on(async {
            let probe = store.probe().await.unwrap();
            let handle = tokio::runtime::Handle::current();
            let vfs = Vfs::new(store.clone(), &probe, options, handle).unwrap();
            let taken = vfs.take_up().await;
            assert!(taken.odd.is_empty(), "{taken:?}");
            vfs
        });
        Life {
            rt,
            vfs,
            slots: [None; SLOTS],
            snag: None,
        }
    }

    /// Lets the program's call go on until it ends or the process is killed.
    fn call<T>(&self, store: &Memory, call: impl AsyncFnOnce(&Vfs) -> Result<T>) -> Ended<T> {
        let snag = self.snag;
        self.rt.block_on(async {
            let killed = async {
                let Some((request, count)) = snag else {
                    return std::future::pending().await;
                };
                while store.count(request) < count {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                () = killed => Ended::Killed,
                ended = call(&self.vfs) => Ended::So(ended),
                () = tokio::time::sleep(FOR_EVER) => panic!("it never ends"),
            }
        })
    }
}

impl World {
    fn new(promise: Promise) -> Self {
        let mut store = Memory::new();
        store.caps.conditional_replace = true;
        let (store, home) = (Arc::new(store), tempfile::tempdir().unwrap());
        let life = Some(Life::start(&store, home.path(), promise));
        World {
            store,
            home,
            lives: 0,
            promise,
            life,
            model: Model::default(),
            writes: 0,
            kept: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    /// Killed, started again, everything sent that will be; then what the store has is judged.
    fn kill(&mut self) {
        self.life().vfs.write.spool.freeze();
        self.begin_again();
    }

    fn begin_again(&mut self) {
        let Life { rt, vfs, .. } = self.life.take().unwrap();
        // No task of it goes on; what is being written to the disk now is.
        rt.shutdown_timeout(Duration::from_secs(60));
        assert_eq!(Arc::strong_count(&vfs), 1, "somebody still works");
        drop(vfs);
        *self.store.gate.lock().unwrap() = None;
        self.store.faults.lock().unwrap().clear();
        self.lives += 1;
        self.life = Some(Life::start(&self.store, self.home.path(), self.promise));
        self.settle();
        self.judge();
    }

    fn settle(&self) {
        let left = self
            .life()
            .rt
            .block_on(self.life().vfs.drain(Duration::from_secs(3600)));
        assert_eq!(
            left.kept,
            0,
            "{left:?}: owed, and not sent: {:?}\n{}",
            self.life().vfs.unsent(),
            self.told()
        );
        self.life().vfs.undrain();
    }

    fn told(&self) -> String {
        self.trace.join("\n")
    }

    fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        let paths = self.store.paths().into_iter();
        paths
            .map(|path| {
                let bytes = self.store.content(&path).unwrap().to_vec();
                (path, bytes)
            })
            .collect()
    }

    /// What is in the spool for somebody to look at: nothing is written to it now.
    fn refused(&self) -> BTreeSet<(String, Vec<u8>)> {
        let mut refused = BTreeSet::new();
        for unsent in self.life().vfs.unsent().unwrap() {
            if [Stays::Owed, Stays::Refused].contains(&unsent.state) {
                let mut bytes = std::fs::read(&unsent.data).unwrap();
                bytes.truncate(unsent.size as usize);
                let path = unsent.path.unwrap();
                refused.insert((path.trim_start_matches('/').to_owned(), bytes));
            }
        }
        refused
    }

    /// Every name has what it may have; what was promised is somewhere; somebody else's is untouched.
    fn judge(&mut self) {
        let stored = self.stored();
        self.kept = self.refused();
        let context = || {
            format!(
                "\nstored: {}\nkept: {}\nmodel: {}\n{}",
                short(&stored),
                short(&self.kept),
                short(&self.model),
                self.told()
            )
        };
        for name in NAMES {
            let there = stored.get(name);
            let beside = format!("{name}.conflict-");
            let ours: Vec<&Vec<u8>> = (stored.iter())
                .filter(|(other, _)| other.starts_with(&beside))
                .map(|(_, bytes)| bytes)
                .collect();
            let may = self.model.may(name);
            let kept = |bytes: &Vec<u8>| self.kept.contains(&(name.to_owned(), bytes.clone()));
            if let Some(foreign) = self.model.foreign.get(name) {
                assert_eq!(
                    there,
                    Some(foreign),
                    "somebody else's {name} is gone{}",
                    context()
                );
            } else {
                assert!(
                    may.contains(&there.cloned()) || may.iter().flatten().any(kept),
                    "{name}: {there:?}{}",
                    context()
                );
            }
            if !may.contains(&None) {
                let safe = |version: &Version| {
                    version.as_ref().is_some_and(|bytes| {
                        there == Some(bytes) || ours.contains(&bytes) || kept(bytes)
                    })
                };
                assert!(
                    may.iter().any(safe),
                    "{name} was promised and is nowhere{}",
                    context()
                );
            }
        }
        let known = |path: &String| {
            NAMES
                .iter()
                .any(|name| path == name || path.starts_with(&format!("{name}.conflict-")))
        };
        assert!(stored.keys().all(known), "what is that?{}", context());
        self.model = Model::of(&stored);
    }

    fn take(&mut self, step: &Step) {
        self.trace.push(format!("{step:?}"));
        let store = self.store.clone();
        match *step {
            Step::Open { slot, name, cut } => self.open(slot, NAMES[name], cut),
            Step::Write { slot, at, len } => {
                let Some((fh, file)) = self.life().slots[slot] else {
                    return;
                };
                self.writes = self.writes.wrapping_add(1).max(1);
                let bytes = vec![self.writes; len];
                match self
                    .life()
                    .call(&store, async |vfs| vfs.write(fh, at, &bytes).await)
                {
                    Ended::So(Ok(())) => {
                        let file = &mut self.model.files[file];
                        let end = at as usize + len;
                        file.now.resize(file.now.len().max(end), 0);
                        file.now[at as usize..end].copy_from_slice(&bytes);
                        file.dirty = true;
                    }
                    Ended::So(Err(error)) => self.trace.push(format!("  {error}")),
                    Ended::Killed => self.kill(),
                }
            }
            Step::Resize { slot, size } => {
                let Some((fh, file)) = self.life().slots[slot] else {
                    return;
                };
                let change = Change {
                    size: Some(size),
                    ..Change::default()
                };
                let ino = self.ino(file);
                let Some(ino) = ino else { return };
                match self
                    .life()
                    .call(&store, async |vfs| vfs.setattr(ino, Some(fh), change).await)
                {
                    Ended::So(Ok(_)) => {
                        let file = &mut self.model.files[file];
                        file.now.resize(size as usize, 0);
                        file.dirty = true;
                    }
                    Ended::So(Err(error)) => self.trace.push(format!("  {error}")),
                    Ended::Killed => self.kill(),
                }
            }
            Step::Fsync { slot } => self.answer(slot, false),
            Step::Close { slot } => self.answer(slot, true),
            Step::Rename { from, to } => {
                let (from, to) = (NAMES[from], NAMES[to]);
                if !self.model.names.contains_key(from)
                    || [from, to]
                        .iter()
                        .any(|name| self.is_contested(name) || self.is_blind(name))
                {
                    return;
                }
                self.model.saw(from);
                self.model.saw(to);
                let stored = self.store.content(from).map(|bytes| bytes.to_vec());
                match self.life().call(&store, async |vfs| {
                    vfs.rename(ROOT, from, ROOT, to, false).await
                }) {
                    Ended::So(Ok(())) => {
                        self.model.renamed(from, to, true);
                        if from != to {
                            self.model.moved.entry(from).or_default().push(stored);
                        }
                    }
                    Ended::So(Err(error)) => {
                        self.trace.push(format!("  {error}"));
                        self.model.renamed(from, to, false);
                        // Its name may have moved here all the same: what is where is seen after a start.
                        self.kill();
                    }
                    Ended::Killed => {
                        self.model.renamed(from, to, false);
                        self.kill();
                    }
                }
            }
            Step::Unlink { name } => {
                let name = NAMES[name];
                if !self.model.names.contains_key(name)
                    || self.is_contested(name)
                    || self.is_blind(name)
                {
                    return;
                }
                let ended = self
                    .life()
                    .call(&store, async |vfs| vfs.unlink(ROOT, name).await);
                self.model.foreign.remove(name);
                match ended {
                    Ended::So(Ok(())) => {
                        self.model.names.remove(name);
                        self.model.also.remove(name);
                        self.model.moved.remove(name);
                    }
                    Ended::So(Err(error)) => {
                        self.trace.push(format!("  {error}"));
                        self.model.also(name, [None]);
                    }
                    Ended::Killed => {
                        self.model.also(name, [None]);
                        self.kill();
                    }
                }
            }
            Step::Read { name } => self.read(NAMES[name]),
            Step::Foreign { name } => {
                let name = NAMES[name];
                if name == "t.tmp" && self.model.names.contains_key(name) {
                    // Whether ours has arrived there cannot be seen by its bytes.
                    return;
                }
                self.writes = self.writes.wrapping_add(1).max(1);
                let bytes = vec![self.writes; 77];
                let over = self.store.content(name).map(|bytes| bytes.to_vec());
                if over.is_some() && self.model.may(name).contains(&over) {
                    // It arrived: what becomes of it now is theirs to say.
                    self.model.also(name, [None]);
                }
                let ours = self
                    .model
                    .names
                    .get(name)
                    .map(|&file| &self.model.files[file]);
                // Or its answer was lost.
                let path = format!("/{name}");
                let writers = self.life().vfs.writers();
                let unsettled =
                    (writers.iter()).any(|one| one.target().path == path && !one.is_settled());
                let on_its_way = unsettled
                    || ours.is_some_and(|ours| ours.dirty || over.as_ref() != Some(&ours.now));
                if on_its_way || self.is_open(name) {
                    self.model.contested.insert(name);
                }
                self.store.plant(name, &bytes);
                // What was seen before is not believed at a commit then.
                self.life()
                    .rt
                    .block_on(tokio::time::advance(Duration::from_secs(6)));
                self.model.also(name, [Some(bytes.clone())]);
                self.model.foreign.insert(name, bytes);
            }
            Step::Fault {
                request,
                kind,
                done,
            } => {
                self.store.faults.lock().unwrap().push_back(Fault {
                    op: REQUESTS[request],
                    kind: FAULTS[kind],
                    // What was refused was not done.
                    done: done && kind < 3 && ["put", "finish"].contains(&REQUESTS[request]),
                });
            }
            Step::Snag { request } => {
                if self.life().snag.is_some() {
                    return;
                }
                let request = REQUESTS[request];
                let never = Arc::new(Semaphore::new(0));
                *self.store.gate.lock().unwrap() = Some((request, never));
                self.life.as_mut().unwrap().snag = Some((request, self.store.count(request) + 1));
            }
            Step::Kill => self.kill(),
            Step::Remount => self.remount(),
        }
    }

    fn ino(&self, file: usize) -> Option<u64> {
        let (name, _) = self.model.names.iter().find(|(_, other)| **other == file)?;
        self.life().rt.block_on(walk(&self.life().vfs, name)).ok()
    }

    fn open(&mut self, slot: usize, name: &'static str, cut: bool) {
        if self.life().slots[slot].is_some() || self.is_contested(name) || self.is_blind(name) {
            return;
        }
        let flags = OpenFlags {
            write: true,
            truncate: cut,
            exclusive: false,
        };
        let store = self.store.clone();
        let opened = match self.life().call(&store, async |vfs| {
            vfs.create(ROOT, name, 0o644, flags).await
        }) {
            Ended::So(Ok((_, opened))) => opened,
            Ended::So(Err(error)) => return self.trace.push(format!("  {error}")),
            Ended::Killed => return self.kill(),
        };
        self.model.saw(name);
        let moved = self.model.moved.remove(name);
        self.model.also(name, moved.into_iter().flatten());
        let safe = self.model.may(name);
        let file = *self.model.names.entry(name).or_insert_with(|| {
            self.model.files.push(File {
                dirty: true,
                safe,
                ..File::default()
            });
            self.model.files.len() - 1
        });
        if cut {
            self.model.files[file].now.clear();
            self.model.files[file].dirty = true;
        }
        self.life.as_mut().unwrap().slots[slot] = Some((opened.fh, file));
    }

    /// Somebody else stored a file where ours is open.
    fn is_contested(&self, name: &str) -> bool {
        self.model.contested.contains(name)
    }

    /// Whether the next look at a name that somebody else has changed may fail: then the older version is
    /// shown.
    fn is_blind(&self, name: &str) -> bool {
        let fault = self.store.faults.lock().unwrap();
        let blind =
            fault.front().is_some_and(|one| one.op == "stat") || self.life().vfs.is_silent();
        self.model.foreign.contains_key(name) && blind
    }

    fn is_open(&self, name: &str) -> bool {
        let file = self.model.names.get(name);
        self.life()
            .slots
            .iter()
            .flatten()
            .any(|(_, open)| file == Some(open))
    }

    fn answer(&mut self, slot: usize, close: bool) {
        let Some((fh, file)) = self.life().slots[slot] else {
            return;
        };
        if self.model.files[file].dirty {
            let now = Some(self.model.files[file].now.clone());
            self.model.files[file].safe.push(now);
        }
        let store = self.store.clone();
        let ended = self.life().call(&store, async |vfs| match close {
            true => super::close(vfs, fh).await,
            false => vfs.fsync(fh).await,
        });
        if close {
            self.life.as_mut().unwrap().slots[slot] = None;
        }
        match ended {
            Ended::So(result) => {
                if let Err(error) = &result {
                    self.trace.push(format!("  {error}"));
                }
                self.model.answered(file, result.is_ok());
            }
            Ended::Killed => self.kill(),
        }
    }

    fn read(&mut self, name: &'static str) {
        let store = self.store.clone();
        let ended = self.life().call(&store, async |vfs| {
            let ino = walk(vfs, name).await?;
            read_file(vfs, ino).await
        });
        match ended {
            Ended::Killed => self.kill(),
            Ended::So(Err(error)) => self.trace.push(format!("  {error}")),
            Ended::So(Ok(bytes)) => {
                let own = self
                    .model
                    .names
                    .get(name)
                    .map(|&file| &self.model.files[file].now);
                if let (Some(own), None, None) =
                    (own, self.model.foreign.get(name), self.model.also.get(name))
                {
                    assert_eq!(bytes, own, "{name} is read differently\n{}", self.told());
                }
            }
        }
    }

    fn remount(&mut self) {
        for slot in 0..SLOTS {
            if self.life().slots[slot].is_some() {
                let lives = self.lives;
                self.answer(slot, true);
                if self.lives != lives {
                    return;
                }
            }
        }
        let store = self.store.clone();
        let drain = async |vfs: &Vfs| {
            vfs.drain(Duration::from_secs(3600)).await;
            Ok(())
        };
        if let Ended::Killed = self.life().call(&store, drain) {
            return self.kill();
        }
        self.life().vfs.close_spool();
        self.begin_again();
    }
}

/// Runs of the same byte are told by their length.
fn short(what: &impl std::fmt::Debug) -> String {
    let mut told: Vec<(String, usize)> = Vec::new();
    for word in format!("{what:?}").split(", ") {
        match told.last_mut() {
            Some((last, times)) if last == word => *times += 1,
            _ => told.push((word.to_owned(), 1)),
        }
    }
    let words = told.into_iter().map(|(word, times)| match times {
        1 => word,
        times => format!("{word} x{times}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn play(promise: Promise, steps: &[Step]) {
    let mut world = World::new(promise);
    for step in steps {
        world.take(step);
    }
    world.take(&Step::Kill);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_with_the_stores_promise(steps in prop::collection::vec(step(), 1..40)) {
        play(Promise::Store, &steps);
    }

    #[test]
    fn whatever_happens_with_the_spools_promise(steps in prop::collection::vec(step(), 1..40)) {
        play(Promise::Spool, &steps);
    }
}

/// Programs that have found something.
#[test]
fn what_was_found_before_is_not_there_again() {
    use Step::*;
    let (yes, no) = (true, false);
    // Three files after each other under one name, the last two open: the first is promised until the last is.
    let chain = [
        Foreign { name: 0 },
        Open {
            slot: 2,
            name: 1,
            cut: no,
        },
        Open {
            slot: 1,
            name: 0,
            cut: no,
        },
        Write {
            slot: 1,
            at: 0,
            len: 1,
        },
        Open {
            slot: 0,
            name: 3,
            cut: no,
        },
        Close { slot: 2 },
        Close { slot: 0 },
        Open {
            slot: 0,
            name: 1,
            cut: yes,
        },
        Rename { from: 1, to: 3 },
        Rename { from: 0, to: 3 },
    ];
    // A rename while a version is being made durable.
    let keeping = [
        Foreign { name: 1 },
        Open {
            slot: 2,
            name: 1,
            cut: no,
        },
        Open {
            slot: 1,
            name: 1,
            cut: yes,
        },
        Close { slot: 2 },
        Open {
            slot: 2,
            name: 1,
            cut: no,
        },
        Write {
            slot: 2,
            at: 74,
            len: 73,
        },
        Fault {
            request: 3,
            kind: 3,
            done: no,
        },
        Close { slot: 2 },
        Rename { from: 1, to: 2 },
        Open {
            slot: 0,
            name: 2,
            cut: no,
        },
    ];
    // A commit that has all but removed what another has left under an old name, and is killed.
    let stray = [
        Foreign { name: 0 },
        Open {
            slot: 0,
            name: 1,
            cut: no,
        },
        Fault {
            request: 1,
            kind: 0,
            done: yes,
        },
        Fault {
            request: 5,
            kind: 0,
            done: no,
        },
        Close { slot: 0 },
        Open {
            slot: 0,
            name: 0,
            cut: no,
        },
        Rename { from: 1, to: 0 },
    ];
    // A file takes over, with the name of another, what that had to remove; whose old name is then taken again.
    let heir = [
        Open {
            slot: 0,
            name: 2,
            cut: no,
        },
        Remount,
        Rename { from: 2, to: 3 },
        Open {
            slot: 2,
            name: 0,
            cut: no,
        },
        Rename { from: 0, to: 3 },
        Close { slot: 2 },
        Open {
            slot: 2,
            name: 2,
            cut: no,
        },
        Fsync { slot: 2 },
    ];
    for promise in [Promise::Store, Promise::Spool] {
        play(promise, &heir);
        play(promise, &chain);
        play(promise, &keeping);
        play(promise, &stray);
    }
}
