//! Plain data about what a store holds. No behaviour beyond comparing and cutting.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

/// A store's own address of an entry: a path for ProGet and IoT, an id for Box and Solar. Opaque to
/// every layer above the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addr(pub Arc<str>);

impl From<&str> for Addr {
    fn from(text: &str) -> Self {
        Addr(text.into())
    }
}

/// A name in a directory: where an entry is, or may come to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub dir: Addr,
    /// One name, never empty, never with `/`.
    pub name: String,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Bytes.
    File,
    /// A directory.
    Dir,
    /// A symbolic link; its bytes are the target.
    Symlink,
}

/// Identity of a content: equal versions of one entry have equal bytes. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version(pub Arc<str>);

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Version(text.into())
    }
}

/// A digest algorithm that a store reports or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algo {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

/// Digests of a whole content, lower-case hex, by algorithm; any may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests(pub BTreeMap<Algo, String>);

impl Digests {
    /// `Some(true)` if at least one algorithm is on both sides and all common ones agree,
    /// `Some(false)` if one disagrees, `None` if there is none to compare.
    #[must_use]
    pub fn agree(&self, other: &Digests) -> Option<bool> {
        let mut seen = None;
        for (algo, ours) in &self.0 {
            if let Some(theirs) = other.0.get(algo) {
                if !ours.eq_ignore_ascii_case(theirs) {
                    return Some(false);
                }
                seen = Some(true);
            }
        }
        seen
    }
}

/// Attributes that a store may be able to keep beside the bytes (see [`super::Keeps`]). `None`: not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attrs {
    /// Modification time set by a program.
    pub mtime: Option<SystemTime>,
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Extended attributes in the `user.` namespace, by full name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Attrs {
    /// Nothing set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Attrs::default()
    }
}

/// What a store says about one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its address.
    pub addr: Addr,
    /// Its name, one segment.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Identity of the content; for a directory, of nothing.
    pub version: Version,
    /// What the store needs for conditional requests (an ETag, a revision number); opaque.
    pub tag: Option<Arc<str>>,
    /// When the store last changed it.
    pub modified: SystemTime,
    /// When the store made it, if it says.
    pub created: Option<SystemTime>,
    /// Digests that the store reports.
    pub digests: Digests,
    /// Attributes that the store keeps for us.
    pub attrs: Attrs,
    /// The declared content type, if the store has one.
    pub content_type: Option<String>,
}

impl Entry {
    /// The time to show as mtime: the one that a program set, else the store's.
    #[must_use]
    pub fn mtime(&self) -> SystemTime {
        self.attrs.mtime.unwrap_or(self.modified)
    }
}

/// A content that is to be stored: what a store needs to know beside the bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct New {
    /// Where it goes.
    pub place: Place,
    /// `File` or `Symlink`.
    pub kind: Kind,
    /// Bytes. While [`super::Caps::size_at`] is `End` and the file is still being written, the bytes
    /// known so far.
    pub size: u64,
    /// Digests of the whole, as far as known; complete at `put` and `finish`, and at `start` too when
    /// [`super::Caps::digest_at`] says so.
    pub digests: Digests,
    /// Attributes to keep with it.
    pub attrs: Attrs,
    /// The entry that it replaces, as last seen; `None` if there was none.
    pub replaces: Option<Entry>,
    /// The name must be new (`O_EXCL`): an existing one is [`crate::error::Kind::Exists`].
    pub exclusive: bool,
}

/// An upload in parts that has begun. Plain data, so that it can be recorded and resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The store's, or our, id of it.
    pub id: String,
    /// How it is cut.
    pub cut: Cut,
    /// Its parts must be sent one at a time, whatever the capabilities say.
    #[serde(default)]
    pub sequential: bool,
    /// Its one part is the whole content, which everybody sees as soon as that part is sent;
    /// [`finish`](crate::store::Store::finish) only confirms. Such a part must therefore be sent when the
    /// content and its digests are final, and whoever gives it up in the middle does not know what it
    /// has done.
    #[serde(default)]
    pub whole: bool,
    /// Whatever else the store must remember (session URLs); never a credential.
    pub extra: BTreeMap<String, String>,
}

/// How a content is cut into parts: part `n` (from 0) has `first << (n / double_every)` bytes, the last
/// one less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Bytes of the first part, at least 1.
    pub first: u64,
    /// Parts after which the size doubles; `None`: all are equal.
    pub double_every: Option<u32>,
}

impl Cut {
    /// Equal parts of `size` bytes.
    #[must_use]
    pub fn every(size: u64) -> Self {
        Cut {
            first: size.max(1),
            double_every: None,
        }
    }

    /// The range of part `index`, not yet clipped by the total.
    #[must_use]
    pub fn part(&self, index: u32) -> Range<u64> {
        match self.double_every {
            None => {
                let start = self.first.saturating_mul(u64::from(index));
                start..start.saturating_add(self.first)
            }
            Some(every) => {
                let every = every.max(1);
                let mut start = 0u64;
                let mut size = self.first;
                for _ in 0..index / every {
                    start = start.saturating_add(size.saturating_mul(u64::from(every)));
                    size = size.saturating_mul(2);
                }
                start = start.saturating_add(size.saturating_mul(u64::from(index % every)));
                start..start.saturating_add(size)
            }
        }
    }

    /// All parts of a content of `total` bytes, in order; none for 0 bytes.
    #[must_use]
    pub fn parts(&self, total: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut index = 0;
        loop {
            let range = self.part(index);
            if range.start >= total {
                return parts;
            }
            parts.push(Part {
                index,
                range: range.start..range.end.min(total),
            });
            index += 1;
        }
    }
}

/// A part is a place, not bytes: each try reads its source again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 0.
    pub index: u32,
    /// Bytes of the whole that it covers; never empty.
    pub range: Range<u64>,
}

/// A store's acknowledgement of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The part.
    pub part: Part,
    /// What the commit needs of it (a part id, a digest); opaque, may be empty.
    pub token: String,
}

/// Bytes in all and bytes free, of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_content_once_without_gap(
            first in 1u64..5000, every in proptest::option::of(1u32..5), total in 0u64..100_000,
        ) {
            let parts = Cut { first, double_every: every }.parts(total);
            let mut at = 0;
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.index as usize, index);
                prop_assert_eq!(part.range.start, at);
                prop_assert!(part.range.end > at);
                at = part.range.end;
            }
            prop_assert_eq!(at, total);
        }
    }

    #[test]
    fn digests_agree_only_on_common_algorithms() {
        let d = |pairs: &[(Algo, &str)]| {
            Digests(pairs.iter().map(|(a, h)| (*a, (*h).to_owned())).collect())
        };
        assert_eq!(
            d(&[(Algo::Sha1, "ab")]).agree(&d(&[(Algo::Sha1, "AB")])),
            Some(true)
        );
        assert_eq!(
            d(&[(Algo::Sha1, "ab")]).agree(&d(&[(Algo::Sha1, "ac")])),
            Some(false)
        );
        assert_eq!(
            d(&[(Algo::Sha1, "ab")]).agree(&d(&[(Algo::Md5, "ab")])),
            None
        );
    }
}
