//! The table in Markdown, the same figures in JSON, and bars in SVG.

mod markdown;
mod numbers;
mod svg;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::args::Args;
use crate::contenders::{FLOOR, QUIPU};
use crate::plan::{self, Row};
use crate::runs::{self, Measured, Results};

/// A row with what was measured.
pub struct Filled<'a> {
    pub row: Row,
    /// The contenders that have the measurement, best first, the base before all.
    pub cells: Vec<&'a Measured>,
}

impl Filled<'_> {
    /// The samples of a contender, one a repetition.
    pub fn of(&self, name: &str) -> Option<&[f64]> {
        self.cells.iter().find(|cell| cell.contender == name).map(|cell| self.samples(cell))
    }

    pub fn samples<'b>(&self, cell: &'b Measured) -> &'b [f64] {
        cell.values.get(self.row.value).map_or(&[], Vec::as_slice)
    }

    pub fn best_peer(&self) -> Option<&Measured> {
        if self.row.base != FLOOR {
            return None;
        }
        self.cells.iter().copied().find(|cell| ![FLOOR, QUIPU].contains(&cell.contender))
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

pub fn write(args: &Args, results: &Results) {
    let filled: Vec<Filled> = plan::rows()
        .into_iter()
        .filter(|row| args.wants(&row.key))
        .filter_map(|row| {
            let (_, measured) = results.jobs.iter().find(|(job, _)| *job == row.job)?;
            let mut cells: Vec<&Measured> = measured
                .iter()
                .filter(|cell| runs::is_in(&row, cell.contender) && cell.values.contains_key(row.value))
                .collect();
            let sign = if row.unit.more_is_better() { -1.0 } else { 1.0 };
            let order = |cell: &Measured| sign * numbers::median(&cell.values[row.value]);
            cells.sort_by(|a, b| order(a).total_cmp(&order(b)));
            cells.sort_by_key(|cell| cell.contender != row.base);
            Some(Filled { row, cells })
        })
        .collect();
    let table = markdown::table(args, &filled, &results.failed);
    println!("{table}");
    let save = |name: &str, text: &str| {
        let path = args.out.join(name);
        match std::fs::create_dir_all(&args.out).and_then(|()| std::fs::write(&path, text)) {
            Ok(()) => eprintln!("wrote {}", path.display()),
            Err(e) => eprintln!("{}: {e}", path.display()),
        }
    };
    save("peers.md", &table);
    save("peers.json", &json(args, &filled, &results.failed));
    save("peers.svg", &svg::bars(&filled));
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
    /// By contender, then by measurement: a sample a repetition.
    samples: BTreeMap<&'a str, &'a BTreeMap<String, Vec<f64>>>,
}

fn json(args: &Args, filled: &[Filled<'_>], failed: &[String]) -> String {
    let rows = filled
        .iter()
        .map(|filled| JsonRow {
            row: &filled.row.key,
            title: &filled.row.title,
            value: filled.row.value,
            unit: filled.row.unit.name(),
            samples: filled.cells.iter().map(|cell| (cell.contender, &cell.values)).collect(),
        })
        .collect();
    let all =
        Json { machine: markdown::machine(args), repetitions: args.repeat, quick: args.quick, rows, failed };
    serde_json::to_string_pretty(&all).expect("numbers")
}
