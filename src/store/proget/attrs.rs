//! Attributes in an item's user metadata: keys in `assetfs-`, values as text. Pure.
//!
//! Keys compare without case on the server (spec, section 3), so that a capital letter in the name of
//! an extended attribute is escaped.

use super::super::Attrs;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const OURS: &str = "assetfs-";
const MTIME: &str = "assetfs-mtime";
const MODE: &str = "assetfs-mode";
const XATTR: &str = "assetfs-xattr-";
const BINARY: &str = "base64:";

/// Non-alphanumeric but for `-._`; capitals are added by [`escape`].
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Whether a key of user metadata is one of ours.
pub(super) fn is_ours(key: &str) -> bool {
    key.get(..OURS.len())
        .is_some_and(|k| k.eq_ignore_ascii_case(OURS))
}

/// The keys and values that hold `attrs`.
pub(super) fn write(attrs: &Attrs) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(mtime) = attrs.mtime {
        out.insert(MTIME.to_owned(), seconds(mtime));
    }
    if let Some(mode) = attrs.mode {
        out.insert(MODE.to_owned(), format!("{:04o}", mode & 0o7777));
    }
    for (name, value) in &attrs.xattrs {
        if let Some(name) = name.strip_prefix("user.") {
            out.insert(format!("{XATTR}{}", escape(name)), text(value));
        }
    }
    out
}

/// The attributes in an item's user metadata; what makes no sense is left out.
pub(super) fn read(kept: &BTreeMap<String, Value>) -> Attrs {
    let mut attrs = Attrs::default();
    for (key, value) in kept {
        let value = match value {
            Value::String(text) => text.as_str(),
            Value::Object(rich) => rich.get("value").and_then(Value::as_str).unwrap_or(""),
            _ => continue,
        };
        let key = key.to_ascii_lowercase();
        if key == MTIME {
            attrs.mtime = time(value);
        } else if key == MODE {
            attrs.mode = u32::from_str_radix(value, 8).ok().filter(|m| *m <= 0o7777);
        } else if let Some(name) = key.strip_prefix(XATTR)
            && let Ok(name) = percent_decode_str(name).decode_utf8()
            && let Some(value) = bytes(value)
        {
            attrs.xattrs.insert(format!("user.{name}"), value);
        }
    }
    attrs
}

fn escape(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push_str(&format!("%{:02x}", c as u32));
        } else {
            let mut buffer = [0; 4];
            let encoded = utf8_percent_encode(c.encode_utf8(&mut buffer), KEY).to_string();
            out.push_str(&encoded.to_ascii_lowercase());
        }
    }
    out
}

fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text)
            if !text.is_empty()
                && text.trim() == text
                && !text.starts_with(BINARY)
                && !text.chars().any(char::is_control) =>
        {
            text.to_owned()
        }
        _ => format!("{BINARY}{}", BASE64.encode(value)),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    match text.strip_prefix(BINARY) {
        Some(coded) => BASE64.decode(coded).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

/// Seconds since 1970 with nine digits; before 1970 the whole is negative and the fraction counts up.
fn seconds(time: SystemTime) -> String {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => format!("{}.{:09}", after.as_secs(), after.subsec_nanos()),
        Err(e) => {
            let before = e.duration();
            match before.subsec_nanos() {
                0 => format!("-{}.000000000", before.as_secs()),
                n => format!("-{}.{:09}", before.as_secs() + 1, 1_000_000_000 - n),
            }
        }
    }
}

fn time(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole: i64 = whole.parse().ok()?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    let size = Duration::from_secs(whole.unsigned_abs());
    let base = if whole < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(size)?
    } else {
        SystemTime::UNIX_EPOCH.checked_add(size)?
    };
    base.checked_add(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn over_the_wire(attrs: &Attrs) -> Attrs {
        read(
            &write(attrs)
                .into_iter()
                .map(|(k, v)| (k.to_ascii_uppercase(), Value::String(v)))
                .collect(),
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_whatever_the_case_of_keys(
            secs in -10_000_000_000i64..10_000_000_000, nanos in 0u32..1_000_000_000, mode in 0u32..0o10000,
            name in "[a-zA-Z0-9._% é-]{1,12}", value in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let size = Duration::from_secs(secs.unsigned_abs());
            let whole = if secs < 0 { SystemTime::UNIX_EPOCH - size } else { SystemTime::UNIX_EPOCH + size };
            let attrs = Attrs {
                mtime: Some(whole + Duration::from_nanos(nanos.into())),
                mode: Some(mode),
                xattrs: BTreeMap::from([(format!("user.{name}"), value)]),
            };
            prop_assert_eq!(over_the_wire(&attrs), attrs);
        }

        #[test]
        fn foreign_values_do_not_panic(key in ".*", value in ".*") {
            for key in [format!("assetfs-xattr-{key}"), MTIME.into(), MODE.into(), key] {
                let _ = read(&BTreeMap::from([(key, Value::String(value.clone()))]));
            }
        }
    }

    #[test]
    fn rich_values_are_read_and_foreign_keys_left_alone() {
        let kept = serde_json::json!({
            "owner": "ops", "Assetfs-Mode": {"value": "0640", "includeInResponseHeader": true},
            "assetfs-mtime": 5
        });
        let Value::Object(kept) = kept else { panic!() };
        let attrs = read(&kept.into_iter().collect());
        assert_eq!(
            attrs,
            Attrs {
                mode: Some(0o640),
                ..Attrs::default()
            }
        );
    }
}
