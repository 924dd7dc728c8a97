//! The programs, written with Quipu as its README does: calls that block.

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

use std::path::Path;

use crate::Outcome;

/// Runs a program by its name. Returns what it has seen.
pub fn run(name: &str, dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    match name {
        "first_record" => first_record::run(dir, topic),
        "keyed_batches" => keyed_batches::run(dir, topic),
        "group" => group::run(dir, topic),
        "resume" => resume::run(dir, topic),
        "exactly_once" => exactly_once::run(dir, topic),
        "headers" => headers::run(dir, topic),
        "time_lookup" => time_lookup::run(dir, topic),
        "tail" => tail::run(dir, topic),
        "dead_letters" => dead_letters::run(dir, topic),
        "rebalance_listener" => rebalance_listener::run(dir, topic),
        "a_test" => a_test::run(dir, topic),
        _ => Err("there is no such program".into()),
    }
}
