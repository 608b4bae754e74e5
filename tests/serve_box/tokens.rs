//! Tokens: each way in, and their end.

use crate::bench::{Bench, Said, send};
use assetfs::serve::Settings;
use std::time::Duration;

fn locked(settings: &mut Settings) {
    settings.key = Some("fixed".to_owned());
    settings.login = Some(("id".to_owned(), "secret".to_owned()));
    settings.boxcom.refresh_token = Some("first".to_owned());
}

async fn enters(b: &Bench, token: &str) -> u16 {
    let get = b.request("GET", "2.0/folders/0").bearer_auth(token);
    send(get).await.status
}

async fn token(b: &Bench, form: &str) -> Said {
    let post = b.request("POST", "oauth2/token");
    let post = post.header("content-type", "application/x-www-form-urlencoded");
    send(post.body(form.to_owned())).await
}

fn text(said: &Said, name: &str) -> String {
    said.json()[name].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_developer_token_and_client_credentials_open_and_others_do_not() {
    let b = Bench::with(locked).await;
    assert_eq!(enters(&b, "fixed").await, 200);
    let refused = send(b.request("GET", "2.0/folders/0").bearer_auth("x")).await;
    assert_eq!((refused.status, refused.body.len()), (401, 0));
    assert!(
        refused
            .header("www-authenticate")
            .unwrap()
            .contains("invalid_token")
    );
    let form = "grant_type=client_credentials&client_id=id&client_secret=secret\
                &box_subject_type=enterprise&box_subject_id=5";
    let said = token(&b, form).await;
    assert_eq!(said.json()["token_type"], "bearer");
    assert!(said.json()["refresh_token"].is_null());
    assert_eq!(enters(&b, &text(&said, "access_token")).await, 200);
    for (bad, error) in [
        (form.replace("secret=secret", "secret=x"), "invalid_client"),
        (form.replace("enterprise", "other"), "invalid_grant"),
        (
            form.replace("client_credentials", "x"),
            "unsupported_grant_type",
        ),
    ] {
        let said = token(&b, &bad).await;
        assert_eq!((said.status, text(&said, "error")), (400, error.to_owned()));
    }
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_the_next_one_survives_a_restart() {
    let b = Bench::with(locked).await;
    let form = |token: &str| {
        format!("grant_type=refresh_token&client_id=id&client_secret=secret&refresh_token={token}")
    };
    let said = token(&b, &form("first")).await;
    assert_eq!(enters(&b, &text(&said, "access_token")).await, 200);
    let next = text(&said, "refresh_token");
    let spent = token(&b, &form("first")).await;
    assert_eq!(
        (spent.status, text(&spent, "error")),
        (400, "invalid_grant".to_owned())
    );
    let b = b.restart().await;
    assert_eq!(token(&b, &form("first")).await.status, 400);
    assert_eq!(token(&b, &form(&next)).await.status, 200);
}

#[tokio::test]
async fn a_code_comes_by_way_of_the_browser_and_is_good_once() {
    let b = Bench::with(locked).await;
    let at = "api/oauth2/authorize?response_type=code&client_id=id&state=s\
              &redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fback";
    let said = b.ask("GET", at).await;
    let back = url::Url::parse(said.header("location").unwrap()).unwrap();
    let pairs: Vec<_> = back.query_pairs().into_owned().collect();
    assert_eq!((back.path(), &*pairs[1].1), ("/back", "s"));
    let form = format!(
        "grant_type=authorization_code&client_id=id&client_secret=secret&code={}",
        pairs[0].1
    );
    let said = token(&b, &form).await;
    assert_eq!(enters(&b, &text(&said, "access_token")).await, 200);
    assert!(!text(&said, "refresh_token").is_empty());
    assert_eq!(token(&b, &form).await.status, 400);
}

#[tokio::test]
async fn a_token_ends_and_can_be_revoked() {
    let b = Bench::with(|s| {
        locked(s);
        s.boxcom.token_life = Duration::ZERO;
        s.boxcom.token_told = Some(Duration::from_secs(3600));
    })
    .await;
    let form = "grant_type=refresh_token&client_id=id&client_secret=secret&refresh_token=first";
    let said = token(&b, form).await;
    assert_eq!(said.json()["expires_in"], 3600);
    assert_eq!(enters(&b, &text(&said, "access_token")).await, 401);
    let next = text(&said, "refresh_token");
    let post = b.request("POST", "oauth2/revoke");
    let post = post.header("content-type", "application/x-www-form-urlencoded");
    let post = post.body(format!("client_id=id&client_secret=secret&token={next}"));
    assert_eq!(send(post).await.status, 200);
    assert_eq!(token(&b, &form.replace("first", &next)).await.status, 400);
}
