//! What stays in a spool: listed, copied out, removed. From the files and their records alone, so that it works
//! with a mount and without one; knows no store.

use super::record::{Class, Record};
use super::spool::{lock_dir, read_record, read_sums};
use super::sums::{BLOCK, Sums};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What was promised for a version that stays in the spool, and so what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stays {
    /// A program was told that it is safe: sent by itself, by this mount or the next.
    Owed,
    /// A program was told that it failed: sent only on request.
    Refused,
    /// Open at a crash, or a write of it failed: nobody said that it is whole, and it is never sent.
    Torn,
    /// It cannot be understood.
    Odd,
}

impl Stays {
    /// The word that people see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Stays::Owed => "owed",
            Stays::Refused => "refused",
            Stays::Torn => "torn",
            Stays::Odd => "odd",
        }
    }
}

/// One version that stays in the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// Its name among all that stays: eight digits of its folder's name and its number.
    pub id: String,
    /// What was promised for it.
    pub state: Stays,
    /// The path below the mountpoint, with a leading `/`; `None` if that cannot be read.
    pub path: Option<String>,
    /// Bytes; of a torn one as far as it was written.
    pub size: u64,
    /// When its record was written, in milliseconds since 1970.
    pub at_ms: Option<u64>,
    /// Why it was not sent, or what is odd about it.
    pub error: Option<String>,
    /// Where the bytes lie.
    pub data: PathBuf,
}

impl Unsent {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.as_deref().unwrap_or(&self.id)
    }
}

/// The spool folders below `root`, which has one folder for each store and account.
#[must_use]
pub fn folders(root: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let rows = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut dirs: Vec<_> = rows
            .map(|row| row.path())
            .filter(|path| path.is_dir())
            .collect();
        dirs.sort();
        dirs
    };
    below(root).iter().flat_map(|store| below(store)).collect()
}

/// Holds a spool folder, so that no mount takes it over; `None` if one has it.
pub fn hold(folder: &Path) -> Result<Option<File>> {
    lock_dir(folder)
        .map_err(|e| Error::local("lock spool folder", e).at(folder.display().to_string()))
}

/// Everything in a spool folder, oldest first, whether it is in use or not.
pub fn list(folder: &Path) -> Result<Vec<Unsent>> {
    let failed = |e| Error::local("read spool folder", e).at(folder.display().to_string());
    let mut all = Vec::new();
    for row in std::fs::read_dir(folder).map_err(failed)? {
        let path = row.map_err(failed)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => all.extend(look(&path)),
            // An empty one was only just made.
            Some("data")
                if !path.with_extension("json").exists()
                    && path.metadata().is_ok_and(|meta| meta.len() > 0) =>
            {
                all.push(odd(&path, "no record".to_owned()));
            }
            _ => {}
        }
    }
    all.sort_by(|a, b| (a.at_ms, &a.id).cmp(&(b.at_ms, &b.id)));
    Ok(all)
}

/// What the record at `json` says; nothing if it went away meanwhile.
fn look(json: &Path) -> Option<Unsent> {
    let data = json.with_extension("data");
    let record = match read_record(json) {
        Ok(record) => record,
        Err(why) => return json.exists().then(|| odd(&data, why.to_string())),
    };
    let path = Some(record.target.path.clone());
    let known = |state, size, error| Unsent {
        id: id(&data),
        state,
        path: path.clone(),
        size,
        at_ms: Some(record.at_ms),
        error,
        data: data.clone(),
    };
    let len = match std::fs::metadata(&data) {
        Ok(meta) => meta.len(),
        // It is going, or the store has it.
        Err(_) if !json.exists() || json.with_extension("cache").exists() => return None,
        Err(why) => {
            let why = format!("a record without its bytes: {why}");
            return Some(known(Stays::Odd, 0, Some(why)));
        }
    };
    if let Err(why) = read_sums(&json.with_extension(""), &record) {
        return json
            .exists()
            .then(|| known(Stays::Odd, record.size, Some(why.to_string())));
    }
    let size = if record.is_in_writing() {
        len
    } else {
        record.size
    };
    let state = match record.class {
        Class::Acknowledged => Stays::Owed,
        Class::Refused => Stays::Refused,
        Class::Torn => Stays::Torn,
    };
    Some(known(state, size, record.error.clone()))
}

fn odd(data: &Path, why: String) -> Unsent {
    Unsent {
        id: id(data),
        state: Stays::Odd,
        path: None,
        size: std::fs::metadata(data).map_or(0, |meta| meta.len()),
        at_ms: None,
        error: Some(why),
        data: data.to_owned(),
    }
}

fn id(data: &Path) -> String {
    let text = |name: Option<&std::ffi::OsStr>| {
        name.map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let folder = text(data.parent().and_then(Path::file_name));
    let folder: String = folder.chars().take(8).collect();
    format!("{folder}-{}", text(data.file_stem()))
}

/// The record of what stays with its bytes at `data`.
pub fn record(data: &Path) -> Result<Record> {
    read_record(&data.with_extension("json")).map_err(|why| {
        let error = Error::new(Kind::Local(libc::EIO), "read spool record");
        error.at(data.display().to_string()).said(&why.to_string())
    })
}

/// Removes a version. One rename takes every promise away: a start removes a cache and what lies beside it.
pub fn remove(data: &Path) -> Result<()> {
    let failed = |e| Error::local("remove from spool", e).at(data.display().to_string());
    let there = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    };
    there(std::fs::rename(data, data.with_extension("cache")))?;
    for ending in ["json", "sums", "cache"] {
        there(std::fs::remove_file(data.with_extension(ending)))?;
    }
    let folder = File::open(data.parent().unwrap_or(Path::new("/")));
    folder.and_then(|folder| folder.sync_all()).map_err(failed)
}

/// A version that is being copied out. Good while it is open, whatever becomes of its name.
#[derive(Debug)]
pub struct Export {
    data: File,
    path: String,
    size: u64,
    sums: Option<Sums>,
    modified: SystemTime,
}

impl Export {
    /// Opens what stays at `unsent`.
    pub fn open(unsent: &Unsent) -> Result<Self> {
        let path = unsent.name().to_owned();
        let failed = |e| Error::local("export", e).at(unsent.data.display().to_string());
        let data = File::open(&unsent.data).map_err(failed)?;
        let meta = data.metadata().map_err(failed)?;
        let modified = meta.modified().map_err(failed)?;
        let len = meta.len();
        let stem = unsent.data.with_extension("");
        let Ok(record) = read_record(&stem.with_extension("json")) else {
            // Without a record it is what lies there.
            return Ok(Export {
                data,
                path,
                size: len,
                sums: None,
                modified,
            });
        };
        let in_writing = record.is_in_writing();
        let sums = (!in_writing).then(|| read_sums(&stem, &record).ok());
        let written = match record.target.attrs.mtime {
            Some(mtime) => mtime,
            None if in_writing => modified,
            None => SystemTime::UNIX_EPOCH + Duration::from_millis(record.at_ms),
        };
        Ok(Export {
            data,
            path,
            size: if in_writing { len } else { record.size },
            sums: sums.flatten(),
            modified: written,
        })
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether there are checksums to compare the bytes with.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.sums.is_some()
    }

    /// When it was last changed.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// Writes all bytes to `out`, which is empty, each block compared with its checksum; `Mismatch` names
    /// the first range that rotted. Zeros become holes.
    pub fn copy_to(&self, out: &File) -> Result<()> {
        let mut bytes = vec![0; BLOCK as usize];
        let mut rotten: Option<Range<u64>> = None;
        for block in 0..self.size.div_ceil(BLOCK) {
            let start = block * BLOCK;
            let bytes = &mut bytes[..BLOCK.min(self.size - start) as usize];
            self.fill(bytes, start)?;
            let end = start + bytes.len() as u64;
            match &mut rotten {
                Some(range) if self.is_rotten(block, bytes) => range.end = end,
                Some(_) => break,
                None if self.is_rotten(block, bytes) => rotten = Some(start..end),
                None if bytes.iter().all(|byte| *byte == 0) => {}
                None => out
                    .write_all_at(bytes, start)
                    .map_err(|e| Error::local("export", e))?,
            }
        }
        if let Some(range) = rotten {
            let (first, last) = (range.start, range.end - 1);
            let error = Error::new(Kind::Mismatch, "export").at(self.path.clone());
            return Err(error.said(&format!(
                "the bytes {first} to {last} on the local disk are not those that were written"
            )));
        }
        out.set_len(self.size)
            .map_err(|e| Error::local("export", e))
    }

    fn is_rotten(&self, block: u64, bytes: &[u8]) -> bool {
        self.sums.as_ref().is_some_and(|sums| {
            let sum = sums.get(block);
            let rest = bytes.get(sum.len as usize..).unwrap_or_default();
            !sum.agrees(bytes) || rest.iter().any(|byte| *byte != 0)
        })
    }

    /// Fills `buf` from `offset` on; zeros past the end.
    fn fill(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.data.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    return Ok(());
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::local("export", e)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Noted, Spool, Target};
    use super::*;
    use crate::store::{Attrs, Place};

    fn target(name: &str) -> Target {
        let place = Place {
            dir: "".into(),
            name: name.into(),
        };
        Target {
            attempts: Vec::new(),
            place,
            path: format!("/{name}"),
            replaces: None,
            looked: None,
            removes: Vec::new(),
            exclusive: false,
            attrs: Attrs::default(),
        }
    }

    /// A folder with one version of each class and one that cannot be read, as an end leaves it.
    fn left(root: &Path, bytes: &[u8]) -> PathBuf {
        let (spool, _) = Spool::open(&root.join("store"), None).unwrap();
        for (name, class) in [
            ("owed", Some(Class::Acknowledged)),
            ("refused", Some(Class::Refused)),
            ("torn", None),
        ] {
            let file = spool.create(&target(name)).unwrap();
            file.write_at(bytes, 0, bytes.len() as u64).unwrap();
            if let Some(class) = class {
                let mut record = Record::new(class, target(name));
                record.size = bytes.len() as u64;
                assert_eq!(file.promise(&record, file.stamp()).unwrap(), Noted::Durable);
            }
            file.leave();
        }
        let folder = spool.folders()[0].clone();
        std::fs::write(folder.join("7.json"), "{").unwrap();
        std::fs::write(folder.join("7.data"), bytes).unwrap();
        assert!(hold(&folder).unwrap().is_none(), "a spool is in use");
        folder
    }

    fn find(folder: &Path, state: Stays) -> Unsent {
        let all = list(folder).unwrap();
        all.into_iter().find(|one| one.state == state).unwrap()
    }

    #[test]
    fn everything_that_stays_is_listed_with_its_state_and_a_damaged_record_is_odd() {
        let dir = tempfile::tempdir().unwrap();
        let folder = left(dir.path(), &[7; 100]);
        assert_eq!(folders(dir.path()), std::slice::from_ref(&folder));
        let all = list(&folder).unwrap();
        let mut seen: Vec<_> = all
            .iter()
            .map(|one| (one.state.word(), one.path.as_deref(), one.size))
            .collect();
        seen.sort_unstable();
        let path = |name| Some(name);
        assert_eq!(
            seen,
            [
                ("odd", None, 100),
                ("owed", path("/owed"), 100),
                ("refused", path("/refused"), 100),
                ("torn", path("/torn"), 100),
            ]
        );
        assert!(hold(&folder).unwrap().is_some(), "nobody uses it");
        for one in &all {
            remove(&one.data).unwrap();
        }
        assert_eq!(list(&folder).unwrap(), []);
    }

    #[test]
    fn an_export_is_equal_and_names_the_range_that_rotted() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![7; 200_000];
        bytes[70_000..199_000].fill(0);
        let folder = left(dir.path(), &bytes);
        let refused = find(&folder, Stays::Refused);
        let to = |name: &str| File::create_new(dir.path().join(name)).unwrap();
        let export = Export::open(&refused).unwrap();
        assert!(export.is_checked());
        export.copy_to(&to("a")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), bytes);
        let torn = Export::open(&find(&folder, Stays::Torn)).unwrap();
        assert!(!torn.is_checked());
        torn.copy_to(&to("b")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), bytes);
        let data = File::options().write(true).open(&refused.data).unwrap();
        data.write_all_at(&[8], 150_000).unwrap();
        data.write_all_at(&[8], 199_999).unwrap();
        let error = Export::open(&refused)
            .unwrap()
            .copy_to(&to("c"))
            .unwrap_err();
        assert_eq!(error.kind, Kind::Mismatch);
        let said = error.to_string();
        assert!(
            said.contains("/refused") && said.contains("131072 to 199999"),
            "{said}"
        );
    }
}
