//! The embedded servers: a store's API over a folder on disk, strict as the real service, so that
//! anybody can try everything without an account and tests can break what they like.
//!
//! Written from the specs, not from the clients: nothing here may know `store` or `http`.
//!
//! What is common to all APIs lives beside this file: listening and one connection (`wire`), one
//! request's way (`exchange`), shaping (`shape`), faults (`faults`), the request log (`log`),
//! ranges (`range`), bodies (`body`), files and their records on disk (`disk`), uploads that
//! are not yet visible (`staging`). What one service alone does is in its own folder.

mod body;
mod boxcom;
mod disk;
mod exchange;
mod faults;
mod iotfile;
mod listen;
mod log;
mod proget;
mod range;
mod records;
mod shape;
mod staging;
mod wire;

pub use boxcom::Ways as BoxWays;
pub use faults::{Action, EXAMPLE, FORMAT, Faults, Rule};
pub use iotfile::{ENTITY, Ways as IotfileWays};
pub use listen::Server;
pub use log::Request;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Which service to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// A ProGet asset directory below `/endpoints/NAME/`.
    Proget,
    /// One entity of the Siemens IoT File Service below `/api/iotfile/v3/`.
    Iotfile,
    /// The Box content API: `/2.0`, `/api/2.0` (uploads) and `/oauth2`.
    Box,
}

impl std::str::FromStr for Api {
    type Err = String;

    /// The word of the command line: `proget`, `iotfile`, `box`.
    fn from_str(word: &str) -> Result<Api, String> {
        match word {
            "proget" => Ok(Api::Proget),
            "iotfile" => Ok(Api::Iotfile),
            "box" => Ok(Api::Box),
            _ => Err(format!(
                "there is no API {word:?}; there are: proget, iotfile, box"
            )),
        }
    }
}

/// What a server is started with. All fields are public; [`Settings::new`] fills in the rest.
#[derive(Clone)]
pub struct Settings {
    /// The folder whose files are served. Created if missing; one server at a time. Everything that
    /// is not a plain file or folder (links, sockets) is left out.
    pub dir: PathBuf,
    /// Which service to be.
    pub api: Api,
    /// Where to listen; port 0 takes a free one, see [`Server::addr`].
    pub listen: SocketAddr,
    /// The name of the asset directory (ProGet), or the entity: 32 of `a-f0-9` (IoT File Service).
    pub name: String,
    /// The key or token to ask for.
    pub key: Option<String>,
    /// A user and password that are as good as the key (ProGet), or an id and secret for which the token
    /// endpoints give tokens (IoT File Service, Box). Without key and this, nobody is asked.
    pub login: Option<(String, String)>,
    /// Bytes per second in each direction, shared by all connections.
    pub rate: Option<u64>,
    /// What every new connection and every request waits in addition.
    pub rtt: Duration,
    /// A JSON file of [`Rule`]s, read again when it changes.
    pub faults: Option<PathBuf>,
    /// Rules to begin with, when there is no file.
    pub rules: Vec<Rule>,
    /// A file that gets one JSON line per [`Request`], appended.
    pub log: Option<PathBuf>,
    /// Whether `A` and `a` are one name, as on a Windows server.
    pub ignore_case: bool,
    /// How to be an IoT File Service.
    pub iotfile: IotfileWays,
    /// How to be Box.
    pub boxcom: BoxWays,
}

impl Settings {
    /// A ProGet asset directory `files` over `dir`, on a free port of 127.0.0.1, open to everybody,
    /// unshaped, without faults or log file, with names that differ in case.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            api: Api::Proget,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            name: "files".to_owned(),
            key: None,
            login: None,
            rate: None,
            rtt: Duration::ZERO,
            faults: None,
            rules: Vec::new(),
            log: None,
            ignore_case: false,
            iotfile: IotfileWays::default(),
            boxcom: BoxWays::default(),
        }
    }
}

/// Without the secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("dir", &self.dir)
            .field("api", &self.api)
            .field("listen", &self.listen)
            .field("name", &self.name)
            .field("key", &self.key.as_ref().map(|_| "***"))
            .field("login", &self.login.as_ref().map(|_| "***"))
            .field("rate", &self.rate)
            .field("rtt", &self.rtt)
            .field("faults", &self.faults)
            .field("rules", &self.rules)
            .field("log", &self.log)
            .field("ignore_case", &self.ignore_case)
            .field("iotfile", &self.iotfile)
            .field("boxcom", &self.boxcom)
            .finish()
    }
}
