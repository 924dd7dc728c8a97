//! Latencies of one run, and calls at a fixed pace.

use std::time::{Duration, Instant};

use crate::workloads::Outcome;

#[derive(Default)]
pub struct Latencies(Vec<u64>);

/// The quantiles of an outcome: the end of its name, and the share.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency.as_nanos() as u64);
    }

    pub fn extend(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In microseconds: the least latency that this share of all does not exceed.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).map_or(f64::NAN, |nanoseconds| *nanoseconds as f64 / 1e3)
    }

    /// Puts p50, p99, p99.9 and the greatest into an outcome, in microseconds.
    pub fn put(&mut self, name: &str, outcome: &mut Outcome) {
        for (quantile, share) in QUANTILES {
            outcome.put(&format!("{name}_{quantile}"), self.quantile(share));
        }
    }
}

/// Calls at fixed times, as callers arrive that do not wait for each other.
///
/// A call that is late because the one before took long starts at once, and its latency counts from
/// the time at which it was due. So one call that takes a second is as many slow calls as were due
/// in that second, and not one.
pub struct Pace {
    start: Instant,
    per_second: f64,
}

impl Pace {
    pub fn new(per_second: f64) -> Self {
        Pace { start: Instant::now(), per_second }
    }

    /// When the call of this number is due, from the start.
    pub fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// Waits until that time, without sleep.
    pub fn wait(&self, due: Duration) {
        while self.elapsed() < due {
            std::hint::spin_loop();
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_least_latency_that_so_many_do_not_exceed() {
        let mut latencies = Latencies::default();
        (1..=1000).rev().for_each(|micros| latencies.push(Duration::from_micros(micros)));
        assert_eq!(
            [0.5, 0.99, 0.999, 1.0].map(|share| latencies.quantile(share)),
            [500.0, 990.0, 999.0, 1000.0]
        );
    }

    #[test]
    fn calls_are_due_at_even_times_however_long_each_takes() {
        let pace = Pace::new(1000.0);
        assert_eq!([0, 1, 250].map(|number| pace.due(number).as_micros()), [0, 1_000, 250_000]);
    }
}
