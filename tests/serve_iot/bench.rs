//! A server, its folder and a client, for the tests beside.

use assetfs::serve::{Api, ENTITY, Server, Settings};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;

/// The least size of a part in these tests, in bytes.
pub(crate) const PART: usize = 1000;

/// A server, its folder, a client.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) server: Server,
    pub(crate) client: Client,
    settings: Settings,
}

impl Bench {
    pub(crate) async fn new() -> Bench {
        Bench::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        settings.api = Api::Iotfile;
        settings.name = ENTITY.to_owned();
        settings.iotfile.part_min = PART as u64;
        change(&mut settings);
        let server = Server::start(settings.clone()).await.unwrap();
        Bench {
            dir,
            server,
            client: Client::new(),
            settings,
        }
    }

    pub(crate) async fn restart(self) -> Bench {
        drop(self.server);
        let server = Server::start(self.settings.clone()).await.unwrap();
        Bench { server, ..self }
    }

    /// A request without more; `target` below the service.
    pub(crate) fn request(&self, method: &str, target: &str) -> RequestBuilder {
        let url = format!("http://{}/api/iotfile/v3/{target}", self.server.addr());
        self.client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    pub(crate) fn file(&self, method: &str, path: &str) -> RequestBuilder {
        self.request(method, &format!("files/{ENTITY}/{path}"))
    }

    /// A PUT with what every one needs.
    pub(crate) fn put(&self, target: &str, tag: Option<u64>, body: &[u8]) -> RequestBuilder {
        let put = self.file("PUT", target).body(body.to_vec());
        let put = put.header("content-type", "application/octet-stream");
        match tag {
            Some(tag) => put.header("if-match", tag.to_string()),
            None => put,
        }
    }

    /// Its status.
    pub(crate) async fn puts(&self, target: &str, tag: Option<u64>, body: &[u8]) -> u16 {
        let answer = self.put(target, tag, body).send().await.unwrap();
        answer.status().as_u16()
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let answer = self.file("GET", path).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub(crate) async fn search(&self, query: &str) -> Response {
        self.request("GET", &format!("files/{ENTITY}?{query}"))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn rows(&self, query: &str) -> Vec<Value> {
        let answer = self.search(query).await;
        assert_eq!(answer.status(), 200, "{query}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// The keys that a search finds, in its order.
    pub(crate) async fn keys(&self, query: &str) -> Vec<String> {
        let key = |row: &Value| {
            let dir = row["path"].as_str().unwrap_or("").trim_end_matches('/');
            let name = row["name"].as_str().unwrap();
            if dir.is_empty() {
                name.to_owned()
            } else {
                format!("{dir}/{name}")
            }
        };
        self.rows(query).await.iter().map(key).collect()
    }

    pub(crate) fn disk(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// Bytes that differ everywhere.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size as u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9)).to_le_bytes())
        .take(size)
        .collect()
}
