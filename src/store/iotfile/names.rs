//! Names and keys (spec, section 9). Pure.

use super::super::Addr;
use crate::error::{Error, Kind, Result};

/// Longest name, in bytes.
const NAME_MAX: usize = 255;

/// Longest key, in bytes: an S3 key has 1,024, of which tenant and entity take some.
pub(super) const KEY_MAX: usize = 980;

/// The documentation allows DELETE no longer path, in characters; probably a left-over.
pub(super) const DELETE_MAX: usize = 100;

/// What the name of a file gets when a directory has the same one.
const MARK: &str = " (file)";

/// The key of `name` in `dir`.
pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// The directory and the name of a key.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Whether the kernel can take `name` as one name.
pub(super) fn is_one_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX && !name.contains(['/', '\0'])
}

/// The name under which a file is shown beside a directory of its name.
pub(super) fn marked(name: &str) -> String {
    format!("{name}{MARK}")
}

/// The name that was marked.
pub(super) fn unmarked(name: &str) -> Option<&str> {
    name.strip_suffix(MARK).filter(|name| !name.is_empty())
}

/// Whether `name` in `dir` can be sent. What only a stricter server refuses is left to it.
pub(super) fn check(dir: &Addr, name: &str) -> Result<()> {
    let key = join(&dir.0, name);
    let refuse = |kind: Kind, why: &str| {
        Err(Error::new(kind, "check name")
            .at(format!("/{key}"))
            .said(why))
    };
    if name.len() > NAME_MAX {
        return refuse(Kind::NameTooLong, "more than 255 bytes");
    }
    if !is_one_segment(name) {
        return refuse(Kind::Invalid, "not one name");
    }
    if name.contains('\\') || name.chars().any(char::is_control) {
        return refuse(
            Kind::Invalid,
            "the service takes no backslash and no control character",
        );
    }
    if key.len() > KEY_MAX {
        return refuse(
            Kind::NameTooLong,
            "the whole path has more than 980 bytes, which is more than the service's storage takes",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_sent_are_refused_here_and_others_are_not() {
        let kind = |dir: &str, name: &str| check(&Addr::from(dir), name).err().map(|e| e.kind);
        for name in ["", ".", "..", "a/b", "a\\b", "a\nb"] {
            assert_eq!(kind("d", name), Some(Kind::Invalid), "{name:?}");
        }
        for name in ["it's", "star*", "100%", "a;b", "ünï", "deleteJobs"] {
            assert_eq!(kind("d", name), None, "{name:?}");
        }
        assert_eq!(kind("", &"é".repeat(128)), Some(Kind::NameTooLong));
        let deep = vec!["d".repeat(199); 4].join("/");
        assert_eq!(kind(&deep, &"n".repeat(180)), None);
        assert_eq!(kind(&deep, &"n".repeat(181)), Some(Kind::NameTooLong));
    }
}
