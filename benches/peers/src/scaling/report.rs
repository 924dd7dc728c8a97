//! The laws as a table, as JSON, and as plots.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use super::{Curve, plot};
use crate::args::Args;
use crate::report::markdown::machine;
use crate::report::numbers::{digits, median};
use crate::report::put;

const MARKDOWN: &str = "scaling.md";
const JSON: &str = "scaling.json";
const SVG: &str = "scaling.svg";

pub fn save(args: &Args, curves: &[Curve]) {
    put(&args.out, MARKDOWN, &table(args, curves));
    put(&args.out, JSON, &json(args, curves));
    put(&args.out, SVG, &plot::plots(curves));
}

pub fn print(args: &Args, curves: &[Curve]) {
    let _ = writeln!(std::io::stdout(), "{}", table(args, curves));
    for name in [MARKDOWN, JSON, SVG] {
        eprintln!("wrote {}", args.out.join(name).display());
    }
}

fn table(args: &Args, curves: &[Curve]) -> String {
    let mut text = String::from("# How the costs of Quipu grow\n\n");
    let _ = writeln!(
        text,
        "{}. Medians of {}; each point a process of its own.\n",
        machine(&args.dir),
        args.repeat
    );
    if args.quick {
        text.push_str("Small sizes (`--quick`): these figures mean nothing.\n\n");
    }
    text.push_str("| law | against | at: figure | shape |\n|---|---|---|---|\n");
    for curve in curves {
        let law = &curve.law;
        let measured = curve.points.iter().filter(|(_, samples)| !samples.is_empty());
        let points: Vec<String> =
            measured.map(|(x, samples)| format!("{x}: {}", magnitude(median(samples)))).collect();
        let _ = writeln!(
            text,
            "| {}: {}, {} | {} | {} | {} |",
            law.key,
            law.title,
            law.y,
            law.x,
            points.join("; "),
            match curve.verdict() {
                Some(verdict) => format!("**{verdict}**"),
                None if points.len() < 2 => "too few points".to_owned(),
                None => "as it should be".to_owned(),
            },
        );
    }
    text
}

/// Three digits, with `k` or `M`.
pub fn magnitude(number: f64) -> String {
    match number.abs() {
        n if n >= 1e6 => format!("{} M", digits(number / 1e6)),
        n if n >= 1e4 => format!("{} k", digits(number / 1e3)),
        _ => digits(number),
    }
}

#[derive(Serialize)]
struct Json<'a> {
    machine: String,
    repetitions: usize,
    quick: bool,
    laws: Vec<JsonLaw<'a>>,
}

#[derive(Serialize)]
struct JsonLaw<'a> {
    law: &'a str,
    title: &'a str,
    x: &'a str,
    y: &'a str,
    shape: String,
    /// None if it has that shape.
    flag: Option<String>,
    /// For each size: a sample a repetition.
    points: &'a [(u64, Vec<f64>)],
    failed: &'a [String],
}

fn json<'a>(args: &Args, curves: &'a [Curve]) -> String {
    let law = |curve: &'a Curve| JsonLaw {
        law: curve.law.key,
        title: curve.law.title,
        x: curve.law.x,
        y: curve.law.y,
        shape: format!("{:?}", curve.law.shape),
        flag: curve.verdict(),
        points: &curve.points,
        failed: &curve.failed,
    };
    let laws = curves.iter().map(law).collect();
    let all = Json { machine: machine(&args.dir), repetitions: args.repeat, quick: args.quick, laws };
    serde_json::to_string_pretty(&all).expect("numbers")
}
