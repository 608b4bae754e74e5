//! What a program was told, and therefore what may be on the server in the end.

use super::world::content;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It must be new.
    New,
    /// Made, or cut to nothing.
    Cut,
    /// Every write goes to the end.
    Append,
    /// As it is.
    In,
}

/// One system call of the program. A slot is an open file, each opened once.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Open(u32, String, How),
    Write(u32, u32, usize),
    WriteAt(u32, usize, u32, usize),
    Resize(u32, usize),
    Fsync(u32),
    Close(u32),
    Rename(String, String),
    Unlink(String),
    /// Changes no byte.
    Chmod(String, u32),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Open(slot, name, how) => {
                write!(
                    f,
                    "open {slot} {name} {}",
                    format!("{how:?}").to_lowercase()
                )
            }
            Op::Write(slot, seed, len) => write!(f, "write {slot} {seed} {len}"),
            Op::WriteAt(slot, at, seed, len) => write!(f, "pwrite {slot} {at} {seed} {len}"),
            Op::Resize(slot, len) => write!(f, "size {slot} {len}"),
            Op::Fsync(slot) => write!(f, "fsync {slot}"),
            Op::Close(slot) => write!(f, "close {slot}"),
            Op::Rename(from, to) => write!(f, "rename {from} {to}"),
            Op::Unlink(name) => write!(f, "unlink {name}"),
            Op::Chmod(name, mode) => write!(f, "chmod {name} {mode}"),
        }
    }
}

/// A content, or that there is no file.
type Version = Option<Vec<u8>>;

#[derive(Clone, Debug, Default)]
struct Inode {
    /// As the program sees it.
    now: Vec<u8>,
    /// Changed since it was last answered for.
    dirty: bool,
    /// What may be there after a crash now: one version, or two while an answer is due.
    safe: Vec<Version>,
}

/// What may be on the server: for each name the versions, one of which is there.
pub(crate) type May = BTreeMap<String, Vec<Version>>;

/// The program's view. Files are renamed, removed and replaced only while they are closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    slots: BTreeMap<u32, (usize, usize)>,
    under_way: Option<Op>,
    /// What was once safe under a name.
    history: BTreeMap<String, Vec<Vec<u8>>>,
    /// Names whose file was moved away: until a commit the server may still have it under them.
    moved: BTreeSet<String>,
}

impl Model {
    /// The program begins `op`.
    pub(crate) fn begin(&mut self, op: &Op) {
        if let Op::Fsync(slot) | Op::Close(slot) = op {
            let (inode, _) = self.slots[slot];
            let inode = &mut self.inodes[inode];
            if inode.dirty {
                inode.safe.push(Some(inode.now.clone()));
            }
        }
        self.under_way = Some(op.clone());
    }

    /// `op` was answered with 0.
    pub(crate) fn done(&mut self, op: &Op) {
        self.under_way = None;
        match op {
            Op::Open(slot, name, how) => {
                let known = self.names.get(name).copied();
                // Who takes a name over answers for what is still there, from its first close on.
                let mut safe = vec![None];
                if self.moved.contains(name) {
                    safe.extend(
                        self.history
                            .get(name)
                            .into_iter()
                            .flatten()
                            .cloned()
                            .map(Some),
                    );
                }
                let inode = known.unwrap_or_else(|| {
                    self.inodes.push(Inode {
                        dirty: true,
                        safe,
                        ..Inode::default()
                    });
                    self.names.insert(name.clone(), self.inodes.len() - 1);
                    self.inodes.len() - 1
                });
                let file = &mut self.inodes[inode];
                if *how == How::Cut {
                    file.now.clear();
                    file.dirty = true;
                }
                let at = if *how == How::Append {
                    file.now.len()
                } else {
                    0
                };
                self.slots.insert(*slot, (inode, at));
            }
            Op::Write(slot, seed, len) => {
                let (_, at) = self.slots[slot];
                self.write(*slot, at, *seed, *len);
                self.slots.get_mut(slot).unwrap().1 += len;
            }
            Op::WriteAt(slot, at, seed, len) => self.write(*slot, *at, *seed, *len),
            Op::Resize(slot, len) => {
                let file = &mut self.inodes[self.slots[slot].0];
                file.now.resize(*len, 0);
                file.dirty = true;
            }
            Op::Fsync(slot) => self.safe(*slot),
            Op::Close(slot) => {
                self.safe(*slot);
                self.slots.remove(slot);
            }
            Op::Rename(from, to) => {
                let inode = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), inode);
                self.moved.insert(from.clone());
                self.moved.remove(to);
                self.remember(to);
            }
            Op::Unlink(name) => {
                self.names.remove(name);
                self.moved.remove(name);
            }
            Op::Chmod(..) => {}
        }
    }

    fn write(&mut self, slot: u32, at: usize, seed: u32, len: usize) {
        let file = &mut self.inodes[self.slots[&slot].0];
        file.now.resize(file.now.len().max(at + len), 0);
        file.now[at..at + len].copy_from_slice(&content(seed, len));
        file.dirty = true;
    }

    fn safe(&mut self, slot: u32) {
        let (inode, _) = self.slots[&slot];
        let file = &mut self.inodes[inode];
        if std::mem::take(&mut file.dirty) {
            file.safe = vec![Some(file.now.clone())];
        }
        let names = self.names.iter().filter(|&(_, &other)| other == inode);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.moved.remove(&name);
            self.remember(&name);
        }
    }

    fn remember(&mut self, name: &str) {
        let now = self.inodes[self.names[name]].now.clone();
        self.history.entry(name.to_owned()).or_default().push(now);
    }

    /// Whether `name` is gone and `content` is what it once had.
    pub(crate) fn is_ghost(&self, name: &str, content: &Vec<u8>) -> bool {
        let once = self.history.get(name);
        !self.names.contains_key(name) && once.is_some_and(|once| once.contains(content))
    }

    /// The name that a call under way is about, if any.
    pub(crate) fn is_touched(&self, name: &str) -> bool {
        match &self.under_way {
            Some(Op::Rename(from, to)) => from == name || to == name,
            Some(Op::Unlink(other)) => other == name,
            _ => false,
        }
    }

    /// The only version that `name` may have, if its program was told so.
    pub(crate) fn promised(&self, name: &str) -> Option<&Vec<u8>> {
        match &self.inodes[*self.names.get(name)?].safe[..] {
            [Some(only)] if !self.is_touched(name) => Some(only),
            _ => None,
        }
    }

    /// What the program sees under a name.
    pub(crate) fn seen(&self, name: &str) -> Option<&Vec<u8>> {
        self.names.get(name).map(|&inode| &self.inodes[inode].now)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// Everything that may be: more than one only while a name changes.
    pub(crate) fn may(&self) -> Vec<May> {
        let before: May = (self.names.iter())
            .map(|(name, &inode)| (name.clone(), self.inodes[inode].safe.clone()))
            .collect();
        let mut all = vec![before.clone()];
        match &self.under_way {
            Some(Op::Unlink(name)) => {
                let mut after = before;
                after.remove(name);
                all.push(after);
            }
            // Never neither: the file is under one of its names at least, whole.
            Some(Op::Rename(from, to)) => {
                let mut both = before;
                both.insert(to.clone(), both[from].clone());
                let mut after = both.clone();
                after.remove(from);
                all.extend([both, after]);
            }
            _ => {}
        }
        all
    }
}

/// A change by somebody else between the crash and the next mount.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    /// What the server had before.
    pub(crate) over: Option<Vec<u8>>,
}

/// What is wrong with what the server has in the end, for each thing that may be; `Ok` if one of them
/// is. `kept` are the contents of acknowledged and refused files in the spool, by path.
pub(crate) fn judge(
    model: &Model,
    stored: &BTreeMap<String, Vec<u8>>,
    foreign: Option<&Foreign>,
    kept: &[(String, Vec<u8>)],
) -> Result<(), String> {
    let mut faults = Vec::new();
    for may in model.may() {
        match wrong(model, &may, stored, foreign, kept) {
            None => return Ok(()),
            Some(fault) => faults.push(fault),
        }
    }
    Err(faults.join("\n or: "))
}

fn wrong(
    model: &Model,
    may: &May,
    stored: &BTreeMap<String, Vec<u8>>,
    foreign: Option<&Foreign>,
    kept: &[(String, Vec<u8>)],
) -> Option<String> {
    let absent = vec![None];
    let mut names: BTreeSet<&String> = may.keys().chain(stored.keys()).collect();
    if let Some(foreign) = foreign {
        let name = &foreign.name;
        if stored.get(name) != Some(&foreign.content) {
            return Some(format!("somebody else's {name} was overwritten"));
        }
        names.remove(name);
        let beside = format!("{name}.conflict-");
        let ours: Vec<&Vec<u8>> = (stored.iter())
            .filter(|(other, _)| other.starts_with(&beside))
            .map(|(_, content)| content)
            .collect();
        names.retain(|other| !other.starts_with(&beside));
        let versions = may.get(name).unwrap_or(&absent);
        if let Some(odd) = ours.iter().find(|o| !versions.contains(&Some(o.to_vec()))) {
            return Some(format!("beside {name}: {}", show(Some(odd))));
        }
        if let Some(promised) = model.promised(name)
            && foreign.over.as_ref() != Some(promised)
            && !ours.contains(&promised)
            && !kept
                .iter()
                .any(|(path, content)| path.trim_start_matches('/') == name && content == promised)
        {
            return Some(format!("{name} was promised and is nowhere"));
        }
    }
    for name in names {
        let versions = may.get(name).unwrap_or(&absent);
        let there = stored.get(name);
        if !versions.contains(&there.cloned()) {
            let wanted: Vec<String> = versions.iter().map(|v| show(v.as_ref())).collect();
            return Some(format!("{name} is {}, not {wanted:?}", show(there)));
        }
    }
    None
}

fn show(content: Option<&Vec<u8>>) -> String {
    match content {
        None => "absent".to_owned(),
        Some(bytes) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
            format!("{} bytes {:?}", bytes.len(), head.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ops: &[Op], under_way: Option<Op>) -> Model {
        let mut model = Model::default();
        for op in ops {
            model.begin(op);
            model.done(op);
        }
        if let Some(op) = under_way {
            model.begin(&op);
        }
        model
    }

    fn files(files: &[(&str, u32)]) -> BTreeMap<String, Vec<u8>> {
        (files.iter())
            .map(|(name, seed)| ((*name).to_owned(), content(*seed, 100)))
            .collect()
    }

    fn put(slot: u32, name: &str, seed: u32) -> [Op; 3] {
        [
            Op::Open(slot, name.to_owned(), How::Cut),
            Op::Write(slot, seed, 100),
            Op::Close(slot),
        ]
    }

    #[test]
    fn the_judge_sees_what_is_lost_torn_mixed_and_unexpected() {
        let model = after(&put(1, "a", 7), None);
        let ok = |stored: &[(&str, u32)]| judge(&model, &files(stored), None, &[]).is_ok();
        assert!(ok(&[("a", 7)]));
        assert!(!ok(&[]), "lost");
        assert!(!ok(&[("a", 8)]), "another version");
        assert!(!ok(&[("a", 7), ("b", 7)]), "unexpected");
        let torn = BTreeMap::from([("a".to_owned(), content(7, 99))]);
        assert!(judge(&model, &torn, None, &[]).is_err());
    }

    #[test]
    fn a_rename_under_way_leaves_the_file_under_one_name_at_least() {
        let ops = [put(1, "a", 1), put(2, "b", 2)].concat();
        let model = after(&ops, Some(Op::Rename("b".into(), "a".into())));
        let ok = |stored: &[(&str, u32)]| judge(&model, &files(stored), None, &[]).is_ok();
        assert!(ok(&[("a", 1), ("b", 2)]));
        assert!(ok(&[("a", 2), ("b", 2)]));
        assert!(ok(&[("a", 2)]));
        assert!(!ok(&[("b", 2)]), "the old one is lost");
        assert!(!ok(&[("a", 1)]), "the new one is lost");
    }

    #[test]
    fn an_unwritten_answer_is_the_old_version_or_the_new_one() {
        let mut ops = put(1, "a", 1).to_vec();
        ops.extend(put(2, "a", 2)[..2].iter().cloned());
        let before = after(&ops, None);
        let ok = |model: &Model, seed| judge(model, &files(&[("a", seed)]), None, &[]).is_ok();
        assert!(ok(&before, 1) && !ok(&before, 2), "not closed");
        let closing = after(&ops, Some(Op::Close(2)));
        assert!(ok(&closing, 1) && ok(&closing, 2) && !ok(&closing, 3));
    }

    #[test]
    fn what_somebody_else_put_there_stays_and_ours_is_beside_it() {
        let model = after(&put(1, "a", 1), None);
        let foreign = Foreign {
            name: "a".to_owned(),
            content: content(9, 100),
            over: None,
        };
        let ok =
            |stored: &[(&str, u32)]| judge(&model, &files(stored), Some(&foreign), &[]).is_ok();
        assert!(ok(&[("a", 9), ("a.conflict-h-t", 1)]));
        assert!(!ok(&[("a", 9)]), "ours is nowhere");
        assert!(!ok(&[("a", 1)]), "theirs is gone");
        assert!(!ok(&[("a", 9), ("a.conflict-h-t", 2)]), "what is that?");
        let kept = [("/a".to_owned(), content(1, 100))];
        assert!(judge(&model, &files(&[("a", 9)]), Some(&foreign), &kept).is_ok());
    }
}
