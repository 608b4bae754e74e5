//! The search (spec, section 3): pages, filters that may be ignored, and walks of any length.

use super::row::{Row, Sent, iso, normal};
use super::*;

const OP: &str = "search";

/// What is said of a search that is not found.
pub(super) const NO_ENTITY: &str = "there is no such entity";

/// Rows of a page.
pub(super) const PAGE: u64 = 200;

/// `offset + limit` is at most this.
const CEILING: u64 = 10_000;

/// Most bytes of a page's JSON.
const PAGE_BYTES: usize = 4 << 20;

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Want {
    pub(super) name: Option<String>,
    /// A directory, never the root: asking for that cannot be relied on.
    pub(super) dir: Option<String>,
    /// `updated` at or after this, in milliseconds since 1970.
    pub(super) since: Option<i64>,
}

impl Want {
    fn takes(&self, row: &Row) -> bool {
        let (dir, name) = split(&row.key);
        self.name.as_ref().is_none_or(|want| want == name)
            && self.dir.as_ref().is_none_or(|want| want == dir)
            && self.is_since(row)
    }

    fn is_since(&self, row: &Row) -> bool {
        let Some(since) = self.since else { return true };
        row.updated.is_none_or(|at| at >= since)
    }

    fn text(&self, slash: bool) -> String {
        let mut clauses = Vec::new();
        if let Some(name) = &self.name {
            clauses.push(format!("name eq '{name}'"));
        }
        if let Some(dir) = &self.dir {
            let end = if slash { "/" } else { "" };
            clauses.push(format!("path eq '{dir}{end}'"));
        }
        if let Some(since) = self.since {
            clauses.push(format!("updated gte '{}'", iso(since)));
        }
        clauses.join(" and ")
    }
}

/// Whether a name or path can stand in a filter: there is no known way to escape, and blanks are counted.
pub(super) fn can_be_asked(text: &str) -> bool {
    !text.is_empty()
        && text.trim() == text
        && !text.contains(['\'', '*', '"'])
        && !text.contains("  ")
        && !text.contains(" and ")
}

/// As much of a key as can be asked for.
fn want_of(key: &str) -> Want {
    let (dir, name) = split(key);
    Want {
        name: can_be_asked(name).then(|| name.to_owned()),
        dir: can_be_asked(dir).then(|| dir.to_owned()),
        since: None,
    }
}

/// One page.
#[derive(Debug)]
pub(super) enum Page {
    Rows {
        rows: Vec<Row>,
        sent: u64,
        total: Option<u64>,
    },
    /// It lies beyond what the search gives.
    Beyond,
}

impl IotFile {
    /// One page, oldest change first.
    pub(super) async fn page(&self, want: &Want, offset: u64) -> Result<Page> {
        let limit = PAGE.min(CEILING.saturating_sub(offset));
        if limit == 0 {
            return Ok(Page::Beyond);
        }
        let filter = want.text(self.slash.load(Ordering::Relaxed) != WITHOUT);
        let mut query = format!("?offset={offset}&limit={limit}&count=true&order=updated%20asc");
        if !filter.is_empty() {
            query.push_str(&format!("&filter={}", encode(&filter)));
        }
        let answer = self
            .send(&self.ask(Method::GET, "files", "", &query, OP)?)
            .await?;
        match answer.status() {
            200 => {}
            400 if offset > 0 => {
                answer.drain().await;
                return Ok(Page::Beyond);
            }
            // Not the absence of a file: nothing may be taken for gone because of it.
            404 => {
                let error = answer.error_with(NO_ENTITY);
                let kind = ErrorKind::Protocol;
                return Err(Error { kind, ..error }.at(self.config.entity.as_str()));
            }
            _ => return Err(answer.into_error().await),
        }
        let total = ["x-total-count", "count"].iter().find_map(|name| {
            let value = answer.header(name)?;
            value.trim().parse().ok()
        });
        let sent: Vec<Sent> = answer.json(PAGE_BYTES).await?;
        let count = sent.len() as u64;
        let mut rows = Vec::with_capacity(sent.len());
        for one in sent {
            let path = one.path.as_deref().unwrap_or("");
            if !normal(Some(path)).is_empty() {
                let form = if path.ends_with('/') { WITH } else { WITHOUT };
                self.slash.store(form, Ordering::Relaxed);
            }
            let shown = format!("{one:?}");
            match Row::of(one) {
                Some(row) => rows.push(row),
                None => log::warn!("the search has a name that cannot be shown: {shown}"),
            }
        }
        Ok(Page::Rows {
            rows,
            sent: count,
            total,
        })
    }

    /// All rows that are wanted, each checked here.
    ///
    /// Walks by time rather than by offset: rows that change meanwhile move to the end, so that an offset
    /// would step over others; and an offset ends at 10,000.
    pub(super) async fn walk(&self, want: &Want) -> Result<Vec<Row>> {
        // What is still asked for; less than wanted where a filter is ignored.
        let mut ask = want.clone();
        let mut by_time = true;
        let mut found: HashMap<String, Row> = HashMap::new();
        let mut offset = 0;
        loop {
            let Page::Rows { rows, sent, total } = self.page(&ask, offset).await? else {
                return Err(Error::new(ErrorKind::Protocol, OP)
                    .said("more files than the search can tell apart"));
            };
            if sent == 0 {
                break;
            }
            let narrow = ask.name.is_some() || ask.dir.is_some();
            let ascending = rows.is_sorted_by_key(|row| row.updated);
            let ignored = !rows.iter().all(|row| ask.takes(row));
            if ignored || (by_time && !ascending) {
                log::debug!("the search has ignored its filter or order: {ask:?}");
                by_time &= ascending && narrow;
                ask = Want {
                    since: want.since.filter(|_| by_time),
                    ..Want::default()
                };
                (offset, found) = (0, HashMap::new());
                continue;
            }
            let last = rows.last().and_then(|row| row.updated);
            for row in rows {
                found.insert(row.key.clone(), row);
            }
            offset += sent;
            if total.is_some_and(|total| offset >= total) {
                break;
            }
            if let Some(last) = last.filter(|last| by_time && ask.since.is_none_or(|s| s < *last)) {
                ask.since = Some(last);
                offset = 0;
            }
        }
        found.retain(|_, row| want.takes(row));
        Ok(found.into_values().collect())
    }

    /// Whether the search can be asked for a key with less than a walk over everything.
    pub(super) fn can_be_found(&self, key: &str) -> bool {
        want_of(key) != Want::default()
    }

    /// The row of one key, if the search has it.
    pub(super) async fn row_of(&self, key: &str) -> Result<Option<Row>> {
        let want = want_of(key);
        let find = |rows: Vec<Row>| rows.into_iter().find(|row| row.key == key);
        let found = find(self.walk(&want).await?);
        if found.is_none() && want.dir.is_some() && self.slash.load(Ordering::Relaxed) == UNKNOWN {
            self.slash.store(WITHOUT, Ordering::Relaxed);
            let found = find(self.walk(&want).await?);
            let _ = (self.slash).compare_exchange(
                WITHOUT,
                UNKNOWN,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            return Ok(found);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_one_blank_around_its_words_and_the_form_of_path_that_was_seen() {
        let want = Want {
            name: Some("a b".into()),
            dir: Some("d/e".into()),
            since: Some(1000),
        };
        assert_eq!(
            want.text(true),
            "name eq 'a b' and path eq 'd/e/' and updated gte '1970-01-01T00:00:01.000Z'"
        );
        assert!(want.text(false).contains("path eq 'd/e' and"));
    }

    #[test]
    fn what_cannot_be_escaped_is_not_asked_for() {
        for text in ["a", "a b", "ü", "100%", "a;b"] {
            assert!(can_be_asked(text), "{text}");
        }
        for text in ["", "it's", "star*", " a", "a ", "a  b", "a and b"] {
            assert!(!can_be_asked(text), "{text}");
        }
    }
}
