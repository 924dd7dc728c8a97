//! The programs, written with rdkafka as its documentation does: futures under tokio.

mod a_test;
mod dead_letters;
mod exactly_once;
mod first_record;
mod group;
mod headers;
mod keyed_batches;
mod rebalance_listener;
mod resume;
mod tail;
mod time_lookup;

use crate::Outcome;

/// Runs a program by its name. Returns what it has seen.
pub async fn run(name: &str, at: &str, topic: &str) -> Outcome<Vec<String>> {
    match name {
        "first_record" => first_record::run(at, topic).await,
        "keyed_batches" => keyed_batches::run(at, topic).await,
        "group" => group::run(at, topic).await,
        "resume" => resume::run(at, topic).await,
        "exactly_once" => exactly_once::run(at, topic).await,
        "headers" => headers::run(at, topic).await,
        "time_lookup" => time_lookup::run(at, topic).await,
        "tail" => tail::run(at, topic).await,
        "dead_letters" => dead_letters::run(at, topic).await,
        "rebalance_listener" => rebalance_listener::run(at, topic).await,
        "a_test" => a_test::run(at, topic).await,
        _ => Err("there is no such program".into()),
    }
}
