//! Names and addresses (spec, section 1). Pure.

use super::super::Addr;
use crate::error::{Error, Kind, Result};
use crate::http::{encode, encode_path};

/// Where ProGet keeps old contents when versioning is on; hidden, never created.
const HISTORY: &str = "._proget_file_history_";

/// Longest name, in bytes.
pub(super) const NAME_MAX: usize = 255;

/// Longest request target, in bytes: Kestrel takes request lines of 8 KiB, method and version
/// included.
pub(super) const TARGET_MAX: usize = 7 * 1024;

/// Room that the query of a part needs, at most, in bytes.
const QUERY_MAX: usize = 256;

/// The address of `name` in `dir`: a path in the asset directory without slashes at its ends; the
/// root is empty.
pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// The directory and the name of an address.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether the kernel can take `name` as one name.
pub(super) fn is_one_segment(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= NAME_MAX
        && !name.contains(['/', '\0'])
}

/// Whether `name` belongs to ProGet itself (in any case, as Windows would see it).
pub(super) fn is_reserved(name: &str) -> bool {
    name.eq_ignore_ascii_case(HISTORY)
}

/// Whether `name` in `dir` can be sent. `around` is the length of what stands before the path.
///
/// A backslash would become a slash in the official clients; control characters and the history's
/// name are refused too. What only Windows refuses is left to the server.
pub(super) fn check(dir: &Addr, name: &str, around: usize) -> Result<()> {
    let refuse = |kind: Kind, why: &str| {
        Err(Error::new(kind, "check name")
            .at(format!("/{}", join(&dir.0, name)))
            .said(why))
    };
    if name.len() > NAME_MAX {
        return refuse(Kind::NameTooLong, "more than 255 bytes");
    }
    if !is_one_segment(name) {
        return refuse(Kind::Invalid, "not one name");
    }
    if name.contains('\\') {
        return refuse(Kind::Invalid, "ProGet takes a backslash for a slash");
    }
    if name.chars().any(char::is_control) {
        return refuse(Kind::Invalid, "control characters cannot be stored");
    }
    if is_reserved(name) {
        return refuse(Kind::Invalid, "this name belongs to ProGet's file history");
    }
    let target = around + encode_path(&dir.0).len() + 1 + encode(name).len() + QUERY_MAX;
    if target > TARGET_MAX {
        return refuse(
            Kind::NameTooLong,
            "its address is too long for the server's request line",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(dir: &str, name: &str) -> Option<Kind> {
        check(&Addr::from(dir), name, 40).err().map(|e| e.kind)
    }

    #[test]
    fn names_that_cannot_be_sent_are_refused_here_and_others_are_not() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a\nb",
            "a\u{7f}",
            "._ProGet_File_History_",
        ] {
            assert_eq!(kind("d", name), Some(Kind::Invalid), "{name:?}");
        }
        for name in [
            "a:b",
            "CON",
            "trailing.",
            "...",
            "%2e%2e",
            "a b+#?&;'\"",
            "ünï",
        ] {
            assert_eq!(kind("d", name), None, "{name:?}");
        }
    }

    #[test]
    fn length_is_counted_in_bytes_for_names_and_encoded_for_addresses() {
        assert_eq!(kind("", &"é".repeat(127)), None);
        assert_eq!(kind("", &"é".repeat(128)), Some(Kind::NameTooLong));
        let deep = vec!["d".repeat(250); 27].join("/");
        assert_eq!(kind(&deep, "a"), None);
        assert_eq!(kind(&deep, &"é".repeat(100)), Some(Kind::NameTooLong));
    }

    proptest! {
        #[test]
        fn an_address_is_split_where_it_was_joined(dir in "([^/]{1,9}/){0,3}[^/]{1,9}|", name in "[^/]{1,20}") {
            let path = join(&dir, &name);
            prop_assert_eq!(split(&path), (dir.as_str(), name.as_str()));
        }
    }
}
