//! Which topics does a subscription name? One, or all that match a glob.

use std::borrow::Borrow;

/// A topic's name, or a glob that stands for all that match it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pattern(pub(crate) String);

/// So that a table by pattern is asked with a name.
impl Borrow<str> for Pattern {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Whether it stands for names that need not exist.
    pub(crate) fn is_glob(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// The characters with which each matching name begins.
    pub(crate) fn literal_prefix(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether a topic's name matches: `*` stands for any characters, also none, `?` for one.
    pub(crate) fn matches(&self, name: &str) -> bool {
        if !self.is_glob() {
            return self.0 == name;
        }
        glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Backtracks to the last `*` only, so it takes no more than the product of the lengths.
fn glob(mut pattern: &[u8], mut name: &[u8]) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), name.split_first()) {
            (Some((b'*', rest)), _) => {
                retry = Some((rest, name));
                pattern = rest;
            }
            (Some((p, p_rest)), Some((n, n_rest))) if *p == b'?' || p == n => {
                (pattern, name) = (p_rest, n_rest);
            }
            (None, None) => return true,
            _ => match retry {
                Some((after_star, from)) => {
                    let Some((_, shorter)) = from.split_first() else { return false };
                    retry = Some((after_star, shorter));
                    (pattern, name) = (after_star, shorter);
                }
                None => return false,
            },
        }
    }
}
