//! An embedded IoT File Service over a fresh folder, and a store on it.

use super::PART;
use assetfs::http::{Credential, Secret};
use assetfs::serve::{Api, ENTITY, Server, Settings};
use assetfs::store::iotfile::{Auth, Config, IotFile};
use assetfs::store::{RetrySettings, Stats, Store, WrapSettings, wrapped};
use std::sync::Arc;
use std::time::Duration;

/// The token that opens it.
pub const TOKEN: &str = "t0ken";

pub struct Iot {
    pub server: Server,
    pub store: Arc<dyn Store>,
    pub stats: Arc<Stats>,
    pub folder: tempfile::TempDir,
}

/// How an [`Iot`] is made; the fields are changed before [`Setup::go`].
pub struct Setup {
    pub server: Settings,
    pub folder: tempfile::TempDir,
    pub part_size: u64,
    pub tries: u32,
    pub below: String,
    /// How long the index of a large entity is believed.
    pub fresh_for: Duration,
    /// Application credentials in place of the token.
    pub client: bool,
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
    let store = IotFile::new(config).expect("a store");
    (wrapped(Arc::new(store), &settings), settings.stats)
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Settings::new(folder.path());
        server.api = Api::Iotfile;
        server.name = ENTITY.to_owned();
        server.key = Some(TOKEN.to_owned());
        server.login = Some(("id".to_owned(), "secret".to_owned()));
        server.iotfile.part_min = PART;
        Setup {
            server,
            folder,
            part_size: PART,
            tries: 1,
            below: String::new(),
            fresh_for: Duration::ZERO,
            client: false,
        }
    }

    pub fn config(&self, server: &Server) -> Config {
        let secret = |text| Credential::fixed(Secret::new(text));
        let auth = if self.client {
            Auth::Application {
                id: "id".to_owned(),
                secret: secret("secret"),
                name: "assetfs".to_owned(),
                version: "1.0.0".to_owned(),
                host: "host".to_owned(),
                user: "user".to_owned(),
            }
        } else {
            Auth::Token(secret(TOKEN))
        };
        let gateway = format!("http://{}", server.addr());
        let mut config = Config::at(&gateway, ENTITY, auth).expect("an address");
        config.folder.clone_from(&self.below);
        config.part_size = self.part_size;
        config.fresh_for = self.fresh_for;
        config.http.stall_timeout = Duration::from_millis(400);
        config
    }

    pub async fn go(self) -> Iot {
        let server = Server::start(self.server.clone()).await.unwrap();
        let (store, stats) = store_on(self.config(&server), self.tries);
        Iot {
            server,
            store,
            stats,
            folder: self.folder,
        }
    }
}

impl Iot {
    /// `METHOD service/path?step` of each request seen, without the entity.
    pub fn seen(&self) -> Vec<String> {
        let line = |request: &assetfs::serve::Request| {
            let target = request.target.replace("/api/iotfile/v3/", "");
            let target = target.replacen(&format!("/{ENTITY}"), "", 1);
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let step =
                (query.split('&')).find(|q| q.starts_with("upload=") || q.starts_with("part="));
            let step = step.map_or(String::new(), |step| format!("?{step}"));
            format!("{} {path}{step}", request.method)
        };
        self.server.requests().iter().map(line).collect()
    }

    /// Of these what writes.
    pub fn writes(&self) -> Vec<String> {
        let mut seen = self.seen();
        seen.retain(|line| !line.starts_with("GET"));
        seen
    }
}
