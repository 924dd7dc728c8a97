//! A plot a law: both axes logarithmic, so that a constant cost is level and a linear one rises by
//! a decade a decade.

use std::fmt::Write;

use super::Curve;
use super::report::magnitude;
use crate::report::numbers::median;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const COLUMNS: usize = 2;
/// The axes inside a plot.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 440.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 210.0;

pub fn plots(curves: &[Curve]) -> String {
    let mut body = String::new();
    for (number, curve) in curves.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        let (x, y) = (column as f64 * WIDTH, row as f64 * HEIGHT);
        let _ = writeln!(body, r#"<g transform="translate({x},{y})">"#);
        plot(curve, &mut body);
        body.push_str("</g>\n");
    }
    let (width, height) = (COLUMNS as f64 * WIDTH, curves.len().div_ceil(COLUMNS) as f64 * HEIGHT);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// An axis: the decades that its values are in, and the pixels.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs = values.filter(|value| *value > 0.0).map(f64::log10);
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), log| (log.min(low), log.max(high)));
        if low > high {
            return Axis { low: 0.0, high: 1.0, from, to };
        }
        let (low, high) = (low.floor(), high.ceil());
        Axis { low, high: if high > low { high } else { low + 1.0 }, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low as i32..=self.high as i32).map(|decade| 10f64.powi(decade))
    }
}

fn plot(curve: &Curve, body: &mut String) {
    let law = &curve.law;
    let points: Vec<(f64, &[f64])> =
        curve.points.iter().filter(|(_, y)| !y.is_empty()).map(|(x, y)| (*x as f64, y.as_slice())).collect();
    let x = Axis::of(points.iter().map(|(x, _)| *x), LEFT, RIGHT);
    let y = Axis::of(points.iter().flat_map(|(_, samples)| samples.iter().copied()), BOTTOM, TOP);
    let _ = writeln!(body, r#"<text x="8" y="16" font-weight="bold">{}: {}</text>"#, law.key, law.title);
    let (color, text) = match curve.verdict() {
        Some(verdict) => ("#c0392b", verdict),
        None => ("#2d6a4f", String::new()),
    };
    let _ = writeln!(body, r#"<text x="8" y="32" fill="{color}">{}</text>"#, escaped(&text));
    let _ = writeln!(body, r#"<text x="{RIGHT}" y="245" text-anchor="end">{}</text>"#, law.x);
    let _ = writeln!(body, r#"<text x="8" y="{}">{}</text>"#, TOP - 4.0, law.y);
    for decade in y.decades() {
        let at = y.at(decade);
        let label = magnitude(decade);
        let _ = writeln!(
            body,
            r##"<line x1="{LEFT}" y1="{at:.1}" x2="{RIGHT}" y2="{at:.1}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{label}</text>"##,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (value, _) in &points {
        let at = x.at(*value);
        let label = magnitude(*value);
        let _ = writeln!(
            body,
            r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{BOTTOM}" stroke="#eeeeee"/><text x="{at:.1}" y="{}" text-anchor="middle">{label}</text>"##,
            BOTTOM + 15.0
        );
    }
    let line: Vec<String> = points
        .iter()
        .map(|(size, samples)| format!("{:.1},{:.1}", x.at(*size), y.at(median(samples))))
        .collect();
    let _ = writeln!(
        body,
        r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"/>"#,
        line.join(" ")
    );
    for (size, samples) in &points {
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = samples.iter().copied().fold(0.0, f64::max);
        let (at, middle) = (x.at(*size), y.at(median(samples)));
        let _ = writeln!(
            body,
            r#"<line x1="{at:.1}" y1="{:.1}" x2="{at:.1}" y2="{:.1}" stroke="{color}"/><circle cx="{at:.1}" cy="{middle:.1}" r="3" fill="{color}"/>"#,
            y.at(least),
            y.at(greatest)
        );
    }
}

/// A message as the text of an element.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
