//! The refresh token of a person on this machine's disk: written durably before the access token that
//! came with it is used, and changed by one process at a time.

use super::token::Given;
use crate::error::{Error, Kind as ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const OP: &str = "keep the refresh token";

/// What is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Fingerprint of the refresh token that it all began with; nothing after a login.
    from: Option<String>,
    pub(super) refresh_token: String,
    pub(super) access_token: String,
    /// Seconds since 1970.
    expires: u64,
}

/// Without the secrets.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

fn fingerprint(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Kept {
    pub(super) fn new(first: Option<&str>, refresh_token: String, given: &Given) -> Kept {
        Kept {
            from: first.map(fingerprint),
            refresh_token,
            access_token: given.access.clone(),
            expires: since_1970(SystemTime::now() + given.life),
        }
    }

    /// Whether it came of this first token: a person who gives another one wants to begin anew.
    pub(super) fn is_of(&self, first: Option<&str>) -> bool {
        first.is_none() || self.from == first.map(fingerprint)
    }

    /// How long the access token is good.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = self.expires.checked_sub(since_1970(now))?;
        Some(Duration::from_secs(left))
    }
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    path: PathBuf,
}

/// The file while nobody else may use it.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    _lock: File,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(ErrorKind::Local(libc::EIO), OP).because(e))?
}

impl Keep {
    pub(super) fn new(path: PathBuf) -> Keep {
        Keep { path }
    }

    /// Waits until no other task or process uses it.
    pub(super) async fn lock(&self) -> Result<Locked> {
        let path = self.path.clone();
        blocking(move || {
            let said = |e| Error::local(OP, e).at(path.display().to_string());
            let dir = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir).map_err(said)?;
            let lock = private(&path.with_extension("lock"), false).map_err(said)?;
            lock.lock().map_err(said)?;
            Ok(Locked { path, _lock: lock })
        })
        .await
    }
}

fn private(path: &Path, truncate: bool) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(truncate)
        .mode(0o600)
        .open(path)
}

impl Locked {
    /// What is kept; nothing if nothing is, or it cannot be read as such.
    pub(super) async fn read(&self) -> Result<Option<Kept>> {
        let path = self.path.clone();
        blocking(move || match std::fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::local(OP, e).at(path.display().to_string())),
        })
        .await
    }

    /// Durable when it returns.
    pub(super) async fn write(&self, kept: Kept) -> Result<()> {
        let path = self.path.clone();
        blocking(move || {
            let said = |e: std::io::Error| Error::local(OP, e).at(path.display().to_string());
            let text = serde_json::to_vec(&kept).map_err(|e| said(e.into()))?;
            let new = path.with_extension("new");
            let mut file = private(&new, true).map_err(said)?;
            file.write_all(&text).map_err(said)?;
            file.sync_all().map_err(said)?;
            std::fs::rename(&new, &path).map_err(said)?;
            let dir = path.parent().unwrap_or(Path::new("."));
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(said)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn given() -> Given {
        Given {
            access: "a".into(),
            refresh: None,
            life: Duration::from_secs(100),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path().join("box/client"));
        let locked = keep.lock().await.unwrap();
        assert!(locked.read().await.unwrap().is_none());
        let kept = Kept::new(Some("first"), "next".into(), &given());
        locked.write(kept).await.unwrap();
        let kept = locked.read().await.unwrap().unwrap();
        assert_eq!((&*kept.refresh_token, &*kept.access_token), ("next", "a"));
        let mode = std::fs::metadata(dir.path().join("box/client"))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(kept.left(SystemTime::now()).unwrap() > Duration::from_secs(90));
        assert_eq!(
            kept.left(SystemTime::now() + Duration::from_secs(200)),
            None
        );
    }

    #[test]
    fn another_first_token_begins_anew_and_no_first_token_takes_what_is_there() {
        let kept = Kept::new(Some("first"), "next".into(), &given());
        assert!(kept.is_of(Some("first")) && kept.is_of(None) && !kept.is_of(Some("other")));
        let login = Kept::new(None, "next".into(), &given());
        assert!(login.is_of(None) && !login.is_of(Some("first")));
    }

    #[tokio::test]
    async fn one_has_the_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path().join("client"));
        let first = keep.lock().await.unwrap();
        let other = keep.clone();
        let second = tokio::spawn(async move { other.lock().await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
    }
}
