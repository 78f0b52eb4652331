//! What of the sections can be reached at all.
//!
//! In: sections. Out: the same without rules and sections that no packet gets to. Never: what rules
//! match, but for those that match everything.

use std::collections::BTreeSet;

use crate::ir::rule::{Rule, RuleEffect, Section, SectionEnd};

/// Cuts what cannot be reached, and turns an unconditional last rule into the section's end.
pub(crate) fn prune(mut sections: Vec<Section>) -> Vec<Section> {
    let mut reached = BTreeSet::from([0]);
    for (index, section) in sections.iter_mut().enumerate() {
        if !reached.contains(&index) {
            *section = Section::judging(Vec::new(), SectionEnd::Next);
            continue;
        }
        if let Some(position) = section.rules.iter().position(Rule::is_unconditional) {
            section.rules.truncate(position + 1);
            let end = section.rules.last().and_then(|last| match last.outcome {
                RuleEffect::Verdict => Some(SectionEnd::Verdict(last.point)),
                RuleEffect::Pass => Some(SectionEnd::Pass),
                RuleEffect::SideEffect(_) => None,
            });
            if let Some(end) = end {
                section.rules.pop();
                section.end = end;
            }
        }
        if section.end == SectionEnd::Pass && section.pass == index + 1 {
            section.end = SectionEnd::Next;
        }
        let falls = match section.end {
            SectionEnd::Next => section.pass == index + 1,
            SectionEnd::Pass => true,
            SectionEnd::Verdict(_) => false,
        };
        while falls
            && section
                .rules
                .last()
                .is_some_and(|rule| rule.outcome == RuleEffect::Pass)
        {
            section.rules.pop();
        }
        let goes_on = section
            .rules
            .iter()
            .any(|rule| matches!(rule.outcome, RuleEffect::SideEffect(_)));
        if section.end == SectionEnd::Next || goes_on {
            reached.insert(index + 1);
        }
        if section.end == SectionEnd::Pass || section.rules.iter().any(|rule| rule.outcome == RuleEffect::Pass) {
            reached.insert(section.pass);
        }
    }
    let last = reached.into_iter().rfind(|index| *index < sections.len());
    sections.truncate(last.map_or(0, |last| last + 1));
    sections
}
