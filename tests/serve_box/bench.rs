//! A server, its folder and a client, for the tests beside.

use assetfs::serve::{Api, Server, Settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::path::PathBuf;
use tempfile::TempDir;

/// Bytes of a part in these tests, and the least size of a session.
pub(crate) const PART: usize = 1000;

/// A server, its folder, a client.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) server: Server,
    pub(crate) client: Client,
    settings: Settings,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    /// The error's code.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn id(&self) -> String {
        let json = self.json();
        let item = match &json["entries"] {
            Value::Array(entries) => &entries[0],
            _ => &json,
        };
        item["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status and code.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// What a refusal is compared with.
pub(crate) fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

impl Bench {
    pub(crate) async fn new() -> Bench {
        Bench::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        settings.api = Api::Box;
        settings.boxcom.part_size = PART as u64;
        settings.boxcom.session_min = PART as u64;
        change(&mut settings);
        let server = Server::start(settings.clone()).await.unwrap();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        Bench {
            dir,
            server,
            client: client.build().unwrap(),
            settings,
        }
    }

    pub(crate) async fn restart(self) -> Bench {
        drop(self.server);
        let server = Server::start(self.settings.clone()).await.unwrap();
        Bench { server, ..self }
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}/{target}", self.server.addr())
    }

    pub(crate) fn request(&self, method: &str, target: &str) -> RequestBuilder {
        let url = match target.starts_with("http") {
            true => target.to_owned(),
            false => self.url(target),
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, url)
    }

    pub(crate) async fn ask(&self, method: &str, target: &str) -> Said {
        send(self.request(method, target)).await
    }

    /// A request with a JSON body.
    pub(crate) async fn tell(&self, method: &str, target: &str, body: Value) -> Said {
        send(with_json(self.request(method, target), &body)).await
    }

    /// A new folder's id.
    pub(crate) async fn folder(&self, parent: &str, name: &str) -> String {
        let body = json!({"name": name, "parent": {"id": parent}});
        let said = self.tell("POST", "2.0/folders", body).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.id()
    }

    /// A form with attributes and a content.
    pub(crate) fn form(&self, target: &str, attributes: &Value, content: &[u8]) -> RequestBuilder {
        let mut body = format!(
            "--B\r\nContent-Disposition: form-data; name=\"attributes\"\r\n\r\n{attributes}\r\n--B\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n--B--\r\n");
        self.request("POST", target)
            .header("content-type", "multipart/form-data; boundary=B")
            .body(body)
    }

    pub(crate) async fn put(&self, parent: &str, name: &str, content: &[u8]) -> Said {
        let attributes = json!({"name": name, "parent": {"id": parent}});
        send(self.form("api/2.0/files/content", &attributes, content)).await
    }

    /// The content as a download gives it.
    pub(crate) async fn content(&self, id: &str) -> Vec<u8> {
        let link = self.link(id).await;
        let said = self.ask("GET", &link).await;
        assert_eq!(said.status, 200);
        said.body
    }

    pub(crate) async fn link(&self, id: &str) -> String {
        let said = self.ask("GET", &format!("2.0/files/{id}/content")).await;
        assert_eq!((said.status, said.body.len()), (302, 0));
        said.header("location").unwrap().to_owned()
    }

    /// The names in a folder.
    pub(crate) async fn names(&self, id: &str) -> Vec<String> {
        let said = self.ask("GET", &format!("2.0/folders/{id}/items")).await;
        let json = said.json();
        let entries = json["entries"].as_array().unwrap();
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        entries.iter().map(name).collect()
    }

    pub(crate) fn disk(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Said {
    let answer = request.send().await.unwrap();
    Said {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: answer.bytes().await.unwrap().to_vec(),
    }
}

pub(crate) fn with_json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request
        .header("content-type", "application/json")
        .body(body.to_string())
}

pub(crate) fn sha1(content: &[u8]) -> String {
    format!("{:x}", Sha1::digest(content))
}

/// The value of `Digest`.
pub(crate) fn digest(content: &[u8]) -> String {
    format!("sha={}", STANDARD.encode(Sha1::digest(content)))
}

/// Bytes that differ everywhere.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size as u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9)).to_le_bytes())
        .take(size)
        .collect()
}
