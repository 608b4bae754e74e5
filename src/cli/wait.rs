//! `assetfs wait`: until files are committed, or why not.

use super::control::{self, Answer, Client, Request, unexpected};
use super::{Ended, mountpoint};
use crate::vfs::{FileState, FileStatus};
use clap::{Args, ValueHint};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What timeout(1) exits with when the time is over.
const TIMED_OUT: u8 = 124;

/// How often the mount's process is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    /// Files, or directories for everything below them
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Longest time to wait [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = super::parse_timeout)]
    timeout: Option<Duration>,
}

/// A path as the mount's process knows it.
#[derive(Debug)]
struct Target {
    mountpoint: PathBuf,
    /// Below the mountpoint, with a leading `/`; `/` for all of it.
    path: String,
    is_dir: bool,
}

pub(super) fn wait(args: &WaitArgs) -> Ended {
    let start = Instant::now();
    let (mut lost, mut told) = (false, BTreeSet::new());
    for path in &args.paths {
        let target = Target::find(path)?;
        loop {
            let files = target.files()?;
            let coming = files
                .iter()
                .any(|file| outlook(file.state) == Outlook::Coming);
            let late = coming && args.timeout.is_some_and(|limit| start.elapsed() >= limit);
            if late || !coming {
                for sentence in files.iter().filter_map(in_the_end) {
                    super::eprintln_safe(&format!("assetfs: {sentence}"));
                }
                if late {
                    return Ok(TIMED_OUT);
                }
                lost |= files
                    .iter()
                    .any(|file| outlook(file.state) == Outlook::Lost);
                break;
            }
            // It may take as long as the store is away: whoever waits wants to know why.
            for file in files.iter().filter(|file| file.state == FileState::Owed) {
                if let Some(why) = &file.error
                    && told.insert(file.path.clone())
                {
                    let path = &file.path;
                    super::eprintln_safe(&format!(
                        "assetfs: {path} is owed, and tried again by itself: {why}"
                    ));
                }
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
    Ok(u8::from(lost))
}

/// What waiting for a file can bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// The store has it.
    There,
    /// It is sent by itself.
    Coming,
    /// It is not.
    Lost,
}

fn outlook(state: FileState) -> Outlook {
    match state {
        FileState::Clean | FileState::Committed => Outlook::There,
        FileState::Dirty
        | FileState::Sealing
        | FileState::Uploading
        | FileState::Deferred
        | FileState::Owed => Outlook::Coming,
        FileState::Failed | FileState::Unsent => Outlook::Lost,
    }
}

/// What is told of a file when waiting ends; nothing if the store has it.
fn in_the_end(file: &FileStatus) -> Option<String> {
    let (path, word) = (&file.path, file.state.word());
    match (outlook(file.state), file.error.as_deref()) {
        (Outlook::There, _) => None,
        (Outlook::Coming, None) => Some(format!("{path} is still {word}")),
        (Outlook::Coming, Some(why)) => Some(format!("{path} is still {word}: {why}")),
        (Outlook::Lost, why) => {
            let why = why.unwrap_or("no reason was given");
            let then = match file.state {
                FileState::Failed => "its program still has it open",
                _ => "it is not sent by itself: assetfs unsent list",
            };
            Some(format!("{path} is {word}: {why}; {then}"))
        }
    }
}

impl Target {
    fn find(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let said = |why: std::io::Error| match Errno::from_io_error(&why) {
            Some(Errno::NOTCONN) => mountpoint::dead(path),
            _ => format!("{shown}: {why}"),
        };
        let meta = std::fs::symlink_metadata(path).map_err(said)?;
        // A symlink itself is what the store has; its directory tells the rest.
        let full = match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) if meta.is_symlink() => {
                let dir = if dir.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    dir
                };
                std::fs::canonicalize(dir).map_err(said)?.join(name)
            }
            _ => std::fs::canonicalize(path).map_err(said)?,
        };
        let mut mountpoint = full.as_path();
        while let Some(above) = mountpoint.parent() {
            if std::fs::metadata(above).map_err(said)?.dev() != meta.dev() {
                break;
            }
            mountpoint = above;
        }
        if control::attribute(mountpoint).is_err_and(control::is_foreign) {
            return Err(format!("{shown} is not in an assetfs mount"));
        }
        let below = full
            .strip_prefix(mountpoint)
            .ok()
            .and_then(Path::to_str)
            .ok_or_else(|| format!("{shown} is not UTF-8"))?;
        Ok(Target {
            mountpoint: mountpoint.to_owned(),
            path: format!("/{below}"),
            is_dir: meta.is_dir(),
        })
    }

    /// What is not simply as the store has it, of this file or below this directory.
    fn files(&self) -> Result<Vec<FileStatus>, String> {
        if self.is_dir {
            let report = Client::report(&self.mountpoint)?;
            let files = report.status.files.into_iter();
            return Ok(files
                .filter(|file| is_below(&file.path, &self.path))
                .collect());
        }
        let request = Request::File {
            path: self.path.clone(),
        };
        match Client::ask(&self.mountpoint, &request)?.next()? {
            Some(Answer::File { file }) => Ok(file.into_iter().collect()),
            other => Err(unexpected(&self.mountpoint, other.as_ref())),
        }
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(state: FileState) -> FileStatus {
        FileStatus {
            path: "/a".into(),
            state,
            size: 0,
            sent: 0,
            error: None,
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_what_becomes_of_it() {
        let told = |state, error: Option<&str>| {
            let error = error.map(str::to_owned);
            in_the_end(&FileStatus {
                error,
                ..file(state)
            })
        };
        assert_eq!(told(FileState::Committed, None), None);
        let want = |text: &str| Some(text.to_owned());
        assert_eq!(
            told(FileState::Uploading, None),
            want("/a is still uploading")
        );
        assert_eq!(
            told(FileState::Owed, Some("it is full")),
            want("/a is still owed: it is full")
        );
        assert_eq!(
            told(FileState::Failed, Some("it is full")),
            want("/a is failed: it is full; its program still has it open")
        );
        assert_eq!(
            told(FileState::Unsent, Some("it is full")),
            want("/a is unsent: it is full; it is not sent by itself: assetfs unsent list")
        );
    }

    #[test]
    fn below_a_directory_is_not_beside_it() {
        assert!(is_below("/d/x", "/d"));
        assert!(is_below("/x", "/"));
        assert!(!is_below("/dd/x", "/d"));
    }
}
