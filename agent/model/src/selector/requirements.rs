//! Conditions that a selector cannot match without: what an index of selectors needs to narrow the
//! candidates.

use std::collections::BTreeSet;

use super::Selector;
use super::ast::Node;

/// A condition that every match fulfils: the label is there, with one of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement<'a> {
    /// Label.
    pub key: &'a str,
    /// Its possible values; `None` = any.
    pub values: Option<BTreeSet<&'a str>>,
}

impl Selector {
    /// Conditions that labels must meet for the selector to match. Each is necessary, all together
    /// are not always sufficient. Empty if nothing is known: then anything, even without labels,
    /// may match.
    pub fn requirements(&self) -> Vec<Requirement<'_>> {
        required(&self.0.node)
    }
}

fn one<'a>(key: &'a str, values: Option<BTreeSet<&'a str>>) -> Vec<Requirement<'a>> {
    vec![Requirement { key, values }]
}

fn required(node: &Node) -> Vec<Requirement<'_>> {
    match node {
        Node::All | Node::Global | Node::Ne(..) | Node::NotIn(..) => Vec::new(),
        Node::Eq(key, value) => one(key, Some(BTreeSet::from([&**value]))),
        Node::In(key, values) => one(key, Some(values.iter().map(|value| &**value).collect())),
        Node::Has(key) | Node::Contains(key, _) | Node::StartsWith(key, _) | Node::EndsWith(key, _) => one(key, None),
        Node::Not(inner) => match &**inner {
            Node::Ne(key, value) => one(key, Some(BTreeSet::from([&**value]))),
            Node::NotIn(key, values) => one(key, Some(values.iter().map(|value| &**value).collect())),
            Node::Not(inner) => required(inner),
            _ => Vec::new(),
        },
        Node::And(list) => list.iter().flat_map(required).collect(),
        Node::Or(list) => {
            let mut branches = list.iter().map(required);
            let first = branches.next().unwrap_or_default();
            branches.fold(first, either)
        }
    }
}

/// What both branches of `||` require: labels that both name, with the values of either.
fn either<'a>(left: Vec<Requirement<'a>>, right: Vec<Requirement<'a>>) -> Vec<Requirement<'a>> {
    left.into_iter()
        .filter_map(|mut requirement| {
            let other = right.iter().find(|other| other.key == requirement.key)?;
            requirement.values = match (requirement.values, &other.values) {
                (Some(mut values), Some(more)) => {
                    values.extend(more);
                    Some(values)
                }
                _ => None,
            };
            Some(requirement)
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn requirements(text: &str) -> String {
        let selector = Selector::parse(text).unwrap();
        let list: Vec<String> = selector
            .requirements()
            .into_iter()
            .map(|r| match r.values {
                Some(values) => format!("{}={}", r.key, values.into_iter().collect::<Vec<_>>().join("|")),
                None => r.key.to_owned(),
            })
            .collect();
        list.join(" ")
    }

    #[test]
    fn conditions_without_which_nothing_matches() {
        for (text, expected) in [
            ("all()", ""),
            ("a == 'x'", "a=x"),
            ("a != 'x'", ""),
            ("!(a != 'x')", "a=x"),
            ("!(a == 'x')", ""),
            ("a in {'x', 'y'} && has(b) && c not in {'z'}", "a=x|y b"),
            ("a == 'x' || a == 'y' && b == 'z'", "a=x|y"),
            ("a == 'x' || has(a)", "a"),
            ("a == 'x' || b == 'x'", ""),
            ("a == 'x' || all()", ""),
            ("a starts with 'x'", "a"),
            ("a in {}", "a="),
        ] {
            assert_eq!(requirements(text), expected, "{text}");
        }
    }
}
