//! Splitting files into documents: places, lines, errors that hide nothing else, limits.
#![expect(clippy::unwrap_used, reason = "tests")]

use felid_model::{Document, documents};
use serde_json::{Value, json};

fn values(text: &str) -> Vec<Value> {
    documents(text).into_iter().map(|d| d.content.unwrap()).collect()
}

fn text_of<'a>(text: &'a str, document: &Document) -> &'a str {
    text.get(document.range.clone()).unwrap()
}

#[test]
fn yaml_streams() {
    let text = "# head\n---\nkind: A\n---\n# only a comment\n---\nkind: B\nx: [1, 2]\n...\n---   # note\nkind: C\n--- {kind: D}\n";
    let found = documents(text);
    let kinds: Vec<_> = found
        .iter()
        .map(|d| d.content.as_ref().unwrap()["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["A", "B", "C", "D"]);
    assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [3, 7, 11, 12]);
    let texts: Vec<_> = found.iter().map(|d| text_of(text, d)).collect();
    assert_eq!(texts, ["kind: A\n", "kind: B\nx: [1, 2]\n", "kind: C\n", "{kind: D}\n"]);
    assert!(found.iter().all(|d| d.item.is_none()));
}

#[test]
fn yaml_line_ends_directives_and_marks() {
    assert_eq!(
        values("\u{feff}a: 1\r\n---\r\nb: 2\r\n"),
        [json!({"a": 1}), json!({"b": 2})]
    );
    assert_eq!(
        values("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n# c\n---\nb: 2"),
        [json!({"a": 1}), json!({"b": 2})]
    );
    assert_eq!(
        values("a: |\n  --- x\n  ---y\n---\nb: '---'\n"),
        [json!({"a": "--- x\n---y\n"}), json!({"b": "---"})]
    );
    assert_eq!(values(""), Vec::<Value>::new());
    assert_eq!(values("---\n---\n# x\n...\n"), Vec::<Value>::new());
    assert_eq!(values("null\n---\n~\n"), Vec::<Value>::new());
}

#[test]
fn scalars_keep_their_types() {
    let text = "port: 80\nrange: 80:90\norder: 1.5\nyes: yes\nb: true\nn: null\nip: 10.0.0.1\nv: \"80\"\nmac: 00:11:22:33:44:55\nbig: 4294967296\nneg: -5\n";
    let expected = json!({"port": 80, "range": "80:90", "order": 1.5, "yes": "yes", "b": true, "n": null, "ip": "10.0.0.1",
        "v": "80", "mac": "00:11:22:33:44:55", "big": 4294967296_u64, "neg": -5});
    assert_eq!(values(text), [expected]);
}

#[test]
fn json_streams() {
    let expected = [
        json!({"a": {"b": [1, 2.5, -3, true, null, "x\u{1F600}/"]}}),
        json!({"c": "d"}),
    ];
    let first = r#"{"a": {"b": [1, 2.5, -3, true, null, "x\ud83d\ude00\/"]}}"#;
    for glue in ["", " ", "\n", "\n\n", "\n---\n"] {
        let text = format!("{first}{glue}{{\"c\":\t\"d\"}}\n");
        let found = documents(&text);
        assert_eq!(
            found.iter().map(|d| d.content.clone().unwrap()).collect::<Vec<_>>(),
            expected,
            "{glue:?}"
        );
        assert_eq!(text_of(&text, &found[0]).trim(), first);
        assert_eq!(text_of(&text, &found[1]).trim(), "{\"c\":\t\"d\"}");
    }
    assert_eq!(
        values("{a: 1, b: [x, y]} # flow style\n"),
        [json!({"a": 1, "b": ["x", "y"]})]
    );
    assert_eq!(values("{\"a\": 1,}"), [json!({"a": 1})]);
}

#[test]
fn lists_are_expanded() {
    let text = "apiVersion: projectcalico.org/v3\nkind: TierList\nmetadata: {}\nitems:\n- metadata:\n    name: a\n- kind: Other\n  metadata:\n    name: b\n";
    let found = documents(text);
    assert_eq!(
        found.iter().map(|d| d.content.clone().unwrap()).collect::<Vec<_>>(),
        [
            json!({"metadata": {"name": "a"}, "kind": "Tier", "apiVersion": "projectcalico.org/v3"}),
            json!({"kind": "Other", "metadata": {"name": "b"}, "apiVersion": "projectcalico.org/v3"}),
        ]
    );
    assert_eq!(
        found.iter().map(|d| (d.line, d.item)).collect::<Vec<_>>(),
        [(5, Some(0)), (7, Some(1))]
    );
    assert_eq!(found[1].line_of("metadata.name"), 9);
    assert_eq!(text_of(text, &found[0]), text);
    let json = r#"{"kind": "List", "items": [{"kind": "A"}, {"kind": "List", "items": [{"kind": "B"}]}, 7]}"#;
    assert_eq!(values(json), [json!({"kind": "A"}), json!({"kind": "B"}), json!(7)]);
    assert_eq!(
        values("- kind: A\n- kind: B\n"),
        [json!({"kind": "A"}), json!({"kind": "B"})]
    );
    assert_eq!(values("kind: List\nitems: []\n"), Vec::<Value>::new());
}

#[test]
fn lines_of_fields() {
    let yaml = "kind: X\nmetadata:\n  labels:\n    a.b/c: d\n    a: e\nspec:\n  selector: >\n    long\n  ingress:\n\n  - action: Allow\n    source:\n      nets: [a,\n        b]\n  -\n    action: Deny\n";
    let json = serde_json::to_string_pretty(&documents(yaml)[0].content.clone().unwrap()).unwrap();
    for (path, in_yaml, in_json) in [
        ("kind", 1, 2),
        ("metadata.labels.a.b/c", 4, 5),
        ("metadata.labels.a", 5, 6),
        ("spec", 6, 9),
        ("spec.selector", 7, 10),
        ("spec.ingress", 9, 11),
        ("spec.ingress[0]", 11, 12),
        ("spec.ingress[0].source.nets[1]", 14, 17),
        ("spec.ingress[1].action", 16, 22),
        ("spec.ingress[1].protocol", 16, 21),
        ("spec.ingress[7].protocol", 9, 11),
        ("nothing.here", 1, 1),
    ] {
        let lead = "# one\n# two\n---\n";
        assert_eq!(
            documents(&format!("{lead}{yaml}"))[0].line_of(path),
            in_yaml + 3,
            "{path} in YAML"
        );
        assert_eq!(
            documents(&format!("{lead}{json}"))[0].line_of(path),
            in_json + 3,
            "{path} in JSON"
        );
    }
}

#[test]
fn a_bad_document_hides_no_other() {
    let text =
        "kind: A\n---\nkind: B\n  bad: indent\n---\nkind: C\nkind: D\n---\nkind: E\n---\nx: 'open\n---\nkind: F\n";
    let found = documents(text);
    assert_eq!(found.len(), 6);
    assert!(found[0].content.is_ok() && found[3].content.is_ok() && found[5].content.is_ok());
    assert_eq!(found[1].content.as_ref().unwrap_err().line, 4);
    let duplicate = found[2].content.as_ref().unwrap_err();
    assert_eq!((duplicate.line, duplicate.column), (7, 1), "{duplicate}");
    assert!(duplicate.reason.contains("kind"), "{duplicate}");
    assert_eq!(text_of(text, &found[2]), "kind: C\nkind: D\n");

    let text = "{\"a\": 1}\n{\"b\": }\n{\"c\": 2, \"c\": 3}\n\n{\n  \"d\": [1 2]\n}\n{\"e\": \"x\n{\"f\": 6}\n";
    let found = documents(text);
    let results: Vec<_> = found
        .iter()
        .map(|d| {
            d.content
                .as_ref()
                .map_err(|e| (e.line, e.column))
                .map(ToString::to_string)
        })
        .collect();
    let ok = |text: &str| Ok(text.to_owned());
    assert_eq!(
        results,
        [
            ok("{\"a\":1}"),
            Err((2, 7)),
            Err((3, 10)),
            Err((6, 11)),
            Err((8, 7)),
            ok("{\"f\":6}")
        ]
    );
    assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [1, 2, 3, 5, 8, 9]);
    assert_eq!(text_of(text, &found[2]), "{\"c\": 2, \"c\": 3}\n\n");
}

#[test]
fn a_line_that_is_no_json_is_a_document_of_its_own() {
    for (text, good) in [
        ("{\"a\": 1}\nnot json\n{\"b\": 2}\n", vec![true, false, true]),
        (
            "{\"a\": 1}\n{\"b\": 2}\nx\ny\n{\"c\": 3}",
            vec![true, true, false, true],
        ),
        ("{\"a\": 1}\n5\n\"x\"\n{\"b\": 2}\n", vec![true, true, true, true]),
        ("{\"a\": 1} x\n{\"b\": 2}\n", vec![false, true]),
        // YAML in flow style with a comment is one document.
        ("{a: 1}\n# comment\n", vec![true]),
        ("{\"a\": 1}\n# comment\n", vec![true]),
    ] {
        let found: Vec<bool> = documents(text).iter().map(|d| d.content.is_ok()).collect();
        assert_eq!(found, good, "{text}");
    }
}

#[test]
fn json_lines_may_begin_with_anything() {
    for (text, good) in [
        ("null\n{\"a\": 1}\n{\"b\": 2}\n", vec![false, true, true]),
        ("x\n{\"a\": 1}\n{\"b\": 2}\n", vec![false, true, true]),
        ("x\ny\n\n{\n  \"a\": 1\n}\n{\"b\": 2}\n", vec![false, true, true]),
        ("null\nnull\n5\n{\"a\": 1}\n", vec![false, false, true, true]),
        ("null x\n{\"a\": 1}\n", vec![false, true]),
        ("\u{feff}x\r\n{\"a\": 1}\r\n", vec![false, true]),
        // A line of null is no record wherever it stands.
        ("{\"a\": 1}\nnull\n{\"b\": 2}\n", vec![true, false, true]),
        ("{\"a\": 1}\nnull", vec![true, false]),
        // YAML: its empty documents are none.
        ("null\n---\n{\"a\": 1}\n", vec![true]),
        ("{\"a\": 1}\n---\nnull\n", vec![true]),
        ("null\n", vec![]),
        ("!!map\n{a: 1}\n", vec![true]),
        ("x:\n{a: 1}\n", vec![false]),
        ("a: |\n  text\n  {\n", vec![true]),
    ] {
        let found = documents(text);
        let results: Vec<bool> = found.iter().map(|d| d.content.is_ok()).collect();
        assert_eq!(results, good, "{text}");
    }
    let found = documents("{\"a\": 1}\n\nnull\n{\"b\": 2}\n");
    assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [1, 3, 4]);
    let error = found[1].content.as_ref().unwrap_err();
    assert_eq!((error.line, error.column), (3, 1));
}

#[test]
fn nothing_hangs_or_overflows() {
    let bad = |text: &str| {
        let found = documents(text);
        assert!(
            !found.is_empty() && found.iter().all(|d| d.content.is_err()),
            "{:.60}",
            text
        );
    };
    bad(&"[".repeat(100_000));
    bad(&"{\"a\":".repeat(100_000));
    bad(&format!("x: {}", "[".repeat(100_000)));
    bad(&"- ".repeat(10_000));
    bad(&(0..300).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>());
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    bad(&bomb);
    bad("a: &a [*a]\n");
    bad("a: !foo x\n");
    // Aliases and merge keys themselves are fine.
    let text = "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n";
    assert_eq!(
        values(text),
        [json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}})]
    );
    // A big list passes.
    let big = format!(
        "kind: List\nitems:\n{}",
        "- kind: A\n  metadata: {name: a, labels: {a: b}}\n".repeat(1_500)
    );
    assert_eq!(documents(&big).len(), 1_500);
}

/// Who wrote a file knows nothing of parsers, scanners and deserializers.
#[test]
fn what_is_wrong_is_said_in_plain_words() {
    for (text, expected) in [
        ("a: b: c\n", "a key and its value do not fit here"),
        ("a: [1, 2\n", "in brackets"),
        ("a: {b: 1\n", "in brackets"),
        ("a: 1\na: 2\n", "the key \"a\" stands here twice"),
        ("a: \"x\n", "in quotes"),
        ("a:\n\tb: 1\n", "spaces"),
        ("a: *b\n", "alias"),
        ("a: @b\n", "cannot stand here"),
        ("a:\n  b: 1\n c: 2\n", "indented"),
    ] {
        let found = documents(text);
        let error = found.iter().find_map(|document| document.content.as_ref().err());
        assert!(error.is_some(), "{text:?} is no error");
        let reason = error.map(ToString::to_string).unwrap_or_default();
        assert!(reason.contains(expected), "{text:?}: {reason}");
        for word in [
            "scan", "parsing", "token", "scalar", "Options", "deserial", "flow", "<root>", "mapping", "sequence",
        ] {
            assert!(!reason.contains(word), "{text:?}: {reason}");
        }
    }
}
