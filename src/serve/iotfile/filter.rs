//! Filter and order of a search. Pure.
//!
//! A filter is clauses joined by ` and `, each `field op value` with exactly one blank around words. One
//! that cannot be read is no error: it counts as none, and everything is found.

use super::shelf::Row;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Path,
    Updated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Gte,
    Gt,
    Lte,
    Lt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    field: Field,
    op: Op,
    value: String,
}

/// What a search asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter(Vec<Clause>);

impl Filter {
    /// `None` if it cannot be read.
    pub(super) fn parse(text: &str) -> Option<Filter> {
        text.split(" and ")
            .map(clause)
            .collect::<Option<Vec<_>>>()
            .map(Filter)
    }

    /// Whether a row is wanted; `path` as the row shows it.
    pub(super) fn takes(&self, row: &Row, path: &str) -> bool {
        self.0.iter().all(|clause| {
            let updated = row.updated();
            let have = match clause.field {
                Field::Name => row.name(),
                Field::Path => path,
                Field::Updated => &updated,
            };
            let want = clause.value.as_str();
            match clause.op {
                Op::Eq if want.contains('*') && clause.field != Field::Updated => like(have, want),
                Op::Eq => have == want,
                Op::Gte => have >= want,
                Op::Gt => have > want,
                Op::Lte => have <= want,
                Op::Lt => have < want,
            }
        })
    }
}

fn clause(text: &str) -> Option<Clause> {
    let mut words = text.splitn(3, ' ');
    let (field, op, value) = (words.next()?, words.next()?, words.next()?);
    let field = match field {
        "name" => Field::Name,
        "path" => Field::Path,
        "updated" => Field::Updated,
        _ => return None,
    };
    let op = match op {
        "eq" | "=" => Op::Eq,
        "gte" | ">=" => Op::Gte,
        "gt" | ">" => Op::Gt,
        "lte" | "<=" => Op::Lte,
        "lt" | "<" => Op::Lt,
        _ => return None,
    };
    let value = match value.strip_prefix('\'') {
        Some(quoted) => quoted.strip_suffix('\'')?,
        None => value,
    };
    let odd = value.is_empty() || value.contains('\'') || value.contains("  ");
    if odd || value.trim() != value {
        return None;
    }
    Some(Clause {
        field,
        op,
        value: value.to_owned(),
    })
}

/// `*` stands for anything, slashes too.
fn like(have: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = have.strip_prefix(pieces.next().unwrap_or("")) else {
        return false;
    };
    let mut last = "";
    for piece in pieces {
        last = piece;
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    last.is_empty() || have.ends_with(last)
}

/// The field that rows are sorted by, and whether downwards; `None` if it cannot be.
pub(super) fn order(text: &str) -> Option<(&str, bool)> {
    let (field, way) = text.split_once(' ')?;
    let down = match way {
        "asc" => false,
        "desc" => true,
        _ => return None,
    };
    matches!(field, "name" | "path" | "updated").then_some((field, down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_from_what_can() {
        for good in [
            "name eq 'a b'",
            "name eq a",
            "path eq 'a/' and name = 'b'",
            "updated gte '2018-07-27T17:05:31.208Z'",
        ] {
            assert!(Filter::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "name",
            "name eq ''",
            "name  eq 'a'",
            "name eq  'a'",
            "size eq 1",
            "name like 'a'",
            "name eq 'it's'",
            "name eq 'a' and",
            "name eq 'a and b'",
            "name eq ' a'",
        ] {
            assert_eq!(Filter::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (have, pattern, is) in [
            ("abc", "a*", true),
            ("abc", "*c", true),
            ("abc", "a*c", true),
            ("abc", "a*b", false),
            ("a/b/c", "a*c", true),
            ("abc", "b*", false),
            ("star*", "star*", true),
        ] {
            assert_eq!(like(have, pattern), is, "{have} {pattern}");
        }
    }
}
