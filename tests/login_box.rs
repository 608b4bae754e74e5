//! `assetfs login box`, with a browser that says yes at once.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Api, Server, Settings};
use common::mount::PROGRAM;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

async fn server(dir: &Path) -> Server {
    let mut settings = Settings::new(dir);
    settings.api = Api::Box;
    settings.login = Some(("id".to_owned(), "s3cret".to_owned()));
    Server::start(settings).await.unwrap()
}

/// The command, and the address that it shows.
fn begun(at: &str, state: &Path) -> (Child, String) {
    let mut child = Command::new(PROGRAM)
        .args(["login", "box", "--port=0"])
        .arg(format!("--authorize-url=http://{at}/api/oauth2/authorize"))
        .arg(format!("--token-url=http://{at}/oauth2/token"))
        .arg(format!("--state-dir={}", state.display()))
        .env_clear()
        .envs([("HOME", "/nonexistent"), ("ASSETFS_CLIENT_ID", "id")])
        .env("ASSETFS_CLIENT_SECRET", "s3cret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.ok().filter(|line| line.starts_with("http")));
    let address = address.expect("an address");
    (child, address)
}

fn ended(mut child: Child) -> (Option<i32>, String) {
    let mut words = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut words).unwrap();
    (child.wait().unwrap().code(), words)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_keeps_what_mounts_need_where_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("served")).await;
    let state = dir.path().join("state");
    let (child, address) = begun(&server.addr().to_string(), &state);
    assert!(!address.contains("s3cret"), "{address}");
    let browser = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = browser
        .get(&address)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(page.contains("logged in"), "{page}");
    assert_eq!(ended(child), (Some(0), String::new()));
    let files: Vec<_> = std::fs::read_dir(state.join("box"))
        .unwrap()
        .flatten()
        .collect();
    let kept = files
        .iter()
        .find(|f| f.path().extension().is_some_and(|e| e == "json"));
    let meta = kept.unwrap().metadata().unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(meta.len() > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_another_question_is_not_taken_and_a_refusal_ends_the_login() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("served")).await;
    let (child, address) = begun(&server.addr().to_string(), dir.path());
    let asked = url::Url::parse(&address).unwrap();
    let pair = |name: &str| {
        let pair = asked.query_pairs().find(|(key, _)| key == name);
        pair.unwrap().1.into_owned()
    };
    let browser = reqwest::Client::builder().no_proxy().build().unwrap();
    let back = async |query: String| {
        let url = format!("{}?{query}", pair("redirect_uri"));
        browser.get(url).send().await.unwrap().text().await.unwrap()
    };
    let page = back("code=stolen&state=other".to_owned()).await;
    assert!(page.contains("not the login"), "{page}");
    back(format!("error=access_denied&state={}", pair("state"))).await;
    let (status, words) = ended(child);
    assert_eq!(status, Some(1));
    assert!(words.contains("not allowed (access_denied)"), "{words}");
}
