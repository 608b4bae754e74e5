//! What a request is about: entity, file, parameters. Pure.

use super::No;
use crate::serve::disk::HIDDEN;
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;

/// The longest key, in bytes: what is left of an S3 key.
const KEY_MAX: usize = 980;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All files of the entity.
    Search,
    /// One file, by its key.
    File(String),
    /// The parts of an unfinished upload of it.
    Parts(String),
}

/// A request's target, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) entity: String,
    pub(super) place: Place,
    query: Vec<(String, String)>,
}

impl Address {
    pub(super) fn parse(uri: &Uri) -> Result<Address, No> {
        let lost = No(StatusCode::NOT_FOUND, "Not found.");
        let Some(rest) = uri.path().strip_prefix("/api/iotfile/v3/") else {
            return Err(lost);
        };
        let mut pieces = rest.splitn(3, '/');
        let service = pieces.next().unwrap_or("");
        let entity = pieces.next().unwrap_or("");
        let is_id = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if entity.len() != 32 || !entity.bytes().all(is_id) {
            return Err(No::bad("The entity is not valid."));
        }
        let place = match (service, pieces.next()) {
            ("files", None) => Place::Search,
            ("files", Some(path)) => Place::File(key(path)?),
            ("fileslist", Some(path)) => Place::Parts(key(path)?),
            _ => return Err(lost),
        };
        let query = Query::try_from_uri(uri).map_err(|_| No::bad("The query is not valid."))?;
        Ok(Address {
            entity: entity.to_owned(),
            place,
            query: query.0,
        })
    }

    /// The key of the file; empty in a search.
    pub(super) fn key(&self) -> &str {
        match &self.place {
            Place::Search => "",
            Place::File(key) | Place::Parts(key) => key,
        }
    }

    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A decoded key. What Spring's firewall refuses is refused: empty segments, `.` and `..`, control
/// characters, a backslash, an encoded slash.
fn key(raw: &str) -> Result<String, No> {
    let bad = No::bad("The request is not valid.");
    let mut key = String::new();
    for raw in raw.split('/') {
        let Ok(name) = percent_decode_str(raw).decode_utf8() else {
            return Err(bad);
        };
        let odd = |c: char| c == '/' || c == '\\' || c.is_control();
        if name.is_empty() || name == "." || name == ".." || name.contains(odd) {
            return Err(bad);
        }
        if !key.is_empty() {
            key.push('/');
        }
        key.push_str(&name);
    }
    if key.len() > KEY_MAX || key.split('/').next() == Some(HIDDEN) {
        return Err(bad);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_segment_by_segment_and_odd_ones_refused() {
        let entity = super::super::ENTITY;
        for (path, want) in [
            ("a/b", Some("a/b")),
            ("a%20b%25", Some("a b%")),
            ("a;b", Some("a;b")),
            ("", None),
            ("a//b", None),
            ("a/", None),
            ("a/../b", None),
            ("a%2Fb", None),
            ("a%5Cb", None),
            ("a%0Ab", None),
            (".assetfs-serve/lock", None),
        ] {
            let uri = format!("/api/iotfile/v3/files/{entity}/{path}");
            let got = Address::parse(&uri.parse().unwrap());
            assert_eq!(got.as_ref().ok().map(|a| a.key()), want, "{path}");
        }
        for entity in ["", "abc", &entity.to_uppercase(), &"g".repeat(32)] {
            let uri = format!("/api/iotfile/v3/files/{entity}/a");
            assert!(Address::parse(&uri.parse().unwrap()).is_err(), "{entity}");
        }
    }
}
