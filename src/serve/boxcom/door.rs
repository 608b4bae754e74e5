//! Who may come in: a fixed (developer) token, or one that the token endpoint gives for client credentials,
//! a refresh token or an authorization code. Refresh tokens are good for one use, and kept over restarts.

use super::{No, Settings, empty, json_answer, query, text, value};
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The largest body of a request for a token, in bytes.
const BODY_MAX: usize = 64 * 1024;

/// How long an authorization code is good.
const CODE_LIFE: Duration = Duration::from_secs(30);

/// What opens the door.
pub(super) struct Door {
    token: Option<String>,
    client: Option<(String, String)>,
    life: Duration,
    told: Duration,
    issued: Mutex<Issued>,
    /// Holds the refresh tokens that are good.
    file: PathBuf,
}

#[derive(Default)]
struct Issued {
    access: HashMap<String, Instant>,
    refresh: Vec<String>,
    codes: HashMap<String, Instant>,
}

/// Without the secrets.
impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

fn refused(error: &str, words: &str) -> Response {
    json_answer(400, &json!({"error": error, "error_description": words}))
}

fn fresh() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

impl Door {
    pub(super) fn new(settings: &Settings, folder: PathBuf) -> io::Result<Door> {
        let ways = &settings.boxcom;
        let file = folder.join("refresh");
        let refresh = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                ways.refresh_token.iter().cloned().collect()
            }
            Err(e) => return Err(e),
        };
        let issued = Issued {
            refresh,
            ..Issued::default()
        };
        Ok(Door {
            token: settings.key.clone(),
            client: settings.login.clone(),
            life: ways.token_life,
            told: ways.token_told.unwrap_or(ways.token_life),
            issued: Mutex::new(issued),
            file,
        })
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may pass: always, if nobody is asked.
    pub(super) fn opens(&self, headers: &HeaderMap) -> bool {
        if self.token.is_none() && self.client.is_none() {
            return true;
        }
        let bearer = text(headers, header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        let Some(token) = bearer else { return false };
        if self.token.as_deref() == Some(token) {
            return true;
        }
        let issued = self.issued();
        issued
            .access
            .get(token)
            .is_some_and(|end| Instant::now() < *end)
    }

    async fn form(&self, request: Request) -> Result<Vec<(String, String)>, Response> {
        let (head, body) = request.into_parts();
        let kind = text(&head.headers, header::CONTENT_TYPE).unwrap_or("");
        if !kind.starts_with("application/x-www-form-urlencoded") {
            return Err(refused("invalid_request", "Not a form"));
        }
        let body = to_bytes(body, BODY_MAX).await.unwrap_or_default();
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
        let id = value(&form, "client_id").unwrap_or("");
        let secret = value(&form, "client_secret").unwrap_or("");
        let known = match &self.client {
            Some((own, key)) => own == id && key == secret,
            None => !id.is_empty() && !secret.is_empty(),
        };
        match known {
            true => Ok(form),
            false => Err(refused(
                "invalid_client",
                "The client credentials are invalid",
            )),
        }
    }

    pub(super) async fn token(&self, request: Request) -> Result<Response, No> {
        let form = match self.form(request).await {
            Ok(form) => form,
            Err(answer) => return Ok(answer),
        };
        let given = |name: &str| value(&form, name).unwrap_or("");
        let mut issued = self.issued();
        let answers_refresh = match given("grant_type") {
            "client_credentials" => {
                let subject = matches!(given("box_subject_type"), "enterprise" | "user");
                if !subject || given("box_subject_id").is_empty() {
                    return Ok(refused("invalid_grant", "Grant credentials are invalid"));
                }
                false
            }
            "refresh_token" => {
                let token = given("refresh_token");
                let Some(at) = issued.refresh.iter().position(|known| known == token) else {
                    return Ok(refused("invalid_grant", "Refresh token has expired"));
                };
                issued.refresh.remove(at);
                true
            }
            "authorization_code" => {
                let made = issued.codes.remove(given("code"));
                if made.is_none_or(|made| made.elapsed() > CODE_LIFE) {
                    return Ok(refused(
                        "invalid_grant",
                        "The authorization code has expired",
                    ));
                }
                true
            }
            _ => {
                return Ok(refused(
                    "unsupported_grant_type",
                    "The grant type is unsupported",
                ));
            }
        };
        let token = fresh();
        let now = Instant::now();
        issued.access.retain(|_, end| now < *end);
        issued.access.insert(token.clone(), now + self.life);
        let mut answer = json!({
            "access_token": token,
            "expires_in": self.told.as_secs(),
            "restricted_to": [],
            "token_type": "bearer",
        });
        if answers_refresh {
            let next = fresh();
            answer["refresh_token"] = next.as_str().into();
            issued.refresh.push(next);
            let new = self.file.with_extension("new");
            let text = json!(issued.refresh).to_string();
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.file))?;
        }
        Ok(json_answer(200, &answer))
    }

    pub(super) async fn revoke(&self, request: Request) -> Result<Response, No> {
        let form = match self.form(request).await {
            Ok(form) => form,
            Err(answer) => return Ok(answer),
        };
        let token = value(&form, "token").unwrap_or("");
        let mut issued = self.issued();
        issued.access.remove(token);
        issued.refresh.retain(|known| known != token);
        Ok(empty(200, None))
    }

    /// The page on which a person says yes: says it at once.
    pub(super) fn authorize(&self, request: &Request) -> Result<Response, No> {
        let asked = query(request);
        let given = |name: &str| value(&asked, name).unwrap_or("");
        let known = self
            .client
            .as_ref()
            .is_none_or(|(id, _)| id == given("client_id"));
        if given("response_type") != "code" || !known || given("redirect_uri").is_empty() {
            return Err(No::bad("The client or the redirect is not known"));
        }
        let code = fresh();
        self.issued().codes.insert(code.clone(), Instant::now());
        let mut back =
            url::Url::parse(given("redirect_uri")).map_err(|_| No::bad("Not an address"))?;
        back.query_pairs_mut()
            .append_pair("code", &code)
            .append_pair("state", given("state"));
        let mut answer = empty(302, None);
        let back = HeaderValue::from_str(back.as_str()).map_err(|_| No::bad("Not an address"))?;
        answer.headers_mut().insert(header::LOCATION, back);
        Ok(answer)
    }
}
