//! `Range: bytes=...` against a file of known size (RFC 9110, section 14). Pure.

use std::ops::Range;

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// 200 with everything: no range, several ranges, or something malformed.
    Whole,
    /// 206 with these bytes; never empty, within the size.
    Part(Range<u64>),
    /// 416.
    Nothing,
}

/// Reads the header's value; a last byte beyond the end is clamped.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Wanted::Whole;
    };
    let part = match (first, last) {
        (None, None) => return Wanted::Whole,
        (Some(a), Some(b)) if b < a => return Wanted::Whole,
        (Some(a), Some(b)) => a..b.saturating_add(1).min(size),
        (Some(a), None) => a..size,
        (None, Some(n)) => size.saturating_sub(n)..size,
    };
    if part.start < part.end {
        Wanted::Part(part)
    } else {
        Wanted::Nothing
    }
}

/// `Some(None)` for nothing at all, `None` for what is not a number; too large is the largest.
fn number(digits: &str) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Some(digits.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_table_of_rfc_9110_says() {
        for (header, size, want) in [
            ("bytes=0-0", 10, Wanted::Part(0..1)),
            ("bytes=2-5", 10, Wanted::Part(2..6)),
            ("bytes=2-500", 10, Wanted::Part(2..10)),
            ("bytes=9-99999999999999999999999", 10, Wanted::Part(9..10)),
            ("bytes=4-", 10, Wanted::Part(4..10)),
            ("bytes=-3", 10, Wanted::Part(7..10)),
            ("bytes=-30", 10, Wanted::Part(0..10)),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=10-11", 10, Wanted::Nothing),
            ("bytes=0-0", 0, Wanted::Nothing),
            ("bytes=0-1,4-5", 10, Wanted::Whole),
            ("bytes=5-4", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
            ("lines=1-2", 10, Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), size), want, "{header} of {size}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }
}
