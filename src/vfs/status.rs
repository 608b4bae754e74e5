//! What a mount is doing, as plain data for `status`, `wait`, `umount` and the attributes.

use serde::{Deserialize, Serialize};

/// Where a file stands between the program and the store (`user.assetfs.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// As the store has it; nothing was written.
    Clean,
    /// Written, not yet closed.
    Dirty,
    /// Closed; being completed and digested.
    Sealing,
    /// On its way.
    Uploading,
    /// The store has it, digest compared.
    Committed,
    /// Under a temporary name, kept in the spool until renamed.
    Deferred,
    /// The last commit failed; it is still open.
    Failed,
    /// Durable in the spool and not on the store yet; sent again by itself.
    Owed,
    /// The last commit failed and the bytes are kept in the spool; not sent by itself.
    Unsent,
}

impl FileState {
    /// The word that the attribute and `status` show.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            FileState::Clean => "clean",
            FileState::Dirty => "dirty",
            FileState::Sealing => "sealing",
            FileState::Uploading => "uploading",
            FileState::Committed => "committed",
            FileState::Deferred => "deferred",
            FileState::Failed => "failed",
            FileState::Owed => "owed",
            FileState::Unsent => "unsent",
        }
    }
}

/// One file that is not simply as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// Path below the mountpoint, with a leading `/`.
    pub path: String,
    /// Where it stands.
    pub state: FileState,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that the store has acknowledged of the upload under way.
    pub sent: u64,
    /// The sentence of the last error.
    pub error: Option<String>,
}

/// The whole mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Files that are dirty, sealing, uploading, deferred, failed, owed or unsent.
    pub files: Vec<FileStatus>,
    /// Bytes that the store has acknowledged since the mount began.
    pub sent_bytes: u64,
    /// Bytes of sealed files that the store does not have yet.
    pub to_send_bytes: u64,
    /// Bytes read from the store since the mount began.
    pub fetched_bytes: u64,
    /// Bytes in the block cache in memory.
    pub cached_bytes: u64,
    /// Bytes in the spool on disk.
    pub spool_bytes: u64,
    /// Files committed since the mount began.
    pub committed_files: u64,
}
