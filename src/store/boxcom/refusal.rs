//! What the service says when it refuses (spec, section 6): the code counts, and the status where there is
//! none.

use super::item::Item;
use crate::error::{Error, Kind};
use crate::http::Answer;
use serde_json::Value;

/// Most bytes of an error's body that are read.
const BODY_MAX: usize = 64 * 1024;

/// A refusal, read.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    /// What it means where nothing more is known.
    pub(super) error: Error,
    /// `context_info`, or nothing.
    pub(super) context: Value,
}

/// Reads an answer that is not a success; never fails on its body.
pub(super) async fn refusal(mut answer: Answer) -> Refusal {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = answer.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > BODY_MAX {
            break;
        }
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let code = body["code"].as_str().or_else(|| body["error"].as_str());
    let code = code.unwrap_or("").to_owned();
    let words = body["message"]
        .as_str()
        .or_else(|| body["error_description"].as_str());
    let words = match (words.unwrap_or(""), code.as_str()) {
        ("", code) => code.to_owned(),
        (words, "") => words.to_owned(),
        (words, code) => format!("{code}: {words}"),
    };
    let status = answer.status();
    let mut error = answer.error_with(&words);
    error.kind = meaning(status, &code).unwrap_or(error.kind);
    Refusal {
        status,
        code,
        error,
        context: body["context_info"].clone(),
    }
}

/// What a code means, where the status does not say it.
fn meaning(status: u16, code: &str) -> Option<Kind> {
    Some(match (status, code) {
        (_, "item_name_invalid") => Kind::Invalid,
        (_, "item_name_too_long") => Kind::NameTooLong,
        (_, "folder_not_empty") => Kind::NotEmpty,
        (_, "storage_limit_exceeded") => Kind::Quota,
        (_, "file_size_limit_exceeded" | "request_entity_too_large") => Kind::TooLarge,
        (_, "item_name_in_use") => Kind::Exists,
        (_, "name_temporarily_reserved" | "operation_blocked_temporary") => Kind::Busy,
        (_, "not_found" | "trashed") => Kind::NotFound,
        (_, "rate_limit_exceeded" | "too_many_requests") => Kind::Later,
        // The bytes were changed or cut on their way.
        (400, "bad_digest" | "request_size_mismatch") => Kind::Broken,
        (405 | 411, _) => Kind::Protocol,
        (410, _) => Kind::Restart,
        _ => return None,
    })
}

impl Refusal {
    /// The items that are in the way: an object or a list.
    pub(super) fn conflict(&self) -> Option<Item> {
        match &self.context["conflicts"] {
            Value::Array(all) => all.iter().find_map(Item::of),
            one => Item::of(one),
        }
    }

    /// The error with another meaning.
    pub(super) fn error_as(self, kind: Kind) -> Error {
        Error { kind, ..self.error }
    }

    /// Whether the request may have been carried out all the same.
    pub(super) fn is_lost(&self) -> bool {
        self.status >= 500 || self.status == 408
    }
}

/// Whether a request that failed so may have been carried out.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(error.kind, Kind::Timeout | Kind::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conflicts_are_an_object_or_a_list() {
        let one = json!({"type": "file", "id": "5", "name": "f"});
        for context in [json!({"conflicts": one}), json!({"conflicts": [one]})] {
            let refusal = Refusal {
                status: 409,
                code: String::new(),
                error: Error::new(Kind::Exists, "x"),
                context,
            };
            assert_eq!(refusal.conflict().unwrap().id, "5");
        }
    }
}
