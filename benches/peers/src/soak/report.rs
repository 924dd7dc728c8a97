//! The phases of a soak as a table, as JSON, and as bars.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;

use super::{PACE, Phase, VALUE_BYTES};
use crate::args::Args;
use crate::plan::Unit;
use crate::report::markdown::machine;
use crate::report::numbers::{median, short};
use crate::report::put;

const MARKDOWN: &str = "soak.md";
const JSON: &str = "soak.json";
const SVG: &str = "soak.svg";

pub fn save(args: &Args, phases: &[Phase]) {
    put(&args.out, MARKDOWN, &table(args, phases));
    put(&args.out, JSON, &json(args, phases));
    put(&args.out, SVG, &bars(phases));
}

pub fn print(args: &Args, phases: &[Phase]) {
    let _ = writeln!(std::io::stdout(), "{}", table(args, phases));
    for name in [MARKDOWN, JSON, SVG] {
        eprintln!("wrote {}", args.out.join(name).display());
    }
}

fn name(phase: &Phase) -> &'static str {
    if phase.with_slow_reader { "slow reader" } else { "alone" }
}

fn table(args: &Args, phases: &[Phase]) -> String {
    let mut text = String::from("# A soak with compaction and retention\n\n");
    let _ = writeln!(
        text,
        "{}. {PACE:.0} appends a second of {VALUE_BYTES} B, each in the page cache before the next; latencies in µs from \
         the time at which each was due. A reader follows; every second phase has another one that sleeps after each \
         poll. Every event was seen in order, and every key has its last record.\n",
        machine(&args.dir)
    );
    if args.quick {
        text.push_str("A short one (`--quick`): these figures mean nothing.\n\n");
    }
    text.push_str(
        "| phase | p50 | p99 | p99.9 | max | /s | on disk | memory | compactions | deleted up to | lag |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let micros = |value| short(value, Unit::Microseconds);
    for (number, phase) in phases.iter().enumerate() {
        let _ = writeln!(
            text,
            "| {}, {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            number + 1,
            name(phase),
            micros(phase.p50),
            micros(phase.p99),
            micros(phase.p999),
            micros(phase.max),
            short(phase.per_second, Unit::PerSecond),
            short(phase.disk, Unit::Bytes),
            short(phase.memory, Unit::Bytes),
            phase.compactions,
            phase.deleted,
            phase.lag,
        );
    }
    let _ = writeln!(
        text,
        "\nMedian of the phases' p99.9: {} alone, {} with a slow reader.",
        micros(of(phases, false)),
        micros(of(phases, true))
    );
    text
}

/// The median p99.9 of the phases with or without a slow reader. The first phase warms up.
fn of(phases: &[Phase], with_slow_reader: bool) -> f64 {
    let phases = phases.iter().skip(1).filter(|phase| phase.with_slow_reader == with_slow_reader);
    median(&phases.map(|phase| phase.p999).collect::<Vec<_>>())
}

fn json(args: &Args, phases: &[Phase]) -> String {
    let phase = |phase: &Phase| {
        json!({
            "slow_reader": phase.with_slow_reader,
            "p50": phase.p50,
            "p99": phase.p99,
            "p999": phase.p999,
            "max": phase.max,
            "per_second": phase.per_second,
            "disk": phase.disk,
            "memory": phase.memory,
            "compactions": phase.compactions,
            "deleted": phase.deleted,
            "lag": phase.lag,
        })
    };
    let phases: Vec<_> = phases.iter().map(phase).collect();
    let all = json!({ "machine": machine(&args.dir), "quick": args.quick, "phases": phases });
    serde_json::to_string_pretty(&all).expect("numbers")
}

/// A bar a phase: p99.9, on a logarithmic scale from 1 µs to 1 s.
fn bars(phases: &[Phase]) -> String {
    let mut body = String::new();
    for (number, phase) in phases.iter().enumerate() {
        let y = 20 + 18 * number;
        let width = phase.p999.max(1.0).log10() / 6.0 * 500.0;
        let color = if phase.with_slow_reader { "#c0392b" } else { "#5b7fa6" };
        let _ = writeln!(
            body,
            r#"<text x="100" y="{}" text-anchor="end">{}</text><rect x="106" y="{y}" width="{width:.1}" height="13" fill="{color}"/><text x="{:.1}" y="{}">p99.9 {} µs</text>"#,
            y + 11,
            name(phase),
            112.0 + width,
            y + 11,
            short(phase.p999, Unit::Microseconds),
        );
    }
    let height = 30 + 18 * phases.len();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
