//! Tokens (spec, section 5): the client credentials grant, and refresh tokens that are good for one use.

use super::config::{Auth, Subject};
use super::keep::{Keep, Kept};
use super::{Config, ErrorKind};
use crate::error::{Error, Result};
use crate::http::{Body, Client, Credential, Fetch, Fresh, Method, Secret, Url};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

const OP: &str = "get a token";

/// Tokens are renewed so long before their end; short-lived ones at half their life. The upload of a part
/// may take long.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// How long a token lives that does not tell.
const LIFE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of a token's answer.
const ANSWER_MAX: usize = 64 * 1024;

/// The token endpoint, for one client.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    id: String,
    secret: Credential,
}

/// What the endpoint gave.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    pub(super) life: Duration,
}

/// Exchanges an authorization code, and keeps what comes of it.
///
/// # Errors
/// `Denied` if the code or the client is refused.
pub async fn log_in(
    http: &crate::http::Settings,
    token_url: &Url,
    id: &str,
    secret: Credential,
    code: &str,
    redirect: &str,
    keep: std::path::PathBuf,
) -> Result<()> {
    let endpoint = Endpoint::new(http, token_url, id, secret)?;
    let keep = Keep::new(keep);
    let locked = keep.lock().await?;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect),
    ];
    let given = endpoint.ask(&form).await?;
    let refresh = given.refresh.clone().ok_or_else(|| {
        Error::new(ErrorKind::Protocol, OP).said("the service gave no refresh token")
    })?;
    locked.write(Kept::new(None, refresh, &given)).await
}

/// What goes into `Authorization`; nothing for nobody.
pub(super) fn bearer(config: &mut Config) -> Result<Option<Credential>> {
    let auth = std::mem::replace(&mut config.auth, Auth::Anonymous);
    Ok(match auth {
        Auth::Anonymous => None,
        Auth::Token(token) => Some(token),
        Auth::Client {
            id,
            secret,
            subject,
        } => {
            let endpoint = Endpoint::new(&config.http, &config.token, &id, secret)?;
            let grant = Grant { endpoint, subject };
            // The margin is taken off each token's life below.
            Some(Credential::fetched(grant, Duration::ZERO))
        }
        Auth::Refresh {
            id,
            secret,
            first,
            keep,
        } => {
            let rotating = Rotating {
                endpoint: Endpoint::new(&config.http, &config.token, &id, secret)?,
                keep: Keep::new(keep),
                first: first.map(|first| first.reveal().to_owned()),
                given: Mutex::new(None),
            };
            Some(Credential::fetched(rotating, Duration::ZERO))
        }
    })
}

impl Endpoint {
    fn new(
        http: &crate::http::Settings,
        url: &Url,
        id: &str,
        secret: Credential,
    ) -> Result<Endpoint> {
        Ok(Endpoint {
            client: Client::new(http, url)?,
            url: url.clone(),
            id: id.to_owned(),
            secret,
        })
    }

    /// Asks for a token; once more if the secret was refused and there is another by now.
    async fn ask(&self, form: &[(&str, &str)]) -> Result<Given> {
        let secret = self.secret.get().await?;
        match self.ask_with(form, &secret).await {
            Err(error) if error.said.contains("invalid_client") => {
                match self.secret.refused(&secret).await? {
                    Some(fresh) => self.ask_with(form, &fresh).await,
                    None => Err(error),
                }
            }
            done => done,
        }
    }

    async fn ask_with(&self, form: &[(&str, &str)], secret: &Secret) -> Result<Given> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .append_pair("client_id", &self.id)
            .append_pair("client_secret", secret.reveal())
            .finish();
        let request = self
            .client
            .request(Method::POST, self.url.clone(), OP, self.url.path())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::Bytes(body.into()));
        let answer = request.send().await?;
        if !answer.is_success() {
            let no = super::refusal::refusal(answer).await;
            let kind = match no.status {
                400 | 401 | 403 => ErrorKind::Denied,
                404 => ErrorKind::Protocol,
                _ => no.error.kind,
            };
            // The code is looked for by the callers, whatever words come with it.
            let said = match no.error.said.contains(&no.code) {
                true => no.error.said.clone(),
                false => format!("{}: {}", no.code, no.error.said),
            };
            return Err(Error {
                kind,
                said,
                ..no.error
            });
        }
        let told: Value = answer.json(ANSWER_MAX).await?;
        let access = told["access_token"]
            .as_str()
            .filter(|token| !token.is_empty());
        let access = access.ok_or_else(|| {
            Error::new(ErrorKind::Protocol, OP).said("the answer has no access_token")
        })?;
        let life = told["expires_in"].as_f64();
        let life = life.map_or(LIFE, |s| Duration::try_from_secs_f64(s).unwrap_or(LIFE));
        log::debug!("a new token, good for {} s", life.as_secs());
        Ok(Given {
            access: access.to_owned(),
            refresh: told["refresh_token"].as_str().map(str::to_owned),
            life,
        })
    }
}

struct Grant {
    endpoint: Endpoint,
    subject: Subject,
}

#[async_trait]
impl Fetch for Grant {
    async fn fetch(&self) -> Result<Fresh> {
        let (kind, id) = self.subject.pair();
        let form = [
            ("grant_type", "client_credentials"),
            ("box_subject_type", kind),
            ("box_subject_id", id),
        ];
        let given = self.endpoint.ask(&form).await?;
        Ok(Fresh {
            secret: Secret::new(&given.access),
            life: Some(usable(given.life)),
        })
    }
}

struct Rotating {
    endpoint: Endpoint,
    keep: Keep,
    first: Option<String>,
    /// The token that was given out last: whoever asks again wants another one.
    given: Mutex<Option<String>>,
}

impl Rotating {
    fn gave(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Fetch for Rotating {
    async fn fetch(&self) -> Result<Fresh> {
        // One refresher at a time, in all processes: the others find what it has got.
        let locked = self.keep.lock().await?;
        let kept = locked.read().await?;
        let kept = kept.filter(|kept| kept.is_of(self.first.as_deref()));
        let now = SystemTime::now();
        if let Some(kept) = &kept
            && self.gave().as_deref() != Some(&kept.access_token)
            && let Some(left) = kept.left(now).filter(|left| *left > EARLY)
        {
            *self.gave() = Some(kept.access_token.clone());
            return Ok(Fresh {
                secret: Secret::new(&kept.access_token),
                life: Some(usable(left)),
            });
        }
        let token = kept
            .map(|kept| kept.refresh_token)
            .or_else(|| self.first.clone());
        let token = token.ok_or_else(|| {
            Error::new(ErrorKind::Denied, OP).said("there is no refresh token: log in first")
        })?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", &token)];
        let given = self.endpoint.ask(&form).await.map_err(|error| {
            match error.said.contains("invalid_grant") {
                true => error.said("the refresh token is spent or has ended: log in again"),
                false => error,
            }
        })?;
        // The old one is dead by now: the new one must be safe before anything else is done.
        let next = given.refresh.clone().unwrap_or(token);
        locked
            .write(Kept::new(self.first.as_deref(), next, &given))
            .await?;
        *self.gave() = Some(given.access.clone());
        Ok(Fresh {
            secret: Secret::new(&given.access),
            life: Some(usable(given.life)),
        })
    }
}

/// How long a token is used that lives so long.
fn usable(life: Duration) -> Duration {
    life - EARLY.min(life / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_five_minutes_early_and_a_short_one_at_half_its_life() {
        let used = |life| usable(Duration::from_secs(life)).as_secs();
        assert_eq!(
            (used(3600), used(600), used(10), used(0)),
            (3300, 300, 5, 0)
        );
    }
}
