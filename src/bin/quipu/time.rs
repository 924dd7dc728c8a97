//! Times: milliseconds since 1970 in and out of the form of ISO 8601, and lengths of time.

use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// For example `2026-11-29T12:00:00.250Z`.
pub(crate) fn iso(millis: i64) -> String {
    let (day, within) = (millis.div_euclid(DAY_MS), millis.rem_euclid(DAY_MS));
    let (year, month, day) = date(day);
    let (seconds, millis) = (within / 1000, within % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day, counted from 1970-01-01.
fn date(day: i64) -> (i64, i64, i64) {
    /// Days of 400 years, after which the calendar repeats itself.
    const CYCLE: i64 = 146_097;
    let mut year = 1970 + 400 * day.div_euclid(CYCLE);
    let mut left = day.rem_euclid(CYCLE);
    while left >= days_of_year(year) {
        left -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while left >= days_of_month(year, month) {
        left -= days_of_month(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A time: milliseconds since 1970, or a date, maybe with a time of day and an offset from UTC:
/// `2026-11-29`, `2026-11-29T12:00Z`, `2026-11-29 12:00:00.250+01:00`.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(millis);
    }
    parse_iso(text).ok_or_else(|| {
        format!("{text:?} is neither milliseconds since 1970 nor a time such as 2026-11-29T12:00:00Z")
    })
}

fn parse_iso(text: &str) -> Option<i64> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let mut parts = date.split('-');
    let mut next = |digits| number(parts.next()?, digits);
    let (year, month, day) = (next(4)?, next(2)?, next(2)?);
    if parts.next().is_some()
        || !(1..=12).contains(&month)
        || !(1..=days_of_month(year, month)).contains(&day)
    {
        return None;
    }
    let years = (1970..year).map(days_of_year).sum::<i64>() - (year..1970).map(days_of_year).sum::<i64>();
    let days = years + (1..month).map(|month| days_of_month(year, month)).sum::<i64>() + day - 1;
    Some(days * DAY_MS + time_of_day(rest)?)
}

/// Milliseconds of `T12:00:00.250+01:00` since the midnight of UTC.
fn time_of_day(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let text = text.strip_prefix(['T', ' '])?;
    let zone = text.find(['Z', '+', '-']).unwrap_or(text.len());
    let (time, zone) = text.split_at_checked(zone)?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = whole.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |second| number(second, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = number(&format!("{fraction:0<3}"), 3)?;
    let ahead = match zone {
        "" | "Z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = number(hours, 2)? * 60 + number(minutes, 2)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    Some(((hour * 60 + minute - ahead) * 60 + second) * 1000 + millis)
}

/// A number of exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// A length of time: `250ms`, `30s`, `5m`, `12h`, `7d`, or milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let millis = amount.parse::<u64>().ok().and_then(|amount| amount.checked_mul(unit_ms));
    match millis {
        Some(millis) if unit_ms > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} is no length of time: 250ms, 30s, 5m, 12h and 7d are")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{iso, parse, parse_duration};

    #[test]
    fn times_are_written_and_read() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_796_040_000_250, "2026-11-30T12:00:00.250Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso(millis), text);
            assert_eq!(parse(text), Ok(millis));
        }
        assert_eq!(parse("1970-01-02"), Ok(86_400_000));
        assert_eq!(parse("1970-01-01T01:30+01:00"), Ok(1_800_000));
        assert_eq!(parse("1970-01-01 00:00:01.5-00:01"), Ok(61_500));
        assert_eq!(parse("1234"), Ok(1234));
    }

    #[test]
    fn no_time_is_made_up() {
        for text in
            ["", "yesterday", "2026-02-29", "2026-13-01", "2026-1-1", "1970-01-01T24:00", "1970-01-01T"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_of_time_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("100"), Ok(Duration::from_millis(100)));
        for text in ["", "d", "7 weeks", "-1s", "99999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
