//! Plots as SVG, in the colors of the page's style sheet.

use std::fmt::Write;

use super::{Partition, Topic};
use crate::table::bytes;
use crate::time::iso;

/// Writing to a string does not fail.
macro_rules! put {
    ($to:expr, $($part:tt)*) => { let _ = write!($to, $($part)*); };
}

/// Columns of offsets by time; each has its number as a tooltip.
pub(super) fn by_time(topic: &Topic, (from, to): (i64, i64)) -> String {
    const HEIGHT: f64 = 80.0;
    let most = topic.by_time.iter().copied().max().unwrap_or(0).max(1);
    let width = 600.0 / topic.by_time.len().max(1) as f64;
    let mut svg =
        String::from(r#"<svg viewBox="0 0 600 81" preserveAspectRatio="none" class="chart" role="img">"#);
    for (column, count) in topic.by_time.iter().enumerate() {
        // A column that is there is seen, however small.
        let height = (*count as f64 / most as f64 * HEIGHT).max(if *count > 0 { 1.0 } else { 0.0 });
        let (x, y) = (column as f64 * width, HEIGHT - height);
        let at = i128::from(from)
            + (i128::from(to) - i128::from(from)) * column as i128 / topic.by_time.len() as i128;
        put!(
            svg,
            r#"<rect class="bar" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}">"#,
            width - 1.0
        );
        put!(svg, "<title>from {}: {count}</title></rect>", iso(at as i64));
    }
    put!(svg, r#"<line class="axis" x1="0" y1="80.5" x2="600" y2="80.5"/>"#);
    svg.push_str("</svg>");
    svg
}

/// The segments of a partition side by side, as wide as they have bytes of the widest partition.
pub(super) fn segments(partition: &Partition, widest: u64) -> String {
    let mut svg =
        String::from(r#"<svg viewBox="0 0 600 14" preserveAspectRatio="none" class="row" role="img">"#);
    let mut x = 0.0;
    for segment in &partition.segments {
        let width = segment.bytes as f64 / widest.max(1) as f64 * 600.0;
        let state = if segment.is_sealed { "sealed" } else { "active" };
        put!(
            svg,
            r#"<rect class="bar {state}" x="{x:.2}" y="1" width="{:.2}" height="12">"#,
            (width - 1.0).max(0.5)
        );
        put!(
            svg,
            "<title>from offset {}: {}, {state}</title></rect>",
            segment.base_offset,
            bytes(segment.bytes)
        );
        x += width;
    }
    svg.push_str("</svg>");
    svg
}

/// A bar beside a number.
pub(super) fn share(part: u64, of: u64) -> String {
    let width = part as f64 / of.max(1) as f64 * 100.0;
    format!(
        r#"<svg viewBox="0 0 100 8" class="share" role="img"><rect class="bar" width="{width:.1}" height="8"/></svg>"#
    )
}
