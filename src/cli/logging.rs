//! Where the log goes: stderr in the foreground, a bounded file in the background.

use log::LevelFilter;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The size at which a log file becomes the old one, in bytes.
const ROTATE_AT: u64 = 10 << 20;

/// Starts logging to `file`, or to stderr.
///
/// # Errors
/// A sentence if the file cannot be written.
pub(super) fn start(level: LevelFilter, file: Option<&Path>) -> Result<(), String> {
    let mut builder = env_logger::Builder::new();
    // The libraries below speak up only when something is wrong.
    builder.filter_level(level.min(LevelFilter::Warn));
    builder.filter_module("assetfs", level);
    // It warns of every unmount that somebody else did.
    builder.filter_module("fuser", LevelFilter::Off);
    let journal = file.is_none() && std::env::var_os("JOURNAL_STREAM").is_some();
    builder.format(move |out, record| {
        if journal {
            // sd-daemon(3): the journal has its own clock and takes the level from this prefix.
            let level = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{level}>{}", record.args())
        } else {
            let now = shown(jiff::Timestamp::now());
            writeln!(out, "{now} {:5} {}", record.level(), record.args())
        }
    });
    if let Some(path) = file {
        let rotating = Rotating::open(path, ROTATE_AT)
            .map_err(|why| format!("cannot write the log {}: {why}", path.display()))?;
        builder.target(env_logger::Target::Pipe(Box::new(rotating)));
    }
    builder.try_init().map_err(|why| why.to_string())?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("{info}");
        before(info);
    }));
    Ok(())
}

/// Always as wide, so that lines stand below each other and sort as text.
fn shown(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

/// A file that is renamed to `NAME.1` when it is full.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl Rotating {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = append(path)?;
        Ok(Rotating {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
            limit,
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = append(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_becomes_the_old_one_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/x.log");
        let mut log = Rotating::open(&path, 10).unwrap();
        for line in ["12345\n", "678\n", "abc\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(dir.path().join("log/x.log.1")).unwrap(),
            "12345\n678\n"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc\n");
    }

    #[test]
    fn every_time_is_as_wide() {
        for (nanos, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (500_000_000, "1970-01-01T00:00:00.500Z"),
            (1_020_999_999, "1970-01-01T00:00:01.020Z"),
        ] {
            let time = jiff::Timestamp::from_nanosecond(nanos).unwrap();
            assert_eq!(shown(time), want);
        }
    }

    #[test]
    fn a_log_that_is_there_already_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, "before\n").unwrap();
        Rotating::open(&path, 100)
            .unwrap()
            .write_all(b"after\n")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
