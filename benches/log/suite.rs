//! Compares two ways in turns, several times. The result is the median of the ratios of neighbours.

use std::io::Write;
use std::process::ExitCode;

use super::args::{Args, Sizes};
use super::records::RecordSet;
use super::scratch::Scratch;

/// One quantity that a run returns.
pub(crate) struct Metric {
    label: &'static str,
    unit: &'static str,
    /// Rates are better when greater, times when smaller.
    rate: bool,
}

impl Metric {
    pub(crate) const fn rate(unit: &'static str) -> Self {
        Metric { label: "", unit, rate: true }
    }

    pub(crate) const fn time(label: &'static str, unit: &'static str) -> Self {
        Metric { label, unit, rate: false }
    }
}

/// The metrics of a run that returns operations and latencies.
pub(crate) const RATE_AND_LATENCY: &[Metric] =
    &[Metric::rate("k op/s"), Metric::time(" p50", "us"), Metric::time(" p99", "us")];

/// One way to do the work. A run returns one number per metric.
pub(crate) struct Way<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Vec<f64> + 'a>,
}

/// A way of this name.
pub(crate) fn way<'a>(name: &'static str, run: impl FnMut() -> Vec<f64> + 'a) -> Way<'a> {
    Way { name, run: Box::new(run) }
}

/// Runs the requested comparisons and prints one line for each.
pub(crate) struct Suite<'a> {
    args: &'a Args,
    sets: Vec<RecordSet>,
    printed: usize,
}

impl<'a> Suite<'a> {
    pub(crate) fn new(args: &'a Args) -> Self {
        let sets = if args.list { Vec::new() } else { RecordSet::all(args.sizes().records_bytes) };
        if !args.list {
            let cores = std::thread::available_parallelism().map_or(0, usize::from);
            println!("{cores} cores; files below {}", Scratch::root().display());
            println!("{} repetitions, in turns: median [least-greatest]", args.repeat);
            println!(
                "share: how much of the limit is reached (of a time: limit / time), median of the repetitions' own\n"
            );
            for set in &sets {
                println!(
                    "records of {:>9}: {:>7} distinct, LZ4 shrinks a batch {:.2}x",
                    set.name,
                    set.len(),
                    set.ratio()
                );
            }
        }
        Suite { args, sets, printed: 0 }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        self.args.sizes()
    }

    /// Notes that a benchmark has printed a table of its own.
    pub(crate) fn has_printed(&mut self) {
        self.printed += 1;
    }

    pub(crate) fn repetitions(&self) -> usize {
        self.args.repeat
    }

    /// The kinds of records, the generated ones first.
    pub(crate) fn sets(&self) -> Vec<RecordSet> {
        self.sets.clone()
    }

    /// Records of about 100 bytes.
    pub(crate) fn small(&self) -> RecordSet {
        self.sets.first().cloned().unwrap_or_default()
    }

    /// Whether a comparison of this name was asked for. If names are only to be listed, it is
    /// listed.
    pub(crate) fn wants(&mut self, name: &str) -> bool {
        let wanted =
            self.args.filters.is_empty() || self.args.filters.iter().any(|part| name.contains(part.as_str()));
        if wanted && self.args.list {
            println!("{name}");
            self.printed += 1;
        }
        wanted && !self.args.list
    }

    /// Whether a comparison of this name was asked for, once [`wants`](Suite::wants) has listed it.
    pub(crate) fn is_wanted(&self, name: &str) -> bool {
        self.args.filters.is_empty() || self.args.filters.iter().any(|part| name.contains(part.as_str()))
    }

    /// Measures each of ours and each limit once a repetition, and prints each of ours against each
    /// limit.
    pub(crate) fn compare(
        &mut self,
        name: &str,
        metrics: &[Metric],
        ours: Vec<Way<'_>>,
        limits: Vec<Way<'_>>,
    ) {
        let own = ours.len();
        let mut ways: Vec<Way<'_>> = ours.into_iter().chain(limits).collect();
        let mut samples: Vec<Vec<Vec<f64>>> = ways.iter().map(|_| Vec::new()).collect();
        for repetition in 0..self.args.repeat {
            let mut order: Vec<usize> = (0..ways.len()).collect();
            // No way is always first, or always after the same other one.
            let shift = repetition % order.len().max(1);
            order.rotate_left(shift);
            for at in order {
                let sample = (ways[at].run)();
                assert_eq!(sample.len(), metrics.len(), "{name}: one number a metric");
                samples[at].push(sample);
            }
        }
        self.head();
        for (at, metric) in metrics.iter().enumerate() {
            let column = |way: usize| -> Vec<f64> { samples[way].iter().map(|sample| sample[at]).collect() };
            for one in 0..own {
                for limit in own..ways.len() {
                    let what = format!("{name}: {}{}", ways[one].name, metric.label);
                    line(&what, metric, &column(one), ways[limit].name, &column(limit));
                }
            }
        }
    }

    fn head(&mut self) {
        if self.printed == 0 {
            println!("\n{:<54} {:>22} {:>22} {:>6}  {:<8} limit", "", "quipu", "limit", "share", "unit");
        }
        self.printed += 1;
    }

    pub(crate) fn finish(self) -> ExitCode {
        if self.printed == 0 {
            eprintln!("no benchmark has a name that contains {:?}; try --list", self.args.filters);
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

fn line(what: &str, metric: &Metric, ours: &[f64], limit_name: &str, limit: &[f64]) {
    let shares: Vec<f64> = ours
        .iter()
        .zip(limit)
        .map(|(ours, limit)| if metric.rate { ours / limit } else { limit / ours })
        .collect();
    let share = format!("{:.0}%", 100.0 * median(&shares));
    println!(
        "{what:<54} {:>22} {:>22} {share:>6}  {:<8} {limit_name}",
        spread(ours),
        spread(limit),
        metric.unit
    );
    // Show the line at once.
    let _ = std::io::stdout().flush();
}

fn spread(samples: &[f64]) -> String {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = samples.iter().copied().fold(0.0, f64::max);
    format!("{} [{}-{}]", short(median(samples)), short(least), short(greatest))
}

/// Three digits, or all before the point.
fn short(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => f64::NAN,
        0 => f64::midpoint(sorted[upper - 1], sorted[upper]),
        _ => sorted[upper],
    }
}

/// Latencies of one run, in nanoseconds.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn push(&mut self, latency: std::time::Duration) {
        self.0.push(latency.as_nanos() as u64);
    }

    pub(crate) fn extend(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// These quantiles, in microseconds: of 0.99, the least latency that 99% do not exceed.
    pub(crate) fn quantiles(mut self, quantiles: &[f64]) -> Vec<f64> {
        self.0.sort_unstable();
        let at = |quantile: f64| (self.0.len() as f64 * quantile).ceil() as usize;
        quantiles
            .iter()
            .map(|q| self.0.get(at(*q).saturating_sub(1)).map_or(f64::NAN, |ns| *ns as f64 / 1e3))
            .collect()
    }

    /// Thousands of operations a second in all, then p50 and p99, for [`RATE_AND_LATENCY`].
    pub(crate) fn rate_and_quantiles(self, elapsed: std::time::Duration) -> Vec<f64> {
        let rate = self.len() as f64 / elapsed.as_secs_f64() / 1e3;
        [vec![rate], self.quantiles(&[0.5, 0.99])].concat()
    }
}
