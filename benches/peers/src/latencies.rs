//! Latencies of one run.

use std::time::Duration;

#[derive(Default)]
pub struct Latencies(Vec<u64>);

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
}
