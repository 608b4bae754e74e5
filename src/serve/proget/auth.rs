//! Who may come in: the four forms of a key, and a user with a password.

use super::address::Address;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// What opens the door.
pub(super) struct Door {
    key: Option<String>,
    login: Option<(String, String)>,
}

/// Without the secrets.
impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    pub(super) fn new(key: Option<String>, login: Option<(String, String)>) -> Door {
        Door { key, login }
    }

    /// Whether a request may pass: always, if there is neither key nor login. A wrong credential is
    /// not made good by a right one in another place: the header `X-ApiKey` counts first, then the
    /// query, then `Authorization`.
    pub(super) fn opens(&self, headers: &HeaderMap, address: &Address) -> bool {
        if self.key.is_none() && self.login.is_none() {
            return true;
        }
        let header = headers
            .get("x-apikey")
            .and_then(|value| value.to_str().ok());
        if let Some(key) = header.or_else(|| address.get("key")) {
            return self.is_key(key)
                || key
                    .split_once(':')
                    .is_some_and(|(u, p)| self.is_login(u, p));
        }
        match basic(headers) {
            Some((user, password)) if user == "api" && self.is_key(&password) => true,
            Some((user, password)) => self.is_login(&user, &password),
            None => false,
        }
    }

    fn is_key(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key)
    }

    fn is_login(&self, user: &str, password: &str) -> bool {
        self.login
            .as_ref()
            .is_some_and(|(u, p)| u.eq_ignore_ascii_case(user) && p == password)
    }
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, code) = value.split_once(' ')?;
    let code = scheme
        .eq_ignore_ascii_case("basic")
        .then_some(code.trim())?;
    let text = String::from_utf8(STANDARD.decode(code).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
