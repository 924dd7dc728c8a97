//! What a program sees of a step, and where two systems differ in it.

use std::collections::BTreeMap;
use std::fmt;

/// One thing that a program sees: a list of items, of a partition or a member where that matters.
#[derive(Clone, Debug)]
pub struct Fact {
    pub name: &'static str,
    /// For example `t0/1`. Empty if the fact is one of the whole step.
    pub of: String,
    pub items: Vec<String>,
}

/// All facts of one step.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<Fact>);

impl Seen {
    /// A step that cannot be made, for example by a member that does not exist. Shrinking makes
    /// such steps.
    pub fn nothing() -> Self {
        Seen::default()
    }

    pub fn outcome(outcome: impl Into<String>) -> Self {
        Seen::default().with("outcome", "", vec![outcome.into()])
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, of: impl Into<String>, items: Vec<String>) -> Self {
        self.0.push(Fact { name, of: of.into(), items });
        self
    }

    fn by_name(&self) -> BTreeMap<(&'static str, &str), &[String]> {
        self.0.iter().map(|fact| ((fact.name, fact.of.as_str()), fact.items.as_slice())).collect()
    }
}

/// How two lists that are not equal differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same items in another order.
    Reordered,
    /// All items on Kafka are also on Quipu, in the same order, and Quipu has more.
    FewerOnKafka,
    /// All items on Quipu are also on Kafka, in the same order, and Kafka has more.
    FewerOnQuipu,
    /// One system has items that the other does not have, and the other way around.
    Other,
}

impl Relation {
    pub fn of(quipu: &[String], kafka: &[String]) -> Option<Self> {
        if quipu == kafka {
            return None;
        }
        if sorted(quipu) == sorted(kafka) {
            return Some(Relation::Reordered);
        }
        if is_part(kafka, quipu) {
            return Some(Relation::FewerOnKafka);
        }
        Some(if is_part(quipu, kafka) { Relation::FewerOnQuipu } else { Relation::Other })
    }

    /// As it is written in the list of differences.
    pub fn name(self) -> &'static str {
        match self {
            Relation::Reordered => "reordered",
            Relation::FewerOnKafka => "fewer on Kafka",
            Relation::FewerOnQuipu => "fewer on Quipu",
            Relation::Other => "other",
        }
    }
}

fn sorted(items: &[String]) -> Vec<&String> {
    let mut items: Vec<_> = items.iter().collect();
    items.sort();
    items
}

/// Whether `whole` becomes `part` when items are dropped.
fn is_part(part: &[String], whole: &[String]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|item| rest.any(|other| other == item))
}

/// A fact in which the two systems differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The number of the step in its history.
    pub at: usize,
    /// The kind of the step, as in the list of differences.
    pub step: &'static str,
    pub fact: &'static str,
    pub of: String,
    pub relation: Relation,
    pub quipu: Vec<String>,
    pub kafka: Vec<String>,
    /// What is true of the history at this step, for example `open transaction`.
    pub tags: Vec<&'static str>,
}

impl Difference {
    /// Whether it is of the same kind as `other`. Shortening a history looks for one that is.
    pub fn is_like(&self, other: &Difference) -> bool {
        let refused = |items: &[String]| items.iter().any(|item| item.starts_with("refused"));
        (self.step, self.fact, self.relation) == (other.step, other.fact, other.relation)
            && refused(&self.quipu) == refused(&other.quipu)
            && refused(&self.kafka) == refused(&other.kafka)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "step {} ({}), {} {}: {}", self.at, self.step, self.fact, self.of, self.relation.name())?;
        if !self.tags.is_empty() {
            writeln!(f, "  when:  {}", self.tags.join(", "))?;
        }
        writeln!(f, "  Quipu: {}", self.quipu.join(" | "))?;
        write!(f, "  Kafka: {}", self.kafka.join(" | "))
    }
}

/// The differences in one step. `at`, `step` and `tags` are copied into each.
pub fn differences(
    at: usize,
    step: &'static str,
    tags: &[&'static str],
    quipu: &Seen,
    kafka: &Seen,
) -> Vec<Difference> {
    let (quipu, kafka) = (quipu.by_name(), kafka.by_name());
    let keys: std::collections::BTreeSet<_> = quipu.keys().chain(kafka.keys()).copied().collect();
    let difference = |key: (&'static str, &str)| {
        let (quipu, kafka) = (quipu.get(&key).copied(), kafka.get(&key).copied());
        let (quipu, kafka) = (quipu.unwrap_or_default(), kafka.unwrap_or_default());
        let relation = Relation::of(quipu, kafka)?;
        Some(Difference {
            at,
            step,
            fact: key.0,
            of: key.1.to_string(),
            relation,
            quipu: quipu.to_vec(),
            kafka: kafka.to_vec(),
            tags: tags.to_vec(),
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(quipu: &[&str], kafka: &[&str]) -> Option<Relation> {
        let owned = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        Relation::of(&owned(quipu), &owned(kafka))
    }

    #[test]
    fn lists_are_related_by_order_and_by_what_is_missing() {
        assert_eq!(relation(&["a", "b"], &["a", "b"]), None);
        assert_eq!(relation(&["a", "b"], &["b", "a"]), Some(Relation::Reordered));
        assert_eq!(relation(&["a", "b", "c"], &["a", "c"]), Some(Relation::FewerOnKafka));
        assert_eq!(relation(&[], &["a"]), Some(Relation::FewerOnQuipu));
        assert_eq!(relation(&["a"], &["b"]), Some(Relation::Other));
        assert_eq!(relation(&["a", "b", "c"], &["c", "a"]), Some(Relation::Other));
    }

    #[test]
    fn a_fact_that_only_one_system_has_is_a_difference() {
        let quipu = Seen::outcome("done").with("records", "t0/0", vec!["a".to_string()]);
        let found = differences(3, "read", &[], &quipu, &Seen::outcome("done"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].fact, found[0].relation), ("records", Relation::FewerOnKafka));
    }
}
