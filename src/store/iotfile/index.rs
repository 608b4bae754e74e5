//! What is known of the entity: the rows of the search, with our own writes laid over them, and the
//! directories that exist only here. Pure; time is given.
//!
//! The search lags behind. What the store answered to a write of ours is believed until the search shows
//! it, or something that was not there before it; until then the search's older rows of that key are not.

use super::names::{join, marked, split, unmarked};
use super::row::{Id, Row, same};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// A write of ours is laid over the search at least so long.
const OVERLAY: Duration = Duration::from_secs(10);

/// What the search still shows so long after we removed it is there: somebody made the same again.
const LATEST: Duration = Duration::from_secs(60);

/// What a key is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    File(Row),
    Dir,
    Absent,
}

/// A write of ours.
#[derive(Debug)]
struct Own {
    /// `None`: removed.
    row: Option<Row>,
    since: Instant,
    /// What the key was before: a row of these is an old one.
    old: Vec<Id>,
    /// The search has shown it.
    shown: bool,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    rows: BTreeMap<String, Row>,
    own: HashMap<String, Own>,
    /// Directories made here, or emptied here.
    made: BTreeSet<String>,
    /// The newest `updated` that was seen.
    pub(super) newest: Option<i64>,
    /// Where the rolling check for deletions goes on.
    pub(super) sweep: Option<i64>,
    /// All rows were seen once.
    pub(super) whole: bool,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn row(&self, key: &str) -> Option<&Row> {
        self.rows.get(key)
    }

    /// What the search said about a key, to a question asked at `asked`.
    pub(super) fn apply(&mut self, asked: Instant, key: &str, row: Option<Row>) {
        if let Some(row) = &row {
            self.newest = self.newest.max(row.updated);
        }
        let Some(own) = self.own.get_mut(key) else {
            return self.set(key, row);
        };
        if asked < own.since {
            return;
        }
        let young = own.since.elapsed() < OVERLAY;
        match (row, &own.row) {
            (Some(row), Some(ours)) if same(row.id(), ours.id()) => {
                own.shown = true;
                let row = Row {
                    timestamp: row.timestamp.or(ours.timestamp),
                    ..row
                };
                self.set(key, Some(row));
            }
            (Some(row), ours) if own.old.iter().any(|old| same(*old, row.id())) => {
                if ours.is_some() || own.since.elapsed() < LATEST {
                    return;
                }
                self.own.remove(key);
                return self.set(key, Some(row));
            }
            // A version between the one we knew and ours.
            (Some(row), Some(ours)) if young && row.etag < ours.etag => return,
            (Some(row), _) => {
                // Somebody else's, and newer.
                self.own.remove(key);
                return self.set(key, Some(row));
            }
            (None, Some(_)) if young || !own.shown => return,
            (None, Some(_)) => {
                self.own.remove(key);
                return self.set(key, None);
            }
            (None, None) => own.shown = true,
        }
        if !young {
            self.own.remove(key);
        }
    }

    fn set(&mut self, key: &str, row: Option<Row>) {
        match row {
            Some(row) => self.rows.insert(key.to_owned(), row),
            None => self.rows.remove(key),
        };
    }

    fn apply_rows(&mut self, asked: Instant, rows: Vec<Row>) -> HashSet<String> {
        let mut seen = HashSet::new();
        for row in rows {
            let key = row.key.clone();
            self.apply(asked, &key, Some(row));
            seen.insert(key);
        }
        seen
    }

    /// New and changed rows.
    pub(super) fn apply_some(&mut self, asked: Instant, rows: Vec<Row>) {
        self.apply_rows(asked, rows);
    }

    /// All rows there are.
    pub(super) fn apply_all(&mut self, asked: Instant, rows: Vec<Row>) {
        let seen = self.apply_rows(asked, rows);
        self.drop_unseen(asked, &seen, |_| true, |_| true);
        self.whole = true;
    }

    /// All rows directly in a directory.
    pub(super) fn apply_dir(&mut self, asked: Instant, dir: &str, rows: Vec<Row>) {
        let seen = self.apply_rows(asked, rows);
        let here = |key: &str| split(key).0 == dir;
        self.drop_unseen(asked, &seen, |row| here(&row.key), here);
    }

    /// All rows whose `updated` is in `from..to`, and perhaps more.
    pub(super) fn apply_span(&mut self, asked: Instant, from: i64, to: i64, rows: Vec<Row>) {
        let seen = self.apply_rows(asked, rows);
        let in_span = |row: &Row| row.updated.is_some_and(|at| from <= at && at < to);
        self.drop_unseen(asked, &seen, in_span, |_| false);
    }

    /// Rows `of` the question that the answer does not have are gone; so are removals that it `covers`.
    fn drop_unseen(
        &mut self,
        asked: Instant,
        seen: &HashSet<String>,
        of: impl Fn(&Row) -> bool,
        covers: impl Fn(&str) -> bool,
    ) {
        let gone = |row: &&Row| of(row) && !seen.contains(&row.key);
        let mut gone: Vec<String> = (self.rows.values().filter(gone))
            .map(|row| row.key.clone())
            .collect();
        // Removals of ours that the search confirms.
        let removed = |(key, own): (&String, &Own)| {
            (own.row.is_none() && covers(key) && !seen.contains(key)).then(|| key.clone())
        };
        gone.extend(self.own.iter().filter_map(removed));
        for key in gone {
            self.apply(asked, &key, None);
        }
    }

    /// The store has taken what we wrote, or removed what we removed.
    pub(super) fn wrote(&mut self, now: Instant, key: &str, row: Option<Row>, shown: bool) {
        let mut old = self.own.remove(key).map_or(Vec::new(), |own| {
            let mut old = own.old;
            old.extend(own.row.map(|row| row.id()));
            old
        });
        old.extend(self.rows.get(key).map(Row::id));
        if let Some(row) = &row {
            old.retain(|id| !same(*id, row.id()));
        } else if let (dir, _) = split(key)
            && !dir.is_empty()
        {
            // A directory does not vanish with its last file.
            self.made.insert(dir.to_owned());
        }
        let own = Own {
            row: row.clone(),
            since: now,
            old,
            shown,
        };
        self.own.insert(key.to_owned(), own);
        self.set(key, row);
    }

    /// Whether the search should show a write of ours by now and does not: then reading it decides.
    pub(super) fn is_doubtful(&self, key: &str) -> bool {
        self.own
            .get(key)
            .is_some_and(|own| own.row.is_some() && !own.shown && own.since.elapsed() >= OVERLAY)
    }

    /// Reading has decided.
    pub(super) fn decided(&mut self, now: Instant, key: &str, exists: bool) {
        if !exists {
            self.own.remove(key);
            self.rows.remove(key);
        } else if let Some(own) = self.own.get_mut(key) {
            own.since = now;
        }
    }

    /// Reading by its key found nothing.
    pub(super) fn is_gone(&mut self, key: &str) {
        self.rows.remove(key);
    }

    pub(super) fn is_dir(&self, key: &str) -> bool {
        key.is_empty() || self.made.contains(key) || self.has_below(key)
    }

    /// Whether there is anything in a directory.
    pub(super) fn has_below(&self, dir: &str) -> bool {
        let prefix = format!("{dir}/");
        let first = |next: Option<&String>| next.is_some_and(|key| key.starts_with(&prefix));
        first(self.rows.range(prefix.clone()..).next().map(|(key, _)| key))
            || first(self.made.range(prefix.clone()..).next())
    }

    /// The nearest file where a directory of `key` should be.
    pub(super) fn file_above<'a>(&self, key: &'a str) -> Option<&'a str> {
        let mut dir = split(key).0;
        while !dir.is_empty() {
            if self.rows.contains_key(dir) && !self.is_dir(dir) {
                return Some(dir);
            }
            dir = split(dir).0;
        }
        None
    }

    /// What has a name; a file that shares its name with a directory has a marked one.
    pub(super) fn known(&self, dir: &str, name: &str) -> Known {
        let key = join(dir, name);
        if self.is_dir(&key) {
            return Known::Dir;
        }
        if let Some(row) = self.rows.get(&key) {
            return Known::File(row.clone());
        }
        let hidden = unmarked(name).map(|name| join(dir, name));
        let hidden = hidden.filter(|key| self.is_dir(key));
        match hidden.and_then(|key| self.rows.get(&key)) {
            Some(row) => Known::File(row.clone()),
            None => Known::Absent,
        }
    }

    /// The files and directories in a directory, by name; directories without a row.
    pub(super) fn list(&self, dir: &str) -> BTreeMap<String, Option<Row>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let mut found: BTreeMap<String, Option<Row>> = BTreeMap::new();
        let mut files = Vec::new();
        let mut from = Bound::Included(prefix.clone());
        while let Some((key, row)) = self.rows.range((from, Bound::Unbounded)).next() {
            let Some(rest) = key.strip_prefix(&prefix) else {
                break;
            };
            match rest.split_once('/') {
                None => {
                    files.push((rest, row));
                    from = Bound::Excluded(key.clone());
                }
                Some((name, _)) => {
                    found.insert(name.to_owned(), None);
                    // The character after the slash: behind everything in that directory.
                    from = Bound::Included(format!("{prefix}{name}0"));
                }
            }
        }
        for key in self.made.range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix) else {
                break;
            };
            if let Some(name) = rest.split('/').next().filter(|name| !name.is_empty()) {
                found.insert(name.to_owned(), None);
            }
        }
        for (name, row) in files {
            let mut shown = name.to_owned();
            if found.contains_key(name) {
                shown = marked(name);
                if self.rows.contains_key(&join(dir, &shown)) || found.contains_key(&shown) {
                    log::warn!("{prefix}{name} is a file and a directory; the file is not shown");
                    continue;
                }
            }
            found.insert(shown, Some(row.clone()));
        }
        found
    }

    pub(super) fn make_dir(&mut self, key: &str) {
        self.made.insert(key.to_owned());
    }

    /// Forgets an empty directory; the one above it stays.
    pub(super) fn remove_dir(&mut self, key: &str) {
        self.made.remove(key);
        let above = split(key).0;
        if !above.is_empty() {
            self.made.insert(above.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, etag: u64, time: i64) -> Row {
        Row {
            key: key.into(),
            etag: Some(etag),
            timestamp: Some(time),
            updated: Some(time),
            ..Row::default()
        }
    }

    fn tag(index: &Index, key: &str) -> Option<u64> {
        index.row(key).and_then(|row| row.etag)
    }

    fn later() -> Instant {
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn the_search_does_not_undo_our_own_writes() {
        let mut index = Index::default();
        index.apply_all(later(), vec![row("a", 3, 30)]);
        index.wrote(later(), "a", Some(row("a", 4, 40)), false);
        index.apply_all(later(), vec![row("a", 3, 30)]);
        assert_eq!(tag(&index, "a"), Some(4), "an old row");
        index.wrote(later(), "a", None, false);
        for old in [row("a", 3, 30), row("a", 4, 40)] {
            index.apply_all(later(), vec![old]);
            assert_eq!(tag(&index, "a"), None, "removed");
        }
        index.wrote(later(), "a", Some(row("a", 0, 50)), false);
        index.apply_all(later(), vec![row("a", 4, 40)]);
        index.apply_all(later(), vec![]);
        assert_eq!(tag(&index, "a"), Some(0), "made again, not yet to be found");
        index.apply_all(later(), vec![row("a", 1, 60)]);
        assert_eq!(tag(&index, "a"), Some(1), "somebody else's newer one");
        index.apply_all(later(), vec![]);
        assert_eq!(tag(&index, "a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_makes_again_after_we_removed_it_is_shown_in_the_end() {
        let mut index = Index::default();
        index.apply_all(later(), vec![row("a", 0, 1)]);
        index.wrote(later(), "a", None, false);
        index.apply_all(later(), vec![row("a", 0, 1)]);
        assert_eq!(tag(&index, "a"), None);
        tokio::time::advance(LATEST).await;
        index.apply_all(later(), vec![row("a", 0, 1)]);
        assert_eq!(tag(&index, "a"), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_was_replaced_unseen_is_older_than_ours() {
        let mut index = Index::default();
        index.apply_all(later(), vec![row("a", 3, 30)]);
        index.wrote(later(), "a", Some(row("a", 5, 50)), false);
        index.apply_all(later(), vec![row("a", 4, 40)]);
        assert_eq!(tag(&index, "a"), Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_search_never_shows_is_doubted_after_a_while() {
        let mut index = Index::default();
        index.wrote(later(), "a", Some(row("a", 0, 1)), false);
        assert!(!index.is_doubtful("a"));
        tokio::time::advance(OVERLAY).await;
        index.apply_all(later(), vec![]);
        assert!(index.is_doubtful("a") && tag(&index, "a") == Some(0));
        index.decided(later(), "a", true);
        assert!(!index.is_doubtful("a"));
        tokio::time::advance(OVERLAY).await;
        index.decided(later(), "a", false);
        assert_eq!(tag(&index, "a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_shown_and_is_gone_is_gone_after_the_overlay() {
        let mut index = Index::default();
        index.wrote(later(), "a", Some(row("a", 0, 1)), false);
        index.apply_all(later(), vec![row("a", 0, 1)]);
        index.apply_all(later(), vec![]);
        assert_eq!(tag(&index, "a"), Some(0), "replicas of the index differ");
        tokio::time::advance(OVERLAY).await;
        index.apply_all(later(), vec![]);
        assert_eq!(tag(&index, "a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_older_question_does_not_count() {
        let mut index = Index::default();
        let asked = later();
        tokio::time::advance(Duration::from_millis(1)).await;
        index.wrote(later(), "a", Some(row("a", 0, 1)), true);
        index.apply_all(asked, vec![row("a", 9, 9)]);
        assert_eq!(tag(&index, "a"), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn directories_are_pieces_of_keys_or_made_here() {
        let mut index = Index::default();
        let keys = ["a", "d/x", "d/e/y", "d.z", "d0"];
        index.apply_all(later(), keys.iter().map(|key| row(key, 0, 1)).collect());
        index.make_dir("d/new/deep");
        let names = |dir: &str| index.list(dir).into_keys().collect::<Vec<_>>();
        assert_eq!(names(""), ["a", "d", "d.z", "d0"]);
        assert_eq!(names("d"), ["e", "new", "x"]);
        assert_eq!(index.known("d", "new"), Known::Dir);
        assert_eq!(index.known("", "none"), Known::Absent);
        assert_eq!(index.file_above("d/x/below"), Some("d/x"));
        index.wrote(later(), "d/e/y", None, false);
        assert_eq!(index.known("d", "e"), Known::Dir, "until rmdir");
        assert!(!index.has_below("d/e"));
        index.remove_dir("d/e");
        assert_eq!(index.known("d", "e"), Known::Absent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_shares_its_name_with_a_directory_is_shown_beside_it() {
        let mut index = Index::default();
        index.apply_all(later(), vec![row("a", 0, 1), row("a/b", 0, 1)]);
        let names: Vec<_> = index.list("").into_keys().collect();
        assert_eq!(names, ["a", "a (file)"]);
        assert_eq!(index.known("", "a"), Known::Dir);
        assert_eq!(index.known("", "a (file)"), Known::File(row("a", 0, 1)));
        assert_eq!(index.file_above("a/c"), None);
        index.wrote(later(), "a", None, false);
        assert_eq!(index.known("", "a (file)"), Known::Absent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_of_time_tells_what_was_deleted_in_it() {
        let mut index = Index::default();
        let all = (1..6).map(|n| row(&format!("f{n}"), 0, n)).collect();
        index.apply_all(later(), all);
        index.apply_span(later(), 2, 4, vec![row("f3", 0, 3), row("f4", 0, 4)]);
        let left: Vec<_> = index.list("").into_keys().collect();
        assert_eq!(left, ["f1", "f3", "f4", "f5"]);
    }
}
