//! How an account is reached and used, as plain data.

use super::names;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::http::{Credential, Secret, Settings, Url};
use std::path::PathBuf;
use std::time::Duration;

/// Who asks.
#[derive(Debug)]
pub enum Auth {
    /// Nobody; only our own server lets that pass.
    Anonymous,
    /// An access token as it is.
    Token(Credential),
    /// The client credentials grant.
    Client {
        /// The client id.
        id: String,
        /// The client secret.
        secret: Credential,
        /// For whom.
        subject: Subject,
    },
    /// A refresh token of a person, which is good for one use: the next one is kept in a file.
    Refresh {
        /// The client id.
        id: String,
        /// The client secret.
        secret: Credential,
        /// The first refresh token; without it the file must have one.
        first: Option<Secret>,
        /// The file of the current one, shared by all processes with this client.
        keep: PathBuf,
    },
}

/// For whom a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The application's own account in an enterprise.
    Enterprise(String),
    /// A user.
    User(String),
}

impl Subject {
    /// Reads `enterprise:ID` or `user:ID`.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "a subject is enterprise:ID or user:ID".to_owned();
        match text.split_once(':').ok_or_else(wrong)? {
            (_, "") => Err(wrong()),
            ("enterprise", id) => Ok(Subject::Enterprise(id.to_owned())),
            ("user", id) => Ok(Subject::User(id.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// `box_subject_type` and `box_subject_id`.
    pub(super) fn pair(&self) -> (&'static str, &str) {
        match self {
            Subject::Enterprise(id) => ("enterprise", id),
            Subject::User(id) => ("user", id),
        }
    }
}

/// Which folder is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder where the path begins: an id, `0` for the root of the account.
    pub id: String,
    /// The path below it, `a/b`; empty: the folder itself.
    pub path: String,
}

/// How a Box account is reached and used.
#[derive(Debug)]
pub struct Config {
    /// What stands before `/files` and `/folders`.
    pub api: Url,
    /// The same for uploads.
    pub upload: Url,
    /// Where tokens come from.
    pub token: Url,
    /// The folder that is shown.
    pub root: Root,
    /// Who asks.
    pub auth: Auth,
    /// The smallest file for an upload session, in bytes; smaller ones go in one request.
    pub session_min: u64,
    /// How long a download link is used.
    pub link_life: Duration,
    /// The wait before a commit is sent again whose parts are not known yet, and the base of other waits.
    pub pause: Duration,
    /// The longest time in which a commit may be told to come later.
    pub commit_within: Duration,
    /// How long our own changes are held against what a listing says.
    pub settle: Duration,
    /// Connections, waiting times, rates.
    pub http: Settings,
}

impl Config {
    /// The real service, and good defaults.
    pub fn new(root: Root, auth: Auth) -> Result<Self> {
        let address = |text: &str| {
            Url::parse(text)
                .map_err(|e| Error::new(ErrorKind::Invalid, "read the store's address").because(e))
        };
        Ok(Config {
            api: address("https://api.box.com/2.0")?,
            upload: address("https://upload.box.com/api/2.0")?,
            token: address("https://api.box.com/oauth2/token")?,
            root,
            auth,
            session_min: 20_000_000,
            // Links live about 15 minutes.
            link_life: Duration::from_secs(10 * 60),
            pause: Duration::from_secs(10),
            commit_within: Duration::from_secs(30 * 60),
            settle: Duration::from_secs(30),
            http: Settings::default(),
        })
    }

    /// Whether the root can be one.
    pub(super) fn check(&self) -> Result<()> {
        let bad =
            |why: &str| Err(Error::new(ErrorKind::Invalid, "read the store's address").said(why));
        let path = &self.root.path;
        if !path.is_empty() && path.split('/').any(|name| !names::is_one_segment(name)) {
            return bad(&format!("\"{path}\" cannot be a folder's path"));
        }
        if self.root.id.is_empty() || !self.root.id.bytes().all(|b| b.is_ascii_digit()) {
            return bad("an id has digits only");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_an_enterprise_or_a_user() {
        assert_eq!(
            Subject::parse("enterprise:5"),
            Ok(Subject::Enterprise("5".into()))
        );
        assert_eq!(Subject::parse("user:7").unwrap().pair(), ("user", "7"));
        for bad in ["", "5", "user:", "group:5"] {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }
}
