//! The JSON of `dir` and `metadata` (spec, section 3), read leniently. Pure.

use super::super::{Addr, Algo, Attrs, Digests, Entry, Kind, Version};
use super::{attrs, names};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

/// The stored content type that makes a file a symbolic link, whose bytes are the target.
pub(super) const SYMLINK_TYPE: &str = "inode/symlink";

/// One item as it is sent. Absent and `null` are alike; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Item {
    name: Option<String>,
    size: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    md5: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
    created: Option<String>,
    modified: Option<String>,
    #[serde(rename = "userMetadata")]
    pub(super) user_metadata: Option<BTreeMap<String, serde_json::Value>>,
}

impl Item {
    /// The entry that it describes in the directory `dir`; `None` if its name cannot be one.
    pub(super) fn entry(self, dir: &str, with_attrs: bool) -> Option<Entry> {
        let name = self.name?;
        if !names::is_one_segment(&name) {
            return None;
        }
        let is_dir = self.kind.as_deref() == Some("dir") && self.size.is_none();
        let is_link = self
            .kind
            .as_deref()
            .is_some_and(|k| k.trim().eq_ignore_ascii_case(SYMLINK_TYPE));
        let size = self.size.unwrap_or(0);
        let created = self.created.as_deref().and_then(time);
        let modified = self
            .modified
            .as_deref()
            .and_then(time)
            .or(created)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let mut digests = Digests::default();
        if !is_dir {
            for (algo, hex, len) in [
                (Algo::Md5, self.md5, 32),
                (Algo::Sha1, self.sha1, 40),
                (Algo::Sha256, self.sha256, 64),
            ] {
                if let Some(hex) = hex.filter(|h| is_hex(h, len)) {
                    digests.0.insert(algo, hex.to_ascii_lowercase());
                }
            }
        }
        let version = if is_dir {
            String::new()
        } else {
            match digests.0.get(&Algo::Sha1) {
                Some(sha1) => sha1.clone(),
                None => format!("{size}@{}", nanos(modified)),
            }
        };
        Some(Entry {
            addr: Addr(names::join(dir, &name).into()),
            name,
            kind: match (is_dir, is_link) {
                (true, _) => Kind::Dir,
                (false, true) => Kind::Symlink,
                (false, false) => Kind::File,
            },
            size,
            tag: digests.0.get(&Algo::Sha1).map(|s| Arc::from(s.as_str())),
            version: Version(version.into()),
            modified,
            created,
            digests,
            attrs: match &self.user_metadata {
                Some(kept) if with_attrs => attrs::read(kept),
                _ => Attrs::default(),
            },
            content_type: self.kind.filter(|_| !is_dir),
        })
    }
}

/// Nanoseconds since 1970; before that, 0.
fn nanos(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos())
}

/// Whether `text` is `len` hex digits.
pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// ISO 8601 with any fraction; `Z`, an offset, or nothing, which means UTC.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(stamp.into());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().into())
}

/// What a folder's listing holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The entries that can be shown.
    pub(super) entries: Vec<Entry>,
    /// All items that were sent, hidden and refused ones too.
    pub(super) items: usize,
}

/// Parses the array of `dir` as it comes; keeps nothing but the entries.
pub(super) fn listing(
    body: &mut dyn Read,
    dir: &str,
    with_attrs: bool,
) -> serde_json::Result<Listing> {
    let mut json = serde_json::Deserializer::from_reader(body);
    let listing = Items { dir, with_attrs }.deserialize(&mut json)?;
    json.end()?;
    Ok(listing)
}

struct Items<'a> {
    dir: &'a str,
    with_attrs: bool,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Listing;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Listing, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Listing, A::Error> {
        let mut listing = Listing::default();
        let mut seen = HashSet::new();
        while let Some(item) = items.next_element::<Item>()? {
            listing.items += 1;
            let name = item.name.clone().unwrap_or_default();
            if names::is_reserved(&name) {
                continue;
            }
            match item.entry(self.dir, self.with_attrs) {
                Some(entry) if seen.insert(name.clone()) => listing.entries.push(entry),
                Some(_) => log::warn!("the server lists {name:?} twice in /{}", self.dir),
                None => log::warn!(
                    "the server lists an impossible name in /{}: {name:?}",
                    self.dir
                ),
            }
        }
        Ok(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn one(json: &str) -> Option<Entry> {
        serde_json::from_str::<Item>(json)
            .unwrap()
            .entry("tools/demo", true)
    }

    #[test]
    fn a_file_and_a_folder_are_told_apart_by_type_and_size() {
        let file = one(
            r#"{"name":"hello.bin","parent":"tools/demo","size":5,"type":"application/octet-stream",
            "content":"http://10.0.0.7/x","md5":"8B1A9953C4611296A827ABF8C47804D7",
            "sha1":"f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0","sha256":"short",
            "created":"2026-03-02T07:15:00.19Z","modified":"2026-03-02T07:15:41.4Z",
            "cacheHeader":{"type":"Inherit"},"new":[1]}"#,
        )
        .unwrap();
        assert_eq!((file.kind, file.size), (Kind::File, 5));
        assert_eq!(&*file.addr.0, "tools/demo/hello.bin");
        assert_eq!(&*file.version.0, "f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0");
        assert_eq!(
            file.digests.0[&Algo::Md5],
            "8b1a9953c4611296a827abf8c47804d7"
        );
        assert!(!file.digests.0.contains_key(&Algo::Sha256));
        let dir = one(r#"{"name":"a","type":"dir","created":"2026-03-02T07:14:59Z","size":null}"#)
            .unwrap();
        assert_eq!(dir.kind, Kind::Dir);
        assert_eq!(Some(dir.modified), dir.created);
        let odd = one(r#"{"name":"a","type":"dir","size":3}"#).unwrap();
        assert_eq!(odd.kind, Kind::File);
        let link = one(r#"{"name":"l","type":"inode/symlink","size":3}"#).unwrap();
        assert_eq!(link.kind, Kind::Symlink);
    }

    #[test]
    fn without_a_hash_size_and_time_are_the_version() {
        let a = one(r#"{"name":"a","size":3,"modified":"2026-03-02T07:15:41.4Z"}"#).unwrap();
        let b = one(r#"{"name":"a","size":3,"modified":"2026-03-02T07:15:41.403Z"}"#).unwrap();
        assert_ne!(a.version, b.version);
        assert_eq!(a.tag, None);
    }

    #[test]
    fn times_have_any_fraction_and_a_zone_or_none() {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_435_741);
        let ms = |n| Some(base + Duration::from_millis(n));
        for (text, want) in [
            ("2026-03-02T07:15:41Z", ms(0)),
            ("2026-03-02T07:15:41.4Z", ms(400)),
            ("2026-03-02T07:15:41.147Z", ms(147)),
            ("2026-03-02T07:15:41.1470000Z", ms(147)),
            ("2026-03-02T07:15:41", ms(0)),
            ("2026-03-02T07:15:41.87", ms(870)),
            ("2026-03-02T09:15:41+02:00", ms(0)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(time(text), want, "{text}");
        }
        assert!(time("2026-03-02T07:15:09.147Z") > time("2026-03-02T07:15:09.1Z"));
    }

    #[test]
    fn a_listing_hides_the_history_and_refuses_hostile_and_repeated_names() {
        let body = r#"[{"name":"ok","size":1},{"name":"..","size":1},{"name":"a/b","size":1},
            {"name":"","size":1},{"size":1},{"name":"a\u0000b","size":1},{"name":".","type":"dir"},
            {"name":"._proget_file_history_","type":"dir"},{"name":"ok","size":2},{"name":"Ok","size":2}]"#;
        let listing = listing(&mut body.as_bytes(), "d", false).unwrap();
        let names: Vec<_> = listing.entries.iter().map(|e| &*e.addr.0).collect();
        assert_eq!(names, ["d/ok", "d/Ok"]);
        assert_eq!(listing.items, 10);
    }

    #[test]
    fn a_listing_that_is_cut_or_is_no_array_is_an_error() {
        for body in [r#"[{"name":"a"}"#, "{}", "", "<html>", "[] []"] {
            assert!(listing(&mut body.as_bytes(), "", false).is_err(), "{body}");
        }
        assert_eq!(listing(&mut &b"[]"[..], "", false).unwrap().items, 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = listing(&mut &bytes[..], "x", true);
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _ = time(text);
            }
        }

        #[test]
        fn no_text_in_a_field_makes_the_parsers_panic(
            name in ".*", time_text in "[-0-9T:.Z+ ]*", hash in "[0-9a-zA-Z]{0,64}", size in any::<u64>(),
            key in ".*", value in ".*",
        ) {
            let item = serde_json::json!({
                "name": name, "size": size, "sha1": hash, "created": time_text, "modified": time_text,
                "type": value, "userMetadata": { key: value },
            });
            let body = serde_json::to_vec(&[item]).unwrap();
            let found = listing(&mut &body[..], "d", true).unwrap();
            for entry in found.entries {
                prop_assert!(!entry.name.contains('/') && !entry.name.is_empty());
            }
        }
    }
}
