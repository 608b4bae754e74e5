//! The record of a spool file: whose bytes they are and what was promised for them.

use super::Target;
use crate::store::{Digests, Receipt, Upload};
use serde::{Deserialize, Serialize};

/// The layout of a record; another number is not guessed at.
pub(super) const FORMAT: u32 = 1;

/// What was promised for the bytes of a spool file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Being written: nothing was promised. Left by a crash it is kept and never sent by itself.
    Torn,
    /// A program was told that it is safe: sent by itself, across restarts, until the store has it.
    Acknowledged,
    /// The program was told that it failed: kept, sent only on request.
    Refused,
}

/// What is written beside the bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The layout's number, 1.
    pub format: u32,
    /// What was promised.
    pub class: Class,
    /// Where it goes, and with what.
    pub target: Target,
    /// Bytes of the content.
    pub size: u64,
    /// Digests of the content, if it was whole.
    pub digests: Digests,
    /// The upload under way and what the store has acknowledged of it, where a store can resume.
    pub upload: Option<(Upload, Vec<Receipt>)>,
    /// Why it was refused.
    pub error: Option<String>,
    /// When a program last wrote, in milliseconds since 1970; `None`: when it was sealed.
    #[serde(default)]
    pub written_ms: Option<u64>,
    /// When the content was sealed, or took this place, in milliseconds since 1970, no two alike: of two
    /// for one place the later counts. A later record of the same content in the same place keeps it.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn damaged_records_are_refused_without_a_panic(text in ".{0,200}") {
            // Whatever it is, it is an error or a record; nothing else happens.
            let _ = serde_json::from_str::<Record>(&text);
        }
    }
}
