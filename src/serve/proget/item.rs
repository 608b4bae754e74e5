//! The JSON of an item, its times, and updates of its metadata. Pure.

use super::address::encode;
use crate::serve::disk::Item;
use crate::serve::records::Record;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An item as `dir` and `metadata` show it, in the service's order of fields. Its MD5 and SHA-512
/// are left out (the service may do that): they would cost more than the upload.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "type")]
    media: &'a str,
    #[serde(flatten)]
    content: Option<Content<'a>>,
    created: String,
    modified: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    user_metadata: &'a Map<String, Value>,
    cache_header: Value,
}

/// Only files have it.
#[derive(Debug, Serialize)]
struct Content<'a> {
    content: String,
    sha1: &'a str,
    sha256: &'a str,
}

/// The item below `base`, the URL of the asset directory.
pub(super) fn view<'a>(item: &'a Item, base: &str) -> View<'a> {
    let record = &item.record;
    let (name, parent) = item.name_and_parent();
    let content = || {
        let path: Vec<String> = item.path.split('/').map(encode).collect();
        Content {
            content: format!("{base}/content/{}", path.join("/")),
            sha1: &record.sha1,
            sha256: &record.sha256,
        }
    };
    View {
        name,
        parent,
        size: (!record.dir).then_some(record.size),
        media: if record.dir {
            "dir"
        } else {
            media(record, name)
        },
        content: (!record.dir).then(content),
        created: time(record.created_ms),
        modified: time(record.modified_ms),
        user_metadata: &record.user,
        cache_header: match &record.cache {
            Value::Null => json!({ "type": "Inherit" }),
            cache => cache.clone(),
        },
    }
}

/// The stored content type, else a guess by the name.
pub(super) fn media<'a>(record: &'a Record, name: &str) -> &'a str {
    if !record.media.is_empty() {
        return &record.media;
    }
    match name
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase())
        .as_deref()
    {
        Some("txt" | "log") => "text/plain",
        Some("htm" | "html") => "text/html",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("pdf") => "application/pdf",
        Some("zip") => "application/zip",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        _ => "application/octet-stream",
    }
}

/// A time on the grid of SQL Server's `datetime`, 1/300 s: two writes within 3 ms can be equal.
fn on_grid(ms: i64) -> i64 {
    let (second, ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    let ticks = ms * 3 / 10;
    second * 1000 + (ticks * 10 + 1) / 3
}

/// ISO 8601, UTC, 0 to 3 digits of fraction.
fn time(ms: i64) -> String {
    Timestamp::from_millisecond(on_grid(ms))
        .unwrap_or_default()
        .to_string()
}

/// Whole seconds since 1970, for `Last-Modified`.
pub(super) fn seconds(ms: i64) -> u64 {
    u64::try_from(on_grid(ms).div_euclid(1000)).unwrap_or(0)
}

/// The body of `POST metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Update {
    #[serde(rename = "type")]
    media: Option<String>,
    user_metadata_update_mode: Option<Mode>,
    user_metadata: Option<Map<String, Value>>,
    cache_header: Option<Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Mode {
    #[serde(rename = "update", alias = "Update")]
    Update,
    #[serde(rename = "replace", alias = "Replace")]
    Replace,
}

impl Update {
    /// `None` if it is not what the service takes.
    pub(super) fn parse(body: &[u8]) -> Option<Update> {
        let update: Update = serde_json::from_slice(body).ok()?;
        let values_ok = update.user_metadata.iter().flatten().all(|(name, value)| {
            !name.is_empty()
                && match value {
                    Value::String(_) => true,
                    Value::Object(object) => object.get("value").is_some_and(Value::is_string),
                    _ => false,
                }
        });
        let cache_ok = update.cache_header.as_ref().is_none_or(|cache| {
            let kinds = ["inherit", "nocache", "ttl", "custom"];
            let kind = cache
                .get("type")
                .and_then(Value::as_str)
                .map(str::to_ascii_lowercase);
            cache.is_null() || kind.is_some_and(|kind| kinds.contains(&kind.as_str()))
        });
        (values_ok && cache_ok).then_some(update)
    }

    /// Changes what is given; a folder's type cannot be changed.
    pub(super) fn apply(self, record: &mut Record) {
        if let Some(media) = self.media.filter(|_| !record.dir) {
            record.media = media;
        }
        if let Some(user) = self.user_metadata {
            if self.user_metadata_update_mode == Some(Mode::Replace) {
                record.user.clear();
            }
            for (name, value) in user {
                record
                    .user
                    .retain(|other, _| !other.eq_ignore_ascii_case(&name));
                record.user.insert(name, value);
            }
        }
        if let Some(cache) = self.cache_header {
            record.cache = cache;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_on_the_grid_with_trailing_zeros_dropped() {
        let base = 1_772_435_700_000;
        for (ms, want) in [
            (0, "2026-03-02T07:15:00Z"),
            (1, "2026-03-02T07:15:00Z"),
            (4, "2026-03-02T07:15:00.003Z"),
            (9, "2026-03-02T07:15:00.007Z"),
            (10, "2026-03-02T07:15:00.01Z"),
            (191, "2026-03-02T07:15:00.19Z"),
            (400, "2026-03-02T07:15:00.4Z"),
            (999, "2026-03-02T07:15:00.997Z"),
        ] {
            assert_eq!(time(base + ms), want);
        }
    }

    #[test]
    fn an_update_adds_and_changes_and_a_replacement_also_removes() {
        let mut record = Record::default();
        let mut apply = |body: &str| {
            Update::parse(body.as_bytes()).unwrap().apply(&mut record);
            serde_json::to_string(&record.user).unwrap()
        };
        apply(r#"{"userMetadata": {"a": "1", "b": "2"}}"#);
        let b = r#"{"userMetadataUpdateMode": "update", "userMetadata": {"B": {"value": "3"}}}"#;
        assert_eq!(apply(b), r#"{"B":{"value":"3"},"a":"1"}"#);
        let c = r#"{"userMetadataUpdateMode": "replace", "userMetadata": {"c": "4"}}"#;
        assert_eq!(apply(c), r#"{"c":"4"}"#);
    }

    #[test]
    fn what_is_no_update_is_refused() {
        for body in [
            "",
            "[1]",
            r#"{"userMetadata": {"a": 1}}"#,
            r#"{"userMetadata": {"a": {"x": "1"}}}"#,
            r#"{"userMetadataUpdateMode": "merge"}"#,
            r#"{"cacheHeader": {"type": "Never"}}"#,
        ] {
            assert!(Update::parse(body.as_bytes()).is_none(), "{body}");
        }
    }
}
