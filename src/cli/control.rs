//! The conversation between a mount's process and the commands: one request line of JSON, then answer
//! lines, over a unix socket that the mount's root names in an attribute.

use super::mountpoint;
use crate::vfs::{FileStatus, Status, Vfs};
use crate::write::unsent::Unsent;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// The attribute of the mount's root that holds the socket's path.
const ATTRIBUTE: &str = "user.assetfs.control";

/// The longest request line, in bytes: a path of 4 KiB, every byte escaped.
const REQUEST_MAX: u64 = 64 << 10;

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    /// What the mount is doing.
    Status,
    /// Where one file stands.
    File {
        /// Its path below the mountpoint, with a leading `/`.
        path: String,
    },
    /// Send what is left, then unmount and end.
    Umount {
        /// For at most so long; without it as long as there is progress.
        limit_ms: Option<u64>,
    },
    /// What stays in the spool.
    Unsent,
    /// Send these again, all at once.
    Retry {
        /// As `Unsent` names them.
        ids: Vec<String>,
    },
    /// Remove this one.
    Discard {
        /// As `Unsent` names it.
        id: String,
        /// Although a program was told that it is safe.
        force: bool,
    },
}

/// What the mount's process answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// To `Status`.
    Status(Box<Report>),
    /// To `File`; nothing if the file is as the store has it.
    File {
        /// Where it stands.
        file: Option<FileStatus>,
    },
    /// To `Umount`, again and again while sending.
    Draining {
        /// Files that the store does not have yet.
        files: usize,
        /// Bytes sent since the mount began.
        sent_bytes: u64,
        /// Bytes still to send.
        to_send_bytes: u64,
    },
    /// To `Umount`: unmounted; the process is about to end.
    Unmounted {
        /// Acknowledged files kept in the spool.
        kept: usize,
        /// Refused files kept in the spool.
        refused: usize,
        /// The process.
        pid: i32,
    },
    /// To `Unsent`.
    Unsent(Stay),
    /// To `Retry`, for each one as it ends.
    Retried {
        /// Which.
        id: String,
        /// Why the store does not have it; nothing if it does.
        error: Option<String>,
    },
    /// To `Discard`.
    Discarded,
    /// The request could not be met.
    Refused {
        /// Why, in a sentence.
        why: String,
    },
}

/// One mount, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// What is mounted.
    pub(super) source: String,
    /// Where.
    pub(super) mountpoint: PathBuf,
    /// The process.
    pub(super) pid: u32,
    /// The version of the process.
    pub(super) version: String,
    /// Bytes per second to the store, over the last seconds.
    pub(super) up_rate: u64,
    /// The rest.
    #[serde(flatten)]
    pub(super) status: Status,
}

/// What stays in the spool of a mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stay {
    /// What is mounted.
    pub(super) source: String,
    /// Where.
    pub(super) mountpoint: PathBuf,
    /// The folders of its spool.
    pub(super) folders: Vec<PathBuf>,
    /// The versions, oldest first.
    pub(super) unsent: Vec<Unsent>,
}

/// A wish to unmount, for the process's main loop.
#[derive(Debug)]
pub(super) struct Ask {
    /// For at most so long; `None`: as long as there is progress.
    pub(super) limit: Option<Duration>,
    /// Where progress and the outcome go.
    pub(super) answers: mpsc::UnboundedSender<Answer>,
    /// Resolves when all answers are written, or nobody reads them.
    pub(super) written: oneshot::Receiver<()>,
}

/// The serving side.
#[derive(Debug)]
pub(super) struct Control {
    vfs: Arc<Vfs>,
    source: String,
    mountpoint: PathBuf,
    asks: mpsc::Sender<Ask>,
    up_rate: AtomicU64,
}

/// Where this process's socket is; makes the folder and removes the sockets of dead processes.
///
/// # Errors
/// A sentence if the folder cannot be made.
pub(super) fn socket_path(state_dir: &Path) -> Result<PathBuf, String> {
    let dir = state_dir.join("run");
    let said = |why| format!("cannot use {}: {why}", dir.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(said)?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(said)?;
    for entry in std::fs::read_dir(&dir).map_err(said)?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another start may have removed it in this moment.
            drop(std::fs::remove_file(entry.path()));
        }
    }
    Ok(dir.join(format!("{}.sock", std::process::id())))
}

/// Listens at `path`, for this user alone.
///
/// # Errors
/// A sentence if that cannot be done.
pub(super) fn listen(path: &Path) -> Result<UnixListener, String> {
    let said = |why: std::io::Error| format!("cannot listen at {}: {why}", path.display());
    if path.exists() {
        std::fs::remove_file(path).map_err(said)?;
    }
    let (_dir, short) = short(path).map_err(said)?;
    let listener = UnixListener::bind(short).map_err(said)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(said)?;
    Ok(listener)
}

/// A name of the socket that fits into the 108 bytes of `sun_path` (unix(7)), whatever its folder is
/// called; good while the folder is held open.
fn short(path: &Path) -> std::io::Result<(Option<File>, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) if path.as_os_str().len() > 100 => {
            let dir = File::open(dir)?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
            Ok((Some(dir), short))
        }
        _ => Ok((None, path.to_owned())),
    }
}

impl Control {
    /// A control over `vfs`; wishes to unmount go to `asks`.
    pub(super) fn new(
        vfs: Arc<Vfs>,
        source: String,
        mountpoint: PathBuf,
        asks: mpsc::Sender<Ask>,
    ) -> Arc<Self> {
        Arc::new(Control {
            vfs,
            source,
            mountpoint,
            asks,
            up_rate: AtomicU64::new(0),
        })
    }

    /// Answers whoever connects, and measures the rate. Runs until dropped.
    pub(super) async fn run(self: Arc<Self>, listener: UnixListener) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut before = self.vfs.status().sent_bytes;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let now = self.vfs.status().sent_bytes;
                    let old = self.up_rate.load(Ordering::Relaxed);
                    self.up_rate.store(smooth(old, now.saturating_sub(before)), Ordering::Relaxed);
                    before = now;
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let control = Arc::clone(&self);
                        tokio::spawn(async move {
                            if let Err(why) = control.talk(stream).await {
                                log::debug!("control: {why}");
                            }
                        });
                    }
                    // Out of descriptors: the next tick tries again.
                    Err(why) => {
                        log::warn!("control: {why}");
                        tick.tick().await;
                    }
                },
            }
        }
    }

    async fn talk(&self, stream: tokio::net::UnixStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        tokio::io::BufReader::new(reader.take(REQUEST_MAX))
            .read_line(&mut line)
            .await?;
        match serde_json::from_str(&line) {
            Err(why) => {
                let why = format!("not a request of this version: {why}");
                write_line(&mut writer, &Answer::Refused { why }).await
            }
            Ok(Request::Status) => {
                let report = Report {
                    source: self.source.clone(),
                    mountpoint: self.mountpoint.clone(),
                    pid: std::process::id(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    up_rate: self.up_rate.load(Ordering::Relaxed),
                    status: self.vfs.status(),
                };
                write_line(&mut writer, &Answer::Status(Box::new(report))).await
            }
            Ok(Request::File { path }) => {
                let file = self.vfs.file_status(&path);
                write_line(&mut writer, &Answer::File { file }).await
            }
            Ok(Request::Unsent) => {
                let vfs = Arc::clone(&self.vfs);
                let listed = tokio::task::spawn_blocking(move || vfs.unsent()).await?;
                let answer = match listed {
                    Ok(unsent) => Answer::Unsent(Stay {
                        source: self.source.clone(),
                        mountpoint: self.mountpoint.clone(),
                        folders: self.vfs.spool_folders(),
                        unsent,
                    }),
                    Err(why) => Answer::Refused {
                        why: why.to_string(),
                    },
                };
                write_line(&mut writer, &answer).await
            }
            Ok(Request::Retry { ids }) => {
                let mut tries: FuturesUnordered<_> = (ids.into_iter())
                    .map(|id| async {
                        let done = self.vfs.retry(&id).await;
                        let error = done.err().map(|why| why.to_string());
                        Answer::Retried { id, error }
                    })
                    .collect();
                while let Some(answer) = tries.next().await {
                    write_line(&mut writer, &answer).await?;
                }
                Ok(())
            }
            Ok(Request::Discard { id, force }) => {
                let answer = match self.vfs.discard(&id, force).await {
                    Ok(()) => Answer::Discarded,
                    Err(why) => Answer::Refused {
                        why: why.to_string(),
                    },
                };
                write_line(&mut writer, &answer).await
            }
            Ok(Request::Umount { limit_ms }) => {
                let (sender, mut answers) = mpsc::unbounded_channel();
                let (_until_written, written) = oneshot::channel();
                let ask = Ask {
                    limit: limit_ms.map(Duration::from_millis),
                    answers: sender,
                    written,
                };
                if self.asks.try_send(ask).is_err() {
                    let why = "it is being unmounted already".to_owned();
                    return write_line(&mut writer, &Answer::Refused { why }).await;
                }
                while let Some(answer) = answers.recv().await {
                    write_line(&mut writer, &answer).await?;
                }
                Ok(())
            }
        }
    }
}

/// The rate for people: a third of the new second, two thirds of what was.
fn smooth(old: u64, new: u64) -> u64 {
    if old == 0 { new } else { (old * 2 + new) / 3 }
}

async fn write_line(
    writer: &mut tokio::net::unix::OwnedWriteHalf,
    answer: &Answer,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// The asking side: a connection for one request.
#[derive(Debug)]
pub(super) struct Client {
    mountpoint: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Finds the process by its mountpoint and asks it.
    ///
    /// # Errors
    /// A sentence if there is no assetfs mount, or its process does not answer.
    pub(super) fn ask(mountpoint: &Path, request: &Request) -> Result<Self, String> {
        Client::ask_at(&socket_of(mountpoint)?, mountpoint, request)
    }

    /// Asks the process that listens at `socket`, about its mount at `mountpoint`.
    ///
    /// # Errors
    /// A sentence if it does not answer.
    pub(super) fn ask_at(
        socket: &Path,
        mountpoint: &Path,
        request: &Request,
    ) -> Result<Self, String> {
        let shown = mountpoint.display();
        let gone = |why: std::io::Error| match why.kind() {
            std::io::ErrorKind::PermissionDenied => anothers(mountpoint),
            _ => format!(
                "the process of {shown} does not answer at {}: {why}",
                socket.display()
            ),
        };
        let (_dir, short) = short(socket).map_err(gone)?;
        let mut stream = UnixStream::connect(short).map_err(gone)?;
        let mut line = serde_json::to_vec(request).map_err(|why| why.to_string())?;
        line.push(b'\n');
        stream.write_all(&line).map_err(gone)?;
        Ok(Client {
            mountpoint: mountpoint.to_owned(),
            reader: BufReader::new(stream),
        })
    }

    /// The next answer; `None` when the process has closed the connection.
    ///
    /// # Errors
    /// A sentence if the request was refused or the answer makes no sense.
    pub(super) fn next(&mut self) -> Result<Option<Answer>, String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) | Err(_) => Ok(None),
            Ok(_) => match answer(&line)? {
                Answer::Refused { why } => Err(format!("{}: {why}", self.mountpoint.display())),
                answer => Ok(Some(answer)),
            },
        }
    }

    /// What the mount at `mountpoint` is doing.
    ///
    /// # Errors
    /// A sentence if it cannot be asked.
    pub(super) fn report(mountpoint: &Path) -> Result<Report, String> {
        match Client::ask(mountpoint, &Request::Status)?.next()? {
            Some(Answer::Status(report)) => Ok(*report),
            other => Err(unexpected(mountpoint, other.as_ref())),
        }
    }
}

fn answer<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line)
        .map_err(|why| format!("the answer is not one of this version: {why}"))
}

/// The sentence for an answer that the request does not allow, or none.
pub(super) fn unexpected(mountpoint: &Path, answer: Option<&Answer>) -> String {
    match answer {
        None => format!(
            "the process of {} ended without an answer",
            mountpoint.display()
        ),
        Some(_) => format!(
            "the process of {} answered something else",
            mountpoint.display()
        ),
    }
}

/// The path of the socket of ours that the root of a filesystem names.
pub(super) fn attribute(mountpoint: &Path) -> Result<PathBuf, Errno> {
    let mut value = vec![0u8; 4096];
    let length = rustix::fs::getxattr(mountpoint, ATTRIBUTE, &mut value)?;
    value.truncate(length);
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&value)))
}

/// Whether what [`attribute`] answered is that of a filesystem which is not ours.
pub(super) fn is_foreign(why: Errno) -> bool {
    matches!(why, Errno::NODATA | Errno::OPNOTSUPP)
}

/// The sentence for a mount of somebody else.
fn anothers(mountpoint: &Path) -> String {
    format!(
        "{} belongs to another user, who alone may ask its process",
        mountpoint.display()
    )
}

pub(super) fn socket_of(mountpoint: &Path) -> Result<PathBuf, String> {
    let shown = mountpoint.display();
    attribute(mountpoint).map_err(|why| match why {
        Errno::NOTCONN => mountpoint::dead(mountpoint),
        Errno::ACCESS => anothers(mountpoint),
        why if is_foreign(why) => format!("{shown} is not an assetfs mount"),
        why => format!("cannot ask {shown}: {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        for request in [
            Request::Status,
            Request::File {
                path: "/a b".into(),
            },
            Request::Umount { limit_ms: Some(5) },
            Request::Unsent,
            Request::Retry {
                ids: vec!["0a-1".into()],
            },
            Request::Discard {
                id: "0a-1".into(),
                force: true,
            },
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        let report = Answer::Status(Box::new(Report {
            source: "demo:/x".into(),
            mountpoint: "/m".into(),
            pid: 1,
            version: "0".into(),
            up_rate: 3,
            status: Status::default(),
        }));
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(answer::<Answer>(&line).unwrap(), report);
    }

    #[test]
    fn a_directory_without_the_attribute_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        let why = Client::report(dir.path()).unwrap_err();
        assert!(why.contains("is not an assetfs mount"), "{why}");
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone_and_may_lie_deep() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("d".repeat(120));
        let path = socket_path(&state).unwrap();
        let _listener = listen(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&state.join("run")), 0o700);
        let (_dir, short) = short(&path).unwrap();
        assert!(UnixStream::connect(short).is_ok());
    }

    #[test]
    fn sockets_of_dead_processes_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        // Above the largest pid_max of Linux (4194304).
        std::fs::write(run.join("4194305.sock"), "").unwrap();
        std::fs::write(run.join("1.sock"), "").unwrap();
        socket_path(dir.path()).unwrap();
        assert!(!run.join("4194305.sock").exists());
        assert!(run.join("1.sock").exists());
    }
}
