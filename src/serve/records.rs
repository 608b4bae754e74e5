//! What the disk cannot say of a file: digests, type, times, annotations; by path, in memory and in
//! one append-only file of JSON lines.
//!
//! A line is either whole or, after a crash, ignored. The newest line of a path counts. The file is
//! rewritten at the start when most of it is history. It knows paths, not files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Everything about one file or folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// A folder; it has times and annotations only.
    pub(super) dir: bool,
    /// In bytes.
    pub(super) size: u64,
    /// The file's own modification time: a record counts only for exactly this file.
    pub(super) mtime_ns: i128,
    /// The file's inode, for the same reason.
    pub(super) inode: u64,
    /// Lower-case hex.
    pub(super) sha1: String,
    /// Lower-case hex.
    pub(super) sha256: String,
    /// Content type; empty if nobody gave one.
    pub(super) media: String,
    /// Milliseconds since 1970.
    pub(super) created_ms: i64,
    /// Milliseconds since 1970; moves with the annotations too.
    pub(super) modified_ms: i64,
    /// What clients attached.
    pub(super) user: Map<String, Value>,
    /// What clients set beside, as the API has it; null if nothing.
    pub(super) cache: Value,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    path: std::borrow::Cow<'a, str>,
    record: Option<std::borrow::Cow<'a, Record>>,
}

/// All records.
#[derive(Debug)]
pub(super) struct Records {
    all: BTreeMap<String, Record>,
    file: File,
}

impl Records {
    /// Reads `path`, or makes it.
    pub(super) fn open(path: PathBuf) -> io::Result<Records> {
        let mut all = BTreeMap::new();
        let mut lines = 0;
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).split(b'\n') {
                lines += 1;
                let Ok(line) = serde_json::from_slice::<Line<'_>>(&line?) else {
                    continue;
                };
                match line.record {
                    Some(record) => all.insert(line.path.into_owned(), record.into_owned()),
                    None => all.remove(&*line.path),
                };
            }
        }
        if lines > 2 * all.len() + 100 {
            rewrite(&path, &all)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        // Ends a line that a crash may have cut.
        file.write_all(b"\n")?;
        Ok(Records { all, file })
    }

    pub(super) fn get(&self, path: &str) -> Option<&Record> {
        self.all.get(path)
    }

    pub(super) fn put(&mut self, path: &str, record: Record) -> io::Result<()> {
        self.append(path, Some(&record))?;
        self.all.insert(path.to_owned(), record);
        Ok(())
    }

    /// Forgets `path` and everything below.
    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        let below = format!("{path}/");
        let range = below.clone()..;
        let mut gone: Vec<String> = self
            .all
            .range(range)
            .map(|(p, _)| p.clone())
            .take_while(|p| p.starts_with(&below))
            .collect();
        gone.extend(self.all.contains_key(path).then(|| path.to_owned()));
        for path in gone {
            self.append(&path, None)?;
            self.all.remove(&path);
        }
        Ok(())
    }

    /// Gives `from` and everything below it the name `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let below = format!("{from}/");
        let mut moved: Vec<(String, Record)> = self
            .all
            .range(below.clone()..)
            .take_while(|(path, _)| path.starts_with(&below))
            .map(|(path, record)| (format!("{to}/{}", &path[below.len()..]), record.clone()))
            .collect();
        moved.extend(self.get(from).map(|record| (to.to_owned(), record.clone())));
        self.remove(from)?;
        for (path, record) in moved {
            self.put(&path, record)?;
        }
        Ok(())
    }

    fn append(&mut self, path: &str, record: Option<&Record>) -> io::Result<()> {
        let record = record.map(std::borrow::Cow::Borrowed);
        let mut line = serde_json::to_vec(&Line {
            path: path.into(),
            record,
        })?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

fn rewrite(path: &Path, all: &BTreeMap<String, Record>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut out = BufWriter::new(File::create(&new)?);
    for (path, record) in all {
        let record = Some(std::borrow::Cow::Borrowed(record));
        serde_json::to_writer(
            &mut out,
            &Line {
                path: path.into(),
                record,
            },
        )?;
        out.write_all(b"\n")?;
    }
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(size: u64) -> Record {
        Record {
            size,
            ..Record::default()
        }
    }

    #[test]
    fn records_survive_a_restart_and_a_torn_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut records = Records::open(path.clone()).unwrap();
        records.put("a", sized(1)).unwrap();
        records.put("a", sized(2)).unwrap();
        records.put("b", sized(3)).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"path\":\"b\"")
            .unwrap();
        let mut records = Records::open(path.clone()).unwrap();
        assert_eq!(
            (records.get("a"), records.get("b")),
            (Some(&sized(2)), Some(&sized(3)))
        );
        records.put("c", sized(4)).unwrap();
        assert_eq!(Records::open(path).unwrap().get("c"), Some(&sized(4)));
    }

    #[test]
    fn removing_a_folder_removes_what_is_below_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut records = Records::open(path.clone()).unwrap();
        for p in ["a", "a/b", "a/b/c", "a.txt", "ab"] {
            records.put(p, sized(1)).unwrap();
        }
        records.remove("a").unwrap();
        let left: Vec<_> = Records::open(path).unwrap().all.into_keys().collect();
        assert_eq!(left, ["a.txt", "ab"]);
    }

    #[test]
    fn renaming_a_folder_takes_what_is_below_along_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut records = Records::open(path.clone()).unwrap();
        for p in ["a", "a/b", "a/b/c", "a.txt", "ab"] {
            records.put(p, sized(1)).unwrap();
        }
        records.rename("a", "z/y").unwrap();
        let left: Vec<_> = Records::open(path).unwrap().all.into_keys().collect();
        assert_eq!(left, ["a.txt", "ab", "z/y", "z/y/b", "z/y/b/c"]);
    }

    #[test]
    fn history_is_dropped_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut records = Records::open(path.clone()).unwrap();
        for n in 0..500 {
            records.put("a", sized(n)).unwrap();
        }
        assert_eq!(
            Records::open(path.clone()).unwrap().get("a"),
            Some(&sized(499))
        );
        assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    }
}
