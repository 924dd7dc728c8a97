//! The table in Markdown, the same figures in JSON, and bars in SVG.

pub mod markdown;
pub mod numbers;
mod svg;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::args::Args;
use crate::contenders::{FLOOR, QUIPU};
use crate::plan::{self, Row};
use crate::runs::{self, BOUND, Measured, Results};

const MARKDOWN: &str = "peers.md";
const JSON: &str = "peers.json";
const SVG: &str = "peers.svg";

/// A row with what was measured.
pub struct Filled<'a> {
    pub row: Row,
    /// The contenders that have the measurement, best first, the base before all.
    pub cells: Vec<&'a Measured>,
    /// Those that could not be measured.
    pub failed: Vec<&'a Measured>,
    /// The slowest part that no library can leave out: its name and its samples.
    pub bound: Option<(&'static str, &'a [f64])>,
    /// All parts that were measured.
    parts: Option<&'a Measured>,
}

impl<'a> Filled<'a> {
    fn new(row: Row, measured: &'a [Measured]) -> Self {
        let is_in = |cell: &&Measured| runs::is_in(&row, cell.name);
        let (failed, mut cells): (Vec<_>, Vec<_>) =
            measured.iter().filter(is_in).partition(|cell| !cell.values.contains_key(row.value));
        let failed = failed.into_iter().filter(|cell| cell.failed.is_some()).collect();
        let sign = if row.unit.more_is_better() { -1.0 } else { 1.0 };
        let order = |samples: &[f64]| sign * numbers::median(samples);
        cells.sort_by(|a, b| order(&a.values[row.value]).total_cmp(&order(&b.values[row.value])));
        cells.sort_by_key(|cell| cell.name != row.base);
        let parts = measured.iter().find(|cell| cell.name == BOUND);
        let part = |name: &&'static str| Some((*name, parts?.values.get(*name)?.as_slice()));
        let bound = row.bounds.iter().filter_map(part).max_by(|a, b| order(a.1).total_cmp(&order(b.1)));
        Filled { row, cells, failed, bound, parts }
    }

    /// The samples of a contender, one a repetition.
    pub fn of(&self, name: &str) -> Option<&[f64]> {
        self.cells.iter().find(|cell| cell.name == name).map(|cell| self.samples(cell))
    }

    pub fn samples<'b>(&self, cell: &'b Measured) -> &'b [f64] {
        cell.values.get(self.row.value).map_or(&[], Vec::as_slice)
    }

    pub fn best_peer(&self) -> Option<&Measured> {
        if self.row.base != FLOOR {
            return None;
        }
        self.cells.iter().copied().find(|cell| ![FLOOR, QUIPU].contains(&cell.name))
    }

    /// How much of the speed of `of` the samples reach, pair by pair, median: 1 is the same.
    pub fn share(&self, samples: &[f64], of: &[f64]) -> f64 {
        let more = self.row.unit.more_is_better();
        let shares: Vec<f64> = if samples.len() == of.len() {
            samples.iter().zip(of).map(|(a, b)| if more { a / b } else { b / a }).collect()
        } else {
            let (a, b) = (numbers::median(samples), numbers::median(of));
            vec![if more { a / b } else { b / a }]
        };
        numbers::median(&shares)
    }
}

/// Prints the table. A reader of the output that has gone does not matter: the files have it, too.
pub fn print(args: &Args, results: &Results) {
    let _ = writeln!(std::io::stdout(), "{}", markdown::table(args, &filled(args, results), results));
    for name in [MARKDOWN, JSON, SVG] {
        eprintln!("wrote {}", args.out.join(name).display());
    }
}

/// Writes the three files, with the results so far.
pub fn save(args: &Args, results: &Results) {
    let filled = filled(args, results);
    put(&args.out, MARKDOWN, &markdown::table(args, &filled, results));
    put(&args.out, JSON, &json(args, &filled, results));
    put(&args.out, SVG, &svg::bars(&filled));
}

/// Replaces a file, so that it is whole at any time.
pub fn put(dir: &Path, name: &str, text: &str) {
    let (path, next) = (dir.join(name), dir.join(format!("{name}.next")));
    let write = || {
        std::fs::create_dir_all(dir)?;
        std::fs::write(&next, text)?;
        std::fs::rename(&next, &path)
    };
    if let Err(e) = write() {
        eprintln!("{}: {e}", path.display());
    }
}

fn filled<'a>(args: &Args, results: &'a Results) -> Vec<Filled<'a>> {
    let rows = plan::rows().into_iter().filter(|row| args.wants(&row.key));
    rows.filter_map(|row| {
        let (_, measured) = results.jobs.iter().find(|(job, _)| *job == row.job)?;
        Some(Filled::new(row, measured))
    })
    .collect()
}

#[derive(Serialize)]
struct Json<'a> {
    machine: String,
    repetitions: usize,
    quick: bool,
    rows: Vec<JsonRow<'a>>,
    failed: &'a [String],
}

#[derive(Serialize)]
struct JsonRow<'a> {
    row: &'a str,
    title: &'a str,
    value: &'a str,
    unit: &'a str,
    bound: Option<&'a str>,
    /// By contender, then by measurement: a sample a repetition.
    samples: BTreeMap<&'a str, &'a BTreeMap<String, Vec<f64>>>,
}

fn json(args: &Args, filled: &[Filled<'_>], results: &Results) -> String {
    let rows = filled
        .iter()
        .map(|filled| JsonRow {
            row: &filled.row.key,
            title: &filled.row.title,
            value: filled.row.value,
            unit: filled.row.unit.name(),
            bound: filled.bound.map(|(name, _)| name),
            samples: filled
                .cells
                .iter()
                .copied()
                .chain(filled.parts)
                .map(|cell| (cell.name, &cell.values))
                .collect(),
        })
        .collect();
    let all = Json {
        machine: markdown::machine(&args.dir),
        repetitions: results.repetitions,
        quick: args.quick,
        rows,
        failed: &results.failed,
    };
    serde_json::to_string_pretty(&all).expect("numbers")
}
