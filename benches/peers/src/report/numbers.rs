//! Medians, and numbers as they are printed.

use crate::plan::Unit;

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 0 => f64::midpoint(sorted[upper - 1], sorted[upper]),
        _ => sorted[upper],
    }
}

/// The median, and the least and the greatest if there are several.
pub fn spread(samples: &[f64], unit: Unit) -> String {
    let middle = short(median(samples), unit);
    if samples.len() < 2 {
        return middle;
    }
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{middle} [{}-{}]", short(least, unit), short(greatest, unit))
}

/// Three digits, with `k` or `M`.
pub fn short(number: f64, unit: Unit) -> String {
    match number.abs() {
        n if unit == Unit::Bytes && n >= 1e6 => format!("{} MiB", digits(number / f64::from(1 << 20))),
        n if n >= 1e6 => format!("{} M", digits(number / 1e6)),
        n if n >= 1e4 => format!("{} k", digits(number / 1e3)),
        _ => digits(number),
    }
}

/// Three digits.
pub fn digits(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 8.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(short(12_345_678.0, Unit::PerSecond), "12.3 M");
        assert_eq!(short(9_876.0, Unit::PerSecond), "9876");
        assert_eq!(short(1.234, Unit::Microseconds), "1.23");
        assert_eq!(short(3.0 * 1024.0 * 1024.0, Unit::Bytes), "3.00 MiB");
    }
}
