//! The selector language against the reference cases, and properties of every selector.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::{LabelMap, Selector};
use proptest::prelude::*;
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/../../tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn reference_cases() {
    let cases = cases("selectors.json");
    assert!(cases.len() > 50);
    for case in cases {
        let text = case["selector"].as_str().unwrap();
        let parsed = Selector::parse(text);
        if case["error"] == true {
            assert!(parsed.is_err(), "{text:?} must not parse");
            continue;
        }
        let selector = parsed.unwrap_or_else(|e| panic!("{text:?}: {e}"));
        if let Some(canonical) = case["canonical"].as_str() {
            assert_eq!(selector.canonical(), canonical, "{text:?}");
        }
        if let Some(uid) = case["uid"].as_str() {
            assert_eq!(selector.uid(), uid, "{text:?}");
        }
        if let Some(matches) = case["match"].as_bool() {
            let labels: LabelMap = serde_json::from_value(case["labels"].clone()).unwrap();
            assert_eq!(selector.matches(&labels), matches, "{text:?} on {labels:?}");
        }
    }
}

#[test]
fn canonical_forms() {
    for (text, canonical) in [
        ("", "all()"),
        (" \t ", "all()"),
        ("all( )", "all()"),
        ("in in {'in'}", "in in {\"in\"}"),
        ("has == 'x'", "has == \"x\""),
        ("all == 'x'", "all == \"x\""),
        ("a notin {'b'}", "a not in {\"b\"}"),
        ("a not\tin{'b'}", "a not in {\"b\"}"),
        ("a endswith\"b\"", "a ends with \"b\""),
        ("a in {}", "a in {}"),
        ("a in { 'b' , }", "a in {\"b\"}"),
        ("!!!a=='b'", "!a == \"b\""),
        ("! !(!a=='b')", "!a == \"b\""),
        ("!(!a=='b')", "!!a == \"b\""),
        ("!(k == \"v\")", "!k == \"v\""),
        ("has(a) && has(b) || has(c)", "((has(a) && has(b)) || has(c))"),
        ("(has(a) && has(b)) && has(c)", "((has(a) && has(b)) && has(c))"),
        ("has(a) && has(b) && has(c)", "(has(a) && has(b) && has(c))"),
        ("(((has(a)) && (has(b))))", "(has(a) && has(b))"),
        ("a in {'B', 'a', 'é', '', 'B'}", "a in {\"\", \"B\", \"a\", \"é\"}"),
    ] {
        assert_eq!(Selector::parse(text).unwrap().canonical(), canonical, "{text:?}");
    }
}

#[test]
fn spellings() {
    for text in [
        "\t has(\ta ) ",
        "all(\t)&&global( )",
        "a\t==\t\"b\"\t",
        "a=='b'&&c!='d'||!e in{'f'}",
        "a contains'b'",
        "a contains \"it's\" && b == 'say \"x\"'",
        "a starts\twith 'b'",
        "a startswith'b'",
        "a ends\t \twith 'b'",
        "a not \t in\t{\t'b'\t,\t'c'\t,\t}",
        "a notin{'b','c'}",
        "not in {'x'}",
        "not not in {'x'}",
        "contains contains 'contains'",
        "starts starts with 'x'",
        "has(has) && has(all) && has(in)",
        "global == 'x'",
        "hasx == 'x'",
        "-./_ == ''",
        "0 == '\n'",
        "! ! !!a != 'b'",
        "a in {''}",
    ] {
        assert!(Selector::parse(text).is_ok(), "{text:?}: {:?}", Selector::parse(text));
    }
    for text in [
        "has( )",
        "has(a b)",
        "has(a",
        "has('a')",
        "has\t(a)",
        "global ()",
        "all(a)",
        "all()all()",
        "all() has(a)",
        "Has(a)",
        "ALL()",
        "a CONTAINS 'b'",
        "a Not In {'b'}",
        "a starts-with 'b'",
        "a starts 'b'",
        "a not 'b'",
        "a not contains 'b'",
        "a in 'b'",
        "a == {'b'}",
        "a in {'b' , , }",
        "a in {, 'b'}",
        "a in {b}",
        "a in {'b'",
        "a in ('b')",
        "a == 'it's'",
        "a == `b`",
        "a === 'b'",
        "a !== 'b'",
        "a & & b",
        "a == 'b' &&",
        "&& a == 'b'",
        "a == 'b' && || c == 'd'",
        "a == 'b' c == 'd'",
        "(a == 'b'))",
        "(a == 'b' && (c == 'd')",
        "a == 'b'\r",
        "a == 'b'\u{a0}",
        "a\n== 'b'",
        "é == 'b'",
        "a b == 'c'",
        "a !",
        "a == 'b'!",
        "{}",
        "''",
    ] {
        assert!(Selector::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn errors_name_the_column() {
    for (text, column) in [
        ("a", 2),
        ("a == b", 6),
        ("a == 'é' && b", 14),
        ("'é' == a", 1),
        ("a == 'x", 6),
        ("(has(a)", 1),
        ("has(a))", 7),
        ("has (a)", 1),
        ("all ()", 1),
        ("a in {,}", 7),
        ("a in {'x',,}", 11),
        ("a in {'x' 'y'}", 11),
        ("a = 'x'", 3),
        ("a ! = 'x'", 3),
        ("has(a) & has(b)", 8),
        ("has(a)\n", 7),
        ("has()", 5),
        ("()", 2),
        ("!", 2),
        ("Has(a)", 4),
        ("a IN {'x'}", 3),
    ] {
        let error = Selector::parse(text).unwrap_err();
        assert_eq!(error.column, column, "{text:?}: {error}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = |open: &str, n: usize, close: &str| format!("{}has(a){}", open.repeat(n), close.repeat(n));
    // Parentheses and pairs of `!` that vanish cost nothing.
    assert_eq!(Selector::parse(&deep("(", 100_000, ")")).unwrap().canonical(), "has(a)");
    assert_eq!(Selector::parse(&deep("!", 100_000, "")).unwrap().canonical(), "has(a)");
    assert!(Selector::parse(&deep("(has(b) && ", 255, ")")).is_ok());
    assert!(Selector::parse(&deep("(has(b) && ", 256, ")")).is_err());
    assert!(Selector::parse(&deep("(has(b) && ", 100_000, ")")).is_err());
    assert!(Selector::parse(&deep("!(", 100_000, ")")).is_err());
    assert!(Selector::parse(&"(".repeat(1_000_000)).is_err());
    assert!(Selector::parse(&format!("has({})", "a".repeat(512))).is_ok());
    assert!(Selector::parse(&format!("has({})", "a".repeat(513))).is_err());
    assert!(Selector::parse(&format!("{}in {{'a'}}", "a".repeat(512))).is_err());
}

#[test]
fn composition() {
    let parse = |text| Selector::parse(text).unwrap();
    let web = parse("app == 'web'");
    assert_eq!(web.and(&Selector::all()), web);
    assert_eq!(Selector::all().and(&web), web);
    assert_eq!(
        web.and(&parse("a == 'b' || has(c)")).canonical(),
        "(app == \"web\" && (a == \"b\" || has(c)))"
    );
    assert_eq!(web.negate().canonical(), "!app == \"web\"");
    assert_eq!(web.with_label_prefix("pcsa.").canonical(), "pcsa.app == \"web\"");
    for (text, namespaces) in [
        ("all()", "has(projectcalico.org/namespace)"),
        ("global()", "!has(projectcalico.org/namespace)"),
        ("!all()", "!has(projectcalico.org/namespace)"),
        ("a == 'b' || !c in {'d'}", "(pcns.a == \"b\" || !pcns.c in {\"d\"})"),
    ] {
        assert_eq!(parse(text).for_namespaces().canonical(), namespaces);
    }
    assert!(parse("(global())").is_global() && parse("!(has(a) && global())").mentions_global());
    assert!(!parse("a == 'global()'").mentions_global());
    assert_eq!(Selector::label_equals("a", "b"), parse("a=='b'"));
    let mut labels = Vec::new();
    parse("!(a == 'b' || has(c)) && d not in {}").for_each_label(&mut |label| labels.push(label.to_owned()));
    assert_eq!(labels, ["a", "c", "d"]);
}

fn expression() -> impl Strategy<Value = String> {
    let key = prop_oneof![Just("a"), Just("b"), Just("in"), Just("has"), Just("x.y/z")];
    let value = prop_oneof![Just("'x'"), Just("\"y\""), Just("''"), Just("'\"'"), Just("'xy'")];
    let compare = prop_oneof![
        Just("=="),
        Just("!="),
        Just(" contains"),
        Just(" starts with "),
        Just(" ends with")
    ];
    let leaf = prop_oneof![
        Just("all()".to_owned()),
        Just("global()".to_owned()),
        key.clone().prop_map(|key| format!("has( {key})")),
        (key.clone(), compare, value.clone()).prop_map(|(key, op, value)| format!("{key}{op}{value}")),
        (
            key,
            prop_oneof![Just("in"), Just("not in")],
            prop::collection::vec(value, 0..4)
        )
            .prop_map(|(key, op, values)| format!("{key} {op} {{{}}}", values.join(","))),
    ];
    leaf.prop_recursive(5, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("!{inner}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|list| list.join("&&")),
            prop::collection::vec(inner, 2..4).prop_map(|list| list.join(" || ")),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_text_means_the_same(
        text in expression(),
        labels in prop::collection::btree_map("[ab]|in|has", "x?y?\"?", 0..4),
    ) {
        let selector = Selector::parse(&text).unwrap();
        let again = Selector::parse(selector.canonical()).unwrap();
        prop_assert_eq!(selector.matches(&labels), again.matches(&labels));
        // Only pairs of `!` that stood across parentheses vanish the second time.
        let third = Selector::parse(again.canonical()).unwrap();
        prop_assert_eq!(again.canonical(), third.canonical());
        if !selector.canonical().contains("!!") {
            prop_assert_eq!(selector.canonical(), again.canonical());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,60}") {
        let _ = Selector::parse(&text);
    }
}
