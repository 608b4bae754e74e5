//! Items as JSON: mini, standard, or the fields that were asked for.

use super::shelf::Row;
use super::{No, Service, Ways};
use jiff::Timestamp;
use jiff::tz::{TimeZone, offset};
use serde_json::{Map, Value, json};

/// How an item is shown.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Mini,
    Standard,
    Fields(Vec<String>),
}

impl Shape {
    /// What `fields` says, or else `default`.
    pub(super) fn of(fields: Option<&str>, default: Shape) -> Shape {
        match fields {
            None | Some("") => default,
            Some(names) => Shape::Fields(names.split(',').map(|n| n.trim().to_owned()).collect()),
        }
    }
}

/// RFC 3339 with an offset that is not UTC.
pub(super) fn time(ms: i64) -> Value {
    let at = Timestamp::from_millisecond(ms).unwrap_or_default();
    let at = at.to_zoned(TimeZone::fixed(offset(-8)));
    at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().into()
}

/// Milliseconds of a time that a client sends: not before 1970, fractions dropped.
pub(super) fn parse_time(text: &str) -> Result<i64, No> {
    let at: Result<Timestamp, _> = text.parse();
    let seconds = at.ok().map(Timestamp::as_second).filter(|s| *s >= 0);
    let seconds = seconds.ok_or_else(|| {
        No::new(
            400,
            "invalid_request_parameters",
            "Not a time that can be set",
        )
    })?;
    Ok(seconds * 1000)
}

/// An id, or another text of digits.
pub(super) fn digits(ways: &Ways, number: u64) -> Value {
    match ways.bare_numbers {
        true => number.into(),
        false => number.to_string().into(),
    }
}

fn file_version(ways: &Ways, row: &Row) -> Value {
    json!({
        "type": "file_version",
        "id": digits(ways, row.version),
        "sha1": row.sha1,
    })
}

impl Service {
    /// An item; `above` are the folders from the root to it.
    pub(super) fn show(&self, row: &Row, above: &[Row], shape: &Shape) -> Value {
        let ways = &self.ways;
        let names: Vec<&str> = match shape {
            Shape::Mini if row.dir => vec!["sequence_id", "name"],
            Shape::Mini => vec!["sequence_id", "name", "sha1", "file_version"],
            Shape::Standard => vec![
                "sequence_id",
                "name",
                "sha1",
                "file_version",
                "description",
                "size",
                "path_collection",
                "created_at",
                "modified_at",
                "trashed_at",
                "purged_at",
                "content_created_at",
                "content_modified_at",
                "created_by",
                "modified_by",
                "owned_by",
                "shared_link",
                "parent",
                "item_status",
            ],
            Shape::Fields(names) => names.iter().map(String::as_str).collect(),
        };
        let root = row.id == 0;
        let mut view = Map::new();
        view.insert(
            "type".into(),
            if row.dir { "folder" } else { "file" }.into(),
        );
        view.insert("id".into(), digits(ways, row.id));
        let or_null = |value: Value| if root { Value::Null } else { value };
        view.insert("etag".into(), or_null(digits(ways, row.etag)));
        let person = || {
            json!({"type": "user", "id": "11111", "name": "Somebody",
                   "login": "somebody@example.com"})
        };
        for name in names {
            let value = match name {
                "sequence_id" => or_null(row.sequence.to_string().into()),
                "name" => row.name().into(),
                "sha1" if !row.dir => row.sha1.as_str().into(),
                "file_version" if !row.dir => file_version(ways, row),
                "description" => "".into(),
                "size" if ways.bare_numbers => (row.size as f64).into(),
                "size" => row.size.into(),
                "created_at" => or_null(time(row.created_ms)),
                "modified_at" => or_null(time(row.modified_ms)),
                "content_created_at" => or_null(time(row.content_created_ms)),
                "content_modified_at" => or_null(time(row.content_modified_ms)),
                "trashed_at" | "purged_at" | "shared_link" => Value::Null,
                "created_by" | "modified_by" | "owned_by" => person(),
                "parent" => match above.last() {
                    Some(parent) => self.show(parent, &[], &Shape::Mini),
                    None => Value::Null,
                },
                "path_collection" => json!({
                    "total_count": above.len(),
                    "entries": above.iter().map(|row| self.show(row, &[], &Shape::Mini))
                        .collect::<Vec<_>>(),
                }),
                "item_status" => "active".into(),
                _ => continue,
            };
            view.insert(name.into(), value);
        }
        view.into()
    }

    /// 409: the name is taken.
    pub(super) fn taken(&self, row: &Row, of_folder: bool) -> No {
        let one = self.show(row, &[], &Shape::Mini);
        let conflicts = match of_folder || self.ways.conflicts_list {
            true => json!([one]),
            false => one,
        };
        let no = No::new(
            409,
            "item_name_in_use",
            "Item with the same name already exists",
        );
        no.with(json!({"conflicts": conflicts}))
    }
}
