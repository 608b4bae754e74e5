//! Times, sizes, rates, switches and modes as people write them. Pure.

use std::time::Duration;

/// A time: `90`, `90s`, `1.5s`, `250ms`, `10m`, `2h`; a bare number is seconds.
///
/// # Errors
/// A sentence for anything else, and for more than ten years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => {
            return Err(format!(
                "\"{text}\" is not a time: 90, 250ms, 1.5s, 10m or 2h"
            ));
        }
    };
    let seconds = number
        .and_then(|n| n.parse::<f64>().ok())
        .map(|n| n * scale)
        .ok_or_else(|| format!("\"{text}\" is not a time: 90, 250ms, 1.5s, 10m or 2h"))?;
    if seconds > 10.0 * 366.0 * 86400.0 {
        return Err(format!("\"{text}\" is longer than ten years"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A size in bytes: `4096`, `64K`, `8M`, `8MiB`, `1.5G`; powers of 1024.
///
/// # Errors
/// A sentence for anything else.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, 1024).ok_or_else(|| format!("\"{text}\" is not a size: 4096, 64K, 8M or 1.5G"))
}

/// As [`size`], and not below `least`, which is some KiB or MiB.
///
/// # Errors
/// A sentence for anything else.
pub fn size_from(least: u64, text: &str) -> Result<u64, String> {
    let size = size(text)?;
    if size < least {
        let least = match least >> 20 {
            0 => format!("{}K", least >> 10),
            mib => format!("{mib}M"),
        };
        return Err(format!(
            "\"{text}\" is too small to work with: at least {least}"
        ));
    }
    Ok(size)
}

/// A rate in bytes per second: `500K`, `100M`, `1G`; powers of 1000. A trailing `/s` is allowed.
///
/// # Errors
/// A sentence for anything else, and for 0.
pub fn rate(text: &str) -> Result<u64, String> {
    match scaled(text.strip_suffix("/s").unwrap_or(text), 1000) {
        Some(0) => Err("a rate of 0 would never send a byte; leave it out for no limit".to_owned()),
        Some(rate) => Ok(rate),
        None => Err(format!(
            "\"{text}\" is not a rate in bytes per second: 500K, 100M or 1G"
        )),
    }
}

/// A switch: true, yes, on, 1; false, no, off, 0.
///
/// # Errors
/// A sentence for anything else.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither on nor off")),
    }
}

/// Permission bits in octal: `022`, `0077`.
///
/// # Errors
/// A sentence for anything else.
pub fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("\"{text}\" is not an octal mask such as 022"))
}

/// A count of requests in flight: 1 to 256.
///
/// # Errors
/// A sentence for anything else.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=256).contains(n))
        .ok_or_else(|| format!("\"{text}\" is not a number from 1 to 256"))
}

/// Bytes for people: `0 B`, `1.5 KiB`, `2.0 GiB`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    unreachable!("TiB returns")
}

fn scaled(text: &str, base: u64) -> Option<u64> {
    let (number, unit) = split(text);
    let unit = unit.to_ascii_lowercase();
    let letter = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let power = match letter {
        "" if unit == "ib" => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let scale = base.pow(power);
    let number = number?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = number.parse::<f64>().ok()? * scale as f64;
    (value < 9e18 && power > 0).then_some(value as u64)
}

/// The number, if it is one without sign or exponent, and what follows it.
fn split(text: &str) -> (Option<&str>, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = Some(&text[..at]).filter(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    (number, text[at..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, ms) in [
            ("90", 90_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("10 m", 600_000),
            ("2h", 7_200_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "1e9", "inf", "1.2.3", "99999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_and_rates_of_1000() {
        assert_eq!(size("8M"), Ok(8 << 20));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("8mb"), Ok(8 << 20));
        assert_eq!(size("1.5G"), Ok(3 << 29));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(rate("100M"), Ok(100_000_000));
        assert_eq!(rate("100MB/s"), Ok(100_000_000));
        for text in ["", "M", "-1", "1.5", "1X", "ib", "1ib", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_that_is_too_small_is_answered_with_the_smallest() {
        assert_eq!(size_from(64 << 10, "64K"), Ok(64 << 10));
        let why = size_from(64 << 10, "0").unwrap_err();
        assert_eq!(why, "\"0\" is too small to work with: at least 64K");
        let why = size_from(1 << 20, "1048575").unwrap_err();
        assert!(why.ends_with("at least 1M"), "{why}");
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        assert!(rate("0").unwrap_err().contains("leave it out"));
    }

    #[test]
    fn masks_are_octal() {
        assert_eq!(mode("022"), Ok(0o22));
        assert!(mode("99").is_err());
        assert!(mode("1777").is_err());
    }

    #[test]
    fn sizes_are_shown_with_one_decimal() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(2 << 30), "2.0 GiB");
    }
}
