//! Which groups are there, and which of them are concerned when a topic changes? Neither costs more
//! because of groups that have no member, or that subscribe to other topics.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::state::Pattern;
use crate::sync::{Arc, Weak};
use crate::types::{GroupId, TopicName};

/// The groups of a broker by name, and the subscriptions of their members.
pub(crate) struct Registry<G> {
    /// A group lives as long as its handles and members: the table does not keep it.
    groups: HashMap<GroupId, Weak<G>>,
    /// When there are as many entries, those of groups that are gone are removed. It is twice the
    /// number that the last removal left, so an entry is looked at a constant number of times.
    sweep_at: usize,
    names: Subscriptions,
    globs: Subscriptions,
}

/// How many members of which group subscribe with a pattern.
type Subscriptions = HashMap<Pattern, BTreeMap<GroupId, usize>>;

/// So many entries are never worth a removal.
const SWEEP_MIN: usize = 64;

impl<G> Registry<G> {
    pub(crate) fn new() -> Self {
        Registry {
            groups: HashMap::new(),
            sweep_at: SWEEP_MIN,
            names: Subscriptions::new(),
            globs: Subscriptions::new(),
        }
    }

    /// The group of this name, which `make` makes if it is not there.
    pub(crate) fn get_or_insert(&mut self, name: &GroupId, make: impl FnOnce() -> G) -> Arc<G> {
        if let Some(group) = self.groups.get(name).and_then(Weak::upgrade) {
            return group;
        }
        if self.groups.len() >= self.sweep_at {
            self.groups.retain(|_, group| group.strong_count() > 0);
            self.sweep_at = SWEEP_MIN.max(2 * self.groups.len());
        }
        let group = Arc::new(make());
        self.groups.insert(name.clone(), Arc::downgrade(&group));
        group
    }

    /// The groups that have a handle or a member.
    pub(crate) fn all(&self) -> Vec<Arc<G>> {
        self.groups.values().filter_map(Weak::upgrade).collect()
    }

    /// A member of a group subscribes with these patterns.
    pub(crate) fn subscribe(&mut self, group: &GroupId, patterns: &[Pattern]) {
        for pattern in patterns {
            let groups = self.table_of(pattern).entry(pattern.clone()).or_default();
            *groups.entry(group.clone()).or_default() += 1;
        }
    }

    /// A member of a group that has subscribed with these patterns is gone.
    pub(crate) fn unsubscribe(&mut self, group: &GroupId, patterns: &[Pattern]) {
        for pattern in patterns {
            let table = self.table_of(pattern);
            let Some(groups) = table.get_mut(pattern) else { continue };
            let Some(members) = groups.get_mut(group) else { continue };
            *members = members.saturating_sub(1);
            if *members == 0 {
                groups.remove(group);
            }
            if groups.is_empty() {
                table.remove(pattern);
            }
        }
    }

    /// The groups with a member that subscribes to one of these topics, by name.
    pub(crate) fn concerned_by(&self, topics: &[TopicName]) -> Vec<Arc<G>> {
        let of_names = topics.iter().filter_map(|topic| self.names.get(topic.as_str()));
        let matches = |glob: &Pattern| topics.iter().any(|topic| glob.matches(topic.as_str()));
        let of_globs = self.globs.iter().filter(|(glob, _)| matches(glob));
        let groups = of_names.chain(of_globs.map(|(_, groups)| groups)).flat_map(BTreeMap::keys);
        let groups: BTreeSet<&GroupId> = groups.collect();
        groups.into_iter().filter_map(|name| self.groups.get(name)?.upgrade()).collect()
    }

    fn table_of(&mut self, pattern: &Pattern) -> &mut Subscriptions {
        if pattern.is_glob() { &mut self.globs } else { &mut self.names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> GroupId {
        GroupId::new(name).unwrap()
    }

    fn patterns(patterns: &[&str]) -> Vec<Pattern> {
        patterns.iter().map(|pattern| Pattern((*pattern).to_string())).collect()
    }

    #[test]
    fn groups_that_were_only_looked_up_leave_nothing() {
        let mut registry = Registry::new();
        let kept: Vec<_> =
            (0..100).map(|i| registry.get_or_insert(&id(&format!("kept-{i}")), || i)).collect();
        for i in 0..10_000 {
            drop(registry.get_or_insert(&id(&format!("who-is-{i}")), || i));
            assert!(registry.groups.len() <= 2 * kept.len());
        }
        for (i, group) in kept.iter().enumerate() {
            let again = registry.get_or_insert(&id(&format!("kept-{i}")), || unreachable!());
            assert!(Arc::ptr_eq(group, &again));
        }
        drop(kept);
        for i in 0..10_000 {
            drop(registry.get_or_insert(&id(&format!("who-was-{i}")), || i));
        }
        assert!(registry.groups.len() <= SWEEP_MIN);
        assert!(registry.all().is_empty());
    }

    #[test]
    fn a_topic_concerns_the_groups_that_subscribe_to_it_until_their_last_member_is_gone() {
        let mut registry = Registry::new();
        let names = ["a", "b", "c"];
        let groups: Vec<_> = names.iter().map(|name| registry.get_or_insert(&id(name), || *name)).collect();
        registry.subscribe(&id("a"), &patterns(&["orders", "p*"]));
        registry.subscribe(&id("a"), &patterns(&["orders"]));
        registry.subscribe(&id("b"), &patterns(&["o?ders"]));
        let concerned = |registry: &Registry<&'static str>, topics: &[&str]| -> Vec<&'static str> {
            let topics: Vec<_> = topics.iter().map(|topic| TopicName::new(topic).unwrap()).collect();
            registry.concerned_by(&topics).iter().map(|group| **group).collect()
        };
        assert_eq!(concerned(&registry, &["orders"]), ["a", "b"]);
        assert_eq!(concerned(&registry, &["payments", "other"]), ["a"]);
        assert!(concerned(&registry, &["other"]).is_empty());
        registry.unsubscribe(&id("a"), &patterns(&["orders", "p*"]));
        assert_eq!(concerned(&registry, &["orders", "payments"]), ["a", "b"]);
        registry.unsubscribe(&id("a"), &patterns(&["orders"]));
        registry.unsubscribe(&id("b"), &patterns(&["o?ders"]));
        assert!(concerned(&registry, &["orders", "payments"]).is_empty());
        assert!(registry.names.is_empty() && registry.globs.is_empty());
        drop(groups);
    }
}
