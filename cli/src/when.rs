//! Durations and dates, as people write them and as the protocol has them.

use prost_types::Timestamp;
use std::time::Duration;
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// 9999-12-31T23:59:59Z: no end (RFC 5280 4.1.2.5).
const NEVER: i64 = 253_402_300_799;

/// Reads a duration such as `90s`, `15m`, `24h`, `30d` or `1d12h`.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example 90s, 15m, 24h or 1d12h");
    let mut total: u64 = 0;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let part = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        digits.clear();
    }
    // A number without a unit is left over, or there was nothing at all.
    if !digits.is_empty() || text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total))
}

/// Reads how long an enrollment token lives: 1 minute to 30 days.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_time_to_live(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (60..=30 * 86_400).contains(&duration.as_secs()) {
        Ok(duration)
    } else {
        Err(format!("{text:?} is outside of 1 minute to 30 days"))
    }
}

/// Reads a point in time: RFC 3339, or a date alone, which means its beginning in UTC. Whole seconds.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let date = || Date::parse(text, format_description!("[year]-[month]-[day]")).map(|d| d.midnight().assume_utc());
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| date())
        .map_err(|_| format!("{text:?} is no time; write for example 2026-11-23 or 2026-11-23T08:00:00Z"))?;
    Ok(Timestamp { seconds: at.unix_timestamp(), nanos: 0 })
}

/// RFC 3339 in UTC; `None` for what has no such form (the year 10000 and later).
pub fn rfc3339(at: &Timestamp) -> Option<String> {
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

/// For people: to the second, `never` for the time without end, `-` for none.
pub fn human(at: Option<&Timestamp>) -> String {
    match at {
        None => "-".to_owned(),
        Some(at) if at.seconds == NEVER => "never".to_owned(),
        Some(at) => rfc3339(&Timestamp { seconds: at.seconds, nanos: 0 }).unwrap_or_else(|| "?".to_owned()),
    }
}

/// A duration for people, in the two largest units that it needs: `365d`, `1d12h`, `90s`.
pub fn human_duration(seconds: u64) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).take(2).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("1d12h", 129_600), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "24", "h", "1w", "-1h", "1h30", "1 h", "99999999999999999999d", "213503982334602d9h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["59s", "31d", "30d1s", "0s"] {
            assert!(parse_time_to_live(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_time_to_live("30d"), Ok(Duration::from_secs(2_592_000)));
    }

    #[test]
    fn times_are_rfc_3339_or_a_date() {
        assert_eq!(parse_time("2026-11-23").unwrap().seconds, 1_795_392_000);
        assert_eq!(parse_time("2026-11-23T01:00:00+01:00").unwrap().seconds, 1_795_392_000);
        assert!(parse_time("yesterday").is_err());
        assert!(parse_time("2026-02-30").is_err());
    }

    #[test]
    fn times_are_shown_in_utc() {
        let at = Timestamp { seconds: 1_795_392_000, nanos: 500_000_000 };
        assert_eq!(rfc3339(&at).unwrap(), "2026-11-23T00:00:00.5Z");
        assert_eq!(human(Some(&at)), "2026-11-23T00:00:00Z");
        assert_eq!(human(Some(&Timestamp { seconds: NEVER, nanos: 0 })), "never");
        assert_eq!(human(None), "-");
        assert_eq!(rfc3339(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
        assert_eq!(human_duration(365 * 86_400), "365d");
        assert_eq!(human_duration(129_605), "1d12h");
        assert_eq!(human_duration(0), "0s");
    }
}
