//! What of the sections can be reached at all.

use std::collections::BTreeSet;

use crate::rule::{End, Outcome, Rule, Section};

/// Cuts what cannot be reached, and turns an unconditional last rule into the section's end.
pub(crate) fn prune(mut sections: Vec<Section>) -> Vec<Section> {
    let mut reached = BTreeSet::from([0]);
    for (index, section) in sections.iter_mut().enumerate() {
        if !reached.contains(&index) {
            *section = Section::judging(Vec::new(), End::Next);
            continue;
        }
        if let Some(position) = section.rules.iter().position(Rule::is_unconditional) {
            section.rules.truncate(position + 1);
            let end = section.rules.last().and_then(|last| match last.outcome {
                Outcome::Verdict => Some(End::Verdict(last.site)),
                Outcome::Pass => Some(End::Pass),
                Outcome::Aside(_) => None,
            });
            if let Some(end) = end {
                section.rules.pop();
                section.end = end;
            }
        }
        if section.end == End::Pass && section.pass == index + 1 {
            section.end = End::Next;
        }
        let falls = match section.end {
            End::Next => section.pass == index + 1,
            End::Pass => true,
            End::Verdict(_) => false,
        };
        while falls && section.rules.last().is_some_and(|rule| rule.outcome == Outcome::Pass) {
            section.rules.pop();
        }
        let goes_on = section
            .rules
            .iter()
            .any(|rule| matches!(rule.outcome, Outcome::Aside(_)));
        if section.end == End::Next || goes_on {
            reached.insert(index + 1);
        }
        if section.end == End::Pass || section.rules.iter().any(|rule| rule.outcome == Outcome::Pass) {
            reached.insert(section.pass);
        }
    }
    let last = reached.into_iter().rfind(|index| *index < sections.len());
    sections.truncate(last.map_or(0, |last| last + 1));
    sections
}
