//! The tree of what is known: inodes, names, what the store said and when. Plain data and pure steps; the
//! lock around it is never held across an await.

use crate::store::{Attrs, Entry, Kind, Place, Version};
use crate::write::Writer;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The inode number of the mount's root.
pub const ROOT: u64 = 1;

/// One inode.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: u64,
    /// The directory it is in; itself for the root; 0 once it has no name.
    pub(super) parent: u64,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// What the store said last; `None`: not on the store yet.
    pub(super) entry: Option<Arc<Entry>>,
    /// When the store confirmed it.
    pub(super) checked: Instant,
    /// Until when an older answer is shown, because the store is away.
    pub(super) shown_until: Option<Instant>,
    /// When it was last changed through this mount: what the store said before is older.
    pub(super) changed: Option<Instant>,
    /// Attributes as shown, unless a writer holds newer ones.
    pub(super) attrs: Attrs,
    /// The time of the last write through this mount, shown instead of the store's own time.
    pub(super) written: Option<SystemTime>,
    /// When attributes or content last changed through this mount.
    pub(super) ctime: Option<SystemTime>,
    /// References that the kernel holds.
    pub(super) lookups: u64,
    /// Open handles of all kinds.
    pub(super) handles: u32,
    /// Open handles that can write.
    pub(super) writers: u32,
    pub(super) writer: Option<Arc<Writer>>,
    /// Its name was removed while it was open: its writer lives until the last handle is closed.
    pub(super) held: bool,
    /// The version whose pages the kernel may hold.
    pub(super) pages: Option<Version>,
    pub(super) children: HashMap<String, u64>,
    /// When the whole directory was listed.
    pub(super) listed: Option<Instant>,
    /// Names known to be absent, and since when.
    pub(super) absent: HashMap<String, Instant>,
}

impl Node {
    /// Whether it is as the store has it, so that the store may be believed about it.
    pub(super) fn is_settled(&self) -> bool {
        self.entry.is_some()
            && self
                .writer
                .as_ref()
                .is_none_or(|w| w.is_settled() && !w.is_open())
    }

    fn is_shown(&self) -> bool {
        self.shown_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether it has a name.
    pub(super) fn is_named(&self) -> bool {
        self.parent != 0
    }
}

/// What is known about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is this inode, and that is fresh.
    Here(u64),
    /// It does not exist, and that is fresh.
    Absent,
    /// The store must be asked; until then it may be this inode.
    Ask(Option<u64>),
}

/// How long things are believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ttl {
    pub(super) attr: Duration,
    pub(super) negative: Duration,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    ttl: Ttl,
    ghosts: Vec<Ghost>,
}

/// What the store still has, or may have, under a name that is gone here, until the commit that removes it.
#[derive(Debug)]
struct Ghost {
    parent: u64,
    name: String,
    /// `None`: it is not known whether anything is there.
    entry: Option<Entry>,
    /// The inode whose commit removes it.
    by: u64,
}

impl Ghost {
    fn is_at(&self, parent: u64, name: &str) -> bool {
        self.parent == parent && self.name == name
    }
}

impl Tree {
    pub(super) fn new(root: Entry, ttl: Ttl) -> Self {
        let mut tree = Tree {
            nodes: HashMap::new(),
            ttl,
            ghosts: Vec::new(),
        };
        tree.add(ROOT, ROOT, String::new(), Kind::Dir, Some(root));
        tree
    }

    fn add(&mut self, ino: u64, parent: u64, name: String, kind: Kind, entry: Option<Entry>) {
        let node = Node {
            ino,
            parent,
            name,
            kind,
            attrs: entry.as_ref().map(|e| e.attrs.clone()).unwrap_or_default(),
            entry: entry.map(Arc::new),
            checked: Instant::now(),
            shown_until: None,
            changed: None,
            written: None,
            ctime: None,
            lookups: 0,
            handles: 0,
            writers: 0,
            writer: None,
            held: false,
            pages: None,
            children: HashMap::new(),
            listed: None,
            absent: HashMap::new(),
        };
        self.nodes.insert(ino, node);
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub(super) fn child(&self, parent: u64, name: &str) -> Option<u64> {
        self.get(parent)?.children.get(name).copied()
    }

    /// Path below the mountpoint, with a leading `/`; of a nameless inode, its last name in brackets.
    pub(super) fn path(&self, ino: u64) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some(node) = self.get(at) else {
                return "?".to_owned();
            };
            if !node.is_named() {
                return format!("({})", node.name);
            }
            names.push(node.name.as_str());
            at = node.parent;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    }

    /// The place of a name in a directory that the store has.
    pub(super) fn place(&self, parent: u64, name: &str) -> Option<Place> {
        let entry = self.get(parent)?.entry.as_ref()?;
        Some(Place {
            dir: entry.addr.clone(),
            name: name.to_owned(),
        })
    }

    /// Whether what is known of an inode needs no question.
    pub(super) fn is_fresh(&self, node: &Node) -> bool {
        node.ino == ROOT
            || !node.is_named()
            || !node.is_settled()
            || node.is_shown()
            || node.checked.elapsed() < self.ttl.attr
            || node.listed.is_some_and(|at| at.elapsed() < self.ttl.attr)
    }

    /// How long an answer about this inode may be believed from now on.
    pub(super) fn ttl(&self, node: &Node) -> Duration {
        if node.is_settled() {
            self.ttl.attr.saturating_sub(node.checked.elapsed())
        } else {
            self.ttl.attr
        }
    }

    pub(super) fn is_listed(&self, dir: u64) -> bool {
        let fresh = |node: &Node, at: Instant| node.is_shown() || at.elapsed() < self.ttl.attr;
        self.get(dir)
            .is_some_and(|node| node.listed.is_some_and(|at| fresh(node, at)))
    }

    pub(super) fn known(&self, parent: u64, name: &str) -> Known {
        let Some(dir) = self.get(parent) else {
            return Known::Absent;
        };
        if let Some(ino) = self.child(parent, name) {
            return match self.get(ino) {
                Some(node) if self.is_fresh(node) => Known::Here(ino),
                _ => Known::Ask(Some(ino)),
            };
        }
        let absent = dir
            .absent
            .get(name)
            .is_some_and(|at| at.elapsed() < self.ttl.negative);
        if absent || self.is_listed(parent) {
            Known::Absent
        } else {
            Known::Ask(None)
        }
    }

    /// Since when a name is known to be absent.
    pub(super) fn absent_since(&self, parent: u64, name: &str) -> Option<Instant> {
        let dir = self.get(parent)?;
        dir.absent.get(name).copied().max(dir.listed)
    }

    /// The store is away: what it said of this inode is shown for one more TTL. It has not said it again.
    pub(super) fn show_older(&mut self, ino: u64) {
        let until = Instant::now() + self.ttl.attr;
        if let Some(node) = self.get_mut(ino) {
            node.shown_until = Some(until);
        }
    }

    /// A new inode for a name; whatever had the name loses it.
    pub(super) fn insert(
        &mut self,
        parent: u64,
        name: &str,
        kind: Kind,
        entry: Option<Entry>,
    ) -> u64 {
        if let Some(old) = self.child(parent, name) {
            self.detach(old);
        }
        let mut hasher = DefaultHasher::new();
        (parent, name).hash(&mut hasher);
        let mut ino = hasher.finish();
        // 0 is no inode, 1 the root; a taken number (another version still open) gives way to the next.
        while ino <= ROOT || self.nodes.contains_key(&ino) {
            ino = ino.wrapping_add(1);
        }
        self.add(ino, parent, name.to_owned(), kind, entry);
        if let Some(dir) = self.get_mut(parent) {
            dir.children.insert(name.to_owned(), ino);
            dir.absent.remove(name);
        }
        ino
    }

    /// Takes the name away; the inode lives while somebody holds it.
    pub(super) fn detach(&mut self, ino: u64) {
        let Some(node) = self.get_mut(ino) else {
            return;
        };
        let (parent, name) = (std::mem::replace(&mut node.parent, 0), node.name.clone());
        if let Some(dir) = self.get_mut(parent)
            && dir.children.get(&name) == Some(&ino)
        {
            dir.children.remove(&name);
        }
        self.reap(ino);
    }

    /// Forgets a nameless inode that nobody holds, and what was below it.
    pub(super) fn reap(&mut self, ino: u64) {
        let Some(node) = self.get(ino) else { return };
        if node.is_named() || node.lookups > 0 || node.handles > 0 || node.writer.is_some() {
            return;
        }
        if let Some(node) = self.nodes.remove(&ino) {
            for child in node.children.into_values() {
                self.detach(child);
            }
        }
    }

    /// Notes that a name is absent, as the store said to a question asked at `asked`.
    pub(super) fn apply_absent(&mut self, parent: u64, name: &str, asked: Instant) {
        if let Some(ino) = self.child(parent, name) {
            let Some(node) = self.get(ino) else { return };
            if !node.is_settled() || node.changed.is_some_and(|at| at >= asked) {
                return;
            }
            self.detach(ino);
        }
        if let Some(dir) = self.get_mut(parent) {
            dir.absent.insert(name.to_owned(), asked);
        }
    }

    /// Notes that the store has `entry`, or something that is not known, under a name until the commit of `by`.
    pub(super) fn haunt(&mut self, parent: u64, name: &str, entry: Option<Entry>, by: u64) {
        self.ghosts.push(Ghost {
            parent,
            name: name.to_owned(),
            entry,
            by,
        });
    }

    /// What the store still has under a name that is gone here, and whose commit removes it.
    pub(super) fn ghost(&self, parent: u64, name: &str) -> Option<(&Entry, u64)> {
        let here = |ghost: &&Ghost| ghost.is_at(parent, name);
        let ghost = self.ghosts.iter().rfind(here)?;
        Some((ghost.entry.as_ref()?, ghost.by))
    }

    /// Whether the store has, or may have, something under a name that is gone here.
    pub(super) fn is_haunted(&self, parent: u64, name: &str) -> bool {
        self.ghosts.iter().any(|ghost| ghost.is_at(parent, name))
    }

    /// The writer, other than of `to`, that has left something under a name, or may have.
    pub(super) fn haunted_by(&self, parent: u64, name: &str, to: u64) -> Option<Arc<Writer>> {
        let here = |ghost: &&Ghost| ghost.is_at(parent, name) && ghost.by != to;
        let ghost = self.ghosts.iter().rfind(here)?;
        self.get(ghost.by)?.writer.clone()
    }

    /// `to` takes the name over and answers for what the store has there. The entry, and the writer that had to
    /// remove it.
    pub(super) fn take_ghost(
        &mut self,
        parent: u64,
        name: &str,
        to: u64,
    ) -> Option<(Option<Entry>, Option<Arc<Writer>>)> {
        let here = |ghost: &Ghost| ghost.is_at(parent, name) && ghost.by != to;
        let ghost = self.ghosts.remove(self.ghosts.iter().rposition(here)?);
        let writer = self.get(ghost.by).and_then(|node| node.writer.clone());
        Some((ghost.entry, writer))
    }

    /// The commit of `heir` removes from here on what that of `of` had to.
    pub(super) fn bequeath(&mut self, of: u64, heir: u64) {
        let ghosts = self.ghosts.iter_mut();
        ghosts
            .filter(|ghost| ghost.by == of)
            .for_each(|ghost| ghost.by = heir);
    }

    /// The commit of `by` has removed what it had to.
    pub(super) fn lay(&mut self, by: u64) {
        self.ghosts.retain(|ghost| ghost.by != by);
    }

    /// Notes what the store said to a question asked at `asked`. A version that came from elsewhere gets
    /// a new inode while the old one is open, because the kernel's pages belong to the inode.
    pub(super) fn apply(&mut self, parent: u64, entry: Entry, asked: Instant) -> Option<u64> {
        let name = entry.name.clone();
        if self
            .ghost(parent, &name)
            .is_some_and(|(ghost, _)| ghost.version == entry.version)
        {
            return self.child(parent, &name);
        }
        Some(self.apply_seen(parent, entry, asked))
    }

    fn apply_seen(&mut self, parent: u64, entry: Entry, asked: Instant) -> u64 {
        let name = entry.name.clone();
        let Some(ino) = self.child(parent, &name) else {
            return self.insert(parent, &name, entry.kind, Some(entry));
        };
        let Some(node) = self.get_mut(ino) else {
            return ino;
        };
        if !node.is_settled() || node.changed.is_some_and(|at| at >= asked) {
            return ino;
        }
        let same = node.kind == entry.kind
            && node.entry.as_ref().is_some_and(|old| {
                entry.kind == Kind::Dir || (old.version == entry.version && old.size == entry.size)
            });
        if same {
            node.checked = asked;
            if node.entry.as_deref() != Some(&entry) {
                node.attrs = entry.attrs.clone();
                node.entry = Some(Arc::new(entry));
            }
            return ino;
        }
        if node.kind != entry.kind || node.handles > 0 {
            return self.insert(parent, &name, entry.kind, Some(entry));
        }
        let entry = Arc::new(entry);
        // What nobody was told of the last one outlives it.
        node.writer.take_if(|writer| writer.give_way(&entry, asked));
        node.attrs = entry.attrs.clone();
        node.written = None;
        node.ctime = None;
        node.entry = Some(entry);
        node.checked = asked;
        ino
    }

    /// Notes a whole listing of a directory, asked for at `asked`.
    pub(super) fn apply_listing(&mut self, dir: u64, entries: Vec<Entry>, asked: Instant) {
        let mut gone: HashMap<String, u64> = match self.get(dir) {
            Some(node) => node.children.clone(),
            None => return,
        };
        for entry in entries {
            gone.remove(&entry.name);
            self.apply(dir, entry, asked);
        }
        for name in gone.into_keys() {
            self.apply_absent(dir, &name, asked);
        }
        if let Some(node) = self.get_mut(dir) {
            node.listed = Some(asked);
            node.absent.clear();
        }
    }

    /// Moves a name; whatever had the new name loses it.
    pub(super) fn rename(&mut self, ino: u64, parent: u64, name: &str) {
        if let Some(old) = self.child(parent, name)
            && old != ino
        {
            self.detach(old);
        }
        let Some(node) = self.get_mut(ino) else {
            return;
        };
        let (from, old) = (
            node.parent,
            std::mem::replace(&mut node.name, name.to_owned()),
        );
        node.parent = parent;
        node.changed = Some(Instant::now());
        if let Some(dir) = self.get_mut(from)
            && dir.children.get(&old) == Some(&ino)
        {
            dir.children.remove(&old);
            dir.absent.insert(old, Instant::now());
        }
        if let Some(dir) = self.get_mut(parent) {
            dir.children.insert(name.to_owned(), ino);
            dir.absent.remove(name);
        }
    }

    /// Whether `ino` is `above` or lies below it.
    pub(super) fn is_below(&self, ino: u64, above: u64) -> bool {
        let mut at = ino;
        loop {
            if at == above {
                return true;
            }
            match self.get(at) {
                Some(node) if at != ROOT && node.is_named() => at = node.parent,
                _ => return false,
            }
        }
    }

    /// The kernel drops `count` references.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.get_mut(ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.reap(ino);
        }
    }

    /// Lets go of what can be asked for again and nobody holds, once there are more than `most` inodes:
    /// settled, without handles, references of the kernel or children, and no longer fresh. Below that, old
    /// answers stay: they are shown while the store is away. Returns how many went.
    pub(super) fn sweep(&mut self, most: usize) -> usize {
        let Ttl { negative, .. } = self.ttl;
        for node in self.nodes.values_mut() {
            node.absent.retain(|_, since| since.elapsed() < negative);
        }
        if self.nodes.len() <= most {
            return 0;
        }
        let haunted: HashSet<u64> = self.ghosts.iter().map(|ghost| ghost.parent).collect();
        let idle = |node: &&Node| {
            node.is_named()
                && node.is_settled()
                && node.writer.is_none()
                && (node.handles, node.lookups) == (0, 0)
                && node.children.is_empty()
                && !self.is_fresh(node)
                && !self.is_listed(node.parent)
                && !haunted.contains(&node.ino)
                // Some of what was set through this mount may be known nowhere else.
                && (node.written, node.ctime) == (None, None)
        };
        let idle: Vec<u64> = self.nodes().filter(idle).map(|node| node.ino).collect();
        for &ino in &idle {
            if let Some(parent) = self.get(ino).map(|node| node.parent)
                && let Some(dir) = self.get_mut(parent)
            {
                // What is left of the listing no longer says what is absent.
                dir.listed = None;
            }
            self.detach(ino);
        }
        idle.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: &str) -> Entry {
        Entry {
            addr: format!("dir/{name}").as_str().into(),
            name: name.to_owned(),
            kind: Kind::File,
            size: 1,
            version: version.into(),
            tag: None,
            modified: SystemTime::UNIX_EPOCH,
            created: None,
            digests: crate::store::Digests::default(),
            attrs: Attrs::default(),
            content_type: None,
        }
    }

    fn tree() -> Tree {
        let ttl = Ttl {
            attr: Duration::from_secs(100),
            negative: Duration::from_secs(100),
        };
        let mut root = entry("", "");
        root.kind = Kind::Dir;
        Tree::new(root, ttl)
    }

    #[test]
    fn a_listing_fills_names_and_says_what_is_absent() {
        let mut tree = tree();
        assert_eq!(tree.known(ROOT, "a"), Known::Ask(None));
        tree.apply_listing(ROOT, vec![entry("a", "1")], Instant::now());
        let a = tree.child(ROOT, "a").unwrap();
        assert_eq!(tree.known(ROOT, "a"), Known::Here(a));
        assert_eq!(tree.known(ROOT, "b"), Known::Absent);
        assert_eq!(tree.path(a), "/a");
    }

    #[test]
    fn a_foreign_version_gets_a_new_inode_only_while_the_old_one_is_open() {
        let mut tree = tree();
        let a = tree.apply(ROOT, entry("a", "1"), Instant::now()).unwrap();
        assert_eq!(
            tree.apply(ROOT, entry("a", "2"), Instant::now()).unwrap(),
            a
        );
        tree.get_mut(a).unwrap().handles = 1;
        let b = tree.apply(ROOT, entry("a", "3"), Instant::now()).unwrap();
        assert_ne!(a, b);
        assert_eq!(
            &*tree.get(a).unwrap().entry.as_ref().unwrap().version.0,
            "2"
        );
        tree.get_mut(a).unwrap().handles = 0;
        tree.reap(a);
        assert!(tree.get(a).is_none());
    }

    #[test]
    fn an_answer_older_than_a_change_of_ours_is_ignored() {
        let mut tree = tree();
        let asked = Instant::now();
        let a = tree.apply(ROOT, entry("a", "1"), asked).unwrap();
        tree.get_mut(a).unwrap().changed = Some(Instant::now());
        tree.apply_absent(ROOT, "a", asked);
        assert_eq!(tree.child(ROOT, "a"), Some(a));
        tree.apply_listing(ROOT, vec![], Instant::now());
        assert_eq!(tree.child(ROOT, "a"), None);
    }

    #[test]
    fn what_is_not_on_the_store_yet_survives_a_listing() {
        let mut tree = tree();
        let a = tree.insert(ROOT, "new", Kind::File, None);
        tree.apply_listing(ROOT, vec![], Instant::now());
        assert_eq!(tree.known(ROOT, "new"), Known::Here(a));
    }

    #[test]
    fn what_nobody_holds_is_let_go_of_when_there_is_too_much_and_it_is_old() {
        let mut tree = tree();
        tree.ttl.attr = Duration::ZERO;
        let names = ["open", "known", "new", "idle", "dir"];
        let seen = |name| {
            let mut entry = entry(name, "1");
            entry.kind = if name == "dir" { Kind::Dir } else { Kind::File };
            entry
        };
        tree.apply_listing(ROOT, names.map(seen).into(), Instant::now());
        let ino = |tree: &Tree, name| tree.child(ROOT, name);
        let dir = ino(&tree, "dir").unwrap();
        let below = tree
            .apply(dir, entry("below", "1"), Instant::now())
            .unwrap();
        for (name, change) in [
            ("open", (|node| node.handles = 1) as fn(&mut Node)),
            ("known", |node| node.lookups = 1),
            ("new", |node| node.entry = None),
        ] {
            let at = ino(&tree, name).unwrap();
            change(tree.get_mut(at).unwrap());
        }
        let all = tree.nodes.len();
        assert_eq!(tree.sweep(all), 0);
        tree.ttl.attr = Duration::from_secs(100);
        assert_eq!(tree.sweep(0), 0, "what is fresh stays");
        tree.ttl.attr = Duration::ZERO;
        while tree.sweep(0) > 0 {}
        let left: Vec<_> = names
            .into_iter()
            .filter(|name| ino(&tree, name).is_some())
            .collect();
        assert_eq!(left, ["open", "known", "new"]);
        assert!(tree.get(dir).is_none() && tree.get(below).is_none());
        assert_eq!(tree.known(ROOT, "idle"), Known::Ask(None));
    }

    #[test]
    fn a_rename_moves_the_name_and_leaves_an_absence() {
        let mut tree = tree();
        let a = tree.apply(ROOT, entry("a", "1"), Instant::now()).unwrap();
        let b = tree.apply(ROOT, entry("b", "1"), Instant::now()).unwrap();
        tree.get_mut(b).unwrap().lookups = 1;
        tree.rename(a, ROOT, "b");
        assert_eq!(
            (tree.child(ROOT, "a"), tree.child(ROOT, "b")),
            (None, Some(a))
        );
        assert_eq!(tree.known(ROOT, "a"), Known::Absent);
        assert!(!tree.get(b).unwrap().is_named());
        tree.forget(b, 1);
        assert!(tree.get(b).is_none());
    }
}
