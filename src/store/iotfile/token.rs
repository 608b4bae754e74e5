//! Tokens from either endpoint (spec, section 8).

use super::config::Auth;
use super::{Config, ErrorKind};
use crate::error::{Error, Result};
use crate::http::{Answer, Body, Client, Credential, Fetch, Fresh, Method, Secret, Url};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

const OP: &str = "get a token";

/// Tokens are renewed so long before their end; short-lived ones at half their life.
const EARLY: Duration = Duration::from_secs(60);

/// How long a token lives that does not tell.
const LIFE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of a token's answer.
const ANSWER_MAX: usize = 256 * 1024;

/// What is sent to the endpoint beside the secret.
#[derive(Debug)]
enum Form {
    Tenant,
    /// The JSON body.
    Application(String),
}

struct Endpoint {
    client: Client,
    url: Url,
    form: Form,
    id: String,
    secret: Credential,
}

#[derive(Deserialize)]
struct Told {
    access_token: String,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

/// What goes into `Authorization`, and whose store it is; nothing for nobody.
pub(super) fn bearer(config: &mut Config) -> Result<(Option<Credential>, String)> {
    let url = config.token_url();
    let (form, id, secret, account) = match std::mem::replace(&mut config.auth, Auth::Anonymous) {
        Auth::Anonymous => return Ok((None, "anonymous".to_owned())),
        Auth::Token(token) => return Ok((Some(token), "bearer".to_owned())),
        Auth::Tenant { id, secret, tenant } => {
            let account = format!("{id} of tenant {tenant}");
            (Form::Tenant, id, secret, account)
        }
        Auth::Application {
            id,
            secret,
            name,
            version,
            host,
            user,
        } => {
            let body = serde_json::json!({
                "appName": name, "appVersion": version, "hostTenant": host, "userTenant": user,
            });
            let account = format!("{name} for tenant {user}");
            (Form::Application(body.to_string()), id, secret, account)
        }
    };
    let url = url?;
    let endpoint = Endpoint {
        client: Client::new(&config.http, &url)?,
        url,
        form,
        id,
        secret,
    };
    // The margin is taken off each token's life below.
    let token = Credential::fetched(endpoint, Duration::ZERO);
    Ok((Some(token), account))
}

impl Endpoint {
    async fn ask(&self, secret: &Secret) -> Result<Answer> {
        let request = self
            .client
            .request(Method::POST, self.url.clone(), OP, self.url.path());
        let request = match &self.form {
            Form::Tenant => request
                .basic(&self.id, secret)
                .header("content-type", "application/x-www-form-urlencoded")
                .header("accept", "*/*")
                .body(Body::Bytes("grant_type=client_credentials".into())),
            Form::Application(body) => {
                let pair = STANDARD.encode(format!("{}:{}", self.id, secret.reveal()));
                request
                    .secret_header("x-space-auth-key", &Secret::new(&format!("Basic {pair}")))
                    .header("content-type", "application/json")
                    .body(Body::Bytes(body.clone().into()))
            }
        };
        request.send().await
    }
}

#[async_trait]
impl Fetch for Endpoint {
    async fn fetch(&self) -> Result<Fresh> {
        let secret = self.secret.get().await?;
        let mut answer = self.ask(&secret).await?;
        if answer.status() == 401
            && let Some(fresh) = self.secret.refused(&secret).await?
        {
            answer.drain().await;
            answer = self.ask(&fresh).await?;
        }
        if !answer.is_success() {
            let refused = matches!(answer.status(), 400 | 401 | 403);
            let error = answer.into_error().await;
            let kind = if refused {
                ErrorKind::Denied
            } else if error.kind == ErrorKind::NotFound {
                ErrorKind::Protocol
            } else {
                error.kind
            };
            return Err(Error { kind, ..error });
        }
        let told: Told = answer.json(ANSWER_MAX).await?;
        let life = told.expires_in.map(seconds);
        let life = life.or_else(|| until(&told.access_token, SystemTime::now()));
        let life = life.unwrap_or(LIFE);
        log::debug!("a new token, good for {} s", life.as_secs());
        Ok(Fresh {
            secret: Secret::new(&told.access_token),
            life: Some(usable(life)),
        })
    }
}

/// How long a token is used that lives so long.
fn usable(life: Duration) -> Duration {
    life - EARLY.min(life / 2)
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or(Duration::ZERO)
}

/// The life that a token's own `exp` claim leaves it.
fn until(token: &str, now: SystemTime) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let end = SystemTime::UNIX_EPOCH + seconds(claims.exp?);
    Some(end.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_a_minute_early_and_a_short_one_at_half_its_life() {
        let used = |life| usable(Duration::from_secs(life)).as_secs();
        assert_eq!((used(1799), used(120), used(10)), (1739, 60, 5));
        assert_eq!(usable(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn the_end_of_a_token_stands_in_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let token = |claims: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims));
        let life = |text: &str| until(text, now).map(|life| life.as_secs());
        assert_eq!(life(&token(r#"{"exp":1500}"#)), Some(500));
        assert_eq!(life(&token(r#"{"exp":500}"#)), Some(0));
        for odd in ["", "opaque", "a.b.c", &token("{}"), &token("[")] {
            assert_eq!(life(odd), None, "{odd}");
        }
    }
}
