//! Bars: how much of the floor's speed each contender reaches, a block of bars a row.

use std::fmt::Write;

use super::Filled;
use super::numbers::spread;
use crate::contenders::{FLOOR, QUIPU};

const WIDTH: u32 = 960;
const NAMES: u32 = 160;
/// The width of a bar that is as fast as the floor.
const FULL: f64 = 320.0;
const LONGEST: f64 = 2.0;
const LINE: u32 = 16;

pub fn bars(filled: &[Filled<'_>]) -> String {
    let mut body = String::new();
    let mut y = LINE;
    for filled in filled.iter().filter(|filled| !filled.cells.is_empty()) {
        let title = format!("{}: {} ({})", filled.row.key, filled.row.title, filled.row.unit.name());
        let _ = writeln!(body, r#"<text x="4" y="{y}" font-weight="bold">{title}</text>"#);
        let base = filled.of(filled.row.base).or_else(|| filled.of(filled.row.ours));
        for cell in &filled.cells {
            y += LINE;
            let samples = filled.samples(cell);
            let share = base.map_or(1.0, |base| filled.share(samples, base));
            let color = match cell.name {
                FLOOR => "#999999",
                QUIPU => "#c0392b",
                _ => "#5b7fa6",
            };
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{y}" text-anchor="end">{}</text><rect x="{NAMES}" y="{}" width="{:.1}" height="12" fill="{color}"/><text x="{:.1}" y="{y}">{} ({share:.2})</text>"#,
                NAMES - 6,
                cell.name,
                y - 11,
                share.min(LONGEST) * FULL,
                f64::from(NAMES) + share.min(LONGEST) * FULL + 5.0,
                spread(samples, filled.row.unit),
            );
        }
        y += 2 * LINE;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
