//! HTTP for the stores, and the only place that names reqwest.
//!
//! It knows requests, bodies, ranges, waiting times and credentials as such; it knows no service's
//! addresses or answers. It follows no redirect and repeats nothing: an answer, whatever its status,
//! is handed to the store, and only a failure of the transport is an error here.

mod answer;
mod body;
mod client;
mod credential;
mod headers;
mod pulse;
mod rate;

pub use answer::{Answer, ERROR_BODY_MAX};
pub use body::Body;
pub use client::{Client, Counters, Request, Settings};
pub use credential::{Credential, Fetch, Fresh, Secret};
pub use headers::{
    ContentRange, content_range, kind_of_status, opaque_tag, retry_after, skip_for_range,
};
pub use reqwest::{Method, Url};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but letters, digits and `-._~` (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One path segment or query value, percent-encoded as UTF-8; only unreserved characters stay bare.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A path, encoded segment by segment and joined with `/`; empty segments are dropped.
#[must_use]
pub fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    for segment in path.split('/').filter(|s| !s.is_empty()) {
        if !out.is_empty() {
            out.push('/');
        }
        out.extend(utf8_percent_encode(segment, SEGMENT));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reserved_or_foreign_character_of_a_segment_is_encoded() {
        assert_eq!(
            encode_path("/a b/%+#?&;'\"/é/A-z.0_~/"),
            "a%20b/%25%2B%23%3F%26%3B%27%22/%C3%A9/A-z.0_~"
        );
    }
}
