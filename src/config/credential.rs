//! Credentials: where they may stand, and how they are read. Never on the command line.
//!
//! A credential comes from its variable, else from systemd's `$CREDENTIALS_DIRECTORY`, else from the
//! configuration file: `NAME_file`, `NAME_command`, or written there itself.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The names of credentials, and whether they are secret.
pub(super) const NAMES: [(&str, bool); 13] = [
    ("api_key", true),
    ("username", false),
    ("password", true),
    ("token", true),
    ("client_id", false),
    ("client_secret", true),
    ("subject", false),
    ("refresh_token", true),
    ("tenant", false),
    ("app_name", false),
    ("app_version", false),
    ("host_tenant", false),
    ("user_tenant", false),
];

/// How long `NAME_command` may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Where a credential is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// Here.
    Text(String),
    /// In a file that only its owner may read; read again when the store refuses what it held.
    File(PathBuf),
    /// In a file that systemd keeps; its mode is systemd's.
    Systemd(PathBuf),
    /// What this shell command prints; run again when the store refuses what it printed.
    Command(String),
}

/// A credential and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Where it is.
    pub place: Place,
    /// Where that was said, for the sentences: "ASSETFS_API_KEY", "api_key_file in PATH".
    pub from: String,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Text(_) => f.write_str("Text(..)"),
            Place::File(path) => f.debug_tuple("File").field(path).finish(),
            Place::Systemd(path) => f.debug_tuple("Systemd").field(path).finish(),
            Place::Command(_) => f.write_str("Command(..)"),
        }
    }
}

impl Credential {
    /// The credential itself, read afresh. Blocks.
    ///
    /// # Errors
    /// A sentence that says where it was sought and what to do.
    pub fn read(&self) -> Result<String, String> {
        let text = match &self.place {
            Place::Text(text) => text.clone(),
            Place::File(path) => {
                private(path)?;
                self.slurp(path)?
            }
            Place::Systemd(path) => self.slurp(path)?,
            Place::Command(command) => self.run(command)?,
        };
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() {
            return Err(format!("{} is empty", self.from));
        }
        if text.contains(char::is_control) {
            return Err(format!("{} has more than one line", self.from));
        }
        Ok(text)
    }

    /// Whether reading again may give something new.
    #[must_use]
    pub fn may_change(&self) -> bool {
        !matches!(self.place, Place::Text(_))
    }

    fn slurp(&self, path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path)
            .map_err(|why| format!("cannot read {} ({}): {why}", path.display(), self.from))
    }

    fn run(&self, command: &str) -> Result<String, String> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| format!("cannot run {}: {why}", self.from))?;
        let (sender, printed) = mpsc::channel();
        if let Some(mut stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut text = String::new();
                let read = stdout.read_to_string(&mut text).map(|_| text);
                // Nobody listens any more after the limit.
                drop(sender.send(read));
            });
        }
        let printed = printed.recv_timeout(COMMAND_LIMIT);
        if printed.is_err() {
            // It may have ended by itself in this moment; then there is nothing to kill.
            drop(child.kill());
        }
        let status = child
            .wait()
            .map_err(|why| format!("{}: {why}", self.from))?;
        match printed {
            Err(_) => Err(format!("{} took longer than 60 s", self.from)),
            Ok(_) if !status.success() => Err(format!("{} failed: {status}", self.from)),
            Ok(text) => text.map_err(|why| format!("{}: {why}", self.from)),
        }
    }
}

/// Refuses a file that group or others may read or write.
///
/// # Errors
/// A sentence with the command that mends it.
pub(super) fn private(path: &Path) -> Result<(), String> {
    let meta =
        std::fs::metadata(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!(
            "{0} holds a credential and is open to other users: chmod 600 {0}",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn at(place: Place) -> Credential {
        Credential {
            place,
            from: "api_key_command in c.toml".to_owned(),
        }
    }

    #[test]
    fn a_command_gives_its_first_line_without_the_line_end() {
        assert_eq!(
            at(Place::Command("printf 'k1\\n'".into())).read(),
            Ok("k1".to_owned())
        );
    }

    #[test]
    fn a_failing_command_says_where_it_stands_and_not_what_it_is() {
        let why = at(Place::Command("echo hunter2; exit 3".into()))
            .read()
            .unwrap_err();
        assert!(why.contains("api_key_command in c.toml failed"), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "k2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let credential = at(Place::File(path.clone()));
        let why = credential.read().unwrap_err();
        assert!(
            why.ends_with(&format!("chmod 600 {}", path.display())),
            "{why}"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(credential.read(), Ok("k2".to_owned()));
    }

    #[test]
    fn a_rotated_file_is_read_afresh() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let credential = at(Place::Systemd(path.clone()));
        std::fs::write(&path, "old").unwrap();
        assert_eq!(credential.read(), Ok("old".to_owned()));
        std::fs::write(&path, "new").unwrap();
        assert_eq!(credential.read(), Ok("new".to_owned()));
    }

    #[test]
    fn an_empty_credential_is_an_error() {
        assert!(at(Place::Text("\n".into())).read().is_err());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!("{:?}", at(Place::Text("hunter2".into())));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
