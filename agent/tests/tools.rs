//! `felid selector` and `felid name`, by the built binary: the reference cases as JSON lines, and
//! how people ask.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Ran, felid, with_input};
use serde_json::{Map, Value, json};

fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/../tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Asks by lines.
fn ask(command: &str, questions: &[Value]) -> (Ran, Vec<Value>) {
    let input: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let ran = with_input(&[command], &input);
    let answers = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (ran, answers)
}

/// A case without its answer.
fn without(case: &Value, answer: &[&str]) -> Value {
    let fields = case.as_object().unwrap().iter();
    let kept = fields.filter(|(name, _)| !answer.contains(&name.as_str()));
    Value::Object(
        kept.map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<_, _>>(),
    )
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let ran: Ran = felid(arguments).output().unwrap().into();
    (ran.code, ran.out, ran.err)
}

#[test]
fn selector_cases() {
    let cases = cases("selectors.json");
    let answer = ["match", "canonical", "uid", "error"];
    let questions: Vec<Value> = cases.iter().map(|case| without(case, &answer)).collect();
    let (ran, answers) = ask("selector", &questions);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(0), ""),
        "a bad selector is an answer"
    );
    assert_eq!(answers.len(), cases.len());
    for (case, got) in cases.iter().zip(&answers) {
        if case["error"] == true {
            assert!(got["error"].as_str().unwrap().starts_with("column "), "{case}: {got}");
            assert!(
                got.get("match").is_none() && got.get("canonical").is_none(),
                "{case}: {got}"
            );
        } else {
            for name in answer {
                assert!(case.get(name).is_none() || case[name] == got[name], "{case}: {got}");
            }
        }
    }
}

#[test]
fn name_cases() {
    let cases = cases("wep_names.json");
    let questions: Vec<Value> = cases
        .iter()
        .map(|case| match case["op"].as_str().unwrap() {
            "build" | "veth" => without(case, &["name", "error", "erroredField"]),
            _ => without(case, &["match", "ids", "error", "erroredField"]),
        })
        .collect();
    let (ran, answers) = ask("name", &questions);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(answers.len(), cases.len());
    for (case, got) in cases.iter().zip(&answers) {
        let wanted = match case["op"].as_str().unwrap() {
            _ if case["error"] == true => {
                assert!(got["error"].is_string(), "{case}: {got}");
                "erroredField"
            }
            "build" | "veth" => "name",
            "match" => "match",
            "parse" => "ids",
            other => panic!("unknown operation {other}"),
        };
        assert_eq!(case[wanted], got[wanted], "{case}: {got}");
    }
}

#[test]
fn lines_that_are_no_questions_are_answered_too() {
    let input = "{\"selector\": \"all()\", \"labels\": {}, \"note\": [1]}\n\nnonsense\n[]\n{\"labels\": {}}\n{\"selector\": 5}\n\
                 {\"selector\": \"has(a)\", \"labels\": {\"a\": 1}}\r\n{\"selector\": \"\", \"labels\": null}";
    let ran = with_input(&["selector"], input);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let answers: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 8);
    assert_eq!(answers[0], json!({"match": true}));
    assert!(
        answers[1..7].iter().all(|answer| answer["error"].is_string()),
        "{}",
        ran.out
    );
    assert_eq!(answers[7]["canonical"], "all()");

    let (ran, answers) = ask(
        "name",
        &[
            json!({"op": "fly"}),
            json!({"name": "a"}),
            json!({"op": "build", "node": 5}),
            json!({"op": "parse", "name": "a", "other": {}}),
        ],
    );
    assert_eq!(ran.code, Some(1));
    assert!(
        answers[..3].iter().all(|answer| answer["error"].is_string()),
        "{}",
        ran.out
    );
    assert_eq!(answers[3], json!({"ids": {"node": "a"}}));
    assert_eq!(with_input(&["selector"], "").out, "");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let (ran, answers) = ask(
        "name",
        &[
            json!({"op": "build", "node": "n", "orchestrator": "k8s"}),
            json!({"op": "match", "name": "n-k8s-p-e"}),
            json!({"op": "parse", "name": "a-b-c-d-e"}),
            json!({"op": "parse"}),
            json!({"op": "veth", "namespace": "default", "pod": "nginx", "interfacePrefixes": ["tap", "cali"]}),
            json!({"op": "veth", "namespace": "default", "pod": "nginx", "interfacePrefixes": "vm,cali"}),
            json!({"op": "veth", "namespace": "default", "pod": "nginx", "interfacePrefixes": []}),
        ],
    );
    assert_eq!(ran.code, Some(0));
    assert_eq!(
        (&answers[0]["erroredField"], &answers[1]["erroredField"]),
        (&json!("pod"), &json!("node"))
    );
    for answer in &answers[2..4] {
        assert!(
            answer["error"].is_string() && answer.get("erroredField").is_none(),
            "{answer}"
        );
    }
    assert_eq!(
        answers[4..],
        ["tapc440f455693", "vmc440f455693", "calic440f455693"].map(|name| json!({"name": name}))
    );
}

#[test]
fn one_selector_on_labels() {
    let text = "role == 'db' && has(tier)";
    assert_eq!(
        run(&["selector", text, "-l", "role=db"]),
        (Some(0), "false\n".into(), String::new())
    );
    assert_eq!(
        run(&["selector", text, "-l", "role=db", "--label", "tier="]),
        (Some(0), "true\n".into(), String::new())
    );
    assert_eq!(run(&["selector", "a == 'x=y,z'", "-l", "a=x=y,z"]).1, "true\n");
    assert_eq!(run(&["selector", "!has(a)"]).1, "true\n");
    assert_eq!(run(&["selector", ""]).1, "true\n");
    assert_eq!(run(&["selector", "!!a=='b'", "-l", "a=b", "-o", "json"]).1, {
        let uid = felid_model::Selector::parse("a == 'b'").unwrap().uid();
        format!("{}\n", json!({"match": true, "canonical": "a == \"b\"", "uid": uid}))
    });
    let (code, out, err) = run(&["selector", "has(tier) && role = 'db'", "-l", "role=db"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = err.lines().collect();
    assert!(lines[0].starts_with("felid: bad selector, column 19: "), "{err}");
    assert_eq!(lines[1..], ["  has(tier) && role = 'db'", "                    ^"]);
    assert!(
        run(&["selector", "a == 'b'", "-l", "a=b", "-l", "a=c"])
            .2
            .contains("given twice")
    );
}

#[test]
fn names_as_people_ask_for_them() {
    assert_eq!(
        run(&["name", "--node", "node1", "--pod", "my-nginx", "-n", "web"]).1,
        format!(
            "name           node1-k8s-my--nginx-eth0\ninterface      {}\n",
            felid_model::names::host_interface("cali", "web", "my-nginx")
        )
    );
    assert_eq!(
        run(&["name", "--pod", "nginx", "-o", "json"]).1,
        "{\"interface\":\"calic440f455693\"}\n",
        "the interface does not depend on the node"
    );
    assert_eq!(
        run(&["name", "--pod", "nginx", "--interface-prefix", "tap,cali"]).1,
        "interface      tapc440f455693\n"
    );
    assert_eq!(
        run(&["name", "--node", "n", "--container-id", "abc", "--endpoint", "eth0"]).1,
        "name           n-cni-abc-eth0\n"
    );
    let vm = [
        "name",
        "--node",
        "n-1",
        "--orchestrator",
        "openstack",
        "--workload",
        "ns/a",
    ];
    assert_eq!(
        run(&[&vm[..], &["--endpoint", "tap-1"]].concat()).1,
        "name           n--1-openstack-ns/a-tap--1\n"
    );
    assert_eq!(
        run(&[&vm[..], &["--allow-prefix"]].concat()).1,
        "name           n--1-openstack-ns/a-\n"
    );
    let (code, _, err) = run(&vm);
    assert_eq!(
        (code, err.as_str()),
        (Some(2), "felid: --endpoint is needed for the endpoint's name\n")
    );
    assert!(
        run(&["name", "--node", "n", "--container-id=-a"])
            .2
            .starts_with("felid: --container-id must not")
    );

    assert_eq!(
        run(&["name", "n--1-k8s-nginx-eth0"]).1,
        "node           n-1\norchestrator   k8s\npod            nginx\nendpoint       eth0\ninterface      calic440f455693\n"
    );
    assert_eq!(run(&["name", "--", "-a"]).1, "node           -a\n");
    assert_eq!(
        run(&["name", "n-cni-abc-eth0", "-o", "json"]).1,
        "{\"node\":\"n\",\"orchestrator\":\"cni\",\"containerID\":\"abc\",\"endpoint\":\"eth0\"}\n"
    );
    assert_eq!(
        run(&["name", "n-k8s-nginx-eth0", "--node", "n", "--pod", "nginx"]).1,
        "true\n"
    );
    assert_eq!(
        run(&["name", "n-k8s-nginx-eth0", "--node", "n", "--endpoint", "eth1"]).1,
        "false\n"
    );
}
