//! Names and addresses (spec, section 3). Pure.
//!
//! An address is `folder/ID` or `file/ID`: whether a file and a folder can share a number is not said.

use super::super::{Addr, Kind};
use crate::error::{Error, Kind as ErrorKind, Result};

/// Longest name, in bytes: what the kernel takes. The service counts characters, and takes 255.
const NAME_MAX: usize = 255;

/// The address of an item.
pub(super) fn addr(kind: Kind, id: &str) -> Addr {
    match kind {
        Kind::Dir => Addr(format!("folder/{id}").into()),
        Kind::File | Kind::Symlink => Addr(format!("file/{id}").into()),
    }
}

/// The id of a folder; `NotDir` for anything else.
pub(super) fn folder_id<'a>(addr: &'a Addr, op: &'static str) -> Result<&'a str> {
    let not_dir = || Error::new(ErrorKind::NotDir, op).at(&*addr.0);
    addr.0.strip_prefix("folder/").ok_or_else(not_dir)
}

/// The id of a file; `IsDir` for anything else.
pub(super) fn file_id<'a>(addr: &'a Addr, op: &'static str) -> Result<&'a str> {
    let is_dir = || Error::new(ErrorKind::IsDir, op).at(&*addr.0);
    addr.0.strip_prefix("file/").ok_or_else(is_dir)
}

/// Whether the kernel can take `name` as one name.
pub(super) fn is_one_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX && !name.contains(['/', '\0'])
}

/// Whether the service takes two names for one.
pub(super) fn same(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

/// Whether `name` can be sent. What the documentation and the service disagree about is left to it.
pub(super) fn check(name: &str) -> Result<()> {
    let refuse = |kind, why: &str| Err(Error::new(kind, "check name").at(name).said(why));
    if name.len() > NAME_MAX {
        return refuse(ErrorKind::NameTooLong, "more than 255 bytes");
    }
    if !is_one_segment(name) {
        return refuse(ErrorKind::Invalid, "not one name");
    }
    if name.contains('\\') || name.bytes().any(|b| b.is_ascii_control()) {
        let why = "the service takes no backslash and no control character";
        return refuse(ErrorKind::Invalid, why);
    }
    if name.ends_with(' ') {
        return refuse(ErrorKind::Invalid, "the service takes no space at the end");
    }
    Ok(())
}

/// A name beside `name` for an item that is about to be replaced.
pub(super) fn aside(name: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let tail = format!(".replaced-{}", &id[..12]);
    let mut end = name.len().min(NAME_MAX - tail.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_sent_are_refused_here_and_others_are_not() {
        let kind = |name: &str| check(name).err().map(|e| e.kind);
        for name in [
            "", ".", "..", "a/b", "a\\b", "a\nb", "a\u{7f}", "tail ", "nul\0",
        ] {
            assert_eq!(kind(name), Some(ErrorKind::Invalid), "{name:?}");
        }
        for name in [" lead", "a<>:|?*", "-", "...", "🦀", "ünï", "%2F"] {
            assert_eq!(kind(name), None, "{name:?}");
        }
        assert_eq!(kind(&"é".repeat(128)), Some(ErrorKind::NameTooLong));
    }

    #[test]
    fn a_name_beside_is_short_enough_and_differs() {
        let long = "é".repeat(127);
        assert!(check(&aside(&long)).is_ok());
        assert_ne!(aside("a"), aside("a"));
    }

    #[test]
    fn case_does_not_tell_names_apart() {
        assert!(same("Ünï.TXT", "üNÏ.txt"));
        assert!(!same("a", "b"));
    }
}
