//! Who may come in: a fixed token, or one of those that the two token endpoints give.

use super::{No, Ways, json_answer, text};
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The largest body of a request for a token, in bytes.
const BODY_MAX: usize = 64 * 1024;

/// What opens the door.
pub(super) struct Door {
    token: Option<String>,
    client: Option<(String, String)>,
    life: Duration,
    told: Duration,
    issued: Mutex<HashMap<String, Instant>>,
}

/// Without the secrets.
impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

fn unauthorized() -> Response {
    let body = json!({"error": "unauthorized", "error_description": "Bad credentials"});
    (StatusCode::UNAUTHORIZED, json_answer(&body)).into_response()
}

impl Door {
    pub(super) fn new(
        token: Option<String>,
        client: Option<(String, String)>,
        ways: &Ways,
    ) -> Door {
        Door {
            token,
            client,
            life: ways.token_life,
            told: ways.token_told.unwrap_or(ways.token_life),
            issued: Mutex::default(),
        }
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
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.get(token).is_some_and(|end| Instant::now() < *end)
    }

    /// Tenant credentials: a form, with `Authorization: Basic`.
    pub(super) async fn tenant_token(&self, request: Request) -> Result<Response, No> {
        if request.method() != Method::POST {
            return Err(No(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed."));
        }
        let (head, body) = request.into_parts();
        let kind = text(&head.headers, header::CONTENT_TYPE).unwrap_or("");
        let body = to_bytes(body, BODY_MAX).await.unwrap_or_default();
        let form = String::from_utf8_lossy(&body);
        let asks = form
            .split('&')
            .any(|f| f == "grant_type=client_credentials");
        if !kind.starts_with("application/x-www-form-urlencoded") || !asks {
            return Err(No::bad("invalid_request"));
        }
        let pair = text(&head.headers, header::AUTHORIZATION).unwrap_or("");
        if !self.is_client(pair.strip_prefix("Basic ")) {
            return Ok(unauthorized());
        }
        let mut answer = self.issue();
        answer["token_type"] = "bearer".into();
        answer["scope"] = "iot.fil.r iot.fil.w iot.fil.d".into();
        Ok(json_answer(&answer))
    }

    /// Application credentials: JSON, with `X-SPACE-AUTH-KEY`.
    pub(super) async fn application_token(&self, request: Request) -> Result<Response, No> {
        if request.method() != Method::POST {
            return Err(No(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed."));
        }
        let (head, body) = request.into_parts();
        let kind = text(&head.headers, header::CONTENT_TYPE).unwrap_or("");
        let body = to_bytes(body, BODY_MAX).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let names = ["appName", "appVersion", "hostTenant", "userTenant"];
        let given = |name: &&str| body[*name].as_str().is_some_and(|v| !v.is_empty());
        if !kind.starts_with("application/json") || !names.iter().all(given) {
            return Err(No::bad("The request is not valid."));
        }
        let pair = head.headers.get("x-space-auth-key");
        let pair = pair.and_then(|v| v.to_str().ok()).unwrap_or("");
        let pair = pair
            .strip_prefix("Basic ")
            .or_else(|| pair.strip_prefix("Bearer "));
        if !self.is_client(pair) {
            return Ok(unauthorized());
        }
        let mut answer = self.issue();
        answer["timestamp"] = Timestamp::now().as_millisecond().into();
        Ok(json_answer(&answer))
    }

    fn is_client(&self, pair: Option<&str>) -> bool {
        let Some((id, secret)) = &self.client else {
            return pair.is_some();
        };
        let given = pair.and_then(|pair| STANDARD.decode(pair).ok());
        given.is_some_and(|given| given == format!("{id}:{secret}").as_bytes())
    }

    fn issue(&self) -> Value {
        let exp = Timestamp::now().as_second() + self.told.as_secs() as i64;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let claims = json!({"exp": exp, "jti": id, "ten": "tenant"}).to_string();
        let token = format!(
            "{}.{}.c2lnbmF0dXJl",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let now = Instant::now();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, end| now < *end);
        issued.insert(token.clone(), now + self.life);
        json!({"access_token": token, "expires_in": self.told.as_secs(), "jti": id})
    }
}
