//! How the costs of Quipu grow: each law is one quantity against one size, and says which shape it
//! should have. A law that has another shape is flagged.

mod laws;
mod memory;
mod opening;
mod plot;
mod rates;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::laws::Shape;
pub use self::laws::{Law, laws};
pub use self::opening::until_killed;
use crate::POINT;
use crate::args::Args;
use crate::runs::Scratch;
use crate::runs::child::{self, Until};

/// A process that takes longer is killed, and its point is missing.
const PATIENCE: Duration = Duration::from_secs(300);

/// What one process measures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    law: String,
    x: u64,
    quick: bool,
    dir: PathBuf,
}

/// The measured value, in the unit of the law.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    y: f64,
}

/// The samples of a law: for each size, one a repetition.
pub struct Curve {
    law: Law,
    points: Vec<(u64, Vec<f64>)>,
    failed: Vec<String>,
}

/// Does the work of a process.
pub fn point(point: &Point) -> Measured {
    let law = laws().into_iter().find(|law| law.key == point.law).expect("one of the laws");
    Measured { y: (law.measure)(point) }
}

/// Measures all laws that are wanted, and writes the table, the numbers and the plots. Returns
/// whether no law was flagged.
pub fn run(args: &Args) -> bool {
    let laws: Vec<Law> = laws().into_iter().filter(|law| args.wants(law.key)).collect();
    let points: usize = laws.iter().map(|law| law.sizes(args.quick).len()).sum();
    let seconds = points as f64 * args.repeat as f64 * if args.quick { 0.7 } else { 5.0 };
    eprintln!(
        "{} laws, {points} points, {} repetitions: about {:.0} min",
        laws.len(),
        args.repeat,
        (seconds / 60.0).ceil()
    );
    let mut curves: Vec<Curve> = Vec::new();
    for law in laws {
        let points = law.sizes(args.quick).iter().map(|x| (*x, Vec::new())).collect();
        curves.push(Curve { law, points, failed: Vec::new() });
    }
    let start = Instant::now();
    for repetition in 0..args.repeat {
        for at in 0..curves.len() {
            eprintln!(
                "{} s, {} of {}, {}",
                start.elapsed().as_secs(),
                repetition + 1,
                args.repeat,
                curves[at].law.key
            );
            curves[at].measure(args);
            report::save(args, &curves);
        }
    }
    report::print(args, &curves);
    curves.iter().all(|curve| curve.verdict().is_none())
}

impl Curve {
    fn measure(&mut self, args: &Args) {
        for (x, samples) in &mut self.points {
            let scratch = Scratch::new(&args.dir);
            let dir = scratch.0.join("log");
            let point = Point { law: self.law.key.to_owned(), x: *x, quick: args.quick, dir };
            match child::run::<_, Measured>(POINT, &point, Until::End, PATIENCE) {
                Ok(measured) => samples.push(measured.y),
                Err(message) => self.failed.push(format!("{} at {x}: {message}", self.law.key)),
            }
        }
    }

    /// What is wrong with its shape, if anything is.
    fn verdict(&self) -> Option<String> {
        let measured = self.points.iter().filter(|(_, samples)| !samples.is_empty());
        let points: Vec<_> =
            measured.map(|(x, samples)| (*x as f64, crate::report::numbers::median(samples))).collect();
        self.failed.first().cloned().or_else(|| self.law.shape.verdict(&points, self.law.more_is_better))
    }
}

impl Shape {
    /// What is wrong with these points, in the order of their sizes.
    fn verdict(self, points: &[(f64, f64)], more_is_better: bool) -> Option<String> {
        let cost = |y: f64| if more_is_better { 1.0 / y } else { y };
        match self {
            Shape::Flat(within) | Shape::NeverWorse(within) => {
                let mut least: Option<f64> = None;
                let mut worst: Option<(f64, f64)> = None;
                for (x, y) in points {
                    let ratio = cost(*y) / least.unwrap_or(cost(*y));
                    if ratio > within && worst.is_none_or(|(_, worst)| ratio > worst) {
                        worst = Some((*x, ratio));
                    }
                    least = Some(match (self, least) {
                        // Flat: compared with the first. Never worse: with the best so far.
                        (Shape::Flat(_), Some(first)) => first,
                        (_, Some(least)) => least.min(cost(*y)),
                        (_, None) => cost(*y),
                    });
                }
                worst.map(|(x, ratio)| format!("costs {ratio:.1} times as much at {x} (limit {within})"))
            }
            Shape::Each(within) => {
                let slope = |pair: &[(f64, f64)]| (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0);
                let slopes: Vec<f64> = points.windows(2).map(slope).collect();
                let (last, before) = (slopes.last()?, slopes.iter().rev().nth(1)?);
                (*last > within * *before && *before > 0.0).then(|| {
                    format!("each costs {:.1} times as much at the end (limit {within})", last / before)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_grows_is_flagged_where_it_should_be_flat() {
        let flat = Shape::Flat(1.5);
        assert_eq!(flat.verdict(&[(1.0, 10.0), (10.0, 12.0), (100.0, 14.0)], false), None);
        assert!(flat.verdict(&[(1.0, 10.0), (10.0, 12.0), (100.0, 16.0)], false).is_some());
        // A rate that falls is a cost that grows.
        assert!(flat.verdict(&[(1.0, 16.0), (10.0, 10.0)], true).is_some());
        assert_eq!(flat.verdict(&[(1.0, 10.0), (10.0, 16.0)], true), None);
    }

    #[test]
    fn a_rate_that_falls_below_its_best_is_flagged() {
        let shape = Shape::NeverWorse(1.25);
        assert_eq!(shape.verdict(&[(1.0, 10.0), (2.0, 20.0), (4.0, 18.0)], true), None);
        assert!(shape.verdict(&[(1.0, 10.0), (2.0, 20.0), (4.0, 12.0)], true).is_some());
    }

    #[test]
    fn a_sum_that_grows_faster_than_its_size_is_flagged() {
        let each = Shape::Each(1.5);
        assert_eq!(each.verdict(&[(1.0, 100.0), (10.0, 109.0), (100.0, 199.0)], false), None);
        assert!(each.verdict(&[(1.0, 100.0), (10.0, 109.0), (100.0, 1_090.0)], false).is_some());
    }
}
