//! The one public error: what it means, what was being done, and what the other side said.
//!
//! It knows nothing of HTTP or FUSE. Below, a store decides on a [`Kind`]; above, the two exhaustive
//! matches here turn it into an errno and into "worth another try".

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What an error means, whoever found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is no such entry.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory that should be removed or replaced has entries.
    NotEmpty,
    /// A directory where a file is needed.
    IsDir,
    /// A file where a directory is needed.
    NotDir,
    /// Credentials are missing, wrong or insufficient; never worth another try.
    Denied,
    /// The mount, or the store, is read-only.
    ReadOnly,
    /// A name, or an argument, that cannot be.
    Invalid,
    /// A name, or the address made of it, that is too long.
    NameTooLong,
    /// A file larger than the store takes.
    TooLarge,
    /// The disk below the spool, or the store, is full.
    Full,
    /// A quota of the account is used up.
    Quota,
    /// The version that was asked for is no longer there.
    Stale,
    /// Somebody else changed the entry between our look and our write.
    Conflict,
    /// Locked or in use for now; the other side gave up waiting.
    Busy,
    /// The server asked to come later (429, 503), with or without a time.
    Later,
    /// No connection: name not resolved, refused, reset, TLS failed.
    Unreachable,
    /// No progress within the bound.
    Timeout,
    /// The server failed (5xx) or sent less than it promised.
    Broken,
    /// The upload is void (unknown id, parts refused): start over under a new id.
    Restart,
    /// What the store has is not what was sent, or what was read is not what was promised.
    Mismatch,
    /// The server answered what its interface does not allow.
    Protocol,
    /// This store, or this filesystem, has no such thing.
    Unsupported,
    /// A hard link or device node: not permitted, as on FAT.
    NotPermitted,
    /// To be done by copying (`mv` does it).
    CrossDevice,
    /// The person at the other end gave up (unlink, unmount).
    Cancelled,
    /// No such extended attribute.
    NoAttr,
    /// An operating-system error of the local machine, by its errno.
    Local(i32),
}

impl Kind {
    /// The errno that a program sees.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Kind::NotFound => libc::ENOENT,
            Kind::Exists => libc::EEXIST,
            Kind::NotEmpty => libc::ENOTEMPTY,
            Kind::IsDir => libc::EISDIR,
            Kind::NotDir => libc::ENOTDIR,
            Kind::Denied => libc::EACCES,
            Kind::ReadOnly => libc::EROFS,
            Kind::Invalid => libc::EINVAL,
            Kind::NameTooLong => libc::ENAMETOOLONG,
            Kind::TooLarge => libc::EFBIG,
            Kind::Full => libc::ENOSPC,
            Kind::Quota => libc::EDQUOT,
            Kind::Stale | Kind::Conflict => libc::ESTALE,
            Kind::Busy => libc::EBUSY,
            // Which bound ends the tries to reach a server, of the call or of the tries, is no news to a program.
            Kind::Timeout | Kind::Later | Kind::Unreachable => libc::ETIMEDOUT,
            Kind::Broken | Kind::Restart | Kind::Mismatch | Kind::Protocol => libc::EIO,
            Kind::Unsupported => libc::EOPNOTSUPP,
            Kind::NotPermitted => libc::EPERM,
            Kind::CrossDevice => libc::EXDEV,
            Kind::Cancelled => libc::EINTR,
            Kind::NoAttr => libc::ENODATA,
            Kind::Local(errno) => errno,
        }
    }

    /// Whether the same request may succeed when it is sent again.
    #[must_use]
    pub fn worth_another_try(self) -> bool {
        match self {
            Kind::Later | Kind::Unreachable | Kind::Timeout | Kind::Broken | Kind::Busy => true,
            Kind::NotFound
            | Kind::Exists
            | Kind::NotEmpty
            | Kind::IsDir
            | Kind::NotDir
            | Kind::Denied
            | Kind::ReadOnly
            | Kind::Invalid
            | Kind::NameTooLong
            | Kind::TooLarge
            | Kind::Full
            | Kind::Quota
            | Kind::Stale
            | Kind::Conflict
            | Kind::Restart
            | Kind::Mismatch
            | Kind::Protocol
            | Kind::Unsupported
            | Kind::NotPermitted
            | Kind::CrossDevice
            | Kind::Cancelled
            | Kind::NoAttr
            | Kind::Local(_) => false,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::NotFound => "not found",
            Kind::Exists => "exists already",
            Kind::NotEmpty => "directory not empty",
            Kind::IsDir => "is a directory",
            Kind::NotDir => "not a directory",
            Kind::Denied => "the store refuses these credentials",
            Kind::ReadOnly => "read-only",
            Kind::Invalid => "not a valid name or argument",
            Kind::NameTooLong => "name too long",
            Kind::TooLarge => "file too large for the store",
            Kind::Full => "no space left",
            Kind::Quota => "quota used up",
            Kind::Stale => "replaced meanwhile",
            Kind::Conflict => "changed by somebody else",
            Kind::Busy => "busy",
            Kind::Later => "the server asks to come later",
            Kind::Unreachable => "cannot reach the server",
            Kind::Timeout => "timed out",
            Kind::Broken => "the server failed",
            Kind::Restart => "the upload was refused by the server",
            Kind::Mismatch => "what the store has differs from what was sent",
            Kind::Protocol => "the server's answer makes no sense",
            Kind::Unsupported => "not supported by this store",
            Kind::NotPermitted => "not permitted on this filesystem",
            Kind::CrossDevice => "cannot be moved in one step",
            Kind::Cancelled => "given up on request",
            Kind::NoAttr => "no such attribute",
            Kind::Local(_) => "local error",
        }
    }
}

/// The longest piece of a server's own words that is kept, in characters.
pub const SAID_MAX: usize = 200;

/// An error with what a person needs to act on it.
///
/// `path` and `said` never hold a credential or a signed URL.
#[derive(Clone, Debug)]
pub struct Error {
    /// What it means.
    pub kind: Kind,
    /// What was being done, such as "upload part" or "list".
    pub op: &'static str,
    /// The path as the mount shows it, or the store's address of it; may be empty.
    pub path: String,
    /// How many times it was tried (at least 1).
    pub tries: u32,
    /// For how long it was tried.
    pub elapsed: Duration,
    /// The server's own words, cut at [`SAID_MAX`] characters; may be empty.
    pub said: String,
    /// When the server wants to be asked again, counted from now.
    pub retry_after: Option<Duration>,
    /// What lies below, for the log.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind during `op`, tried once.
    #[must_use]
    pub fn new(kind: Kind, op: &'static str) -> Self {
        Error {
            kind,
            op,
            path: String::new(),
            tries: 1,
            elapsed: Duration::ZERO,
            said: String::new(),
            retry_after: None,
            source: None,
        }
    }

    /// A local operating-system error during `op`. ENOSPC and EDQUOT become their kinds.
    #[must_use]
    pub fn local(op: &'static str, error: std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC) => Kind::Full,
            Some(libc::EDQUOT) => Kind::Quota,
            Some(errno) => Kind::Local(errno),
            None => Kind::Local(libc::EIO),
        };
        Error::new(kind, op).because(error)
    }

    /// Adds the path.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Adds the server's words (control characters dropped, cut at [`SAID_MAX`]).
    #[must_use]
    pub fn said(mut self, words: &str) -> Self {
        self.said = words
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(SAID_MAX)
            .collect();
        self
    }

    /// Adds the time after which the server wants to be asked again.
    #[must_use]
    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The errno that a program sees.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.kind.errno()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.kind.words())?;
        if !self.said.is_empty() {
            write!(f, " (\"{}\")", self.said)?;
        } else if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        if self.tries > 1 {
            write!(
                f,
                ", {} tries in {:.1} s",
                self.tries,
                self.elapsed.as_secs_f64()
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Error::new(kind, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_operation_path_words_and_tries() {
        let mut error = Error::new(Kind::Broken, "upload part")
            .at("/a b")
            .said("oh\nno");
        error.tries = 3;
        error.elapsed = Duration::from_millis(1500);
        assert_eq!(
            error.to_string(),
            "upload part /a b: the server failed (\"ohno\"), 3 tries in 1.5 s"
        );
    }

    #[test]
    fn words_of_the_server_are_cut() {
        assert_eq!(
            Error::new(Kind::Invalid, "x")
                .said(&"é".repeat(300))
                .said
                .chars()
                .count(),
            200
        );
    }

    #[test]
    fn a_full_disk_is_enospc_and_final() {
        let error = Error::local("write", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!((error.kind, error.errno()), (Kind::Full, libc::ENOSPC));
        assert!(!error.kind.worth_another_try());
    }
}
