//! What answers say in their status and headers, read leniently. Pure functions.

use crate::error::{Error, Kind, Result};
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// What a status means when the service has no meaning of its own for it. 2xx is not asked.
#[must_use]
pub fn kind_of_status(status: u16) -> Kind {
    match status {
        400 | 422 => Kind::Invalid,
        401 | 403 | 407 => Kind::Denied,
        404 | 410 => Kind::NotFound,
        408 => Kind::Timeout,
        409 | 412 => Kind::Conflict,
        413 => Kind::TooLarge,
        414 | 431 => Kind::NameTooLong,
        416 => Kind::Stale,
        423 => Kind::Busy,
        425 | 429 | 503 => Kind::Later,
        507 => Kind::Full,
        501 | 505 => Kind::Protocol,
        500..=599 => Kind::Broken,
        _ => Kind::Protocol,
    }
}

/// `Retry-After`: seconds, or a date (counted from `now`; a past one is zero).
#[must_use]
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// `Content-Range: bytes a-b/total`, `bytes a-b/*` or `bytes */total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that follow; `None` in `bytes */total`.
    pub range: Option<Range<u64>>,
    /// Bytes of the whole, if told.
    pub total: Option<u64>,
}

/// Reads a `Content-Range`; `None` if it makes no sense.
#[must_use]
pub fn content_range(value: &str) -> Option<ContentRange> {
    let value = value.trim();
    let unit = value.get(..5)?;
    let rest = value.get(5..)?;
    if !unit.eq_ignore_ascii_case("bytes") || !rest.starts_with([' ', '=']) {
        return None;
    }
    let (range, total) = rest[1..].trim().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        digits => Some(number(digits)?),
    };
    let range = match range.trim() {
        "*" => None,
        range => {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (number(first)?, number(last)?);
            let end = last.checked_add(1)?;
            if first >= end || total.is_some_and(|t| end > t) {
                return None;
            }
            Some(first..end)
        }
    };
    Some(ContentRange { range, total })
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// An ETag as an opaque text: `W/` and quotes taken off, `None` if nothing is left.
#[must_use]
pub fn opaque_tag(value: &str) -> Option<&str> {
    let value = value.trim();
    let value = value.strip_prefix("W/").unwrap_or(value);
    let value = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

/// How many bytes of an answer to a ranged GET must be skipped to come to `want.start`.
///
/// `size` is the size of the version that is being read. 206 must begin where it was asked (without
/// a `Content-Range` it is believed only if `bare` allows that); 200 means that the range was ignored.
/// Another size than `size` is `Stale`, and so is 416.
pub fn skip_for_range(
    status: u16,
    range: Option<&str>,
    length: Option<u64>,
    want: &Range<u64>,
    size: u64,
    bare: bool,
) -> Result<u64> {
    let wrong = |kind: Kind, words: &str| Err(Error::new(kind, "read").said(words));
    match (status, range) {
        (206, Some(text)) => match content_range(text) {
            Some(ContentRange { total: Some(t), .. }) if t != size => {
                wrong(Kind::Stale, &format!("{t} bytes now, {size} before"))
            }
            Some(ContentRange { range: Some(r), .. }) if r.start == want.start => Ok(0),
            _ => wrong(
                Kind::Protocol,
                &format!("asked for bytes {}-, got Content-Range {text}", want.start),
            ),
        },
        (206, None) if bare => Ok(0),
        (206, None) => wrong(Kind::Protocol, "206 without Content-Range"),
        (200, _) => match length {
            Some(l) if l != size => wrong(Kind::Stale, &format!("{l} bytes now, {size} before")),
            _ => Ok(want.start),
        },
        (416, _) => wrong(Kind::Stale, "the range lies outside the file"),
        _ => wrong(Kind::Protocol, &format!("status {status} to a ranged read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(" 12 ", now), Some(Duration::from_secs(12)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:27 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }

    #[test]
    fn content_range_is_read_strictly_enough_to_trust_it() {
        let some = |r: Option<Range<u64>>, t| Some(ContentRange { range: r, total: t });
        assert_eq!(content_range("bytes 0-4/5"), some(Some(0..5), Some(5)));
        assert_eq!(content_range("bytes 3-3/*"), some(Some(3..4), None));
        assert_eq!(content_range("Bytes */7"), some(None, Some(7)));
        for bad in [
            "",
            "bytes",
            "bytes 4-3/5",
            "bytes 0-5/5",
            "bytes +0-4/5",
            "items 0-4/5",
            "bytes 0-4",
            "bytes -4/5",
            "bytes 0-18446744073709551615/*",
            "bytes 0-4/99999999999999999999",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn tags_are_opaque() {
        assert_eq!(opaque_tag("f7ff"), Some("f7ff"));
        assert_eq!(opaque_tag("W/\"f7ff\""), Some("f7ff"));
        assert_eq!(opaque_tag("\"\""), None);
        assert_eq!(opaque_tag("\""), Some("\""));
    }

    #[test]
    fn a_ranged_answer_is_believed_only_where_it_says_what_was_asked() {
        let ask = |status, range, length| {
            skip_for_range(status, range, length, &(4..8), 10, false).map_err(|e| e.kind)
        };
        assert_eq!(ask(206, Some("bytes 4-7/10"), Some(4)), Ok(0));
        assert_eq!(ask(206, Some("bytes 4-7/*"), Some(4)), Ok(0));
        assert_eq!(ask(206, Some("bytes 0-7/10"), None), Err(Kind::Protocol));
        assert_eq!(ask(206, Some("bytes 4-7/11"), None), Err(Kind::Stale));
        assert_eq!(ask(206, None, None), Err(Kind::Protocol));
        assert_eq!(ask(200, None, Some(10)), Ok(4));
        assert_eq!(ask(200, None, None), Ok(4));
        assert_eq!(ask(200, None, Some(9)), Err(Kind::Stale));
        assert_eq!(ask(416, Some("bytes */3"), None), Err(Kind::Stale));
        assert_eq!(ask(204, None, None), Err(Kind::Protocol));
        assert_eq!(
            skip_for_range(206, None, None, &(4..8), 10, true).unwrap(),
            0
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parsers_panic(text in ".*") {
            let _ = content_range(&text);
            let _ = content_range(&format!("bytes {text}"));
            let _ = opaque_tag(&text);
            let _ = retry_after(&text, SystemTime::UNIX_EPOCH);
        }

        #[test]
        fn a_content_range_that_is_written_is_read_back(start in 0u64..1 << 40, len in 1u64..1 << 40, rest in 0u64..1 << 40) {
            let total = start + len + rest;
            let text = format!("bytes {start}-{}/{total}", start + len - 1);
            prop_assert_eq!(
                content_range(&text),
                Some(ContentRange { range: Some(start..start + len), total: Some(total) })
            );
        }
    }
}
