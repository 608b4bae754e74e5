//! A server, its folder and a client, for the tests beside.

use assetfs::serve::{Server, Settings};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;

/// A server, its folder, a client.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) server: Server,
    pub(crate) client: Client,
}

impl Bench {
    pub(crate) async fn new() -> Bench {
        Bench::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        change(&mut settings);
        let server = Server::start(settings).await.unwrap();
        Bench {
            dir,
            server,
            client: Client::new(),
        }
    }

    pub(crate) async fn restart(self) -> Bench {
        let Bench {
            dir,
            server,
            client,
        } = self;
        drop(server);
        let server = Server::start(Settings::new(dir.path())).await.unwrap();
        Bench {
            dir,
            server,
            client,
        }
    }

    pub(crate) fn request(&self, method: &str, target: &str) -> RequestBuilder {
        let url = format!("http://{}/endpoints/files/{target}", self.server.addr());
        self.client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    pub(crate) async fn send(&self, method: &str, target: &str) -> Response {
        self.request(method, target).send().await.unwrap()
    }

    pub(crate) async fn status(&self, method: &str, target: &str) -> u16 {
        self.send(method, target).await.status().as_u16()
    }

    pub(crate) async fn upload(
        &self,
        method: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> u16 {
        let request = self.request(method, &format!("content/{path}")).body(body);
        request.send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.send("GET", &format!("content/{path}"))
            .await
            .text()
            .await
            .unwrap()
    }

    pub(crate) async fn json(&self, target: &str) -> Value {
        let response = self.send("GET", target).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    pub(crate) async fn names(&self, target: &str) -> Vec<String> {
        let items = self.json(target).await;
        let name = |item: &Value| match item["parent"].as_str() {
            Some(parent) => format!("{parent}/{}", item["name"].as_str().unwrap()),
            None => item["name"].as_str().unwrap().to_owned(),
        };
        let mut names: Vec<_> = items.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }

    pub(crate) fn disk(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Sends one part of the upload `id`.
    pub(crate) async fn part(&self, path: &str, id: &str, part: &Part<'_>) -> u16 {
        let Part {
            index,
            offset,
            total,
            count,
            bytes,
        } = *part;
        let target = format!(
            "{path}?multipart=upload&id={id}&index={index}&offset={offset}&totalSize={total}\
             &partSize={}&totalParts={count}",
            bytes.len()
        );
        self.upload("POST", &target, bytes.to_vec()).await
    }

    pub(crate) async fn complete(&self, path: &str, id: &str) -> u16 {
        self.upload("POST", &format!("{path}?multipart=complete&id={id}"), "")
            .await
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) index: u32,
    pub(crate) offset: u64,
    pub(crate) total: u64,
    pub(crate) count: u32,
    pub(crate) bytes: &'a [u8],
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

pub(crate) const HELLO_SHA1: &str = "f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0";
pub(crate) const HELLO_SHA256: &str =
    "185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969";

/// Bytes that differ everywhere.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size as u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9)).to_le_bytes())
        .take(size)
        .collect()
}

pub(crate) fn cut(bytes: &[u8], size: usize) -> Vec<Part<'_>> {
    let count = bytes.len().div_ceil(size) as u32;
    let part = |(index, piece)| Part {
        index: index as u32,
        offset: (index * size) as u64,
        total: bytes.len() as u64,
        count,
        bytes: piece,
    };
    bytes.chunks(size).enumerate().map(part).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(bytes))
}
