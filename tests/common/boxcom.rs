//! An embedded Box server over a fresh folder, and a store on it.

use super::PART;
use assetfs::http::{Credential, Secret, Url};
use assetfs::serve::{Api, Server, Settings};
use assetfs::store::boxcom::{Auth, BoxCom, Config, Root, Subject};
use assetfs::store::{RetrySettings, Stats, Store, WrapSettings, wrapped};
use std::sync::Arc;
use std::time::Duration;

/// The token that opens it.
pub const TOKEN: &str = "t0ken";

pub struct Boxed {
    pub server: Server,
    pub store: Arc<dyn Store>,
    pub stats: Arc<Stats>,
    pub folder: tempfile::TempDir,
}

/// How a [`Boxed`] is made; the fields are changed before [`Setup::go`].
pub struct Setup {
    pub server: Settings,
    pub folder: tempfile::TempDir,
    pub tries: u32,
    pub below: String,
    /// Client credentials in place of the token.
    pub client: bool,
    pub settle: Duration,
}

/// The three bases at an address.
pub fn at(config: &mut Config, addr: &str) {
    let url = |path: &str| Url::parse(&format!("http://{addr}/{path}")).unwrap();
    config.api = url("2.0");
    config.upload = url("api/2.0");
    config.token = url("oauth2/token");
}

pub fn secret(text: &str) -> Credential {
    Credential::fixed(Secret::new(text))
}

/// A store on a server with retries of its own number.
pub fn store_on(config: Config, tries: u32) -> (Arc<dyn Store>, Arc<Stats>) {
    let settings = WrapSettings {
        retry: RetrySettings {
            tries,
            first_wait: Duration::from_millis(1),
            later_budget: Duration::from_secs(if tries > 1 { 20 } else { 0 }),
            ..Default::default()
        },
        ..Default::default()
    };
    let store = BoxCom::new(config).expect("a store");
    (wrapped(Arc::new(store), &settings), settings.stats)
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Settings::new(folder.path());
        server.api = Api::Box;
        server.key = Some(TOKEN.to_owned());
        server.login = Some(("id".to_owned(), "secret".to_owned()));
        server.boxcom.session_min = PART;
        server.boxcom.part_size = PART;
        server.boxcom.retry_after = 0;
        Setup {
            server,
            folder,
            tries: 1,
            below: String::new(),
            client: false,
            settle: Duration::from_secs(30),
        }
    }

    pub fn config(&self, server: &Server) -> Config {
        let auth = if self.client {
            Auth::Client {
                id: "id".to_owned(),
                secret: secret("secret"),
                subject: Subject::Enterprise("5".to_owned()),
            }
        } else {
            Auth::Token(secret(TOKEN))
        };
        let root = Root {
            id: "0".to_owned(),
            path: self.below.clone(),
        };
        let mut config = Config::new(root, auth).unwrap();
        at(&mut config, &server.addr().to_string());
        config.session_min = PART;
        config.pause = Duration::from_millis(1);
        config.settle = self.settle;
        config.http.stall_timeout = Duration::from_millis(400);
        config
    }

    pub async fn go(self) -> Boxed {
        let server = Server::start(self.server.clone()).await.unwrap();
        let (store, stats) = store_on(self.config(&server), self.tries);
        Boxed {
            server,
            store,
            stats,
            folder: self.folder,
        }
    }
}

impl Boxed {
    /// `METHOD path` of each request seen; ids are `N`, sessions `S`, and what stands after `?` is left out.
    pub fn seen(&self) -> Vec<String> {
        let piece = |piece: &str| match piece {
            "2.0" => piece.to_owned(),
            _ if piece.len() > 6 && piece.bytes().all(|b| b.is_ascii_digit()) => "N".to_owned(),
            _ if piece.len() == 32 => "S".to_owned(),
            _ => piece.to_owned(),
        };
        let line = |request: &assetfs::serve::Request| {
            let path = request.target.split('?').next().unwrap_or("");
            let path: Vec<_> = path.trim_start_matches('/').split('/').map(piece).collect();
            format!("{} {}", request.method, path.join("/"))
        };
        self.server.requests().iter().map(line).collect()
    }

    /// Of these what has to do with contents on their way in, without the host's part of the path.
    pub fn uploads(&self) -> Vec<String> {
        let seen = self.seen().into_iter();
        seen.filter(|line| line.contains(" api/2.0/"))
            .map(|line| line.replace("api/2.0/files/", ""))
            .collect()
    }
}
