//! One file as search and uploads tell it (spec, section 3.1), read leniently. Pure.

use super::super::{Addr, Attrs, Digests, Entry, Kind, Version};
use super::names;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The last moment that is sent: the end of 9999, in milliseconds.
const LAST_MS: i64 = 253_402_300_799_999;

/// A row as it is sent. Everything but name and size may be missing; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sent {
    name: Option<String>,
    pub(super) path: Option<String>,
    size: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    timestamp: Option<String>,
    created: Option<String>,
    updated: Option<String>,
    description: Option<String>,
    etag: Option<Value>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: Option<u64>,
    /// The client's time, in milliseconds since 1970.
    pub(super) timestamp: Option<i64>,
    pub(super) created: Option<i64>,
    /// The server's time of the last change.
    pub(super) updated: Option<i64>,
    pub(super) kind: Option<String>,
    pub(super) description: Option<String>,
}

/// Which content a row speaks of. Not the etag alone: a file that is made again begins at 0.
pub(super) type Id = (Option<u64>, Option<i64>);

/// Whether two may be the same content; what one side does not know does not count.
pub(super) fn same(a: Id, b: Id) -> bool {
    fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
        a.is_none() || b.is_none() || a == b
    }
    agree(a.0, b.0) && agree(a.1, b.1) && (a.0.is_some() || a.1.is_some())
}

impl Row {
    /// `None` if its key cannot be shown as a path.
    pub(super) fn of(sent: Sent) -> Option<Row> {
        let name = sent.name?;
        let dir = normal(sent.path.as_deref());
        let possible = names::is_one_segment(&name)
            && (dir.is_empty() || dir.split('/').all(names::is_one_segment));
        if !possible {
            return None;
        }
        let etag = match &sent.etag {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => tag(text),
            _ => None,
        };
        let ms = |text: Option<String>| text.as_deref().and_then(time);
        Some(Row {
            key: names::join(dir, &name),
            size: sent.size.unwrap_or(0),
            etag,
            timestamp: ms(sent.timestamp),
            created: ms(sent.created),
            updated: ms(sent.updated),
            kind: sent.kind,
            description: sent.description,
        })
    }

    pub(super) fn id(&self) -> Id {
        (self.etag, self.timestamp)
    }

    /// The same in every answer about this content, before and after the search knows it.
    pub(super) fn version(&self) -> String {
        let etag = self.etag.map_or("?".to_owned(), |etag| etag.to_string());
        match (self.timestamp, self.updated) {
            (Some(time), _) => format!("{etag}.{}.{time}", self.size),
            (None, Some(time)) => format!("{etag}.{}.u{time}", self.size),
            (None, None) => format!("{etag}.{}", self.size),
        }
    }

    /// Its entry, under its own name or another one.
    pub(super) fn entry(&self, name: &str) -> Entry {
        let modified = self.updated.or(self.timestamp).unwrap_or(0);
        Entry {
            addr: Addr::from(self.key.as_str()),
            name: name.to_owned(),
            kind: Kind::File,
            size: self.size,
            version: Version(self.version().into()),
            tag: self.etag.map(|etag| Arc::from(etag.to_string())),
            modified: moment(modified),
            created: self.created.map(moment),
            digests: Digests::default(),
            attrs: Attrs {
                mtime: self.timestamp.map(moment),
                ..Attrs::default()
            },
            content_type: self.kind.clone(),
        }
    }
}

/// A `path` of either form as a directory: without slashes at its ends, the root empty.
pub(super) fn normal(path: Option<&str>) -> &str {
    let path = path.unwrap_or("");
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path)
}

/// An ETag as a number, with or without quotes and `W/`.
pub(super) fn tag(text: &str) -> Option<u64> {
    let text = crate::http::opaque_tag(text)?;
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// ISO 8601 as milliseconds since 1970; without a zone it is UTC.
pub(super) fn time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(stamp.as_millisecond());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_millisecond())
}

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, within 1970 to 9999.
pub(super) fn iso(ms: i64) -> String {
    let stamp = jiff::Timestamp::from_millisecond(ms.clamp(0, LAST_MS)).unwrap_or_default();
    format!("{stamp:.3}")
}

/// Milliseconds since 1970, clamped to what can be sent.
pub(super) fn millis(time: SystemTime) -> i64 {
    let after = time.duration_since(SystemTime::UNIX_EPOCH);
    let ms = after.map_or(0, |after| after.as_millis());
    i64::try_from(ms).unwrap_or(LAST_MS).min(LAST_MS)
}

pub(super) fn moment(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(json: &str) -> Option<Row> {
        Row::of(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn either_form_of_a_path_makes_the_same_key() {
        for path in [r#""unit/test/""#, r#""unit/test""#, r#""/unit/test/""#] {
            let json = format!(r#"{{"name":"x","path":{path},"size":1}}"#);
            assert_eq!(row(&json).unwrap().key, "unit/test/x");
        }
        for path in [r#","path":"""#, r#","path":null"#, r#","path":"/""#, ""] {
            let json = format!(r#"{{"name":"x","size":1{path}}}"#);
            assert_eq!(row(&json).unwrap().key, "x");
        }
    }

    #[test]
    fn a_version_is_the_same_whether_the_search_knows_it_yet_or_not() {
        let json = r#"{"name":"x","size":3,"etag":7,"timestamp":"2020-02-03T04:05:06.789Z",
            "updated":"2020-02-03T04:05:07.000Z","new":[1]}"#;
        let known = row(json).unwrap();
        let ours = Row {
            key: "x".into(),
            size: 3,
            etag: Some(7),
            timestamp: known.timestamp,
            ..Row::default()
        };
        assert_eq!(ours.version(), known.version());
        assert_eq!(known.entry("x").tag.as_deref(), Some("7"));
        assert!(same(ours.id(), known.id()));
        assert!(!same((Some(7), Some(1)), known.id()));
        assert!(same((Some(7), None), known.id()));
        assert!(!same((None, None), known.id()));
    }

    #[test]
    fn names_that_cannot_be_shown_are_left_out() {
        for json in [
            r#"{"size":1}"#,
            r#"{"name":"..","size":1}"#,
            r#"{"name":"a/b","size":1}"#,
            r#"{"name":"a","path":"b//c/","size":1}"#,
        ] {
            assert_eq!(row(json), None, "{json}");
        }
    }

    #[test]
    fn tags_and_times_are_read_in_any_of_their_forms() {
        for (text, want) in [
            ("3", Some(3)),
            ("\"3\"", Some(3)),
            ("W/\"3\"", Some(3)),
            ("x", None),
        ] {
            assert_eq!(tag(text), want, "{text}");
        }
        assert_eq!(row(r#"{"name":"a","etag":"4"}"#).unwrap().etag, Some(4));
        for text in [
            "2020-02-03T04:05:06.789Z",
            "2020-02-03T05:05:06.789+01:00",
            "2020-02-03T04:05:06.789",
        ] {
            assert_eq!(
                time(text).map(iso).as_deref(),
                Some("2020-02-03T04:05:06.789Z")
            );
        }
        assert_eq!(iso(-5), "1970-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*", ms in any::<i64>()) {
            let _ = (tag(&text), time(&text), normal(Some(&text)));
            let _ = (time(&iso(ms)), moment(ms));
        }
    }
}
