//! Tokens: three ways in, and their end.

use crate::bench::Bench;
use assetfs::serve::Settings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;

const FORM: &str = "grant_type=client_credentials";

fn locked(settings: &mut Settings) {
    settings.key = Some("fixed".to_owned());
    settings.login = Some(("id".to_owned(), "secret".to_owned()));
}

async fn enters(b: &Bench, token: &str) -> u16 {
    let search = b.request("GET", &format!("files/{}", assetfs::serve::ENTITY));
    let search = search.header("authorization", format!("Bearer {token}"));
    search.send().await.unwrap().status().as_u16()
}

async fn token(request: reqwest::RequestBuilder) -> Result<Value, u16> {
    let answer = request.send().await.unwrap();
    match answer.status().as_u16() {
        200 => Ok(serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()),
        status => Err(status),
    }
}

#[tokio::test]
async fn each_of_the_three_credentials_opens_and_a_wrong_one_does_not() {
    let b = Bench::with(locked).await;
    let at = format!("http://{}", b.server.addr());
    assert_eq!(enters(&b, "fixed").await, 200);
    assert_eq!(enters(&b, "other").await, 401);
    assert_eq!(b.search("").await.status(), 401);
    let tenant = |secret: &str| {
        let post = b.client.post(format!("{at}/oauth/token"));
        let post = post.header("content-type", "application/x-www-form-urlencoded");
        post.basic_auth("id", Some(secret)).body(FORM)
    };
    let got = token(tenant("secret")).await.unwrap();
    assert_eq!(enters(&b, got["access_token"].as_str().unwrap()).await, 200);
    assert_eq!(got["expires_in"], 1799);
    assert_eq!(token(tenant("wrong")).await, Err(401));
    let application = |secret: &str, body: Value| {
        let pair = STANDARD.encode(format!("id:{secret}"));
        let post = b
            .client
            .post(format!("{at}/api/technicaltokenmanager/v3/oauth/token"));
        let post = post.header("content-type", "application/json");
        let post = post.header("x-space-auth-key", format!("Basic {pair}"));
        post.body(body.to_string())
    };
    let all = json!({"appName": "a", "appVersion": "1.0.0", "hostTenant": "h", "userTenant": "u"});
    let got = token(application("secret", all.clone())).await.unwrap();
    assert_eq!(enters(&b, got["access_token"].as_str().unwrap()).await, 200);
    assert_eq!(token(application("wrong", all)).await, Err(401));
    assert_eq!(
        token(application("secret", json!({"appName": "a"}))).await,
        Err(400)
    );
}

#[tokio::test]
async fn a_token_ends() {
    let b = Bench::with(|s| {
        locked(s);
        s.iotfile.token_life = Duration::ZERO;
        s.iotfile.token_told = Some(Duration::from_secs(1799));
    })
    .await;
    let post = b
        .client
        .post(format!("http://{}/oauth/token", b.server.addr()));
    let post = post.header("content-type", "application/x-www-form-urlencoded");
    let got = token(post.basic_auth("id", Some("secret")).body(FORM))
        .await
        .unwrap();
    assert_eq!(got["expires_in"], 1799);
    assert_eq!(enters(&b, got["access_token"].as_str().unwrap()).await, 401);
}
