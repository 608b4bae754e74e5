//! What a request is about: asset directory, operation, path, parameters.

use super::No;
use crate::serve::disk::HIDDEN;
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Where versioning keeps old contents.
const HISTORY: &str = "._proget_file_history_";

/// The longest name, in bytes; what disks take.
const NAME_MAX: usize = 255;

/// Letters, digits and `-._~` stay bare.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Content,
    Dir,
    Metadata,
    Delete,
}

/// A request's target, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) directory: String,
    pub(super) operation: Operation,
    /// Canonical: `a/b`; empty for the root.
    pub(super) path: String,
    query: Vec<(String, String)>,
}

impl Address {
    pub(super) fn parse(uri: &Uri) -> Result<Address, No> {
        if !uri.path().is_ascii() {
            return Err(No::bad("The request target is not ASCII."));
        }
        let lost = No(StatusCode::NOT_FOUND, "Not found.");
        let Some(rest) = uri.path().strip_prefix("/endpoints/") else {
            return Err(lost);
        };
        let mut segments = rest.splitn(3, '/');
        let directory = segment(segments.next().unwrap_or(""))?;
        let operation = match segments.next().unwrap_or("").to_ascii_lowercase().as_str() {
            "content" => Operation::Content,
            "dir" => Operation::Dir,
            "metadata" => Operation::Metadata,
            "delete" => Operation::Delete,
            _ => return Err(lost),
        };
        let mut path = String::new();
        for name in segments
            .next()
            .unwrap_or("")
            .split('/')
            .filter(|name| !name.is_empty())
        {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&segment(name)?);
        }
        if path.split('/').next() == Some(HIDDEN) {
            return Err(No::bad("The name is reserved."));
        }
        let query = Query::try_from_uri(uri).map_err(|_| No::bad("The query is not valid."))?;
        Ok(Address {
            directory,
            operation,
            path,
            query: query.0,
        })
    }

    /// A parameter's value; names have no case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .query
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is `true`, in any case; anything else is not.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Whether something may be made here.
    pub(super) fn check_new(&self) -> Result<(), No> {
        if is_reserved(&self.path) {
            return Err(No::bad("The name is reserved."));
        }
        Ok(())
    }
}

/// Whether a path is the service's own.
pub(super) fn is_reserved(path: &str) -> bool {
    path.split('/')
        .any(|name| name.eq_ignore_ascii_case(HISTORY))
}

/// As [`ESCAPED`] says, the slashes between segments too.
pub(super) fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, ESCAPED).to_string()
}

/// One decoded segment, if it can be a name.
fn segment(raw: &str) -> Result<String, No> {
    let name = percent_decode_str(raw).decode_utf8();
    let name = name.map_err(|_| No::bad("The path is not UTF-8."))?;
    let bad = |c: char| c == '/' || c == '\\' || c.is_control();
    if name == "." || name == ".." || name.contains(bad) {
        return Err(No::bad("The path is not valid."));
    }
    if name.len() > NAME_MAX {
        return Err(No::bad("The name is too long."));
    }
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Address, u16> {
        Address::parse(&target.parse().unwrap()).map_err(|no| no.0.as_u16())
    }

    #[test]
    fn paths_are_decoded_segment_by_segment() {
        for (target, path) in [
            ("/endpoints/files/content", Ok("")),
            ("/endpoints/files/content/", Ok("")),
            ("/endpoints/files/content/a/b", Ok("a/b")),
            ("/endpoints/files/content//a//b/", Ok("a/b")),
            ("/endpoints/files/content/a%20b%2Bc+d", Ok("a b+c+d")),
            ("/endpoints/files/content/%C3%A4%3F%23", Ok("ä?#")),
            ("/endpoints/files/content/a%2Fb", Err(400)),
            ("/endpoints/files/content/a%5Cb", Err(400)),
            ("/endpoints/files/content/a/%2E%2E/b", Err(400)),
            ("/endpoints/files/content/a/../b", Err(400)),
            ("/endpoints/files/content/%00", Err(400)),
            ("/endpoints/files/content/%ff", Err(400)),
            ("/endpoints/files/content/.assetfs-serve/lock", Err(400)),
            ("/endpoints/files/nothing/a", Err(404)),
            ("/other/files/content/a", Err(404)),
        ] {
            let got = parse(target);
            assert_eq!(
                got.as_ref().map(|a| a.path.as_str()).map_err(|e| *e),
                path,
                "{target}"
            );
        }
        let long = format!("/endpoints/files/content/{}", "x".repeat(256));
        assert_eq!(parse(&long), Err(400));
    }

    #[test]
    fn parameters_have_no_case_and_flags_are_read_loosely() {
        let flag = |q: &str| {
            parse(&format!("/endpoints/f/dir/?{q}"))
                .unwrap()
                .flag("recursive")
        };
        assert!(flag("recursive=true") && flag("Recursive=True"));
        assert!(!flag("recursive=false)") && !flag("recursive=1") && !flag(""));
    }
}
