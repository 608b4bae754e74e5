//! Where an asset directory is and how it is used, as plain data.

use super::names;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::http::{Credential, Settings, Url};

/// Who asks.
#[derive(Debug)]
pub enum Auth {
    /// Nobody: only what the server gives to anonymous users.
    Anonymous,
    /// An API key, in `X-ApiKey`.
    Key(Credential),
    /// A user: in `Authorization: Basic`, and as the pseudo-key `user:password` in `X-ApiKey`, since
    /// some operations look at one only (section 2).
    User {
        /// The user's name.
        name: String,
        /// The password.
        password: Credential,
    },
}

/// How a ProGet asset directory is reached and used.
#[derive(Debug)]
pub struct Config {
    /// `scheme://host[:port][/prefix]`, what stands before `/endpoints/`.
    pub base: Url,
    /// The asset directory, not encoded.
    pub directory: String,
    /// The folder below it that is shown, not encoded; empty: all.
    pub folder: String,
    /// Who asks.
    pub auth: Auth,
    /// Bytes of one part, and the most for one request; below 2 GiB. 8 MiB is a good one: IIS
    /// refuses bodies above 30 MB by default.
    pub part_size: u64,
    /// Keep mtime, mode and `user.*` in the item's user metadata.
    pub user_metadata: bool,
    /// Guard against servers for which names that differ only in case are one name: a create that
    /// would hit another spelling is `Exists`. The guard asks the server (create-only requests and
    /// the name in its answers), so it costs a case-sensitive server nothing; off trusts blindly.
    pub case_fold: bool,
    /// Send parts at the same time; given up by itself where the server refuses that.
    pub parallel_parts: bool,
    /// Connections, waiting times, rates.
    pub http: Settings,
}

impl Config {
    /// Good defaults for an address `http(s)://HOST[/PREFIX]/endpoints/DIRECTORY[/FOLDER]`.
    pub fn at(address: &str, auth: Auth) -> Result<Self> {
        let wrong =
            |why: &str| Error::new(ErrorKind::Invalid, "read the store's address").said(why);
        let url = Url::parse(address).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("it must begin with https://HOST or http://HOST"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("credentials do not belong into the address"));
        }
        let (prefix, rest) = url
            .path()
            .split_once("/endpoints/")
            .ok_or_else(|| wrong("it must be https://HOST/endpoints/DIRECTORY[/FOLDER]"))?;
        let mut segments = Vec::new();
        for segment in rest.split('/').filter(|s| !s.is_empty()) {
            let text = percent_encoding::percent_decode_str(segment)
                .decode_utf8()
                .map_err(|_| wrong("it is not UTF-8"))?;
            if !names::is_one_segment(&text) {
                return Err(wrong("it holds an impossible name"));
            }
            segments.push(text.into_owned());
        }
        if segments.is_empty() {
            return Err(wrong("the name of the asset directory is missing"));
        }
        let directory = segments.remove(0);
        let mut base = url.clone();
        base.set_path(prefix);
        base.set_query(None);
        base.set_fragment(None);
        Ok(Config {
            base,
            directory,
            folder: segments.join("/"),
            auth,
            part_size: 8 * 1024 * 1024,
            user_metadata: true,
            case_fold: true,
            parallel_parts: true,
            http: Settings::default(),
        })
    }
}
