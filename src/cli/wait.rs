//! `assetfs wait`: until files are committed, or why not.

use super::control::{self, Answer, Client, Request, unexpected};
use super::{Ended, mountpoint};
use crate::vfs::{FileState, FileStatus};
use clap::{Args, ValueHint};
use rustix::io::Errno;
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
    let mut failed = false;
    for path in &args.paths {
        let target = Target::find(path)?;
        loop {
            let files = target.files()?;
            let (broken, under_way) = judge(&files);
            if !under_way {
                for file in broken {
                    failed = true;
                    let why = file.error.as_deref().unwrap_or("no reason was given");
                    super::eprintln_safe(&format!(
                        "assetfs: {} is {}: {why}",
                        file.path,
                        file.state.word()
                    ));
                }
                break;
            }
            if args.timeout.is_some_and(|limit| start.elapsed() >= limit) {
                for file in files.iter().filter(|file| is_under_way(file.state)) {
                    super::eprintln_safe(&format!(
                        "assetfs: {} is still {}",
                        file.path,
                        file.state.word()
                    ));
                }
                return Ok(TIMED_OUT);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
    Ok(u8::from(failed))
}

fn is_under_way(state: FileState) -> bool {
    match state {
        FileState::Dirty | FileState::Sealing | FileState::Uploading | FileState::Deferred => true,
        FileState::Clean | FileState::Committed | FileState::Failed | FileState::Unsent => false,
    }
}

/// The files that failed, and whether any is still on its way.
fn judge(files: &[FileStatus]) -> (Vec<&FileStatus>, bool) {
    let broken = files
        .iter()
        .filter(|file| matches!(file.state, FileState::Failed | FileState::Unsent))
        .collect();
    (broken, files.iter().any(|file| is_under_way(file.state)))
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
    fn waiting_ends_when_nothing_is_on_its_way() {
        assert!(!judge(&[]).1);
        assert!(!judge(&[file(FileState::Committed), file(FileState::Clean)]).1);
        for state in [
            FileState::Dirty,
            FileState::Sealing,
            FileState::Uploading,
            FileState::Deferred,
        ] {
            assert!(
                judge(&[file(FileState::Committed), file(state)]).1,
                "{state:?}"
            );
        }
    }

    #[test]
    fn what_failed_is_told() {
        assert_eq!(
            judge(&[file(FileState::Unsent), file(FileState::Failed)])
                .0
                .len(),
            2
        );
    }

    #[test]
    fn below_a_directory_is_not_beside_it() {
        assert!(is_below("/d/x", "/d"));
        assert!(is_below("/x", "/"));
        assert!(!is_below("/dd/x", "/d"));
    }
}
