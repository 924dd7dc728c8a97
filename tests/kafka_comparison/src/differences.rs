//! The list of deliberate differences, `differences.toml`, and whether a difference is in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::seen::Difference;

const LIST: &str = include_str!("../differences.toml");

/// The whole list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    difference: Vec<Listed>,
    /// The other rows of the README's table.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the README"))]
    #[serde(default)]
    without_difference: Vec<Row>,
}

/// A difference that is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    pub name: String,
    /// What Quipu does, in words.
    pub quipu: String,
    /// What Kafka does, in words.
    pub kafka: String,
    pub why: String,
    /// Where a user reads of it. `README: ` and the first cell of a row of the table, or a method.
    pub documented: Vec<String>,
    /// How a run shows it.
    pub seen: Vec<Pattern>,
}

/// Which differences it explains.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// The kind of the step.
    step: String,
    fact: String,
    /// `reordered`, `fewer on Kafka`, `fewer on Quipu`, `other`. None of them: any.
    relation: Option<String>,
    /// What Quipu shows, items joined by ` | `. `*` stands for any text.
    #[serde(default = "anything")]
    quipu: String,
    #[serde(default = "anything")]
    kafka: String,
    /// What must be true of the history.
    #[serde(default)]
    when: Vec<String>,
    /// After it the two systems are in different states: the rest of the history is not compared.
    #[serde(default)]
    ends: bool,
}

/// A row of the README that names no difference which a run can show, and why that is so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the README"))]
pub struct Row {
    pub row: String,
    pub why: String,
}

fn anything() -> String {
    "*".to_string()
}

/// What the list says of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    Listed { name: &'a str, ends: bool },
    Unlisted,
}

impl Differences {
    pub fn load() -> Result<Self> {
        toml::from_str(LIST).context("differences.toml")
    }

    pub fn verdict(&self, difference: &Difference) -> Verdict<'_> {
        for listed in &self.difference {
            if let Some(pattern) = listed.seen.iter().find(|pattern| pattern.matches(difference)) {
                return Verdict::Listed { name: &listed.name, ends: pattern.ends };
            }
        }
        Verdict::Unlisted
    }

    /// The differences that were met, in words, with how often.
    pub fn describe(&self, met: &BTreeMap<String, u64>) -> Vec<String> {
        let text = |listed: &Listed| {
            let times = met.get(&listed.name)?;
            let Listed { name, quipu, kafka, why, documented, .. } = listed;
            let documented = documented.join(", ");
            Some(format!(
                "{name}: {times} times\n  Quipu: {quipu}\n  Kafka: {kafka}\n  {why} See {documented}."
            ))
        };
        self.difference.iter().filter_map(text).collect()
    }

    /// The names of the differences that were never met.
    pub fn never_met(&self, met: &BTreeMap<String, u64>) -> Vec<&str> {
        let names: BTreeSet<_> = self.difference.iter().map(|listed| listed.name.as_str()).collect();
        names.into_iter().filter(|name| !met.contains_key(*name)).collect()
    }
}

impl Pattern {
    fn matches(&self, difference: &Difference) -> bool {
        self.step == difference.step
            && self.fact == difference.fact
            && self.relation.as_deref().is_none_or(|relation| relation == difference.relation.name())
            && self.when.iter().all(|tag| difference.tags.contains(&tag.as_str()))
            && matches(&self.quipu, &difference.quipu.join(" | "))
            && matches(&self.kafka, &difference.kafka.join(" | "))
    }
}

/// Whether a text matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.get(at..).is_some_and(|text| matches(rest, text)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, Kind};
    use crate::seen::Relation;

    const README: &str = include_str!("../../../README.md");
    const API: &str = include_str!("../../public_api.txt");

    fn list() -> Differences {
        Differences::load().unwrap()
    }

    /// The first cells of the table "Coming from Kafka".
    fn rows() -> Vec<String> {
        let (_, section) = README.split_once("## Coming from Kafka").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| row.split('|').nth(1).unwrap().trim().to_string()).collect()
    }

    #[test]
    fn every_row_of_the_readme_is_compared_or_has_a_reason_not_to_be() {
        let list = list();
        let documented = list.difference.iter().flat_map(|listed| &listed.documented);
        let named: Vec<_> = documented.filter_map(|place| place.strip_prefix("README: ")).collect();
        let others: Vec<_> = list.without_difference.iter().map(|row| row.row.as_str()).collect();
        let rows = rows();
        assert!(rows.len() > 20, "{rows:?}");
        for row in &rows {
            let row = row.as_str();
            assert!(named.contains(&row) || others.contains(&row), "not in the list: {row}");
        }
        for named in named.iter().chain(&others) {
            assert!(rows.iter().any(|row| row == named), "not in the README: {named}");
        }
    }

    /// For example `quipu::Consumer::commit`: the type is in the API, and has something of that name.
    #[test]
    fn what_documents_a_difference_exists() {
        let list = list();
        let places = list.difference.iter().flat_map(|listed| &listed.documented);
        let items = places.filter_map(|place| place.strip_prefix("`quipu::")?.strip_suffix('`'));
        for item in items {
            let (of, member) = item.split_once("::").unwrap_or((item, ""));
            let blocks = API.split("\n\n").filter(|block| {
                block.lines().next().is_some_and(|line| line.contains(&format!(" quipu::{of}")))
            });
            assert!(blocks.into_iter().any(|block| block.contains(member)), "{item}");
        }
    }

    #[test]
    fn every_difference_has_a_name_of_its_own_and_its_words() {
        let list = list();
        let names: BTreeSet<_> = list.difference.iter().map(|listed| &listed.name).collect();
        assert_eq!(names.len(), list.difference.len());
        for listed in &list.difference {
            let words = [&listed.quipu, &listed.kafka, &listed.why];
            assert!(words.iter().all(|words| !words.is_empty()), "{}", listed.name);
            assert!(!listed.documented.is_empty() && !listed.seen.is_empty(), "{}", listed.name);
        }
        assert!(list.without_difference.iter().all(|row| !row.why.is_empty()));
    }

    #[test]
    fn patterns_name_steps_and_relations_that_exist() {
        let mut steps = BTreeSet::new();
        let mut tags = BTreeSet::new();
        for kind in Kind::ALL {
            for seed in 0..300 {
                let history = History::new(kind, seed);
                steps.extend(history.steps.iter().map(|step| step.name()));
                tags.extend((0..history.steps.len()).flat_map(|at| history.tags(at)));
            }
        }
        let relations =
            [Relation::Reordered, Relation::FewerOnKafka, Relation::FewerOnQuipu, Relation::Other];
        for listed in &list().difference {
            for pattern in &listed.seen {
                assert!(steps.contains(pattern.step.as_str()), "{}: {}", listed.name, pattern.step);
                assert!(pattern.when.iter().all(|tag| tags.contains(tag.as_str())), "{}", listed.name);
                let is_known = |name: &String| relations.iter().any(|relation| relation.name() == name);
                assert!(pattern.relation.as_ref().is_none_or(is_known), "{}", listed.name);
            }
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("a*c", "abc") && matches("a*c", "ac") && matches("*", ""));
        assert!(!matches("a*c", "abcd") && !matches("a", "ab") && !matches("a*", "b"));
    }
}
