//! Items as the service describes them (spec, sections 2 and 4), read leniently. Pure.

use super::super::{Algo, Attrs, Digests, Entry, Kind, Version};
use super::names::{self, addr};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// The fields that are asked for, always by name.
pub(super) const FIELDS: &str = "type,id,etag,sequence_id,name,size,sha1,file_version,\
    content_created_at,content_modified_at,created_at,modified_at,item_status,parent";

/// A file or a folder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) sha1: Option<String>,
    version: Option<String>,
    content_modified: Option<SystemTime>,
    modified: Option<SystemTime>,
    created: Option<SystemTime>,
    pub(super) trashed: bool,
}

/// An id or a tag: a text, or a bare number.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A size: an integer, or a number in floating notation, clamped.
pub(super) fn size(value: &Value) -> Option<u64> {
    const MAX: u64 = i64::MAX as u64;
    if let Some(number) = value.as_u64() {
        return Some(number.min(MAX));
    }
    let number = value.as_f64().filter(|number| *number >= 0.0)?;
    // The cast saturates.
    Some((number as u64).min(MAX))
}

fn time(value: &Value) -> Option<SystemTime> {
    let at: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(at.into())
}

/// A time as it is sent: UTC, whole seconds, not before 1970.
pub(super) fn stamp(time: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(time).unwrap_or_default();
    // Down to the second, as the service keeps it.
    let seconds = at.as_millisecond().div_euclid(1000).max(0);
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as it will come back.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.map_or(0, |since| since.as_secs()))
}

impl Item {
    /// Reads one; nothing if it is no file or folder (a web link, or something new).
    pub(super) fn of(value: &Value) -> Option<Item> {
        let kind = match value["type"].as_str()? {
            "file" => Kind::File,
            "folder" => Kind::Dir,
            _ => return None,
        };
        let trashed = value["item_status"]
            .as_str()
            .is_some_and(|status| status != "active");
        Some(Item {
            kind,
            id: word(&value["id"])?,
            name: value["name"].as_str().map(str::to_owned),
            etag: word(&value["etag"]),
            parent: word(&value["parent"]["id"]),
            size: size(&value["size"]),
            sha1: value["sha1"].as_str().map(str::to_lowercase),
            version: word(&value["file_version"]["id"]),
            content_modified: time(&value["content_modified_at"]),
            modified: time(&value["modified_at"]),
            created: time(&value["created_at"]),
            trashed,
        })
    }

    /// The first item of an answer to an upload, or the answer itself.
    pub(super) fn stored(value: &Value) -> Option<Item> {
        match &value["entries"] {
            Value::Array(entries) => entries.first().and_then(Item::of),
            _ => Item::of(value),
        }
    }

    /// Identity of the content: the id of its version, else what changes with it.
    pub(super) fn version(&self) -> Version {
        match (&self.version, self.kind) {
            (_, Kind::Dir) => Version::from("folder"),
            (Some(id), _) => Version::from(id.as_str()),
            (None, _) => {
                let or = |text: &Option<String>| text.clone().unwrap_or_default();
                Version(format!("{} {}", or(&self.etag), or(&self.sha1)).into())
            }
        }
    }

    /// The id of the version, for a download.
    pub(super) fn version_id(version: &Version) -> Option<&str> {
        let digits = version.0.bytes().all(|b| b.is_ascii_digit());
        Some(&*version.0).filter(|id| digits && !id.is_empty())
    }

    /// Whether it says everything that an entry needs.
    pub(super) fn is_whole(&self) -> bool {
        let file = self.size.is_some() && self.version.is_some() && self.etag.is_some();
        self.name.is_some() && (self.kind == Kind::Dir || file)
    }

    /// As the layers above see it, under the name that it has; nothing without one that can be shown.
    pub(super) fn entry(&self) -> Option<Entry> {
        let name = self
            .name
            .clone()
            .filter(|name| names::is_one_segment(name))?;
        let is_file = self.kind == Kind::File;
        let sha1 = self.sha1.clone().filter(|sha1| is_file && sha1.len() == 40);
        let at = self.modified.or(self.content_modified);
        Some(Entry {
            addr: addr(self.kind, &self.id),
            name,
            kind: self.kind,
            size: self.size.filter(|_| is_file).unwrap_or(0),
            version: self.version(),
            tag: self.tag(),
            modified: at.unwrap_or(SystemTime::UNIX_EPOCH),
            created: self.created,
            digests: Digests(sha1.map(|sha1| (Algo::Sha1, sha1)).into_iter().collect()),
            attrs: Attrs {
                mtime: self.content_modified.filter(|_| is_file),
                ..Attrs::default()
            },
            content_type: None,
        })
    }

    /// The etag and the folder, for an entry.
    fn tag(&self) -> Option<std::sync::Arc<str>> {
        let etag = self.etag.as_deref()?;
        Some(format!("{etag} {}", self.parent.as_deref().unwrap_or("")).into())
    }
}

/// The etag and, if it is known, the folder of an entry.
pub(super) fn tag_of(entry: &Entry) -> (Option<&str>, Option<&str>) {
    match entry.tag.as_deref().map(|tag| tag.split_once(' ')) {
        Some(Some((etag, ""))) => (Some(etag), None),
        Some(Some((etag, parent))) => (Some(etag), Some(parent)),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn numbers_come_as_text_as_integers_and_in_floating_notation() {
        assert_eq!(size(&json!(10)), Some(10));
        assert_eq!(size(&json!(10.0)), Some(10));
        assert_eq!(size(&json!(1.2318237429383e31)), Some(i64::MAX as u64));
        assert_eq!(size(&json!(-1)), None);
        assert_eq!(size(&json!("10")), None);
        let item = Item::of(&json!({"type": "file", "id": 12, "etag": 3, "size": 5.0})).unwrap();
        assert_eq!(
            (&*item.id, item.etag.as_deref(), item.size),
            ("12", Some("3"), Some(5))
        );
    }

    #[test]
    fn what_is_no_file_or_folder_is_nothing() {
        for odd in [
            json!({"type": "web_link", "id": "1", "name": "x"}),
            json!({"type": "file"}),
            json!([1]),
            json!(null),
        ] {
            assert_eq!(Item::of(&odd), None, "{odd}");
        }
    }

    #[test]
    fn times_of_any_offset_are_read_and_seconds_of_utc_are_written() {
        let at = time(&json!("2017-11-02T15:04:38-07:00")).unwrap();
        assert_eq!(stamp(at), "2017-11-02T22:04:38Z");
        assert_eq!(
            stamp(at + Duration::from_millis(999)),
            "2017-11-02T22:04:38Z"
        );
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(stamp(before), "1970-01-01T00:00:00Z");
        assert_eq!(whole_seconds(before), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn tag_and_folder_are_found_again_in_an_entry() {
        let all =
            json!({"type": "file", "id": "1", "name": "f", "etag": "3", "parent": {"id": "9"}});
        let entry = Item::of(&all).unwrap().entry().unwrap();
        assert_eq!(tag_of(&entry), (Some("3"), Some("9")));
        let root = json!({"type": "folder", "id": "0", "name": "All Files", "etag": null});
        assert_eq!(
            tag_of(&Item::of(&root).unwrap().entry().unwrap()),
            (None, None)
        );
    }

    proptest! {
        #[test]
        fn no_item_makes_the_parser_panic(text in "\\PC*", number in any::<f64>()) {
            let odd = json!({"type": "file", "id": text, "name": number, "size": number,
                "etag": [text], "file_version": text, "parent": number, "modified_at": text});
            if let Some(item) = Item::of(&odd) {
                let _ = (item.entry(), item.version());
            }
        }
    }
}
