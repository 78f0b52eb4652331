//! Any text as a selector: what parses has a canonical text that parses to the same, and matches
//! the same labels.
#![no_main]

use felid_model::{LabelMap, Selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(
                (1..=text.chars().count() + 1).contains(&error.column),
                "{error} is in the text"
            );
            return;
        }
    };
    let canonical = selector.canonical();
    let again = Selector::parse(canonical).expect("canonical text parses");
    // Negations of negations, kept apart by parentheses in the text, are adjacent in the canonical
    // text and vanish.
    if !canonical.contains("!!") {
        assert_eq!(again.canonical(), canonical);
        assert_eq!(again.uid(), selector.uid());
    }
    let third = Selector::parse(again.canonical()).expect("canonical text parses");
    assert_eq!(third.canonical(), again.canonical());

    let mut names = Vec::new();
    selector.for_each_label(&mut |label| names.push(label.to_owned()));
    let everything = names
        .iter()
        .map(|name| (name.clone(), "x".to_owned()))
        .collect::<LabelMap>();
    let namespaces = selector.for_namespaces();
    let inherited = names
        .iter()
        .map(|name| (format!("pcns.{name}"), "x".to_owned()))
        .collect::<LabelMap>();
    for labels in [&LabelMap::new(), &everything] {
        assert_eq!(selector.matches(labels), again.matches(labels));
        assert_eq!(selector.negate().matches(labels), !selector.matches(labels));
        assert_eq!(selector.and(&Selector::all()).matches(labels), selector.matches(labels));
        assert!(!selector.and(&selector.negate()).matches(labels));
        // Conditions that a selector cannot match without hold wherever it matches.
        if selector.matches(labels) {
            for requirement in selector.requirements() {
                let value = labels.get(requirement.key).map(String::as_str);
                assert!(value.is_some_and(|value| requirement.values.is_none_or(|values| values.contains(value))));
            }
        }
    }
    if !canonical.contains("all()") && !canonical.contains("global()") {
        assert_eq!(namespaces.matches(&inherited), selector.matches(&everything));
    }
});
